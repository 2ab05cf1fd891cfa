"""Reads Parquet's page headers in compiled code: Thrift structures in the compact protocol.

Covers data pages of both versions and dictionary pages; others are noted by their kind and size. Text in statistics
is passed over. Lists are an error: no page header has any.
"""

from __future__ import annotations

from dataflare.kernels.cpu.parquet_state import ColumnState, Status
from dataflare.kernels.cpu.routine import Routine, Variable

__all__ = [
    "DATA_PAGE",
    "DATA_PAGE_V2",
    "DICTIONARY_PAGE",
    "INDEX_PAGE",
    "LEVELS_ENCODING",
    "header_routines",
]

DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = range(4)
"""Kinds of pages; later versions of the format may have more."""

LEVELS_ENCODING = 3
"""RLE, the only encoding of levels since 2013, and in version 2 of the pages."""

_MOST_BYTES = 1 << 31
_DEEPEST = 8  # structures inside each other
_SECTIONS, _SECTION_FIELDS = (
    9,
    16,
)  # what is noted: the number of the structure's field, and of the field in it
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8


def header_routines() -> list[str]:
    """Return the function ``header`` and what it calls, but ``varint`` of `parquet_runs`."""
    return [_zigzag(), _header()]


def _header() -> str:
    """Build ``header(state)``: reads the page header at `position`, a Thrift structure in the compact protocol.

    All integers and flags of the first two levels are noted by their numbers; -1 stands for those that are
    not there. Text in statistics is passed over; there are no lists.
    """
    f = Routine("header", ("state",))
    state = ColumnState(f)
    end = state.end.now
    noted = f.stack(8 * _SECTIONS * _SECTION_FIELDS)
    f.fill(noted, -1, 8 * _SECTIONS * _SECTION_FIELDS)
    last = f.stack(8 * _DEEPEST)  # number of the last field, by depth
    f.store(last, 0, 64)
    place = f.stack(8)
    depth, section, more = f.variable(0), f.variable(0), f.variable(1)
    position = f.memory(place)
    position.set(state.position)
    with f.loop(lambda: more.differs(0)) as again:
        f.finish_when(position >= end, Status.HEADER)
        byte = f.load(position, 8)
        position.advance(1)
        with f.when(byte.equals(0)):
            with f.when(depth.equals(0)):
                more.set(0)
                f.go_on(again)
            depth.advance(-1)
            f.go_on(again)
        kind = byte & 15
        number = f.memory(last + (depth << 3))
        number.advance(byte >> 4)
        with f.when((byte >> 4).equals(0)):
            number.set(f.call("zigzag", place, end))
            f.finish_when(position > end, Status.HEADER)
        value, has_value = f.variable(0), f.variable(0)
        with f.when((kind - 1) < 2):  # a flag
            value.set(kind & 1)
            has_value.set(1)
        with f.when((kind - 4) < 3):  # integers of 16, 32 and 64 bits
            value.set(f.call("zigzag", place, end))
            has_value.set(1)
        with f.when(kind.equals(3)):
            position.advance(1)
        with f.when(kind.equals(7)):
            position.advance(8)
        with f.when(kind.equals(8)):
            length = f.call("varint", place, end)
            f.finish_when((position > end) | (length > (end - position)), Status.HEADER)
            position.advance(length)
        with f.when(kind.equals(12)):
            with f.when(depth.equals(0)):
                section.set(number)
            depth.advance(1)
            f.finish_when(depth >= _DEEPEST, Status.HEADER)
            f.store(last + (depth << 3), 0, 64)
        f.finish_when(((kind - 9) < 3) | (kind > 12) | kind.equals(0) | (position > end), Status.HEADER)
        known = (depth < 2) & (number < _SECTION_FIELDS) & has_value.differs(0)
        where = f.chosen(depth.equals(0), 0, section)
        with f.when(known & (where < _SECTIONS)):
            f.store(noted + (where * _SECTION_FIELDS + number) * 8, value, 64)

    def field(section: int, number: int) -> Variable:
        return f.memory(noted + 8 * (section * _SECTION_FIELDS + number))

    state.body.set(position)
    state.kind.set(field(0, 1))
    state.uncompressed_bytes.set(field(0, 2))
    state.compressed_bytes.set(field(0, 3))
    state.page_bytes.set(field(0, 3))
    state.level_bytes.set(0)
    state.has_separate_levels.set(0)
    f.finish_when(
        (state.uncompressed_bytes >= _MOST_BYTES) | (state.compressed_bytes >= _MOST_BYTES), Status.SIZES
    )
    f.finish_when(state.compressed_bytes > (end - position), Status.BEYOND)
    with f.when(state.kind.equals(DATA_PAGE)):
        state.page_rows.set(field(_DATA, 1))
        state.encoding.set(field(_DATA, 2))
        state.level_encoding.set(field(_DATA, 3))
    with f.when(state.kind.equals(DICTIONARY_PAGE)):
        state.page_rows.set(field(_DICTIONARY, 1))
        state.encoding.set(field(_DICTIONARY, 2))
    with f.when(state.kind.equals(DATA_PAGE_V2)):
        state.page_rows.set(field(_DATA_V2, 1))
        state.encoding.set(field(_DATA_V2, 4))
        state.level_encoding.set(LEVELS_ENCODING)
        state.has_separate_levels.set(1)
        levels = field(_DATA_V2, 5)
        f.finish_when((field(_DATA_V2, 6) + 1) > 1, Status.NESTED)
        f.finish_when((levels > state.compressed_bytes) | (levels > state.uncompressed_bytes), Status.SIZES)
        state.level_bytes.set(levels)
        state.compressed_bytes.advance(0 - levels)
        state.uncompressed_bytes.advance(0 - levels)
        with f.when(field(_DATA_V2, 7).equals(0)):  # not compressed, whatever the chunk's codec
            f.finish_when(state.compressed_bytes.differs(state.uncompressed_bytes), Status.SIZES)
            state.payload.set(position + levels)
            state.payload_end.set(position + levels + state.compressed_bytes)
    pages = (
        state.kind.equals(DATA_PAGE) | state.kind.equals(DICTIONARY_PAGE) | state.kind.equals(DATA_PAGE_V2)
    )
    f.finish_when(pages & (state.page_rows >= _MOST_BYTES), Status.HEADER)
    return f.build()


def _zigzag() -> str:
    """Build ``zigzag(address of the position, end)``: a signed number; see ``varint``."""
    f = Routine("zigzag", ("place", "end"))
    coded = f.call("varint", f["place"], f["end"])
    f.finish((coded >> 1) ^ (0 - (coded & 1)))
    return f.build()
