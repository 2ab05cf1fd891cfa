"""Makes a small Parquet file in memory out of some row groups and columns of a large one.

Covers copying the column chunks, byte for byte, and writing a footer that describes them: what a decoder
needs that cannot be told which row groups to read, or that would parse the whole footer for each of them.
Nothing is decoded. Does not cover nested columns, nor types outside `expected_type`.

The footer is a Thrift structure in the compact protocol (parquet.thrift of the Parquet format); only the
fields that are needed to decode are written.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from pyarrow._parquet import ColumnSchema  # as the stubs call it

__all__ = ["build_excerpt", "chunk_start", "release_excerpt", "expected_type", "has_known_layout"]

_MAGIC = b"PAR1"
_PHYSICAL_TYPES = {
    "BOOLEAN": 0,
    "INT32": 1,
    "INT64": 2,
    "FLOAT": 4,
    "DOUBLE": 5,
    "BYTE_ARRAY": 6,
    "FIXED_LEN_BYTE_ARRAY": 7,
}
# LZ4 is missing: pyarrow gives one name to two incompatible framings.
_CODECS = {"UNCOMPRESSED": 0, "SNAPPY": 1, "GZIP": 2, "BROTLI": 4, "ZSTD": 6}
_CONVERTED_TYPES = {
    "UTF8": 0,
    "DECIMAL": 5,
    "DATE": 6,
    "UINT_8": 11,
    "UINT_16": 12,
    "UINT_32": 13,
    "UINT_64": 14,
    "INT_8": 15,
    "INT_16": 16,
    "INT_32": 17,
    "INT_64": 18,
}
_CONVERTED_OF_LOGICAL = {"String": "UTF8", "Date": "DATE", "Decimal": "DECIMAL"}
_TIME_UNITS = {"milliseconds": (1, "ms"), "microseconds": (2, "us"), "nanoseconds": (3, "ns")}
_INTEGERS: dict[tuple[int, bool], Callable[[], pa.DataType]] = {
    (8, True): pa.int8,
    (16, True): pa.int16,
    (32, True): pa.int32,
    (64, True): pa.int64,
    (8, False): pa.uint8,
    (16, False): pa.uint16,
    (32, False): pa.uint32,
    (64, False): pa.uint64,
}
_PLAIN_TYPES: dict[str, Callable[[], pa.DataType]] = {
    "BOOLEAN": pa.bool_,
    "INT32": pa.int32,
    "INT64": pa.int64,
    "FLOAT": pa.float32,
    "DOUBLE": pa.float64,
    "BYTE_ARRAY": pa.binary_view,
}

# Capacities are multiples, so that excerpts of about the same size can take each other's place.
_EXCERPT_UNIT_BYTES = 2**20
_KEPT_BYTES = 32 * 2**20

# Thrift's compact protocol: what a field's low four bits say.
_TRUE, _FALSE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 2, 5, 6, 8, 9, 12


def expected_type(column: ColumnSchema) -> pa.DataType | None:
    """Return the Arrow type that an excerpt's column decodes to; None when excerpts do not cover it.

    Text and binary decode as views, timestamps of an instant with the time zone UTC.
    """
    if column.max_repetition_level or column.name != column.path or column.max_definition_level > 1:
        return None  # nested
    logical = json.loads(column.logical_type.to_json())
    physical = column.physical_type
    match logical["Type"]:
        case "None" | "Undefined":
            if column.converted_type not in ("NONE", None):
                return None
            return _PLAIN_TYPES[physical]() if physical in _PLAIN_TYPES else None
        case "Int":
            return _INTEGERS[(logical["bitWidth"], logical["isSigned"])]()
        case "String" if physical == "BYTE_ARRAY":
            return pa.string_view()
        case "Date":
            return pa.date32()
        case "Decimal" if (
            physical in ("INT32", "INT64", "FIXED_LEN_BYTE_ARRAY") and logical["precision"] <= 38
        ):
            return pa.decimal128(logical["precision"], logical["scale"])
        case "Timestamp" if logical["timeUnit"] in _TIME_UNITS and physical == "INT64":
            unit: Any = _TIME_UNITS[logical["timeUnit"]][1]
            return pa.timestamp(unit, "UTC" if logical["isAdjustedToUTC"] else None)
        case _:
            return None


def has_known_layout(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether the codec and the place of a column chunk are known well enough to copy it."""
    return chunk.compression in _CODECS and chunk.data_page_offset > 0 and chunk.total_compressed_size > 0


