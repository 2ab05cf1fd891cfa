"""What one cell is while a function runs: its Python classes, and which of them go together.

A null is ``None``. Integers and floats of columns are NumPy scalars of the column's own width, so that a
plain Python number, which a literal or a captured value is, can be told apart: it is *weak* and takes the
type of what it meets (NEP 50). Booleans and strings are Python's, times are `TimeValue`, decimals
`DecimalValue`. What operations do is in the modules beside this one.
"""

from __future__ import annotations

import datetime
import decimal
from typing import Any, Literal

import numpy as np

from dataflare.kernels.errors import CompileError
from dataflare.kernels.reference.decimals import DecimalValue
from dataflare.kernels.reference.times import TimeValue, from_python_time

__all__ = [
    "Family",
    "family",
    "is_weak",
    "lift",
    "unsupported",
    "wrap_int64",
    "wrap_like",
]

Family = Literal["null", "bool", "int", "float", "str", "time", "decimal", "other"]

_PYTHON_TIMES = (datetime.date, datetime.time, datetime.timedelta, np.datetime64, np.timedelta64)


def lift(value: Any) -> Any:
    """Turn a constant as the user's code holds it into the value that operations work on."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.float16):
        return np.float32(value)
    if isinstance(value, np.str_):
        return str(value)
    if isinstance(value, _PYTHON_TIMES):
        return from_python_time(value)
    if isinstance(value, decimal.Decimal):
        return DecimalValue.from_python(value)
    return value


def family(value: Any) -> Family:
    """Return which operations a lifted value takes part in."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int"
    if isinstance(value, float | np.floating):
        return "float"
    if isinstance(value, str):
        return "str"
    if isinstance(value, TimeValue):
        return "time"
    if isinstance(value, DecimalValue):
        return "decimal"
    return "other"


def is_weak(value: Any) -> bool:
    """Return whether a number is a plain Python one, which takes the type of what it meets."""
    return type(value) is int or type(value) is float


def wrap_int64(value: int) -> int:
    """Return ``value`` modulo 2^64, as a signed 64-bit integer."""
    return (value + 2**63) % 2**64 - 2**63


def wrap_like(kind: type, value: int) -> Any:
    """Store an exact integer into ``kind`` (int for a weak result, np.int64, np.uint64), wrapping around."""
    if kind is np.uint64:
        return np.uint64(value % 2**64)
    return kind(wrap_int64(value))


def unsupported(operation: str, *operands: Any) -> CompileError:
    """Return the error for an operation that no device defines for these operands."""
    kinds = " and ".join(_describe(operand) for operand in operands)
    return CompileError(f"{operation} is not defined for {kinds} in a record function.")


def _describe(value: Any) -> str:
    if isinstance(value, TimeValue):
        return f"{value.kind}[{value.unit}]"
    if isinstance(value, DecimalValue):
        return f"decimal({value.precision}, {value.scale})"
    return type(value).__name__
