"""The check before a run that the memory limit can hold one smallest batch for each task.

Covers the arithmetic and the message. Reserving those bytes for the whole run is what keeps the run from
getting stuck, and is done in a `dataflare.control.MemoryBudget`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import MemoryLimitError

__all__ = ["StageNeed", "fits", "require_feasible"]


class StageNeed(NamedTuple):
    """What one stage needs to get on at all."""

    stage: str
    tasks: int
    bytes_a_task: float
    detail: str | None = None
    """What makes it so much, and what can be done about it."""

    @property
    def total_bytes(self) -> int:
        """What all its tasks need, with a byte each for rounding."""
        return self.tasks * (math.ceil(self.bytes_a_task) + 1)


def fits(needs: Sequence[StageNeed], limit_bytes: int | None) -> bool:
    """Whether the needs fit the limit together."""
    return limit_bytes is None or sum(need.total_bytes for need in needs) <= limit_bytes


def require_feasible(needs: Sequence[StageNeed], limit_bytes: int | None, rows: int) -> None:
    """Raise a ``MemoryLimitError`` naming stages and bytes when the needs do not fit the limit together."""
    if limit_bytes is None or fits(needs, limit_bytes):
        return
    total = sum(need.total_bytes for need in needs)
    lines = [
        f"  {need.stage}: {need.tasks} × {format_bytes(math.ceil(need.bytes_a_task))}"
        + (f" ({need.detail})" if need.detail else "")
        for need in needs
    ]
    raise MemoryLimitError(
        f"The memory limit of {format_bytes(limit_bytes)} cannot hold one smallest batch ({rows:,} rows) for "
        f"each task, which takes {format_bytes(total)}:\n"
        + "\n".join(lines)
        + "\nRaise memory_limit, or lower workers or the min_size of the batching."
    )
