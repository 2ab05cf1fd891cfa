"""WorkflowActor: one run. Makes its tasks, watches over them, and ends it: completed, failed or stopped.

Covers the life of a workflow and supervision (the first failure stops all tasks). Data does not pass through
it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from dataflare.actors.destination_task import DestinationTask
from dataflare.actors.messages import (
    Cancel,
    Pause,
    Resume,
    Start,
    TaskCounts,
    TaskFailed,
    TaskFinished,
    TaskProgress,
    TaskStopped,
    TaskSummary,
    WorkflowChanged,
)
from dataflare.actors.processor_task import ProcessorTask
from dataflare.actors.runtime import Actor, ActorRef
from dataflare.actors.source_task import SourceTask
from dataflare.actors.task import TaskActor
from dataflare.execute.meters import stage_reports
from dataflare.execute.outcome import Outcome, WorkflowState, WorkflowStatus, wait_interruptibly
from dataflare.kernels.errors import DataFlareError, RunCancelledError, RunError
from dataflare.observe.progress import ProgressEvent

if TYPE_CHECKING:
    from dataflare.execute.prepare import PreparedRun

__all__ = ["RunCompletion", "WorkflowActor", "WorkflowStatistics"]

T = TypeVar("T", bound=TaskActor)

_YET_COMPLETE: Final = "The run itself had completed by then, and its output is there."


class WorkflowStatistics(NamedTuple):
    """How far a workflow is."""

    tasks: dict[str, TaskCounts]
    """By task, as last told."""
    rows_read: int
    rows_done: int
    rows_out: int


class RunCompletion:
    """Where whoever deployed a workflow waits for its end. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._end: Outcome | BaseException | None = None
        self._decided: Outcome | BaseException | None = None
        self._lingering: tuple[str, ...] = ()

    @property
    def lingering(self) -> tuple[str, ...]:
        """Tasks that have not stopped yet, once the end was decided."""
        return self._lingering

    def note_decided(self, end: Outcome | BaseException, tasks: tuple[str, ...]) -> None:
        """Tell how the run ends as soon as ``tasks`` have stopped."""
        with self._changed:
            self._decided = end
            self._lingering = tasks
            self._changed.notify_all()

    def set(self, end: Outcome | BaseException) -> None:
        """Tell how the workflow ended; an error where it could not even begin."""
        with self._changed:
            self._end = end
            self._lingering = ()
            self._changed.notify_all()

    def wait(self, grace_s: float) -> Outcome | BaseException:
        """Wait for the end, or, ``grace_s`` after it was decided, no longer for tasks that are stuck."""
        with self._changed:
            wait_interruptibly(self._changed, lambda: self._end is not None or self._decided is not None)
        end = self.wait_at_most(grace_s)
        assert end is not None
        return end

    def wait_at_most(self, seconds: float) -> Outcome | BaseException | None:
        """Wait for the end; after so long, return what was decided, None where nothing was."""
        with self._changed:
            self._changed.wait_for(lambda: self._end is not None, seconds)
            return self._decided if self._end is None else self._end


