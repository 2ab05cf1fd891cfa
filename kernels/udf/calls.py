"""The functions and methods that record functions may call: builtins, ``math``, ``numpy``, string and time methods.

Each entry says how a call becomes nodes. Calls of the user's own functions are inlined by ``lower``.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dataflare.kernels.dtypes import BOOL, FLOAT32, FLOAT64, INT64, ValueType
from dataflare.kernels.udf import arithmetic, comparison, derived, sequences, temporal, text
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import NULL, Constant, Derived, Group, Scalar, Text, Value, describe

__all__ = ["FUNCTIONS", "call_method", "call_object"]

Handler = Callable[[Scope, list[Value]], Value]

# Functions of one float that keep float32; each is one call in the generated code.
_UNARY_MATH = (
    "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp exp2 expm1 log log2 log10 log1p sqrt cbrt fabs "
    "erf erfc gamma lgamma"
).split()
_BINARY_MATH = ("pow", "atan2", "hypot", "fmod", "copysign")
_NUMPY_NAMES = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "power": "pow",
}


def _float_argument(scope: Scope, value: Value, what: str) -> Scalar:
    number = scope.number(value, what)
    kind = arithmetic.float_type(number.type, number.type)
    return Scalar(kind, scope.cast(number, kind), number.valid)


def _all_constant(args: list[Value]) -> bool:
    return all(isinstance(a, Constant) and isinstance(a.value, int | float) for a in args)


def _unary_math(name: str) -> Handler:
    function = getattr(math, name)

    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, name, args, 1)
        if args[0] == NULL:
            return NULL
        if _all_constant(args) and isinstance(args[0], Constant):
            try:
                return Constant(function(args[0].value))
            except (ValueError, OverflowError):
                pass  # IEEE decides, as it does for columns
        x = _float_argument(scope, args[0], name)
        return Scalar(x.type, scope.math_call(name, x.type, x.node), x.valid)

    return handler


def _binary_math(name: str) -> Handler:
    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, name, args, 2)
        if NULL in args:
            return NULL
        a, b = scope.number(args[0], name), scope.number(args[1], name)
        kind = arithmetic.float_type(a.type, b.type)
        valid = scope.graph.both(a.valid, b.valid)
        if name == "fmod":
            return Scalar(kind, scope.graph.op("rem", kind, scope.cast(a, kind), scope.cast(b, kind)), valid)
        x, y = scope.cast(a, kind), scope.cast(b, kind)
        if name == "copysign":  # the sign of a NaN differs between devices: here it counts as positive
            is_number = scope.graph.op("eq", BOOL, y, y)
            y = scope.graph.select(is_number, y, scope.graph.const(kind, 0.0))
        return Scalar(kind, scope.math_call(name, kind, x, y), valid)

    return handler


def _count(scope: Scope, name: str, args: list[Value], expected: int) -> None:
    if len(args) != expected:
        scope.fail(f"{name}() takes {expected} argument{'s' * (expected != 1)} here and got {len(args)}", "")


def _scaled(factor: float) -> Handler:
    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, "radians/degrees", args, 1)
        if args[0] == NULL:
            return NULL
        x = _float_argument(scope, args[0], "radians/degrees")
        return Scalar(
            x.type, scope.graph.op("mul", x.type, x.node, scope.graph.const(x.type, factor)), x.valid
        )

    return handler


def _rounding(name: str, *, keep_float: bool) -> Handler:
    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, name, args, 1)
        if args[0] == NULL:
            return NULL
        x = scope.number(args[0], name)
        if x.type.kind != "float":
            return x if not keep_float else _float_argument(scope, x, name)
        if not keep_float:
            return arithmetic.checked_integer(scope, x, name)
        kind = arithmetic.float_type(x.type, x.type)
        return Scalar(kind, scope.graph.op("call", kind, scope.cast(x, kind), attr=name), x.valid)

    return handler


def _classify(name: str) -> Handler:
    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, name, args, 1)
        if args[0] == NULL:
            return NULL
        x = scope.number(args[0], name)
        graph = scope.graph
        if x.type.kind != "float":
            return Scalar(BOOL, graph.const(BOOL, name == "isfinite"), x.valid)
        kind = arithmetic.float_type(x.type, x.type)
        node = scope.cast(x, kind)
        if name == "isnan":
            return Scalar(BOOL, graph.op("ne", BOOL, node, node), x.valid)
        size = graph.op("call", kind, node, attr="fabs")
        op = "eq" if name == "isinf" else "lt"
        return Scalar(BOOL, graph.op(op, BOOL, size, graph.const(kind, math.inf)), x.valid)

    return handler


def _abs(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "abs", args, 1)
    if args[0] == NULL:
        return NULL
    if isinstance(args[0], Constant) and isinstance(args[0].value, int | float):
        return Constant(abs(args[0].value))
    x = scope.operand(args[0])
    graph = scope.graph
    if isinstance(x, Text) or x.type.kind in ("date", "time", "timestamp"):
        scope.fail(f"abs() of {describe(x)} is not defined")
    if x.type.kind == "float":
        kind = arithmetic.float_type(x.type, x.type)
        return Scalar(kind, graph.op("call", kind, scope.cast(x, kind), attr="fabs"), x.valid)
    kind = arithmetic.arithmetic_type(x.type, x.type) if x.type.is_number else x.type
    node = scope.cast(x, kind)
    if kind.kind == "uint":
        return Scalar(kind, node, x.valid)
    negative = graph.op("lt", BOOL, node, graph.const(kind, 0))
    return Scalar(kind, graph.select(negative, graph.op("neg", kind, node), node), x.valid)


def _extreme(name: str) -> Handler:
    """Python's rule from left to right: a later value wins only if it is strictly smaller (larger)."""

    def handler(scope: Scope, args: list[Value]) -> Value:
        if len(args) == 1 and isinstance(args[0], Group) and args[0].names is None:
            args = list(args[0].items)
        elif len(args) == 1 and isinstance(args[0], Constant) and isinstance(args[0].value, tuple | list):
            args = [Constant(x) for x in args[0].value]
        if not args:
            scope.fail(f"{name}() needs at least one value", "")
        if NULL in args:
            return NULL
        if _all_constant(args):
            function = min if name == "min" else max
            return Constant(function(a.value for a in args if isinstance(a, Constant)))
        best = args[0]
        valid: Node | None = None
        for value in args:
            valid = scope.graph.both(valid, scope.operand(value).valid)
        for value in args[1:]:
            wins = comparison.compare(scope, "<", *((value, best) if name == "min" else (best, value)))
            flag = wins.node if isinstance(wins, Scalar) else scope.truth(wins)
            best = scope.join(flag, value, best)
        operand = scope.operand(best)
        if isinstance(operand, Text):
            return Text(operand.sources, operand.code, valid)
        return Scalar(operand.type, operand.node, valid)

    return handler


