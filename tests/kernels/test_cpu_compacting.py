"""Copies of what a filter or a slice leaves: equal, small, and counted by the pool."""

from __future__ import annotations

import ctypes
import mmap
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.cpu.compacting import _copied_values, _copied_views, _long_text_bytes, compacted
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostPool
from dataflare.testing import arrays

ROWS = 200_000


def copied_views(column: HostColumn) -> HostColumn:
    text_bytes, _ = _long_text_bytes(column)
    return _copied_views(column, text_bytes)


@pytest.mark.parametrize(
    "array",
    [
        pa.array(range(ROWS)),
        pa.array([None if n % 3 else n for n in range(ROWS)], pa.int32()),
        pa.array([f"a text that is longer than a view {n}" for n in range(ROWS)], pa.string_view()),
        pa.array([f"text {n}" for n in range(ROWS)]),
        pa.array([b"some bytes, too long for a view"] * ROWS, pa.binary_view()),
        pa.array([[n] for n in range(ROWS)]),
    ],
    ids=lambda array: str(array.type),
)
@pytest.mark.parametrize("to_pool", [True, False])
def test_a_slice_that_is_kept_lets_go_of_the_rest(array: pa.Array, to_pool: bool) -> None:
    whole = HostColumn.from_arrow(array)
    part = whole.slice(150_000, 1_000)
    small = compacted(part, to_pool=to_pool)
    assert small.to_arrow().equals(array.slice(150_000, 1_000))
    assert small.held_bytes < whole.held_bytes / 50
    assert compacted(whole, to_pool=to_pool) is whole
    assert compacted(small, to_pool=to_pool) is small


def test_what_a_filter_leaves_of_a_block_is_copied_out_of_it() -> None:
    pool = HostPool()
    block = pool.acquire(8 * ROWS)
    left = HostColumn.from_block(pa.int64(), 10, 0, block.address, 0, block)
    assert left.held_bytes == block.capacity_bytes
    small = compacted(left, to_pool=False)
    del left, block
    assert pool.statistics().in_use_bytes == 0
    assert small.length == 10


@given(
    data=st.data(),
    data_type=st.sampled_from([pa.string_view(), pa.binary_view(), pa.int16(), pa.decimal128(30, 2)]),
    rows=st.integers(0, 80),
)
def test_a_copy_is_equal_at_any_offset(data: st.DataObject, data_type: pa.DataType, rows: int) -> None:
    array = data.draw(arrays(data_type, rows))
    start = data.draw(st.integers(0, rows))
    column = HostColumn.from_arrow(array).slice(start, rows - start)
    copy = (
        copied_views(column) if "view" in str(data_type) else _copied_values(column, data_type.bit_width // 8)
    )
    assert copy.to_arrow().equals(array.slice(start))
    copy.to_arrow().validate(full=True)


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page of memory")
@given(st.lists(st.integers(0, 200), max_size=20), st.integers(0, 3))
def test_nothing_beside_a_text_is_read(lengths: list[int], parts: int) -> None:
    """The texts end where the process may not read."""
    texts = [bytes([65 + place % 26]) * length for place, length in enumerate(lengths)]
    joined = b"".join(texts)
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    pages[mmap.PAGESIZE - len(joined) : mmap.PAGESIZE] = joined
    views, start = bytearray(), 0
    for text in texts:
        head = len(text).to_bytes(4, "little")
        if len(text) <= 12:
            views += head + text.ljust(12, b"\0")
        else:
            views += head + text[:4] + (parts).to_bytes(4, "little") + start.to_bytes(4, "little")
        start += len(text)
    page = pa.foreign_buffer(end - len(joined), len(joined), base=pages)
    buffers = [*[pa.py_buffer(b"other text")] * parts, page]
    array = pa.Array.from_buffers(pa.binary_view(), len(texts), [None, pa.py_buffer(bytes(views)), *buffers])
    assert copied_views(HostColumn.from_arrow(array)).to_arrow().to_pylist() == texts


def test_what_is_under_nulls_is_not_looked_at() -> None:
    junk = (10_000).to_bytes(4, "little") + b"junk" + (77).to_bytes(4, "little") + bytes(4)
    good = pa.array(["a text that is longer than a view"], pa.string_view()).buffers()
    views = junk + bytes(memoryview(good[1])) + junk
    array = pa.Array.from_buffers(pa.string_view(), 3, [pa.py_buffer(b"\2"), pa.py_buffer(views), good[2]])
    got = copied_views(HostColumn.from_arrow(array)).to_arrow()
    got.validate(full=True)
    assert got.to_pylist() == [None, "a text that is longer than a view", None]


@pytest.mark.parametrize("to_pool", [True, False])
def test_texts_that_views_share_are_not_copied_for_each(to_pool: bool) -> None:
    """One text of 8 KiB for 300,000 views would be 2.5 GB, more than a view's offset can count."""
    text = pa.py_buffer(b"t" * 8_192)
    view = (8_192).to_bytes(4, "little") + b"tttt" + bytes(8)
    pool = HostPool()
    block = pool.acquire(16 * 1_000_000)
    ctypes.memmove(block.address, view * 300_000, 16 * 300_000)
    column = HostColumn.from_buffers(
        pa.string_view(),
        300_000,
        [0, block.address, text.address],
        [0, 16 * 300_000, 8_192],
        0,
        (block, text),
    )
    del block
    small = compacted(column, to_pool=to_pool)
    del column
    assert pool.statistics().in_use_bytes in (0, 16 * 2**20)
    assert small.held_bytes <= 8 * 2**20
    assert small.to_arrow().slice(0, 1_000).cast(pa.string()).unique().to_pylist() == ["t" * 8_192]


def test_the_texts_of_rows_before_a_slice_are_not_copied() -> None:
    texts = ["x" * 1_000_000] * 7 + ["a text that is longer than a view", None] * 1_000
    column = HostColumn.from_arrow(pa.array(texts, pa.string_view())).slice(7, 2_000)
    small = copied_views(column)
    assert small.held_bytes < 200_000
    assert small.to_arrow().to_pylist() == texts[7:]


def test_of_shared_texts_only_their_own_block_is_kept() -> None:
    pool = HostPool()
    values, page = pool.acquire(16 * ROWS), pool.acquire(1_000)
    ctypes.memset(page.address, ord("t"), 1_000)
    view = (1_000).to_bytes(4, "little") + b"tttt" + (1).to_bytes(4, "little") + bytes(4)
    ctypes.memmove(values.address, view * 100, 16 * 100)
    addresses, sizes = [0, values.address, values.address, page.address], [0, 16 * 100, 0, 1_000]
    column = HostColumn.from_buffers(pa.string_view(), 100, addresses, sizes, 0, (values, page))
    page_bytes = page.capacity_bytes
    del values, page
    small = compacted(column, to_pool=True)
    del column
    assert pool.statistics().in_use_bytes == page_bytes
    assert small.to_arrow().cast(pa.string()).to_pylist() == ["t" * 1_000] * 100
