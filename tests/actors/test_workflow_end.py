"""Ends that meet something else: a commit and a failure, a cancel and an open, stuck tasks, no threads, no credits."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import dataflare as flare
from dataflare.actors import local_runtime, threads
from dataflare.actors.cluster import ClusterActor
from dataflare.actors.local_runtime import LocalRuntime
from dataflare.actors.workflow import RunCompletion, WorkflowActor
from dataflare.batch import SharedDataBatch
from dataflare.control import AdaptiveBatchingConfig, CreditConfig, CreditMode
from dataflare.execute import outcome as outcomes
from dataflare.execute.outcome import Outcome, WorkflowState
from dataflare.kernels.errors import MemoryLimitError, RunCancelledError, RunError
from dataflare.observe.progress import ProgressEvent

FIXED_100 = AdaptiveBatchingConfig(initial_size=100, strategy="fixed")


def unchanged(batch: SharedDataBatch) -> SharedDataBatch:
    return batch


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the end of a run wait for no stuck task."""
    monkeypatch.setattr(local_runtime, "GRACE_S", 0.0)


def test_a_progress_callback_that_fails_at_the_end_fails_the_run_that_has_its_output(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    def callback(event: ProgressEvent) -> None:
        if event.status == "completed":
            raise LookupError("my mistake")

    sink = kit.FakeSink()
    run = kit.make_run(kit.make_plan(kit.FakeSource(), sink))
    with pytest.raises(RunError, match="LookupError: my mistake") as caught:
        runtime.deploy(run, (callback,)).wait()
    assert caught.value.__notes__ == ["The run itself had completed by then, and its output is there."]
    assert sink.calls == ["open", "commit"]
    assert str(runtime.cluster.ask(ClusterActor.workflow_status, run.run_id)) == "completed"


def test_a_progress_callback_that_fails_after_a_failure_does_not_hide_it(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    def fail(batch: SharedDataBatch) -> SharedDataBatch:
        raise ValueError("the first mistake")

    def callback(event: ProgressEvent) -> None:
        if event.status == "failed":
            raise LookupError("the second one")

    run = kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(), fail))
    with pytest.raises(RunError, match="the first mistake") as caught:
        runtime.deploy(run, (callback,)).wait()
    assert caught.value.__notes__ == ["Then the workflow failed: LookupError: the second one"]


