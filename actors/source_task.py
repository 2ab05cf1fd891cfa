"""SourceTask: reads batches when it is let, and sends them on; computes them where reading costs nothing.

It may be a bounded number of batches ahead of what the destination has consumed, and asks the run's
``BackpressureController`` before each batch. Does not wait for anything but its mailbox.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dataflare.actors.messages import (
    Batch,
    Consumed,
    PartitionEnd,
    Pause,
    Ready,
    Resume,
    Start,
    TaskCounts,
    Wake,
)
from dataflare.actors.runtime import ActorRef
from dataflare.actors.task import TaskActor, TaskState
from dataflare.control.admission import Admission
from dataflare.execute.chain import Chain
from dataflare.execute.meters import StageMeter
from dataflare.execute.reading import BatchRead, PartitionRead
from dataflare.execute.sharing import ReadMemory

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.execute.prepare import PreparedRun
    from dataflare.kernels.backend import SharedWorker

__all__ = ["SourceTask"]


class SourceTask(TaskActor):
    """Reads partitions, or its share of a stream in memory.

    With ``fused`` it also runs the steps on each batch, and sends the results to the destination; otherwise
    it sends the batches to processors, each as soon as one of them has room.
    """

    kind = "source"

    MONITOR_INTERVAL_S = 0.25

    def __init__(self, name: str, run: PreparedRun, workflow: ActorRef[Any]) -> None:
        super().__init__(name, run, workflow)
        self._reader = run.make_reader()
        self._chain = Chain(())
        self._computes = False
        self._worker: SharedWorker | None = None
        self._meter = StageMeter(run.source_name, "source")
        self._window = run.window
        self._ready: deque[ActorRef[Any]] = deque()
        self._outbox: deque[Batch] = deque()
        self._exhausted = False
        self._in_chain = False
        self._read_number: int | None = None
        self._memory = ReadMemory()
        self._busy_since_s: float | None = None
        self._next_monitor_s = self._began_s + self.MONITOR_INTERVAL_S
        self._handlers.update(
            {
                Consumed: self._on_consumed,
                Ready: self._on_ready,
                Pause: self._on_pause,
                Resume: self._on_resume,
                Wake: self._on_wake,
            }
        )

    def counts(self) -> TaskCounts:
        """Return what was read."""
        meter = self._meter
        return TaskCounts(meter.rows_in, meter.rows_out, meter.batches)

    def meters(self) -> list[StageMeter]:
        """Return the meters of reading, and of the steps that run here."""
        return [self._meter, *(stage.meter for stage in self._chain.stages)]

    def where(self) -> tuple[str, str]:
        """Return the stage and the place in the source."""
        if self._worker is not None:
            return self._run.source_name, f"batch {self._meter.batches} of {self.name}"
        if self._in_chain:
            return self._chain.current, f"batch {self._read_number} of {self._reader.place}"
        return self._run.source_name, self._reader.place

    def process_batch(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Run the steps that are fused into this task."""
        self._in_chain = True
        result = self._chain.process(batch)
        self._in_chain = False
        return result

    def _on_start(self, message: Start) -> None:
        if self._run.fused:
            self._chain = self._run.make_worker_chain()
            self._computes = bool(self._chain.stages)
        if self._run.contiguous is not None:
            self._worker = self._run.contiguous.worker()
        self._state = TaskState.RUNNING
        self._pump()

    def _on_consumed(self, message: Consumed) -> None:
        self._window += 1
        self._pump()

    def _on_ready(self, message: Ready) -> None:
        self._ready.append(message.processor)
        self._pump()

    def _on_pause(self, message: Pause) -> None:
        if self._state is TaskState.RUNNING:
            self._state = TaskState.PAUSED

    def _on_resume(self, message: Resume) -> None:
        if self._state is TaskState.PAUSED:
            self._state = TaskState.RUNNING
            self._busy_since_s = None
            self._pump()

    def _on_wake(self, message: Wake) -> None:
        self._pump()

    def _clean_up(self) -> None:
        self._outbox.clear()
        self._reader.close()

    def _pump(self) -> None:
        """Go on until a message wants attention, or nothing can be done before one comes."""
        control_pending = self.context.control_pending
        while True:
            while self._outbox and self._ready:
                self._ready.popleft().tell(self._outbox.popleft())
            if self._state is not TaskState.RUNNING or control_pending():
                return
            if self._exhausted:
                if not self._outbox:
                    self._finish()
                return
            # Reading may take long: nothing that was read already may wait for it.
            admission = self._admit() if self._window > 0 and not self._outbox else None
            if admission is None:
                self._busy_since_s = None
                return
            if self._worker is not None:
                self._work(self._worker, admission)
            else:
                self._read(admission)

    def _admit(self) -> Admission | None:
        run = self._run
        now_s = self._clock()
        if now_s >= self._next_monitor_s:
            self._next_monitor_s = now_s + self.MONITOR_INTERVAL_S
            run.controller.poll_monitors()
        self._tell_progress(now_s)
        alone = self._window == run.window
        admission = run.admit(self.name, alone=alone)
        if admission is None:
            wait_s = run.seconds_until_room(self.name, alone=alone)
            if wait_s is not None:  # no message will say that there is
                self.context.wake_after(wait_s)
            elif alone:
                run.refuse_record(self.name)
        return admission

    def _read(self, admission: Admission) -> None:
        run = self._run
        began_s = self._clock()
        read = self._reader.read(admission.rows)
        if not isinstance(read, BatchRead):
            run.withdraw(admission)
            self._meter.read_s += self._clock() - began_s
            self._end(read)
            return
        partition, number, batch, _ = read
        rows = batch.num_rows
        admission.shrink(rows)
        self._window -= 1
        self._read_number = number
        now_s = self._clock()
        meter = self._meter
        meter.batches += 1
        meter.rows_in += rows
        meter.rows_out += rows
        meter.read_s += now_s - began_s
        self._metrics.record_batch(rows, now_s - began_s)
        if not run.in_memory:
            nbytes, dictionary_bytes = self._memory.sizes(batch)
            meter.bytes_in += nbytes + dictionary_bytes
            run.note_read(admission, rows, nbytes, dictionary_bytes)
        result: SharedDataBatch | None = batch
        if self._computes:
            result = self.process_batch(batch)
            run.memory.note_computed(admission, result)
            now_s = self._clock()
        # What a batch costs is all the time since the one before, messages included, unless the task waited.
        work_s = now_s - (began_s if self._busy_since_s is None else self._busy_since_s)
        self._busy_since_s = now_s
        message = Batch(partition, number, result, rows, admission, self.context.ref, work_s)
        if run.processor_tasks:
            self._outbox.append(message)
        else:
            self._downstream[0].tell(message)

    def _work(self, worker: SharedWorker, admission: Admission) -> None:
        """Work on the next records of the one output that all tasks share; the destination gets the whole."""
        run = self._run
        stage = self._chain.stages[0]
        began_s = self._clock()
        rows, kept = worker.work(min(admission.rows, run.turn_rows))
        now_s = self._clock()
        if not rows:
            run.withdraw(admission)
            self._exhausted = True
            return
        admission.shrink(min(rows, admission.rows))
        for meter, rows_out in ((self._meter, rows), (stage.meter, kept)):
            meter.batches += 1
            meter.rows_in += rows
            meter.rows_out += rows_out
        stage.meter.kernel_s += now_s - began_s
        self._metrics.record_batch(rows, now_s - began_s)
        run.settle(admission, rows, now_s - began_s)
        assert run.contiguous is not None
        if run.contiguous.note_done(rows):
            self._deliver(stage.meter)

    def _end(self, read: PartitionRead | None) -> None:
        if read is None:
            self._exhausted = True
            return
        self._downstream[0].tell(PartitionEnd(read.partition, read.batches))

    def _deliver(self, meter: StageMeter) -> None:
        batch, meter.rows_dropped_null_predicate = self._run.whole_result()
        admission = Admission(self._run.controller, self.name, 0, None)
        self._downstream[0].tell(Batch(0, 0, batch, 0, admission, self.context.ref, 0.0))
        self._downstream[0].tell(PartitionEnd(0, 1))
