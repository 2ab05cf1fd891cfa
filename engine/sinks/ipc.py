"""IpcSink: Arrow IPC files (also Feather 2), or streams when the path ends with .arrows."""

from __future__ import annotations

import os
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dataflare.kernels.errors import OptionError, SchemaError
from dataflare.sinks.files import FileSink, FormatWriter

__all__ = ["IpcSink"]

_STREAM_SUFFIX = ".arrows"


class IpcSink(FileSink):
    """Writes Arrow IPC, one record batch for each batch; every Arrow type can be written.

    Parameters
    ----------
    compression
        "none", so that readers can map the file into memory, or "lz4" or "zstd".
    """

    format_name = "Arrow IPC"
    suffixes = (".arrow", ".arrows", ".feather", ".ipc")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Literal["none", "lz4", "zstd"] = "none",
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> None:
        super().__init__(path, overwrite=overwrite, part_bytes=part_bytes, filesystem=filesystem)
        if compression not in ("none", "lz4", "zstd"):
            raise OptionError(
                f"compression must be 'none', 'lz4' or 'zstd' for Arrow IPC, not {compression!r}."
            )
        self._options = pa.ipc.IpcWriteOptions(
            compression=None if compression == "none" else compression, emit_dictionary_deltas=True
        )
        self._is_stream = self._name.lower().endswith(_STREAM_SUFFIX)

    def _check_schema(self, schema: pa.Schema) -> None:
        for field in schema:
            if not self._is_stream and _has_inner_dictionary(field.type):
                raise SchemaError(
                    f"An Arrow IPC file cannot hold the dictionaries inside column {field.name!r} of type "
                    f"{field.type}, since they may differ from batch to batch. End the path with {_STREAM_SUFFIX}."
                )

    def _start(self, stream: pa.NativeFile, schema: pa.Schema) -> FormatWriter:
        if self._is_stream:
            return _IpcWriter(pa.ipc.new_stream(stream, schema, options=self._options), schema, growing=False)
        return _IpcWriter(pa.ipc.new_file(stream, schema, options=self._options), schema, growing=True)


class _IpcWriter:
    """A file may add to a dictionary, but not replace it, so batches are brought to one that grows."""

    def __init__(
        self,
        writer: pa.ipc.RecordBatchStreamWriter | pa.ipc.RecordBatchFileWriter,
        schema: pa.Schema,
        *,
        growing: bool,
    ) -> None:
        self._writer = writer
        self._schema = schema
        self._dictionaries: dict[str, pa.Array[Any]] = {}
        self._names = [field.name for field in schema if growing and pa.types.is_dictionary(field.type)]

    def write(self, batch: pa.RecordBatch) -> None:
        for name in self._names:
            batch = batch.set_column(
                self._schema.get_field_index(name),
                self._schema.field(name),
                self._grown(name, batch.column(name)),
            )
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()

    def _grown(self, name: str, column: Any) -> pa.Array[Any]:
        known = self._dictionaries.get(name)
        if known is None or column.dictionary.equals(known):
            self._dictionaries[name] = column.dictionary
            return column  # type: ignore[no-any-return]
        places = pc.index_in(column.dictionary, known)
        new = column.dictionary.filter(pc.is_null(places))
        if len(new):
            known = pa.concat_arrays([known, new])
            places = pc.index_in(column.dictionary, known)
        self._dictionaries[name] = known
        try:
            indices = pc.take(places, column.indices).cast(column.type.index_type)
        except pa.ArrowInvalid as error:
            raise SchemaError(
                f"column {name!r}: all batches together have {len(known):,} different values, more than its type "
                f"{column.type} can count. Use a wider index type, or end the path with {_STREAM_SUFFIX}."
            ) from error
        return pa.DictionaryArray.from_arrays(indices, known, ordered=column.type.ordered, safe=False)


def _has_inner_dictionary(data_type: pa.DataType) -> bool:
    inner = [data_type.field(position).type for position in range(data_type.num_fields)]
    if pa.types.is_dictionary(data_type):
        inner.append(data_type.value_type)
    return any(pa.types.is_dictionary(each) or _has_inner_dictionary(each) for each in inner)