def _numpy_extreme(name: str) -> Handler:
    """np.minimum and np.maximum: NaN wins."""

    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, f"np.{name}imum", args, 2)
        value = _extreme(name)(scope, args)
        if not isinstance(value, Scalar) or value.type.kind != "float":
            return value
        graph = scope.graph
        node = value.node
        for argument in reversed(args):
            x = scope.cast(scope.number(argument, name), value.type)
            node = graph.select(graph.op("ne", BOOL, x, x), x, node)
        return Scalar(value.type, node, value.valid)

    return handler


def _round(scope: Scope, args: list[Value]) -> Value:
    if not 1 <= len(args) <= 2:
        scope.fail("round() takes a number and, if wanted, a number of digits", "")
    if args[0] == NULL:
        return NULL
    if all(isinstance(a, Constant) for a in args):
        return Constant(round(*(a.value for a in args if isinstance(a, Constant))))
    x = scope.number(args[0], "round")
    digits = args[1] if len(args) == 2 else NULL
    if not isinstance(digits, Constant) or not isinstance(digits.value, int | None):
        scope.fail("the digits of round() must be a constant integer")
    if x.type.kind != "float":
        if digits.value is not None and digits.value < 0:
            scope.fail("round() of an integer to negative digits is not available")
        return Scalar(INT64, scope.cast(x, INT64), x.valid)
    if digits.value is None:
        return arithmetic.checked_integer(scope, x, "rint")
    graph = scope.graph
    kind = arithmetic.float_type(x.type, x.type)
    factor = graph.const(kind, 10.0 ** abs(digits.value))
    up, down = ("mul", "div") if digits.value >= 0 else ("div", "mul")
    scaled = graph.op(up, kind, scope.cast(x, kind), factor)
    rounded = graph.op("call", kind, scaled, attr="rint")
    return Scalar(kind, graph.op(down, kind, rounded, factor), x.valid)


