"""ReorderBuffer: puts batches back into the order of the source.

Batches carry the number of their partition and their place in it. The buffer itself has no limit: sources may
only be a bounded number of batches ahead of what was consumed, and that is what bounds it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["ReorderBuffer"]

T = TypeVar("T")


class ReorderBuffer(Generic[T]):
    """Items in, by partition and index, in any order; items out in order, none lost and none twice.

    Examples
    --------
    >>> buffer = ReorderBuffer(partitions=2)
    >>> buffer.push(1, 0, "c"), buffer.push(0, 1, "b")
    ([], [])
    >>> buffer.push(0, 0, "a")
    ['a', 'b']
    >>> buffer.end(0, 2)
    ['c']
    >>> buffer.end(1, 1), buffer.finished
    ([], True)
    """

    __slots__ = ("_ends", "_index", "_partition", "_partitions", "_waiting")

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._partition = 0
        self._index = 0
        self._waiting: dict[tuple[int, int], T] = {}
        self._ends: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """Items that came before their turn."""
        return len(self._waiting)

    @property
    def finished(self) -> bool:
        """Whether all partitions have ended and all their items came out."""
        return self._partition >= self._partitions

    def push(self, partition: int, index: int, item: T) -> list[T]:
        """Take an item, and return those whose turn it is."""
        if (partition, index) != (self._partition, self._index):
            self._waiting[partition, index] = item
            return []
        self._index += 1
        if not self._waiting and partition not in self._ends:
            return [item]
        return [item, *self._advance()]

    def end(self, partition: int, items: int) -> list[T]:
        """Take note that a partition has so many items, and return those whose turn it is."""
        self._ends[partition] = items
        return self._advance()

    def clear(self) -> list[T]:
        """Return what still waits, in no order, and forget it."""
        left = list(self._waiting.values())
        self._waiting.clear()
        return left

    def _advance(self) -> list[T]:
        ready: list[T] = []
        while True:
            while (item := self._waiting.pop((self._partition, self._index), None)) is not None:
                ready.append(item)
                self._index += 1
            if self._ends.get(self._partition) != self._index:
                return ready
            self._partition += 1
            self._index = 0
