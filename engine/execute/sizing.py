"""BatchSizing: with how many rows the batches of a run begin, between which bounds, and what is kept of it.

Covers the first size in bytes, the bounds that the shape of a run sets, and the key under which the next run of
the same work finds the size. How a size is found is in ``dataflare.control``; admission is in ``prepare``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dataflare.control.batching import MOST_ROWS, AdaptiveBatcher, AdaptiveBatchingConfig
from dataflare.control.clock import Clock
from dataflare.control.costs import size_class
from dataflare.control.remembered import remembered_sizes
from dataflare.control.strategies import FoundSize
from dataflare.execute.found_sizes import load_size, save_size

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LEAST_ROWS", "BatchSizing", "function_key", "work_key"]

_FIRST_BATCH_BYTES = 4 << 20
_FIRST_BATCH_OF_LOCAL_FILES_BYTES = 12 << 20  # each batch costs 0.2 ms, and decoding fills the caches anyway
LEAST_ROWS = 1024
_LEAST_BATCHES_TO_REMEMBER = 4


class BatchSizing:
    """The batch sizes of one run: where they begin, and what becomes of them.

    Parameters
    ----------
    chosen
        The user's configuration; None lets the run find sizes by itself, and remember them.
    key
        What the size is remembered under: `work_key`.
    fused
        Whether the tasks that compute also read.
    in_memory
        Whether the source is in memory.
    bytes_per_row
        Estimated bytes of one input record and what becomes of it.
    tasks
        How many tasks compute. The first batch of each says little: threads start, functions load what they need.
    clock
        Monotonic clock in seconds.
    """

    def __init__(
        self,
        chosen: AdaptiveBatchingConfig | None,
        key: str,
        *,
        fused: bool,
        in_memory: bool,
        bytes_per_row: float,
        tasks: int,
        clock: Clock,
    ) -> None:
        self._key = None if chosen is not None else f"{key}|{size_class(math.ceil(bytes_per_row))}"
        self.recalled: FoundSize | None = None
        """What earlier runs of the same work found; None where there were none, or the user has chosen."""
        if self._key is not None:
            chosen = _config(bytes_per_row, fused, in_memory)
            self.recalled = remembered_sizes().recall(self._key) or load_size(self._key)
        assert chosen is not None
        self.batcher = AdaptiveBatcher(chosen, clock, start=self.recalled)
        self.least_rows = min(chosen.min_size, LEAST_ROWS)
        """Rows of the smallest batch, which each task can have at any time."""
        self._first = tasks

    def record_batch(self, rows: int, work_s: float, *, asked_rows: int, steady: bool) -> None:
        """Tell the batcher of a batch; ``steady`` is False if something was compiled meanwhile."""
        if self._first > 0:
            self._first -= 1
            steady = False
        self.batcher.record_batch(rows, work_s, asked_rows=asked_rows, steady=steady)

    def remember(self) -> None:
        """Keep the batch size for the next run of the same work, on disk too if there is news."""
        found = self.batcher.found
        if self._key is None or found.bound == "memory":  # of this run, not of its work
            return
        if self.batcher.metrics.batch_count < _LEAST_BATCHES_TO_REMEMBER:
            return
        remembered_sizes().remember(self._key, found)
        start = self.recalled
        if start is None or found[:3] != start[:3]:
            save_size(self._key, found)


def work_key(
    device: str, workers: int, fused: bool, in_memory: bool, schema: pa.Schema, steps: Sequence[str]
) -> str:
    """Return what identifies work whose batches cost about the same in every run of every process."""
    return "|".join([device, f"{workers} {fused} {in_memory}", schema.to_string(), *steps])


def function_key(fn: Any) -> str:
    """Return a name for a function or class of a user that other processes give it, too; not what it captured."""
    kind = fn if isinstance(fn, type) or hasattr(fn, "__code__") else type(fn)
    code = getattr(kind, "__code__", None)
    digest = "" if code is None else " " + hashlib.sha256(code.co_code).hexdigest()[:16]
    return f"{kind.__module__}.{kind.__qualname__}{digest}"


def _config(bytes_per_row: float, fused: bool, in_memory: bool) -> AdaptiveBatchingConfig:
    first_bytes = _FIRST_BATCH_BYTES
    if fused and not in_memory:
        first_bytes = _FIRST_BATCH_OF_LOCAL_FILES_BYTES
    first = int(first_bytes / bytes_per_row) // 64 * 64
    least = min(max(first, LEAST_ROWS), MOST_ROWS)
    if fused and not in_memory:
        # A batch of a local file pays for what is decoded with it, which a search over sizes would misread; and larger
        # ones gain nothing, while the run would take more memory the longer it lasts.
        return AdaptiveBatchingConfig(initial_size=least, min_size=least, max_size=least)
    return AdaptiveBatchingConfig(initial_size=least)
