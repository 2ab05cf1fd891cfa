"""Arc sine, arc cosine, arc tangent and the hypotenuse of a group of lanes.

Arc sine and arc cosine are a polynomial up to 1/2 and one of sqrt((1 - x) / 2) beyond; the arc tangent is one of the
smaller of two sides over the larger, or of what is beyond an eighth of a turn (Muller, "Elementary Functions", 3rd
edition, 2016, chapter 11); the hypotenuse is a square root corrected by its remainder (Borges, "An improved algorithm
for hypot(a,b)", 2019), and the inverse for the correction a subtraction of bits (Blinn, "Floating-point tricks", 1997:
the bits of a float are about its logarithm). What a quotient or a
square root was rounded by is brought in again. Not covered: the coefficients (``trigonometric_tables``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dataflare.kernels.llvm.math.trigonometric_tables import ARCSINE, ARCTANGENT

if TYPE_CHECKING:
    from dataflare.kernels.llvm.math.lanes import Lanes

__all__ = ["acos", "asin", "atan", "atan2", "hypot"]

_HALF_PI: Mapping[str, tuple[float, float]] = {
    "double": (1.5707963267948966, 6.123233995736766e-17),
    "float": (1.5707963705062866, -4.371138828673793e-08),
}
"""A quarter turn as the sum of two floats of each width."""

_EIGHTHS: Mapping[str, tuple[tuple[float, float, float, float], tuple[float, float, float, float]]] = {
    "double": (
        (0.0, 0.7853981633974483, 1.5707963267948966, 2.356194490192345),
        (0.0, 3.061616997868383e-17, 6.123233995736766e-17, 9.184850993605148e-17),
    ),
    "float": (
        (0.0, 0.7853981852531433, 1.5707963705062866, 2.356194496154785),
        (0.0, -2.1855694143368964e-08, -4.371138828673793e-08, -5.962440319251527e-09),
    ),
}
"""No, one, two and three eighths of a turn, and what these floats of each width are less than that."""

_SIDES: Mapping[str, tuple[float, float]] = {"double": (2.0**500, 2.0**1000), "float": (2.0**60, 2.0**120)}
"""The larger side of an angle from which on both are not made larger, and beyond which they are made smaller."""

_FAR: Mapping[str, int] = {"double": 300, "float": 40}
"""Exponent from which on sides are made smaller, and below minus which they are made larger, to square them."""

_INVERTING: Mapping[str, int] = {"double": 0x7FDE_6238_22FC_16E6, "float": 0x7EF3_11C3}
"""What the bits of a float and of its inverse add up to, about."""

_SMALLEST_NORMAL: Mapping[str, int] = {"double": -1022, "float": -126}


def asin(lanes: Lanes, x: str) -> str:
    """Return the arc sine; NaN beyond 1."""
    half_pi, half_pi_low = _HALF_PI[lanes.element]
    size = lanes.call("fabs", x)
    inner, root, lost, rest = _arcsine_parts(lanes, size)
    # Less than a tenth is wrong with 1 / (2 * root) as a line where it counts, and it is that of a rounding error.
    slope = lanes.fma(root, lanes.const(-3.6), lanes.const(2.8))
    rest = lanes.select(inner, rest, lanes.fma(lost, slope, rest))
    small = lanes.add(root, rest)
    doubled = lanes.mul(root, lanes.const(-2.0))
    total = lanes.add(lanes.const(half_pi), doubled)
    gone = lanes.add(lanes.sub(lanes.const(half_pi), total), doubled)
    rest = lanes.fma(rest, lanes.const(-2.0), lanes.const(half_pi_low))
    large = lanes.add(total, lanes.add(gone, rest))
    return lanes.call("copysign", lanes.select(inner, small, large), x)


def acos(lanes: Lanes, x: str) -> str:
    """Return the arc cosine; NaN beyond 1."""
    half_pi, half_pi_low = _HALF_PI[lanes.element]
    size = lanes.call("fabs", x)
    inner, root, lost, rest = _arcsine_parts(lanes, size)
    half_lost = lanes.mul(lost, lanes.const(0.5))
    rest = lanes.select(inner, rest, lanes.fma(half_lost, _about_inverse(lanes, root), rest))
    negative = lanes.compare("lt", x, lanes.const(0.0))
    # pi/2 - asin(x) up to 1/2; 2 * asin(root) beyond; and pi - that for negative arguments.
    middle = lanes.flag("or", inner, negative)
    base = lanes.select(inner, lanes.const(half_pi), lanes.const(2 * half_pi))
    base_low = lanes.select(inner, lanes.const(half_pi_low), lanes.const(2 * half_pi_low))
    base = lanes.select(middle, base, lanes.const(0.0))
    base_low = lanes.select(middle, base_low, lanes.const(0.0))
    factor = lanes.select(inner, lanes.const(1.0), lanes.const(2.0))
    turned = lanes.flag("xor", inner, negative)
    factor = lanes.select(turned, lanes.neg(factor), factor)
    term = lanes.mul(root, factor)
    total = lanes.add(base, term)
    gone = lanes.add(lanes.sub(base, total), term)
    empty = lanes.compare("eq", base, lanes.const(0.0))
    gone = lanes.select(empty, lanes.const(0.0), gone)
    return lanes.add(total, lanes.add(gone, lanes.fma(rest, factor, base_low)))


def _arcsine_parts(lanes: Lanes, size: str) -> tuple[str, str, str, str]:
    """Return where ``size`` is up to 1/2, and s, what s * s misses, and asin(s) - s for its s.

    There s is ``size``; beyond, the square root of (1 - size) / 2.
    """
    inner = lanes.compare("le", size, lanes.const(0.5))
    outer_z = lanes.fma(size, lanes.const(-0.5), lanes.const(0.5))
    z = lanes.select(inner, lanes.mul(size, size), outer_z)
    outer_root = lanes.call("sqrt", outer_z)
    root = lanes.select(inner, size, outer_root)
    lost = lanes.fma(lanes.neg(outer_root), outer_root, outer_z)
    values = lanes.paired_polynomial(z, lanes.mul(z, z), ARCSINE[lanes.element])
    return inner, root, lost, lanes.mul(lanes.mul(root, z), values)


def atan(lanes: Lanes, x: str) -> str:
    """Return the arc tangent."""
    size = lanes.call("fabs", x)
    far = lanes.const(2.0**100)
    size = lanes.select(lanes.compare("gt", size, far), far, size)
    one = lanes.const(1.0)
    swaps = lanes.compare("gt", size, one)
    above, below = lanes.select(swaps, one, size), lanes.select(swaps, size, one)
    return lanes.call("copysign", _angle(lanes, above, below, swaps, None), x)


def atan2(lanes: Lanes, y: str, x: str) -> str:
    """Return the angle of the point (x, y), with the sides of C's Annex F at zeros and infinities."""
    width, height = lanes.call("fabs", x), lanes.call("fabs", y)
    swaps = lanes.compare("gt", height, width)
    above, below = lanes.select(swaps, width, height), lanes.select(swaps, height, width)
    one, zero, infinity = lanes.const(1.0), lanes.const(0.0), lanes.const(math.inf)
    both = lanes.compare("eq", above, infinity)
    above, below = lanes.select(both, one, above), lanes.select(both, one, below)
    neither = lanes.compare("eq", below, zero)
    below = lanes.select(neither, one, below)
    endless = lanes.compare("eq", below, infinity)
    above, below = lanes.select(endless, zero, above), lanes.select(endless, one, below)
    # Inverses stay normal numbers, and so does what a quotient was rounded by unless the quotient is subnormal itself.
    near, far = _SIDES[lanes.element]
    scale = lanes.select(lanes.compare("gt", below, lanes.const(far)), lanes.const(near / far), one)
    scale = lanes.select(lanes.compare("lt", below, lanes.const(near)), lanes.const(near), scale)
    above, below = lanes.mul(above, scale), lanes.mul(below, scale)
    left = lanes.compare_whole("slt", lanes.to_bits(x), lanes.whole(0))
    angle = lanes.call("copysign", _angle(lanes, above, below, swaps, left), y)
    unordered = lanes.code.value(f"fcmp uno {lanes.floats} {x}, {y}")
    return lanes.select(unordered, lanes.add(x, y), angle)


