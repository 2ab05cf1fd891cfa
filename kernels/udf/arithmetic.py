"""Operators on numbers and decimals: types, nulls and Python's rules, as nodes.

The rules (64-bit wrap, floor division, division by zero, weak literals) are the semantics table of the README.
Times are in ``temporal``, comparisons in ``comparison``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from dataflare.kernels.dtypes import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT64,
    MAX_DECIMAL_PRECISION,
    UINT64,
    WEAK_FLOAT,
    WEAK_INT,
    ValueType,
)
from dataflare.kernels.udf import temporal
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import (
    NULL,
    Constant,
    Scalar,
    Text,
    Value,
    convert,
    describe,
    integer_digits,
)

__all__ = ["PYTHON_OPERATORS", "binary", "checked_integer", "floor_divide", "float_type", "power", "unary"]

PYTHON_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "<<": operator.lshift,
    ">>": operator.rshift,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}
_NODE_OPS = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}


def binary(scope: Scope, op: str, left: Value, right: Value) -> Value:
    """Return ``left op right``."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        folded = _fold(scope, op, left.value, right.value)
        if folded is not None:
            return folded
    if NULL in (left, right):
        return NULL
    a, b = scope.operands(left, right)
    if isinstance(a, Text) or isinstance(b, Text):
        scope.fail(
            f"{describe(a)} {op} {describe(b)} is not available: record functions do not build new strings",
            "compute the string in map_batches with pyarrow.compute",
        )
    valid = scope.graph.both(a.valid, b.valid)
    if a.type.is_temporal or b.type.is_temporal:
        return temporal.binary(scope, op, a, b, valid)
    if a.type.kind == "decimal" or b.type.kind == "decimal":
        return _decimal(scope, op, a, b, valid)
    if op == "/":
        return _true_divide(scope, a, b, valid)
    if op == "**":
        return power(scope, a, b, valid)
    if op in ("//", "%"):
        return floor_divide(scope, a, b, valid)[op == "%"]
    if op in ("<<", ">>", "&", "|", "^"):
        return _bits(scope, op, a, b, valid)
    kind = arithmetic_type(a.type, b.type)
    x, y = scope.cast(a, kind), scope.cast(b, kind)
    return Scalar(kind, scope.graph.op(_NODE_OPS[op], kind, x, y), valid)


def _fold(scope: Scope, op: str, a: Any, b: Any) -> Constant | None:
    """Compute with two constants as Python does, unless they have a width of their own."""
    plain = (int, float, str, tuple)
    if not (isinstance(a, plain) and isinstance(b, plain)) or type(a).__module__ == "numpy":
        return None
    if isinstance(a, bool) and isinstance(b, bool) and op not in "&|^":
        a, b = int(a), int(b)
    try:
        result = PYTHON_OPERATORS[op](a, b)
    except (ZeroDivisionError, OverflowError):
        return None  # the run-time rule decides
    except (TypeError, ValueError) as error:
        scope.fail(f"{a!r} {op} {b!r}: {error}")
    return Constant(result)


def arithmetic_type(a: ValueType, b: ValueType) -> ValueType:
    """Return the type that ``+ - *`` of two numbers has."""
    if a.kind == "float" or b.kind == "float":
        return float_type(a, b)
    if a.weak and b.weak:
        return WEAK_INT
    unsigned = [t for t in (a, b) if t == UINT64]
    if unsigned and all(t == UINT64 or t.weak for t in (a, b)):
        return UINT64
    return INT64


def float_type(a: ValueType, b: ValueType) -> ValueType:
    """Return the float type that two numbers meet in: float32 only with float32, float16 and literals."""
    strong = [t for t in (a, b) if not t.weak]
    if not strong:
        return WEAK_FLOAT
    return FLOAT32 if all(t.kind == "float" and t.bits <= 32 for t in strong) else FLOAT64


