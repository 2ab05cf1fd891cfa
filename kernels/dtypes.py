"""The value types of record functions and how they map to Arrow's.

A ``ValueType`` is what a function computes with; columns of other Arrow types (lists, structs, binary, wide
decimals) have none and are only carried through. Weak types are those of Python literals and captured numbers:
they take the width of what they meet, as in NumPy's NEP 50.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

__all__ = [
    "BOOL",
    "FLOAT32",
    "FLOAT64",
    "INT32",
    "INT64",
    "STRING",
    "UINT64",
    "WEAK_FLOAT",
    "WEAK_INT",
    "ValueType",
    "arrow_type",
    "is_string",
    "value_type",
]

MAX_DECIMAL_PRECISION = 18
"""Decimals up to this precision are exact as int64."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """One scalar type: ``kind`` with its width in bits, and what temporal and decimal kinds add.

    ``kind`` is one of bool, int, uint, float, date, time, timestamp, duration, decimal, string.
    """

    kind: str
    bits: int
    unit: str | None = None
    tz: str | None = None
    precision: int = 0
    scale: int = 0
    weak: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer."""
        return self.kind in ("int", "uint")

    @property
    def is_number(self) -> bool:
        """Whether arithmetic treats this as a plain number (bool counts as 0 and 1)."""
        return self.kind in ("bool", "int", "uint", "float")

    @property
    def is_temporal(self) -> bool:
        """Whether this is a date, a time, a timestamp or a duration."""
        return self.kind in ("date", "time", "timestamp", "duration")

    def strong(self) -> ValueType:
        """Return the type that a weak type has when it is stored."""
        return replace(self, weak=False) if self.weak else self

    def __str__(self) -> str:
        if self.weak:
            return "int literal" if self.kind == "int" else "float literal"
        return str(arrow_type(self))


BOOL = ValueType("bool", 1)
INT32 = ValueType("int", 32)
INT64 = ValueType("int", 64)
UINT64 = ValueType("uint", 64)
FLOAT32 = ValueType("float", 32)
FLOAT64 = ValueType("float", 64)
WEAK_INT = ValueType("int", 64, weak=True)
WEAK_FLOAT = ValueType("float", 64, weak=True)
STRING = ValueType("string", 0)

_FIXED: dict[pa.DataType, ValueType] = {
    pa.bool_(): BOOL,
    pa.int8(): ValueType("int", 8),
    pa.int16(): ValueType("int", 16),
    pa.int32(): INT32,
    pa.int64(): INT64,
    pa.uint8(): ValueType("uint", 8),
    pa.uint16(): ValueType("uint", 16),
    pa.uint32(): ValueType("uint", 32),
    pa.uint64(): UINT64,
    pa.float16(): ValueType("float", 16),
    pa.float32(): FLOAT32,
    pa.float64(): FLOAT64,
    pa.date32(): ValueType("date", 32, unit="D"),
    pa.date64(): ValueType("date", 64, unit="ms"),
    pa.time32("s"): ValueType("time", 32, unit="s"),
    pa.time32("ms"): ValueType("time", 32, unit="ms"),
    pa.time64("us"): ValueType("time", 64, unit="us"),
    pa.time64("ns"): ValueType("time", 64, unit="ns"),
}
_TIMESTAMP: Any = pa.timestamp  # the stubs want a literal unit
_DURATION: Any = pa.duration
_ARROW = {value: arrow for arrow, value in _FIXED.items()}


def is_string(data_type: pa.DataType) -> bool:
    """Return whether a column of this Arrow type is a string inside a function, plain or dictionary-encoded."""
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )


def value_type(data_type: pa.DataType) -> ValueType | None:
    """Return the value type of an Arrow type, or None if functions cannot touch such a column."""
    fixed = _FIXED.get(data_type)
    if fixed is not None:
        return fixed
    if is_string(data_type):
        return STRING
    if pa.types.is_timestamp(data_type):
        return ValueType("timestamp", 64, unit=data_type.unit, tz=data_type.tz)
    if pa.types.is_duration(data_type):
        return ValueType("duration", 64, unit=data_type.unit)
    if pa.types.is_decimal128(data_type) and data_type.precision <= MAX_DECIMAL_PRECISION:
        return ValueType("decimal", 64, precision=data_type.precision, scale=data_type.scale)
    return None


def arrow_type(value: ValueType) -> pa.DataType:
    """Return the Arrow type that a result of this value type is stored as."""
    fixed = _ARROW.get(value.strong())
    if fixed is not None:
        return fixed
    if value.kind == "string":
        return pa.string()
    if value.kind == "timestamp":
        timestamp: pa.DataType = _TIMESTAMP(value.unit, tz=value.tz)
        return timestamp
    if value.kind == "duration":
        duration: pa.DataType = _DURATION(value.unit)
        return duration
    if value.kind == "decimal":
        return pa.decimal128(value.precision, value.scale)
    raise AssertionError(f"no Arrow type for {value}")
