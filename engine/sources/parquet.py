"""Parquet files as a source: projection, row groups skipped by statistics, bounded memory.

Covers planning: which row groups are read, in which partitions, by which decoder. Footers are in
`parquet_catalog`, decoding in `parquet_decoders`, skipping in `parquet_statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from dataflare.schema import column_index
from dataflare.sources.parquet_catalog import ParquetCatalog, ParquetFileInfo
from dataflare.sources.parquet_decoders import DecoderName, ParquetReader, check_decoder, polars_columns
from dataflare.sources.parquet_statistics import may_match
from dataflare.sources.paths import PathsArgument, find_files
from dataflare.sources.slicing import slice_table

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import Predicate

__all__ = ["ParquetPartition", "ParquetSource"]

_SUFFIXES = (".parquet", ".pq", ".parq")
# A block is what is decoded at once. Smaller ones cost calls, larger ones memory and cache misses.
_BLOCK_BYTES = 24 * 2**20
# One block, so that a run in order can decode the next ones meanwhile without keeping much. Over a network
# opening a file takes a round trip.
_LOCAL_PARTITION_BYTES = _BLOCK_BYTES
_REMOTE_PARTITION_BYTES = 64 * 2**20
_STRETCH_ROWS_UNIT = 8_192
_SMALL_CHUNK_ROWS = 32_768


@dataclass(frozen=True, eq=False)
class ParquetSource:
    """Parquet files, in order, as one source. Made by `open`."""

    schema: pa.Schema
    """Schema of the batches: the file's own Arrow types."""
    _catalog: ParquetCatalog
    _decoder: DecoderName
    _predicates: tuple[Predicate, ...] = ()

    @classmethod
    def open(
        cls,
        paths: PathsArgument,
        *,
        columns: Sequence[str] | None = None,
        decoder: DecoderName = "auto",
        filesystem: Any | None = None,
    ) -> ParquetSource:
        """Find the files and read the first one's footer.

        Parameters
        ----------
        paths
            See `dataflare.sources.paths.find_files`; directories are searched for .parquet, .pq and .parq.
        columns
            The columns to read; all when None. Pipelines find them by themselves.
        decoder
            "auto" takes the faster one for each column, see `dataflare.sources.parquet_decoders`.
        filesystem
            Where plain paths are: pyarrow's or fsspec's file system.

        Raises
        ------
        ReadError
            There is no such file, or the first one is not a readable Parquet file.
        ColumnNotFoundError
            One of `columns` is not there.
        """
        check_decoder(decoder)
        catalog = ParquetCatalog(find_files(paths, suffixes=_SUFFIXES, filesystem=filesystem))
        source = cls(catalog.schema, catalog, decoder)
        return source if columns is None else source.with_projection(columns)

    @property
    def description(self) -> str:
        """Files, columns, row groups and decoder."""
        files = self._catalog.files
        name = files[0].shown if len(files) == 1 else f"{files[0].shown} and {len(files) - 1} more"
        plans = self._plans()
        kept = sum(len(plan.row_groups) for plan in plans)
        total = sum(plan.info.metadata.num_row_groups for plan in plans)
        columns = f"{len(self.schema)} of {len(self._catalog.schema)} columns"
        return f"Parquet {name}: {columns}, {kept} of {total} row groups, {self._decoders(plans)}"

    @property
    def num_rows(self) -> int:
        """Records in the row groups that are left."""
        return sum(
            plan.info.metadata.row_group(group).num_rows
            for plan in self._plans()
            for group in plan.row_groups
        )

    @property
    def size_bytes(self) -> int:
        """Estimated bytes in memory of the columns in the row groups that are left."""
        names = self.schema.names
        return sum(
            plan.info.decoded_bytes(group, names) for plan in self._plans() for group in plan.row_groups
        )

    @property
    def is_local(self) -> bool:
        """Whether all files are on this machine: then a task may as well compute what it has just read."""
        return all(file.is_local for file in self._catalog.files)

    def with_projection(self, names: Sequence[str]) -> Self:
        """Return the source with only these columns, in this order."""
        fields = [
            self.schema.field(column_index(self.schema, name, self._catalog.files[0].shown)) for name in names
        ]
        return replace(self, schema=pa.schema(fields))

    def with_predicates(self, predicates: Sequence[Predicate]) -> Self:
        """Return the source without the row groups in which no record can pass all of `predicates`."""
        return replace(self, _predicates=(*self._predicates, *predicates))

    def partitions(self) -> tuple[ParquetPartition, ...]:
        """Return ranges of row groups of about 24 MiB in memory (remote: 64), in the order of files and rows.

        Raises
        ------
        ReadError
            The footer of one of the files cannot be read.
        SchemaMismatchError
            A file's columns differ from the first file's.
        """
        names = self.schema.names
        partitions: list[ParquetPartition] = []
        for plan in self._plans():
            part: list[int] = []
            part_bytes = 0
            most_bytes = _LOCAL_PARTITION_BYTES if plan.info.file.is_local else _REMOTE_PARTITION_BYTES
            for group in plan.row_groups:
                size_bytes = plan.info.decoded_bytes(group, names)
                if part and part_bytes + size_bytes // 2 > most_bytes:  # whichever comes closer
                    partitions.append(self._partition(plan, part, part_bytes))
                    part, part_bytes = [], 0
                part.append(group)
                part_bytes += size_bytes
            if part:
                partitions.append(self._partition(plan, part, part_bytes))
        return tuple(partitions)

    def _partition(self, plan: _FilePlan, row_groups: Sequence[int], size_bytes: int) -> ParquetPartition:
        return ParquetPartition(self.schema, plan.info, tuple(row_groups), plan.by_polars, size_bytes)

    def _plans(self) -> list[_FilePlan]:
        # Not kept: as cheap as a look at the footers, which are kept.
        every_column = len(self.schema) == len(self._catalog.schema)
        self._catalog.check(self.schema, every_column=every_column)
        infos = self._catalog.infos()
        decoders = polars_columns(infos, self.schema, self._decoder)
        return [
            _FilePlan(info, tuple(self._row_groups(info)), by_polars)
            for info, by_polars in zip(infos, decoders, strict=True)
        ]

    def _row_groups(self, info: ParquetFileInfo) -> Iterator[int]:
        usable = [
            (predicate, info.leaves[predicate.column][0], info.schema.field(predicate.column).type)
            for predicate in self._predicates
            if len(info.leaves.get(predicate.column, ())) == 1
            and not pa.types.is_nested(info.schema.field(predicate.column).type)
        ]
        for index in range(info.metadata.num_row_groups):
            group = info.metadata.row_group(index)
            if group.num_rows and all(
                may_match(group, leaf, info.metadata.schema.column(leaf), data_type, predicate)
                for predicate, leaf, data_type in usable
            ):
                yield index

    def _decoders(self, plans: Sequence[_FilePlan]) -> str:
        by_polars = [len(plan.by_polars) for plan in plans]
        if not self.schema or not any(by_polars):
            return "decoded by pyarrow"
        if all(count == len(self.schema) for count in by_polars):
            return "decoded by polars"
        if len(set(by_polars)) == 1 and len({plan.by_polars for plan in plans}) == 1:
            others = [name for name in self.schema.names if name not in plans[0].by_polars]
            shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
            return f"decoded by polars, but {shown} by pyarrow"
        return "decoded by polars and pyarrow, as each file allows"