def _true_divide(scope: Scope, a: Scalar, b: Scalar, valid: Node | None) -> Scalar:
    kind = float_type(a.type, b.type)
    return Scalar(kind, scope.graph.op("div", kind, scope.cast(a, kind), scope.cast(b, kind)), valid)


def floor_divide(scope: Scope, a: Scalar, b: Scalar, valid: Node | None) -> tuple[Scalar, Scalar]:
    """Return floor quotient and modulus with the sign of the divisor, as Python defines them."""
    if a.type.kind == "float" or b.type.kind == "float":
        return _float_floor_divide(scope, a, b, valid)
    kind = arithmetic_type(a.type, b.type)
    if kind.kind == "uint" and (_is_negative(a) or _is_negative(b)):
        scope.fail("uint64 is divided by, or divides, a negative constant", "convert with int(...) first")
    graph = scope.graph
    x, y = scope.cast(a, kind), scope.cast(b, kind)
    if y.is_const and y.attr > 0 and y.attr & (y.attr - 1) == 0:
        shift = "lshr" if kind.kind == "uint" else "ashr"
        amount = graph.const(kind, y.attr.bit_length() - 1)
        quotient = graph.op(shift, kind, x, amount)
        return Scalar(kind, quotient, valid), Scalar(
            kind, graph.op("and", kind, x, graph.const(kind, y.attr - 1)), valid
        )
    is_zero = graph.op("eq", BOOL, y, graph.const(kind, 0))
    valid = graph.both(valid, None if is_zero is graph.false else graph.negate(is_zero))
    divisor = graph.select(is_zero, graph.const(kind, 1), y)
    quotient, remainder = (graph.op(op, kind, x, divisor) for op in ("floordiv", "floormod"))
    return Scalar(kind, quotient, valid), Scalar(kind, remainder, valid)


def _float_floor_divide(scope: Scope, a: Scalar, b: Scalar, valid: Node | None) -> tuple[Scalar, Scalar]:
    """CPython's float_divmod (Objects/floatobject.c), with IEEE results where Python raises."""
    graph = scope.graph
    kind = float_type(a.type, b.type)
    x, y = scope.cast(a, kind), scope.cast(b, kind)
    zero, one = graph.const(kind, 0.0), graph.const(kind, 1.0)
    rest = graph.op("rem", kind, x, y)
    has_rest = graph.op("ne", BOOL, rest, zero)
    differs = graph.op("xor", BOOL, graph.op("lt", BOOL, y, zero), graph.op("lt", BOOL, rest, zero))
    adjust = graph.op("and", BOOL, has_rest, differs)
    modulus = graph.select(adjust, graph.op("add", kind, rest, y), rest)
    modulus = graph.select(has_rest, modulus, graph.op("call", kind, zero, y, attr="copysign"))
    exact = graph.op("div", kind, x, y)
    ratio = graph.op("div", kind, graph.op("sub", kind, x, rest), y)
    ratio = graph.select(adjust, graph.op("sub", kind, ratio, one), ratio)
    floor = graph.op("call", kind, ratio, attr="floor")
    over = graph.op("gt", BOOL, graph.op("sub", kind, ratio, floor), graph.const(kind, 0.5))
    floor = graph.select(over, graph.op("add", kind, floor, one), floor)
    nonzero = graph.op("ne", BOOL, ratio, zero)
    quotient = graph.select(nonzero, floor, graph.op("call", kind, zero, exact, attr="copysign"))
    by_zero = graph.op("eq", BOOL, y, zero)
    quotient = graph.select(by_zero, graph.op("call", kind, exact, attr="floor"), quotient)
    return Scalar(kind, quotient, valid), Scalar(kind, modulus, valid)


