"""Readers: how source tasks take batches from a source, several partitions or one shared stream at a time.

Covers who reads which partition, the numbering of batches, and a limit on records. Does not cover leave to
read (``dataflare.control``) or threads; a reader is safe to use from the tasks that share it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import SourcePartition

__all__ = ["BatchRead", "PartitionQueue", "PartitionReader", "PartitionRead", "Reader", "SharedReader"]

WHOLE_ROWS = 1 << 62
"""As many records as there are."""


class BatchRead(NamedTuple):
    """One batch, and its place in the source."""

    partition: int
    number: int
    batch: SharedDataBatch
    row_offset: int
    """Records before it in its partition."""


class PartitionRead(NamedTuple):
    """A partition has been read to its end, and had so many batches and records."""

    partition: int
    batches: int
    rows: int


class Reader(Protocol):
    """Where one source task gets its batches from."""

    @property
    def place(self) -> str:
        """Where the reader is, for error messages."""

    def read(self, rows: int) -> BatchRead | PartitionRead | None:
        """Return the next batch of at most ``rows`` records, the end of a partition, or None at the end."""

    def close(self) -> None:
        """Close what is open; further reads give None."""


class PartitionQueue:
    """Partitions that wait for a reader, taken in order; also counts a limit on records down."""

    def __init__(self, partitions: Sequence[SourcePartition], limit_rows: int | None = None) -> None:
        self._partitions = partitions
        self._lock = threading.Lock()
        self._next = 0
        self.remaining_rows = limit_rows

    def __len__(self) -> int:
        return len(self._partitions)

    def take(self) -> tuple[int, SourcePartition] | None:
        """Return the next partition and its number, or None when all are taken."""
        with self._lock:
            if self._next >= len(self._partitions):
                return None
            number = self._next
            self._next += 1
            return number, self._partitions[number]


class PartitionReader:
    """Reads whole partitions, one after the other, each from the queue that several readers share.

    With a limit on records there must be one reader only, since the limit is on the first records.
    """

    def __init__(self, queue: PartitionQueue) -> None:
        self._queue = queue
        self._wanted = 1
        self._partition = 0
        self._index = 0
        self._offset = 0
        self._place = "before the first partition"
        self._batches: Iterator[SharedDataBatch] | None = None
        self._closed = False

    @property
    def place(self) -> str:
        """The partition that is being read, and the batch in it."""
        return self._place if self._batches is None else f"batch {self._index} of {self._place}"

    def read(self, rows: int) -> BatchRead | PartitionRead | None:
        """Return the next batch, the end of a partition, or None when no partition is left."""
        if self._closed:
            return None
        if self._batches is None:
            taken = self._queue.take()
            if taken is None:
                return None
            self._partition, partition = taken
            self._place = partition.description
            self._index = self._offset = 0
            self._batches = partition.read(self._rows)
        remaining = self._queue.remaining_rows
        if remaining is not None:
            if remaining <= 0:
                return self._end()
            rows = min(rows, remaining)
        self._wanted = rows
        batch = next(self._batches, None)
        if batch is None:
            return self._end()
        if remaining is not None:
            batch = batch.slice(0, remaining) if batch.num_rows > remaining else batch
            self._queue.remaining_rows = remaining - batch.num_rows
        read = BatchRead(self._partition, self._index, batch, self._offset)
        self._index += 1
        self._offset += batch.num_rows
        return read

    def whole(self) -> Iterator[SharedDataBatch]:
        """Read everything that is left, in batches as large as the source has them."""
        while (read := self.read(WHOLE_ROWS)) is not None:
            if isinstance(read, BatchRead):
                yield read.batch

    def close(self) -> None:
        """Close the open partition."""
        self._closed = True
        _close(self._batches)
        self._batches = None

    def _rows(self) -> int:
        return self._wanted

    def _end(self) -> PartitionRead:
        _close(self._batches)
        self._batches = None
        return PartitionRead(self._partition, self._index, self._offset)


class SharedReader:
    """One stream over all partitions that several tasks take turns on: data in memory costs nothing to cut.

    To its users all partitions are one, number 0. It takes each partition whole and cuts it itself: with
    ``exact`` into the sizes that are asked for, otherwise at multiples of 64 rows, into batches that shrink
    towards the end, so that all tasks finish at about the same time. Where ``worth_rows`` tells with how many rows a
    batch is worth what it costs by itself, they shrink no further.
    """

    ALIGNMENT_ROWS = 64
    LEAST_ROWS = 131_072

    def __init__(
        self,
        partitions: Sequence[SourcePartition],
        *,
        tasks: int,
        limit_rows: int | None,
        num_rows: int | None,
        exact: bool,
        worth_rows: Callable[[], int] = lambda: 0,
    ) -> None:
        self._lock = threading.Lock()
        self._reader = PartitionReader(PartitionQueue(partitions, limit_rows))
        self._blocks = self._reader.whole()
        self._share = 2 * tasks
        self._exact = exact
        self._worth_rows = worth_rows
        self._least_rows: int | None = None
        self._left = num_rows
        self._block: SharedDataBatch | None = None
        self._block_rows = 0
        self._block_start = 0
        self._index = 0
        self._offset = 0
        self._ended = False

    @property
    def place(self) -> str:
        """The partition that is being read."""
        return self._reader.place

    def read(self, rows: int) -> BatchRead | PartitionRead | None:
        """Return the next batch; once, to one task, the end; from then on None."""
        with self._lock:
            if self._ended:
                return None
            if self._block is None and not self._next_block():
                self._ended = True
                return PartitionRead(0, self._index, self._offset)
            block = self._block
            assert block is not None
            left = self._left
            if not self._exact:
                if left is not None and left < rows * self._share:
                    if self._least_rows is None:  # once: all tasks wait meanwhile
                        self._least_rows = max(self.LEAST_ROWS, self._worth_rows())
                    rows = min(rows, max(left // self._share, self._least_rows))
                # In parts of equal size, so that no block ends with a batch that is hardly worth a turn.
                ahead = self._block_rows - self._block_start
                rows = -(-ahead // -(-ahead // rows))
                if rows > self.ALIGNMENT_ROWS:
                    rows += -rows % self.ALIGNMENT_ROWS
            start = self._block_start
            stop = start + rows
            if stop >= self._block_rows:
                stop = self._block_rows
                self._block = None
            self._block_start = stop
            rows = stop - start
            if left is not None:
                self._left = left - rows
            read = (0, self._index, self._offset)
            self._index += 1
            self._offset += rows
        batch = block if rows == block.num_rows else block.slice(start, stop)
        return BatchRead(read[0], read[1], batch, read[2])

    def close(self) -> None:
        """Close the stream for all tasks."""
        with self._lock:
            self._ended = True
            self._block = None
            self._reader.close()

    def _next_block(self) -> bool:
        try:
            block = next(self._blocks, None)
        except BaseException:
            self._ended = True  # the other tasks must not take what failed for the end of the data
            raise
        if block is None:
            return False
        self._block = block
        self._block_rows = block.num_rows
        self._block_start = 0
        return True


def _close(batches: Iterator[SharedDataBatch] | None) -> None:
    close = getattr(batches, "close", None)
    if close is not None:
        close()
