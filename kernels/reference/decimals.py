"""Decimals of at most 18 digits: a scaled 64-bit integer, with Arrow's rules for the type of a result.

A sum has the larger scale and one digit more before the point, a product the sum of the scales and of the
precisions plus one. A result type of more than 18 digits is refused: the operation is then not exact in
64 bits. Division, powers and arithmetic with floats are not defined here; ``float(x)`` turns a decimal
into a float64.
"""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np

from dataflare.kernels.errors import CompileError

__all__ = ["MAX_PRECISION", "DecimalValue", "decimal_of_int"]

MAX_PRECISION = 18
_INTEGER_DIGITS = {np.int8: 3, np.uint8: 3, np.int16: 5, np.uint16: 5, np.int32: 10, np.uint32: 10}


class DecimalValue:
    """Return ``unscaled × 10^-scale`` with the precision and scale of its column's type; immutable."""

    __slots__ = ("precision", "scale", "unscaled")

    precision: int
    scale: int
    unscaled: int

    def __init__(self, precision: int, scale: int, unscaled: int) -> None:
        if precision > MAX_PRECISION:
            raise CompileError(
                f"a result of type decimal({precision}, {scale}) has more than {MAX_PRECISION} digits. "
                "Convert with float(...) first, or use map_batches."
            )
        for name, given in (("precision", precision), ("scale", scale), ("unscaled", unscaled)):
            object.__setattr__(self, name, given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a decimal value is immutable; cannot set {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (DecimalValue, (self.precision, self.scale, self.unscaled))

    @classmethod
    def from_python(cls, value: decimal.Decimal) -> DecimalValue:
        """Return the value of a ``Decimal`` constant, with just the digits that it is written with."""
        sign, digits, exponent = value.as_tuple()
        if not isinstance(exponent, int):
            raise CompileError(f"the constant {value!r} is not a number; decimals have no NaN or infinity.")
        unscaled = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
        scale = max(-exponent, 0)
        precision = max(len(str(unscaled)), scale, 1)
        return cls(precision, scale, -unscaled if sign else unscaled)

    def to_python(self) -> decimal.Decimal:
        """Return the same value as a ``Decimal``."""
        sign, digits = int(self.unscaled < 0), tuple(map(int, str(abs(self.unscaled))))
        return decimal.Decimal((sign, digits, -self.scale))

    def at_scale(self, scale: int) -> int:
        """Return the unscaled integer at a scale that is as large or larger."""
        return self.unscaled * int(10 ** (scale - self.scale))

    def _pair(self, other: DecimalValue) -> tuple[int, int]:
        scale = max(self.scale, other.scale)
        return self.at_scale(scale), other.at_scale(scale)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DecimalValue):
            return NotImplemented
        a, b = self._pair(other)
        return a == b

    def __lt__(self, other: DecimalValue) -> bool:
        a, b = self._pair(other)
        return a < b

    def __le__(self, other: DecimalValue) -> bool:
        a, b = self._pair(other)
        return a <= b

    def __gt__(self, other: DecimalValue) -> bool:
        return other < self

    def __ge__(self, other: DecimalValue) -> bool:
        return other <= self

    def __hash__(self) -> int:
        return hash(self.to_python())

    def __bool__(self) -> bool:
        return self.unscaled != 0

    def _sum_type(self, other: DecimalValue) -> tuple[int, int]:
        scale = max(self.scale, other.scale)
        whole = max(self.precision - self.scale, other.precision - other.scale)
        return whole + scale + 1, scale

    def __add__(self, other: DecimalValue) -> DecimalValue:
        a, b = self._pair(other)
        return DecimalValue(*self._sum_type(other), a + b)

    def __sub__(self, other: DecimalValue) -> DecimalValue:
        a, b = self._pair(other)
        return DecimalValue(*self._sum_type(other), a - b)

    def __mul__(self, other: DecimalValue) -> DecimalValue:
        precision = self.precision + other.precision + 1
        return DecimalValue(precision, self.scale + other.scale, self.unscaled * other.unscaled)

    def __neg__(self) -> DecimalValue:
        return DecimalValue(self.precision, self.scale, -self.unscaled)

    def __abs__(self) -> DecimalValue:
        return DecimalValue(self.precision, self.scale, abs(self.unscaled))

    def __float__(self) -> float:
        # Two roundings where 10^scale or the integer is beyond 2^53: what one division in hardware does.
        return float(np.float64(self.unscaled) / np.float64(10**self.scale))

    def __int__(self) -> int:
        whole = abs(self.unscaled) // int(10**self.scale)
        return -whole if self.unscaled < 0 else whole

    def __repr__(self) -> str:
        return f"<decimal({self.precision}, {self.scale}) {self}>"

    def __str__(self) -> str:
        return f"{self.to_python():f}"


def decimal_of_int(value: Any) -> DecimalValue:
    """Return an integer operand as a decimal: the digits of a constant, or all those of a column's type."""
    if type(value) is int:
        return DecimalValue(len(str(abs(value))), 0, value)
    return DecimalValue(_INTEGER_DIGITS.get(type(value), 19), 0, int(value))
