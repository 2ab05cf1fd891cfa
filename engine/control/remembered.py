"""Batch sizes that earlier runs found, so that the next run of the same work starts converged.

Covers this process only, bounded, newest kept. Keys are (program, schema, device) as text.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from dataflare.control.strategies import FoundSize

__all__ = ["RememberedSizes", "remembered_sizes"]


class RememberedSizes:
    """A bounded, thread-safe map from a key to the batch size that a run ended with."""

    __slots__ = ("_capacity", "_lock", "_sizes")

    def __init__(self, capacity: int = 512) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, FoundSize] = OrderedDict()

    def recall(self, key: str) -> FoundSize | None:
        """Return the size kept for ``key``, or None."""
        with self._lock:
            size = self._sizes.get(key)
            if size is not None:
                self._sizes.move_to_end(key)
            return size

    def remember(self, key: str, size: FoundSize) -> None:
        """Keep ``size`` for ``key``; the key that was unused for longest goes when there are too many."""
        with self._lock:
            self._sizes[key] = size
            self._sizes.move_to_end(key)
            if len(self._sizes) > self._capacity:
                self._sizes.popitem(last=False)

    def clear(self) -> None:
        """Forget all sizes."""
        with self._lock:
            self._sizes.clear()


_process_sizes = RememberedSizes()


def remembered_sizes() -> RememberedSizes:
    """Return the sizes remembered by this process."""
    return _process_sizes
