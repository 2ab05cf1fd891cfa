"""Strings as methods and slices change them: what they are for tests with constants, which `automata` decide.

``r.city.strip().lower() == "rome"`` never builds a string: the methods are remembered until a test comes, and both
together are one automaton over the original. Covers ``lower upper casefold strip lstrip rstrip``, slices and single
characters before ``== != in startswith endswith`` with constants, the truth of a string, and the ``is…`` methods. A
changed string is not a result, has no length and is not compared with a column.
"""

from __future__ import annotations

from dataclasses import replace

from dataflare.kernels.dtypes import BOOL
from dataflare.kernels.udf.automata import CLASSES_OF_TEXT, AutomatonError, Test, automaton
from dataflare.kernels.udf.ir import Node, StringLeaf, StringOp
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import Constant, Derived, Scalar, Text, Value, describe, map_text

__all__ = ["CHANGES", "QUESTIONS", "change", "character", "compare", "part", "test", "test_literal"]

CHANGES = ("casefold", "lower", "lstrip", "rstrip", "strip", "upper")
"""Methods that change a string."""

QUESTIONS = (*CLASSES_OF_TEXT, "isascii", "islower", "isupper")
"""Methods without an argument that say something about a string."""

_WAY_OUT = "compare it with constants, or do it in .map_batches(fn)"


def change(scope: Scope, value: Text | Derived, name: str, args: list[Value]) -> Derived:
    """Return the string after one of `CHANGES`."""
    if not args:
        return _changed(value, (name,))
    strips = name.endswith("strip")
    if not strips or len(args) != 1:
        scope.fail(f".{name}() takes {'one argument at most' if strips else 'no argument'} here", "")
    return _changed(value, (name, _constant(scope, f".{name}()", args[0])))


def part(scope: Scope, value: Text | Derived, bounds: slice) -> Derived:
    """Return ``s[start:stop]``."""
    start, stop = bounds.start or 0, bounds.stop
    if bounds.step not in (None, 1):
        scope.fail("slices of strings with a step cannot be compiled")
    if start < 0 and stop is not None and stop >= 0:
        scope.fail("a slice of a string that begins counting at its end and ends counting at its start")
    if start < 0 and stop is not None:
        value, start, stop = _changed(value, ("before_last", -stop)), start - stop, None
        if start >= 0:
            return _changed(value, ("first", 0))
    if stop is not None:
        value = _changed(value, ("first", stop) if stop >= 0 else ("before_last", -stop))
    return _changed(value, ("from", start) if start >= 0 else ("last", -start))


def character(scope: Scope, value: Text | Derived, index: int) -> Derived:
    """Return ``s[index]``, null where there is no such character."""
    there = test(scope, value, ("at_least", index + 1 if index >= 0 else -index))
    found = _changed(_changed(value, ("from", index) if index >= 0 else ("last", -index)), ("first", 1))
    return replace(found, valid=scope.graph.both(there.node, value.valid))


def _changed(value: Text | Derived, method: Test) -> Derived:
    if isinstance(value, Text):
        return Derived(value, (method,), value.valid)
    return replace(value, methods=(*value.methods, method))


def test(scope: Scope, value: Text | Derived, question: Test) -> Scalar:
    """Return whether a string passes a test of `automata`; null where it is null."""
    text, methods = (value, ()) if isinstance(value, Text) else (value.text, value.methods)
    try:
        machine = automaton(methods, question)
    except AutomatonError as error:
        scope.fail(f"this test of {describe(value)} cannot be compiled: {error}")

    def of(leaf: StringLeaf) -> Node:
        if leaf.text is not None:
            return scope.graph.const(BOOL, machine.accepts(leaf.text))
        return scope.graph.string_op(StringOp("matches", (leaf,), machine))

    return Scalar(BOOL, map_text(scope.graph, BOOL, text, of), value.valid)


def test_literal(scope: Scope, value: Derived, name: str, literal: Value) -> Scalar:
    """Return whether a changed string passes the test ``name`` (eq startswith endswith contains) of a constant."""
    return test(scope, value, (name, _constant(scope, describe(value), literal)))


def compare(scope: Scope, op: str, left: Value, right: Value) -> Scalar:
    """Return ``left op right``, one of which is a changed string."""
    value, other = (left, right) if isinstance(left, Derived) else (right, left)
    assert isinstance(value, Derived)
    if op not in ("==", "!="):
        scope.fail(f"{describe(value)} can be compared with == and != only", _WAY_OUT)
    equal = test_literal(scope, value, "eq", other)
    return equal if op == "==" else replace(equal, node=scope.graph.negate(equal.node))


def _constant(scope: Scope, what: str, value: Value) -> str:
    if isinstance(value, Constant) and isinstance(value.value, str):
        return value.value
    scope.fail(f"{what} goes with a constant string here and got {describe(value)}", _WAY_OUT)
