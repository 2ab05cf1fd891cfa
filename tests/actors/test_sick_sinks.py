"""A sink that stalls in the middle of a run, and memory that others fill: the source pauses, and all goes on after.

The clock is the test's: a stall of ten seconds takes none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dataflare.actors.local_runtime import LocalRuntime
from dataflare.batch import SharedDataBatch
from dataflare.control import AdaptiveBatchingConfig, CreditConfig, CreditMode, MemoryReading
from dataflare.execute.prepare import PreparedRun, prepare_run
from dataflare.kernels.errors import MemoryLimitError
from dataflare.options import RunOptions

FIXED_1000 = AdaptiveBatchingConfig(initial_size=1000, strategy="fixed")
BATCHES = 100
WELL_BATCHES = 20
BYTES_A_ROW = 40


class Clock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now_s += seconds


def unchanged(batch: SharedDataBatch) -> SharedDataBatch:
    return batch


def prepared(
    kit: SimpleNamespace,
    clock: Clock,
    before_write: Callable[[SharedDataBatch], object],
    credits_: CreditConfig | None = None,
) -> tuple[PreparedRun, SimpleNamespace, SimpleNamespace]:
    source = kit.FakeSource([1000 * BATCHES], block_rows=1000)
    sink = kit.FakeSink(before_write)
    options = RunOptions(
        workers=2, batching=FIXED_1000, backpressure=credits_, memory_limit=WELL_BATCHES * 1000 * BYTES_A_ROW
    )
    return prepare_run(kit.make_plan(source, sink, unchanged), options, clock), source, sink


CREDITS = {
    "the engine's own": None,
    "dynamic": CreditConfig(max_credits=5000, initial_credits=5000),
    "adaptive": CreditConfig(mode=CreditMode.ADAPTIVE, max_credits=5000, initial_credits=5000),
}


@pytest.mark.parametrize("credits_", CREDITS.values(), ids=CREDITS)
def test_a_sink_that_stalls_in_the_middle_pauses_the_source_and_costs_only_the_stall(
    kit: SimpleNamespace, runtime: LocalRuntime, credits_: CreditConfig | None
) -> None:
    clock, gate = Clock(), kit.Gate()
    written = 0

    def stall_once(batch: SharedDataBatch) -> None:
        nonlocal written
        if written == WELL_BATCHES:
            gate.pass_through()
            clock.advance(10.0)
        else:
            clock.advance(0.001)
        written += 1

    run, source, sink = prepared(kit, clock, stall_once, credits_)
    handle = runtime.deploy(run)
    gate.wait_for_visitors()
    ahead = run.window if credits_ is None else min(run.window, credits_.max_credits // 1000)
    with source.lock:
        read_ahead = WELL_BATCHES + ahead
        assert source.lock.wait_for(lambda: source.batches_read >= read_ahead, kit.PATIENCE_S)
    assert source.batches_read == read_ahead
    assert run.controller.in_flight == 1000 * ahead
    gate.open()
    handle.wait()
    assert sink.numbers == list(range(1000 * BATCHES))
    standing_bytes = run.memory.allotment.kept_by_allocators(sink).total_bytes
    assert run.memory.budget.peak_bytes <= run.window * 1000 * BYTES_A_ROW + standing_bytes
    assert run.memory.budget.snapshot().overdraft_bytes == 0
    assert sink.batch_rows[-5:-1] == [1000] * 4  # whole batches again; the last is what was left
    if credits_ is None:
        assert set(sink.batch_rows) == {1000}  # and never others


class Machine:
    """A monitor of memory that another process fills and empties."""

    device = "host"

    def __init__(self) -> None:
        self.used = 20
        self.last = self.read()

    def read(self) -> MemoryReading:
        self.last = MemoryReading(self.used, 100, "fake", 0.0)
        return self.last


def test_memory_that_others_fill_shrinks_what_is_on_its_way_to_the_minimum_until_it_is_free_again(
    kit: SimpleNamespace, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, machine = Clock(), Machine()
    monkeypatch.setattr("dataflare.execute.prepare.run_monitors", lambda device, clock: (machine,))
    least_in_flight: list[int] = []

    def watch(batch: SharedDataBatch) -> None:
        clock.advance(1.0)  # longer than monitors are left unread
        in_flight = run.controller.in_flight
        if machine.used == 20 and not least_in_flight and len(sink.batch_rows) == WELL_BATCHES:
            machine.used = 100
        elif machine.used == 100 and batch.num_rows == run.least_rows:
            least_in_flight.append(in_flight)
            if len(least_in_flight) == 5:
                machine.used = 20

    run, _, sink = prepared(kit, clock, watch)
    runtime.deploy(run).wait()
    assert sink.numbers == list(range(1000 * BATCHES))
    assert least_in_flight == [run.least_rows] * 5
    assert sink.batch_rows[:WELL_BATCHES] == [1000] * WELL_BATCHES
    assert sink.batch_rows.count(1000) > 2 * WELL_BATCHES
    assert run.controller.memory_pressure == 0.2


def test_a_record_that_never_fits_is_refused_under_a_rate_limit_too(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    # Time fills the bucket, but brings no bytes: nothing would ever change.
    rate_limit = CreditConfig(mode=CreditMode.FIXED, initial_credits=1000, max_credits=1000)
    run, _, _ = prepared(kit, Clock(), unchanged, rate_limit)
    run.memory.bytes_per_row = 1e9
    with pytest.raises(MemoryLimitError, match="a single record takes about"):
        runtime.deploy(run).wait()
