"""The builtins of values: int, float, bool, round, abs, min, max, len, divmod, and NumPy's casts.

Called with values that are not null, except where a docstring says so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dataflare.kernels.reference.arithmetic import (
    common_float,
    floor_divide,
    integer_kind,
    magnitude,
    remainder,
)
from dataflare.kernels.reference.comparison import compare
from dataflare.kernels.reference.decimals import DecimalValue
from dataflare.kernels.reference.times import TimeValue
from dataflare.kernels.reference.values import family, unsupported, wrap_int64, wrap_like

__all__ = [
    "absolute",
    "cast",
    "divide_with_remainder",
    "largest",
    "length",
    "rounded",
    "smallest",
    "to_bool",
    "to_float",
    "to_int",
    "whole_number",
]


def whole_number(value: Any) -> Any:
    """Return a float that is whole as an integer; null for NaN and outside the range of int64."""
    exact = float(value)
    if not math.isfinite(exact) or not -(2.0**63) <= exact < 2.0**63:
        return None
    return int(exact) if type(value) is float else np.int64(int(exact))


def to_int(value: Any = 0) -> Any:
    """Return ``int(x)``: towards zero; null for NaN and outside the range of int64."""
    kind = family(value)
    if kind in ("int", "bool"):
        return value if type(value) is int else np.int64(wrap_int64(int(value)))
    if kind == "float":
        return whole_number(value)  # int() of the exact float is what truncates
    if isinstance(value, DecimalValue):
        return np.int64(int(value))
    raise unsupported("int()", value)


def to_float(value: Any = 0.0) -> Any:
    """Return ``float(x)``: float64, to nearest; text only as in the constant ``float("inf")``."""
    if type(value) is int or type(value) is float:
        return float(value)
    kind = family(value)
    if kind in ("int", "bool"):
        return np.float64(int(value))
    if kind in ("float", "str", "decimal"):
        return np.float64(value)
    raise unsupported("float()", value)


def to_bool(value: Any = False) -> bool:
    """Return ``bool(x)``: NaN is true, zeros and empty strings are false."""
    return bool(value)


def cast(kind: type[np.generic], value: Any) -> Any:
    """Return ``np.int8(x)`` … ``np.float64(x)``: int() or float(), then wrapped or rounded to the width."""
    if issubclass(kind, np.bool_):
        return bool(value)
    if issubclass(kind, np.integer):
        whole = to_int(value)
        return None if whole is None else np.int64(int(whole)).astype(kind)
    if kind is np.float16:
        raise unsupported("np.float16()", value)
    if family(value) not in ("int", "bool", "float", "decimal"):
        raise unsupported(f"np.{kind.__name__}()", value)
    if isinstance(value, DecimalValue):
        value = float(value)
    return kind(value)


def absolute(value: Any) -> Any:
    """Return ``abs(x)``; the smallest integer stays itself."""
    if isinstance(value, DecimalValue | TimeValue):
        return abs(value)
    if family(value) not in ("int", "bool", "float"):
        raise unsupported("abs()", value)
    return magnitude(value)


def rounded(value: Any, digits: Any = None) -> Any:
    """Return ``round(x)``: ties to even, null for NaN and outside int64; with digits NumPy's rule."""
    kind = family(value)
    if kind in ("int", "bool"):
        if digits is not None and int(digits) < 0:
            raise unsupported("round() to tens", value)
        return to_int(value)
    if kind != "float":
        raise unsupported("round()", value)
    if digits is None:
        return whole_number(type(value)(np.rint(value)))
    width = type(value)
    if digits == 0:
        return width(np.rint(value))
    factor = width(10.0 ** abs(int(digits)))
    if digits > 0:
        return width(np.rint(_times(value, factor)) / factor)
    return width(_times(np.rint(value / factor), factor))


def _times(value: Any, factor: Any) -> Any:
    return type(factor)(np.multiply(value, factor))  # np.multiply: a Python float would raise on overflow


def _in_common_type(values: tuple[Any, ...]) -> tuple[Any, ...]:
    families = {family(value) for value in values}
    if families == {"bool"} or not families <= {"bool", "int", "float"}:
        return values
    if "float" in families:
        return common_float(*values)
    kind = integer_kind(*values)
    if kind is np.int64 and any(isinstance(value, np.uint64) for value in values):
        return values  # compared exactly; the result is stored as int64 by the caller
    return tuple(wrap_like(kind, int(value)) for value in values)


def _choose(symbol: str, values: tuple[Any, ...]) -> Any:
    """Return the first value that none after it beats, as Python's min and max: null if any is null."""
    if len(values) == 1 and isinstance(values[0], tuple | list):
        values = tuple(values[0])
    if any(value is None for value in values):
        return None
    candidates = _in_common_type(values)
    best = candidates[0]
    for candidate in candidates[1:]:
        if compare(symbol, candidate, best):
            best = candidate
    if family(best) == "int" and type(best) is not int:
        return wrap_like(integer_kind(*candidates), int(best))
    return best


def smallest(*values: Any) -> Any:
    """Return ``min(...)``: ``b if b < a else a`` from left to right; null if any is null."""
    return _choose("<", values)


def largest(*values: Any) -> Any:
    """Return ``max(...)``: ``b if b > a else a`` from left to right; null if any is null."""
    return _choose(">", values)


def length(value: Any) -> Any:
    """Return ``len(x)``: code points of a string, elements of a constant collection."""
    if isinstance(value, str):
        return np.int64(len(value))
    return len(value)


def divide_with_remainder(a: Any, b: Any) -> tuple[Any, Any]:
    """Return ``divmod(a, b)``: the pair ``(a // b, a % b)``."""
    return floor_divide(a, b), remainder(a, b)
