"""Fuses a chain of record steps into one program over the columns of a batch.

A program is lowered twice: once with every column that may hold nulls as nullable, once without nulls, for the
batches that have none. What it computes, what it only carries along and which columns it needs come out of it.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from dataflare.kernels.dtypes import BOOL, INT32, ValueType, arrow_type, is_string, value_type
from dataflare.kernels.errors import ColumnNotFoundError, SchemaError
from dataflare.kernels.udf.capture import function_key
from dataflare.kernels.udf.ir import Node, StringLeaf, nodes_of, to_text
from dataflare.kernels.udf.lower import lower_function
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.source import describe_function, function_ast
from dataflare.kernels.udf.stages import (
    FilterStage,
    MapStage,
    RecordFunction,
    SelectStage,
    Stage,
    WithColumnsStage,
)
from dataflare.kernels.udf.values import (
    NULL,
    Constant,
    Derived,
    Group,
    LocalFunction,
    Opaque,
    Scalar,
    Text,
    Unbound,
    Value,
    describe,
    typed,
)

__all__ = ["Lowered", "Output", "RecordProgram", "SimplePredicate", "build_program", "columns_of"]


@dataclass(frozen=True, slots=True)
class SimplePredicate:
    """One condition on one input column that every record of the result meets; ``op`` as Python writes it."""

    column: str
    op: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Output:
    """One column of the result.

    Either column number ``carried`` of the input as it is, or ``node`` (with ``valid``) stored as ``type``. Where
    ``sources`` are given, ``node`` is the number of the source that a string is taken from.
    """

    name: str
    type: pa.DataType
    carried: int | None = None
    node: Node | None = None
    valid: Node | None = None
    value: ValueType | None = None
    sources: tuple[StringLeaf, ...] = ()

    @property
    def roots(self) -> tuple[Node, ...]:
        """The nodes this column needs."""
        return tuple(n for n in (self.node, self.valid) if n is not None)


@dataclass(frozen=True, slots=True)
class Lowered:
    """One lowering of a program: its results, which records it keeps, and which were dropped for a null."""

    outputs: tuple[Output, ...]
    keep: Node | None
    null_drops: tuple[Node, ...]
    effects: tuple[str, ...] = ()

    @property
    def roots(self) -> tuple[tuple[str, Node], ...]:
        """All nodes that must be computed, with names for a listing."""
        named = [("keep", self.keep)] if self.keep is not None else []
        named += [(f"dropped for null {i}", node) for i, node in enumerate(self.null_drops)]
        for output in self.outputs:
            if output.node is not None:
                named.append((output.name, output.node))
            if output.valid is not None:
                named.append((f"{output.name} is valid", output.valid))
        return tuple(named)


@dataclass(frozen=True, eq=False)
class RecordProgram:
    """A fused chain of record steps with known types, ready for any device.

    Column numbers inside ``nullable`` and ``dense`` are positions in ``input_schema``.
    """

    stages: tuple[Stage, ...]
    input_schema: pa.Schema
    output_schema: pa.Schema
    nullable: Lowered
    dense: Lowered
    columns: tuple[int, ...]
    functions: tuple[str, ...]

    @property
    def has_filter(self) -> bool:
        """Whether records can be dropped."""
        return self.nullable.keep is not None

    @property
    def row_preserving(self) -> bool:
        """Whether every input record gives one output record."""
        return self.nullable.keep is None

    @cached_property
    def required_columns(self) -> tuple[str, ...]:
        """Names of the input columns that must be loaded, in the order in which devices take them."""
        return tuple(self.input_schema.names[i] for i in self.columns)

    @cached_property
    def read_dictionaries(self) -> tuple[int, ...]:
        """Where in `required_columns` the dictionary-encoded columns are that functions read."""
        return tuple(
            place
            for place, number in enumerate(self.columns)
            if pa.types.is_dictionary(self.input_schema.field(number).type)
            and self.input_schema.names[number] in self.read_columns
        )

    @cached_property
    def read_columns(self) -> tuple[str, ...]:
        """Names of the input columns that the functions read."""
        read = columns_of([node for _, node in self.nullable.roots]) | _source_columns(self.nullable.outputs)
        return tuple(self.input_schema.names[i] for i in sorted(read))

    @cached_property
    def key(self) -> str:
        """A digest of everything the generated code depends on, the same in every process."""
        fields = [(i, self.input_schema.field(i)) for i in self.columns]
        types = ",".join(f"{i}:{f.name}:{f.type}:{f.nullable}" for i, f in fields)
        outputs = ",".join(f"{o.name}:{o.type}:{o.carried}:{o.sources}" for o in self.nullable.outputs)
        text = "\n".join((types, outputs, self._listing(self.nullable), self._listing(self.dense)))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def pushdown(self) -> tuple[SimplePredicate, ...]:
        """Conditions that a reader may use to skip data; the filter still runs on what is read."""
        if self.nullable.keep is None:
            return ()
        return tuple(
            predicate
            for node in _conjuncts(self.nullable.keep)
            if (predicate := _predicate(node, self.input_schema)) is not None
        )

    @property
    def effects(self) -> tuple[str, ...]:
        """Errors of expressions that are there for an effect: only plain Python can run them."""
        return self.nullable.effects

    def describe(self) -> str:
        """Return the listing of the program in the form with nulls."""
        carried = [
            f"{o.name} = column {self.input_schema.names[o.carried]}"
            for o in self.nullable.outputs
            if o.carried is not None
        ]
        return "\n".join([self._listing(self.nullable), *carried]).strip()

    def _listing(self, lowered: Lowered) -> str:
        return to_text(lowered.roots, tuple(self.input_schema.names))


_MAX_PROGRAMS = 512
_programs: dict[Hashable, RecordProgram] = {}
_lock = threading.Lock()


def build_program(stages: Sequence[Stage], schema: pa.Schema) -> RecordProgram:
    """Fuse ``stages`` over records of ``schema`` into one program; the same steps give the same program again.

    Raises
    ------
    CompileError
        If a function cannot be compiled; the message shows the user's file and line.
    ColumnNotFoundError
        If a step names a column that is not there.
    SchemaError
        If a step gives something that is not a record, or two columns of one name.
    """
    key = (tuple(_stage_key(stage) for stage in stages), schema.serialize().to_pybytes())
    with _lock:
        known = _programs.get(key)
    if known is not None:
        return known
    program = _build(stages, schema)
    with _lock:
        if len(_programs) >= _MAX_PROGRAMS:
            _programs.clear()
        _programs[key] = program
    return program


def _stage_key(stage: Stage) -> Hashable:
    """Return a name of a step that is equal only for steps that mean the same, captured values included."""
    if isinstance(stage, FilterStage | MapStage):
        return (type(stage), function_key(stage.fn))
    if isinstance(stage, WithColumnsStage):
        whole = None if stage.fn is None else function_key(stage.fn)
        return (type(stage), whole, tuple((name, function_key(fn)) for name, fn in stage.named))
    return stage


def _build(stages: Sequence[Stage], schema: pa.Schema) -> RecordProgram:
    nullable = _lower(stages, schema, with_nulls=True)
    dense = _lower(stages, schema, with_nulls=False)
    fields = []
    for output in nullable.outputs:
        if output.carried is not None:
            field = schema.field(output.carried).with_name(output.name)
        else:
            field = pa.field(output.name, output.type, nullable=output.valid is not None)
        fields.append(field)
    used = columns_of([node for _, node in nullable.roots]) | _source_columns(nullable.outputs)
    used |= {o.carried for o in nullable.outputs if o.carried is not None}
    functions = tuple(describe_function(fn) for stage in stages for fn in _functions(stage))
    metadata: Any = schema.metadata if all(isinstance(s, FilterStage) for s in stages) else None
    return RecordProgram(
        tuple(stages),
        schema,
        pa.schema(fields, metadata=metadata),
        nullable,
        dense,
        tuple(sorted(used)),
        functions,
    )


def _functions(stage: Stage) -> list[RecordFunction]:
    if isinstance(stage, FilterStage | MapStage):
        return [stage.fn]
    if isinstance(stage, WithColumnsStage):
        return [fn for fn in (stage.fn, *(fn for _, fn in stage.named)) if fn is not None]
    return []


def _lower(stages: Sequence[Stage], schema: pa.Schema, *, with_nulls: bool) -> Lowered:
    scope = Scope(schema)
    graph = scope.graph
    record = Group(
        tuple(_column(scope, i, with_nulls=with_nulls) for i in range(len(schema))),
        tuple(schema.names),
        is_input=True,
    )
    if len(set(schema.names)) != len(schema.names):
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        raise SchemaError(
            f"columns share a name: {', '.join(twice)}. Rename them before using record functions."
        )
    keep: Node | None = None
    drops: list[Node] = []
    for stage in stages:
        if isinstance(stage, FilterStage):
            keep = _filter(scope, stage, record, keep, drops)
        elif isinstance(stage, MapStage):
            record = _as_record(scope, stage.fn, lower_function(scope, stage.fn, record, keep), "map")
        elif isinstance(stage, WithColumnsStage):
            record = _with_columns(scope, stage, record, keep)
        else:
            record = _select(stage, record)
    if keep is graph.true:
        keep = None
    assert record.names is not None
    outputs = tuple(
        _output(scope, name, value, schema) for name, value in zip(record.names, record.items, strict=True)
    )
    return Lowered(
        outputs, keep, tuple(node for node in drops if node is not graph.false), tuple(scope.effects)
    )


def _column(scope: Scope, number: int, *, with_nulls: bool) -> Value:
    field = scope.schema.field(number)
    kind = value_type(field.type)
    valid = scope.graph.valid(number) if with_nulls and field.nullable else None
    if kind is None:
        return Opaque(number, str(field.type), valid)
    if kind.kind == "string":
        return Text((StringLeaf(column=number),), scope.graph.const(INT32, 0), valid)
    return Scalar(kind, scope.graph.load(number, kind), valid)


def _filter(scope: Scope, stage: FilterStage, record: Group, keep: Node | None, drops: list[Node]) -> Node:
    graph = scope.graph
    value = lower_function(scope, stage.fn, record, keep)
    source = function_ast(stage.fn)
    scope.sources.append(source)
    scope.position = source.node
    if isinstance(value, Group | Opaque | LocalFunction | Unbound):
        scope.fail(f"a filter gives true or false and this gives {describe(value)}", "return a condition")
    condition = scope.truth(value)
    valid = getattr(value, "valid", None)
    if value == NULL:
        valid = graph.false
    if valid is not None:
        drops.append(graph.both(keep, graph.negate(valid)) or graph.true)
    scope.sources.pop()
    return graph.both(keep, condition) or graph.true


def _as_record(scope: Scope, fn: RecordFunction, value: Value, step: str) -> Group:
    if isinstance(value, Group) and value.names is not None:
        return Group(tuple(_stored(scope, item) for item in value.items), value.names, is_input=True)
    source = function_ast(fn)
    scope.sources.append(source)
    scope.position = source.node
    hint = "return a dict such as {'total': r.price * r.qty}, a NamedTuple, or {**r, 'total': ...}"
    if step == "with_columns":
        hint = "return a dict of the new columns, or write with_columns(name=lambda r: ...)"
    if value == NULL:
        scope.fail(f"{step} gives no record: the function returns None on every path", hint)
    scope.fail(f"{step} gives a record and this gives {describe(value)}", hint)


def _with_columns(scope: Scope, stage: WithColumnsStage, record: Group, keep: Node | None) -> Group:
    assert record.names is not None
    fields = dict(zip(record.names, record.items, strict=True))
    new: dict[str, Value] = {}
    if stage.fn is not None:
        added = _as_record(scope, stage.fn, lower_function(scope, stage.fn, record, keep), "with_columns")
        assert added.names is not None
        new.update(zip(added.names, added.items, strict=True))
    for name, fn in stage.named:
        value = lower_function(scope, fn, record, keep)
        if isinstance(value, Group | Derived):
            source = function_ast(fn)
            scope.sources.append(source)
            scope.position = source.node
            way_out = (
                "return one value" if isinstance(value, Group) else "make new strings in .map_batches(fn)"
            )
            scope.fail(f"column {name!r} gets {describe(value)}", way_out)
        new[name] = _stored(scope, value)
    fields.update(new)
    return Group(tuple(fields.values()), tuple(fields), is_input=True)


def _stored(scope: Scope, value: Value) -> Value:
    """Give a number that no column had a part in the type that a column of it has: the next step sees a column."""
    if (
        isinstance(value, Constant)
        and isinstance(value.value, int | float)
        and not isinstance(value.value, bool)
    ):
        value = typed(scope.graph, value)
    return replace(value, type=value.type.strong()) if isinstance(value, Scalar) else value


def _select(stage: SelectStage, record: Group) -> Group:
    assert record.names is not None
    items = []
    for _, name in stage.columns:
        value = record.get(name)
        if value is None:
            raise ColumnNotFoundError.for_name(name, record.names, "select")
        items.append(value)
    names = tuple(out for out, _ in stage.columns)
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SchemaError(f"two columns would be called {', '.join(twice)}.")
    return Group(tuple(items), names, is_input=True)


def _output(scope: Scope, name: str, value: Value, schema: pa.Schema) -> Output:
    if isinstance(value, Opaque):
        return Output(name, schema.field(value.column).type, carried=value.column)
    if isinstance(value, Constant):
        if value.value is None:
            scope.sources.clear()
            scope.fail(
                f"column {name!r} is None for every record, so its type is unknown",
                "give another path a value, or leave the column out",
            )
        value = typed(scope.graph, value)
    if isinstance(value, Scalar):
        node, valid = value.node, value.valid
        if node.op == "load":
            field_type = schema.field(node.attr).type
            if valid is None or (valid.op == "valid" and valid.attr == node.attr):
                return Output(name, field_type, carried=node.attr)
        return Output(name, arrow_type(value.type), node=node, valid=valid, value=value.type)
    if isinstance(value, Text):
        return _text_output(name, value, schema)
    scope.sources.clear()
    scope.fail(
        f"column {name!r} would hold {describe(value)}", "a column holds one number, flag, time or string"
    )


def _text_output(name: str, value: Text, schema: pa.Schema) -> Output:
    columns = [leaf.column for leaf in value.sources if leaf.column is not None]
    types = {schema.field(c).type for c in columns}
    if len(value.sources) == 1 and columns:
        own = value.valid is None or (value.valid.op == "valid" and value.valid.attr == columns[0])
        if own:
            return Output(name, schema.field(columns[0]).type, carried=columns[0])
    kind: pa.DataType = pa.string()
    if len(types) == 1 and pa.types.is_large_string(next(iter(types))):
        kind = pa.large_string()
    return Output(name, kind, node=value.code, valid=value.valid, value=INT32, sources=value.sources)


def columns_of(roots: list[Node]) -> set[int]:
    """Return the numbers of all columns that nodes read."""
    found: set[int] = set()
    for node in nodes_of(roots):
        if node.op in ("load", "valid"):
            found.add(node.attr)
        elif node.op == "string_op":
            found.update(leaf.column for leaf in node.attr.leaves if leaf.column is not None)
    return found


def _source_columns(outputs: Sequence[Output]) -> set[int]:
    return {leaf.column for output in outputs for leaf in output.sources if leaf.column is not None}


# ------------------------------------------------------------------------------------- predicate pushdown


def _conjuncts(node: Node) -> list[Node]:
    if node.op == "and" and node.type is BOOL:
        return [part for argument in node.args for part in _conjuncts(argument)]
    return [node]


_NEGATED = {"lt": ">=", "le": ">", "gt": "<=", "ge": "<", "eq": "!=", "ne": "=="}
_DIRECT = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_MIRRORED = {"lt": ">", "le": ">=", "gt": "<", "ge": "<=", "eq": "==", "ne": "!="}


def _predicate(node: Node, schema: pa.Schema) -> SimplePredicate | None:
    """Return the condition on one column that a node is, or None if it is something else."""
    if node.op == "valid":
        return SimplePredicate(schema.names[node.attr], "is_valid")
    if node.op == "not" and node.args[0].op == "valid":
        return SimplePredicate(schema.names[node.args[0].attr], "is_null")
    if node.op == "string_op" and node.attr.name == "eq":
        column, literal = node.attr.leaves
        if (
            column.column is not None
            and literal.text is not None
            and is_string(schema.field(column.column).type)
        ):
            return SimplePredicate(schema.names[column.column], "==", literal.text)
        return None
    names = _DIRECT
    if node.op == "not" and node.args[0].op in _NEGATED and node.args[0].args[0].type.kind != "float":
        node, names = node.args[0], _NEGATED
    if node.op not in names:
        return None
    left, right = node.args
    if left.is_const:
        if names is _NEGATED:
            return None
        left, right, names = right, left, _MIRRORED
    if not right.is_const:
        return None
    if left.op == "convert" and left.type.kind == left.args[0].type.kind:
        left = left.args[0]  # a widening keeps the order
    elif left.op == "convert" and left.args[0].type.is_integer and left.args[0].type.bits <= 32:
        left = left.args[0]
    if left.op != "load":
        return None
    value = _python_value(left.type, right)
    return None if value is None else SimplePredicate(schema.names[left.attr], names[node.op], value)


def _python_value(kind: ValueType, constant: Node) -> Any:
    value = constant.attr
    if kind.is_number and kind.kind != "bool":
        return value
    if kind.kind == "date" and kind.unit == "D":
        try:
            return datetime.date(1970, 1, 1) + datetime.timedelta(days=value)
        except OverflowError:
            return None
    if kind.kind == "timestamp" and kind.unit != "ns":
        per_second = {"s": 1, "ms": 1000, "us": 10**6}[kind.unit or "s"]
        epoch = datetime.datetime(1970, 1, 1, tzinfo=None if kind.tz is None else datetime.UTC)
        try:
            return epoch + datetime.timedelta(microseconds=value * 10**6 // per_second)
        except OverflowError:
            return None
    if kind.kind == "decimal" and constant.type.kind == "decimal":
        return decimal.Decimal(value).scaleb(-constant.type.scale)
    return None
