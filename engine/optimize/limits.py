"""Moves limits towards the source, or out of the way of fusion, and merges neighbours."""

from __future__ import annotations

from dataflare.optimize.linear import LinearStep, preserves_rows
from dataflare.plan.physical import LimitStep

__all__ = ["move_limits"]


def move_limits(steps: tuple[LinearStep, ...]) -> tuple[LinearStep, ...]:
    """Place every limit where it costs least; the records that come out stay the same.

    A limit may change places with a step that gives one record for each. It goes to the source when only such
    steps are before it, so that no record is computed in vain; otherwise it goes behind those that follow, so
    that they fuse with what is before it. Filters and `map_batches` stop it.
    """
    placed: list[LinearStep] = []
    waiting: int | None = None  # rows of a limit on its way behind the steps that preserve rows
    for step in steps:
        if isinstance(step, LimitStep):
            waiting = step.rows if waiting is None else min(waiting, step.rows)
        elif preserves_rows(step) or waiting is None:
            placed.append(step)
        else:
            _settle(placed, waiting)
            waiting = None
            placed.append(step)
    if waiting is not None:
        _settle(placed, waiting)
    return tuple(placed)


def _settle(placed: list[LinearStep], rows: int) -> None:
    """Put a limit behind `placed`, or before all of it where it may go to the source."""
    before = [step for step in placed if not preserves_rows(step)]
    if not before:
        placed.insert(0, LimitStep(rows))
    elif len(before) == 1 and isinstance(placed[0], LimitStep):
        placed[0] = LimitStep(min(placed[0].rows, rows))
    else:
        placed.append(LimitStep(rows))
