"""Sine, cosine and tangent of a group of lanes, and with those of ``arcs`` the trigonometric functions by name.

Sine and cosine are one odd polynomial over half a turn, without a choice between two of them; the tangent is the
quotient of a sine and a cosine over a quarter turn, corrected by its remainder. Methods: Muller, "Elementary
Functions: Algorithms and Implementation" (3rd edition, 2016), chapters 3, 5 and 11. Not covered: the reduction of
arguments (``reduction``), the coefficients (``trigonometric_tables``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dataflare.kernels.llvm.math.arcs import acos, asin, atan, atan2, hypot
from dataflare.kernels.llvm.math.reduction import reduced
from dataflare.kernels.llvm.math.trigonometric_tables import (
    COSINE_QUARTER_TURN,
    SINE_HALF_TURN,
    SINE_QUARTER_TURN,
)

if TYPE_CHECKING:
    from dataflare.kernels.llvm.math.lanes import Lanes

__all__ = ["FUNCTIONS", "cos", "sin", "tan"]

_MEAN_SLOPE = -0.14
"""How sin(r) / r changes with r**2, about, where the rounding of r**2 matters."""


def sin(lanes: Lanes, x: str) -> str:
    """Return the sine."""
    return _sine_of(lanes, *reduced(lanes, x))


def cos(lanes: Lanes, x: str) -> str:
    """Return the cosine, the sine of a quarter turn more."""
    return _sine_of(lanes, *reduced(lanes, x, shifted=True))


def _sine_of(lanes: Lanes, r: str, _low: str, odd: str) -> str:
    """Return r + r * w, where w = sin(r) / r - 1; the product is rounded with the sum, w to a third of a unit."""
    first, *others = SINE_HALF_TURN[lanes.element]
    z = lanes.mul(r, r)
    lost = lanes.fma(r, r, lanes.neg(z))
    square = lanes.mul(z, z)
    w = lanes.mul(lost, lanes.const(_MEAN_SLOPE))
    w = lanes.fma(square, lanes.paired_polynomial(z, square, others), w)
    w = lanes.fma(z, lanes.const(first), w)
    result = lanes.fma(r, w, r)
    return lanes.from_bits(lanes.integer_op("xor", lanes.to_bits(result), odd))


def tan(lanes: Lanes, x: str) -> str:
    """Return the tangent: sine over cosine, or minus cosine over sine behind an odd number of quarter turns."""
    r, low, odd = reduced(lanes, x, quarter=True)
    z = lanes.mul(r, r)
    square = lanes.mul(z, z)
    most = lanes.fma(z, lanes.const(-0.5), lanes.const(1.0))
    sine_rest = lanes.mul(lanes.mul(r, z), lanes.polynomial(z, SINE_QUARTER_TURN[lanes.element]))
    sine_rest = lanes.fma(low, most, sine_rest)
    sine, sine_low = lanes.fast_sum(r, sine_rest)
    cosine_rest = lanes.fma(z, lanes.const(-0.5), lanes.sub(lanes.const(1.0), most))
    cosine_rest = lanes.fma(square, lanes.polynomial(z, COSINE_QUARTER_TURN[lanes.element]), cosine_rest)
    cosine_rest = lanes.fma(lanes.neg(r), low, cosine_rest)
    cosine, cosine_low = lanes.fast_sum(most, cosine_rest)
    swaps = lanes.compare_whole("slt", odd, lanes.whole(0))
    above, above_low = lanes.select(swaps, cosine, sine), lanes.select(swaps, cosine_low, sine_low)
    below, below_low = lanes.select(swaps, sine, cosine), lanes.select(swaps, sine_low, cosine_low)
    inverse = lanes.div(lanes.const(1.0), below)
    quotient = lanes.mul(above, inverse)
    left = lanes.fma(lanes.neg(quotient), below, above)
    left = lanes.add(left, lanes.fma(lanes.neg(quotient), below_low, above_low))
    result = lanes.fma(left, inverse, quotient)
    result = lanes.from_bits(lanes.integer_op("xor", lanes.to_bits(result), odd))
    zero = lanes.compare("eq", x, lanes.const(0.0))
    return lanes.select(zero, x, result)


FUNCTIONS: Mapping[str, Callable[..., str]] = {
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "asin": asin,
    "acos": acos,
    "atan": atan,
    "atan2": atan2,
    "hypot": hypot,
}
"""Each takes `Lanes` and the registers of its arguments, and returns that of the result."""
