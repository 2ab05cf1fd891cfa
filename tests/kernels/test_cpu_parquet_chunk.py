"""The compiled Parquet decoder on pages made by hand, against plain NumPy; damaged ones, next to forbidden memory."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataflare.kernels.cpu import parquet_chunk
from dataflare.kernels.cpu.parquet_chunk import (
    ChunkEndError,
    ColumnDecoder,
    DamagedChunkError,
    RowGroupDecoder,
    TextColumnDecoder,
    TextTooLongError,
    ValueLayout,
)
from dataflare.kernels.cpu.parquet_state import STATE, Status
from dataflare.kernels.cpu.target import host_target

PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8


class Guarded:
    """Memory of some bytes that ends where the process may not read or write: a byte too far is a crash."""

    def __init__(self, size_bytes: int, content: bytes = b"") -> None:
        page = mmap.PAGESIZE
        pages = -(-size_bytes // page) * page
        self._mapping = mmap.mmap(-1, pages + page)
        self._view = (ctypes.c_char * (pages + page)).from_buffer(self._mapping)
        end = ctypes.addressof(self._view) + pages
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
        self.address = end - size_bytes
        self.size_bytes = size_bytes
        ctypes.memmove(self.address, content, len(content))

    def bytes(self) -> bytes:
        return ctypes.string_at(self.address, self.size_bytes)


# -- writing pages -------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def thrift(fields: dict[int, Any]) -> bytes:
    """Write a structure in the compact protocol: integers, flags, bytes and structures."""
    out, last = bytearray(), 0

    def head(kind: int) -> bytes:
        if number - last < 16:
            return bytes([number - last << 4 | kind])
        return bytes([kind]) + varint(number << 1)

    for number, value in fields.items():
        if isinstance(value, bool):
            out += head(1 if value else 2)
        elif isinstance(value, int):
            out += head(5) + varint(value << 1 ^ value >> 63)
        elif isinstance(value, bytes):
            out += head(8) + varint(len(value)) + value
        else:
            out += head(12) + thrift(value)
        last = number
    return bytes([*out, 0])


def packed(values: Sequence[int], width: int) -> bytes:
    bits = 0
    for place, value in enumerate(values):
        bits |= value << place * width
    return bits.to_bytes(len(values) * width // 8, "little")


def hybrid(runs: Sequence[tuple[str, list[int]]], width: int) -> bytes:
    """Write runs: ("same", a value so many times) or ("packed", whole groups of 8)."""
    out = bytearray()
    for kind, values in runs:
        if kind == "same":
            out += varint(len(values) << 1) + values[0].to_bytes((width + 7) // 8, "little")
        else:
            padded = values + [0] * (-len(values) % 8)
            out += varint(len(padded) // 8 << 1 | 1) + packed(padded, width)
    return bytes(out)


@st.composite
def runs(draw: st.DrawFn, width: int, limit: int | None = None) -> list[tuple[str, list[int]]]:
    """Runs of values; all packed ones but the last fill their groups."""
    most = min((1 << width) - 1, (limit or 1 << width) - 1)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    result: list[tuple[str, list[int]]] = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            result.append(("same", [int(random.integers(0, most + 1))] * draw(st.integers(1, 2_500))))
        else:
            count = 8 * draw(st.integers(1, 300))
            result.append(("packed", [int(value) for value in random.integers(0, most + 1, count)]))
    if result[-1][0] == "packed":
        del result[-1][1][len(result[-1][1]) - draw(st.integers(0, 7)) :]
    return result


def data_page(
    rows: int,
    encoding: int,
    values: bytes,
    levels: bytes | None = None,
    *,
    version: int = 1,
    codec: str | None = None,
    statistics: bool = False,
) -> bytes:
    extra: dict[int, Any] = {5 if version == 1 else 8: {1: b"max", 3: 5, 5: b"a longer maximum", 7: True}}
    if version == 1:
        content = (b"" if levels is None else len(levels).to_bytes(4, "little") + levels) + values
        body = _compressed(content, codec)
        header = {1: rows, 2: encoding, 3: RLE, 4: RLE} | (extra if statistics else {})
        return thrift({1: 0, 2: len(content), 3: len(body), 4: 12345, 5: header}) + body
    levels = levels or b""
    body = levels + _compressed(values, codec)
    header = {1: rows, 2: 0, 3: rows, 4: encoding, 5: len(levels), 6: 0, 7: codec is not None}
    header |= extra if statistics else {}
    return thrift({1: 3, 2: len(levels) + len(values), 3: len(body), 8: header}) + body


def dictionary_page(count: int, values: bytes, codec: str | None = None) -> bytes:
    body = _compressed(values, codec)
    return thrift({1: 2, 2: len(values), 3: len(body), 7: {1: count, 2: PLAIN, 3: False}}) + body


def _compressed(content: bytes, codec: str | None) -> bytes:
    return content if codec is None else pa.Codec(codec).compress(content, asbytes=True)


# -- reading them --------------------------------------------------------------------------------------------


@dataclass
class Decoded:
    values: bytes
    valid: list[bool]


def decode(
    chunk: bytes,
    rows: int,
    layout: ValueLayout,
    *,
    optional: bool = False,
    codec: str = "UNCOMPRESSED",
    steps: Sequence[int] = (),
) -> Decoded:
    """Decode a chunk that ends at forbidden memory to memory that ends at forbidden memory, in some steps."""
    column = ColumnDecoder(layout, optional=optional)
    decoder = RowGroupDecoder([column])
    column.begin(len(chunk), codec, _decompress, file=None, offset=0)
    memory = Guarded(len(chunk), chunk)
    column.state[STATE["position"]] = memory.address
    column.state[STATE["end"]] = memory.address + len(chunk)
    out = Guarded(rows * layout.result_bytes)
    bitmap = Guarded((rows + 7) // 8 + 8)
    column.want(out.address, bitmap.address)
    left = rows
    for step in [*steps, rows]:
        decoder.read(min(step, left))
        left -= min(step, left)
    column.check_end()
    valid = [True] * rows
    if optional:
        bits = np.unpackbits(np.frombuffer(bitmap.bytes(), np.uint8), bitorder="little")[:rows]
        valid = [bool(bit) for bit in bits]
        assert column.nulls == rows - sum(valid)
    return Decoded(out.bytes(), valid)


def _decompress(address: int, size_bytes: int, result_bytes: int) -> pa.Buffer:
    try:
        return pa.Codec("zstd").decompress(pa.foreign_buffer(address, size_bytes), result_bytes)
    except OSError as error:
        raise DamagedChunkError(str(error)) from error


def decode_texts(
    chunk: bytes,
    rows: int,
    data_type: pa.DataType,
    *,
    optional: bool = False,
    codec: str = "UNCOMPRESSED",
    steps: Sequence[int] = (),
) -> list[bytes | None]:
    """Decode a chunk of text that ends at forbidden memory, as `decode` does."""
    layout = ValueLayout.of_text("BYTE_ARRAY", data_type)
    assert layout is not None
    column = TextColumnDecoder(layout, optional=optional)
    decoder = RowGroupDecoder([column])
    column.begin(len(chunk), codec, _decompress, file=None, offset=0)
    memory = Guarded(len(chunk), chunk)
    column.state[STATE["position"]] = memory.address
    column.state[STATE["end"]] = memory.address + len(chunk)
    are_views = layout.result_bytes == 16
    out = Guarded(rows * 16 if are_views else (rows + 1) * layout.result_bytes)
    bitmap = Guarded((rows + 7) // 8 + 8)
    column.want(out.address if are_views else out.address + out.size_bytes - 4 * rows, bitmap.address)
    column.expect(0)
    left = rows
    for step in [*steps, rows]:
        decoder.read(min(step, left))
        column.check_dictionary()
        left -= min(step, left)
    column.check_end()
    texts = [ctypes.string_at(text.block.address, text.size_bytes) for text in column.take_buffers()]
    if are_views:
        values = [_viewed(out.bytes()[place : place + 16], texts) for place in range(0, 16 * rows, 16)]
    else:
        column.write_offsets(rows, out.address)
        offsets = np.frombuffer(out.bytes(), f"<i{layout.result_bytes}").tolist()
        (text,) = texts or [b""]
        assert offsets[-1] == len(text)
        values = [text[start:end] for start, end in pairwise(offsets)]
    if not optional:
        return list(values)
    bits = np.unpackbits(np.frombuffer(bitmap.bytes(), np.uint8), bitorder="little")[:rows]
    assert all(bit or not value for bit, value in zip(bits, values, strict=True))
    return [value if bit else None for bit, value in zip(bits, values, strict=True)]


def _viewed(view: bytes, texts: Sequence[bytes]) -> bytes:
    length = int.from_bytes(view[:4], "little")
    if length <= 12:
        assert not any(view[4 + length :])
        return view[4 : 4 + length]
    number, start = int.from_bytes(view[8:12], "little"), int.from_bytes(view[12:], "little")
    text = texts[number][start : start + length]
    assert len(text) == length
    assert text[:4] == view[4:8]
    return text


TEXTS = (pa.string_view(), pa.binary(), pa.large_string())
INT32 = ValueLayout.of("INT32", 0, pa.int32())
INT64 = ValueLayout.of("INT64", 0, pa.int64())
assert INT32 is not None
assert INT64 is not None


@given(
    st.integers(0, 32).flatmap(lambda width: st.tuples(st.just(width), runs(width, 5_000))),
    st.lists(st.integers(0, 3_000), max_size=4),
    st.sampled_from([1, 2]),
    st.sampled_from([None, "snappy", "zstd"]),
)
def test_indices_of_every_width_in_any_steps(
    drawn: tuple[int, list[tuple[str, list[int]]]], steps: list[int], version: int, codec: str | None
) -> None:
    width, chosen = drawn
    indices = [value for _, values in chosen for value in values]
    entries = np.random.default_rng(width).integers(-(2**62), 2**62, max(indices) + 1)
    page = data_page(
        len(indices), RLE_DICTIONARY, bytes([width]) + hybrid(chosen, width), version=version, codec=codec
    )
    chunk = dictionary_page(len(entries), entries.astype("<i8").tobytes(), codec) + page
    name = "UNCOMPRESSED" if codec is None else codec.upper()
    got = decode(chunk, len(indices), INT64, codec=name, steps=steps)
    assert np.array_equal(np.frombuffer(got.values, "<i8"), entries[indices])


def test_cpus_without_a_permutation_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = replace(host_target(), has_permute=False)
    monkeypatch.setattr(parquet_chunk, "_loaded", [parquet_chunk._load(narrow)])
    random = np.random.default_rng(0)
    for width in range(33):
        most = min(1 << width, 5_000)
        indices = [int(index) for index in random.integers(0, most, 2_003)]
        entries = random.integers(-(2**62), 2**62, most)
        body = bytes([width]) + hybrid([("same", [most - 1] * 9), ("packed", indices)], width)
        chunk = dictionary_page(most, entries.astype("<i8").tobytes()) + data_page(
            2_012, RLE_DICTIONARY, body
        )
        got = decode(chunk, 2_012, INT64, steps=[13, 1_000])
        assert np.array_equal(np.frombuffer(got.values, "<i8"), entries[[most - 1] * 9 + indices])


@given(st.integers(26, 32), st.integers(1, 40))
def test_wide_indices_are_not_cut_off(width: int, count: int) -> None:
    """The highest bit counts: an index beyond the dictionary is noticed, however wide it is."""
    body = bytes([width]) + hybrid([("packed", [0] * (count - 1) + [1 << width - 1])], width)
    chunk = dictionary_page(1, bytes(8)) + data_page(count, RLE_DICTIONARY, body)
    with pytest.raises(DamagedChunkError, match="that its dictionary does not have"):
        decode(chunk, count, INT64)


@given(
    st.lists(runs(1), min_size=1, max_size=3),
    st.lists(st.integers(0, 3_000), max_size=4),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from([None, "snappy", "zstd"]),
    st.sampled_from([("INT32", pa.int8()), ("INT32", pa.uint16()), ("INT32", pa.int32()), ("INT64", pa.int64()),
                     ("INT32", pa.decimal128(9)), ("INT64", pa.decimal128(18)), ("DOUBLE", pa.float64())]),
)  # fmt: skip
def test_nulls_in_any_steps_over_several_pages(
    pages: list[list[tuple[str, list[int]]]],
    steps: list[int],
    version: int,
    dictionary: bool,
    codec: str | None,
    kinds: tuple[str, pa.DataType],
) -> None:
    physical, data_type = kinds
    layout = ValueLayout.of(physical, 0, data_type)
    assert layout is not None
    stored = {"INT32": "<i4", "INT64": "<i8", "DOUBLE": "<f8"}[physical]
    random = np.random.default_rng(len(steps))
    entries = random.integers(-100, 100, 16).astype(stored)
    chunk, valid, expected = b"", [], []
    if dictionary:
        chunk += dictionary_page(16, entries.tobytes(), codec)
    for levels in pages:
        flags = [bool(value) for _, values in levels for value in values]
        indices = [int(index) for index in random.integers(0, 16, sum(flags))]
        values = entries[indices].tobytes()
        if dictionary:
            values = bytes([4]) + (hybrid([("packed", indices)], 4) if indices else b"")
        encoding = PLAIN_DICTIONARY if dictionary else PLAIN
        chunk += data_page(
            len(flags), encoding, values, hybrid(levels, 1), version=version, codec=codec, statistics=True
        )
        valid += flags
        expected += indices
    name = "UNCOMPRESSED" if codec is None else codec.upper()
    got = decode(chunk, len(valid), layout, optional=True, codec=name, steps=steps)
    assert got.valid == valid
    width = layout.result_bytes
    rows = [got.values[place : place + width] for place in range(0, len(got.values), width)]
    assert all(not any(row) for row, there in zip(rows, valid, strict=True) if not there)
    found = [row for row, there in zip(rows, valid, strict=True) if there]
    if data_type == pa.float64():
        assert b"".join(found) == entries[expected].tobytes()
    else:
        signed = not pa.types.is_unsigned_integer(data_type)
        numbers = [int.from_bytes(row, "little", signed=signed) for row in found]
        modulus = 0 if signed else 1 << 8 * width
        assert numbers == [
            int(entries[index]) % modulus if modulus else int(entries[index]) for index in expected
        ]


@given(st.integers(1, 16), st.integers(1, 60), st.booleans(), st.data())
def test_big_endian_decimals_of_every_length(
    length: int, count: int, dictionary: bool, data: st.DataObject
) -> None:
    layout = ValueLayout.of("FIXED_LEN_BYTE_ARRAY", length, pa.decimal128(38))
    assert layout is not None
    limit = min(1 << 8 * length - 1, 10**38)
    numbers = data.draw(st.lists(st.integers(-limit, limit - 1), min_size=count, max_size=count))
    values = b"".join(number.to_bytes(length, "big", signed=True) for number in numbers)
    chunk = data_page(count, PLAIN, values)
    if dictionary:
        chunk = dictionary_page(count, values)
        chunk += data_page(count, RLE_DICTIONARY, b"\x06" + hybrid([("packed", list(range(count)))], 6))
    got = decode(chunk, count, layout).values
    assert [
        int.from_bytes(got[place : place + 16], "little", signed=True) for place in range(0, len(got), 16)
    ] == numbers


def damaged(data: st.DataObject, chunk: bytes) -> bytes:
    """Draw other bytes in some places, the page headers' more often, and perhaps an early end."""
    changed = bytearray(chunk)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(changed), 80) - 1) | st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    return bytes(changed[: data.draw(st.integers(0, len(changed)) | st.just(len(changed)))])


