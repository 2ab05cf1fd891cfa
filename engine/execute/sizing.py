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
from dataflare.control.strategies.from_largest import FromLargestStrategy
from dataflare.execute.found_sizes import load_size, save_size

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LEAST_ROWS", "BatchSizing", "function_key", "work_key"]

_FIRST_BATCH_BYTES = 4 << 20
_FIRST_BATCH_IN_MEMORY_BYTES = 48 << 20  # nothing is held in memory for it but its result
_FIRST_BATCH_OF_LOCAL_FILES_BYTES = 12 << 20  # each batch costs 0.2 ms, and decoding fills the caches anyway
# Of each task, while those before them are on their way; later ones use theirs again.
_BATCHES_OF_FRESH_MEMORY = 9
LEAST_ROWS = 1024


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
    compiled
        Whether all steps are compiled. What sizes suit a function of whole batches, nobody knows.
    bytes_per_row
        Estimated bytes of one input record and what becomes of it.
    most_rows
        Rows of the largest batch that a source in memory has; None for other sources.
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
        compiled: bool,
        bytes_per_row: float,
        most_rows: int | None,
        tasks: int,
        clock: Clock,
    ) -> None:
        self._key = None if chosen is not None else f"{key}|{size_class(math.ceil(bytes_per_row))}"
        self.recalled: FoundSize | None = None
        """What earlier runs of the same work found; None where there were none, or the user has chosen."""
        if self._key is not None:
            chosen = _config(bytes_per_row, most_rows, fused=fused, compiled=compiled)
            self.recalled = remembered_sizes().recall(self._key) or load_size(self._key)
        assert chosen is not None
        self._first = tasks
        start = self.recalled
        if start is None and self._key is not None and most_rows is not None and compiled:
            # Nobody waits for a batch in memory, and every turn costs: for all but functions that compute much the
            # largest is the best, and a search from below would last longer than most runs. Probes find the others.
            start = FoundSize(chosen.initial_size, converged=True)
            self._first *= _BATCHES_OF_FRESH_MEMORY
        self.batcher = AdaptiveBatcher(chosen, clock, start=start)
        self.least_rows = min(chosen.min_size, LEAST_ROWS)
        """Rows of the smallest batch, which each task can have at any time."""

    def record_batch(self, rows: int, work_s: float, *, asked_rows: int, steady: bool) -> None:
        """Tell the batcher of a batch; ``steady`` is False if something was compiled meanwhile."""
        if self._first > 0:
            self._first -= 1
            steady = False
        self.batcher.record_batch(rows, work_s, asked_rows=asked_rows, steady=steady)

    @property
    def found(self) -> FoundSize:
        """Where the search is; bounds that the user did not set are those of the source."""
        found = self.batcher.found
        if found.bound == "max_size" and self._key is not None and found.rows < MOST_ROWS:
            return found._replace(bound="source")
        return found

    def worth_rows(self) -> int:
        """Return the rows of a batch that spends four fifths of its time on them; 0 where costs are not known yet."""
        found = self.batcher.found
        if not found.fixed_cost_s:
            return 0
        if not found.row_cost_s:
            return MOST_ROWS
        return min(math.ceil(4.0 * found.fixed_cost_s / found.row_cost_s), MOST_ROWS)

    def remember(self) -> None:
        """Keep the batch size for the next run of the same work, on disk too if there is news."""
        found = self.found
        if self._key is None or not found.measured:
            return
        if found.bound == "memory":  # that is of this run, not of its work
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


def _config(
    bytes_per_row: float, most_rows: int | None, *, fused: bool, compiled: bool
) -> AdaptiveBatchingConfig:
    most = MOST_ROWS if most_rows is None else min(max(most_rows, 1), MOST_ROWS)

    def rows(first_bytes: int) -> int:
        return min(max(int(first_bytes / bytes_per_row) // 64 * 64, LEAST_ROWS), most)

    first = rows(_FIRST_BATCH_BYTES)
    if most_rows is not None and compiled:
        # From the largest, runs may come down to where a program that computes much is as fast, or quick enough.
        large = rows(_FIRST_BATCH_IN_MEMORY_BYTES)
        if most < 3 * large:  # to cut a block in two costs a filter more than it is worth
            large = most
        return AdaptiveBatchingConfig(
            initial_size=large, min_size=first, max_size=most, strategy=FromLargestStrategy
        )
    if fused and most_rows is None:
        # A batch of a local file pays for what is decoded with it, which a search over sizes would misread; and larger
        # ones gain nothing, while the run would take more memory the longer it lasts.
        only = rows(_FIRST_BATCH_OF_LOCAL_FILES_BYTES)
        return AdaptiveBatchingConfig(initial_size=only, min_size=only, max_size=only)
    return AdaptiveBatchingConfig(
        initial_size=first, min_size=min(first, AdaptiveBatchingConfig().min_size), max_size=most
    )
