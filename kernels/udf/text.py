"""Operations on strings that give numbers and flags. New strings are not built here.

A string value is one of a few sources (columns and literals) chosen by a code, so every operation is done on the
sources, where it is a simple loop over a column, and the code chooses between the results.
"""

from __future__ import annotations

from dataflare.kernels.dtypes import BOOL, INT64, ValueType
from dataflare.kernels.udf.ir import Node, StringLeaf, StringOp
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import Scalar, Text, map_text

__all__ = ["compare", "find", "length", "predicate"]

_MAX_PAIRS = 64


def length(scope: Scope, value: Text) -> Scalar:
    """Return the number of code points."""

    def of(leaf: StringLeaf) -> Node:
        if leaf.text is not None:
            return scope.graph.const(INT64, len(leaf.text))
        return scope.graph.string_op(StringOp("length", (leaf,)))

    return Scalar(INT64, map_text(scope.graph, INT64, value, of), value.valid)


def find(scope: Scope, a: Text, b: Text) -> Scalar:
    """Return the first place of ``b`` in ``a``, counted in code points, or -1."""
    return Scalar(INT64, _pairs(scope, INT64, "find", a, b), scope.graph.both(a.valid, b.valid))


def compare(scope: Scope, op: str, a: Text, b: Text) -> Node:
    """Return ``a op b`` in the order of code points, which is that of UTF-8 bytes."""
    if op in ("==", "!="):
        node = predicate(scope, "eq", a, b)
    elif op in ("<", ">="):
        node = predicate(scope, "lt", a, b)
    else:
        node = predicate(scope, "lt", b, a)
    return scope.graph.negate(node) if op in ("!=", ">=", "<=") else node


def predicate(scope: Scope, name: str, a: Text, b: Text) -> Node:
    """Return the flag ``name`` (eq lt startswith endswith contains) of two strings."""
    return _pairs(scope, BOOL, name, a, b)


def _pairs(scope: Scope, kind: ValueType, name: str, a: Text, b: Text) -> Node:
    if len(a.sources) * len(b.sources) > _MAX_PAIRS:
        scope.fail(f"more than {_MAX_PAIRS} combinations of strings are compared here")

    def of_a(leaf_a: StringLeaf) -> Node:
        return map_text(scope.graph, kind, b, lambda leaf_b: _leaf(scope, name, leaf_a, leaf_b))

    return map_text(scope.graph, kind, a, of_a)


def _leaf(scope: Scope, name: str, a: StringLeaf, b: StringLeaf) -> Node:
    if a.text is not None and b.text is not None:
        if name == "find":
            return scope.graph.const(INT64, a.text.find(b.text))
        results = {
            "eq": a.text == b.text,
            "lt": a.text.encode() < b.text.encode(),
            "startswith": a.text.startswith(b.text),
            "endswith": a.text.endswith(b.text),
            "contains": b.text in a.text,
        }
        return scope.graph.const(BOOL, results[name])
    if name == "eq" and a.text is not None:
        a, b = b, a
    return scope.graph.string_op(StringOp(name, (a, b)))