def plain_texts(texts: Sequence[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


@given(
    pages=st.lists(st.tuples(runs(1), st.booleans()), min_size=1, max_size=3),
    entries=st.lists(st.text(max_size=40).map(str.encode), min_size=1, max_size=20),
    longest=st.sampled_from([0, 11, 12, 13, 32, 33, 5_000]),
    steps=st.lists(st.integers(0, 3_000), max_size=4),
    version=st.sampled_from([1, 2]),
    codec=st.sampled_from([None, "snappy", "zstd"]),
    optional=st.booleans(),
)
def test_texts_in_any_steps_over_pages_with_and_without_a_dictionary(
    pages: list[tuple[list[tuple[str, list[int]]], bool]],
    entries: list[bytes],
    longest: int,
    steps: list[int],
    version: int,
    codec: str | None,
    optional: bool,
) -> None:
    """A dictionary that has become too large is followed by plain pages in the same chunk."""
    entries = [*entries, b"x" * longest]
    random = np.random.default_rng(longest)
    chunk = dictionary_page(len(entries), plain_texts(entries), codec)
    expected: list[bytes | None] = []
    for levels, by_index in pages:
        flags = [bool(value) or not optional for _, values in levels for value in values]
        indices = [int(index) for index in random.integers(0, len(entries), sum(flags))]
        if len(indices) > 50:  # few of the longest
            indices = [0 if index == len(entries) - 1 and longest > 100 else index for index in indices]
        values = plain_texts([entries[index] for index in indices])
        if by_index:
            values = bytes([5]) + (hybrid([("packed", indices)], 5) if indices else b"")
        spaced = hybrid(levels, 1) if optional else None
        encoding = RLE_DICTIONARY if by_index else PLAIN
        chunk += data_page(len(flags), encoding, values, spaced, version=version, codec=codec)
        left = iter(indices)
        expected += [entries[next(left)] if flag else None for flag in flags]
    name = "UNCOMPRESSED" if codec is None else codec.upper()
    for data_type in TEXTS:
        got = decode_texts(chunk, len(expected), data_type, optional=optional, codec=name, steps=steps)
        assert got == expected


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (data_page(2, PLAIN, plain_texts([b"one"])), "fewer values than it says"),
        (data_page(2, PLAIN, plain_texts([b"one"]) + b"\3\0\0"), "fewer values than it says"),
        (data_page(2, PLAIN, plain_texts([b"one"]) + b"\3\0\0\0ab"), "fewer values than it says"),
        (data_page(2, PLAIN, b"\xff\xff\xff\xffabcd"), "fewer values than it says"),
        (data_page(2, PLAIN, plain_texts([b"a", b"b" * 20, b"c"])), "fewer values than the row group"),
        (dictionary_page(3, plain_texts([b"", b""])), "fewer values than it says"),
        (dictionary_page(2, plain_texts([b"one"]) + b"\4\0\0\0abc"), "fewer values than it says"),
        (dictionary_page(1, b"\0\0\0\x80" + b"a" * 30), "fewer values than it says"),
        (dictionary_page(1, plain_texts([b"a"])) * 2, "a second dictionary"),
        (dictionary_page(1, plain_texts([b"\xc3(" * 9])) + data_page(2, RLE_DICTIONARY, b"\0\4"), "not UTF-8"),
        (dictionary_page(1, plain_texts([b"\x80"])) + data_page(2, RLE_DICTIONARY, b"\0\4"), "not UTF-8"),
        (dictionary_page(1, plain_texts([b"a"])) + data_page(2, RLE_DICTIONARY, b"\1\4\1"), "does not have"),
    ],
)  # fmt: skip
def test_damaged_texts_are_named(chunk: bytes, reason: str) -> None:
    for data_type in (pa.string_view(), pa.string()):
        with pytest.raises(DamagedChunkError, match=reason):
            decode_texts(chunk, 3 if "row group" in reason else 2, data_type)


