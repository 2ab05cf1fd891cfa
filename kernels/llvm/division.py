"""Division of float64 by a constant: the same bits as the divider gives, for two instructions of a multiplier.

A divider takes 16 cycles for a register of AVX-512 and cannot start the next one before; a multiply-add takes half
a cycle. With the reciprocal as the sum of two floats, ``x / c`` is ``x * high + x * low``, the second product
rounded first and the sum once (Brisebarre, Muller and Raina, "Accelerating correctly rounded floating-point division
when the divisor is known in advance", 2004). Numbers that are very large or very small take the divider, as do
the few divisors for which the sum is not exact. Not covered: float32, and integers.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from dataflare.kernels.dtypes import FLOAT64

if TYPE_CHECKING:
    from dataflare.kernels.llvm.emit import Emitter

__all__ = ["divide_by_constant", "reciprocal"]

_PRECISION_BITS = 53
_MAX_DIVISOR_EXPONENT = 200
_MAX_DIVIDEND_EXPONENT = 700
"""Between 2**-700 and 2**700 nothing on the way to the quotient is rounded as a subnormal or overflows."""


@lru_cache(maxsize=256)
def reciprocal(divisor: float) -> tuple[float, float] | None:
    """Return floats ``(high, low)`` with ``fma(x, high, x * low) == x / divisor`` for every x in range.

    None where there are none, and for powers of two, which need no more than one product.

    Let the divisor be Y / 2**52 and x be X / 2**52, both within [1, 2), which scaling does not change. Then
    the sum before its rounding is off by less than 2**-106, and rounds wrong only if the midpoint of two floats
    is as near to the quotient. For x >= divisor none can be. Else the quotient's distance from the midpoint
    M / 2**54 is (X * 2**54 - M * Y) / (Y * 2**54), which is as near only if the numerator is 1 or -1: there is
    one such X for each modulo Y, if Y is odd, and both are tried here.
    """
    mantissa, exponent = math.frexp(divisor)
    if not math.isfinite(divisor) or abs(mantissa) in (0.0, 0.5) or abs(exponent) > _MAX_DIVISOR_EXPONENT:
        return None
    high = 1.0 / divisor
    low = float(1 / Fraction(divisor) - Fraction(high))
    scaled = abs(int(mantissa * 2**_PRECISION_BITS))
    if scaled % 2:
        inverse = pow(2 ** (_PRECISION_BITS + 1), -1, scaled)
        for candidate in (inverse, scaled - inverse):
            x = float(candidate)
            total = Fraction(x) * Fraction(high) + Fraction(x * low)
            if candidate >= 2 ** (_PRECISION_BITS - 1) and float(total) != x / divisor:
                return None
    return high, low


def divide_by_constant(emitter: Emitter, value: str, divisor: float) -> str | None:
    """Emit the division of a group by a constant without the divider; None where that cannot be done."""
    pair = reciprocal(divisor) if emitter.target.has_fma and emitter.lanes > 1 else None
    if pair is None:
        return None
    code, vector = emitter.code, emitter.type_of("double")
    high, low = (emitter.constant(FLOAT64, part) for part in pair)
    product = code.value(f"fmul {vector} {value}, {low}")
    suffix = f"v{emitter.lanes}f64"
    code.declare(f"declare {vector} @llvm.fma.{suffix}({vector}, {vector}, {vector})")
    quick = code.value(
        f"call {vector} @llvm.fma.{suffix}({vector} {value}, {vector} {high}, {vector} {product})"
    )
    if (pair[0] < 0) != (pair[1] < 0):  # two zeros of unlike sign add up to 0.0; the quotient may be -0.0
        signed = code.value(f"fmul {vector} {value}, {high}")
        code.declare(f"declare {vector} @llvm.copysign.{suffix}({vector}, {vector})")
        quick = code.value(f"call {vector} @llvm.copysign.{suffix}({vector} {quick}, {vector} {signed})")
    outside = _outside(emitter, value)
    before, divide, done = code.block, code.fresh_label("divide"), code.fresh_label("divided")
    code.add(f"br i1 {emitter.any(outside)}, label %{divide}, label %{done}")
    code.label(divide)
    slow = code.value(f"fdiv {vector} {value}, {emitter.constant(FLOAT64, divisor)}")
    code.add(f"br label %{done}")
    code.label(done)
    return code.value(f"phi {vector} [ {quick}, %{before} ], [ {slow}, %{divide} ]")


def _outside(emitter: Emitter, value: str) -> str:
    """Return which lanes need the divider; zeros and NaN do not."""
    code, vector = emitter.code, emitter.type_of("double")
    flags = emitter.type_of("i1")
    name = f"llvm.fabs.v{emitter.lanes}f64"
    code.declare(f"declare {vector} @{name}({vector})")
    size = code.value(f"call {vector} @{name}({vector} {value})")
    large = emitter.constant(FLOAT64, 2.0**_MAX_DIVIDEND_EXPONENT)
    small = emitter.constant(FLOAT64, 2.0**-_MAX_DIVIDEND_EXPONENT)
    is_large = code.value(f"fcmp ogt {vector} {size}, {large}")
    is_small = code.value(f"fcmp olt {vector} {size}, {small}")
    is_some = code.value(f"fcmp one {vector} {value}, {emitter.constant(FLOAT64, 0.0)}")
    is_small = code.value(f"and {flags} {is_small}, {is_some}")
    return code.value(f"or {flags} {is_large}, {is_small}")