def power(scope: Scope, a: Scalar, b: Scalar, valid: Node | None) -> Scalar:
    """Return ``a ** b``: repeated multiplication for integers, pow() for floats; x ** 2 is x * x."""
    graph = scope.graph
    if a.type.kind == "float" or b.type.kind == "float":
        kind = float_type(a.type, b.type)
        x = scope.cast(a, kind)
        if b.node.is_const and b.node.attr == 2:
            return Scalar(kind, graph.op("mul", kind, x, x), valid)
        return Scalar(kind, scope.math_call("pow", kind, x, scope.cast(b, kind)), valid)
    kind = arithmetic_type(a.type, b.type)
    if _is_negative(b):
        return Scalar(kind, graph.const(kind, 0), graph.false)
    base, exponent = scope.cast(a, kind), scope.cast(b, kind)
    if exponent.is_const:
        return Scalar(kind, _constant_power(scope, kind, base, exponent.attr), valid)
    negative = graph.op("lt", BOOL, exponent, graph.const(kind, 0))
    if kind.kind != "uint":
        valid = graph.both(valid, graph.negate(negative))
    return Scalar(kind, _power_loop(scope, kind, base, exponent), valid)


def _is_negative(value: Scalar) -> bool:
    """Return whether a value is a constant below zero, before it may become unsigned."""
    return value.node.is_const and value.node.attr < 0


def _constant_power(scope: Scope, kind: ValueType, base: Node, exponent: int) -> Node:
    graph = scope.graph
    result: Node | None = None
    square = base
    while exponent:
        if exponent & 1:
            result = square if result is None else graph.op("mul", kind, result, square)
        exponent >>= 1
        if exponent:
            square = graph.op("mul", kind, square, square)
    return graph.const(kind, 1) if result is None else result


def _power_loop(scope: Scope, kind: ValueType, base: Node, exponent: Node) -> Node:
    """Binary powering (Knuth, TAOCP 2, 4.6.3, algorithm A); at most 63 rounds."""
    graph = scope.graph
    zero, one = graph.const(kind, 0), graph.const(kind, 1)
    loop = graph.new_loop(scope.depth + 1)
    inside, square, left, result = (graph.param(loop, t) for t in (BOOL, kind, kind, kind))
    odd = graph.op("ne", BOOL, graph.op("and", kind, left, one), zero)
    product = graph.select(graph.op("and", BOOL, inside, odd), graph.op("mul", kind, result, square), result)
    rest = graph.op("lshr", kind, left, one)
    more = graph.op("and", BOOL, inside, graph.op("ne", BOOL, rest, zero))
    loop.nexts = [more, graph.op("mul", kind, square, square), rest, product]
    start = graph.op("gt", BOOL, exponent, zero)
    return graph.loop(loop, [start, base, exponent, one])[3]


def _bits(scope: Scope, op: str, a: Scalar, b: Scalar, valid: Node | None) -> Scalar:
    graph = scope.graph
    if a.type.kind == b.type.kind == "bool" and op in "&|^":
        if op == "^":
            return Scalar(BOOL, graph.op("xor", BOOL, a.node, b.node), valid)
        return scope.kleene(a, b, conjunction=op == "&")
    if a.type.kind == "float" or b.type.kind == "float":
        scope.fail(f"{describe(a)} {op} {describe(b)}: bits are only defined for integers", "use int(...)")
    kind = arithmetic_type(a.type, b.type)
    x, y = scope.cast(a, kind), scope.cast(b, kind)
    if op in "&|^":
        return Scalar(kind, graph.op(_NODE_OPS[op], kind, x, y), valid)
    if _is_negative(b):
        return Scalar(kind, graph.const(kind, 0), graph.false)
    zero, last = graph.const(kind, 0), graph.const(kind, 63)
    negative = graph.op("lt", BOOL, y, zero) if kind.kind != "uint" else graph.false
    valid = graph.both(valid, None if negative is graph.false else graph.negate(negative))
    big = graph.op("gt", BOOL, y, last)
    amount = graph.select(graph.op("or", BOOL, negative, big), last, y)
    if op == "<<":
        return Scalar(kind, graph.select(big, zero, graph.op("shl", kind, x, amount)), valid)
    if kind.kind == "uint":
        return Scalar(kind, graph.select(big, zero, graph.op("lshr", kind, x, amount)), valid)
    return Scalar(kind, graph.op("ashr", kind, x, amount), valid)


