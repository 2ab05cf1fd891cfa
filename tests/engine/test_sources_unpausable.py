"""Sources that cannot be paused: all is taken while the sink stands still, in bounded memory, and nothing is left."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dataflare as flare
from dataflare.actors.local_runtime import LocalRuntime
from dataflare.kernels.errors import MemoryLimitError, RunError
from dataflare.sources.memory import BatchesSource
from dataflare.sources.unpausable import THREAD_NAME, UnpausableSource

SCHEMA = pa.schema({"n": pa.int64(), "other": pa.float64()})
ROWS = 8192
BATCHES = 100
LIMIT_BYTES = 4 << 20
PATIENCE_S = 60


def table(number: int) -> pa.Table:
    numbers = pa.array(range(number * ROWS, (number + 1) * ROWS), pa.int64())
    return pa.table({"n": numbers, "other": numbers.cast(pa.float64())}, SCHEMA)


class Sender:
    """Sends all its batches as fast as it is let; says when it has, or was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent = threading.Event()
        self._error = error

    def batches(self) -> Iterator[pa.Table]:
        try:
            yield from map(table, range(BATCHES))
            if self._error is not None:
                raise self._error
        finally:
            self.sent.set()

    async def coming(self) -> AsyncIterator[pa.Table]:
        for each in self.batches():
            await asyncio.sleep(0)
            yield each


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, open_files: Callable[[], int]) -> Iterator[None]:
    yield
    assert LocalRuntime.shared().threads.wait_until_busy_at_most(1, PATIENCE_S)  # the cluster's own
    assert not [thread for thread in threading.enumerate() if "unpausable" in thread.name]
    assert open_files() == 0
    assert list(tmp_path.iterdir()) == []  # files have no name


def run(pipeline: flare.Pipeline, folder: Path, **options: Any) -> flare.RunReport:
    return pipeline.run(memory_limit=LIMIT_BYTES, spill_dir=str(folder), device="cpu", **options)


@pytest.mark.parametrize("of", [Sender.batches, Sender.coming], ids=["iterator", "async iterator"])
def test_all_is_sent_while_the_sink_stands_still(
    of: Callable[[Sender], Any], tmp_path: Path, open_files: Callable[[], int]
) -> None:
    sender = Sender()
    got: list[int] = []
    open_then: list[int] = []

    def slow(batch: flare.SharedDataBatch) -> None:
        assert sender.sent.wait(PATIENCE_S)
        open_then.append(open_files())
        got.extend(batch.to_arrow()["m"].to_pylist())

    pipeline = flare.from_batches(of(sender), SCHEMA, pausable=False)
    report = run(pipeline.map(lambda r: {"m": r.n + 1}).write(slow), tmp_path)
    assert got == list(range(1, BATCHES * ROWS + 1))
    # Only the column that is read waits: 64 KiB of each batch.
    assert BATCHES * ROWS * 8 - LIMIT_BYTES < report.spilled_bytes < BATCHES * ROWS * 8 * 1.1
    assert "MiB spilled to disk: the source cannot be paused" in str(report)
    assert report.peak_host_bytes <= LIMIT_BYTES
    assert max(open_then) >= 1