def _angle(lanes: Lanes, above: str, below: str, swaps: str, left: str | None) -> str:
    """Return the angle of a point from 0 to pi, of its smaller side ``above`` and its larger one ``below``.

    ``swaps`` says where the larger one is the height, ``left`` where the width is negative. Beyond a slope of 1/2
    an eighth of a turn is taken off first: atan(a / b) = pi / 4 + atan((a - b) / (a + b)), where a - b is exact.
    """
    zero = lanes.const(0.0)
    steep = lanes.compare("gt", lanes.add(above, above), below)
    total, lost = lanes.fast_sum(below, above)
    above = lanes.select(steep, lanes.sub(above, below), above)
    below, below_low = lanes.select(steep, total, below), lanes.select(steep, lost, zero)
    inverse = lanes.div(lanes.const(1.0), below)
    t = lanes.mul(above, inverse)
    minus = lanes.neg(t)
    missing = lanes.fma(minus, below_low, lanes.fma(minus, below, above))
    z = lanes.mul(t, t)
    series = lanes.paired_polynomial(z, lanes.mul(z, z), ARCTANGENT[lanes.element])
    rest = lanes.fma(lanes.mul(t, z), series, lanes.mul(missing, inverse))
    turned = swaps if left is None else lanes.flag("xor", swaps, left)
    t, rest = lanes.select(turned, lanes.neg(t), t), lanes.select(turned, lanes.neg(rest), rest)
    parts = []
    for none, quarter, half, three in _EIGHTHS[lanes.element]:
        flat, diagonal = lanes.const(none), lanes.const(quarter)
        if left is not None:
            flat = lanes.select(left, lanes.const(2 * half), flat)
            diagonal = lanes.select(left, lanes.const(three), diagonal)
        flat = lanes.select(swaps, lanes.const(half), flat)
        parts.append(lanes.select(steep, diagonal, flat))
    base, base_low = parts
    total, lost = lanes.fast_sum(base, t)
    return lanes.add(total, lanes.add(lost, lanes.add(rest, base_low)))


