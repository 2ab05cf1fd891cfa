"""The messages that actors send each other, as named tuples.

Data travels from sources through processors to the destination; leave to send travels back. Calls of an
actor's methods (`ActorRef.ask` and `post`) need no message of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dataflare.actors.runtime import ActorRef
    from dataflare.batch import SharedDataBatch
    from dataflare.control.admission import Admission
    from dataflare.execute.meters import StageMeter

__all__ = [
    "DATA",
    "Batch",
    "Cancel",
    "Consumed",
    "PartitionEnd",
    "Pause",
    "Ready",
    "Resume",
    "Start",
    "TaskCounts",
    "TaskFailed",
    "TaskFinished",
    "TaskProgress",
    "TaskStopped",
    "TaskSummary",
    "Wake",
    "WorkflowChanged",
]


class Batch(NamedTuple):
    """Source → processor → destination: a batch on its way."""

    partition: int
    number: int
    """Its place in the partition."""
    batch: SharedDataBatch | None
    """None when the steps so far left nothing of it; it still counts in the order."""
    rows_read: int
    admission: Admission
    """Settled by whoever consumes the batch; the end of the run takes back the others."""
    origin: ActorRef[Any]
    """The source task that waits for it to be consumed."""
    work_s: float
    """Seconds of work spent on it so far, over all tasks."""


class PartitionEnd(NamedTuple):
    """Source → destination: a partition had so many batches."""

    partition: int
    batches: int


class Ready(NamedTuple):
    """Processor → source: there is room for one batch in its mailbox."""

    processor: ActorRef[Any]


class Consumed(NamedTuple):
    """Destination → source: one of its batches is done."""

    rows_read: int


class Start(NamedTuple):
    """Workflow → destination, and on to the others once the sink is open: begin."""


class Pause(NamedTuple):
    """Workflow → source: read no further; what is inside drains."""


class Resume(NamedTuple):
    """Workflow → source: read on."""


class Cancel(NamedTuple):
    """Workflow → task: drop everything, clean up, and answer `TaskStopped`."""


class Wake(NamedTuple):
    """Runtime → actor: the time asked for by `wake_after` is over."""


class TaskCounts(NamedTuple):
    """What a task has done: a source counts what it read, the destination what it consumed."""

    rows_in: int
    rows_out: int
    batches: int


class TaskProgress(NamedTuple):
    """Task → workflow, now and then: how far it is."""

    task: str
    counts: TaskCounts


class TaskSummary(NamedTuple):
    """What a task did in its life."""

    lifetime_s: float
    counts: TaskCounts
    meters: list[StageMeter]


class TaskFinished(NamedTuple):
    """Task → workflow: its work is complete, and it holds nothing any more."""

    task: str
    summary: TaskSummary
    files: tuple[str, ...] = ()


class TaskFailed(NamedTuple):
    """Task → workflow: it cannot go on."""

    task: str
    stage: str
    place: str
    """Partition and batch, as far as they are known."""
    error: BaseException


class TaskStopped(NamedTuple):
    """Task → workflow: it has cleaned up and does nothing any more."""

    task: str
    summary: TaskSummary


class WorkflowChanged(NamedTuple):
    """Workflow → cluster: its status is another one."""

    workflow_id: str
    status: str
    reason: str | None


DATA = (Batch, PartitionEnd)
"""Messages of the data lane of a mailbox; all others overtake them."""