def _int(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "int", args, 1)
    if args[0] == NULL:
        return NULL
    if isinstance(args[0], Constant) and isinstance(args[0].value, int | float | str):
        try:
            return Constant(int(args[0].value))
        except (ValueError, OverflowError) as error:
            scope.fail(str(error), "")
    x = scope.operand(args[0])
    if isinstance(x, Text):
        scope.fail(
            "int() of a string is not available: a text that is no number has no result",
            "convert the column with map_batches and pyarrow.compute.cast",
        )
    if x.type.kind == "decimal":
        scope.fail("int() of a decimal is not available", "use int(float(...))")
    x = scope.number(x, "int")
    if x.type.kind == "float":
        return arithmetic.checked_integer(scope, x, "trunc")
    return Scalar(INT64, scope.cast(x, INT64), x.valid)


def _float(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "float", args, 1)
    if args[0] == NULL:
        return NULL
    if isinstance(args[0], Constant):
        try:
            return Constant(float(args[0].value))
        except (ValueError, OverflowError, TypeError) as error:
            scope.fail(str(error), "")
    x = scope.operand(args[0])
    if isinstance(x, Text):
        scope.fail(
            "float() of a string is not available: a text that is no number has no result",
            "convert the column with map_batches and pyarrow.compute.cast",
        )
    graph = scope.graph
    if x.type.kind == "decimal":
        unscaled = graph.op("convert", FLOAT64, graph.op("convert", INT64, x.node))
        scale = graph.const(FLOAT64, 10.0**x.type.scale)
        return Scalar(FLOAT64, graph.op("div", FLOAT64, unscaled, scale), x.valid)
    return Scalar(FLOAT64, scope.cast(scope.number(x, "float"), FLOAT64), x.valid)


def _bool(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "bool", args, 1)
    if args[0] == NULL:
        return NULL
    if isinstance(args[0], Constant):
        return Constant(bool(args[0].value))
    if isinstance(args[0], Derived):
        return derived.test(scope, args[0], ("at_least", 1))
    x = scope.operand(args[0])
    bare = Text(x.sources, x.code) if isinstance(x, Text) else Scalar(x.type, x.node)
    return Scalar(BOOL, scope.truth(bare), x.valid)


def _len(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "len", args, 1)
    if args[0] == NULL:
        return NULL
    if isinstance(args[0], Group) and not args[0].is_input:
        return Constant(len(args[0].items))
    if isinstance(args[0], Constant) and hasattr(args[0].value, "__len__"):
        return Constant(len(args[0].value))
    x = scope.operand(args[0])
    if not isinstance(x, Text):
        scope.fail(f"len() of {describe(x)} is not defined")
    return text.length(scope, x)


def _where(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "np.where", args, 3)
    return scope.join(scope.truth(args[0]), args[1], args[2])


def _clip(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "np.clip", args, 3)
    return _numpy_extreme("min")(scope, [_numpy_extreme("max")(scope, [args[0], args[1]]), args[2]])


def _divmod(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "divmod", args, 2)
    return Group((arithmetic.binary(scope, "//", *args), arithmetic.binary(scope, "%", *args)))


def _square(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "np.square", args, 1)
    return arithmetic.binary(scope, "*", args[0], args[0])


def _sign(scope: Scope, args: list[Value]) -> Value:
    _count(scope, "np.sign", args, 1)
    if args[0] == NULL:
        return NULL
    x = scope.number(args[0], "np.sign")
    kind = arithmetic.arithmetic_type(x.type, x.type)
    graph = scope.graph
    node, zero = scope.cast(x, kind), graph.const(kind, 0)
    above = graph.op("gt", BOOL, node, zero)
    below = graph.op("lt", BOOL, node, zero)
    flat = graph.select(graph.op("eq", BOOL, node, zero), zero, node)  # NaN stays NaN
    negative = graph.select(below, graph.const(kind, -1), flat) if kind.kind != "uint" else flat
    return Scalar(kind, graph.select(above, graph.const(kind, 1), negative), x.valid)


