"""A plan as a flat sequence of steps, the form that the passes work on.

Every logical plan of this version is a chain, so a tuple says it all; joins will make it a tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any, TypeAlias

from dataflare.kernels.udf.stages import FilterStage, Stage
from dataflare.plan.logical import Limit, MapBatches, RecordStep, Scan, known_schema, require_schema
from dataflare.plan.physical import LimitStep, MapBatchesStep

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LinearStep", "RecordPart", "linearise", "preserves_rows"]


@dataclass(frozen=True)
class RecordPart:
    """A record stage and the schema that enters it, which no pass changes."""

    stage: Stage
    input_schema: pa.Schema


LinearStep: TypeAlias = RecordPart | MapBatchesStep | LimitStep


@singledispatch
def linearise(node: Any) -> tuple[LinearStep, ...]:
    """Return the steps of a logical plan in order, the source left out."""
    raise TypeError(f"{type(node).__name__} is not a node of a logical plan")


@linearise.register
def _(node: Scan) -> tuple[LinearStep, ...]:
    return ()


@linearise.register
def _(node: RecordStep) -> tuple[LinearStep, ...]:
    return (*linearise(node.input), RecordPart(node.stage, require_schema(node.input, node.label)))


@linearise.register
def _(node: MapBatches) -> tuple[LinearStep, ...]:
    step = MapBatchesStep(node.fn, known_schema(node.input), node.output_schema, node.batch_format)
    return (*linearise(node.input), step)


@linearise.register
def _(node: Limit) -> tuple[LinearStep, ...]:
    return (*linearise(node.input), LimitStep(node.rows))


def preserves_rows(step: LinearStep) -> bool:
    """Whether a step gives exactly one record for each, in place: a limit may change places with it."""
    return isinstance(step, RecordPart) and not isinstance(step.stage, FilterStage)
