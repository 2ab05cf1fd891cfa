"""DestinationTask: puts batches in order, runs what must see them in order, and writes them to the sink.

The only task that touches the sink: opens it before anything is read, and commits or aborts it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dataflare.actors.messages import (
    Batch,
    Consumed,
    Continue,
    PartitionEnd,
    Start,
    TaskCounts,
)
from dataflare.actors.runtime import ActorRef
from dataflare.actors.task import TaskActor, TaskState, place
from dataflare.execute.chain import Chain
from dataflare.execute.meters import StageMeter
from dataflare.execute.reorder import ReorderBuffer
from dataflare.execute.sharing import KeptMemory
from dataflare.kernels.cpu.compacting import compacted

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.execute.prepare import PreparedRun

__all__ = ["DestinationTask"]

# Of the records that were read: where more are left, they are not copied out of their blocks. Copying half of
# lineitem's comments is a fifth of the CPU time of collecting them, which is for keeping to a limit only.
_MOST_COPIED_SHARE = 0.25
_MOST_COPIED_SHARE_IN_LIMIT = 0.8


class DestinationTask(TaskActor):
    """The end of a workflow."""

    kind = "destination"

    def __init__(self, name: str, run: PreparedRun, workflow: ActorRef[Any]) -> None:
        super().__init__(name, run, workflow)
        self._sink = run.plan.sink
        self._chain = Chain(())
        self._followers: list[ActorRef[Any]] = []
        self._order: ReorderBuffer[Batch] = ReorderBuffer(run.stream_count)
        self._due: deque[Batch] = deque()
        self._ended = 0
        self._expected = 0
        self._taken = 0
        self._rows_read = 0
        self._keeps = bool(getattr(self._sink, "keeps_batches", False))
        self._kept = KeptMemory()
        self._opened = False
        self._committed = False
        self._in_chain = False
        self._working_on: Batch | None = None
        self._meter = StageMeter(run.sink_name, "destination")
        self._handlers.update(
            {Batch: self._on_batch, PartitionEnd: self._on_end, Continue: self._on_continue}
        )

    def add_follower(self, task: ActorRef[Any]) -> None:
        """Start one more task as soon as the sink is open: nothing is read for one that cannot be written."""
        self._followers.append(task)

    def counts(self) -> TaskCounts:
        """Return the input records that are done, and what was written."""
        return TaskCounts(self._rows_read, self._meter.rows_out, self._taken)

    def meters(self) -> list[StageMeter]:
        """Return the meters of the steps that run here, and of writing."""
        return [*(stage.meter for stage in self._chain.stages), self._meter]

    def where(self) -> tuple[str, str]:
        """Return the step or the sink, and the batch."""
        stage = self._chain.current if self._in_chain else self._run.sink_name
        return stage, place(self._run, self._working_on)

    def process_batch(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Run the steps that see the stream in order, and write what is left. Nothing goes downstream."""
        passed: SharedDataBatch | None = batch
        if self._chain.stages:
            self._in_chain = True
            passed = self._chain.process(batch)
            self._in_chain = False
        if passed is None or passed.num_rows == 0:
            return None
        passed = passed.to_host()  # of a source on a device whose batches no step has touched
        meter = self._meter
        began_s = self._clock()
        if not self._opened:
            self._open(passed.schema)
        if self._keeps and not self._run.in_memory:
            passed = self._without_dropped(passed)
        self._sink.write(passed)
        self._run.memory.note_written()
        meter.write_s += self._clock() - began_s
        meter.batches += 1
        meter.rows_in += passed.num_rows
        meter.rows_out += passed.num_rows
        nbytes = passed.nbytes
        meter.bytes_out += nbytes
        if self._keeps and self._run.contiguous is None:
            added_bytes = self._kept.added_bytes(passed)
            self._run.memory.keep(
                added_bytes, None if self._working_on is None else self._working_on.admission
            )
        return None

    def _without_dropped(self, batch: SharedDataBatch) -> SharedDataBatch:
        """Return a batch that is kept without the memory of records that were read with it and dropped.

        One that has most of its records shares its block with others that are kept as well.
        """
        read = self._working_on
        in_limit = self._run.memory.allotment.is_given
        most = _MOST_COPIED_SHARE_IN_LIMIT if in_limit else _MOST_COPIED_SHARE
        if read is None or batch.num_rows > most * read.rows_read:
            return batch
        from dataflare.batch import SharedDataBatch

        columns = [compacted(column, to_pool=False) for column in batch._columns]
        return SharedDataBatch._from_columns(
            batch.schema, columns, batch.num_rows, watermark=batch.watermark, metadata=batch.metadata
        )

    def _on_start(self, message: Start) -> None:
        self._state = TaskState.RUNNING
        self._chain = self._run.make_tail_chain()
        schema = self._run.plan.schema
        if schema is not None:  # else the first batch tells
            self._open(schema)
        for task in self._followers:
            task.tell(message)
        self._go_on()

    def _open(self, schema: Any) -> None:
        self._opened = True  # before the attempt: a sink that failed to open is aborted as well
        self._sink.open(schema)

    def _on_batch(self, message: Batch) -> None:
        if self._state is not TaskState.RUNNING:
            return
        if self._run.ordered:
            self._due.extend(self._order.push(message.partition, message.number, message))
        else:
            self._due.append(message)
        self._go_on()

    def _on_end(self, message: PartitionEnd) -> None:
        if self._state is not TaskState.RUNNING:
            return
        self._ended += 1
        self._expected += message.batches
        if self._run.ordered:
            self._due.extend(self._order.end(message.partition, message.batches))
        self._go_on()

    def _on_continue(self, message: Continue) -> None:
        if self._state is TaskState.RUNNING:
            self._go_on()

    def _go_on(self) -> None:
        """Take the batches whose turn it is, and commit after the last one, unless a message wants attention.

        It may be that the run is cancelled: then a slow sink gets no further batch, and nothing is committed.
        """
        while True:
            done = self._is_done()
            if not done and not self._due:
                return
            if self.context.control_pending():
                self.context.ref.tell(Continue())
                return
            if done:
                self._commit()
                return
            self._take(self._due.popleft())

    def _take(self, message: Batch) -> None:
        self._working_on = message
        began_s = self._clock()
        if message.batch is not None:
            self.process_batch(message.batch)
        now_s = self._clock()
        self._taken += 1
        self._rows_read += message.rows_read
        work_s = message.work_s + now_s - began_s
        self._metrics.record_batch(message.rows_read, work_s)
        self._run.settle(message.admission, message.rows_read, work_s)
        message.origin.tell(Consumed(message.rows_read))
        self._tell_progress(now_s)
        self._working_on = None

    def _is_done(self) -> bool:
        if self._chain.exhausted:
            return True
        return self._ended == self._run.stream_count and self._taken == self._expected

    def _commit(self) -> None:
        began_s = self._clock()
        if not self._opened:
            import pyarrow as pa

            self._open(pa.schema([]))
        files = tuple(self._sink.commit())
        self._committed = True
        self._meter.write_s += self._clock() - began_s
        self._finish(files)

    def _clean_up(self) -> None:
        self._order.clear()
        self._due.clear()
        if self._opened and not self._committed:
            self._sink.abort()
