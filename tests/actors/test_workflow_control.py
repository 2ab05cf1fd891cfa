"""A workflow under way: pause, resume, cancel, interrupt, progress, and the cluster that knows about it."""

from __future__ import annotations

import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dataflare.actors.cluster import ClusterActor
from dataflare.actors.local_runtime import LocalRef, LocalRuntime
from dataflare.actors.runtime import ActorRef
from dataflare.actors.workflow import RunCompletion, WorkflowActor
from dataflare.batch import SharedDataBatch
from dataflare.control import AdaptiveBatchingConfig
from dataflare.execute.outcome import Outcome, WorkflowState
from dataflare.kernels.errors import OptionError, RunCancelledError, RunError
from dataflare.observe.progress import ProgressEvent

FIXED_100 = AdaptiveBatchingConfig(initial_size=100, strategy="fixed")


def deploy(runtime: LocalRuntime, run: Any) -> tuple[ActorRef[WorkflowActor], RunCompletion]:
    completion = RunCompletion()
    workflow = runtime.cluster.ask(ClusterActor.deploy_workflow, run, completion)
    return workflow, completion


def test_pausing_drains_and_resuming_goes_on(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    first = kit.Gate()
    source = kit.FakeSource([10_000])
    sink = kit.FakeSink(lambda batch: first.pass_through())
    run = kit.make_run(kit.make_plan(source, sink), batching=FIXED_100)
    workflow, completion = deploy(runtime, run)
    first.wait_for_visitors()
    workflow.ask(WorkflowActor.pause)
    assert workflow.ask(WorkflowActor.status).state is WorkflowState.PAUSED
    first.open()
    with sink.changed:  # what is inside drains
        assert sink.changed.wait_for(lambda: len(sink.numbers) >= source.rows_read, kit.PATIENCE_S)
    assert source.rows_read <= run.window * 100
    workflow.ask(WorkflowActor.resume)
    assert workflow.ask(WorkflowActor.status).state is not WorkflowState.PAUSED
    outcome = completion.wait(kit.PATIENCE_S)
    assert isinstance(outcome, Outcome)
    assert sink.numbers == list(range(10_000))


def test_only_a_running_workflow_can_be_paused(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    gate = kit.Gate()
    run = kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(lambda batch: gate.pass_through())))
    workflow, completion = deploy(runtime, run)
    gate.wait_for_visitors()
    with pytest.raises(RunError, match="cannot resume a workflow that is running; it must be paused"):
        workflow.ask(WorkflowActor.resume)
    with pytest.raises(RunError, match="cannot initialize"):
        workflow.ask(WorkflowActor.initialize)
    gate.open()
    completion.wait(kit.PATIENCE_S)