def chunk_start(chunk: pq.ColumnChunkMetaData) -> int:
    """Return where the first page of a column chunk is: that of the dictionary, where there is one."""
    data: int = chunk.data_page_offset
    dictionary = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    # Some writers say 0; the dictionary page then is the first data page.
    return dictionary if dictionary is not None and 0 < dictionary < data else data


def build_excerpt(
    read_into: Callable[[int, memoryview], None],
    metadata: pq.FileMetaData,
    row_groups: Sequence[int],
    leaves: Sequence[int],
) -> io.BytesIO:
    """Return a Parquet file with these row groups and leaf columns, whose bytes `read_into` fetches.

    Parameters
    ----------
    read_into
        Called with an offset in the large file and the memory to fill from there; raises when it cannot.
    metadata
        Of the large file.
    row_groups, leaves
        Positions in the large file, in the order wanted. `expected_type` and `has_known_layout` hold for all.
    """
    footer = _Writer()
    footer.integer(1, _I32, 1)  # version
    _write_schema(footer, metadata.schema, leaves)
    footer.integer(3, _I64, sum(metadata.row_group(group).num_rows for group in row_groups))
    footer.list_of(4, _STRUCT, len(row_groups))
    position = len(_MAGIC)
    copies: list[tuple[int, int, int]] = []  # offset there, bytes, offset here
    for group in row_groups:
        row_group = metadata.row_group(group)
        footer.begin()
        footer.list_of(1, _STRUCT, len(leaves))
        for leaf in leaves:
            chunk = row_group.column(leaf)
            data, start = chunk.data_page_offset, chunk_start(chunk)
            copies.append((start, chunk.total_compressed_size, position))
            _write_chunk(footer, chunk, data - start + position, position if start < data else None)
            position += chunk.total_compressed_size
        footer.integer(2, _I64, row_group.total_byte_size)
        footer.integer(3, _I64, row_group.num_rows)
        footer.end()
    footer.stop()
    tail = bytes(footer.data) + len(footer.data).to_bytes(4, "little") + _MAGIC

    excerpt = _free_excerpts.take(position + len(tail))
    # A decoder that still holds the bytes of an earlier use does no harm: BytesIO then writes to a copy.
    with excerpt.getbuffer() as buffer:
        buffer[: len(_MAGIC)] = _MAGIC
        for offset, size_bytes, place in copies:
            read_into(offset, buffer[place : place + size_bytes])
        buffer[-len(tail) :] = tail  # what is between the chunks and the footer belongs to neither
    return excerpt


def release_excerpt(excerpt: io.BytesIO) -> None:
    """Give an excerpt's memory back when nobody reads it any more: fresh pages cost as much as reading the file."""
    _free_excerpts.give(excerpt)


