"""What an expression stands for while a function is lowered, and how two such values become one.

A value is a typed node with its null flag, a string, a group of values (record, tuple), or a Python object known
now. ``Shape`` is its static part; values of one shape flatten to the same row of nodes, which is how branches
meet (a select a node) and how loops carry them.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dataflare.kernels.dtypes import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    MAX_DECIMAL_PRECISION,
    UINT64,
    WEAK_FLOAT,
    WEAK_INT,
    ValueType,
)
from dataflare.kernels.udf.automata import PARTS, Test
from dataflare.kernels.udf.ir import Graph, Node, StringLeaf

__all__ = [
    "NULL",
    "Constant",
    "Derived",
    "Group",
    "JoinError",
    "LocalFunction",
    "Opaque",
    "Scalar",
    "Text",
    "Unbound",
    "Value",
    "choose",
    "constant_scalar",
    "convert",
    "describe",
    "flatten",
    "join_types",
    "merge_shapes",
    "shape_of",
    "unflatten",
]

TICKS_PER_SECOND = {"D": None, "s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class JoinError(Exception):
    """Two values cannot be one; the message says why in plain words."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, flag, time or decimal. ``valid`` is None if it is never null.

    ``holds`` of a flag, where known, is the cheaper form of "valid and true".
    """

    type: ValueType
    node: Node
    valid: Node | None = None
    holds: Node | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A string: one of ``sources``, chosen by the int32 node ``code``."""

    sources: tuple[StringLeaf, ...]
    code: Node
    valid: Node | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """What methods such as ``lower`` make of a string, see `automata`. It can be tested, and is no result itself."""

    text: Text
    methods: tuple[Test, ...]
    valid: Node | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A record (``names`` given) or a tuple of values; ``type`` is the NamedTuple class, if any."""

    items: tuple[Value, ...]
    names: tuple[str, ...] | None = None
    is_input: bool = False

    def get(self, name: str) -> Value | None:
        """Return the field called ``name``, or None."""
        if self.names is None or name not in self.names:
            return None
        return self.items[self.names.index(name)]


@dataclass(frozen=True, slots=True)
class Constant:
    """A Python object known when the program is built: a number, string, date, function, module, collection."""

    value: Any


@dataclass(frozen=True, slots=True)
class Opaque:
    """A column of a type that functions cannot touch; it may only be passed on."""

    column: int
    type_name: str
    valid: Node | None = None


@dataclass(frozen=True, slots=True)
class LocalFunction:
    """A function defined inside the function: its syntax tree, and the names it sees."""

    node: Any
    environment: dict[str, Any] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Unbound:
    """A variable that some path leaves without a value."""


Value = Scalar | Text | Derived | Group | Constant | Opaque | LocalFunction | Unbound
NULL = Constant(None)


# ---------------------------------------------------------------------------------------------- shapes


@dataclass(frozen=True, slots=True)
class ScalarShape:
    type: ValueType
    nullable: bool


@dataclass(frozen=True, slots=True)
class TextShape:
    sources: tuple[StringLeaf, ...]
    nullable: bool


@dataclass(frozen=True, slots=True)
class GroupShape:
    items: tuple[Shape, ...]
    names: tuple[str, ...] | None
    is_input: bool


@dataclass(frozen=True, slots=True)
class FixedShape:
    """A value that is the same on every path."""

    value: Value


@dataclass(frozen=True, slots=True)
class NullShape:
    """None, of whatever type the other path gives."""


@dataclass(frozen=True, slots=True)
class UnboundShape:
    """No value on some path."""


Shape = ScalarShape | TextShape | GroupShape | FixedShape | NullShape | UnboundShape


def constant_scalar(graph: Graph, value: Any) -> Scalar | Text | None:
    """Return the typed form of a Python constant, or None if it has none."""
    if isinstance(value, bool | np.bool_):
        return Scalar(BOOL, graph.const(BOOL, bool(value)))
    if isinstance(value, int) and not isinstance(value, np.generic):
        if not -(2**63) <= value < 2**64:
            raise JoinError(f"the integer {value} does not fit in 64 bits")
        kind = WEAK_INT if value < 2**63 else UINT64
        return Scalar(kind, graph.const(kind, value))
    if type(value) is float:
        return Scalar(WEAK_FLOAT, graph.const(WEAK_FLOAT, value))
    if isinstance(value, np.integer):
        kind = ValueType("int" if value.dtype.kind == "i" else "uint", value.dtype.itemsize * 8)
        return Scalar(kind, graph.const(kind, int(value)))
    if isinstance(value, np.floating):
        kind = FLOAT32 if value.dtype.itemsize <= 4 else FLOAT64
        return Scalar(kind, graph.const(kind, float(value)))
    if isinstance(value, str):
        return Text((StringLeaf(text=str(value)),), graph.const(INT32, 0))
    if isinstance(value, datetime.datetime):
        kind = ValueType("timestamp", 64, unit="us", tz=None if value.tzinfo is None else "UTC")
        return Scalar(kind, graph.const(kind, timestamp_ticks(value)))
    if isinstance(value, datetime.date):
        kind = ValueType("date", 32, unit="D")
        return Scalar(kind, graph.const(kind, (value - datetime.date(1970, 1, 1)).days))
    if isinstance(value, datetime.time) and value.tzinfo is None:
        kind = ValueType("time", 64, unit="us")
        seconds = (value.hour * 60 + value.minute) * 60 + value.second
        return Scalar(kind, graph.const(kind, seconds * 10**6 + value.microsecond))
    if isinstance(value, datetime.timedelta):
        kind = ValueType("duration", 64, unit="us")
        return Scalar(kind, graph.const(kind, value // datetime.timedelta(microseconds=1)))
    if isinstance(value, decimal.Decimal):
        return _decimal_constant(graph, value)
    return None


def timestamp_ticks(value: datetime.datetime) -> int:
    """Return microseconds since the epoch; a naive datetime counts as it reads, an aware one in UTC."""
    epoch = datetime.datetime(1970, 1, 1, tzinfo=None if value.tzinfo is None else datetime.UTC)
    return (value - epoch) // datetime.timedelta(microseconds=1)


def _decimal_constant(graph: Graph, value: decimal.Decimal) -> Scalar:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise JoinError(f"{value} is not a number that a decimal column can hold")
    scale = max(0, -exponent)
    unscaled = int("".join(map(str, digits))) * 10 ** max(0, exponent) * (-1 if sign else 1)
    precision = max(len(str(abs(unscaled))), scale, 1)
    if precision > MAX_DECIMAL_PRECISION:
        raise JoinError(f"{value} has more than {MAX_DECIMAL_PRECISION} digits")
    kind = ValueType("decimal", 64, precision=precision, scale=scale)
    return Scalar(kind, graph.const(kind, unscaled))


def typed(graph: Graph, value: Value) -> Value:
    """Return a constant in its typed form, anything else as it is."""
    if isinstance(value, Constant) and value.value is not None:
        if isinstance(value.value, tuple) and not hasattr(value.value, "_fields"):
            return Group(tuple(typed(graph, Constant(item)) for item in value.value))
        return constant_scalar(graph, value.value) or value
    return value


def describe(value: Value) -> str:
    """Return what a value is, in plain words, for messages."""
    if isinstance(value, Scalar):
        return str(value.type)
    if isinstance(value, Text):
        return "string"
    if isinstance(value, Derived):
        name = value.methods[-1][0]
        return "a part of a string" if name in PARTS else f"what .{name}() makes of a string"
    if isinstance(value, Group):
        return "a record" if value.names is not None else f"a tuple of {len(value.items)}"
    if isinstance(value, Opaque):
        return value.type_name
    if isinstance(value, Constant):
        return "None" if value.value is None else f"{value.value!r} ({type(value.value).__name__})"
    return "a function" if isinstance(value, LocalFunction) else "nothing"


def shape_of(graph: Graph, value: Value) -> Shape:
    """Return the static part of a value."""
    value = typed(graph, value)
    if isinstance(value, Scalar):
        return ScalarShape(value.type, value.valid is not None)
    if isinstance(value, Text):
        return TextShape(value.sources, value.valid is not None)
    if isinstance(value, Group):
        return GroupShape(tuple(shape_of(graph, item) for item in value.items), value.names, value.is_input)
    if isinstance(value, Unbound):
        return UnboundShape()
    if isinstance(value, Constant) and value.value is None:
        return NullShape()
    return FixedShape(value)


def merge_shapes(a: Shape, b: Shape) -> Shape:
    """Return the shape that holds values of both.

    Raises
    ------
    JoinError
        If there is none.
    """
    if a == b:
        return a
    if isinstance(a, UnboundShape) or isinstance(b, UnboundShape):
        return UnboundShape()
    if isinstance(a, NullShape):
        a, b = b, a
    if isinstance(b, NullShape):
        if isinstance(a, ScalarShape | TextShape):
            return replace(a, nullable=True)
        raise JoinError("one path gives None and the other " + _shape_name(a))
    if isinstance(a, ScalarShape) and isinstance(b, ScalarShape):
        return ScalarShape(join_types(a.type, b.type), a.nullable or b.nullable)
    if isinstance(a, TextShape) and isinstance(b, TextShape):
        sources = a.sources + tuple(leaf for leaf in b.sources if leaf not in a.sources)
        return TextShape(sources, a.nullable or b.nullable)
    if isinstance(a, GroupShape) and isinstance(b, GroupShape):
        if a.names is not None and b.names is not None and set(a.names) == set(b.names):
            order = tuple(b.items[b.names.index(name)] for name in a.names)
            items = tuple(merge_shapes(x, y) for x, y in zip(a.items, order, strict=True))
            return GroupShape(items, a.names, a.is_input and b.is_input)
        if a.names is None and b.names is None and len(a.items) == len(b.items):
            items = tuple(merge_shapes(x, y) for x, y in zip(a.items, b.items, strict=True))
            return GroupShape(items, None, False)
        if a.names is not None and b.names is not None:
            odd = sorted(set(a.names) ^ set(b.names))
            raise JoinError(f"the records of two paths differ in the columns {', '.join(odd)}")
    raise JoinError(f"one path gives {_shape_name(a)} and the other {_shape_name(b)}")


def _shape_name(shape: Shape) -> str:
    if isinstance(shape, ScalarShape):
        return str(shape.type)
    if isinstance(shape, TextShape):
        return "string"
    if isinstance(shape, GroupShape):
        return "a record" if shape.names is not None else "a tuple"
    if isinstance(shape, FixedShape):
        return describe(shape.value)
    return "None"


def join_types(a: ValueType, b: ValueType) -> ValueType:
    """Return the one type of a value that is of type ``a`` on one path and ``b`` on another."""
    if a == b:
        return a
    if a.is_number and b.is_number:
        return _join_numbers(a, b)
    if a.kind == b.kind and a.kind in ("timestamp", "duration", "time") and (a.tz is None) == (b.tz is None):
        return a if TICKS_PER_SECOND[a.unit or "s"] >= TICKS_PER_SECOND[b.unit or "s"] else b  # type: ignore[operator]
    if a.kind == b.kind == "date":
        return a if a.bits >= b.bits else b
    if "decimal" in (a.kind, b.kind) and {a.kind, b.kind} <= {"decimal", "int", "uint"}:
        return decimal_join(a, b)
    raise JoinError(f"one path gives {a} and the other {b}")


def _join_numbers(a: ValueType, b: ValueType) -> ValueType:
    if a.kind == b.kind and a.bits == b.bits:
        return a.strong()  # a weak type meets the strong one of its width
    if a.kind == "float" or b.kind == "float":
        floats = [t for t in (a, b) if t.kind == "float" and not t.weak]
        others = [t for t in (a, b) if t.kind != "float" and not t.weak]
        if not floats and not others:
            return WEAK_FLOAT
        if others or any(t.bits == 64 for t in floats) or not floats:
            return FLOAT64
        return FLOAT32 if len(floats) == 2 else floats[0]
    if a.kind == b.kind and not a.weak and not b.weak:
        return a if a.bits > b.bits else b
    if a.kind == b.kind == "uint" or (UINT64 in (a, b) and WEAK_INT in (a, b)):
        return UINT64
    return INT64


def integer_digits(kind: ValueType, node: Node | None = None) -> int:
    """Return how many decimal digits an integer of this type may have (exact for constants)."""
    if node is not None and node.is_const:
        return len(str(abs(node.attr)))
    return {8: 3, 16: 5, 32: 10, 64: 19}[kind.bits]


def decimal_join(a: ValueType, b: ValueType) -> ValueType:
    """Return the decimal type that holds values of both; an integer counts with the digits of its type."""
    scale = max(a.scale, b.scale)
    whole = max(
        t.precision - t.scale if t.kind == "decimal" else (1 if t.weak else integer_digits(t)) for t in (a, b)
    )
    if whole + scale > MAX_DECIMAL_PRECISION:
        raise JoinError(f"{a} with {b} needs {whole + scale} digits, and {MAX_DECIMAL_PRECISION} are exact")
    return ValueType("decimal", 64, precision=whole + scale, scale=scale)


# ------------------------------------------------------------------------------------- conversion, choice


def convert(graph: Graph, node: Node, source: ValueType, target: ValueType) -> Node:
    """Return a node of type ``target`` for a value of type ``source`` that fits it."""
    if source == target:
        return node
    if source.is_number and target.is_number:
        return graph.op("convert", target, node)
    if target.kind == "decimal":
        wide = node if source.kind == "decimal" else graph.op("convert", INT64, node)
        factor = 10 ** (target.scale - source.scale)
        wide = graph.op("convert", target, wide)
        return graph.op("mul", target, wide, graph.const(target, factor)) if factor != 1 else wide
    if source.is_temporal and source.kind == target.kind:
        wide = graph.op("convert", target, node)
        return rescale(graph, wide, target, source.unit or "s", target.unit or "s")
    raise AssertionError(f"cannot convert {source} to {target}")


def rescale(graph: Graph, node: Node, target: ValueType, source_unit: str, target_unit: str) -> Node:
    """Return ticks of ``source_unit`` as ticks of the finer ``target_unit``."""
    ticks = {"D": 1, "s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}
    factor = ticks[target_unit] // ticks[source_unit]
    return node if factor == 1 else graph.op("mul", target, node, graph.const(target, factor))


def flatten(graph: Graph, value: Value, shape: Shape) -> list[Node]:
    """Return the nodes that carry ``value`` in the form of ``shape``."""
    value = typed(graph, value)
    if isinstance(shape, ScalarShape):
        if isinstance(value, Scalar):
            nodes = [convert(graph, value.node, value.type, shape.type)]
            valid = value.valid
        else:  # None, or no value yet
            nodes = [graph.const(shape.type, 0)]
            valid = graph.false
        return [*nodes, graph.true if valid is None else valid] if shape.nullable else nodes
    if isinstance(shape, TextShape):
        if not isinstance(value, Text):
            return [graph.const(INT32, 0), graph.false][: 1 + shape.nullable]
        valid = value.valid
        nodes = [recode(graph, value, shape.sources)]
        return [*nodes, graph.true if valid is None else valid] if shape.nullable else nodes
    if isinstance(shape, GroupShape):
        if not isinstance(value, Group):  # no value yet
            return [node for item in shape.items for node in flatten(graph, Unbound(), item)]
        items = value.items
        if shape.names is not None and value.names is not None and value.names != shape.names:
            items = tuple(value.items[value.names.index(name)] for name in shape.names)
        return [node for item, s in zip(items, shape.items, strict=True) for node in flatten(graph, item, s)]
    return []


def recode(graph: Graph, text: Text, sources: Sequence[StringLeaf]) -> Node:
    """Return the code of ``text`` as an index into ``sources``."""
    code = graph.const(INT32, sources.index(text.sources[-1]))
    for number in range(len(text.sources) - 2, -1, -1):
        here = graph.op("eq", BOOL, text.code, graph.const(INT32, number))
        code = graph.select(here, graph.const(INT32, sources.index(text.sources[number])), code)
    return code


def unflatten(shape: Shape, nodes: list[Node], offset: int = 0) -> tuple[Value, int]:
    """Return the value of ``shape`` whose nodes begin at ``offset``, and the offset after them."""
    if isinstance(shape, ScalarShape):
        if shape.nullable:
            return Scalar(shape.type, nodes[offset], nodes[offset + 1]), offset + 2
        return Scalar(shape.type, nodes[offset]), offset + 1
    if isinstance(shape, TextShape):
        if shape.nullable:
            return Text(shape.sources, nodes[offset], nodes[offset + 1]), offset + 2
        return Text(shape.sources, nodes[offset]), offset + 1
    if isinstance(shape, GroupShape):
        items: list[Value] = []
        for item_shape in shape.items:
            item, offset = unflatten(item_shape, nodes, offset)
            items.append(item)
        return Group(tuple(items), shape.names, shape.is_input), offset
    if isinstance(shape, FixedShape):
        return shape.value, offset
    return (NULL if isinstance(shape, NullShape) else Unbound()), offset


def choose(graph: Graph, condition: Node, then: Value, otherwise: Value) -> Value:
    """Return ``then`` where ``condition`` holds, else ``otherwise``.

    Raises
    ------
    JoinError
        If the two have no common shape.
    """
    if then is otherwise or (isinstance(then, Constant) and _same_constant(then, otherwise)):
        return then
    if condition.is_const:
        return then if condition.attr else otherwise
    shape = merge_shapes(shape_of(graph, then), shape_of(graph, otherwise))
    a, b = flatten(graph, then, shape), flatten(graph, otherwise, shape)
    nodes = [graph.select(condition, x, y) for x, y in zip(a, b, strict=True)]
    value, _ = unflatten(shape, nodes)
    return _drop_always_valid(value)


def _same_constant(a: Constant, b: Value) -> bool:
    if not isinstance(b, Constant) or type(a.value) is not type(b.value):
        return False
    if isinstance(a.value, float):
        return a.value.hex() == str(b.value.hex())
    return a.value is b.value or (isinstance(a.value, int | str) and bool(a.value == b.value))


def _drop_always_valid(value: Value) -> Value:
    if (
        isinstance(value, Scalar | Text)
        and value.valid is not None
        and value.valid.is_const
        and value.valid.attr
    ):
        return replace(value, valid=None)
    return value


def map_text(graph: Graph, type: ValueType, text: Text, function: Callable[[StringLeaf], Node]) -> Node:
    """Return the node that ``function`` gives for the source that ``text`` is."""
    result = function(text.sources[-1])
    for number in range(len(text.sources) - 2, -1, -1):
        here = graph.op("eq", BOOL, text.code, graph.const(INT32, number))
        result = graph.select(here, function(text.sources[number]), result)
    return result
