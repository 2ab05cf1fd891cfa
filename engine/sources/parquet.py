"""Parquet files as a source: projection, row groups skipped by statistics, bounded memory.

Covers planning: which row groups are read, in which partitions, and how they become batches. Footers are in
`parquet_catalog`, the choice of decoders in `parquet_choice`, decoding in `parquet_decoders` and `parquet_native`,
skipping in `parquet_statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from dataflare.batch import SharedDataBatch
from dataflare.kernels.memory.column import HostColumn, fixed_width_bytes
from dataflare.schema import column_index
from dataflare.sources.parquet_catalog import ParquetCatalog, ParquetFileInfo
from dataflare.sources.parquet_choice import (
    ColumnDecoders,
    DecoderName,
    check_decoder,
    choose_decoders,
    describe_decoders,
)
from dataflare.sources.parquet_decoders import ParquetReader
from dataflare.sources.parquet_statistics import may_match
from dataflare.sources.paths import PathsArgument, find_files
from dataflare.sources.slicing import cut_rows, slice_table

if TYPE_CHECKING:
    from dataflare.sources.base import Predicate
    from dataflare.sources.parquet_native import NativeColumns

__all__ = ["ParquetPartition", "ParquetSource"]

_SUFFIXES = (".parquet", ".pq", ".parq")
# A block is what is decoded at once. Smaller ones cost calls, larger ones memory and cache misses.
_BLOCK_BYTES = 24 * 2**20
_REMOTE_PARTITION_BYTES = 64 * 2**20
_LEAST_BLOCK_BYTES = 2**14
# DataFlare's own decoder and Polars hold the columns of a whole row group as they are in the file. Where that would
# be more than so many blocks, PyArrow reads them page by page.
_MOST_STORED_BLOCKS = 4
_PAGES_BYTES = 2 * 2**20  # of one column: the dictionary and a page, which writers keep to 1 MiB each
_VIEW_BYTES = 16
_ENTRIES_A_PAGE = 3  # views of a dictionary's texts take at most so many times the bytes of its page
# Polars' allocator keeps what decoding has freed, and cannot be told to give it back: lineitem with its texts at SF10,
# in 64 MB, let the process grow by 80 MB in 35 s, and by 71 MB in 54 s with PyArrow (`benchmarks/control/memory.py`).
_LEAST_POLARS_BLOCK_BYTES = 8 * 2**20
# A row group whose tables would take more than so many blocks is decoded in stretches, which costs time.
_STRETCHED_BLOCKS = 2.5
# What a decoder makes on the way to a table, the table, and what its allocator keeps for a while (growth of the
# process while lineitem's texts were decoded, by Polars and by PyArrow).
_TABLE_COPIES = 4
# What DataFlare's own decoder decodes at least, however small the block is: smaller batches are cut from it. Of text
# nobody knows before how much of a row group is in so many rows.
_LEAST_NATIVE_ROWS = 16_384
_LEAST_NATIVE_TEXT_ROWS = 1_024
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
    _block_bytes: int = _BLOCK_BYTES

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
            "auto" takes the fastest one for each column, see `dataflare.sources.parquet_decoders`.
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
        plans = self._plans
        kept = sum(len(plan.row_groups) for plan in plans)
        total = sum(plan.info.metadata.num_row_groups for plan in plans)
        columns = f"{len(self.schema)} of {len(self._catalog.schema)} columns"
        decoders = describe_decoders([plan.decoders for plan in plans], self.schema)
        return f"Parquet {name}: {columns}, {kept} of {total} row groups, {decoders}"

    @property
    def num_rows(self) -> int:
        """Records in the row groups that are left."""
        return sum(
            plan.info.metadata.row_group(group).num_rows for plan in self._plans for group in plan.row_groups
        )

    @property
    def size_bytes(self) -> int:
        """Estimated bytes in memory of the columns in the row groups that are left."""
        names = self.schema.names
        return sum(plan.info.decoded_bytes(group, names) for plan in self._plans for group in plan.row_groups)

    @property
    def is_local(self) -> bool:
        """Whether all files are on this machine: then a task may as well compute what it has just read."""
        return all(file.is_local for file in self._catalog.files)

    @cached_property
    def reading_bytes(self) -> int:
        """Bytes that a reader holds at most beside its batches: row groups as stored, pages and tables."""
        return max((self._reading_bytes(plan) for plan in self._plans if plan.row_groups), default=0)

    def with_blocks(self, block_bytes: int) -> Self:
        """Return the source decoded in blocks of about so many bytes in memory, where those are smaller."""
        block_bytes = max(_LEAST_BLOCK_BYTES, block_bytes)
        # Itself where it can be, with what it has found out about its files.
        return self if block_bytes >= self._block_bytes else replace(self, _block_bytes=block_bytes)

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
        """Return ranges of row groups of about a block, 24 MiB (remote: 64), in the order of files and rows.

        Raises
        ------
        ReadError
            The footer of one of the files cannot be read.
        SchemaMismatchError
            A file's columns differ from the first file's.
        """
        names = self.schema.names
        partitions: list[ParquetPartition] = []
        for plan in self._plans:
            part: list[int] = []
            part_bytes = 0
            # Locally one block, so that a run in order can decode the next ones meanwhile without keeping much.
            # Over a network opening a file takes a round trip.
            most_bytes = self._block_bytes
            if not plan.info.file.is_local:
                most_bytes = _REMOTE_PARTITION_BYTES * self._block_bytes // _BLOCK_BYTES
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
        return ParquetPartition(
            self.schema, plan.info, tuple(row_groups), plan.decoders, size_bytes, self._block_bytes
        )

    def _reading_bytes(self, plan: _FilePlan) -> int:
        """Return what reading the largest row group holds, by the footer."""
        info, names = plan.info, self.schema.names
        group = max(plan.row_groups, key=lambda index: info.metadata.row_group(index).total_byte_size)
        native = [name for name in names if name in plan.decoders.native]
        tables = [name for name in names if name not in plan.decoders.native]
        stored_bytes = info.stored_bytes(group, [*native, *plan.decoders.polars])
        stored_bytes += sum(self._page_bytes(info, group, name) for name in native)
        table_bytes = info.decoded_bytes(group, tables)
        if tables:
            table_bytes = max(table_bytes, self._together_bytes(plan, tables))
        if table_bytes > _STRETCHED_BLOCKS * self._block_bytes:
            table_bytes = self._block_bytes
        return stored_bytes + _TABLE_COPIES * table_bytes

    def _together_bytes(self, plan: _FilePlan, names: Sequence[str]) -> int:
        """Return what row groups that are read together take: a block, or all of them."""
        together_bytes = 0
        for group in plan.row_groups:
            together_bytes += plan.info.decoded_bytes(group, names)
            if together_bytes >= self._block_bytes:
                return self._block_bytes
        return together_bytes

    def _page_bytes(self, info: ParquetFileInfo, group: int, name: str) -> int:
        """Return what DataFlare's own decoder has of one column beside the stored chunk and the batch."""
        uncompressed_bytes = info.uncompressed_bytes(group, [name])
        page_bytes = min(_PAGES_BYTES, uncompressed_bytes)
        if fixed_width_bytes(self.schema.field(name).type) is None:
            entries_bytes = _ENTRIES_A_PAGE * min(_PAGES_BYTES // 2, uncompressed_bytes)
            page_bytes += min(_VIEW_BYTES * info.metadata.row_group(group).num_rows, entries_bytes)
        return page_bytes

    @cached_property
    def _plans(self) -> tuple[_FilePlan, ...]:
        # Kept, because a run asks five times, and looks at each statistic that a predicate is compared with.
        every_column = len(self.schema) == len(self._catalog.schema)
        self._catalog.check(self.schema, every_column=every_column)
        infos = self._catalog.infos()
        chosen = choose_decoders(infos, self.schema, self._decoder)
        return tuple(
            self._file_plan(info, tuple(self._row_groups(info)), decoders)
            for info, decoders in zip(infos, chosen, strict=True)
        )

    def _file_plan(
        self, info: ParquetFileInfo, row_groups: tuple[int, ...], decoders: ColumnDecoders
    ) -> _FilePlan:
        if self._decoder == "auto" and self._block_bytes < _LEAST_POLARS_BLOCK_BYTES:
            decoders = ColumnDecoders(decoders.native)
        whole = [*decoders.native, *decoders.polars]
        if self._decoder == "auto" and whole and row_groups:
            group = max(row_groups, key=lambda index: info.metadata.row_group(index).total_byte_size)
            if info.stored_bytes(group, whole) > _MOST_STORED_BLOCKS * self._block_bytes:
                decoders = ColumnDecoders()
        return _FilePlan(info, row_groups, decoders)

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


@dataclass(frozen=True)
class _FilePlan:
    info: ParquetFileInfo
    row_groups: tuple[int, ...]
    decoders: ColumnDecoders


@dataclass(frozen=True, eq=False)
class ParquetPartition:
    """Some row groups of one file."""

    schema: pa.Schema
    """Schema of the batches."""
    _info: ParquetFileInfo
    row_groups: tuple[int, ...]
    """Positions in the file, ascending."""
    _decoders: ColumnDecoders
    size_bytes: int
    """Estimated bytes in memory."""
    _block_bytes: int = _BLOCK_BYTES

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
        """Decode about a block at a time; see `dataflare.sources.base.SourcePartition.read`."""
        if not self.schema:
            for group in self.row_groups:
                num_rows = self._info.metadata.row_group(group).num_rows
                rows = pa.table({"": pa.nulls(num_rows)}).select([])
                yield from slice_table(self.schema, rows, batch_rows)
            return
        with ParquetReader(self._info, self.schema, self._decoders) as reader:
            native = reader.native(self.row_groups)
            if not reader.has_tables:
                assert native is not None  # there is a column
                yield from self._native_batches(native, {}, self.num_rows, batch_rows)
                return
            for table in self._blocks(reader):
                if native is None:
                    yield from slice_table(self.schema, table, batch_rows)
                else:
                    for block in table.to_batches():
                        beside = dict(
                            zip(block.schema.names, map(HostColumn.from_arrow, block.columns), strict=True)
                        )
                        yield from self._native_batches(native, beside, block.num_rows, batch_rows)
                del table  # or the block stays while the next one is decoded

    def _native_batches(
        self,
        native: NativeColumns,
        beside: Mapping[str, HostColumn],
        num_rows: int,
        batch_rows: Callable[[], int],
    ) -> Iterator[SharedDataBatch]:
        """Decode as many rows as each batch has, so that they are in the cache when they are used.

        `beside` are the columns of the same `num_rows` rows that are decoded already.
        """
        types = [self.schema.field(name).type for name in self.schema.names if name in self._decoders.native]
        has_text = any(fixed_width_bytes(data_type) is None for data_type in types)
        most_rows = max(
            _LEAST_NATIVE_TEXT_ROWS if has_text else _LEAST_NATIVE_ROWS,
            self._block_bytes * self.num_rows // max(1, self.size_bytes),
        )
        start = 0
        while start < num_rows:
            wanted = max(1, batch_rows())
            left = num_rows - start
            pieces = -(-left // min(max(wanted, _LEAST_NATIVE_ROWS), most_rows))
            rows = -(-left // pieces)
            decoded = native.read(rows)
            sizes = chain([wanted], iter(batch_rows, None))
            for offset, length in cut_rows(rows, sizes.__next__):
                columns = [
                    decoded[name].slice(offset, length)
                    if name in decoded
                    else beside[name].slice(start + offset, length)
                    for name in self.schema.names
                ]
                yield SharedDataBatch._from_columns(self.schema, columns, length)
                del columns
            del decoded  # or its memory is not there for the next rows
            start += rows

    def _blocks(self, reader: ParquetReader) -> Iterator[pa.Table]:
        together: list[int] = []
        together_bytes = 0
        tables = [name for name in self.schema.names if name not in self._decoders.native]
        for group in self.row_groups:
            size_bytes = self._info.decoded_bytes(group, tables)
            if together and together_bytes + size_bytes // 2 > self._block_bytes:
                yield _contiguous(reader.read_row_groups(together))
                together, together_bytes = [], 0
            if size_bytes > _STRETCHED_BLOCKS * self._block_bytes:
                yield from reader.read_stretches(group, self._stretch_rows(group, size_bytes))
            else:
                together.append(group)
                together_bytes += size_bytes
        if together:
            yield _contiguous(reader.read_row_groups(together))

    def _stretch_rows(self, row_group: int, size_bytes: int) -> int:
        num_rows = self._info.metadata.row_group(row_group).num_rows
        rows = num_rows * self._block_bytes // size_bytes
        return max(1, -(-rows // _STRETCH_ROWS_UNIT)) * _STRETCH_ROWS_UNIT


def _contiguous(table: pa.Table) -> pa.Table:
    """Join chunks that are so short that batches could not grow: many row groups of a few thousand rows."""
    chunks = max((column.num_chunks for column in table.columns), default=1)
    return table.combine_chunks() if chunks > 1 and table.num_rows // chunks < _SMALL_CHUNK_ROWS else table
