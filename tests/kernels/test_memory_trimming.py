"""`trimmed`: equal arrays over only the memory that their rows use, values not copied."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.memory.trimming import trimmed
from dataflare.testing import every_type, sample_array

BY_NAME = {str(data_type): data_type for data_type in every_type()}


def own_bytes(array):
    return sum(buffer.size for buffer in array.buffers() if buffer is not None)


@given(
    name=st.sampled_from(sorted(BY_NAME)),
    rows=st.integers(0, 80),
    start=st.integers(0, 80),
    length=st.integers(0, 80),
    nulls=st.booleans(),
)
def test_a_trimmed_array_is_equal_and_valid(name, rows, start, length, nulls):
    part = sample_array(BY_NAME[name], rows, nulls=nulls).slice(min(start, rows), length)
    result = trimmed(part)
    result.validate(full=True)
    assert result.type == part.type
    assert result.equals(part)
    assert result.null_count == part.null_count


@pytest.mark.parametrize("name", sorted(name for name in BY_NAME if not name.startswith("dense_union")))
def test_a_small_slice_of_a_long_column_has_small_buffers(name):
    whole = sample_array(BY_NAME[name], 5000)
    assert own_bytes(trimmed(whole.slice(2501, 10))) <= max(own_bytes(whole) / 50, 100 + (1 << 14))


@pytest.mark.parametrize("name", ["int64", "double", "fixed_size_binary[5]", "decimal128(38, 10)"])
def test_fixed_width_values_are_not_copied(name):
    part = sample_array(BY_NAME[name], 100).slice(17, 50)
    result = trimmed(part)
    width = part.type.bit_width // 8
    assert result.offset == 1, "bitmaps are cut at whole bytes"
    assert result.buffers()[1].address == part.buffers()[1].address + 16 * width
    assert result.buffers()[0].address == part.buffers()[0].address + 2


@pytest.mark.parametrize("name", ["string", "large_binary"])
def test_text_is_not_copied_only_offsets_of_a_slice_are(name):
    part = sample_array(BY_NAME[name], 100).slice(17, 50)
    result = trimmed(part)
    text, whole = result.buffers()[2], part.buffers()[2]
    assert whole.address < text.address < text.address + text.size <= whole.address + whole.size
    head = sample_array(BY_NAME[name], 100)
    assert trimmed(head).buffers()[1].address == head.buffers()[1].address, "from row 0, not even offsets"


def words_in_one_buffer(rows):
    """A string view column over the text of a plain one, as Parquet and IPC readers make it."""
    plain = pa.array([f"a word of some length, number {row:07}" for row in range(rows)])
    views = np.zeros((rows, 4), np.int32)
    views[:, 0] = 37
    views[:, 1] = np.frombuffer(b"a wo", np.int32)
    views[:, 3] = np.arange(rows) * 37
    buffers = [None, pa.py_buffer(views.data), plain.buffers()[2]]
    column = pa.Array.from_buffers(pa.string_view(), rows, buffers)
    assert column.to_pylist() == plain.to_pylist()
    return column, views


def test_views_share_text_where_rows_use_a_range_of_it():
    words, _ = words_in_one_buffer(10_000)
    part = words.slice(5000, 1000)
    result = trimmed(part)
    result.validate(full=True)
    assert result.equals(part)
    text, whole = result.buffers()[2], part.buffers()[2]
    assert whole.address < text.address < text.address + text.size <= whole.address + whole.size
    assert text.size == 1000 * 37


def test_views_scattered_over_much_text_are_copied():
    words, views = words_in_one_buffer(10_000)
    hundredth = np.ascontiguousarray(views[::100])
    sparse = pa.Array.from_buffers(
        pa.string_view(), 100, [None, pa.py_buffer(hundredth.data), words.buffers()[2]]
    )
    result = trimmed(sparse)
    assert result.equals(sparse)
    assert own_bytes(result) < 10_000


def test_a_slice_of_a_dictionary_column_keeps_its_values():
    column = pa.array([f"word {row % 10}" for row in range(1000)]).dictionary_encode()
    result = trimmed(column.slice(500, 9))
    assert result.equals(column.slice(500, 9))
    assert len(result.dictionary) == 10
    assert own_bytes(result) < 100
