"""From a logical plan to a physical one: the passes in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.optimize.fusion import fuse
from dataflare.optimize.limits import move_limits
from dataflare.optimize.linear import linearise
from dataflare.optimize.pushdown import push_into_source
from dataflare.plan.logical import LogicalNode
from dataflare.plan.physical import ComputeStep, LimitStep, PhysicalPlan, PhysicalStep

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.sinks.base import BatchSink
    from dataflare.sources.base import BatchSource

__all__ = ["optimize"]


def optimize(
    node: LogicalNode, sink: BatchSink, *, ordered: bool = True, count_only: bool = False
) -> PhysicalPlan:
    """Return the physical plan that gives `sink` what `node` describes.

    Parameters
    ----------
    ordered
        Whether the sink must see batches in the order of the source.
    count_only
        Whether the sink only counts records: then no column reaches it that no filter reads.
    """
    linear = linearise(node)
    fused = fuse(move_limits(linear.steps), count_only=count_only)
    source, fused = push_into_source(linear.source, fused)
    return PhysicalPlan(source, fused.steps, sink, _output_schema(source, fused.steps), ordered)


def _output_schema(source: BatchSource, steps: tuple[PhysicalStep, ...]) -> pa.Schema | None:
    for step in reversed(steps):
        if isinstance(step, LimitStep):
            continue
        return step.program.output_schema if isinstance(step, ComputeStep) else step.output_schema
    return source.schema