def _decimal(scope: Scope, op: str, a: Scalar, b: Scalar, valid: Node | None) -> Scalar:
    graph = scope.graph
    if "float" in (a.type.kind, b.type.kind) or "bool" in (a.type.kind, b.type.kind):
        scope.fail(
            f"{describe(a)} {op} {describe(b)}: decimals and floats do not mix",
            "convert with float(...) first",
        )
    if op not in ("+", "-", "*"):
        scope.fail(f"decimals have no {op} here", "convert with float(...) first")
    p1, s1 = _digits(a)
    p2, s2 = _digits(b)
    scale = s1 + s2 if op == "*" else max(s1, s2)
    precision = p1 + p2 + 1 if op == "*" else max(p1 - s1, p2 - s2) + scale + 1
    if precision > MAX_DECIMAL_PRECISION:
        scope.fail(
            f"{describe(a)} {op} {describe(b)} needs {precision} digits, and {MAX_DECIMAL_PRECISION} are exact",
            "convert with float(...) first",
        )
    kind = ValueType("decimal", 64, precision=precision, scale=scale)
    if op == "*":
        x, y = graph.op("convert", kind, a.node), graph.op("convert", kind, b.node)
    else:
        x = convert(graph, a.node, a.type, kind)
        y = convert(graph, b.node, b.type, kind)
    return Scalar(kind, graph.op(_NODE_OPS[op], kind, x, y), valid)


def _digits(value: Scalar) -> tuple[int, int]:
    if value.type.kind == "decimal":
        return value.type.precision, value.type.scale
    return integer_digits(value.type, value.node), 0


def unary(scope: Scope, op: str, value: Value) -> Value:
    """Return ``-value``, ``+value`` or ``~value``."""
    if isinstance(value, Constant) and isinstance(value.value, int | float):
        functions: dict[str, Callable[[Any], Any]] = {
            "-": operator.neg,
            "+": operator.pos,
            "~": operator.invert,
        }
        if op != "~" or (isinstance(value.value, int) and not isinstance(value.value, bool)):
            return Constant(functions[op](value.value))
    if value == NULL:
        return NULL
    a = scope.operand(value)
    if isinstance(a, Text) or a.type.kind in ("date", "time", "timestamp"):
        scope.fail(f"{op} of {describe(a)} is not defined")
    graph = scope.graph
    if op == "~":
        if a.type.kind == "bool":
            return Scalar(BOOL, graph.negate(a.node), a.valid)
        if not a.type.is_integer:
            scope.fail(f"~ of {describe(a)}: bits are only defined for integers", "use int(...)")
        kind = arithmetic_type(a.type, a.type)
        return Scalar(kind, graph.op("xor", kind, scope.cast(a, kind), graph.const(kind, -1)), a.valid)
    kind = a.type
    if a.type.is_number:
        kind = float_type(a.type, a.type) if a.type.kind == "float" else arithmetic_type(a.type, a.type)
    node = scope.cast(a, kind)
    return Scalar(kind, graph.op("neg", kind, node) if op == "-" else node, a.valid)


def checked_integer(scope: Scope, value: Scalar, rounding: str) -> Scalar:
    """Return a float rounded by ``rounding`` (trunc floor ceil rint) as int64; null if it does not fit or is NaN."""
    graph = scope.graph
    wide = scope.cast(value, FLOAT64)
    rounded = graph.op("call", FLOAT64, wide, attr=rounding)
    fits = graph.op(
        "and",
        BOOL,
        graph.op("ge", BOOL, rounded, graph.const(FLOAT64, -(2.0**63))),
        graph.op("lt", BOOL, rounded, graph.const(FLOAT64, 2.0**63)),
    )
    safe = graph.select(fits, rounded, graph.const(FLOAT64, 0.0))
    return Scalar(INT64, graph.op("convert", INT64, safe), graph.both(value.valid, fits))
