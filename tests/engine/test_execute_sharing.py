"""Batches that share texts or a dictionary: they are counted together, and what fits is not refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflare as flare
from dataflare.batch import SharedDataBatch
from dataflare.execute.sharing import KeptMemory, ReadMemory
from dataflare.kernels.errors import MemoryLimitError

TEXTS = pa.array([f"category {number:03d} " * 100 for number in range(50)])
ROWS = 200_000


def views(rows: int, texts: pa.Array[Any]) -> pa.Array[Any]:
    """Return views of which many are of one and the same text, as Polars makes them."""
    buffers = texts.cast(pa.string_view()).buffers()
    taken = (buffers[1].to_pybytes() * (rows // len(texts) + 1))[: 16 * rows]
    return pa.Array.from_buffers(pa.string_view(), rows, [None, pa.py_buffer(taken), *buffers[2:]])


def batches(rows: int, kind: str) -> Iterator[SharedDataBatch]:
    if kind == "views":
        column = views(rows, TEXTS)
    else:
        column = pa.DictionaryArray.from_arrays(
            pa.array([number % len(TEXTS) for number in range(rows)], pa.int32()), TEXTS
        )
    whole = pa.record_batch({"n": pa.array(range(rows)), "s": column})
    for start in range(0, rows, 5_000):
        yield SharedDataBatch.from_arrow(whole.slice(start, 5_000))


@pytest.mark.parametrize(("kind", "index_bytes"), [("views", 16), ("dictionary", 4)])
def test_what_batches_share_counts_once(kind: str, index_bytes: int) -> None:
    kept = KeptMemory()
    added = [kept.added_bytes(batch) for batch in batches(ROWS, kind)]
    own_bytes = ROWS * (8 + index_bytes)
    text_bytes = sum(len(text) for text in TEXTS.to_pylist())
    assert own_bytes + text_bytes <= sum(added) < own_bytes + text_bytes + 1_000
    assert added[1] == 5_000 * (8 + index_bytes)


def test_a_dictionary_is_read_once_until_there_is_another() -> None:
    read = ReadMemory()
    first, second, *_ = batches(10_000, "dictionary")
    other = next(batches(10_000, "dictionary"))
    text_bytes = sum(len(text) for text in TEXTS.to_pylist())
    row_bytes, dictionary_bytes = read.sizes(first)
    assert (row_bytes, dictionary_bytes) == (5_000 * 12, first.nbytes - 5_000 * 12)
    assert text_bytes <= dictionary_bytes < text_bytes + 1_000
    assert read.sizes(second) == (5_000 * 12, 0)
    assert read.sizes(other.slice(0, 100)) == (100 * 12, 0)  # another column, the same texts
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 100, pa.int32()), pa.array(["short"]))
    numbers = first.slice(0, 100).to_arrow()["n"]
    changed = SharedDataBatch.from_arrow(pa.record_batch({"n": numbers, "s": values}))
    assert read.sizes(changed) == (100 * 12, changed.nbytes - 100 * 12)
    plain = SharedDataBatch.from_pydict({"n": [1, 2]})
    assert read.sizes(plain) == (plain.nbytes, 0)


def test_dictionaries_that_cannot_be_told_apart_count_each_time() -> None:
    values = pa.array([[1, 2], [3]])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), values)
    kept, read = KeptMemory(), ReadMemory()
    for _ in range(2):
        batch = SharedDataBatch.from_arrow(pa.record_batch({"s": column}))
        assert kept.added_bytes(batch) == batch.nbytes > 12
        assert read.sizes(batch) == (12, batch.nbytes - 12)


@pytest.mark.parametrize("kind", ["views", "dictionary"])
def test_a_result_whose_batches_share_memory_is_kept_where_it_fits(kind: str) -> None:
    schema = next(batches(5_000, kind)).schema
    pipeline = flare.from_batches(batches(ROWS, kind), schema=schema).filter(lambda r: r.n >= 0)
    table = pipeline.to_arrow(memory_limit="16MB", workers=1)
    assert table.num_rows == ROWS
    too_large = flare.from_batches(batches(8 * ROWS, kind), schema=schema).filter(lambda r: r.n >= 0)
    with pytest.raises(MemoryLimitError, match="The result does not fit"):
        too_large.to_arrow(memory_limit="16MB", workers=1)


@given(
    st.lists(st.text(max_size=40), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 30)), max_size=8),
)
def test_no_more_is_counted_than_batches_take_or_refer_to(
    texts: list[str], cuts: list[tuple[int, int]]
) -> None:
    column = pa.array(texts, pa.string_view())
    whole = SharedDataBatch.from_arrow(pa.record_batch({"s": column}))
    parts = [whole.slice(start, stop) for start, stop in cuts]
    kept = KeptMemory()
    added = [kept.added_bytes(part) for part in parts]
    held = sum(buffer.size for buffer in column.buffers()[2:] if buffer is not None)
    assert all(0 <= each <= part.nbytes for each, part in zip(added, parts, strict=True))
    assert sum(added) <= sum(16 * part.num_rows for part in parts) + held
    if parts:
        assert added[0] == parts[0].nbytes


ENTRIES = pa.array([f"entry number {number}" for number in range(1_000)])


def indexed(*dictionaries: pa.Array[Any]) -> list[SharedDataBatch]:
    """Return batches of 900 records, one with each of the dictionaries."""
    made = []
    for entries in dictionaries:
        indices = pa.array([number % len(entries) for number in range(900)], pa.int32())
        column = pa.DictionaryArray.from_arrays(indices, entries)
        made.append(SharedDataBatch.from_arrow(pa.record_batch({"n": pa.array(range(900)), "s": column})))
    return made


@pytest.mark.parametrize(
    "parts",
    [
        [(0, 1_000), (0, 10)],
        [(0, 10), (0, 1_000)],
        [(0, 500), (500, 500)],
        [(500, 500), (0, 500), (0, 1_000)],
    ],
)
def test_parts_of_one_dictionary_are_counted_once_and_never_taken_away(parts: list[tuple[int, int]]) -> None:
    kept = KeptMemory()
    sliced = [ENTRIES.slice(start, length) for start, length in parts]
    added = [kept.added_bytes(batch) - 900 * 12 for batch in indexed(*sliced)]
    assert all(each >= 0 for each in added)
    assert ENTRIES.nbytes <= sum(added) + 10 < ENTRIES.nbytes * len(parts)
    assert [kept.added_bytes(batch) for batch in indexed(*sliced)] == [900 * 12] * len(parts)


def test_a_larger_part_of_the_same_dictionary_is_read_anew() -> None:
    read = ReadMemory()
    begin, whole, end = indexed(ENTRIES.slice(0, 10), ENTRIES, ENTRIES.slice(500))
    assert read.sizes(begin) == (900 * 12, ENTRIES.slice(0, 10).nbytes)
    assert read.sizes(whole) == (900 * 12, ENTRIES.nbytes)
    assert read.sizes(end) == (900 * 12, 0)


def test_a_result_whose_batches_have_parts_of_one_dictionary_is_kept() -> None:
    made = [batch.to_arrow() for batch in indexed(ENTRIES, ENTRIES.slice(0, 10))]
    result = flare.from_arrow(pa.Table.from_batches(made)).filter(lambda r: r.n >= 0).collect()
    assert result.num_rows == 1_800


def test_views_whose_buffers_are_parts_of_one_are_never_taken_away() -> None:
    base = pa.py_buffer(bytes(range(65, 90)) * 400)
    kept, added = KeptMemory(), []
    for size_bytes in (5_000, 1_000, 8_000):
        texts = base.slice(0, size_bytes)
        taken = b"".join(
            struct.pack("<i4sii", 20, texts.to_pybytes()[place : place + 4], 0, place)
            for place in range(0, size_bytes, 20)
        )
        column = pa.Array.from_buffers(pa.string_view(), size_bytes // 20, [None, pa.py_buffer(taken), texts])
        batch = SharedDataBatch.from_arrow(pa.record_batch({"s": column}))
        added.append(kept.added_bytes(batch) - 16 * (size_bytes // 20))
    assert added == [5_000, 0, 3_000]
