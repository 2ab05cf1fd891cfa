"""``+ - * / // % **``, shifts and bit operations on integers, floats and booleans, and the type each gives.

Types: an integer column takes part as int64 (uint64 if every operand is uint64 or weak); float32 stays
float32 against float32 and against weak numbers, which are rounded to float32 first; anything else with a
float is float64. Integers wrap; nothing here raises or warns about a value. Null operands, times and
decimals are dealt with before these functions are called: see ``semantics``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dataflare.kernels.reference.values import family, is_weak, wrap_like

__all__ = [
    "add",
    "bit_and",
    "bit_or",
    "bit_xor",
    "common_float",
    "divide",
    "floor_divide",
    "float_kind",
    "ieee_power",
    "integer_kind",
    "invert",
    "magnitude",
    "multiply",
    "negative",
    "positive",
    "power",
    "remainder",
    "shift_left",
    "shift_right",
    "subtract",
]


def integer_kind(*operands: Any) -> type:
    """Return the class of an integer result: int (all weak), np.uint64 or np.int64."""
    if all(type(operand) is int for operand in operands):
        return int
    if all(isinstance(operand, np.uint64) or type(operand) is int for operand in operands):
        return np.uint64
    return np.int64


def float_kind(*operands: Any) -> type:
    """Return the class of a float result: float (all weak), np.float32 or np.float64."""
    if all(is_weak(operand) for operand in operands):
        return float
    if all(isinstance(operand, np.float32) or is_weak(operand) for operand in operands):
        return np.float32
    return np.float64


def common_float(*operands: Any) -> tuple[Any, ...]:
    """Convert numbers to the float class of their result."""
    kind = float_kind(*operands)
    return tuple(kind(_number(operand)) for operand in operands)


def _number(operand: Any) -> Any:
    return operand if isinstance(operand, float | np.floating) else int(operand)


def _are_integers(*operands: Any) -> bool:
    return all(family(operand) in ("int", "bool") for operand in operands)


def _float_result(operands: tuple[Any, ...], result: Any) -> Any:
    return float_kind(*operands)(result)


def _converted(a: Any, b: Any) -> tuple[int, int]:
    """Return both integers as the class of their result holds them: uint64 beside int64 wraps to int64."""
    kind = integer_kind(a, b)
    return int(wrap_like(kind, int(a))), int(wrap_like(kind, int(b)))


def _ring(exact: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """Apply an operation that integers do modulo 2^64 and floats do in their own width."""
    if _are_integers(a, b):
        return wrap_like(integer_kind(a, b), exact(int(a), int(b)))
    x, y = _hardware(a, b)
    return _float_result((a, b), exact(x, y))


def _hardware(*operands: Any) -> tuple[Any, ...]:
    """Convert to NumPy scalars of the result's width: their operators follow IEEE 754 and never raise."""
    kind = np.float32 if float_kind(*operands) is np.float32 else np.float64
    return tuple(kind(_number(operand)) for operand in operands)


def add(a: Any, b: Any) -> Any:
    """Return ``a + b``."""
    return _ring(lambda x, y: x + y, a, b)


def subtract(a: Any, b: Any) -> Any:
    """Return ``a - b``."""
    return _ring(lambda x, y: x - y, a, b)


def multiply(a: Any, b: Any) -> Any:
    """Return ``a * b``."""
    return _ring(lambda x, y: x * y, a, b)


def divide(a: Any, b: Any) -> Any:
    """Return ``a / b``: true division; by zero ±inf or NaN. Integers are converted to float64 first."""
    if _are_integers(a, b):
        quotient = np.float64(int(a)) / np.float64(int(b))
        return float(quotient) if integer_kind(a, b) is int else quotient
    x, y = _hardware(a, b)
    return _float_result((a, b), x / y)


