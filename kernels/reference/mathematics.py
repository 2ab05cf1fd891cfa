"""Functions of ``math`` and of NumPy on single numbers, by IEEE 754: never an exception, never a warning.

A function of float32 gives float32: it is computed in float64 and rounded once. All else is float64.
floor, ceil and trunc give integers in ``math`` and floats in NumPy. Every device is within 4 ULP of these
for the functions that are not exact (sqrt, floor, fabs, copysign … are).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dataflare.kernels.reference.arithmetic import (
    common_float,
    float_kind,
    ieee_power,
    integer_kind,
    magnitude,
    multiply,
    positive,
    power,
)
from dataflare.kernels.reference.conversions import largest, smallest, whole_number
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


def _function(name: str, ufunc: Function) -> Function:
    """Make a function of floats from the NumPy function that computes it; float32 is rounded at the end."""

    def function(*values: Any) -> Any:
        _require_numbers(f"{name}()", values)
        kind = float_kind(*values)
        return kind(ufunc(*[np.float64(kind(value)) for value in values]))

    return function


def _test(name: str, ufunc: Function) -> Function:
    def function(value: Any) -> bool:
        _require_numbers(f"{name}()", (value,))
        return bool(ufunc(np.float64(value)))

    return function


def _never_raising(function: Callable[[float], float], pole: float) -> Function:
    """Give a function of the ``math`` module IEEE's results where it raises: ``pole`` at a pole."""

    def ieee(value: Any) -> float:
        try:
            return function(float(value))
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan if value == -math.inf and math.isnan(pole) else pole

    return ieee


def _gamma(value: Any) -> float:
    if value == 0:
        return math.copysign(math.inf, value)
    return float(_never_raising(math.gamma, math.nan)(value))


def _copysign(value: Any, sign: Any) -> Any:
    """Give a value the sign of another; that of a NaN, which says nothing, counts as positive."""
    return np.copysign(value, np.float64(0.0) if np.isnan(sign) else sign)


def _whole(name: str, ufunc: Function) -> Function:
    def function(value: Any) -> Any:
        _require_numbers(f"math.{name}()", (value,))
        return positive(value) if _is_integer(value) else whole_number(np.float64(ufunc(value)))

    return function


def _rounding(name: str, ufunc: Function) -> Function:
    exact = _function(name, ufunc)

    def function(value: Any) -> Any:
        return positive(value) if _is_integer(value) else exact(value)

    return function


def _extreme(symbol: str) -> Function:
    choose = smallest if symbol == "<" else largest

    def function(a: Any, b: Any) -> Any:
        _require_numbers("np.minimum()" if symbol == "<" else "np.maximum()", (a, b))
        if family(a) == "float" or family(b) == "float":
            for number in common_float(a, b):
                if math.isnan(number):
                    return number
        return choose(a, b)

    return function


np_minimum = _extreme("<")
np_maximum = _extreme(">")


def _sign(value: Any) -> Any:
    _require_numbers("np.sign()", (value,))
    if _is_integer(value):
        return wrap_like(integer_kind(value), (int(value) > 0) - (int(value) < 0))
    return type(value)(np.sign(value))


def _where(test: Any, a: Any, b: Any) -> Any:
    return a if condition(test) else b


def _clip(value: Any, low: Any, high: Any) -> Any:
    return np_minimum(np_maximum(value, low), high)


_SHARED_NAMES = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "atan2"),
    *("cos", "cosh", "sin", "sinh", "tan", "tanh"),
    *("cbrt", "degrees", "exp", "exp2", "expm1", "fabs", "fmod", "hypot"),
    *("log", "log10", "log1p", "log2", "radians", "sqrt"),
)
# Until 2.0, NumPy had only the long names; both are used.
_LONG_NAMES = {name: name.replace("a", "arc", 1) for name in _SHARED_NAMES if name[:2] in ("ac", "as", "at")}


def _ufunc(name: str) -> Function:
    function: Function = getattr(np, _LONG_NAMES.get(name, name))
    return function


MATH_FUNCTIONS: dict[Any, Function] = {
    **{getattr(math, name): _function(name, _ufunc(name)) for name in _SHARED_NAMES},
    math.ceil: _whole("ceil", np.ceil),
    math.copysign: _function("copysign", _copysign),
    math.erf: _function("erf", math.erf),
    math.erfc: _function("erfc", math.erfc),
    math.floor: _whole("floor", np.floor),
    math.gamma: _function("gamma", _gamma),
    math.isfinite: _test("isfinite", np.isfinite),
    math.isinf: _test("isinf", np.isinf),
    math.isnan: _test("isnan", np.isnan),
    math.lgamma: _function("lgamma", _never_raising(math.lgamma, math.inf)),
    math.pow: _function("pow", ieee_power),
    math.trunc: _whole("trunc", np.trunc),
}

NUMPY_FUNCTIONS: dict[Any, Function] = {
    **{_ufunc(name): _function(name, _ufunc(name)) for name in _SHARED_NAMES},
    np.absolute: magnitude,
    np.copysign: _function("copysign", _copysign),
    np.ceil: _rounding("ceil", np.ceil),
    np.clip: _clip,
    np.deg2rad: _function("deg2rad", np.radians),
    np.floor: _rounding("floor", np.floor),
    np.isfinite: _test("isfinite", np.isfinite),
    np.isinf: _test("isinf", np.isinf),
    np.isnan: _test("isnan", np.isnan),
    np.maximum: np_maximum,
    np.minimum: np_minimum,
    np.power: power,
    np.rad2deg: _function("rad2deg", np.degrees),
    np.rint: _rounding("rint", np.rint),
    np.sign: _sign,
    np.square: lambda value: multiply(value, value),
    np.trunc: _rounding("trunc", np.trunc),
    np.where: _where,
}

#: These look at null operands themselves; all others give null for a null operand.
NULL_AWARE = frozenset({_where})