def test_texts_that_offsets_cannot_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_chunk, "_MOST_OFFSET", 1_000)
    texts = [b"x" * 100] * 20
    plain = data_page(20, PLAIN, plain_texts(texts))
    indexed = dictionary_page(1, plain_texts(texts[:1])) + data_page(20, RLE_DICTIONARY, b"\0\x28")
    for chunk in (plain, indexed):
        with pytest.raises(TextTooLongError):
            decode_texts(chunk, 20, pa.string())
        assert decode_texts(chunk, 20, pa.large_string()) == texts
    assert decode_texts(indexed, 20, pa.string_view()) == texts
    short = dictionary_page(2, plain_texts([b"a", b"b" * 600]))
    short += data_page(20, RLE_DICTIONARY, b"\1\x26\0\2\1")  # one long entry among short ones has room
    assert decode_texts(short, 20, pa.string()) == [b"a"] * 19 + [b"b" * 600]


def test_one_long_entry_does_not_make_all_of_them_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much room there has to be is asked by what the indices say, not by what they might."""
    served = []
    serve = TextColumnDecoder.serve
    monkeypatch.setattr(
        TextColumnDecoder, "serve", lambda self, status: (served.append(status), serve(self, status))
    )
    entries = [b"short text", b"a long text" * 1_000]
    indices = [("packed", [0] * 40_000), ("same", [1])]
    chunk = dictionary_page(2, plain_texts(entries))
    chunk += data_page(40_001, RLE_DICTIONARY, b"\1" + hybrid(indices, 1))
    assert decode_texts(chunk, 40_001, pa.string()) == [entries[0]] * 40_000 + [entries[1]]
    assert served.count(Status.HEAP) < 20


@given(
    runs(5, 20),
    runs(1),
    st.sampled_from([None, "snappy", "zstd"]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_damaged_texts_never_reach_other_memory(
    indices: list[tuple[str, list[int]]],
    levels: list[tuple[str, list[int]]],
    codec: str | None,
    optional: bool,
    dictionary: bool,
    data: st.DataObject,
) -> None:
    """As for numbers: values, or an error."""
    flags = [value for _, values in levels for value in values]
    rows = len(flags) if optional else sum(len(values) for _, values in indices)
    assume(rows)
    texts = [b"t" * (index % 40) for index in range(rows)]
    values, encoding, first = plain_texts(texts), PLAIN, b""
    if dictionary:
        values, encoding = bytes([5]) + hybrid(indices, 5), RLE_DICTIONARY
        first = dictionary_page(20, plain_texts([b"e" * (2 * index) for index in range(20)]), codec)
    spaced = hybrid(levels, 1) if optional else None
    chunk = damaged(data, first + data_page(rows, encoding, values, spaced, codec=codec))
    name = "UNCOMPRESSED" if codec is None else codec.upper()
    for data_type in TEXTS:
        try:
            decode_texts(chunk, rows, data_type, optional=optional, codec=name, steps=[rows // 3])
        except DamagedChunkError:
            continue


def test_a_page_of_nulls_only_may_have_no_values() -> None:
    levels = hybrid([("same", [0] * 100)], 1)
    for version in (1, 2):
        for codec in (None, "snappy"):
            chunk = dictionary_page(0, b"") + data_page(
                100, RLE_DICTIONARY, b"", levels, version=version, codec=codec
            )
            got = decode(chunk, 100, INT64, optional=True, codec=(codec or "uncompressed").upper())
            assert got.values == bytes(800)
            assert not any(got.valid)


def test_a_last_group_that_is_not_filled() -> None:
    """Some writers end a run of packed values where the values end."""
    body = b"\x05" + hybrid([("packed", [1, 2, 3, 0, 0, 0, 0, 0])], 5)[:3]
    chunk = dictionary_page(4, np.arange(4, dtype="<i8").tobytes()) + data_page(3, RLE_DICTIONARY, body)
    assert np.frombuffer(decode(chunk, 3, INT64).values, "<i8").tolist() == [1, 2, 3]


def test_pages_of_other_kinds_are_passed_over() -> None:
    index = thrift({1: 1, 2: 3, 3: 3, 6: {}}) + b"abc"
    later = thrift({1: 9, 2: 3, 3: 3, 30: {1: {1: {1: 5}}}}) + b"abc"
    page = data_page(2, PLAIN, np.array([7, 8], "<i4").tobytes())
    assert decode(index + later + page, 2, INT32).values == np.array([7, 8], "<i4").tobytes()


VALUES = np.arange(8, dtype="<i8").tobytes()


@pytest.mark.parametrize(
    ("chunk", "reason"),
    [
        (b"", "fewer values than the row group has rows"),
        (b"\xff" * 20, "page header is damaged"),
        (b"\x15\x00\x1c\x15\x1c\x03", "page header is damaged"),  # ends where a field's number should be
        (b"\x15\x00\x1c\x15\x1c\x07", "page header is damaged"),
        (b"\x15\x00\x18\x7f", "page header is damaged"),
        (thrift({2: 4, 3: 4}) + b"abcd", "fewer values than"),
        (thrift({1: 0, 2: 64, 3: 64, 5: {1: 8, 2: 0, 3: 3}}) + VALUES[:60], "reaches beyond the end"),
        (thrift({1: 0, 2: 63, 3: 64, 5: {1: 8, 2: 0, 3: 3}}) + VALUES, "sizes in a page header do not fit"),
        (thrift({1: 0, 2: -5, 3: 64, 5: {1: 8, 2: 0, 3: 3}}) + VALUES, "sizes in a page header do not fit"),
        (thrift({1: 0, 2: 64, 3: 64, 5: {1: -8, 2: 0, 3: 3}}) + VALUES, "page header is damaged"),
        (data_page(8, 5, VALUES), "an encoding that the column chunk does not name"),
        (data_page(8, PLAIN, VALUES[:-1]), "fewer values than it says"),
        (data_page(8, RLE_DICTIONARY, b"\x03\x11" + bytes(6)), "needs a dictionary"),
        (dictionary_page(9, VALUES) + data_page(8, PLAIN, VALUES), "fewer values than it says"),
        (dictionary_page(8, VALUES) + data_page(8, RLE_DICTIONARY, b"\x21\x03"), "fewer values than it says"),
        (dictionary_page(8, VALUES) + data_page(8, RLE_DICTIONARY, b"\x03"), "fewer values than it says"),
        (dictionary_page(8, VALUES) + data_page(8, RLE_DICTIONARY, b"\x04\x10\x08"), "does not have"),
        (data_page(9, PLAIN, VALUES + VALUES), "more values than the row group has rows"),
        (thrift({1: 3, 2: 64, 3: 64, 8: {1: 8, 2: 0, 3: 8, 4: 0, 5: 65, 6: 0}}) + VALUES, "do not fit"),
        (thrift({1: 3, 2: 64, 3: 64, 8: {1: 8, 2: 0, 3: 8, 4: 0, 5: 0, 6: 2}}) + VALUES, "repetition levels"),
    ],
)
def test_damage_is_named(chunk: bytes, reason: str) -> None:
    with pytest.raises(DamagedChunkError, match=reason):
        decode(chunk, 8, INT64)


def test_levels_that_are_damaged() -> None:
    for levels in (b"", b"\x10\x02", b"\x03", b"\x04\x01"):
        for version in (1, 2):
            with pytest.raises(DamagedChunkError, match="definition levels"):
                decode(data_page(8, PLAIN, VALUES, levels, version=version), 8, INT64, optional=True)


def test_snappy_that_claims_too_much_gets_no_memory() -> None:
    body = b"\xff\xff\xff\xff\x07\x00a"
    page = thrift({1: 0, 2: 2**31 - 1, 3: len(body), 5: {1: 8, 2: 0, 3: 3}}) + body
    with pytest.raises(DamagedChunkError, match="cannot be decompressed"):
        decode(page, 8, INT64, codec="SNAPPY")


def test_a_file_that_ends_early(tmp_path: Any) -> None:
    chunk = data_page(8, PLAIN, VALUES)
    path = tmp_path / "chunk"
    path.write_bytes(b"before" + chunk)
    for missing in (0, 1, len(chunk)):
        column = ColumnDecoder(INT64, optional=False)
        decoder = RowGroupDecoder([column])
        out = Guarded(64)
        with path.open("rb") as file:
            start = 6 + missing
            column.begin(len(chunk), "UNCOMPRESSED", _decompress, file=file.fileno(), offset=start)
            column.want(out.address, 0)
            if missing:
                with pytest.raises(ChunkEndError) as caught:
                    decoder.read(8)
                assert caught.value.offset == 6 + len(chunk)
                assert decoder.failed is column
            else:
                decoder.read(8)
                assert out.bytes() == VALUES


@given(
    runs(6, 40),
    runs(1),
    st.sampled_from([None, "snappy", "zstd"]),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_damaged_bytes_never_reach_other_memory(
    indices: list[tuple[str, list[int]]],
    levels: list[tuple[str, list[int]]],
    codec: str | None,
    version: int,
    optional: bool,
    dictionary: bool,
    data: st.DataObject,
) -> None:
    """Whatever the bytes are: values, or an error; the memory beside them is forbidden."""
    flags = [value for _, values in levels for value in values]
    rows = len(flags) if optional else sum(len(values) for _, values in indices)
    assume(rows)
    values, encoding, first = bytes(8 * rows), PLAIN, b""
    if dictionary:
        values, encoding = bytes([6]) + hybrid(indices, 6), RLE_DICTIONARY
        first = dictionary_page(40, bytes(320), codec)
    spaced = hybrid(levels, 1) if optional else None
    chunk = damaged(data, first + data_page(rows, encoding, values, spaced, version=version, codec=codec))
    name = "UNCOMPRESSED" if codec is None else codec.upper()
    for layout in (INT64, ValueLayout.of("FIXED_LEN_BYTE_ARRAY", 8, pa.decimal128(18))):
        assert layout is not None
        try:
            decode(chunk, rows, layout, optional=optional, codec=name, steps=[rows // 3])
        except DamagedChunkError:
            continue


@pytest.mark.parametrize(
    ("physical", "length", "data_type"),
    [
        ("BYTE_ARRAY", 0, pa.decimal128(5)),
        ("FIXED_LEN_BYTE_ARRAY", 17, pa.decimal128(38)),
        ("FIXED_LEN_BYTE_ARRAY", 4, pa.int32()),
        ("INT32", 0, pa.int64()),
        ("INT96", 0, pa.timestamp("ns")),
        ("BOOLEAN", 0, pa.bool_()),
    ],
)
def test_what_is_not_decoded(physical: str, length: int, data_type: pa.DataType) -> None:
    assert ValueLayout.of(physical, length, data_type) is None