def _cast_to(kind: ValueType) -> Handler:
    """np.float32(x), np.int32(x) and their like: a conversion that wraps or rounds as a C cast does."""

    def handler(scope: Scope, args: list[Value]) -> Value:
        _count(scope, f"np.{kind}", args, 1)
        if args[0] == NULL:
            return NULL
        x = scope.number(args[0], f"np.{kind}")
        if kind.kind != "float" and x.type.kind == "float":
            x = arithmetic.checked_integer(scope, x, "trunc")
        return Scalar(kind, scope.graph.op("convert", kind, x.node), x.valid)

    return handler


FUNCTIONS: dict[Any, Handler] = {
    abs: _abs,
    min: _extreme("min"),
    max: _extreme("max"),
    round: _round,
    int: _int,
    float: _float,
    bool: _bool,
    len: _len,
    any: sequences.quantifier("any"),
    all: sequences.quantifier("all"),
    sum: sequences.total,
    divmod: _divmod,
    pow: lambda scope, args: arithmetic.binary(scope, "**", args[0], args[1]),
    math.radians: _scaled(math.pi / 180.0),
    math.degrees: _scaled(180.0 / math.pi),
    math.floor: _rounding("floor", keep_float=False),
    math.ceil: _rounding("ceil", keep_float=False),
    math.trunc: _rounding("trunc", keep_float=False),
    np.floor: _rounding("floor", keep_float=True),
    np.ceil: _rounding("ceil", keep_float=True),
    np.trunc: _rounding("trunc", keep_float=True),
    np.rint: _rounding("rint", keep_float=True),
    np.radians: _scaled(math.pi / 180.0),
    np.deg2rad: _scaled(math.pi / 180.0),
    np.degrees: _scaled(180.0 / math.pi),
    np.rad2deg: _scaled(180.0 / math.pi),
    np.minimum: _numpy_extreme("min"),
    np.maximum: _numpy_extreme("max"),
    np.where: _where,
    np.clip: _clip,
    np.square: _square,
    np.sign: _sign,
    np.abs: _abs,
    np.fabs: _unary_math("fabs"),
    np.float32: _cast_to(FLOAT32),
    np.float64: _cast_to(FLOAT64),
    np.bool_: _bool,
}
FUNCTIONS.update({getattr(math, name): _unary_math(name) for name in _UNARY_MATH if hasattr(math, name)})
FUNCTIONS.update({getattr(math, name): _binary_math(name) for name in _BINARY_MATH})
for _name in ("isnan", "isinf", "isfinite"):
    FUNCTIONS[getattr(math, _name)] = FUNCTIONS[getattr(np, _name)] = _classify(_name)
for _name in (*_UNARY_MATH, *_NUMPY_NAMES, *_BINARY_MATH):
    if hasattr(np, _name) and getattr(np, _name) not in FUNCTIONS:
        _c_name = _NUMPY_NAMES.get(_name, _name)
        FUNCTIONS[getattr(np, _name)] = (
            _binary_math(_c_name) if _c_name in _BINARY_MATH else _unary_math(_c_name)
        )
for _bits in (8, 16, 32, 64):
    FUNCTIONS[getattr(np, f"int{_bits}")] = _cast_to(ValueType("int", _bits))
    FUNCTIONS[getattr(np, f"uint{_bits}")] = _cast_to(ValueType("uint", _bits))

_BUILT_NOW = (datetime.date, datetime.datetime, datetime.timedelta, datetime.time, decimal.Decimal, range)


def call_object(scope: Scope, function: Any, args: list[Value], kwargs: dict[str, Value]) -> Value | None:
    """Return the result of calling a builtin or library function, or None if it is not one that is known."""
    try:
        handler = FUNCTIONS.get(function)
    except TypeError:  # not hashable
        return None
    if handler is not None:
        if kwargs:
            scope.fail(f"{function.__name__}() takes no keyword arguments here")
        return handler(scope, args)
    if function in sequences.FUNCTIONS:
        return sequences.FUNCTIONS[function](scope, args, kwargs)
    if function in _BUILT_NOW or (isinstance(function, type) and function in (tuple, list, set, frozenset)):
        values = [*args, *kwargs.values()]
        if all(isinstance(v, Constant) for v in values):
            try:
                return Constant(
                    function(
                        *(a.value for a in args if isinstance(a, Constant)),
                        **{k: v.value for k, v in kwargs.items() if isinstance(v, Constant)},
                    )
                )
            except Exception as error:
                scope.fail(f"{function.__name__}(...): {error}", "")
        if function in (tuple, list) and len(args) == 1 and isinstance(args[0], Group):
            return Group(args[0].items)
        scope.fail(
            f"{function.__name__}() of a column is not available",
            "build it from constants, outside or inside",
        )
    return None


