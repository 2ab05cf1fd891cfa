"""Comparisons, membership and identity: ``== != < <= > >= in not in is is not``."""

from __future__ import annotations

import datetime
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from dataflare.kernels.dtypes import BOOL, INT64, UINT64, ValueType
from dataflare.kernels.udf import derived, temporal, text
from dataflare.kernels.udf.arithmetic import float_type
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import (
    NULL,
    Constant,
    Derived,
    Group,
    JoinError,
    Scalar,
    Text,
    Value,
    convert,
    decimal_join,
    describe,
)

__all__ = ["compare", "contains", "identity", "less"]

_PYTHON: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NODE_OPS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_SWAPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compare(scope: Scope, op: str, left: Value, right: Value) -> Value:
    """Return ``left op right``; null if either is null."""
    if NULL in (left, right):
        if op in ("==", "!="):
            negation = "not " if op == "!=" else ""
            scope.fail(f"{op} None is null for every record", f"test with `is {negation}None`")
        return NULL
    if isinstance(left, Constant) and isinstance(right, Constant):
        try:
            return Constant(bool(_PYTHON[op](left.value, right.value)))
        except TypeError as error:
            scope.fail(str(error))
    if isinstance(left, Derived) or isinstance(right, Derived):
        return derived.compare(scope, op, left, right)
    left, right = _spread_tuple(left, right), _spread_tuple(right, left)
    if isinstance(left, Group) and isinstance(right, Group) and op in ("==", "!="):
        return _compare_groups(scope, op, left, right)
    a, b = scope.operands(left, right)
    valid = scope.graph.both(a.valid, b.valid)
    if isinstance(a, Text) and isinstance(b, Text):
        return Scalar(BOOL, text.compare(scope, op, a, b), valid)
    if isinstance(a, Text) or isinstance(b, Text):
        scope.fail(f"{describe(a)} {op} {describe(b)}: a string cannot be compared with another type")
    return Scalar(BOOL, _compare_scalars(scope, op, a, b), valid)


def _spread_tuple(value: Value, other: Value) -> Value:
    """Return a constant tuple that is compared with a tuple of values as one of values."""
    if isinstance(value, Constant) and isinstance(value.value, tuple) and isinstance(other, Group):
        return Group(tuple(Constant(item) for item in value.value))
    return value


def _compare_groups(scope: Scope, op: str, left: Group, right: Group) -> Value:
    if left.names is not None or right.names is not None or len(left.items) != len(right.items):
        scope.fail("only tuples of the same length can be compared")
    result: Value = Constant(True)
    for a, b in zip(left.items, right.items, strict=True):
        equal = compare(scope, "==", a, b)
        first, second = scope.operand(result), scope.operand(equal)
        assert isinstance(first, Scalar) and isinstance(second, Scalar)
        result = scope.kleene(first, second, conjunction=True)
    if op == "==":
        return result
    flag = scope.operand(result)
    assert isinstance(flag, Scalar)
    return Scalar(BOOL, scope.graph.negate(flag.node), flag.valid)


def _compare_scalars(scope: Scope, op: str, a: Scalar, b: Scalar) -> Node:
    graph = scope.graph
    node_op = _NODE_OPS[op]
    if a.type.is_temporal or b.type.is_temporal:
        return temporal.compare(scope, node_op, a, b)
    if a.type.kind == "decimal" or b.type.kind == "decimal":
        return _compare_decimals(scope, op, a, b)
    if a.type.kind == "float" or b.type.kind == "float":
        kind = float_type(a.type, b.type)
        return graph.op(node_op, BOOL, scope.cast(a, kind), scope.cast(b, kind))
    if a.type == b.type and not a.type.weak:
        return graph.op(node_op, BOOL, a.node, b.node)
    narrow = _narrow(scope, a, b)
    if narrow is not None:
        return graph.op(node_op, BOOL, *narrow)
    if UINT64 in (a.type, b.type):
        return _compare_unsigned(scope, op, a, b)
    return graph.op(node_op, BOOL, scope.cast(a, INT64), scope.cast(b, INT64))