def test_a_sink_that_keeps_up_needs_no_disk(tmp_path: Path) -> None:
    taken = threading.Semaphore(4)

    def paced() -> Iterator[pa.Table]:
        for number in range(BATCHES):
            assert taken.acquire(timeout=PATIENCE_S)
            yield table(number)

    rows = 0

    def keep_up(batch: flare.SharedDataBatch) -> None:
        nonlocal rows
        rows += batch.num_rows
        for _ in range((rows - batch.num_rows) // ROWS, rows // ROWS):
            taken.release()

    report = run(flare.from_batches(paced(), SCHEMA, pausable=False).write(keep_up), tmp_path)
    assert (rows, report.spilled_bytes) == (BATCHES * ROWS, 0)
    assert "spilled" not in str(report)


def test_an_error_of_the_source_is_raised_as_it_is_said(tmp_path: Path) -> None:
    sender = Sender(OSError("connection lost"))

    def slow(batch: flare.SharedDataBatch) -> None:
        assert sender.sent.wait(PATIENCE_S)

    with pytest.raises(RunError, match="connection lost") as caught:
        run(flare.from_batches(sender.batches(), SCHEMA, pausable=False).write(slow), tmp_path)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_of_the_sink_leaves_nothing(tmp_path: Path, open_files: Callable[[], int]) -> None:
    sender = Sender()

    def broken(batch: flare.SharedDataBatch) -> None:
        assert sender.sent.wait(PATIENCE_S)
        assert open_files() >= 1
        raise ZeroDivisionError("sink")

    with pytest.raises(RunError, match="sink"):
        run(flare.from_batches(sender.batches(), SCHEMA, pausable=False).write(broken), tmp_path)
    assert sender.sent.is_set()


def test_a_consumer_that_leaves_stops_the_source(tmp_path: Path) -> None:
    stopped = threading.Event()

    def endless() -> Iterator[pa.Table]:
        try:
            for number in itertools.count():
                yield table(number)
        finally:
            stopped.set()

    pipeline = flare.from_batches(endless(), SCHEMA, pausable=False)
    stream = pipeline.iter_batches(memory_limit=LIMIT_BYTES, spill_dir=str(tmp_path))
    first = next(stream)
    assert first.to_pylist()[0] == {"n": 0, "other": 0.0}
    stream.close()
    assert stopped.wait(PATIENCE_S)


def test_a_limit_takes_the_first_records(tmp_path: Path) -> None:
    sender = Sender()
    pipeline = flare.from_batches(sender.batches(), SCHEMA, pausable=False).limit(10_000)
    batch = pipeline.collect(memory_limit=LIMIT_BYTES, spill_dir=str(tmp_path))
    assert batch.to_arrow()["n"].to_pylist() == list(range(10_000))
    assert sender.sent.is_set()


@pytest.mark.parametrize("filtered", [False, True])
def test_a_limit_does_not_wait_for_a_source_that_has_nothing_to_give(
    filtered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataflare.actors.local_runtime.GRACE_S", PATIENCE_S)  # it would be noticed
    monkeypatch.setattr("dataflare.sources.unpausable._LEAVE_AFTER_S", 0.01)
    goes_on, closed = threading.Event(), threading.Event()

    def quiet() -> Iterator[pa.Table]:
        try:
            yield table(0)
            assert goes_on.wait(PATIENCE_S)
            yield table(1)
        finally:
            closed.set()

    pipeline = flare.from_batches(quiet(), SCHEMA, pausable=False)
    pipeline = pipeline.filter(lambda r: r.other >= 0.0).limit(3) if filtered else pipeline.limit(3)
    batch = pipeline.collect(memory_limit=LIMIT_BYTES, spill_dir=str(tmp_path))
    assert batch.to_arrow()["n"].to_pylist() == [0, 1, 2]
    assert not closed.is_set()
    goes_on.set()
    assert closed.wait(PATIENCE_S)
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(PATIENCE_S)


def test_a_disk_that_is_full_ends_the_run_by_name(tmp_path: Path) -> None:
    sender = Sender()

    def slow(batch: flare.SharedDataBatch) -> None:
        assert sender.sent.wait(PATIENCE_S)

    pipeline = flare.from_batches(sender.batches(), SCHEMA, pausable=False).write(slow)
    with pytest.raises(MemoryLimitError, match=r"exceed the spill_limit of 976.6 KiB\. Raise spill_limit"):
        run(pipeline, tmp_path, spill_limit="1MB")


def test_batches_that_differ_are_named(tmp_path: Path) -> None:
    batches = iter([table(0), table(1).rename_columns(["n", "x"])])
    with pytest.raises(flare.SchemaMismatchError, match="from_batches: batch 1: column 'other' is missing"):
        flare.from_batches(batches, SCHEMA, pausable=False).collect(spill_dir=str(tmp_path))


def test_what_waits_is_set_aside_and_explained() -> None:
    pipeline = flare.from_batches(Sender().batches(), SCHEMA, pausable=False).filter(lambda r: r.n > 1)
    shown = str(pipeline.explain(memory_limit="64MB"))
    assert "batches from generator: 2 columns, cannot be paused" in shown
    assert "1 × 15.3 MiB for reading batches from generator" in shown


def test_data_in_memory_can_always_be_paused() -> None:
    pipeline = flare.from_batches([table(0)], pausable=False)
    assert "paused" not in str(pipeline.explain())


def test_an_iterable_that_begins_anew_can_be_run_again() -> None:
    class Again:
        def __iter__(self) -> Iterator[pa.Table]:
            yield table(0)

    pipeline = flare.from_batches(Again(), SCHEMA, pausable=False)
    assert pipeline.count() == pipeline.count() == ROWS


def test_batches_are_not_longer_than_asked_for() -> None:
    source = UnpausableSource(BatchesSource.open(iter([table(0)]), SCHEMA))
    (part,) = source.with_projection(["n"]).partitions()
    rows = [batch.num_rows for batch in part.read(lambda: 3000)]
    assert rows == [2731, 2731, 2730]
