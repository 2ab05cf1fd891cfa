"""A batch size in words: how many rows, what keeps it there, and what a batch and a row cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.control.strategies import FoundSize, SizeBound

__all__ = ["bound_text", "cost_text", "format_seconds", "size_text"]

_BOUNDS: Mapping[SizeBound, str] = {
    "knee": "a larger batch is hardly faster",
    "latency": "a larger batch would take longer than the latency target",
    "memory": "no larger batch fits the memory limit",
    "max_size": "the batching allows no larger one",
    "min_size": "the batching allows no smaller one",
    "source": "the source has no larger batches",
    "strategy": "the strategy wants it so",
}


def size_text(found: FoundSize) -> str:
    """Return a size in one line: ``262,144 rows (knee: 25 us a batch + 3 ns a row)``."""
    why = found.bound if found.bound is not None else "held" if found.converged else "still searching"
    cost = cost_text(found)
    return f"{found.rows:,} rows ({why}{f': {cost}' if cost else ''})"


def cost_text(found: FoundSize) -> str:
    """Return what a batch and a row cost, nothing where that is not known."""
    if found.fixed_cost_s is None or found.row_cost_s is None:
        return ""
    return f"{format_seconds(found.fixed_cost_s)} a batch + {format_seconds(found.row_cost_s)} a row"


def bound_text(bound: SizeBound) -> str:
    """Return what a bound means."""
    return _BOUNDS[bound]


def format_seconds(seconds: float) -> str:
    """Return a duration as a person reads it: ``3.2 ns``, ``830 us``, ``12.4 ms``, ``3.21 s``, ``2 min 5 s``."""
    if 0.0 < seconds < 1e-6:
        return f"{seconds * 1e9:.3g} ns"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1.0:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60.0:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