def _narrow(scope: Scope, a: Scalar, b: Scalar) -> tuple[Node, Node] | None:
    """Compare a column with a constant in the column's own width where the constant fits: more lanes a vector."""
    for column, constant, swap in ((a, b, False), (b, a, True)):
        if not constant.node.is_const or not column.type.is_integer:
            continue
        bits = column.type.bits
        low, high = (
            (0, 2**bits - 1) if column.type.kind == "uint" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        if low <= constant.node.attr <= high:
            node = scope.graph.const(column.type, constant.node.attr)
            return (node, column.node) if swap else (column.node, node)
    return None


def _compare_unsigned(scope: Scope, op: str, a: Scalar, b: Scalar) -> Node:
    """Compare uint64 with a signed integer exactly: a negative number is below every unsigned one."""
    graph = scope.graph
    if b.type == UINT64 and a.type != UINT64:
        a, b, op = b, a, _SWAPPED[op]
    unsigned = graph.op(_NODE_OPS[op], BOOL, a.node, scope.cast(b, UINT64))
    if b.type.kind == "uint" or b.type.kind == "bool":
        return unsigned
    negative = graph.op("lt", BOOL, scope.cast(b, INT64), graph.const(INT64, 0))
    return graph.select(negative, graph.const(BOOL, op in ("!=", ">", ">=")), unsigned)


def _compare_decimals(scope: Scope, op: str, a: Scalar, b: Scalar) -> Node:
    graph = scope.graph
    for x, y in ((a, b), (b, a)):
        if x.type.kind == "float" or x.type.kind == "bool":
            scope.fail(
                f"{describe(a)} {op} {describe(b)}: a decimal is not compared with {describe(x)}, which is rarely "
                "the number that was written",
                'write the constant as Decimal("0.05"), or compare float(...)',
            )
        if x.type.is_integer and not x.node.is_const:
            kind = ValueType("decimal", 64, precision=18, scale=y.type.scale)
            if y.type.scale:
                scope.fail(
                    "a decimal column is compared with an integer column", "compare float(...) of both"
                )
            return graph.op(_NODE_OPS[op], BOOL, *(graph.op("convert", kind, v.node) for v in (a, b)))
    try:
        kind = decimal_join(_digits_of(a), _digits_of(b))
    except JoinError as error:
        scope.fail(str(error), "compare float(...) of both")
    x_node = convert(graph, a.node, a.type, kind)
    return graph.op(_NODE_OPS[op], BOOL, x_node, convert(graph, b.node, b.type, kind))


def _digits_of(value: Scalar) -> ValueType:
    """Return the decimal type of a decimal or of an integer constant."""
    if value.type.kind == "decimal":
        return value.type
    return ValueType("decimal", 64, precision=len(str(abs(value.node.attr))), scale=0)


def less(scope: Scope, a: Value, b: Value) -> Node:
    """Return whether ``a < b``, false where either is null."""
    return scope.truth(compare(scope, "<", a, b))


def contains(scope: Scope, item: Value, container: Value) -> Value:
    """Return ``item in container``: a substring, or membership in a collection known now."""
    if item == NULL:
        return NULL
    if isinstance(container, Derived):
        return derived.test_literal(scope, container, "contains", item)
    if isinstance(container, Constant) and isinstance(container.value, str):
        container = scope.operand(container)
    if isinstance(container, Text):
        needle = scope.operand(item)
        if not isinstance(needle, Text):
            scope.fail(f"{describe(needle)} in a string: only a string can be in a string")
        valid = scope.graph.both(needle.valid, container.valid)
        return Scalar(BOOL, text.predicate(scope, "contains", container, needle), valid)
    if isinstance(container, Constant):
        value = container.value
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, dict):
            value = tuple(value)
        if isinstance(value, set | frozenset):
            value = tuple(sorted(value, key=repr))
        if not isinstance(value, tuple | list | range):
            scope.fail(f"`in {type(container.value).__name__}` is not available", "use a tuple, list or set")
        candidates: tuple[Value, ...] = tuple(Constant(x) for x in value)
    elif isinstance(container, Group) and container.names is None:
        candidates = container.items
    else:
        scope.fail(f"`in` {describe(container)} is not available", "use a tuple, list or set of constants")
    if isinstance(item, Constant) and isinstance(item.value, tuple):
        item = Group(tuple(Constant(part) for part in item.value))
    if isinstance(item, Group) and item.names is None:
        return _contains_tuple(scope, item, candidates)
    operand = item if isinstance(item, Derived) else scope.operand(item)
    result = scope.graph.false
    valid = operand.valid
    for candidate in candidates:
        if candidate == NULL or (
            isinstance(candidate, Constant) and not _comparable(operand, candidate.value)
        ):
            continue  # Python: a value never equals one of another type
        equal = compare(scope, "==", item, candidate)
        flag = scope.operand(equal)
        assert isinstance(flag, Scalar)
        node = flag.node
        if flag.valid is not None and flag.valid is not operand.valid:
            node = scope.graph.op("and", BOOL, node, flag.valid)
        result = scope.graph.op("or", BOOL, result, node)
    return Scalar(BOOL, result, valid)


def _contains_tuple(scope: Scope, item: Group, candidates: tuple[Value, ...]) -> Value:
    """Return whether a tuple of values is one of ``candidates``; unknown where a null decides it."""
    result = Scalar(BOOL, scope.graph.false)
    for candidate in candidates:
        other = _spread_tuple(candidate, item)
        if not isinstance(other, Group) or other.names is not None or len(other.items) != len(item.items):
            continue
        equal = scope.operand(_compare_groups(scope, "==", item, other))
        assert isinstance(equal, Scalar)
        result = scope.kleene(result, equal, conjunction=False)
    return result


def _comparable(operand: Scalar | Text | Derived, value: Any) -> bool:
    if isinstance(operand, Text | Derived):
        return isinstance(value, str)
    if operand.type.is_temporal:
        return isinstance(value, datetime.date | datetime.timedelta | datetime.time | np.datetime64)
    return isinstance(value, int | float | np.number | np.bool_) or type(value).__name__ == "Decimal"


def identity(scope: Scope, left: Value, right: Value) -> Value:
    """Return ``left is right``, where one of them is None, True or False."""
    for value, other in ((left, right), (right, left)):
        if other == NULL:
            return scope.is_null(value)
        if isinstance(other, Constant) and isinstance(other.value, bool):
            flag = scope.operand(value)
            if isinstance(flag, Scalar) and flag.type.kind == "bool":
                node = flag.node if other.value else scope.graph.negate(flag.node)
                return Scalar(BOOL, scope.graph.both(node, flag.valid) or scope.graph.true)
    scope.fail("`is` only tests for None, True and False", "compare values with ==")
