"""Tells the source what the plan needs of it: fewer columns, and the data that no record of can pass.

A projection that the source makes itself needs no program afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dataflare.optimize.fusion import FusedSteps
from dataflare.plan.physical import ComputeStep, LimitStep

if TYPE_CHECKING:
    from dataflare.kernels.udf.program import RecordProgram
    from dataflare.sources.base import BatchSource

__all__ = ["push_into_source"]


def push_into_source(source: BatchSource, fused: FusedSteps) -> tuple[BatchSource, FusedSteps]:
    """Return the source with the projection and the predicates that `fused` allows, and what is left to do.

    Predicates come from filters at the head of the first program only: a limit before it counts the records
    that they would skip, and a user's function before it may look at them. The filters still run.
    """
    if fused.steps and isinstance(fused.steps[0], ComputeStep) and fused.steps[0].program.pushdown:
        source = source.with_predicates(fused.steps[0].program.pushdown)
    first = next((step for step in fused.steps if not isinstance(step, LimitStep)), None)
    if isinstance(first, ComputeStep) and _only_selects(first.program):
        source = source.with_projection(first.program.output_schema.names)
        return source, replace(fused, steps=tuple(step for step in fused.steps if step is not first))
    if fused.source_columns is not None:
        wanted = frozenset(fused.source_columns)
        names = [name for name in source.schema.names if name in wanted]
        if len(names) < len(source.schema.names):
            source = source.with_projection(names)
    return source, fused


def _only_selects(program: RecordProgram) -> bool:
    """Whether a program leaves records and names as they are and only leaves columns out or moves them."""
    names = program.input_schema.names
    plain = program.row_preserving and not program.effects  # a function that prints is to be run
    return plain and all(
        output.carried is not None and names[output.carried] == output.name
        for output in program.nullable.outputs
    )
