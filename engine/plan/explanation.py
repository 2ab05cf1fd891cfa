"""Explanation: what a plan would do, stage by stage, as a printable value; and the outline of a pipeline.

Covers describing plans without running them. What a run did is `dataflare.observe.report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from html import escape
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dataflare.kernels.udf.source import describe_function
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, Stage, WithColumnsStage
from dataflare.options import RunOptions
from dataflare.plan.formats import describe_format
from dataflare.plan.logical import Limit, LogicalNode, MapBatches, RecordStep, Scan, known_schema
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep, PhysicalPlan
from dataflare.plan.residence import describe_moves
from dataflare.plan.vectors import run_text

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.kernels.udf.program import RecordProgram, SimplePredicate
    from dataflare.sources.base import BatchSource

__all__ = ["Explanation", "StageExplanation", "explain_plan", "outline"]

StageKind: TypeAlias = Literal["source", "compute", "map_batches", "limit", "sink"]


@dataclass(frozen=True)
class StageExplanation:
    """One stage of a plan: what it is, and facts about it by name, all in words for people."""

    kind: StageKind
    title: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Explanation:
    """What a pipeline would do. `str()` gives the text for people.

    Attributes
    ----------
    device
        Where the compute stages would run, with the reason.
    stages
        From the source to the sink.
    schema
        Of the output, None while a `map_batches` without a schema leaves it open.
    run
        Facts about the run as a whole, by name: "tasks", "batch size" with what earlier runs of the same work found,
        and "memory"; or "refused", when it would not begin.
    """

    device: str
    stages: tuple[StageExplanation, ...]
    schema: pa.Schema | None
    run: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"device: {self.device}"]
        for number, stage in enumerate(self.stages):
            lines.append(f"{number:>2} {stage.kind:<12}{stage.title}")
            lines += _fact_lines(stage.facts, "     ")
        lines += _fact_lines(self.run, "")
        lines.append(f"output: {_schema_text(self.schema)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def explain_plan(plan: PhysicalPlan, options: RunOptions, source: BatchSource) -> Explanation:
    """Return what `plan` would do.

    Parameters
    ----------
    source
        The source as the user named it, before columns and records were left out.
    """
    from dataflare.execute.outlook import outlook
    from dataflare.execute.prepare import usable_cores
    from dataflare.optimize.placement import place

    placement = place(plan, options, options.workers or usable_cores())
    stages = [_explain_source(plan, source)]
    moves = describe_moves(plan.steps, placement.device, getattr(plan.source, "device", "cpu"))
    for step, text in zip(plan.steps, moves, strict=True):
        stage = _explain_step(step, options, placement.device)
        stages.append(replace(stage, facts=_facts({**stage.facts, "batches": text})))
    stages.append(StageExplanation("sink", plan.sink.description, _facts({})))
    return Explanation(
        device=f"{placement.device} ({placement.reason})",
        stages=tuple(stages),
        schema=plan.schema,
        run=_facts(outlook(plan, options)),
    )


def outline(node: LogicalNode, sink: str | None) -> str:
    """Return the steps of a pipeline as they were written, one a line, and the schema at the end."""
    lines = [f"  → {sink}"] if sink is not None else []
    schema = known_schema(node)
    while not isinstance(node, Scan):
        lines.append(f"  {_step_text(node)}")
        node = node.input
    lines.append(f"  {node.label}")
    return "\n".join([*reversed(lines), f"  schema: {_schema_text(schema)}"])


def _explain_source(plan: PhysicalPlan, source: BatchSource) -> StageExplanation:
    columns, all_columns = plan.source.schema.names, source.schema.names
    facts = {"columns": f"{len(columns)} of {len(all_columns)}: {', '.join(columns)}".rstrip(": ")}
    if plan.source.num_rows is not None:
        facts["rows"] = f"{plan.source.num_rows:,}"
    facts["a row"] = _row_text(plan.source.schema)
    first = plan.steps[0] if plan.steps else None
    if isinstance(first, ComputeStep) and first.program.pushdown:
        facts["skips"] = "what cannot have " + " and ".join(map(_predicate_text, first.program.pushdown))
    return StageExplanation("source", plan.source.description, _facts(facts))


@singledispatch
def _explain_step(step: Any, options: RunOptions, device: str) -> StageExplanation:
    raise TypeError(f"{type(step).__name__} is not a step of a physical plan")


@_explain_step.register
def _(step: ComputeStep, options: RunOptions, device: str) -> StageExplanation:
    program = step.program
    read = program.read_columns
    carried = [name for name in program.required_columns if name not in read]
    facts = {
        "functions": "\n".join(program.functions),
        "reads": ", ".join(read),
        "carries": ", ".join(carried),
        "a row": f"{_row_text(_required_schema(program))} in, {_row_text(program.output_schema)} out",
        "runs": run_text(program, device, exact_math=options.math == "exact"),
    }
    return StageExplanation(
        "compute", " + ".join(_stage_name(stage) for stage in program.stages), _facts(facts)
    )


@_explain_step.register
def _(step: MapBatchesStep, options: RunOptions, device: str) -> StageExplanation:
    name = getattr(step.fn, "__qualname__", type(step.fn).__qualname__)
    facts = {
        "runs": "in Python as it is" + (", built once a worker" if isinstance(step.fn, type) else ""),
        "takes": describe_format(step.batch_format) if step.batch_format != "batch" else "",
        "returns": _schema_text(step.output_schema),
    }
    return StageExplanation("map_batches", name, _facts(facts))


@_explain_step.register
def _(step: LimitStep, options: RunOptions, device: str) -> StageExplanation:
    return StageExplanation("limit", f"the first {step.rows:,} records, then the source stops", _facts({}))


def _stage_name(stage: Stage) -> str:
    names = {FilterStage: "filter", MapStage: "map", WithColumnsStage: "with_columns", SelectStage: "select"}
    return names[type(stage)]


@singledispatch
def _step_text(node: Any) -> str:
    raise TypeError(f"{type(node).__name__} is not a node of a logical plan")


@_step_text.register
def _(node: RecordStep) -> str:
    stage = node.stage
    if isinstance(stage, FilterStage | MapStage):
        return f"{node.method} {describe_function(stage.fn)}"
    if isinstance(stage, WithColumnsStage):
        named = [f"{name}={describe_function(fn)}" for name, fn in stage.named]
        return f"{node.method} {', '.join(named) if stage.fn is None else describe_function(stage.fn)}"
    pairs = [name if name == old else f"{old}→{name}" for name, old in stage.columns]
    return f"{node.method} → {', '.join(pairs)}"


@_step_text.register
def _(node: MapBatches | Limit) -> str:
    return node.label


def _required_schema(program: RecordProgram) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([program.input_schema.field(name) for name in program.required_columns])


def _row_text(schema: pa.Schema) -> str:
    """Return the bytes of a record: those that are fixed, and how many columns vary."""
    bits, varying = 0, 0
    for column in schema:
        try:
            bits += column.type.bit_width
        except ValueError:  # strings, lists and whatever else has no width
            varying += 1
    text = f"{-(-bits // 8)} bytes"
    if varying:
        text += f" + {varying} column{'s' if varying > 1 else ''} of varying width"
    return text


def _predicate_text(predicate: SimplePredicate) -> str:
    if predicate.op in ("is_null", "is_valid"):
        return f"{predicate.column} {predicate.op.replace('_', ' ')}"
    value = repr(predicate.value) if isinstance(predicate.value, str) else str(predicate.value)
    return f"{predicate.column} {predicate.op} {value}"


def _schema_text(schema: pa.Schema | None) -> str:
    if schema is None:
        return "known when it runs (map_batches without a schema)"
    return ", ".join(f"{field.name} {field.type}" for field in schema) or "no columns"


def _fact_lines(facts: Mapping[str, str], indent: str) -> Iterator[str]:
    width = max((len(name) for name in facts), default=0)
    for name, text in facts.items():
        first, *others = text.splitlines()
        yield f"{indent}{name:<{width}}  {first}"
        yield from (f"{indent}{'':<{width}}  {line}" for line in others)


def _facts(facts: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({name: text for name, text in facts.items() if text})
