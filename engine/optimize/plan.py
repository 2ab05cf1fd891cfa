"""From a logical plan to a physical one: the passes in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from dataflare.optimize.fusion import FusedSteps, fuse
from dataflare.optimize.limits import move_limits
from dataflare.optimize.linear import linearise
from dataflare.optimize.pushdown import push_into_source
from dataflare.plan.logical import LogicalNode, source_of
from dataflare.plan.physical import ComputeStep, LimitStep, PhysicalPlan, PhysicalStep

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.sinks.base import BatchSink
    from dataflare.sources.base import BatchSource

__all__ = ["optimize"]

# Nodes never change, so what they fuse to is found once; keyed by whether only a count is wanted.
_fused: WeakKeyDictionary[LogicalNode, dict[bool, FusedSteps]] = WeakKeyDictionary()


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
    source, fused = push_into_source(source_of(node), _fuse(node, count_only))
    return PhysicalPlan(source, fused.steps, sink, _output_schema(source, fused.steps), ordered)


def _fuse(node: LogicalNode, count_only: bool) -> FusedSteps:
    known = _fused.setdefault(node, {})
    if count_only not in known:
        known[count_only] = fuse(move_limits(linearise(node)), count_only=count_only)
    return known[count_only]


def _output_schema(source: BatchSource, steps: tuple[PhysicalStep, ...]) -> pa.Schema | None:
    for step in reversed(steps):
        if isinstance(step, LimitStep):
            continue
        return step.program.output_schema if isinstance(step, ComputeStep) else step.output_schema
    return source.schema
