"""Decodes row groups of Parquet files into Arrow data, with the decoder that is fastest for each column.

Three decoders, chosen per file and column by `dataflare.sources.parquet_choice` before anything is read, and all
giving the Arrow types of the file's own schema:

- *DataFlare's own* (`dataflare.sources.parquet_native`) for flat columns of integers, floats, decimals, dates,
  times, timestamps, text and bytes, plain or with a dictionary, in local files.
- *Polars* for flat columns of booleans, and for those in encodings that the first one lacks, in local files. Polars
  cannot be told which row groups to read, reads ahead without a bound when it streams, and parses the whole footer
  at each call; so it is given `dataflare.sources.parquet_excerpt`, a file in memory of just the row groups and columns
  that are wanted.
- *PyArrow* for everything else: nested and dictionary columns, durations, INT96, LZ4, remote files.

Measured by ``benchmarks/parquet_decoders.py``: lineitem at SF1, 6.0 M rows, snappy, warm page cache, 2 cores
of a Xeon server with AVX-512. CPU milliseconds of both cores together, the least of all rounds:

=============================================  ======  ========  =======  ================  ======
columns; writer and row groups                 auto    excerpts  PyArrow  Polars streaming  DuckDB
=============================================  ======  ========  =======  ================  ======
date, 3 decimals (Q6); parquet-rs, 113 k rows  73      123       133      114               183
integer, 3 texts (views); the same             251     283       500      255               521
4 integers; the same                           80      121       127      92                147
date, 3 decimals; PyArrow, 1 M rows            71      107       513      99                206
integer, 3 texts; the same                     255     489       512      272               582
4 integers; the same                           84      110       142      101               192
=============================================  ======  ========  =======  ================  ======

Of the Q6 columns' 73, 23 decompress the dictionary of the prices, which has a number for nearly every row; the
library took 49. Of the texts' 251, 175 are one column of comments, 160 MB of them; one with a dictionary takes 10 to
14, and 80 in PyArrow. Polars streaming is its own scan of the whole file, in its own types and without a bound on what
it reads ahead (1.1 GB from row groups of a million rows). Excerpts are cut to blocks, and text is cast to what the
file declares: for ``string`` that is 10 ns a value, nearly half of the fifth row.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataflare.kernels.errors import ReadError
from dataflare.sources.parquet_choice import ColumnDecoders, gives
from dataflare.sources.parquet_excerpt import build_excerpt, release_excerpt
from dataflare.sources.parquet_native import NativeColumns
from dataflare.sources.paths import read_failure

if TYPE_CHECKING:
    import io
    from types import ModuleType

    import polars as pl

    from dataflare.sources.parquet_catalog import ParquetFileInfo

__all__ = ["ParquetReader"]

_PAGE_READ_BYTES = 2**20


class ParquetReader:
    """Decodes row groups of one file: some columns as they are asked for, the others as tables.

    Belongs to one thread; a context manager that closes the file.

    Parameters
    ----------
    info
        The file.
    schema
        Columns to deliver, with their types.
    decoders
        What decodes each of them.
    """

    def __init__(self, info: ParquetFileInfo, schema: pa.Schema, decoders: ColumnDecoders) -> None:
        self._info = info
        self._native_fields = [field for field in schema if field.name in decoders.native]
        self._schema = pa.schema([field for field in schema if field.name not in decoders.native])
        self._polars_names = [name for name in self._schema.names if name in decoders.polars]
        self._arrow_names = [name for name in self._schema.names if name not in decoders.polars]
        self._stack = ExitStack()
        self._handle: pa.NativeFile | None = None
        self._parquet: pq.ParquetFile | None = None
        self._descriptor = -1
        self._mapping: mmap.mmap | None = None  # unmapped when this and the view of it are gone
        self._mapped: np.ndarray[Any, np.dtype[np.uint8]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._mapped = self._mapping = None
        self._stack.close()

    @property
    def has_tables(self) -> bool:
        """Whether there are columns that come in tables, by Polars or PyArrow."""
        return bool(self._schema)

    def native(self, row_groups: Sequence[int]) -> NativeColumns | None:
        """Return the columns that DataFlare decodes, at the first row of some row groups; None for no columns."""
        if not self._native_fields:
            return None
        file = self._descriptor_of() if self._info.file.is_local else self._open()
        return NativeColumns(self._info, self._native_fields, row_groups, file)

    def read_row_groups(self, row_groups: Sequence[int]) -> pa.Table:
        """Decode the other columns of whole row groups at once."""
        parts: list[pa.Table] = []
        if self._polars_names:
            excerpt = self._excerpt(row_groups)
            parts.append(self._decode(excerpt, row_groups, None))
            release_excerpt(excerpt)
        if self._arrow_names:
            try:
                parts.append(self._arrow().read_row_groups(list(row_groups), self._arrow_names))
            except (OSError, ValueError, NotImplementedError) as error:
                raise self._failure(row_groups, error) from error
        return self._assembled(parts, row_groups)

    def read_stretches(self, row_group: int, stretch_rows: int) -> Iterator[pa.Table]:
        """Decode the other columns of one row group in stretches, so that it never is in memory as a whole.

        The last stretch may be shorter. What is held beside a stretch is the row group as it is in the file.
        """
        num_rows = self._info.metadata.row_group(row_group).num_rows
        excerpt = self._excerpt([row_group]).getvalue() if self._polars_names else b""
        batches = self._arrow_stretches(row_group, stretch_rows) if self._arrow_names else None
        for start in range(0, num_rows, stretch_rows):
            parts: list[pa.Table] = []
            if self._polars_names:
                parts.append(self._decode(excerpt, [row_group], (start, stretch_rows)))
            if batches is not None:
                parts.append(next(batches))
            yield self._assembled(parts, [row_group])

    # -- Polars ----------------------------------------------------------------------------------------------

    def _excerpt(self, row_groups: Sequence[int]) -> io.BytesIO:
        if self._mapped is None:
            self._map()
        leaves = [self._info.leaves[name][0] for name in self._polars_names]
        return build_excerpt(self._read_into, self._info.metadata, row_groups, leaves)

    def _map(self) -> None:
        descriptor = self._descriptor_of()
        try:
            mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise read_failure(self._info.file.shown, error) from error
        except ValueError as error:  # nothing to map
            raise self._cut_short(0) from error
        self._mapping = mapping
        self._mapped = np.frombuffer(mapping, np.uint8)

    def _read_into(self, offset: int, memory: memoryview) -> None:
        assert self._mapped is not None and self._mapping is not None
        end = offset + len(memory)
        # Beyond the end of the file, a mapping is a crash; so a file that shrinks in this very moment is one.
        size_bytes = min(os.fstat(self._descriptor).st_size, len(self._mapped))
        if end > size_bytes:
            raise self._cut_short(size_bytes)
        # From the page cache, this is several times faster than pread, and other threads go on meanwhile.
        np.copyto(np.frombuffer(memory, np.uint8), self._mapped[offset:end])
        # What was copied stays in the page cache, but no longer counts as memory of this process.
        start = offset - offset % mmap.PAGESIZE
        self._mapping.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _cut_short(self, size_bytes: int) -> ReadError:
        return ReadError(
            f"{self._info.file.shown}: the file ends at byte {size_bytes:,}, before the end of a column. "
            "It is truncated, or was changed while it was read."
        )

    def _decode(
        self, excerpt: io.BytesIO | bytes, row_groups: Sequence[int], stretch: tuple[int, int] | None
    ) -> pa.Table:
        polars = _polars()
        frame = polars.scan_parquet(excerpt, glob=False, hive_partitioning=False, use_statistics=False)
        if stretch is not None:
            frame = frame.slice(*stretch)
        try:
            decoded: pl.DataFrame = frame.collect()
        except polars.exceptions.PolarsError as error:
            raise self._failure(row_groups, error) from error
        except BaseException as error:  # a panic in Rust is no Exception
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise self._failure(row_groups, error) from error
            raise
        return decoded.to_arrow(compat_level=polars.CompatLevel.newest())

    # -- PyArrow ---------------------------------------------------------------------------------------------

    def _arrow(self) -> pq.ParquetFile:
        if self._parquet is None:
            # Ahead of decoding, many small reads are made few large ones: worth it only over a network.
            # A local file is read page by page, so that the row group never is in memory as a whole.
            local = self._info.file.is_local
            self._parquet = pq.ParquetFile(
                self._open(),
                metadata=self._info.metadata,
                pre_buffer=not local,
                buffer_size=_PAGE_READ_BYTES if local else 0,
            )
        return self._parquet

    def _arrow_stretches(self, row_group: int, stretch_rows: int) -> Iterator[pa.Table]:
        batches = self._arrow().iter_batches(stretch_rows, row_groups=[row_group], columns=self._arrow_names)
        pending: list[pa.RecordBatch] = []
        rows = 0
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError, NotImplementedError) as error:
                raise self._failure([row_group], error) from error
            if batch is None:
                break
            # A batch may be shorter than asked for, where text of more than 2 GiB is split.
            pending.append(batch)
            rows += batch.num_rows
            if rows >= stretch_rows:
                table = pa.Table.from_batches(pending)
                yield table.slice(0, stretch_rows)
                pending = table.slice(stretch_rows).to_batches()
                rows -= stretch_rows
        if rows:
            yield pa.Table.from_batches(pending)

    # -- all -------------------------------------------------------------------------------------------------

    def _descriptor_of(self) -> int:
        """Return the descriptor of a local file."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(self._info.file.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise read_failure(self._info.file.shown, error) from error
            self._stack.callback(os.close, self._descriptor)
        return self._descriptor

    def _open(self) -> pa.NativeFile:
        if self._handle is None:
            self._handle = self._stack.enter_context(self._info.file.open())
        return self._handle

    def _assembled(self, parts: Sequence[pa.Table], row_groups: Sequence[int]) -> pa.Table:
        rows = {part.num_rows for part in parts}
        if len(rows) != 1:
            raise self._failure(row_groups, ValueError("its columns differ in length"))
        found: dict[str, pa.ChunkedArray[Any]] = {}
        for part in parts:
            for name, column in zip(part.column_names, part.columns, strict=True):
                found.setdefault(name, column)
        columns = []
        for field in self._schema:
            column = found[field.name]
            if column.type != field.type:
                if not gives(column.type, field.type):
                    raise ReadError(
                        f"{self._info.file.shown}: column {field.name!r} was decoded as {column.type}, not as "
                        f"{field.type}. This is an error of DataFlare's; decoder='pyarrow' avoids it."
                    )
                column = column.cast(field.type)
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _failure(self, row_groups: Sequence[int], error: BaseException) -> ReadError:
        first, last = row_groups[0], row_groups[-1]
        where = f"row group {first}" if first == last else f"row groups {first} to {last}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ReadError(
            f"{self._info.file.shown}: {where} of {self._info.metadata.num_row_groups} cannot be decoded: {reason}. "
            "The file is damaged, or uses an encoding that the decoder lacks."
        )


def _polars() -> ModuleType:
    import polars

    return polars
