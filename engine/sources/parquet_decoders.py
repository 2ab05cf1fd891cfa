"""Decodes row groups of Parquet files into Arrow tables, with the decoder that is fastest for each column.

Two decoders, both chosen per file and column before anything is read, and both giving the Arrow types of the
file's own schema:

- *Polars* for flat columns of booleans, integers, floats, decimals, dates, timestamps, text and bytes in
  local files. Polars cannot be told which row groups to read, reads ahead without a bound when it streams,
  and parses the whole footer at each call; so it is given `dataflare.sources.parquet_excerpt`, a file in
  memory of just the row groups and columns that are wanted.
- *PyArrow* for everything else: nested and dictionary columns, times, durations, INT96, LZ4, remote files.

Measured by ``benchmarks/parquet_decoders.py``: lineitem at SF1, 6.0 M rows, snappy, warm page cache, 2 cores
of a Zen 3 server that had other work too. CPU milliseconds of both cores together, the least of all rounds of
three runs:

=============================================  ========  =======  ================  ======
columns; writer and row groups                 excerpts  PyArrow  Polars streaming  DuckDB
=============================================  ========  =======  ================  ======
date, 3 decimals (Q6); parquet-rs, 113 k rows  138       148      107               264
integer, 3 texts (views); the same             376       741      353               900
4 integers; the same                           149       165      135               266
date, 3 decimals; PyArrow, 1 M rows            155       843      103               310
integer, 3 texts; the same                     675       831      625               1041
4 integers; the same                           125       164      112               311
=============================================  ========  =======  ================  ======

Polars streaming is its own scan of the whole file, in its own types and without a bound on what it reads
ahead (1.1 GB from row groups of a million rows). Excerpts are cut to blocks, and text is cast to what the
file declares: for ``string`` that is 10 ns a value, nearly half of the fifth row.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataflare.kernels.errors import OptionError, ReadError
from dataflare.sources.agreement import same_family
from dataflare.sources.parquet_excerpt import build_excerpt, expected_type, has_known_layout, release_excerpt
from dataflare.sources.paths import read_failure

if TYPE_CHECKING:
    import io
    from types import ModuleType

    import polars as pl

    from dataflare.sources.parquet_catalog import ParquetFileInfo

__all__ = ["DecoderName", "ParquetReader", "check_decoder", "polars_columns"]

DecoderName = Literal["auto", "polars", "pyarrow"]

# Importing Polars takes about 0.3 s, as long as it saves on this much compressed data.
_POLARS_WORTH_BYTES = 32 * 2**20


def check_decoder(decoder: str) -> None:
    """Raise `OptionError` unless `decoder` names one."""
    if decoder not in ("auto", "polars", "pyarrow"):
        raise OptionError(f"decoder must be 'auto', 'polars' or 'pyarrow', not {decoder!r}.")


def polars_columns(
    infos: Sequence[ParquetFileInfo], schema: pa.Schema, decoder: DecoderName
) -> list[frozenset[str]]:
    """Return for each file the columns of `schema` that Polars decodes; PyArrow decodes the others.

    With "auto", Polars is used where it can be and is worth it: for a small read in a process that has not
    imported Polars yet, importing it would take longer than decoding everything with PyArrow.
    """
    nothing: list[frozenset[str]] = [frozenset()] * len(infos)
    if decoder == "pyarrow" or find_spec("polars") is None:
        return nothing
    able = [_able_columns(info, schema) for info in infos]
    if decoder == "auto" and "polars" not in sys.modules:
        size_bytes = 0
        for info, names in zip(infos, able, strict=True):
            size_bytes += info.compressed_bytes(tuple(names))
            if size_bytes >= _POLARS_WORTH_BYTES:
                return able
        return nothing
    return able


def _able_columns(info: ParquetFileInfo, schema: pa.Schema) -> frozenset[str]:
    if (
        not info.file.is_local
        or not info.metadata.num_row_groups
        or _miscounts_chunks(info.metadata.created_by)
    ):
        return frozenset()
    stored = info.metadata.schema
    groups = [info.metadata.row_group(index) for index in range(info.metadata.num_row_groups)]
    able = set()
    for field in schema:
        leaves = info.leaves[field.name]
        decoded = expected_type(stored.column(leaves[0])) if len(leaves) == 1 else None
        if decoded is None or not _gives(decoded, field.type):
            continue
        if all(has_known_layout(group.column(leaves[0])) or not group.num_rows for group in groups):
            able.add(field.name)
    return frozenset(able)


def _gives(decoded: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast that always succeeds and costs little leads from one type to the other."""
    if decoded == wanted or same_family(decoded, wanted):
        return True
    if pa.types.is_timestamp(decoded) and pa.types.is_timestamp(wanted):
        return decoded.unit == wanted.unit and (decoded.tz is None) == (wanted.tz is None)
    return False


def _miscounts_chunks(created_by: str | None) -> bool:
    """Whether the writer left the dictionary page's header out of a chunk's size (parquet-mr before 1.2.9)."""
    words = (created_by or "").split()
    if len(words) < 3 or words[0] != "parquet-mr":
        return False
    try:
        version = tuple(int(part) for part in words[2].split("-")[0].split("."))
    except ValueError:
        return True
    return version < (1, 2, 9)


class ParquetReader:
    """Decodes row groups of one file. Belongs to one thread; a context manager that closes the file.

    Parameters
    ----------
    info
        The file.
    schema
        Columns to deliver, with their types.
    by_polars
        Those of them that Polars decodes.
    """

    def __init__(self, info: ParquetFileInfo, schema: pa.Schema, by_polars: frozenset[str]) -> None:
        self._info = info
        self._schema = schema
        self._polars_names = [name for name in schema.names if name in by_polars]
        self._arrow_names = [name for name in schema.names if name not in by_polars]
        self._stack = ExitStack()
        self._parquet: pq.ParquetFile | None = None
        self._descriptor = -1
        self._mapped: np.ndarray[Any, np.dtype[np.uint8]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._mapped = None
        self._stack.close()

    def read_row_groups(self, row_groups: Sequence[int]) -> pa.Table:
        """Decode whole row groups at once."""
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
        """Decode one row group in stretches of rows, so that a large one never is in memory as a whole.

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
        try:
            self._descriptor = os.open(self._info.file.path, os.O_RDONLY | os.O_CLOEXEC)
            self._stack.callback(os.close, self._descriptor)
            mapping = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise read_failure(self._info.file.shown, error) from error
            raise self._cut_short(0) from error  # nothing to map
        self._mapped = np.frombuffer(mapping, np.uint8)  # unmapped when this is gone

    def _read_into(self, offset: int, memory: memoryview) -> None:
        assert self._mapped is not None
        end = offset + len(memory)
        # Beyond the end of the file, a mapping is a crash; so a file that shrinks in this very moment is one.
        size_bytes = min(os.fstat(self._descriptor).st_size, len(self._mapped))
        if end > size_bytes:
            raise self._cut_short(size_bytes)
        # From the page cache, this is several times faster than pread, and other threads go on meanwhile.
        np.copyto(np.frombuffer(memory, np.uint8), self._mapped[offset:end])

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
            handle = self._stack.enter_context(self._info.file.open())
            # Ahead of decoding, many small reads are made few large ones: worth it only over a network.
            self._parquet = pq.ParquetFile(
                handle, metadata=self._info.metadata, pre_buffer=not self._info.file.is_local
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

    # -- both ------------------------------------------------------------------------------------------------

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
                if not _gives(column.type, field.type):
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
