"""CsvSink: CSV files, plain or compressed by their suffix."""

from __future__ import annotations

import os
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv

from dataflare.kernels.errors import OptionError, SchemaError
from dataflare.sinks.files import FileSink, FormatWriter

__all__ = ["CsvSink"]

Compression = Literal["none", "gzip", "bz2", "zstd", "lz4"]

_CODEC_OF_SUFFIX: dict[str, Compression] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_SUFFIX_OF_CODEC = {codec: suffix for suffix, codec in _CODEC_OF_SUFFIX.items()}
_UNSUPPORTED_SUFFIXES = (".zip", ".xz", ".7z", ".rar", ".lzma", ".z", ".br")


class CsvSink(FileSink):
    """Writes CSV in UTF-8. Null is nothing between delimiters, an empty text is in quotes.

    Parameters
    ----------
    delimiter
        One character; a tab for .tsv files and a comma for others when None.
    header
        Whether the first row holds the names.
    compression
        Of the part files of a directory. A file's is what its suffix says: .gz, .bz2, .zst or .lz4.
    """

    format_name = "CSV"
    suffixes = (".csv", ".tsv")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        delimiter: str | None = None,
        header: bool = True,
        compression: Compression = "none",
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> None:
        self._codec = compression
        super().__init__(path, overwrite=overwrite, part_bytes=part_bytes, filesystem=filesystem)
        if compression != "none" and compression not in _SUFFIX_OF_CODEC:
            raise OptionError(f"compression must be none, gzip, bz2, zstd or lz4, not {compression!r}.")
        if delimiter is None:
            delimiter = "\t" if ".tsv" in self._name.lower() else ","
        if len(delimiter) != 1 or not delimiter.isascii():
            raise OptionError(f"delimiter must be one ASCII character, not {delimiter!r}.")
        self._options = pa_csv.WriteOptions(include_header=header, delimiter=delimiter)

    def _check_suffix(self, suffix: str) -> None:
        super()._check_suffix(suffix)
        if suffix in _UNSUPPORTED_SUFFIXES:
            raise OptionError(
                f"{self._staging.shown}: files cannot be compressed as {suffix}. Use .gz, .zst, .bz2 or .lz4."
            )
        asked = self._codec
        self._codec = _CODEC_OF_SUFFIX.get(suffix, "none")
        if asked != "none" and asked != self._codec:
            raise OptionError(
                f"{self._staging.shown}: compression={asked!r} does not go with the suffix; end the path with "
                f"{_SUFFIX_OF_CODEC.get(asked, '.gz')}."
            )

    def _part_suffix(self) -> str:
        return ".csv" + _SUFFIX_OF_CODEC.get(self._codec, "")

    def _check_schema(self, schema: pa.Schema) -> None:
        for field in schema:
            if _text_type(field.type) is None:
                raise SchemaError(
                    f"CSV cannot hold column {field.name!r} of type {field.type}. "
                    "Leave it out, or convert it to text, a number or a time first."
                )

    def _start(self, stream: pa.NativeFile, schema: pa.Schema) -> FormatWriter:
        target = stream if self._codec == "none" else pa.CompressedOutputStream(stream, self._codec)
        output: Any = target  # the stubs do not know that pyarrow's own streams will do
        fields = pa.schema([field.with_type(_text_type(field.type) or field.type) for field in schema])
        return _CsvWriter(
            pa_csv.CSVWriter(output, fields, write_options=self._options), fields, target, stream
        )


class _CsvWriter:
    def __init__(
        self, writer: pa_csv.CSVWriter, schema: pa.Schema, target: pa.NativeFile, stream: pa.NativeFile
    ) -> None:
        self._writer = writer
        self._schema = schema
        self._target = target
        self._stream = stream

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(batch.columns, self._schema, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
        if self._target is not self._stream:
            self._target.close()


def _text_type(data_type: pa.DataType) -> pa.DataType | None:
    """Return the type in which PyArrow writes a column as CSV; None for what is neither text, number nor time."""
    types = pa.types
    if types.is_dictionary(data_type):
        return _text_type(data_type.value_type)
    if types.is_string_view(data_type):
        return pa.string()
    if types.is_interval(data_type) or isinstance(data_type, pa.BaseExtensionType):
        return None
    fits = (
        types.is_null(data_type)
        or types.is_boolean(data_type)
        or types.is_integer(data_type)
        or types.is_floating(data_type)
        or types.is_decimal(data_type)
        or types.is_temporal(data_type)
        or types.is_string(data_type)
        or types.is_large_string(data_type)
    )
    return data_type if fits else None
