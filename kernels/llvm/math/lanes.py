"""Arithmetic on a group of floats of one width, written down once for every device and number of lanes.

The functions of this folder are built from it. Every operation is one IEEE 754 operation that rounds once, so
what they return is the same to the bit on every device that has a fused multiply-add.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.kernels.llvm.emit import Emitter

__all__ = ["Lanes"]


class Lanes:
    """Operations on groups of ``element`` ("double" or "float"), and on integers and flags of as many lanes.

    Values are names of LLVM registers or literals: floats of ``element``, integers of the same width, flags of one
    bit. Comparisons are ordered: false where an operand is NaN; `is_not` and `is_nan` say so if they are not.
    """

    def __init__(self, emitter: Emitter, element: str) -> None:
        self.emitter = emitter
        self.code = emitter.code
        self.element = element
        self.bits = 64 if element == "double" else 32
        self.integer = f"i{self.bits}"
        self.floats = emitter.type_of(element)
        self.integers = emitter.type_of(self.integer)
        self.flags = emitter.type_of("i1")

    # ------------------------------------------------------------------------------------------ literals

    def const(self, value: float) -> str:
        """Return a float in every lane, rounded to the width."""
        if self.bits == 32:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        return self.emitter.splat(self.element, "0x" + struct.pack(">d", value).hex().upper())

    def whole(self, value: int) -> str:
        """Return an integer in every lane."""
        return self.emitter.splat(self.integer, str(value))

    # -------------------------------------------------------------------------------------------- floats

    def add(self, a: str, b: str) -> str:
        """Return a + b."""
        return self.code.value(f"fadd {self.floats} {a}, {b}")

    def sub(self, a: str, b: str) -> str:
        """Return a - b."""
        return self.code.value(f"fsub {self.floats} {a}, {b}")

    def mul(self, a: str, b: str) -> str:
        """Return a * b."""
        return self.code.value(f"fmul {self.floats} {a}, {b}")

    def div(self, a: str, b: str) -> str:
        """Return a / b."""
        return self.code.value(f"fdiv {self.floats} {a}, {b}")

    def fma(self, a: str, b: str, c: str) -> str:
        """Return a * b + c, rounded once."""
        return self.emitter.intrinsic("fma", self.element, a, b, c)

    def neg(self, a: str) -> str:
        """Return -a."""
        return self.code.value(f"fneg {self.floats} {a}")

    def call(self, name: str, *args: str) -> str:
        """Return an exact operation: fabs sqrt floor ceil trunc rint copysign."""
        return self.emitter.intrinsic(name, self.element, *args)

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """Return sum(coefficients[i] * x**i) by Horner's rule, with a fused multiply-add for each step."""
        result = self.const(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = self.fma(result, x, self.const(coefficient))
        return result

    def split_polynomial(self, x: str, square: str, coefficients: Sequence[float]) -> str:
        """Return what `polynomial` does by even and odd powers apart: half the wait, one product (``square``) more."""
        odd = self.polynomial(square, coefficients[1::2])
        return self.fma(odd, x, self.polynomial(square, coefficients[::2]))

    def quick_two_sum(self, a: str, b: str) -> tuple[str, str]:
        """Return a + b and what its rounding lost; b is not greater than a in size."""
        total = self.add(a, b)
        return total, self.sub(b, self.sub(total, a))

    # ---------------------------------------------------------------------------------- flags and choices

    def compare(self, relation: str, a: str, b: str) -> str:
        """Return flags of an ordered comparison of floats: eq lt le gt ge."""
        return self.code.value(f"fcmp o{relation} {self.floats} {a}, {b}")

    def is_not(self, relation: str, a: str, b: str) -> str:
        """Return the contrary of `compare`: true where an operand is NaN."""
        contrary = {"eq": "une", "lt": "uge", "le": "ugt", "gt": "ule", "ge": "ult"}[relation]
        return self.code.value(f"fcmp {contrary} {self.floats} {a}, {b}")

    def is_nan(self, a: str) -> str:
        """Return where a is NaN."""
        return self.code.value(f"fcmp uno {self.floats} {a}, {a}")

    def flag(self, op: str, a: str, b: str) -> str:
        """Return and, or, xor of flags."""
        return self.code.value(f"{op} {self.flags} {a}, {b}")

    def select(self, flags: str, then: str, otherwise: str) -> str:
        """Return floats from ``then`` where a flag is set, else from ``otherwise``."""
        return self.code.value(
            f"select {self.flags} {flags}, {self.floats} {then}, {self.floats} {otherwise}"
        )

    def select_whole(self, flags: str, then: str, otherwise: str) -> str:
        """Return integers from ``then`` where a flag is set, else from ``otherwise``."""
        return self.code.value(
            f"select {self.flags} {flags}, {self.integers} {then}, {self.integers} {otherwise}"
        )

    # ------------------------------------------------------------------------------------------ integers

    def integer_op(self, op: str, a: str, b: str) -> str:
        """Return an operation on integers, as LLVM names it: add sub mul and or xor shl lshr ashr."""
        return self.code.value(f"{op} {self.integers} {a}, {b}")

    def compare_whole(self, relation: str, a: str, b: str) -> str:
        """Return flags of a comparison of integers, as LLVM names it: eq ne slt sle sgt sge ult ule ugt uge."""
        return self.code.value(f"icmp {relation} {self.integers} {a}, {b}")

    def to_bits(self, a: str) -> str:
        """Return floats as the integers with the same bits."""
        return self.code.value(f"bitcast {self.floats} {a} to {self.integers}")

    def from_bits(self, a: str) -> str:
        """Return integers as the floats with the same bits."""
        return self.code.value(f"bitcast {self.integers} {a} to {self.floats}")
