"""TaskActor: one task of a workflow, behind a mailbox; what sources, processors and destinations share.

Covers the life of a task, its failure, and its statistics. What each kind does with batches is in
``source_task``, ``processor_task`` and ``destination_task``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from dataflare.actors.messages import (
    Batch,
    Cancel,
    Start,
    TaskCounts,
    TaskFailed,
    TaskFinished,
    TaskProgress,
    TaskStopped,
    TaskSummary,
)
from dataflare.actors.runtime import Actor, ActorRef
from dataflare.control.batching import AdaptiveBatcher
from dataflare.control.metrics import BatchingMetrics
from dataflare.execute.meters import StageMeter

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.execute.prepare import PreparedRun

__all__ = ["TaskActor", "TaskState", "place"]


class TaskState(enum.Enum):
    """Where a task is in its life."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class TaskActor(Actor):
    """One task of a workflow: a source, a processor or a destination.

    Parameters
    ----------
    name
        Unique in the workflow.
    run
        What was decided about the run, and what its tasks share.
    workflow
        Whom to tell what becomes of the task.
    """

    kind: Literal["source", "processor", "destination"]

    PROGRESS_INTERVAL_S = 0.1

    def __init__(self, name: str, run: PreparedRun, workflow: ActorRef[Any]) -> None:
        self.name = name
        self._run = run
        self._workflow = workflow
        self._clock = run.clock
        self._state = TaskState.CREATED
        self._began_s = run.clock()
        self._next_progress_s = self._began_s + self.PROGRESS_INTERVAL_S
        self._downstream: list[ActorRef[Any]] = []
        self._metrics = BatchingMetrics(clock=run.clock)
        self._handlers: dict[type, Callable[[Any], None]] = {Start: self._begin, Cancel: self._on_cancel}

    @property
    def batcher(self) -> AdaptiveBatcher:
        """What steers the size of the batches of this run."""
        return self._run.batcher

    def status(self) -> TaskState:
        """Return where the task is in its life."""
        return self._state

    def statistics(self) -> BatchingMetrics:
        """Return what the batches of this task took."""
        return self._metrics

    def add_downstream(self, task: ActorRef[Any]) -> None:
        """Name the task that results go to: the destination, which one workflow has one of."""
        self._downstream.append(task)

    def process_batch(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Do to one batch what this task does, and return what goes downstream."""
        raise NotImplementedError

    def counts(self) -> TaskCounts:
        """Return what the task has done."""
        raise NotImplementedError

    def meters(self) -> list[StageMeter]:
        """Return the meters of the stages that run in this task."""
        raise NotImplementedError

    def receive(self, message: Any) -> None:
        """Handle one message. Whatever goes wrong, `KeyboardInterrupt` included, fails the workflow."""
        self._handlers[type(message)](message)

    def on_failure(self, error: BaseException) -> None:
        """Tell the workflow what failed and where; it cancels all tasks, this one included."""
        if self._state in (TaskState.FAILED, TaskState.STOPPED):
            return
        self._state = TaskState.FAILED
        stage, place = self.where()
        self._workflow.tell(TaskFailed(self.name, stage, place, error))

    def where(self) -> tuple[str, str]:
        """Return the stage and the place in the data that the task is at."""
        raise NotImplementedError

    def _begin(self, message: Start) -> None:
        if self._state is TaskState.CREATED:  # else it was cancelled while the sink was being opened
            self._on_start(message)

    def _on_start(self, message: Start) -> None:
        raise NotImplementedError

    def _on_cancel(self, message: Cancel) -> None:
        if self._state is TaskState.STOPPED:
            return
        self._state = TaskState.STOPPED
        try:
            self._clean_up()
        finally:
            self._workflow.tell(TaskStopped(self.name, self._summary()))

    def _finish(self, files: tuple[str, ...] = ()) -> None:
        self._state = TaskState.FINISHED
        self._workflow.tell(TaskFinished(self.name, self._summary(), files))

    def _summary(self) -> TaskSummary:
        return TaskSummary(self._clock() - self._began_s, self.counts(), self.meters())

    def _clean_up(self) -> None:
        """Let go of everything that the task holds."""

    def _tell_progress(self, now_s: float) -> None:
        if now_s >= self._next_progress_s:
            self._next_progress_s = now_s + self.PROGRESS_INTERVAL_S
            self._workflow.tell(TaskProgress(self.name, self.counts()))


def place(run: PreparedRun, message: Batch | None) -> str:
    """Name the batch of a message, for errors."""
    return run.place_of(message.partition, message.number) if message is not None else ""