@pytest.mark.usefixtures("no_grace")
def test_a_run_that_has_all_it_wants_does_not_wait_for_a_source_that_is_stuck(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    gate = kit.Gate()
    source = kit.FakeSource([1000], before_batch=lambda row: gate.pass_through() if row >= 300 else None)
    sink = kit.FakeSink()
    run = kit.make_run(kit.make_plan(source, sink, unchanged, 250), batching=FIXED_100, workers=1)
    outcome = runtime.deploy(run).wait()
    assert sink.numbers == list(range(250))
    assert outcome.status.state is WorkflowState.COMPLETED
    assert outcome.rows_out == 250
    gate.open()


def test_what_was_read_does_not_wait_for_what_is_yet_to_be_read(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    sink = kit.FakeSink()

    def wait_for_what_came_before(row: int) -> None:
        with sink.changed:
            assert sink.changed.wait_for(lambda: len(sink.numbers) >= row, kit.PATIENCE_S)

    source = kit.FakeSource([1000], before_batch=wait_for_what_came_before)
    runtime.deploy(kit.make_run(kit.make_plan(source, sink, unchanged), batching=FIXED_100, workers=1)).wait()
    assert sink.numbers == list(range(1000))


class SinkWithGate:
    """Comes to a gate in one of its calls."""

    description = "sink with a gate"

    def __init__(self, kit: SimpleNamespace, call: str) -> None:
        self.gate = kit.Gate()
        self.calls: list[str] = []
        self._call = call

    def _come_to(self, call: str) -> None:
        if call == self._call:
            self.gate.pass_through()
        self.calls.append(call)

    def open(self, schema: pa.Schema) -> None:
        self._come_to("open")

    def write(self, batch: SharedDataBatch) -> None:
        self._come_to("write")

    def commit(self) -> tuple[str, ...]:
        self._come_to("commit")
        return ("out",)

    def abort(self) -> None:
        self.calls.append("abort")


def deployed(runtime: LocalRuntime, run: Any) -> tuple[Any, RunCompletion]:
    completion = RunCompletion()
    return runtime.cluster.ask(ClusterActor.deploy_workflow, run, completion), completion


def test_a_run_that_is_cancelled_while_it_commits_has_completed(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    sink = SinkWithGate(kit, "commit")
    workflow, completion = deployed(runtime, kit.make_run(kit.make_plan(kit.FakeSource(), sink)))
    sink.gate.wait_for_visitors()
    workflow.ask(WorkflowActor.cancel)
    sink.gate.open()
    outcome = completion.wait(kit.PATIENCE_S)
    assert isinstance(outcome, Outcome)
    assert outcome.status == (WorkflowState.COMPLETED, None)
    assert outcome.error is None
    assert outcome.files == ("out",)
    assert sink.calls[-1] == "commit"


def test_a_failure_behind_a_limit_that_is_reached_comes_too_late(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    sink = SinkWithGate(kit, "commit")
    failed = threading.Event()

    def fail_behind_the_limit(batch: SharedDataBatch) -> SharedDataBatch:
        if batch.to_arrow()["n"][0].as_py() >= 200:
            sink.gate.wait_for_visitors()
            failed.set()
            raise ValueError("nobody asked for this batch")
        return batch

    plan = kit.make_plan(kit.FakeSource([1000]), sink, fail_behind_the_limit, 150)
    workflow, completion = deployed(runtime, kit.make_run(plan, batching=FIXED_100, workers=1))
    sink.gate.wait_for_visitors()
    assert failed.wait(kit.PATIENCE_S)
    workflow.ask(WorkflowActor.status)
    sink.gate.open()
    outcome = completion.wait(kit.PATIENCE_S)
    assert isinstance(outcome, Outcome)
    assert outcome.status == (WorkflowState.COMPLETED, None)


def test_a_run_that_is_cancelled_while_its_sink_opens_reads_nothing(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    built: list[object] = []

    class Model:
        def __init__(self) -> None:
            built.append(self)

        def __call__(self, batch: SharedDataBatch) -> SharedDataBatch:
            return batch

    source, sink = kit.FakeSource(), SinkWithGate(kit, "open")
    workflow, completion = deployed(runtime, kit.make_run(kit.make_plan(source, sink, Model)))
    sink.gate.wait_for_visitors()
    workflow.ask(WorkflowActor.cancel)
    sink.gate.open()
    outcome = completion.wait(kit.PATIENCE_S)
    assert isinstance(outcome, Outcome)
    assert outcome.status.state is WorkflowState.STOPPED
    assert runtime.threads.wait_until_busy_at_most(1, kit.PATIENCE_S)
    assert sink.calls == ["open", "abort"]
    assert source.batches_read == 0
    assert built == []


@pytest.mark.usefixtures("no_grace")
def test_a_write_that_returns_after_the_run_was_stopped_is_not_committed(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    sink = SinkWithGate(kit, "write")
    handle = runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource([100]), sink)))
    sink.gate.wait_for_visitors()
    handle.cancel("enough")
    with pytest.raises(RunCancelledError, match="enough") as caught:
        handle.wait()
    assert caught.value.__notes__ == [
        "The run ended without waiting any longer. These tasks have not returned from what they call: destination."
    ]
    sink.gate.open()
    assert runtime.threads.wait_until_busy_at_most(1, kit.PATIENCE_S)
    assert sink.calls == ["open", "write", "abort"]


@pytest.mark.usefixtures("no_grace")
def test_an_interrupt_does_not_wait_for_a_progress_callback_that_is_stuck(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    gate = kit.Gate()
    events: list[ProgressEvent] = []

    def callback(event: ProgressEvent) -> None:
        events.append(event)
        if len(events) == 1:
            signal.pthread_kill(main, signal.SIGINT)
            gate.pass_through()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink())), (callback,)).wait()
    finally:
        signal.signal(signal.SIGINT, before)
        gate.open()


def test_waiting_sees_what_nobody_tells_it_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_LOOK_UP_S", 0.001)
    looks = iter([False, False, False, True])
    changed = threading.Condition()
    with changed:
        outcomes.wait_interruptibly(changed, lambda: next(looks))
    assert next(looks, None) is None


@pytest.mark.parametrize("started", range(5))
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.usefixtures("no_grace")
def test_a_system_without_threads_fails_the_run_and_leaves_nothing(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, started: int, watched: bool
) -> None:
    start, left = threads._Worker.start, [started]

    def start_if_there_are_any(worker: Any) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(worker)

    runtime = LocalRuntime()
    source, sink = kit.FakeSource([100, 100]), kit.FakeSink()
    plan = kit.make_plan(source, sink, unchanged)
    subscribers = (lambda event: None,) if watched else ()
    with monkeypatch.context() as patched:
        patched.setattr(threads._Worker, "start", start_if_there_are_any)
        with pytest.raises(RunError, match="the system has no thread for .*can't start new thread"):
            runtime.run(kit.make_run(plan), subscribers)
        assert runtime.threads.wait_until_busy_at_most(1, kit.PATIENCE_S)
    assert "commit" not in sink.calls
    assert source.open_partitions == 0
    sink = kit.FakeSink()
    runtime.run(kit.make_run(kit.make_plan(kit.FakeSource([100]), sink, unchanged)))
    assert len(sink.numbers) == 100
    assert runtime.close(kit.PATIENCE_S)


def fixed_credits(refill_rate: float) -> CreditConfig:
    return CreditConfig(
        mode=CreditMode.FIXED, initial_credits=100, min_credits=1, max_credits=100, refill_rate=refill_rate
    )


def test_a_run_that_waits_for_credits_for_centuries_can_be_cancelled(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    sink = kit.FakeSink()
    run = kit.make_run(
        kit.make_plan(kit.FakeSource([1000]), sink), backpressure=fixed_credits(1e-300), batching=FIXED_100
    )
    handle = runtime.deploy(run)
    with sink.changed:
        assert sink.changed.wait_for(lambda: len(sink.numbers) == 100, kit.PATIENCE_S)
    handle.cancel("enough")
    with pytest.raises(RunCancelledError, match="enough"):
        handle.wait()


def test_a_record_that_never_fits_is_refused_however_many_credits_come(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    run = kit.make_run(
        kit.make_plan(kit.FakeSource([1000]), kit.FakeSink(), unchanged),
        backpressure=fixed_credits(1e6),
        batching=AdaptiveBatchingConfig(initial_size=1, min_size=1),
        memory_limit=100,
        workers=1,
    )
    run.memory.bytes_per_row = 1000.0  # as it is after a record that was larger than anybody could know
    with pytest.raises(MemoryLimitError, match="a single record takes about 1000 B"):
        runtime.deploy(run).wait()


def test_a_limit_behind_other_steps_lets_the_first_records_pass_though_no_order_is_asked_for(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    gate = kit.Gate()

    def hold_the_first(batch: SharedDataBatch) -> SharedDataBatch:
        if batch.to_arrow()["n"][0].as_py() == 0:
            gate.pass_through()
        else:
            gate.open()
        return batch

    sink = kit.FakeSink()
    plan = kit.make_plan(kit.FakeSource([1000]), sink, hold_the_first, 150, ordered=False)
    runtime.deploy(kit.make_run(plan, batching=FIXED_100)).wait()
    assert sink.numbers == list(range(150))


def test_a_schema_that_says_less_about_nulls_is_the_same_schema() -> None:
    numbers = flare.from_records([{"a": 1}, {"a": None}]).map(lambda r: {"a": r.a, "missing": r.a is None})
    nullable = pa.schema({"a": pa.int64(), "missing": pa.bool_()})
    assert not numbers.schema.equals(nullable)
    through = numbers.map_batches(lambda batch: batch.to_arrow(), nullable)
    assert through.collect().to_pylist() == numbers.collect().to_pylist()
