"""ParquetSink: Parquet files with row groups of even size, and dictionaries where they pay.

Covers gathering batches until a row group is full, in bounded memory. Which columns get a dictionary is decided on
the first row group (`dataflare.sinks.parquet_dictionaries`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from dataflare.kernels.cpu.compacting import compacted
from dataflare.kernels.errors import OptionError, SchemaError, nearest
from dataflare.sinks.files import FileSink, FormatWriter
from dataflare.sinks.parquet_dictionaries import columns_worth_a_dictionary

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch

__all__ = ["ParquetSink"]

Compression = Literal["snappy", "zstd", "gzip", "brotli", "lz4", "none"]

_CODECS = get_args(Compression)
_LEVELLED = ("zstd", "gzip", "brotli")
# Whichever comes first: what is held back until a row group is full, and what a reader has to take at once.
_ROW_GROUP_ROWS = 1_048_576
_ROW_GROUP_BYTES = 32 * 2**20
_LEAST_ROW_GROUP_BYTES = 2**18
# A row group is gathered, and one of its columns at a time is encoded and compressed beside it.
_BUFFER_A_ROW_GROUP = 1.5


class ParquetSink(FileSink):
    """Writes Parquet.

    Parameters
    ----------
    compression
        "snappy", "zstd", "gzip", "brotli", "lz4" or "none".
    compression_level
        For zstd (1 to 22), gzip and brotli; the codec's own choice when None.
    row_group_rows
        Records in a row group. When None, as many as take 32 MiB in memory, a million at most.
    """

    format_name = "Parquet"
    suffixes = (".parquet", ".pq", ".parq")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Compression = "snappy",
        compression_level: int | None = None,
        row_group_rows: int | None = None,
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> None:
        super().__init__(path, overwrite=overwrite, part_bytes=part_bytes, filesystem=filesystem)
        if compression not in _CODECS:
            hint = nearest(str(compression), _CODECS)
            raise OptionError(
                f"compression {compression!r} is not one of Parquet's: {', '.join(_CODECS)}. {hint}".rstrip()
            )
        if compression_level is not None and compression not in _LEVELLED:
            raise OptionError(
                f"compression_level is for {', '.join(_LEVELLED)}; {compression} has no levels."
            )
        if row_group_rows is not None and row_group_rows < 1:
            raise OptionError(f"row_group_rows must be at least 1, not {row_group_rows}.")
        self._compression = compression
        self._level = compression_level
        self._row_group_rows = row_group_rows
        self._row_group_bytes = min(_ROW_GROUP_BYTES, self._part_bytes)

    @property
    def buffer_bytes(self) -> int:
        """Bytes that it holds at most: the batches of a row group, and what they are encoded to."""
        return int(_BUFFER_A_ROW_GROUP * self._row_group_bytes)

    def bound_buffer(self, nbytes: int) -> None:
        """Make row groups no larger than ``nbytes`` allow, down to 256 KiB; those of `row_group_rows` stay."""
        allowed = int(nbytes / _BUFFER_A_ROW_GROUP)
        self._row_group_bytes = max(_LEAST_ROW_GROUP_BYTES, min(self._row_group_bytes, allowed))

    def _check_schema(self, schema: pa.Schema) -> None:
        for field in schema:
            try:
                self._start(pa.BufferOutputStream(), pa.schema([field])).close()
            except (pa.ArrowInvalid, NotImplementedError) as error:
                raise SchemaError(
                    f"Parquet cannot hold column {field.name!r} of type {field.type}. "
                    "Leave it out, or convert it first."
                ) from error

    def _record_batch(self, batch: SharedDataBatch) -> pa.RecordBatch:
        # It stays until its row group is full: without the memory of the records that a filter has dropped.
        columns = [compacted(column, to_pool=True).to_arrow() for column in batch.to_host()._columns]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _start(self, stream: pa.NativeFile, schema: pa.Schema) -> FormatWriter:
        return _RowGroups(
            stream, schema, self._compression, self._level, self._row_group_rows, self._row_group_bytes
        )


class _RowGroups:
    """Gathers batches until a row group is full: one group a batch would make files of thousands of small ones."""

    def __init__(
        self,
        stream: pa.NativeFile,
        schema: pa.Schema,
        compression: Compression,
        level: int | None,
        rows: int | None,
        most_bytes: int,
    ) -> None:
        self._stream = stream
        self._schema = schema
        self._compression = compression
        self._level = level
        self._fixed_rows = rows
        self._most_bytes = most_bytes
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._pending_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        if self._fixed_rows is None:
            self._pending_bytes += batch.nbytes
            if self._pending_rows >= _ROW_GROUP_ROWS or self._pending_bytes >= self._most_bytes:
                self._write_group(self._pending_rows)
            return
        while self._pending_rows >= self._fixed_rows:
            self._write_group(self._fixed_rows)

    def close(self) -> None:
        try:
            if self._pending_rows:
                self._write_group(self._pending_rows)
        finally:
            self._begun(self._schema.empty_table()).close()

    def _write_group(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        self._pending = table.slice(rows).to_batches()
        self._pending_rows -= rows
        self._pending_bytes = 0
        group = table.slice(0, rows)
        self._begun(group).write_table(group, row_group_size=rows)

    def _begun(self, group: pa.Table) -> pq.ParquetWriter:
        """Return the writer, made for the values of the first row group."""
        if self._writer is None:
            dictionaries: Any = columns_worth_a_dictionary(group)  # the stubs do not know of lists
            self._writer = pq.ParquetWriter(
                self._stream,
                self._schema,
                compression=self._compression,
                compression_level=self._level,
                use_dictionary=dictionaries,
            )
        return self._writer