def test_cancelling_aborts_the_sink_and_says_why(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    gate = kit.Gate()
    source, sink = kit.FakeSource([100_000]), kit.FakeSink(lambda batch: gate.pass_through())
    run = kit.make_run(kit.make_plan(source, sink), batching=FIXED_100)
    workflow, completion = deploy(runtime, run)
    gate.wait_for_visitors()
    workflow.ask(WorkflowActor.cancel, "enough")
    gate.open()
    outcome = completion.wait(kit.PATIENCE_S)
    assert isinstance(outcome, Outcome)
    assert outcome.status == (WorkflowState.STOPPED, "enough")
    assert isinstance(outcome.error, RunCancelledError)
    assert "enough" in str(outcome.error)
    assert sink.calls == ["open", "abort"]
    assert source.open_partitions == 0
    assert run.memory.budget.reserved_bytes == 0


def test_a_paused_workflow_can_be_cancelled(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    gate = kit.Gate()
    sink = kit.FakeSink(lambda batch: gate.pass_through())
    workflow, completion = deploy(runtime, kit.make_run(kit.make_plan(kit.FakeSource([10_000]), sink)))
    gate.wait_for_visitors()
    workflow.ask(WorkflowActor.pause)
    workflow.ask(WorkflowActor.cancel)
    gate.open()
    outcome = completion.wait(kit.PATIENCE_S)
    assert isinstance(outcome, Outcome)
    assert outcome.status.state is WorkflowState.STOPPED


def test_the_cluster_stops_a_workflow_and_remembers_it(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    gate = kit.Gate()
    sink = kit.FakeSink(lambda batch: gate.pass_through())
    run = kit.make_run(kit.make_plan(kit.FakeSource([10_000]), sink))
    handle = runtime.deploy(run)
    gate.wait_for_visitors()
    cluster = runtime.cluster
    assert cluster.ask(ClusterActor.workflow_status, run.run_id).state is WorkflowState.RUNNING
    cluster.ask(ClusterActor.stop_workflow, run.run_id, "operator")
    gate.open()
    with pytest.raises(RunCancelledError, match="operator"):
        handle.wait()
    assert str(cluster.ask(ClusterActor.workflow_status, run.run_id)) == "stopped (operator)"
    assert run.run_id in cluster.ask(ClusterActor.workflows)
    cluster.ask(ClusterActor.stop_workflow, run.run_id)  # it has ended: nothing happens
    with pytest.raises(OptionError, match="there is no workflow 'run-x'"):
        cluster.ask(ClusterActor.workflow_status, "run-x")


def test_a_failed_workflow_keeps_its_reason(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def fail(batch: SharedDataBatch) -> SharedDataBatch:
        raise ValueError("bad luck")

    run = kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(), fail))
    with pytest.raises(RunError):
        runtime.deploy(run).wait()
    status = runtime.cluster.ask(ClusterActor.workflow_status, run.run_id)
    assert status.state is WorkflowState.FAILED
    assert "bad luck" in str(status)


class Interrupt(Exception):
    """What the test's signal handler raises, in the place of Ctrl-C."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupt])
def test_an_interrupt_stops_the_run_and_leaves_nothing(
    kit: SimpleNamespace, runtime: LocalRuntime, error: type[BaseException]
) -> None:
    begun = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    source = kit.FakeSource([100_000_000])

    def work(batch: SharedDataBatch) -> SharedDataBatch:
        if not begun.is_set():
            begun.set()
            signal.pthread_kill(main, signal.SIGINT)
        return batch

    def handler(number: int, frame: object) -> None:
        raise error

    sink = kit.FakeSink()
    run = kit.make_run(kit.make_plan(source, sink, work), batching=FIXED_100)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(error) as caught:
            runtime.deploy(run).wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert any("stopped the run; no output was written" in note for note in caught.value.__notes__)
    assert sink.calls == ["open", "abort"]
    assert source.open_partitions == 0
    assert source.rows_read < 100_000_000


@pytest.mark.parametrize("deployed", [False, True], ids=["before it is deployed", "just after"])
def test_an_interrupt_at_the_very_start_leaves_no_run_behind(
    kit: SimpleNamespace, runtime: LocalRuntime, monkeypatch: pytest.MonkeyPatch, deployed: bool
) -> None:
    post = LocalRef.post

    def interrupted(self: LocalRef[Any], method: Any, *args: Any, **kwargs: Any) -> None:
        if method is ClusterActor.deploy_workflow:
            if deployed:
                post(self, method, *args, **kwargs)
            raise KeyboardInterrupt
        post(self, method, *args, **kwargs)

    monkeypatch.setattr(LocalRef, "post", interrupted)
    source, sink = kit.FakeSource([100_000_000]), kit.FakeSink()
    run = kit.make_run(kit.make_plan(source, sink, lambda batch: batch), batching=FIXED_100)
    with pytest.raises(KeyboardInterrupt):
        runtime.run(run)
    workflows = runtime.cluster.ask(ClusterActor.workflows)
    assert {name: str(status.state.value) for name, status in workflows.items()} == (
        {run.run_id: "stopped"} if deployed else {}
    )
    assert sink.calls[-1:] == (["abort"] if "open" in sink.calls else [])
    assert source.open_partitions == 0


def test_progress_comes_and_ends_with_everything(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    events: list[ProgressEvent] = []
    now_s = [0.0]

    def clock() -> float:
        now_s[0] += 0.01
        return now_s[0]

    from dataflare.execute.prepare import prepare_run
    from dataflare.options import RunOptions

    plan = kit.make_plan(kit.FakeSource([5000]), kit.FakeSink(), lambda batch: batch)
    run = prepare_run(plan, RunOptions(workers=1, batching=FIXED_100), clock)
    runtime.deploy(run, (events.append,)).wait()
    assert [event.status for event in events][:2] == ["initialized", "running"]
    last = events[-1]
    assert (last.status, last.rows_read, last.rows_done, last.rows_out) == ("completed", 5000, 5000, 5000)
    assert last.fraction == 1.0
    assert last.rows_total == 5000
    assert any(0 < event.rows_done < 5000 for event in events)
    done = [event.rows_done for event in events]
    assert done == sorted(done)


def test_a_progress_callback_that_fails_fails_the_run(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def callback(event: ProgressEvent) -> None:
        raise LookupError("my mistake")

    sink = kit.FakeSink()
    with pytest.raises(RunError, match="LookupError: my mistake"):
        runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), sink)), (callback,)).wait()
    assert "commit" not in sink.calls


def test_statistics_tell_what_each_task_did(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    run = kit.make_run(kit.make_plan(kit.FakeSource([1000, 1000]), kit.FakeSink(), lambda batch: batch))
    outcome = runtime.deploy(run).wait()
    names = [stage.name for stage in outcome.stages]
    assert names[0] == "fake source"
    assert names[-1] == "fake sink"
    assert [stage.kind for stage in outcome.stages] == ["source", "processor", "destination"]
    assert [stage.tasks for stage in outcome.stages] == [2, 2, 1]
    assert all(stage.rows_in == stage.rows_out == 2000 for stage in outcome.stages)
    assert outcome.stages[0].bytes_in > 0


def test_nodes_register_beat_and_leave(runtime: LocalRuntime) -> None:
    now_s = [1.0]
    cluster = runtime.spawn(lambda: ClusterActor(lambda: now_s[0]), "other-cluster")
    cluster.ask(ClusterActor.register_node, "a", 4)
    now_s[0] = 2.0
    cluster.ask(ClusterActor.heartbeat, "a")
    (node,) = cluster.ask(ClusterActor.nodes)
    assert (node.node_id, node.cores, node.registered_s, node.last_heartbeat_s) == ("a", 4, 1.0, 2.0)
    with pytest.raises(OptionError, match="node 'b' is not registered"):
        cluster.ask(ClusterActor.heartbeat, "b")
    cluster.ask(ClusterActor.unregister_node, "a")
    assert cluster.ask(ClusterActor.nodes) == ()
    cluster.stop()


def test_a_cluster_without_nodes_deploys_nothing(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    cluster = runtime.spawn(ClusterActor, "empty-cluster")
    with pytest.raises(RunError, match="no node"):
        cluster.ask(
            ClusterActor.deploy_workflow, kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink()))
        )
    cluster.stop()


def test_a_cluster_that_was_ended_is_replaced(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    first = runtime.cluster
    first.stop()
    assert runtime.threads.wait_idle(kit.PATIENCE_S)
    assert not first.alive
    sink = kit.FakeSink()
    runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), sink))).wait()
    assert len(sink.numbers) == 1000
    with pytest.raises(RunError, match="has ended"):
        first.ask(ClusterActor.nodes)


def test_the_ten_first_of_many_runs_do_not_pile_up(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    cluster = runtime.cluster
    for _ in range(ClusterActor.KEPT_ENDED + 20):
        runtime.deploy(
            kit.make_run(kit.make_plan(kit.FakeSource([1], in_memory=True), kit.FakeSink()))
        ).wait()
    assert len(cluster.ask(ClusterActor.workflows)) <= ClusterActor.KEPT_ENDED + 1
