"""Answers a count from what is known before a run, so that nothing is read."""

from __future__ import annotations

from dataflare.plan.physical import LimitStep, PhysicalPlan

__all__ = ["known_count"]


def known_count(plan: PhysicalPlan) -> int | None:
    """Return how many records `plan` gives, or None when only running it tells."""
    limits = [step.rows for step in plan.steps if isinstance(step, LimitStep)]
    if 0 in limits:
        return 0
    if len(limits) < len(plan.steps):
        return None
    rows = plan.source.num_rows
    return None if rows is None else min([rows, *limits])
