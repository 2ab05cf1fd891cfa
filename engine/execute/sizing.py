"""BatchSizing: with how many rows the batches of a run begin, between which bounds, and what is kept of it.

Covers the first size in bytes, the bounds that the shape of a run sets, and the key under which the next run of
the same work finds the size. How a size is found is in ``dataflare.control``; admission is in ``prepare``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflare.control.batching import MOST_ROWS, AdaptiveBatcher, AdaptiveBatchingConfig
from dataflare.control.clock import Clock
from dataflare.control.remembered import remembered_sizes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BatchSizing", "work_key"]

_FIRST_BATCH_BYTES = 4 << 20
_FIRST_BATCH_OF_LOCAL_FILES_BYTES = 12 << 20  # each batch costs 0.2 ms, and decoding fills the caches anyway
_FIRST_BATCH_IN_MEMORY_BYTES = 48 << 20  # nothing is held in memory for it but its result
_LEAST_ROWS = 1024
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
        clock: Clock,
    ) -> None:
        self._key = None if chosen is not None else key
        found = None
        if chosen is None:
            chosen = _config(bytes_per_row, fused, in_memory)
            found = remembered_sizes().recall(key)
        self.recalled = found
        """What earlier runs of the same work found; None where there were none, or the user has chosen."""
        self.batcher = AdaptiveBatcher(chosen, clock, start=found)
        self.least_rows = min(chosen.min_size, _LEAST_ROWS)
        """Rows of the smallest batch, which each task can have at any time."""

    def remember(self) -> None:
        """Keep the batch size for the next run of the same work."""
        if self._key is not None and self.batcher.metrics.batch_count >= _LEAST_BATCHES_TO_REMEMBER:
            remembered_sizes().remember(self._key, self.batcher.found)


def work_key(device: str, fused: bool, schema: pa.Schema, steps: Sequence[str]) -> str:
    """Return what identifies work whose batches cost the same in every run."""
    return "|".join([device, str(fused), schema.to_string(), *steps])


def _config(bytes_per_row: float, fused: bool, in_memory: bool) -> AdaptiveBatchingConfig:
    first_bytes = _FIRST_BATCH_BYTES
    if fused:
        first_bytes = _FIRST_BATCH_IN_MEMORY_BYTES if in_memory else _FIRST_BATCH_OF_LOCAL_FILES_BYTES
    first = int(first_bytes / bytes_per_row) // 64 * 64
    least = min(max(first, _LEAST_ROWS), MOST_ROWS)
    # Who reads and computes at once waits for nobody, and smaller batches only cost more turns: from here sizes
    # can only grow, as far as the memory limit lets them. Those of local files would gain nothing by that, and
    # the run would take more memory the longer it lasts.
    floor = least if fused else AdaptiveBatchingConfig().min_size
    ceiling = least if fused and not in_memory else AdaptiveBatchingConfig().max_size
    return AdaptiveBatchingConfig(initial_size=least, min_size=floor, max_size=ceiling)
