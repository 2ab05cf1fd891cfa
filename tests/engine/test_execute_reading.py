"""Readers, reordering and chains: who reads what, in which order it comes out, what a limit cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.batch import SharedDataBatch
from dataflare.execute.chain import Chain, LimitStage, MapBatchesStage, SchemaLatch
from dataflare.execute.handover import Handover
from dataflare.execute.reading import (
    BatchRead,
    PartitionQueue,
    PartitionRead,
    PartitionReader,
    Reader,
    SharedReader,
)
from dataflare.execute.reorder import ReorderBuffer
from dataflare.plan.physical import MapBatchesStep


def handover(fn: Callable[[Any], Any]) -> Handover:
    return Handover("a function", MapBatchesStep(fn, None, None), "cpu")


class Partition:
    num_rows = None
    size_bytes = None

    def __init__(self, first: int, rows: int) -> None:
        self.description = f"rows {first} on"
        self._first = first
        self._rows = rows
        self.asked: list[int] = []
        self.closed = False

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        start = 0
        try:
            while start < self._rows:
                self.asked.append(batch_rows())
                stop = min(start + self.asked[-1], self._rows)
                yield batch(range(self._first + start, self._first + stop))
                start = stop
        finally:
            self.closed = True


def batch(values: Any) -> SharedDataBatch:
    return SharedDataBatch.from_arrow(pa.record_batch([pa.array(values, pa.int64())], names=["n"]))


def partitions(sizes: list[int]) -> list[Partition]:
    return [Partition(sum(sizes[:number]), rows) for number, rows in enumerate(sizes)]


def drain(reader: Reader, rows: int) -> list[BatchRead | PartitionRead]:
    return list(iter(lambda: reader.read(rows), None))


def values_of(reads: list[BatchRead | PartitionRead]) -> list[int]:
    return [
        value
        for read in reads
        if isinstance(read, BatchRead)
        for value in read.batch.to_arrow().column(0).to_pylist()
    ]


sizes = st.lists(st.integers(0, 300), max_size=6)


@given(sizes, st.integers(1, 400))
def test_a_partition_reader_numbers_batches_and_tells_the_ends(sizes: list[int], rows: int) -> None:
    reads = drain(PartitionReader(PartitionQueue(partitions(sizes))), rows)
    assert values_of(reads) == list(range(sum(sizes)))
    ends = [read for read in reads if isinstance(read, PartitionRead)]
    assert [end.partition for end in ends] == list(range(len(sizes)))
    assert [end.rows for end in ends] == sizes
    for end in ends:
        batches = [read for read in reads if isinstance(read, BatchRead) and read.partition == end.partition]
        assert [read.number for read in batches] == list(range(end.batches))
        assert all(read.batch.num_rows <= rows for read in batches)
        assert [read.row_offset for read in batches] == [
            sum(earlier.batch.num_rows for earlier in batches[:place]) for place in range(len(batches))
        ]


@given(sizes, st.integers(1, 400), st.integers(0, 900))
def test_a_limit_cuts_the_stream_exactly(sizes: list[int], rows: int, limit: int) -> None:
    parts = partitions(sizes)
    reads = drain(PartitionReader(PartitionQueue(parts, limit)), rows)
    assert values_of(reads) == list(range(min(limit, sum(sizes))))
    assert sum(isinstance(read, PartitionRead) for read in reads) == len(sizes)
    assert not any(part.asked for number, part in enumerate(parts) if sum(sizes[:number]) >= limit)


def test_two_readers_share_the_partitions() -> None:
    queue = PartitionQueue(partitions([100, 100, 100]))
    first, second = PartitionReader(queue), PartitionReader(queue)
    a, b = first.read(100), second.read(100)
    assert isinstance(a, BatchRead)
    assert isinstance(b, BatchRead)
    assert (a.partition, b.partition) == (0, 1)
    rest = drain(second, 100)
    assert [read.partition for read in rest] == [1, 2, 2]
    assert values_of(drain(first, 100)) == []


def test_closing_a_reader_closes_the_partition_and_ends_it() -> None:
    part = Partition(0, 100)
    reader = PartitionReader(PartitionQueue([part]))
    reader.read(10)
    assert reader.place == "batch 1 of rows 0 on"
    reader.close()
    assert part.closed
    assert reader.read(10) is None


@given(sizes, st.integers(1, 400), st.none() | st.integers(0, 900), st.booleans(), st.booleans())
def test_a_shared_reader_is_one_aligned_stream(
    sizes: list[int], rows: int, limit: int | None, known: bool, exact: bool
) -> None:
    total = sum(sizes) if limit is None else min(limit, sum(sizes))
    reader = SharedReader(
        partitions(sizes), tasks=2, limit_rows=limit, num_rows=total if known else None, exact=exact
    )
    reads = drain(reader, rows)
    assert values_of(reads) == list(range(total))
    *batches, end = reads
    assert end == PartitionRead(0, len(batches), total)
    assert [read.number for read in batches if isinstance(read, BatchRead)] == list(range(len(batches)))
    assert reader.read(rows) is None


def test_shared_batches_begin_at_multiples_of_64_and_shrink_towards_the_end() -> None:
    total = 3_000_001
    reader = SharedReader(partitions([total]), tasks=2, limit_rows=None, num_rows=total, exact=False)
    batches = [read for read in drain(reader, 1_000_000) if isinstance(read, BatchRead)]
    assert all(read.row_offset % 64 == 0 for read in batches)
    rows = [read.batch.num_rows for read in batches]
    assert rows[:-1] == sorted(rows[:-1], reverse=True)
    assert rows[0] <= total // 4
    assert rows[-1] <= SharedReader.LEAST_ROWS


def test_shared_batches_shrink_no_further_than_they_are_worth() -> None:
    total, worth_rows = 40 * SharedReader.LEAST_ROWS, 5 * SharedReader.LEAST_ROWS
    reader = SharedReader(
        partitions([total]),
        tasks=2,
        limit_rows=None,
        num_rows=total,
        exact=False,
        worth_rows=lambda: worth_rows,
    )
    rows = []
    while isinstance(read := reader.read(8 * SharedReader.LEAST_ROWS), BatchRead):
        rows.append(read.batch.num_rows)
    assert sum(rows) == total
    assert min(rows[:-1]) >= worth_rows // 2  # of a block, even parts
    assert len(rows) <= 9


def test_a_size_that_the_user_gave_is_kept_exactly() -> None:
    reader = SharedReader(partitions([2500]), tasks=2, limit_rows=None, num_rows=2500, exact=True)
    batches = [read for read in drain(reader, 1000) if isinstance(read, BatchRead)]
    assert [read.batch.num_rows for read in batches] == [1000, 1000, 500]


def test_a_closed_shared_reader_gives_nothing_to_anyone() -> None:
    reader = SharedReader(partitions([1000]), tasks=2, limit_rows=None, num_rows=1000, exact=False)
    assert reader.read(100) is not None
    reader.close()
    assert reader.read(100) is None


def test_a_shared_reader_that_fails_does_not_tell_the_other_tasks_that_this_is_the_end() -> None:
    def fail() -> int:
        raise OSError("the memory map went away")

    part = Partition(0, 1000)
    part.read = lambda batch_rows: Partition.read(part, fail)  # type: ignore[method-assign]
    reader = SharedReader([part], tasks=2, limit_rows=None, num_rows=1000, exact=False)
    with pytest.raises(OSError, match="went away"):
        reader.read(100)
    assert reader.read(100) is None


@given(st.lists(st.integers(0, 6), max_size=5), st.randoms())
def test_a_reorder_buffer_gives_every_item_once_and_in_order(counts: list[int], random: Any) -> None:
    events: list[tuple[int, int | None]] = []
    for partition, count in enumerate(counts):
        events += [(partition, number) for number in range(count)] + [(partition, None)]
    random.shuffle(events)
    buffer: ReorderBuffer[tuple[int, int]] = ReorderBuffer(len(counts))
    out: list[tuple[int, int]] = []
    for partition, number in events:
        if number is None:
            out += buffer.end(partition, counts[partition])
        else:
            out += buffer.push(partition, number, (partition, number))
    assert out == [(partition, number) for partition, count in enumerate(counts) for number in range(count)]
    assert buffer.finished
    assert buffer.waiting == 0


def test_a_reorder_buffer_gives_back_what_waits() -> None:
    buffer: ReorderBuffer[str] = ReorderBuffer(2)
    assert buffer.push(1, 0, "early") == []
    assert buffer.waiting == 1
    assert buffer.clear() == ["early"]
    assert buffer.waiting == 0


def test_a_chain_stops_where_nothing_is_left_and_names_the_step_that_failed() -> None:
    latch = SchemaLatch(None)

    def fail(values: SharedDataBatch) -> SharedDataBatch:
        raise ValueError

    chain = Chain([LimitStage(5), MapBatchesStage("second", fail, latch, handover(fail))])
    with pytest.raises(ValueError):
        chain.process(batch([1, 2]))
    assert chain.current == "second"
    assert not chain.exhausted
    chain = Chain([LimitStage(3)])
    first, second = chain.process(batch([1, 2])), chain.process(batch([3, 4]))
    assert first is not None
    assert second is not None
    assert second.to_pylist() == [{"n": 3}]
    assert chain.exhausted
    assert chain.process(batch([5])) is None


def test_a_function_is_not_called_with_nothing() -> None:
    called: list[int] = []

    def look(values: SharedDataBatch) -> SharedDataBatch:
        called.append(values.num_rows)
        return values

    stage = MapBatchesStage("look", look, SchemaLatch(None), handover(look))
    assert stage.process(batch([])) is None
    assert called == []


def test_a_watermark_survives_a_function_that_does_not_know_it() -> None:
    def copy(values: SharedDataBatch) -> pa.RecordBatch:
        return values.to_arrow()

    stage = MapBatchesStage("copy", copy, SchemaLatch(None), handover(copy))
    result = stage.process(batch([1]).with_watermark(17))
    assert result is not None
    assert result.watermark == 17