def hypot(lanes: Lanes, x: str, y: str) -> str:
    """Return the square root of x * x + y * y; infinity beside NaN is infinity."""
    width, height = lanes.call("fabs", x), lanes.call("fabs", y)
    swaps = lanes.compare("gt", height, width)
    small, large = lanes.select(swaps, width, height), lanes.select(swaps, height, width)
    # A power of two keeps squares away from overflow and underflow.
    far = _FAR[lanes.element]
    step = -_SMALLEST_NORMAL[lanes.element] * 2 // 3
    down = lanes.compare("gt", large, lanes.const(2.0**far))
    up = lanes.compare("lt", large, lanes.const(2.0**-far))
    scale, unscale = (
        lanes.select(down, lanes.const(2.0**-e), lanes.select(up, lanes.const(2.0**e), lanes.const(1.0)))
        for e in (step, -step)
    )
    a, b = lanes.mul(large, scale), lanes.mul(small, scale)
    square = lanes.mul(a, a)
    root = lanes.call("sqrt", lanes.fma(b, b, square))
    # What root * root is too large by, from differences that are exact or small.
    excess = lanes.mul(root, root)
    lost = lanes.fma(root, root, lanes.neg(excess))
    gained = lanes.fma(a, a, lanes.neg(square))
    excess = lanes.sub(lanes.fma(lanes.neg(b), b, lanes.sub(excess, square)), lanes.sub(gained, lost))
    half_excess = lanes.mul(excess, lanes.const(-0.5))
    root = lanes.fma(half_excess, _about_inverse(lanes, root), root)
    result = lanes.mul(root, unscale)
    unordered = lanes.code.value(f"fcmp uno {lanes.floats} {x}, {y}")
    result = lanes.select(unordered, lanes.add(x, y), result)
    infinity = lanes.const(math.inf)
    endless = lanes.flag("or", lanes.compare("eq", width, infinity), lanes.compare("eq", height, infinity))
    return lanes.select(endless, infinity, result)


def _about_inverse(lanes: Lanes, x: str) -> str:
    """Return 1 / x within an eighth of it, for what is left to correct of a rounding; of 0 it is finite."""
    bits = lanes.integer_op("sub", lanes.whole(_INVERTING[lanes.element]), lanes.to_bits(x))
    return lanes.from_bits(bits)