class WorkflowActor(Actor):
    """Owns one run.

    Parameters
    ----------
    run
        What was decided about it.
    cluster
        Whom to tell of changes; None when nobody wants to know.
    completion
        Where the end is awaited.
    """

    def __init__(
        self, run: PreparedRun, cluster: ActorRef[Any] | None, completion: RunCompletion | None = None
    ) -> None:
        self._run = run
        self._cluster = cluster
        self._completion = completion if completion is not None else RunCompletion()
        self._status = WorkflowStatus(WorkflowState.CREATED)
        self._tasks: dict[str, ActorRef[Any]] = {}
        self._sources: list[ActorRef[SourceTask]] = []
        self._processors: list[ActorRef[ProcessorTask]] = []
        self._destination: ActorRef[DestinationTask] | None = None
        self._subscribers: list[Callable[[ProgressEvent], object]] = []
        self._counts: dict[str, TaskCounts] = {}
        self._summaries: dict[str, TaskSummary] = {}
        self._ending: WorkflowStatus | None = None
        self._concluded = False
        self._error: BaseException | None = None
        self._failed_itself: RunError | None = None
        self._files: tuple[str, ...] = ()
        self._handlers: dict[type, Callable[[Any], None]] = {
            TaskProgress: self._on_task_progress,
            TaskFinished: self._on_task_finished,
            TaskFailed: self._on_task_failed,
            TaskStopped: self._on_task_stopped,
        }

    def initialize(self) -> None:
        """Make the tasks and connect them. created → initialized."""
        self._require("initialize", WorkflowState.CREATED)
        run, runtime, me = self._run, self.context.runtime, self.context.ref
        run.begin()
        destination = runtime.spawn(
            lambda: DestinationTask("destination", run, me), "destination", quick=run.sink_is_quick
        )
        self._destination = destination
        self._tasks["destination"] = destination
        for number in range(run.processor_tasks):
            self._processors.append(self._spawn(ProcessorTask, f"worker-{number}", destination, number))
        for number, name in enumerate(run.source_task_names):
            core = number if run.fused else None
            self._sources.append(self._spawn(SourceTask, name, destination, core))
        for processor in self._processors:
            for source in self._sources:
                processor.post(ProcessorTask.add_upstream, source)
        self._change(WorkflowStatus(WorkflowState.INITIALIZED))

    def start(self) -> None:
        """Open the sink, then read. initialized → running."""
        self._require("start", WorkflowState.INITIALIZED)
        assert self._destination is not None
        self._change(WorkflowStatus(WorkflowState.RUNNING))
        self._destination.tell(Start())

    def pause(self) -> None:
        """Read no further; what is inside drains. running → paused."""
        self._require("pause", WorkflowState.RUNNING)
        for source in self._sources:
            source.tell(Pause())
        self._change(WorkflowStatus(WorkflowState.PAUSED))

    def resume(self) -> None:
        """Read on. paused → running."""
        self._require("resume", WorkflowState.PAUSED)
        for source in self._sources:
            source.tell(Resume())
        self._change(WorkflowStatus(WorkflowState.RUNNING))

    def cancel(self, reason: str = "cancelled") -> None:
        """Stop everything and leave no output behind. → stopped, unless it has ended already."""
        if not self._status.state.ended and self._ending is None:
            error = RunCancelledError(f"The run was cancelled: {reason}. No output was written.")
            self._end(WorkflowStatus(WorkflowState.STOPPED, reason), error)

    def finalize(self) -> Outcome | None:
        """Return how the workflow ended, None while it goes on."""
        return self._outcome() if self._status.state.ended else None

    def status(self) -> WorkflowStatus:
        """Return the state, and the reason of an end that nobody wanted."""
        return self._status

    def statistics(self) -> WorkflowStatistics:
        """Return how far it is, as the tasks last told."""
        counts = self._counts
        done = counts.get("destination", TaskCounts(0, 0, 0))
        rows_read = sum(count.rows_in for name, count in counts.items() if name in self._source_names())
        return WorkflowStatistics(dict(counts), rows_read, done.rows_in, done.rows_out)

    def subscribe_progress(self, callback: Callable[[ProgressEvent], object]) -> None:
        """Call ``callback`` with a `ProgressEvent` now and then, and at the end.

        It runs on a thread of the workflow and should be quick. An error that it raises fails the run.
        """
        self._subscribers.append(callback)

    def receive(self, message: Any) -> None:
        """Handle a message of a task."""
        self._handlers[type(message)](message)

    def on_failure(self, error: BaseException) -> None:
        """End the run: the workflow itself, or a progress callback, has failed."""
        if self._ending is None:
            self._subscribers.clear()
            wrapped = self._failed_itself = _own_failure(error)
            self._end(WorkflowStatus(WorkflowState.FAILED, str(wrapped)), wrapped)

    def _spawn(
        self, kind: Callable[..., T], name: str, destination: ActorRef[DestinationTask], core: int | None
    ) -> ActorRef[T]:
        run, me = self._run, self.context.ref

        def make() -> T:
            task = kind(name, run, me)
            task.add_downstream(destination)
            return task

        task = self.context.runtime.spawn(make, name, core=core)
        destination.post(DestinationTask.add_follower, task)
        self._tasks[name] = task
        return task

    def _on_task_progress(self, message: TaskProgress) -> None:
        self._counts[message.task] = message.counts
        self._notify()

    def _on_task_finished(self, message: TaskFinished) -> None:
        self._book(message.task, message.summary)
        if message.task == "destination":
            # Its output is there and whole: what failed beside it, or was to stop it, came too late to matter.
            self._files = message.files
            if self._failed_itself is not None:
                self._failed_itself.add_note(_YET_COMPLETE)
            self._end(WorkflowStatus(WorkflowState.COMPLETED), self._failed_itself)
        else:
            self._conclude_if_done()

    def _on_task_failed(self, message: TaskFailed) -> None:
        if self._ending is None:
            error = _failure(message)
            self._end(WorkflowStatus(WorkflowState.FAILED, str(error)), error)

    def _on_task_stopped(self, message: TaskStopped) -> None:
        self._book(message.task, message.summary)
        self._conclude_if_done()

    def _book(self, task: str, summary: TaskSummary) -> None:
        self._summaries[task] = summary
        self._counts[task] = summary.counts

    def _end(self, status: WorkflowStatus, error: BaseException | None) -> None:
        self._ending = status
        self._error = error
        left = self._left()
        self._completion.note_decided(self._outcome() if error is None else error, tuple(left))
        if status.state is not WorkflowState.COMPLETED:
            interrupt = getattr(self._run.plan.sink, "interrupt", None)
            if interrupt is not None:  # a sink that waits for its consumer
                interrupt()
        for partition in self._run.partitions:
            stop_waiting = getattr(partition, "interrupt", None)
            if stop_waiting is not None:  # a source that waits for whoever feeds it
                stop_waiting()
        cancel = Cancel()
        for name in left:
            with contextlib.suppress(RunError):  # without a thread it has not begun, and never will
                self._tasks[name].tell(cancel)
        self._conclude_if_done()

    def _left(self) -> list[str]:
        return [name for name, task in self._tasks.items() if name not in self._summaries and task.alive]

    def _conclude_if_done(self) -> None:
        if self._ending is not None and not self._concluded and not self._left():
            self._conclude(self._ending)

    def _conclude(self, ending: WorkflowStatus) -> None:
        self._concluded = True
        self._run.end()
        if self._error is None:
            self._run.remember()
        self._change(ending)
        self._completion.set(self._outcome())
        for task in self._tasks.values():
            task.stop()
        self.context.ref.stop()

    def _outcome(self) -> Outcome:
        tasks = [self._summaries[name] for name in self._order() if name in self._summaries]
        stages = stage_reports((task.lifetime_s, task.meters) for task in tasks)
        meters = [meter for task in tasks for meter in task.meters]
        return Outcome(
            status=self._status if self._ending is None else self._ending,
            error=self._error,
            files=self._files,
            stages=stages,
            rows_in=sum(meter.rows_in for meter in meters if meter.kind == "source"),
            rows_out=sum(meter.rows_out for meter in meters if meter.kind == "destination"),
            batches=sum(meter.batches for meter in meters if meter.kind == "source"),
            rows_dropped_null_predicate=sum(meter.rows_dropped_null_predicate for meter in meters),
        )

    def _order(self) -> list[str]:
        """Return the tasks in the order in which data passes them."""
        sources, processors = self._source_names(), [task.name for task in self._processors]
        return [*sources, *processors, "destination"]

    def _source_names(self) -> list[str]:
        return [source.name for source in self._sources]

    def _change(self, status: WorkflowStatus) -> None:
        self._status = status
        if self._cluster is not None:
            self._cluster.tell(WorkflowChanged(self._run.run_id, status.state.value, status.reason))
        self._notify()

    def _notify(self) -> None:
        if not self._subscribers:
            return
        statistics = self.statistics()
        run = self._run
        event = ProgressEvent(
            run_id=run.run_id,
            status=self._status.state.value,
            rows_read=statistics.rows_read,
            rows_done=statistics.rows_done if run.contiguous is None else statistics.rows_read,
            rows_out=statistics.rows_out,
            rows_total=run.num_rows,
            batches=sum(self._counts[name].batches for name in self._source_names() if name in self._counts),
            elapsed_s=run.clock() - run.began_s,
        )
        try:
            for subscriber in self._subscribers:
                subscriber(event)
        except BaseException as error:
            self._subscribers.clear()
            if self._ending is None:
                raise
            self._note_late(_own_failure(error))

    def _note_late(self, failure: RunError) -> None:
        """Take in what a progress callback raised when the end was decided already: the end itself must go on."""
        if self._error is not None:
            self._error.add_note(f"Then {failure}")
        else:
            failure.add_note(_YET_COMPLETE)
            self._error = failure

    def _require(self, action: str, state: WorkflowState) -> None:
        if self._status.state is not state or self._ending is not None:
            now = self._ending if self._ending is not None else self._status
            raise RunError(f"cannot {action} a workflow that is {now}; it must be {state.value}.")


def _failure(message: TaskFailed) -> BaseException:
    """Return the error to raise: a clear one as it is, any other wrapped with the stage and the place."""
    error = message.error
    if isinstance(error, DataFlareError):
        return error
    place = f" at {message.place}" if message.place else ""
    wrapped = RunError(f"{message.stage} failed{place}: {_describe(error)}")
    wrapped.__cause__ = error
    return wrapped


def _own_failure(error: BaseException) -> RunError:
    """Return the error to raise for what the workflow itself, or a progress callback, let through."""
    if isinstance(error, RunError):
        return error
    wrapped = RunError(f"the workflow failed: {_describe(error)}")
    wrapped.__cause__ = error
    return wrapped


def _describe(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
