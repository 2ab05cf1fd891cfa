"""Arc sine, arc cosine, arc tangent and the hypotenuse of a group of lanes.

Arc sine and arc cosine are a polynomial up to 1/2 and one of sqrt((1 - x) / 2) beyond; the arc tangent is one of the
smaller of two sides over the larger (Muller, "Elementary Functions", 3rd edition, 2016, chapter 11); the hypotenuse is
a square root corrected by its remainder (Borges, "An improved algorithm for hypot(a,b)", 2019). What a quotient or a
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

_FAR: Mapping[str, int] = {"double": 300, "float": 40}
"""Exponent from which on sides are made smaller, and below minus which they are made larger, to square them."""

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
    some = lanes.compare("gt", root, lanes.const(0.0))
    divisor = lanes.select(some, lanes.add(root, root), lanes.const(1.0))
    rest = lanes.select(inner, rest, lanes.add(rest, lanes.div(lost, divisor)))
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
    half_pi, half_pi_low = _HALF_PI[lanes.element]
    zero = lanes.const(0.0)
    base = lanes.select(swaps, lanes.const(half_pi), zero)
    base_low = lanes.select(swaps, lanes.const(half_pi_low), zero)
    return lanes.call("copysign", _arctangent(lanes, above, below, base, base_low, swaps), x)


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
    scale = _scale(lanes, below)
    above, below = lanes.mul(above, scale), lanes.mul(below, scale)
    left = lanes.compare_whole("slt", lanes.to_bits(x), lanes.whole(0))
    half_pi, half_pi_low = _HALF_PI[lanes.element]
    base = lanes.select(left, lanes.const(2 * half_pi), zero)
    base_low = lanes.select(left, lanes.const(2 * half_pi_low), zero)
    base = lanes.select(swaps, lanes.const(half_pi), base)
    base_low = lanes.select(swaps, lanes.const(half_pi_low), base_low)
    turned = lanes.flag("xor", swaps, left)
    angle = lanes.call("copysign", _arctangent(lanes, above, below, base, base_low, turned), y)
    unordered = lanes.code.value(f"fcmp uno {lanes.floats} {x}, {y}")
    return lanes.select(unordered, lanes.add(x, y), angle)


def _arctangent(lanes: Lanes, above: str, below: str, base: str, base_low: str, turned: str) -> str:
    """Return base + atan(above / below), or base - that where ``turned``; ``above`` is not greater than ``below``."""
    inverse = lanes.div(lanes.const(1.0), below)
    t = lanes.mul(above, inverse)
    lost = lanes.mul(lanes.fma(lanes.neg(t), below, above), inverse)
    z = lanes.mul(t, t)
    rest = lanes.polynomial(z, ARCTANGENT[lanes.element])  # even and odd powers apart would cancel each other
    rest = lanes.fma(lanes.mul(t, z), rest, lost)
    t, rest = lanes.select(turned, lanes.neg(t), t), lanes.select(turned, lanes.neg(rest), rest)
    total = lanes.add(base, t)
    empty = lanes.compare("eq", base, lanes.const(0.0))
    gone = lanes.select(empty, lanes.const(0.0), lanes.add(lanes.sub(base, total), t))
    return lanes.add(total, lanes.add(gone, lanes.add(rest, base_low)))


def hypot(lanes: Lanes, x: str, y: str) -> str:
    """Return the square root of x * x + y * y; infinity beside NaN is infinity."""
    width, height = lanes.call("fabs", x), lanes.call("fabs", y)
    swaps = lanes.compare("gt", height, width)
    small, large = lanes.select(swaps, width, height), lanes.select(swaps, height, width)
    scale = _scale(lanes, large)
    a, b = lanes.mul(large, scale), lanes.mul(small, scale)
    square = lanes.mul(a, a)
    root = lanes.call("sqrt", lanes.fma(b, b, square))
    # What root * root is too large by, from differences that are exact or small.
    excess = lanes.mul(root, root)
    lost = lanes.fma(root, root, lanes.neg(excess))
    gained = lanes.fma(a, a, lanes.neg(square))
    excess = lanes.sub(lanes.fma(lanes.neg(b), b, lanes.sub(excess, square)), lanes.sub(gained, lost))
    some = lanes.compare("gt", root, lanes.const(0.0))
    divisor = lanes.select(some, lanes.add(root, root), lanes.const(1.0))
    root = lanes.sub(root, lanes.div(excess, divisor))
    result = lanes.mul(root, lanes.div(lanes.const(1.0), scale))
    unordered = lanes.code.value(f"fcmp uno {lanes.floats} {x}, {y}")
    result = lanes.select(unordered, lanes.add(x, y), result)
    infinity = lanes.const(math.inf)
    endless = lanes.flag("or", lanes.compare("eq", width, infinity), lanes.compare("eq", height, infinity))
    return lanes.select(endless, infinity, result)


def _scale(lanes: Lanes, large: str) -> str:
    """Return a power of two that brings the larger side away from overflow and underflow."""
    far = _FAR[lanes.element]
    step = -_SMALLEST_NORMAL[lanes.element] * 2 // 3
    down = lanes.compare("gt", large, lanes.const(2.0**far))
    up = lanes.compare("lt", large, lanes.const(2.0**-far))
    scale = lanes.select(up, lanes.const(2.0**step), lanes.const(1.0))
    return lanes.select(down, lanes.const(2.0**-step), scale)
