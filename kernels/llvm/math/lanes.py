"""Arithmetic on a group of floats of one width, written down once for every device and number of lanes.

The functions of this folder are built from it. Every operation is one IEEE 754 operation that rounds once, so
what they return is the same to the bit on every device that has a fused multiply-add.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
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
        self.fraction_bits = 52 if element == "double" else 23
        self.bias = 1023 if element == "double" else 127
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

    def paired_polynomial(self, x: str, square: str, coefficients: Sequence[float]) -> str:
        """Return the polynomial as two of even and odd powers: half the wait of Horner's rule, for two operations."""
        even = self.polynomial(square, coefficients[::2])
        odd = self.polynomial(square, coefficients[1::2])
        return self.fma(odd, x, even)

    def fast_sum(self, a: str, b: str) -> tuple[str, str]:
        """Return a + b and its rounding error, where |a| >= |b| or a is 0 (Dekker 1971)."""
        total = self.add(a, b)
        return total, self.add(self.sub(a, total), b)

    def exact_sum(self, a: str, b: str) -> tuple[str, str]:
        """Return a + b and its rounding error (Knuth)."""
        total = self.add(a, b)
        of_b = self.sub(total, a)
        of_a = self.sub(total, of_b)
        return total, self.add(self.sub(a, of_a), self.sub(b, of_b))

    def exact_product(self, a: str, b: str) -> tuple[str, str]:
        """Return a * b and its rounding error."""
        product = self.mul(a, b)
        return product, self.fma(a, b, self.neg(product))

    def exact_quotient(
        self, a: str, a_low: str, b: str, b_low: str, inverse: str | None = None
    ) -> tuple[str, str]:
        """Return (a + a_low) / (b + b_low) and nearly all of its rounding error, for one division.

        There is none where ``inverse`` is given, which is 1 / b within a few units of the last place.
        """
        if inverse is None:
            inverse = self.div(self.const(1.0), b)
        quotient = self.mul(a, inverse)
        minus = self.neg(quotient)
        missing = self.fma(minus, b_low, self.add(self.fma(minus, b, a), a_low))
        return quotient, self.mul(missing, inverse)

    def widen(self, a: str) -> str:
        """Return a group of float32 as float64, for a `Lanes` of these."""
        return self.code.value(f"fpext {self.floats} {a} to {self.emitter.type_of('double')}")

    def narrow(self, a: str) -> str:
        """Return a group of float64 rounded to float32, the element of these lanes."""
        return self.code.value(f"fptrunc {self.emitter.type_of('double')} {a} to {self.floats}")

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

    def at_most(self, a: str, largest: float) -> str:
        """Return the smaller of both; NaN stays."""
        return self.select(self.compare("gt", a, self.const(largest)), self.const(largest), a)

    def rarely(self, flags: str, values: Sequence[str], compute: Callable[[], Sequence[str]]) -> list[str]:
        """Return floats: where a flag is set those of ``compute``, which runs if any lane needs it, else ``values``.

        A lane gets the same whatever stands in the others. The code goes on in another block.
        """
        code = self.code
        before, rare, done = code.block, code.fresh_label("rare"), code.fresh_label("usual")
        code.add(f"br i1 {self.emitter.any(flags)}, label %{rare}, label %{done}")
        code.label(rare)
        chosen = [self.select(flags, new, old) for new, old in zip(compute(), values, strict=True)]
        after = code.block
        code.add(f"br label %{done}")
        code.label(done)
        return [
            code.value(f"phi {self.floats} [ {old}, %{before} ], [ {new}, %{after} ]")
            for old, new in zip(values, chosen, strict=True)
        ]

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

    def nearest(self, x: str, factor: float = 1.0) -> tuple[str, str]:
        """Return the whole number nearest to x * factor, as float and integer; within 2**20 of 0, half to even.

        Adding 1.5 * 2**fraction_bits leaves the whole number in the lowest bits (the old trick, in Hart 1968): there
        are no vector conversions to int64 on many CPUs.
        """
        magic = 1.5 * 2.0**self.fraction_bits
        moved = self.fma(x, self.const(factor), self.const(magic))
        bits = self.integer_op("sub", self.to_bits(moved), self.to_bits(self.const(magic)))
        return self.sub(moved, self.const(magic)), bits

    def times_power(self, x: str, n: str) -> str:
        """Return x * 2**n by adding to the exponent: right where x and the result are normal numbers."""
        shifted = self.integer_op("shl", n, self.whole(self.fraction_bits))
        return self.from_bits(self.integer_op("add", self.to_bits(x), shifted))

    def scaled(self, x: str, n: str) -> str:
        """Return x * 2**n, rounded once, also where it overflows or is subnormal; |n| up to twice the bias."""
        above = self.integer_op("add", n, self.whole(4 * self.bias))
        half = self.integer_op(
            "sub", self.integer_op("lshr", above, self.whole(1)), self.whole(2 * self.bias)
        )
        one = self.const(1.0)
        first = self.mul(x, self.times_power(one, half))
        return self.mul(first, self.times_power(one, self.integer_op("sub", n, half)))
