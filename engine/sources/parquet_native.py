"""DataFlare's own Parquet decoder: which columns it can decode, and rows of them as columns of a batch.

Covers flat columns of integers, floats, decimals, dates, times, timestamps, text and bytes with the encodings PLAIN
and dictionary, in all codecs but LZ4, whose name stands for two framings. Pages are decoded by
`dataflare.kernels.cpu.parquet_chunk` into reused memory, just as many rows as a batch has, so that what computes on
them finds them in the cache. Does not cover booleans and nested columns, nor INT96.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataflare.kernels.cpu.parquet_chunk import (
    ChunkEndError,
    ColumnDecoder,
    DamagedChunkError,
    Decompress,
    RowGroupDecoder,
    TextColumnDecoder,
    TextTooLongError,
    ValueLayout,
    check_text,
)
from dataflare.kernels.cpu.parquet_texts import NO_TEXT, VIEWS
from dataflare.kernels.errors import ReadError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostBlock, default_pool
from dataflare.sources.agreement import same_family
from dataflare.sources.parquet_excerpt import chunk_start, expected_type, has_known_layout
from dataflare.sources.paths import read_failure

if TYPE_CHECKING:
    from pyarrow._parquet import ColumnSchema  # as the stubs call it

    from dataflare.sources.parquet_catalog import ParquetFileInfo

__all__ = ["NativeColumns", "native_columns"]

_ENCODINGS = frozenset({"PLAIN", "RLE", "PLAIN_DICTIONARY", "RLE_DICTIONARY"})
_OLD_LEVELS = frozenset({"BIT_PACKED"})  # named by some writers for levels that a required column has not
_TIMES = {"milliseconds": ("INT32", pa.time32("ms")), "microseconds": ("INT64", pa.time64("us"))}
_MARGIN = 1.06  # by which the texts of a batch may be longer than those of the last one without a second heap
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def native_columns(info: ParquetFileInfo, schema: pa.Schema) -> frozenset[str]:
    """Return the names of the columns of `schema` that can be decoded here, in all row groups of the file."""
    stored = info.metadata.schema
    able = {
        field.name: leaves[0]
        for field in schema
        if len(leaves := info.leaves[field.name]) == 1
        and _layout(stored.column(leaves[0]), field.type) is not None
    }
    for index in range(info.metadata.num_row_groups):
        group = info.metadata.row_group(index)
        if group.num_rows:
            able = {
                name: leaf
                for name, leaf in able.items()
                if _is_readable(group.column(leaf), stored.column(leaf).max_definition_level, group.num_rows)
            }
    return frozenset(able)


def _is_readable(chunk: pq.ColumnChunkMetaData, levels: int, num_rows: int) -> bool:
    encodings = _ENCODINGS if levels else _ENCODINGS | _OLD_LEVELS
    return has_known_layout(chunk) and chunk.num_values == num_rows and encodings.issuperset(chunk.encodings)


def _layout(column: ColumnSchema, wanted: pa.DataType) -> ValueLayout | None:
    """Return how a column is decoded to an Arrow type; None where that is not what its values mean."""
    if column.max_repetition_level or column.max_definition_level > 1:
        return None
    if pa.types.is_time(wanted):
        decoded = _time_type(column)
    else:
        decoded = expected_type(column)
    if decoded is None:
        return None
    if same_family(decoded, wanted):
        return ValueLayout.of_text(column.physical_type, wanted)
    if pa.types.is_timestamp(decoded) and pa.types.is_timestamp(wanted):
        # The time zone is a name for how to show an instant; the values are the same.
        if decoded.unit != wanted.unit or (decoded.tz is None) != (wanted.tz is None):
            return None
    elif decoded != wanted:
        return None
    if not _is_fixed_width(wanted):
        return None
    return ValueLayout.of(column.physical_type, column.length or 0, wanted)


def _time_type(column: ColumnSchema) -> pa.DataType | None:
    logical = json.loads(column.logical_type.to_json())
    if logical["Type"] != "Time" or column.name != column.path:
        return None
    if logical["timeUnit"] == "nanoseconds":
        return pa.time64("ns") if column.physical_type == "INT64" else None
    physical, data_type = _TIMES[logical["timeUnit"]]
    return data_type if physical == column.physical_type else None


def _is_fixed_width(data_type: pa.DataType) -> bool:
    try:
        return data_type.bit_width % 8 == 0
    except ValueError:
        return False


class NativeColumns:
    """Rows of some columns of one file, one stretch after the other. Belongs to one thread.

    Parameters
    ----------
    info
        The file.
    fields
        The columns, each one of `native_columns`, with the types that they get.
    row_groups
        Whose rows are read, one after the other.
    file
        The open file: its descriptor where it is local.
    """

    def __init__(
        self,
        info: ParquetFileInfo,
        fields: Sequence[pa.Field[Any]],
        row_groups: Sequence[int],
        file: int | pa.NativeFile,
    ) -> None:
        self._info = info
        self._file = file
        first = info.metadata.row_group(row_groups[0])
        self._columns: list[_Column] = []
        for field in fields:
            stored = _stored_column(info, field)
            is_text = stored.layout.text_kind != NO_TEXT
            self._columns.append(_TextColumn(field, stored, first) if is_text else _Column(field, stored))
        self._decoder = RowGroupDecoder([column.decoder for column in self._columns])
        self._waiting = list(reversed(row_groups))
        self._row_group = -1
        self._left = 0

    def read(self, rows: int) -> dict[str, HostColumn]:
        """Return the next rows, of which the row groups have so many at least.

        Raises
        ------
        ReadError
            The file is damaged; names the row group and the column.
        """
        columns = self._columns
        blocks = [column.acquire(rows) for column in columns]
        first = self._row_group if self._left else None
        row = 0
        while row < rows:
            if not self._left:
                self._next_row_group()
                first = self._row_group if first is None else first
            count = min(rows - row, self._left)
            try:
                self._decoder.read(count)
            except (DamagedChunkError, TextTooLongError) as error:
                failed = self._decoder.failed
                (name,) = (column.field.name for column in columns if column.decoder is failed)
                raise self._failure(name, error) from error
            self._check(lambda column: column.check_read())
            row += count
            self._left -= count
            if not self._left:
                self._check(lambda column: column.check_end())
        results = {}
        for column, memory in zip(columns, blocks, strict=True):
            try:
                results[column.field.name] = column.result(rows, *memory)
            except DamagedChunkError as error:
                raise self._failure(column.field.name, error, first) from error
        return results

    def _next_row_group(self) -> None:
        self._row_group = self._waiting.pop()
        group = self._info.metadata.row_group(self._row_group)
        self._left = group.num_rows
        if not self._left:
            return
        for column in self._columns:
            chunk = group.column(column.leaf)
            codec, size_bytes, start = chunk.compression, chunk.total_compressed_size, chunk_start(chunk)
            if 0 < self._info.file.size_bytes < start + size_bytes:  # before memory is taken for it
                raise self._cut_short(self._info.file.size_bytes, column.field.name)
            local = self._file if isinstance(self._file, int) else None
            # Read into memory rather than mapped: a mapping of a file that is cut short meanwhile is a crash.
            memory = column.decoder.begin(size_bytes, codec, _decompressor(codec), file=local, offset=start)
            if not isinstance(self._file, int):
                self._fetch(self._file, start, memory, size_bytes, column.field.name)

    def _fetch(self, file: pa.NativeFile, start: int, memory: HostBlock, size_bytes: int, name: str) -> None:
        view: Any = np.asarray(memory)[:size_bytes]
        try:
            file.seek(start)
            got_bytes = file.readinto(view)
        except (OSError, ValueError) as error:
            raise read_failure(self._info.file.shown, error) from error
        if got_bytes < size_bytes:
            raise self._cut_short(start + got_bytes, name)

    def _check(self, check: Callable[[_Column], None]) -> None:
        for column in self._columns:
            try:
                check(column)
            except DamagedChunkError as error:
                raise self._failure(column.field.name, error) from error

    def _failure(
        self, name: str, error: DamagedChunkError | TextTooLongError, first: int | None = None
    ) -> ReadError:
        shown, groups = self._info.file.shown, self._info.metadata.num_row_groups
        where = f"row group {self._row_group} of {groups}"
        if first is not None and first != self._row_group:  # one of those that the rows come from
            where = f"row groups {first} to {self._row_group} of {groups}"
        if isinstance(error, TextTooLongError):
            return ReadError(
                f"{shown}: {where}: column {name!r} has "
                "texts so long that those of one batch take more than 2 GiB. Read it with decoder='pyarrow', or with "
                "a smaller max_size in AdaptiveBatchingConfig."
            )
        if isinstance(error, ChunkEndError):
            assert isinstance(self._file, int)  # others are read by `_fetch`
            try:
                os.pread(self._file, 1, error.offset)
            except OSError as failure:
                return read_failure(shown, failure)
            return self._cut_short(error.offset, name)
        return ReadError(
            f"{shown}: {where} cannot be decoded: column {name!r}: {error}. "
            "The file is damaged, or uses an encoding that the decoder lacks."
        )

    def _cut_short(self, end: int, name: str) -> ReadError:
        return ReadError(
            f"{self._info.file.shown}: the file ends at byte {end:,}, before the end of column {name!r} of row group "
            f"{self._row_group}. It is truncated, or was changed while it was read."
        )


class StoredColumn(NamedTuple):
    """How a column lies in a file, and how it is decoded."""

    leaf: int
    is_optional: bool
    layout: ValueLayout


def _stored_column(info: ParquetFileInfo, field: pa.Field[Any]) -> StoredColumn:
    """Return what a file says of one of its `native_columns`; looked up once a file, not for each row group."""
    key = (field.name, field.type)
    found = info.stored_columns.get(key)
    if found is None:
        (leaf,) = info.leaves[field.name]
        column = info.metadata.schema.column(leaf)
        layout = _layout(column, field.type)
        assert layout is not None  # or it would not be one of `native_columns`
        found = info.stored_columns[key] = StoredColumn(leaf, column.max_definition_level > 0, layout)
    return found


class _Column:
    """One column: its decoder and the memory of its rows."""

    def __init__(self, field: pa.Field[Any], stored: StoredColumn) -> None:
        self.field = field
        self.leaf = stored.leaf
        self._optional = stored.is_optional
        self._result_bytes = stored.layout.result_bytes
        self.decoder = self._new_decoder(stored)

    def _new_decoder(self, stored: StoredColumn) -> ColumnDecoder:
        return ColumnDecoder(stored.layout, optional=stored.is_optional)

    def acquire(self, rows: int) -> tuple[HostBlock, HostBlock | None]:
        """Return memory for values and validity, to which the next rows go."""
        values = default_pool().acquire(rows * self._result_bytes)
        bitmap = self._bitmap(rows)
        self.decoder.want(values.address, 0 if bitmap is None else bitmap.address)
        return values, bitmap

    def check_read(self) -> None:
        """Check what was read."""

    def check_end(self) -> None:
        """Check that the chunk has been read to its end."""
        self.decoder.check_end()

    def result(self, rows: int, values: HostBlock, bitmap: HostBlock | None) -> HostColumn:
        """Return the rows that were decoded."""
        nulls = self.decoder.nulls
        if bitmap is None or not nulls:
            return HostColumn.from_block(self.field.type, rows, 0, values.address, 0, values)
        return HostColumn.from_block(
            self.field.type, rows, bitmap.address, values.address, nulls, (values, bitmap)
        )

    def _bitmap(self, rows: int) -> HostBlock | None:
        return default_pool().acquire((rows + 7) // 8) if self._optional else None


class _TextColumn(_Column):
    """A column of text or bytes."""

    decoder: TextColumnDecoder

    def __init__(self, field: pa.Field[Any], stored: StoredColumn, first: pq.RowGroupMetaData) -> None:
        super().__init__(field, stored)
        self._are_views = stored.layout.text_kind == VIEWS
        self._is_text = same_family(field.type, pa.string())
        chunk = first.column(stored.leaf)
        # Of texts; the last batch tells better.
        self._row_bytes = chunk.total_uncompressed_size / max(1, first.num_rows)

    def _new_decoder(self, stored: StoredColumn) -> TextColumnDecoder:
        return TextColumnDecoder(stored.layout, optional=stored.is_optional)

    def acquire(self, rows: int) -> tuple[HostBlock, HostBlock | None]:
        """Return memory for views or offsets and validity, to which the next rows go."""
        extra = 0 if self._are_views else 1
        values = default_pool().acquire((rows + extra) * self._result_bytes)
        bitmap = self._bitmap(rows)
        out = values.address
        if not self._are_views:
            out += (rows + 1) * self._result_bytes - 4 * rows  # lengths first, at its end
        self.decoder.want(out, 0 if bitmap is None else bitmap.address)
        self.decoder.expect(int(rows * self._row_bytes * _MARGIN))
        return values, bitmap

    def check_read(self) -> None:
        """Check the dictionary, which is new with each chunk."""
        if self._is_text:
            self.decoder.check_dictionary()

    def result(self, rows: int, values: HostBlock, bitmap: HostBlock | None) -> HostColumn:
        """Return the rows that were decoded.

        Raises
        ------
        DamagedChunkError
            One is not the text that it should be.
        """
        decoder = self.decoder
        may_be_no_text = self._is_text and decoder.may_be_no_text
        texts = decoder.take_buffers()
        nulls = decoder.nulls
        blocks = [values, *(text.block for text in texts if text.is_used)]
        addresses, sizes = [0, values.address], [0, rows * self._result_bytes]
        if nulls:
            assert bitmap is not None  # or there is no null
            blocks.append(bitmap)
            addresses[0], sizes[0] = bitmap.address, (rows + 7) // 8
        if not self._are_views:
            decoder.write_offsets(rows, values.address)
            sizes[1] += self._result_bytes
            if not texts:
                addresses.append(values.address)  # of no bytes
                sizes.append(0)
        for text in texts:
            addresses.append(text.block.address if text.is_used else values.address)
            sizes.append(text.size_bytes if text.is_used else 0)
        heap_bytes = sum(text.size_bytes for text in texts if not text.is_page)
        self._row_bytes = heap_bytes / rows
        result = HostColumn.from_buffers(self.field.type, rows, addresses, sizes, nulls, tuple(blocks))
        if may_be_no_text:
            check_text(result.to_arrow())
        return result


def _decompressor(codec: str) -> Decompress:
    """Return what decompresses pages of a codec, to exactly the size that is asked for."""

    def decompress(address: int, size_bytes: int, result_bytes: int) -> pa.Buffer:
        data = pa.foreign_buffer(address, size_bytes)
        try:
            if codec == "ZSTD" and _zstd_content_bytes(data) == result_bytes:
                return pa.Codec("zstd").decompress(data, result_bytes)
            # Unlike the one above, a codec's own function would not say that it got less.
            name: Any = codec.lower()
            with pa.CompressedInputStream(pa.BufferReader(data), name) as stream:
                result = stream.read_buffer(result_bytes + 1)
        except (OSError, ValueError) as error:
            raise DamagedChunkError(
                f"a page cannot be decompressed ({str(error).splitlines()[0]})"
            ) from error
        if result.size != result_bytes:
            raise DamagedChunkError("a page does not decompress to the size in its header")
        return result

    return decompress


def _zstd_content_bytes(data: pa.Buffer) -> int | None:
    """Return the size that a Zstandard frame says its content has, to which decompression holds it."""
    head = bytes(memoryview(data)[:18])
    if len(head) < 6 or not head.startswith(_ZSTD_MAGIC):
        return None
    flags = head[4]
    one_segment = flags >> 5 & 1
    start = 5 + (not one_segment) + (0, 1, 2, 4)[flags & 3]
    width = (one_segment, 2, 4, 8)[flags >> 6]
    content = int.from_bytes(head[start : start + width], "little") if width else None
    return content + 256 if content is not None and width == 2 else content
