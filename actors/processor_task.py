"""ProcessorTask: runs the fused steps on the batches that sources send, and sends on what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dataflare.actors.messages import Batch, Ready, Start, TaskCounts
from dataflare.actors.runtime import ActorRef
from dataflare.actors.task import TaskActor, TaskState, place
from dataflare.execute.chain import Chain
from dataflare.execute.meters import StageMeter

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.execute.prepare import PreparedRun

__all__ = ["ProcessorTask"]


class ProcessorTask(TaskActor):
    """One worker: one batch at a time, on one core."""

    kind = "processor"

    SLOTS_A_SOURCE = 2
    """Batches that each source may have in the mailbox: one that is worked on, one that waits."""

    def __init__(self, name: str, run: PreparedRun, workflow: ActorRef[Any]) -> None:
        super().__init__(name, run, workflow)
        self._chain = Chain(())
        self._upstream: list[ActorRef[Any]] = []
        self._working_on: Batch | None = None
        self._batches = 0
        self._handlers[Batch] = self._on_batch

    def add_upstream(self, task: ActorRef[Any]) -> None:
        """Take batches from one more source; it is told of the room at the start."""
        self._upstream.append(task)

    def counts(self) -> TaskCounts:
        """Return what went in and out."""
        stages = self._chain.stages
        rows_in, rows_out = (stages[0].meter.rows_in, stages[-1].meter.rows_out) if stages else (0, 0)
        return TaskCounts(rows_in, rows_out, self._batches)

    def meters(self) -> list[StageMeter]:
        """Return the meters of the steps."""
        return [stage.meter for stage in self._chain.stages]

    def where(self) -> tuple[str, str]:
        """Return the step, and the batch it was given."""
        return self._chain.current, place(self._run, self._working_on)

    def process_batch(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Run the steps on one batch."""
        return self._chain.process(batch)

    def _on_start(self, message: Start) -> None:
        self._chain = self._run.make_worker_chain()
        self._state = TaskState.RUNNING
        room = Ready(self.context.ref)
        for source in self._upstream:
            for _ in range(self.SLOTS_A_SOURCE):
                source.tell(room)

    def _on_batch(self, message: Batch) -> None:
        if self._state is not TaskState.RUNNING or message.batch is None:
            return
        self._working_on = message
        began_s = self._clock()
        result = self.process_batch(message.batch)
        self._run.memory.note_computed(message.admission, result)
        work_s = self._clock() - began_s
        self._batches += 1
        self._metrics.record_batch(message.rows_read, work_s)
        self._working_on = None
        self._downstream[0].tell(message._replace(batch=result, work_s=message.work_s + work_s))
        message.origin.tell(Ready(self.context.ref))
