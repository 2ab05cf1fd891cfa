"""Functions of ``math`` and of NumPy on single numbers, by IEEE 754: never an exception, never a warning.

``math`` computes in float64 and its floor, ceil and trunc give integers; NumPy's functions keep float32.
Every device is within 4 ULP of these for the functions that are not exact (sqrt, floor, fabs, copysign …
are).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dataflare.kernels.reference.arithmetic import (
    common_float,
    divide,
    integer_kind,
    magnitude,
    multiply,
    positive,
    power,
    remainder,
)
from dataflare.kernels.reference.comparison import compare
from dataflare.kernels.reference.conversions import rounded, whole_number
from dataflare.kernels.reference.logic import condition
from dataflare.kernels.reference.values import family, unsupported, wrap_like

__all__ = ["MATH_FUNCTIONS", "NULL_AWARE", "NUMPY_FUNCTIONS"]

Function = Callable[..., Any]


def _is_integer(value: Any) -> bool:
    return family(value) in ("int", "bool")


def _require_numbers(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        if family(value) not in ("bool", "int", "float"):
            raise unsupported(name, value)


def _in_float64(name: str, ufunc: Function) -> Function:
    """Make a function of ``math`` from the NumPy function that computes the same: float64 in and out."""

    def function(*values: Any) -> Any:
        _require_numbers(f"math.{name}()", values)
        numbers = [np.float64(value) for value in values]
        return np.float64(ufunc(*numbers))

    return function


def _in_own_width(name: str, ufunc: Function) -> Function:
    """Make a function of NumPy: float32 stays float32, all else is computed in float64."""

    def function(*values: Any) -> Any:
        _require_numbers(f"np.{name}()", values)
        if not any(isinstance(value, np.float32) for value in values):
            return np.float64(ufunc(*[np.float64(value) for value in values]))
        numbers = common_float(*values)
        return type(numbers[0])(ufunc(*numbers))

    return function


def _test(name: str, ufunc: Function) -> Function:
    def function(value: Any) -> bool:
        _require_numbers(name, (value,))
        return bool(ufunc(np.float64(value)))

    return function


def _erf(value: Any) -> Any:
    return math.erf(value)


def _erfc(value: Any) -> Any:
    return math.erfc(value)


def _logarithm(value: Any, base: Any = None) -> Any:
    natural = _in_float64("log", np.log)
    return natural(value) if base is None else np.float64(natural(value) / natural(base))


def _whole(name: str, ufunc: Function) -> Function:
    def function(value: Any) -> Any:
        _require_numbers(f"math.{name}()", (value,))
        return positive(value) if _is_integer(value) else whole_number(np.float64(ufunc(value)))

    return function


def _rounding(name: str, ufunc: Function) -> Function:
    inexact = _in_own_width(name, ufunc)

    def function(value: Any) -> Any:
        return positive(value) if _is_integer(value) else inexact(value)

    return function


def _extreme(symbol: str, ufunc: Function) -> Function:
    def function(a: Any, b: Any) -> Any:
        if _is_integer(a) and _is_integer(b):
            return wrap_like(integer_kind(a, b), int(a if compare(symbol, a, b) else b))
        x, y = common_float(a, b)
        return type(x)(ufunc(x, y))

    return function


np_minimum = _extreme("<", np.minimum)
np_maximum = _extreme(">", np.maximum)


def _sign(value: Any) -> Any:
    if _is_integer(value):
        return np.int64((int(value) > 0) - (int(value) < 0))
    return _in_own_width("sign", np.sign)(value)


def _where(test: Any, a: Any, b: Any) -> Any:
    return a if condition(test) else b


def _clip(value: Any, low: Any, high: Any) -> Any:
    return np_minimum(np_maximum(value, low), high)


_SHARED_NAMES = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "atan2"),
    *(
        "cos",
        "cosh",
        "sin",
        "sinh",
        "tan",
        "tanh",
        "cbrt",
        "copysign",
        "degrees",
        "exp",
        "exp2",
        "expm1",
        "fabs",
        "fmod",
        "hypot",
    ),
    *("log10", "log1p", "log2", "radians", "sqrt"),
)
# Until 2.0, NumPy had only the long names; both are used.
_LONG_NAMES = {name: name.replace("a", "arc", 1) for name in _SHARED_NAMES if name[:2] in ("ac", "as", "at")}


def _ufunc(name: str) -> Function:
    function: Function = getattr(np, _LONG_NAMES.get(name, name))
    return function


MATH_FUNCTIONS: dict[Any, Function] = {
    **{getattr(math, name): _in_float64(name, _ufunc(name)) for name in _SHARED_NAMES},
    math.ceil: _whole("ceil", np.ceil),
    math.erf: _in_float64("erf", _erf),
    math.erfc: _in_float64("erfc", _erfc),
    math.floor: _whole("floor", np.floor),
    math.isfinite: _test("math.isfinite()", np.isfinite),
    math.isinf: _test("math.isinf()", np.isinf),
    math.isnan: _test("math.isnan()", np.isnan),
    math.log: _logarithm,
    math.pow: _in_float64("pow", np.power),
    math.trunc: _whole("trunc", np.trunc),
}

NUMPY_FUNCTIONS: dict[Any, Function] = {
    **{_ufunc(name): _in_own_width(name, _ufunc(name)) for name in _SHARED_NAMES},
    np.absolute: magnitude,
    np.ceil: _rounding("ceil", np.ceil),
    np.clip: _clip,
    np.divide: divide,
    np.float_power: _in_float64("float_power", np.power),
    np.floor: _rounding("floor", np.floor),
    np.isfinite: _test("np.isfinite()", np.isfinite),
    np.isinf: _test("np.isinf()", np.isinf),
    np.isnan: _test("np.isnan()", np.isnan),
    np.log: _in_own_width("log", np.log),
    np.maximum: np_maximum,
    np.minimum: np_minimum,
    np.mod: remainder,
    np.multiply: multiply,
    np.power: power,
    np.rint: _rounding("rint", np.rint),
    np.round: lambda value, decimals=0: rounded(value, decimals),
    np.sign: _sign,
    np.square: lambda value: multiply(value, value),
    np.trunc: _rounding("trunc", np.trunc),
    np.where: _where,
}

#: These look at null operands themselves; all others give null for a null operand.
NULL_AWARE = frozenset({_where})