def floor_divide(a: Any, b: Any) -> Any:
    """Return ``a // b``, towards minus infinity; by zero null for integers, ``floor(a / b)`` for floats."""
    if _are_integers(a, b):
        x, y = _converted(a, b)
        return None if y == 0 else wrap_like(integer_kind(a, b), x // y)
    x, y = _hardware(a, b)
    return _float_result((a, b), _float_floor_divide(x, y))


def _float_floor_divide(x: Any, y: Any) -> Any:
    # CPython's float_floor_div: exact where floor(x / y) would be off by one.
    if y == 0:
        return np.floor(x / y)
    modulo = np.fmod(x, y)
    quotient = (x - modulo) / y
    if modulo != 0 and (y < 0) != (modulo < 0):
        quotient = quotient - type(quotient)(1)
    if quotient == 0:
        return np.copysign(type(quotient)(0), x / y)
    rounded = np.floor(quotient)
    return rounded + type(quotient)(1) if quotient - rounded > 0.5 else rounded


def remainder(a: Any, b: Any) -> Any:
    """Return ``a % b``: has the sign of ``b``; integers by zero give null, floats by zero NaN."""
    if _are_integers(a, b):
        x, y = _converted(a, b)
        return None if y == 0 else wrap_like(integer_kind(a, b), x % y)
    x, y = _hardware(a, b)
    return _float_result((a, b), _float_remainder(x, y))


def _float_remainder(x: Any, y: Any) -> Any:
    # CPython's float_rem: a zero result takes the sign of the divisor.
    if y == 0:
        return type(x)(np.nan)
    modulo = np.fmod(x, y)
    if modulo != 0:
        return modulo + y if (y < 0) != (modulo < 0) else modulo
    return np.copysign(type(x)(0), y)


def power(a: Any, b: Any) -> Any:
    """Return ``a ** b``: integers wrap, a negative exponent gives null; a float squared is ``a * a``."""
    if _are_integers(a, b):
        exponent = int(b)
        if exponent < 0:
            return None
        return wrap_like(integer_kind(a, b), pow(int(a), exponent, 2**64))
    x, y = _hardware(a, b)
    if is_weak(b) and b == 2:
        return _float_result((a, b), x * x)
    return _float_result((a, b), ieee_power(float(x), float(y)))


def ieee_power(x: float, y: float) -> float:
    """Return C's pow(): not NumPy's, which takes a square root where y is 0.5 and so differs for -inf and -0.0."""
    odd = y % 2 == 1 if math.isfinite(y) else False
    negative = odd and math.copysign(1.0, x) < 0
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if negative else math.inf
    except ValueError:
        if x == 0:
            return -math.inf if negative else math.inf
        return math.nan


def shift_left(a: Any, b: Any) -> Any:
    """Return ``a << b``: a negative count gives null, one of 64 or more 0."""
    count = int(b)
    if count < 0:
        return None
    return wrap_like(integer_kind(a, b), 0 if count >= 64 else int(a) << count)


def shift_right(a: Any, b: Any) -> Any:
    """Return ``a >> b``: keeps the sign; a negative count gives null, one of 64 or more 0 or -1."""
    count = int(b)
    if count < 0:
        return None
    return wrap_like(integer_kind(a, b), _converted(a, b)[0] >> min(count, 64))


def _bitwise(exact: Callable[[int, int], int], a: Any, b: Any) -> Any:
    if isinstance(a, bool) and isinstance(b, bool):
        return bool(exact(a, b))
    return wrap_like(integer_kind(a, b), exact(int(a), int(b)))


def bit_and(a: Any, b: Any) -> Any:
    """Return ``a & b``; a bool for two bools."""
    return _bitwise(lambda x, y: x & y, a, b)


def bit_or(a: Any, b: Any) -> Any:
    """Return ``a | b``; a bool for two bools."""
    return _bitwise(lambda x, y: x | y, a, b)


def bit_xor(a: Any, b: Any) -> Any:
    """Return ``a ^ b``; a bool for two bools."""
    return _bitwise(lambda x, y: x ^ y, a, b)


def invert(a: Any) -> Any:
    """Return ``~a``; the other truth value for a bool, as NumPy."""
    return not a if isinstance(a, bool) else wrap_like(integer_kind(a), ~int(a))


def negative(a: Any) -> Any:
    """Return ``-a``; the smallest integer stays itself."""
    if _are_integers(a):
        return wrap_like(integer_kind(a), -int(a))
    return -a


def positive(a: Any) -> Any:
    """Return ``+a``: the value in the width of arithmetic."""
    return wrap_like(integer_kind(a), int(a)) if _are_integers(a) else a


def magnitude(a: Any) -> Any:
    """Return ``abs(a)``; the smallest integer stays itself."""
    if _are_integers(a):
        return wrap_like(integer_kind(a), abs(int(a)))
    return type(a)(abs(a))
