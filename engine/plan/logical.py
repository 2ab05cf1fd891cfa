"""The logical plan: immutable nodes that say what the user asked for, each with the schema of its output.

A node knows its input and one step. Its schema is found when first asked for and kept; asking a record step
analyses its functions, so a function that cannot be compiled fails where it was added. No data is read here.

To add a node: a frozen dataclass with `input`, a `schema` property that raises a `PlanError` naming the way
out, a `label` for messages and `explain`, and a case in `dataflare.optimize.linear.linearise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from dataflare.kernels.errors import SchemaError
from dataflare.kernels.udf.program import build_program

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.kernels.udf.stages import Stage
    from dataflare.plan.formats import BatchFormat
    from dataflare.sources.base import BatchSource

__all__ = [
    "Limit",
    "LogicalNode",
    "MapBatches",
    "RecordStep",
    "Scan",
    "known_schema",
    "source_of",
    "step_number",
]


@dataclass(frozen=True, eq=False)
class Scan:
    """The leaf: where batches come from."""

    source: BatchSource

    @property
    def schema(self) -> pa.Schema:
        """The schema of what comes out of this node."""
        return self.source.schema

    @property
    def label(self) -> str:
        """What messages and `explain` call this node."""
        return self.source.description


@dataclass(frozen=True, eq=False)
class RecordStep:
    """A step on every record that compiles: filter, map, with_columns, select, drop, rename.

    Attributes
    ----------
    method
        The pipeline's method that added the step; select, drop and rename share one kind of stage.
    stage
        What to compile. Its functions are frozen: see `dataflare.plan.frozen`.
    """

    input: LogicalNode
    method: str
    stage: Stage

    @cached_property
    def schema(self) -> pa.Schema:
        """The schema of what comes out of this node."""
        return build_program((self.stage,), require_schema(self.input, self.method)).output_schema

    @property
    def label(self) -> str:
        """What messages and `explain` call this node."""
        return self.method


@dataclass(frozen=True, eq=False)
class MapBatches:
    """A step on whole batches, run by Python as it is."""

    input: LogicalNode
    fn: Callable[[Any], Any]
    output_schema: pa.Schema | None
    batch_format: BatchFormat = "batch"

    @property
    def schema(self) -> pa.Schema:
        """The schema of what comes out of this node."""
        if self.output_schema is None:
            raise SchemaError(
                f"the schema after {self.label} is not known before it runs. "
                "Give it: map_batches(fn, schema=pyarrow.schema([...]))."
            )
        return self.output_schema

    @property
    def label(self) -> str:
        """What messages and `explain` call this node."""
        return f"map_batches({getattr(self.fn, '__qualname__', type(self.fn).__qualname__)})"


@dataclass(frozen=True, eq=False)
class Limit:
    """At most the first `rows` records, in input order."""

    input: LogicalNode
    rows: int

    @property
    def schema(self) -> pa.Schema:
        """The schema of what comes out of this node."""
        return self.input.schema

    @property
    def label(self) -> str:
        """What messages and `explain` call this node."""
        return f"limit({self.rows})"


LogicalNode: TypeAlias = Scan | RecordStep | MapBatches | Limit


def known_schema(node: LogicalNode) -> pa.Schema | None:
    """Return the schema of a node's output, or None where a `map_batches` leaves it open until it runs."""
    while isinstance(node, Limit):
        node = node.input
    if isinstance(node, MapBatches):
        return node.output_schema
    return node.schema


def require_schema(node: LogicalNode, needed_by: str) -> pa.Schema:
    """Return the schema of a node's output for a step that cannot be built without it."""
    schema = known_schema(node)
    if schema is None:
        while isinstance(node, Limit):
            node = node.input
        raise SchemaError(
            f"{needed_by} needs to know its columns before anything runs, and {node.label} at step "
            f"{step_number(node)} does not say what it returns. "
            "Give it: map_batches(fn, schema=pyarrow.schema([...]))."
        )
    return schema


def source_of(node: LogicalNode) -> BatchSource:
    """Return the source that a node's records come from."""
    while not isinstance(node, Scan):
        node = node.input
    return node.source


def step_number(node: LogicalNode) -> int:
    """Return the position of a node's step: 0 for the source, 1 for the first step after it."""
    number = 0
    while not isinstance(node, Scan):
        number += 1
        node = node.input
    return number
