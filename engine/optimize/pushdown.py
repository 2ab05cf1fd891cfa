"""Tells the source what the plan needs of it: fewer columns, and row groups that no record can pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.optimize.fusion import FusedSteps
from dataflare.plan.physical import ComputeStep

if TYPE_CHECKING:
    from dataflare.sources.base import BatchSource

__all__ = ["push_into_source"]


def push_into_source(source: BatchSource, fused: FusedSteps) -> BatchSource:
    """Return the source with the projection and the predicates that `fused` allows.

    Predicates come from filters at the head of the first program only: a limit before it counts the records
    that they would skip, and a user's function before it may look at them. The filters still run.
    """
    if fused.steps and isinstance(fused.steps[0], ComputeStep):
        predicates = fused.steps[0].program.pushdown
        if predicates:
            source = source.with_predicates(predicates)
    if fused.source_columns is not None:
        wanted = frozenset(fused.source_columns)
        names = tuple(name for name in source.schema.names if name in wanted)
        if len(names) < len(source.schema.names):
            source = source.with_projection(names)
    return source