class _FreeExcerpts:
    """Keeps the memory of some excerpts for the next ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[tuple[int, io.BytesIO]] = []

    def take(self, size_bytes: int) -> io.BytesIO:
        with self._lock:
            for place, (capacity_bytes, excerpt) in enumerate(self._free):
                if size_bytes <= capacity_bytes <= 2 * size_bytes + _EXCERPT_UNIT_BYTES:
                    del self._free[place]
                    return excerpt
        capacity_bytes = -(-size_bytes // _EXCERPT_UNIT_BYTES) * _EXCERPT_UNIT_BYTES
        excerpt = io.BytesIO()
        excerpt.seek(capacity_bytes - 1)
        excerpt.write(b"\0")  # sized once, so that every chunk is read straight to its place
        excerpt.seek(0)
        return excerpt

    def give(self, excerpt: io.BytesIO) -> None:
        capacity_bytes = len(excerpt.getbuffer())
        excerpt.seek(0)
        with self._lock:
            self._free.insert(0, (capacity_bytes, excerpt))
            kept_bytes = 0
            for place, (each_bytes, _) in enumerate(self._free):
                kept_bytes += each_bytes
                if kept_bytes > _KEPT_BYTES:
                    del self._free[place:]
                    break


_free_excerpts = _FreeExcerpts()


def _write_schema(footer: _Writer, schema: pq.ParquetSchema, leaves: Sequence[int]) -> None:
    footer.list_of(2, _STRUCT, len(leaves) + 1)
    footer.begin()
    footer.binary(4, b"schema")
    footer.integer(5, _I32, len(leaves))
    footer.end()
    for leaf in leaves:
        column = schema.column(leaf)
        logical = json.loads(column.logical_type.to_json())
        kind = logical["Type"]
        footer.begin()
        footer.integer(1, _I32, _PHYSICAL_TYPES[column.physical_type])
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            footer.integer(2, _I32, column.length or 0)
        footer.integer(3, _I32, column.max_definition_level)  # 0 required, 1 optional
        footer.binary(4, column.name.encode())
        if kind == "Int":
            converted = f"{'' if logical['isSigned'] else 'U'}INT_{logical['bitWidth']}"
            footer.integer(6, _I32, _CONVERTED_TYPES[converted])
        elif kind in _CONVERTED_OF_LOGICAL:
            footer.integer(6, _I32, _CONVERTED_TYPES[_CONVERTED_OF_LOGICAL[kind]])
        if kind == "Decimal":
            footer.integer(7, _I32, logical["scale"])
            footer.integer(8, _I32, logical["precision"])
        if kind == "Timestamp":  # LogicalType.TIMESTAMP { isAdjustedToUTC, unit { which {} } }
            footer.begin(10)
            footer.begin(8)
            footer.field(1, _TRUE if logical["isAdjustedToUTC"] else _FALSE)
            footer.begin(2)
            footer.begin(_TIME_UNITS[logical["timeUnit"]][0])
            for _ in range(4):
                footer.end()
        footer.end()


def _write_chunk(footer: _Writer, chunk: pq.ColumnChunkMetaData, data: int, dictionary: int | None) -> None:
    footer.begin()
    footer.integer(2, _I64, 0)  # file_offset: of metadata outside the footer, there is none
    footer.begin(3)
    footer.integer(1, _I32, _PHYSICAL_TYPES[chunk.physical_type])
    footer.list_of(2, _I32, 1)
    footer.item(0)  # encodings: each page says its own, decoders go by that
    footer.list_of(3, _BINARY, 1)
    footer.item_binary(chunk.path_in_schema.encode())
    footer.integer(4, _I32, _CODECS[chunk.compression])
    footer.integer(5, _I64, chunk.num_values)
    footer.integer(6, _I64, chunk.total_uncompressed_size)
    footer.integer(7, _I64, chunk.total_compressed_size)
    footer.integer(9, _I64, data)
    if dictionary is not None:
        footer.integer(11, _I64, dictionary)
    footer.end()
    footer.end()


class _Writer:
    """Thrift's compact protocol, as much of it as a footer needs."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._last = 0
        self._outer: list[int] = []

    def field(self, number: int, kind: int) -> None:
        step = number - self._last
        assert 0 < step < 16  # field numbers are written in order
        self.data.append(step << 4 | kind)
        self._last = number

    def integer(self, number: int, kind: int, value: int) -> None:
        self.field(number, kind)
        self.item(value)

    def binary(self, number: int, value: bytes) -> None:
        self.field(number, _BINARY)
        self.item_binary(value)

    def list_of(self, number: int, kind: int, count: int) -> None:
        self.field(number, _LIST)
        if count < 15:
            self.data.append(count << 4 | kind)
        else:
            self.data.append(0xF0 | kind)
            self._varint(count)

    def item(self, value: int) -> None:
        self._varint(value << 1 ^ value >> 63)  # zigzag

    def item_binary(self, value: bytes) -> None:
        self._varint(len(value))
        self.data += value

    def begin(self, number: int | None = None) -> None:
        """Begin a structure: a field's, or without a number the next item of a list."""
        if number is not None:
            self.field(number, _STRUCT)
        self._outer.append(self._last)
        self._last = 0

    def end(self) -> None:
        self.stop()
        self._last = self._outer.pop()

    def stop(self) -> None:
        self.data.append(0)

    def _varint(self, value: int) -> None:
        while value > 127:
            self.data.append(value & 127 | 128)
            value >>= 7
        self.data.append(value)