@dataclass(frozen=True)
class _FilePlan:
    info: ParquetFileInfo
    row_groups: tuple[int, ...]
    by_polars: frozenset[str]


@dataclass(frozen=True, eq=False)
class ParquetPartition:
    """Some row groups of one file."""

    schema: pa.Schema
    """Schema of the batches."""
    _info: ParquetFileInfo
    row_groups: tuple[int, ...]
    """Positions in the file, ascending."""
    _by_polars: frozenset[str]
    size_bytes: int
    """Estimated bytes in memory."""

    @property
    def description(self) -> str:
        """Path and row groups."""
        first, last = self.row_groups[0], self.row_groups[-1]
        where = f"row group {first}" if first == last else f"row groups {first} to {last}"
        return f"{self._info.file.shown}, {where}"

    @property
    def num_rows(self) -> int:
        """Records that `read` delivers."""
        return sum(self._info.metadata.row_group(group).num_rows for group in self.row_groups)

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Decode about 24 MiB at a time and cut it; see `dataflare.sources.base.SourcePartition.read`."""
        if not self.schema:
            for group in self.row_groups:
                num_rows = self._info.metadata.row_group(group).num_rows
                rows = pa.table({"": pa.nulls(num_rows)}).select([])
                yield from slice_table(self.schema, rows, batch_rows)
            return
        with ParquetReader(self._info, self.schema, self._by_polars) as reader:
            for table in self._blocks(reader):
                yield from slice_table(self.schema, table, batch_rows)
                del table  # or the block stays while the next one is decoded

    def _blocks(self, reader: ParquetReader) -> Iterator[pa.Table]:
        together: list[int] = []
        together_bytes = 0
        for group in self.row_groups:
            size_bytes = self._info.decoded_bytes(group, self.schema.names)
            if together and together_bytes + size_bytes // 2 > _BLOCK_BYTES:
                yield _contiguous(reader.read_row_groups(together))
                together, together_bytes = [], 0
            if size_bytes > 2 * _BLOCK_BYTES:
                yield from reader.read_stretches(group, self._stretch_rows(group, size_bytes))
            else:
                together.append(group)
                together_bytes += size_bytes
        if together:
            yield _contiguous(reader.read_row_groups(together))

    def _stretch_rows(self, row_group: int, size_bytes: int) -> int:
        num_rows = self._info.metadata.row_group(row_group).num_rows
        rows = num_rows * _BLOCK_BYTES // size_bytes
        return max(1, -(-rows // _STRETCH_ROWS_UNIT)) * _STRETCH_ROWS_UNIT


def _contiguous(table: pa.Table) -> pa.Table:
    """Join chunks that are so short that batches could not grow: many row groups of a few thousand rows."""
    chunks = max((column.num_chunks for column in table.columns), default=1)
    return table.combine_chunks() if chunks > 1 and table.num_rows // chunks < _SMALL_CHUNK_ROWS else table
