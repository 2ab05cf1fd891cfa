"""The physical plan: what a runtime executes, after every optimisation.

Covers the hand-over from the pipeline to the runtime and nothing else: a plan is a value, it opens no file
and starts no thread. The logical nodes that users build are in `dataflare.plan.logical`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.kernels.udf.program import RecordProgram
    from dataflare.plan.formats import BatchFormat
    from dataflare.sinks.base import BatchSink
    from dataflare.sources.base import BatchSource

__all__ = ["ComputeStep", "LimitStep", "MapBatchesStep", "PhysicalPlan", "PhysicalStep"]


@dataclass(frozen=True)
class ComputeStep:
    """One fused record program: every record stage between two breakers.

    Attributes
    ----------
    program
        What to compile for the chosen device. Its `required_columns` name the columns to hand to `run`,
        in that order; they are columns of the schema that enters this step.
    """

    program: RecordProgram


@dataclass(frozen=True)
class MapBatchesStep:
    """A user's function over whole batches; a breaker for fusion, not for streaming.

    Attributes
    ----------
    fn
        Called with one batch, or a class: then it is built once a worker and the instance is called.
    input_schema
        The schema that enters the step, None when an earlier `map_batches` left it open.
    output_schema
        What every returned batch must have, None when the user gave no schema: then the first batch decides.
    batch_format
        In which form `fn` is given batches.
    """

    fn: Callable[[Any], Any]
    input_schema: pa.Schema | None
    output_schema: pa.Schema | None
    batch_format: BatchFormat = "batch"


@dataclass(frozen=True)
class LimitStep:
    """Let the first `rows` records of the whole stream pass, in input order, then stop the source."""

    rows: int


PhysicalStep: TypeAlias = ComputeStep | MapBatchesStep | LimitStep


@dataclass(frozen=True)
class PhysicalPlan:
    """A source, the steps that its batches pass in order, and the sink that takes them.

    Attributes
    ----------
    source
        Already projected: it delivers only the columns that are needed.
    steps
        In order. Neighbouring record stages are one `ComputeStep`; the tuple may be empty.
    sink
        Takes the batches. `run_plan` opens, writes, and commits or aborts it.
    schema
        Of the batches that reach the sink, None while a `map_batches` without a schema leaves it open.
    ordered
        Whether the sink must see batches in the order of the source.
    """

    source: BatchSource
    steps: tuple[PhysicalStep, ...]
    sink: BatchSink
    schema: pa.Schema | None
    ordered: bool = True
