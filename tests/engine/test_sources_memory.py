"""Data in memory and iterables of batches as a source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyarrow as pa
import pytest

from dataflare.batch import SharedDataBatch
from dataflare.kernels.errors import OptionError, ReadError, SchemaError, SchemaMismatchError
from dataflare.sources.base import BatchSource, SourcePartition
from dataflare.sources.memory import BatchesSource, MemorySource

TABLE = pa.table({"n": range(10), "s": [f"n{i}" for i in range(10)]})


def read(source: Any, batch_rows: int = 4) -> list[dict[str, Any]]:
    return [
        row
        for part in source.partitions()
        for batch in part.read(lambda: batch_rows)
        for row in batch.to_pylist()
    ]


def test_sources_and_partitions_fulfil_their_protocols() -> None:
    for source in (MemorySource.from_arrow(TABLE), BatchesSource.open(iter(TABLE.to_batches()))):
        assert isinstance(source, BatchSource)
        assert all(isinstance(part, SourcePartition) for part in source.partitions())


def test_nothing_is_copied() -> None:
    source = MemorySource.from_arrow(TABLE)
    address = TABLE.column("n").chunk(0).buffers()[1].address
    batches = [batch for part in source.partitions() for batch in part.read(lambda: 4)]
    assert [batch.num_rows for batch in batches] == [4, 3, 3]
    assert [batch["n"].offset for batch in batches] == [0, 4, 7]
    assert {batch["n"].buffers()[1].address for batch in batches} == {address}


def test_chunks_stay_chunks() -> None:
    source = MemorySource.from_arrow(pa.concat_tables([TABLE, TABLE]))
    assert [part.num_rows for part in source.partitions()] == [10, 10]
    assert source.num_rows == 20
    assert source.size_bytes == sum(part.size_bytes for part in source.partitions())
    assert source.in_memory


@pytest.mark.parametrize("kind", ["pandas", "polars", "reader", "batch", "shared"])
def test_anything_that_speaks_arrow(kind: str) -> None:
    data: Any = {
        "pandas": TABLE.to_pandas,
        "polars": lambda: pytest.importorskip("polars").from_arrow(TABLE),
        "reader": lambda: TABLE.to_reader(3),
        "batch": lambda: TABLE.to_batches()[0],
        "shared": lambda: SharedDataBatch.from_arrow(TABLE),
    }[kind]()
    assert read(MemorySource.from_arrow(data)) == TABLE.to_pylist()


def test_projection_to_some_and_to_no_columns() -> None:
    source = MemorySource.from_arrow(TABLE)
    assert read(source.with_projection(["s"])) == TABLE.select(["s"]).to_pylist()
    none = source.with_projection([])
    assert [batch.num_rows for part in none.partitions() for batch in part.read(lambda: 5)] == [5, 5]


def test_records_and_empty_data() -> None:
    assert read(MemorySource.from_records([{"a": 1}, {"a": None}])) == [{"a": 1}, {"a": None}]
    assert MemorySource.from_arrow(TABLE.slice(0, 0)).partitions() == ()
    assert MemorySource.from_arrow(TABLE.slice(0, 0)).schema == TABLE.schema
    with pytest.raises(SchemaError, match="from_arrow cannot read an int"):
        MemorySource.from_arrow(3)


def test_a_list_of_batches_keeps_marks_and_metadata() -> None:
    batch = SharedDataBatch.from_arrow(TABLE).with_watermark(7).with_metadata("origin", "here")
    source = BatchesSource.open([batch, TABLE])
    assert isinstance(source, MemorySource)
    first = next(iter(source.partitions()[0].read(lambda: 4)))
    assert (first.watermark, first.metadata["origin"]) == (7, "here")
    (none,) = source.with_projection([]).partitions()[0].read(lambda: 99)
    assert none.watermark == 7


def test_an_iterator_is_taken_as_it_is_asked_for_and_once() -> None:
    taken = []

    def batches() -> Iterator[Any]:
        for number, batch in enumerate(TABLE.to_batches(4)):
            taken.append(number)
            yield batch

    source = BatchesSource.open(batches())
    assert taken == [0]  # for its schema
    assert source.schema == TABLE.schema
    assert source.num_rows is None
    (part,) = source.partitions()
    reader = part.read(lambda: 2)
    next(reader)
    assert taken == [0]
    assert len(list(reader)) == 4
    assert taken == [0, 1, 2]
    with pytest.raises(ReadError, match="the generator was read already and cannot begin anew. Pass a list"):
        list(part.read(lambda: 2))


def test_with_a_schema_nothing_is_taken_early() -> None:
    def batches() -> Iterator[Any]:
        raise AssertionError("taken")
        yield

    assert BatchesSource.open(batches(), schema=TABLE.schema).schema == TABLE.schema


def test_an_iterable_that_begins_anew_can_be_read_again() -> None:
    class Again:
        def __iter__(self) -> Iterator[Any]:
            yield from TABLE.to_batches(3)

    source = BatchesSource.open(Again())
    assert read(source) == read(source) == TABLE.to_pylist()
    assert read(source.with_projection(["s"])) == TABLE.select(["s"]).to_pylist()


def test_a_generator_is_closed_when_reading_stops() -> None:
    closed = []

    def batches() -> Iterator[Any]:
        try:
            yield from TABLE.to_batches(3)
        finally:
            closed.append(True)

    (part,) = BatchesSource.open(batches()).partitions()
    reader: Any = part.read(lambda: 1)
    next(reader)
    reader.close()
    assert closed == [True]


async def _async_batches(closed: list[bool]) -> AsyncIterator[Any]:
    try:
        for batch in TABLE.to_batches(3):
            await asyncio.sleep(0)
            yield batch
    finally:
        closed.append(True)


def test_async_iterables() -> None:
    closed: list[bool] = []
    assert read(BatchesSource.open(_async_batches(closed))) == TABLE.to_pylist()
    assert closed == [True]


def test_async_iterables_under_a_running_loop_and_closed_early() -> None:
    closed: list[bool] = []

    async def main() -> dict[str, Any]:
        (part,) = BatchesSource.open(_async_batches(closed), schema=TABLE.schema).partitions()
        reader: Any = part.read(lambda: 1)
        first: dict[str, Any] = next(reader).to_pylist()[0]
        reader.close()
        return first

    assert asyncio.run(main()) == {"n": 0, "s": "n0"}
    assert closed == [True]


def test_batches_that_differ_are_named() -> None:
    other = TABLE.rename_columns(["n", "t"])
    message = "from_batches: batch 1: column 's' is missing"
    with pytest.raises(SchemaMismatchError, match=message):
        BatchesSource.open([TABLE, other])
    with pytest.raises(SchemaMismatchError, match=message):
        read(BatchesSource.open(iter([TABLE, other])))


def test_what_is_no_iterable_or_empty() -> None:
    with pytest.raises(OptionError, match="from_batches takes an iterable of batches, not int"):
        BatchesSource.open(3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="the list is empty; give schema="):
        BatchesSource.open([])
    with pytest.raises(OptionError, match="the list_iterator gave no batch: give schema="):
        BatchesSource.open(iter([]))
    assert read(BatchesSource.open(iter([]), schema=TABLE.schema)) == []
    assert read(BatchesSource.open([], schema=TABLE.schema)) == []
