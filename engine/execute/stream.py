"""iter_plan: runs a physical plan and yields its batches, while a slow consumer slows the source.

Covers the sink that hands batches over to the consumer's thread. Everything else is as in ``run``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from dataflare.execute.outcome import wait_interruptibly
from dataflare.execute.prepare import PreparedRun, prepare_run
from dataflare.execute.runtime import load_runtime
from dataflare.kernels.errors import RunCancelledError

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch
    from dataflare.options import RunOptions
    from dataflare.plan.physical import PhysicalPlan

__all__ = ["StreamSink", "iter_plan"]


class StreamSink:
    """A sink whose ``write`` waits until the consumer has room for one more batch."""

    CAPACITY_BATCHES = 2

    description = "iter_batches"

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: deque[SharedDataBatch] = deque()
        self._closed = False
        self._interrupted = False

    def open(self, schema: pa.Schema) -> None:
        """Nothing to prepare."""

    def write(self, batch: SharedDataBatch) -> None:
        """Hand a batch over; waits for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted or len(self._batches) < self.CAPACITY_BATCHES)
            if self._interrupted:
                raise RunCancelledError("The consumer of the batches has gone.")
            self._batches.append(batch)
            self._changed.notify_all()

    def commit(self) -> tuple[str, ...]:
        """Tell the consumer that no more batches come."""
        self.abort()
        return ()

    def abort(self) -> None:
        """Let the consumer have what is there, and then the end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Wake a ``write`` that waits, and refuse further batches. Any thread may call it."""
        with self._changed:
            self._interrupted = True
            self._closed = True
            self._changed.notify_all()

    def take(self) -> SharedDataBatch | None:
        """Wait for the next batch; None when there are no more."""
        with self._changed:
            wait_interruptibly(self._changed, lambda: self._closed or self._batches)
            if not self._batches:
                return None
            batch = self._batches.popleft()
            self._changed.notify_all()
            return batch


def iter_plan(plan: PhysicalPlan, options: RunOptions) -> Iterator[SharedDataBatch]:
    """Run a plan and yield its batches; its own sink is not used.

    The source gets a few batches ahead of the consumer and then waits. Closing the iterator stops the run.

    Raises
    ------
    RunError
        As `run_plan`, in the place of the batch that failed.
    """
    sink = StreamSink()
    return _iterate(prepare_run(replace(plan, sink=sink), options), sink)


def _iterate(run: PreparedRun, sink: StreamSink) -> Iterator[SharedDataBatch]:
    # Deployed by the first `next`: an iterator that nobody starts leaves nothing to stop.
    options = run.options
    progress = (options.progress,) if callable(options.progress) else ()
    handle = load_runtime(options.runtime).deploy(run, progress)
    try:
        while (batch := sink.take()) is not None:
            yield batch
    except BaseException:  # the consumer has closed the iterator, or Ctrl-C
        sink.interrupt()
        handle.cancel("the iterator was closed")
        raise
    handle.wait()