def call_method(scope: Scope, owner: Value, name: str, args: list[Value]) -> Value:
    """Return the result of a method of a value."""
    table = sequences.constant_table(owner) if name == "get" else None
    if isinstance(table, dict):
        if not 1 <= len(args) <= 2:
            scope.fail(f".get() takes a key and, if wanted, a default, and got {len(args)} arguments", "")
        return sequences.look_up(scope, table, args[0], *args[1:])
    if owner == NULL or (args and NULL in args):
        return NULL
    if isinstance(owner, Constant) and all(isinstance(a, Constant) for a in args):
        method = getattr(owner.value, name, None)
        if callable(method) and isinstance(
            owner.value, str | float | int | datetime.date | datetime.timedelta | dict
        ):
            try:
                return Constant(method(*(a.value for a in args if isinstance(a, Constant))))
            except Exception as error:
                scope.fail(f".{name}(...): {error}", "")
    if isinstance(owner, Constant) and getattr(type(owner.value), "__repr__", None) is object.__repr__:
        scope.fail(
            f"the method .{name}() of an object of class {type(owner.value).__name__} is not available",
            "write a function of the numbers it needs; attributes of the object may be read",
        )
    value = owner if isinstance(owner, Derived) else scope.operand(owner)
    if isinstance(value, Text | Derived):
        return _string_method(scope, value, name, args)
    if name in temporal.METHODS.get(value.type.kind, ()):
        _count(scope, name, args, 0)
        return temporal.method(scope, value, name)
    if value.type.kind == "float" and name == "is_integer" and not args:
        kind = arithmetic.float_type(value.type, value.type)
        node = scope.cast(value, kind)
        whole = scope.graph.op("call", kind, node, attr="floor")
        size = scope.graph.op("call", kind, node, attr="fabs")
        finite = scope.graph.op("lt", BOOL, size, scope.graph.const(kind, math.inf))
        equal = scope.graph.op("eq", BOOL, node, whole)
        return Scalar(BOOL, scope.graph.op("and", BOOL, finite, equal), value.valid)
    known = ", ".join(f".{m}()" for m in temporal.METHODS.get(value.type.kind, ()))
    scope.fail(
        f"the method .{name}() of {describe(value)} is not available"
        + (f"; there are {known}" if known else "")
    )


def _string_method(scope: Scope, value: Text | Derived, name: str, args: list[Value]) -> Value:
    if name in derived.CHANGES:
        return derived.change(scope, value, name, args)
    if name in derived.QUESTIONS:
        _count(scope, name, args, 0)
        return derived.test(scope, value, (name,))
    if name not in ("startswith", "endswith", "find"):
        scope.fail(
            f"the string method .{name}() is not available; strings have == != < in len() .startswith() .endswith() "
            ".find() .isdigit(), and .lower() .upper() .strip() and slices before a test"
        )
    _count(scope, name, args, 1)
    if name == "find":
        whole, sought = scope.operand(value), scope.operand(args[0])
        if not isinstance(whole, Text) or not isinstance(sought, Text):
            scope.fail(f".find() needs a string and got {describe(args[0])}", "")
        return text.find(scope, whole, sought)
    candidates = [args[0]]
    if isinstance(args[0], Constant) and isinstance(args[0].value, tuple):
        candidates = [Constant(x) for x in args[0].value]
    elif isinstance(args[0], Group):
        candidates = list(args[0].items)
    result = scope.graph.false
    valid = value.valid
    for candidate in candidates:
        if isinstance(value, Derived):
            passes = derived.test_literal(scope, value, name, candidate)
            result = scope.graph.op("or", BOOL, result, passes.node)
            continue
        affix = scope.operand(candidate)
        if not isinstance(affix, Text):
            scope.fail(f".{name}() needs a string and got {describe(affix)}", "")
        valid = scope.graph.both(valid, affix.valid)
        result = scope.graph.op("or", BOOL, result, text.predicate(scope, name, value, affix))
    return Scalar(BOOL, result, valid)
