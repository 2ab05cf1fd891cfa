"""UnpausableSource: a source whose batches are taken as soon as they come, whether or not the run has room for them.

Covers the thread that takes them from the source that is wrapped, and its end. What waits for the run waits in a
``spill.SpillQueue``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from dataflare.options import DEFAULT_SPILL_LIMIT_BYTES
from dataflare.sources.slicing import cut_batch
from dataflare.sources.spill import SpillQueue, SpillSpace

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import BatchSource, Predicate, SourcePartition

__all__ = ["THREAD_NAME", "UnpausablePartition", "UnpausableSource"]

_WAITING_BYTES: Final = 256 << 20
_WHOLE_ROWS: Final = 1 << 62
_LEAVE_AFTER_S: Final = 1.0
THREAD_NAME: Final = "dataflare-unpausable-source"
"""What the threads are called that wait for such a source."""


class UnpausableSource:
    """Takes what another source gives as it comes; what the run has no room for yet waits in memory, then on disk."""

    def __init__(
        self, source: BatchSource, waiting_bytes: int = _WAITING_BYTES, space: SpillSpace | None = None
    ) -> None:
        self._source = source
        self._space = SpillSpace(None, DEFAULT_SPILL_LIMIT_BYTES) if space is None else space
        self.reading_bytes = waiting_bytes
        """Bytes of memory in which batches may wait."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches."""
        return self._source.schema

    @property
    def description(self) -> str:
        """What it is."""
        return f"{self._source.description}, cannot be paused"

    @property
    def num_rows(self) -> int | None:
        """Records, as the source knows them."""
        return self._source.num_rows

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all records, as the source knows them."""
        return self._source.size_bytes

    def with_projection(self, names: Sequence[str]) -> UnpausableSource:
        """Return the source with only these columns: the others do not wait either."""
        return UnpausableSource(self._source.with_projection(names), self.reading_bytes, self._space)

    def with_predicates(self, predicates: Sequence[Predicate]) -> UnpausableSource:
        """Return the source without some of the records that fail, where the one within can leave them out."""
        return UnpausableSource(self._source.with_predicates(predicates), self.reading_bytes, self._space)

    def with_waiting(self, waiting_bytes: int, space: SpillSpace) -> UnpausableSource:
        """Return the source with so much memory, and this disk, for batches that wait."""
        return UnpausableSource(self._source, waiting_bytes, space)

    def partitions(self) -> tuple[UnpausablePartition, ...]:
        """Return the partitions of the source, each with its own thread while it is read."""
        return tuple(
            UnpausablePartition(partition, self.schema, self.reading_bytes, self._space)
            for partition in self._source.partitions()
        )


class UnpausablePartition:
    """A partition that is read on a thread of its own, which never waits for who takes the batches."""

    def __init__(
        self, partition: SourcePartition, schema: pa.Schema, waiting_bytes: int, space: SpillSpace
    ) -> None:
        self._partition = partition
        self._schema = schema
        self._waiting_bytes = waiting_bytes
        self._space = space
        self._queue: SpillQueue | None = None
        self._interrupted = False

    @property
    def description(self) -> str:
        """What it is."""
        return self._partition.description

    @property
    def num_rows(self) -> int | None:
        """Records, as the partition knows them."""
        return self._partition.num_rows

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all records, as the partition knows them."""
        return self._partition.size_bytes

    def interrupt(self) -> None:
        """Wake a `read` that waits for the source: nobody wants its batches any more. Any thread may call it."""
        self._interrupted = True
        if self._queue is not None:
            self._queue.interrupt()

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Read what has come, in order; see `dataflare.sources.base.SourcePartition.read`.

        Closing the iterator waits a second for the source to give the batch that it is at, or to end. A source that
        has nothing to give for longer is left alone with its thread, which closes it as soon as it gives something:
        who wanted the first ten records has them.

        Raises
        ------
        MemoryLimitError
            More batches wait than the disk may hold.
        """
        queue = SpillQueue(self._schema, self._waiting_bytes, self._space, self.description)
        self._queue = queue
        if self._interrupted:  # looked at when the queue can be seen: one of the two sees the other
            queue.interrupt()
        feeder = threading.Thread(target=_feed, args=(self._partition, queue), name=THREAD_NAME, daemon=True)
        feeder.start()
        try:
            while (batch := queue.take()) is not None:
                yield from cut_batch(batch, batch_rows)
        finally:
            queue.close()
            feeder.join(_LEAVE_AFTER_S)


def _feed(partition: SourcePartition, queue: SpillQueue) -> None:
    """Put all batches of a partition into a queue, until it is closed."""
    try:
        batches = partition.read(lambda: _WHOLE_ROWS)
        try:
            for batch in batches:
                if not queue.put(batch.to_host()):
                    break
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()
    except BaseException as error:
        queue.end(error)
    else:
        queue.end()
