"""What the tests of the actors share: sources, sinks and functions that the test holds up and lets go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from dataflare.actors.local_runtime import LocalRuntime
from dataflare.batch import SharedDataBatch
from dataflare.execute.prepare import PreparedRun, prepare_run
from dataflare.options import RunOptions
from dataflare.plan.physical import LimitStep, MapBatchesStep, PhysicalPlan

PATIENCE_S = 30.0
"""How long a test waits for what must happen; it only matters when it does not happen."""

SCHEMA = pa.schema([pa.field("n", pa.int64())])


class Gate:
    """Something that is closed until the test opens it, and that tells who has come to it."""

    def __init__(self, *, open: bool = False) -> None:
        self._changed = threading.Condition()
        self._open = open
        self._waiting = 0

    def pass_through(self) -> None:
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._open, PATIENCE_S), "the gate never opened"
            self._waiting -= 1

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False

    def wait_for_visitors(self, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting >= count, PATIENCE_S), "nobody came"


class FakePartition:
    def __init__(self, source: FakeSource, number: int, first: int, rows: int) -> None:
        self.description = f"part-{number}"
        self.num_rows: int | None = rows
        self.size_bytes = 8 * rows
        self._source = source
        self._first = first
        self._rows = rows

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        source = self._source
        with source.lock:
            source.open_partitions += 1
        try:
            start = 0
            while start < self._rows:
                rows = min(batch_rows(), self._rows - start, source.block_rows)
                source.before_batch(self._first + start)
                values = range(self._first + start, self._first + start + rows)
                batch = pa.record_batch([pa.array(values, pa.int64())], schema=SCHEMA)
                with source.lock:
                    source.batches_read += 1
                    source.rows_read += rows
                    source.lock.notify_all()
                yield SharedDataBatch.from_arrow(batch)
                start += rows
        finally:
            with source.lock:
                source.open_partitions -= 1


class FakeSource:
    """Consecutive numbers in partitions; counts what was read."""

    def __init__(
        self,
        sizes: Sequence[int] = (1000,),
        *,
        in_memory: bool = False,
        is_local: bool = False,
        block_rows: int = 100,
        before_batch: Callable[[int], object] = lambda row: None,
    ) -> None:
        self.schema = SCHEMA
        self.description = "fake source"
        self.in_memory = in_memory
        self.is_local = is_local
        self.num_rows: int | None = sum(sizes)
        self.size_bytes = 8 * sum(sizes)
        self.sizes = list(sizes)
        self.block_rows = 1 << 62 if in_memory else block_rows
        self.before_batch = before_batch
        self.lock = threading.Condition()
        self.batches_read = 0
        self.rows_read = 0
        self.open_partitions = 0

    def partitions(self) -> list[FakePartition]:
        starts = [sum(self.sizes[:number]) for number in range(len(self.sizes))]
        return [
            FakePartition(self, number, first, rows)
            for number, (first, rows) in enumerate(zip(starts, self.sizes, strict=True))
        ]

    def with_projection(self, names: Sequence[str]) -> FakeSource:
        raise NotImplementedError

    def with_predicates(self, predicates: Sequence[object]) -> FakeSource:
        raise NotImplementedError


class FakeSink:
    """Keeps the numbers, and the order of what was called."""

    description = "fake sink"

    def __init__(
        self,
        before_write: Callable[[SharedDataBatch], object] = lambda batch: None,
        *,
        keeps_batches: bool = False,
        files: tuple[str, ...] = (),
        fail_open: BaseException | None = None,
        fail_commit: BaseException | None = None,
    ) -> None:
        self.keeps_batches = keeps_batches
        self.changed = threading.Condition()
        self.calls: list[str] = []
        self.numbers: list[int] = []
        self.batch_rows: list[int] = []
        self.schema: pa.Schema | None = None
        self._before_write = before_write
        self._files = files
        self._fail_open = fail_open
        self._fail_commit = fail_commit

    def open(self, schema: pa.Schema) -> None:
        self.calls.append("open")
        self.schema = schema
        if self._fail_open is not None:
            raise self._fail_open

    def write(self, batch: SharedDataBatch) -> None:
        self._before_write(batch)
        with self.changed:
            self.numbers += batch.to_arrow().column(0).to_pylist()
            self.batch_rows.append(batch.num_rows)
            self.changed.notify_all()

    def commit(self) -> tuple[str, ...]:
        self.calls.append("commit")
        if self._fail_commit is not None:
            raise self._fail_commit
        return self._files

    def abort(self) -> None:
        self.calls.append("abort")


Fn = Callable[[SharedDataBatch], Any]
Step = Fn | type | int | None


def make_plan(
    source: FakeSource,
    sink: FakeSink,
    *steps: Step,
    schema: pa.Schema | None = SCHEMA,
    ordered: bool = True,
) -> PhysicalPlan:
    """Make a plan of ``map_batches`` functions and limits (integers)."""
    physical = tuple(
        LimitStep(step) if isinstance(step, int) else MapBatchesStep(step, SCHEMA, schema)
        for step in steps
        if step is not None
    )
    return PhysicalPlan(source, physical, sink, schema, ordered)


def make_run(plan: PhysicalPlan, **options: Any) -> PreparedRun:
    options.setdefault("workers", 2)
    return prepare_run(plan, RunOptions(**options))


@pytest.fixture
def runtime() -> Iterator[LocalRuntime]:
    """A runtime of its own for each test; the test fails if a thread of it is left running."""
    local = LocalRuntime()
    yield local
    assert local.close(PATIENCE_S), "an actor's thread still runs"


@pytest.fixture
def kit() -> SimpleNamespace:
    """The classes above: test modules cannot import this one."""
    return SimpleNamespace(
        FakeSink=FakeSink,
        FakeSource=FakeSource,
        Gate=Gate,
        PATIENCE_S=PATIENCE_S,
        SCHEMA=SCHEMA,
        make_plan=make_plan,
        make_run=make_run,
    )
