"""log, log2, log10 and log1p, and what functions with a logarithm in them are made of.

A number is taken apart as 2**k * (1 + f) with 1 + f between the roots of 1/2 and 2, and log(1 + f) is
f - f*f/2 + f**3 P(f) with a polynomial of our own; there is no division and no table. The large terms keep their
rounding errors (Dekker). Errors: at most 1 ULP, also around 1, where the logarithm is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dataflare.kernels.llvm.math.exponential import exponential_of
from dataflare.kernels.llvm.math.fitted import LOG, LOG_FLOAT
from dataflare.kernels.llvm.math.lanes import Lanes

__all__ = ["FUNCTIONS", "Mantissa", "joined", "log", "log1p_parts", "mantissa", "series"]

_POLYNOMIALS = {"double": LOG, "float": LOG_FLOAT}
_LOG2_E = (1.4426950408889634, 2.0355273740931033e-17)
_LOG10_E = (0.4342944819032518, 1.098319650216765e-17)
_LOG10_2_BITS = {"double": 42, "float": 15}
_LOG10_2 = (0.3010299956639812, -2.8037281277851704e-18)


@dataclass(frozen=True, kw_only=True)
class Mantissa:
    """A number as 2**k * m, f = m - 1, and where it is none of the positive, normal, finite numbers."""

    k: str
    m: str
    f: str
    unusual: str


def _root_of_half(lanes: Lanes) -> int:
    return 0x3FE6A09E667F3BCD if lanes.bits == 64 else 0x3F3504F3


def _unusual(lanes: Lanes, x: str) -> str:
    """Return where x is negative, 0, subnormal, infinite or NaN: all that is one comparison of bits."""
    smallest = 1 << lanes.fraction_bits
    moved = lanes.integer_op("sub", lanes.to_bits(x), lanes.whole(smallest))
    ordinary = ((2 * lanes.bias + 1) << lanes.fraction_bits) - smallest
    return lanes.compare_whole("uge", moved, lanes.whole(ordinary))


def _exponent(lanes: Lanes, x: str) -> tuple[str, str]:
    """Return the bits of x, moved so that k begins a new exponent at the root of 1/2, and k + bias as integers."""
    one = lanes.bias << lanes.fraction_bits
    moved = lanes.integer_op("add", lanes.to_bits(x), lanes.whole(one - _root_of_half(lanes)))
    return moved, lanes.integer_op("lshr", moved, lanes.whole(lanes.fraction_bits))


def _float_of_exponent(lanes: Lanes, biased: str, offset: str) -> str:
    """Return an exponent as a float less ``offset``, by way of the mantissa of a large power of two."""
    magic = (lanes.bias + lanes.fraction_bits) << lanes.fraction_bits
    return lanes.sub(lanes.from_bits(lanes.integer_op("or", biased, lanes.whole(magic))), offset)


def mantissa(lanes: Lanes, x: str) -> Mantissa:
    """Take x apart; a subnormal number is still right, of other unusual ones k and f are anything."""
    unusual = _unusual(lanes, x)
    offset = 2.0**lanes.fraction_bits + lanes.bias
    digits = lanes.fraction_bits + 2

    def careful() -> list[str]:
        is_tiny = lanes.compare("lt", x, lanes.const(2.0 ** (1 - lanes.bias)))
        larger = lanes.select(is_tiny, lanes.mul(x, lanes.const(2.0**digits)), x)
        return [
            larger,
            lanes.select(is_tiny, lanes.const(offset + digits), lanes.const(offset)),
        ]

    x, less = lanes.rarely(unusual, [x, lanes.const(offset)], careful)
    moved, biased = _exponent(lanes, x)
    fraction = lanes.integer_op("and", moved, lanes.whole((1 << lanes.fraction_bits) - 1))
    m = lanes.from_bits(lanes.integer_op("add", fraction, lanes.whole(_root_of_half(lanes))))
    k = _float_of_exponent(lanes, biased, less)
    return Mantissa(k=k, m=m, f=lanes.sub(m, lanes.const(1.0)), unusual=unusual)


def series(lanes: Lanes, f: str, polynomial: Sequence[float] = ()) -> tuple[str, str]:
    """Return log(1 + f) as two floats, the second up to a fifth of the first."""
    square = lanes.mul(f, f)
    half = lanes.mul(square, lanes.const(0.5))
    high, low = lanes.fast_sum(f, lanes.neg(half))
    cube = lanes.mul(half, f)
    rest = lanes.paired_polynomial(f, square, polynomial or _POLYNOMIALS[lanes.element])
    return high, lanes.fma(cube, rest, low)


def joined(lanes: Lanes, k: str, high: str, low: str) -> tuple[str, str]:
    """Return k * ln 2 + high + low as two floats, the second up to a fifth of the first."""
    known = exponential_of(lanes)
    total, error = lanes.fast_sum(lanes.mul(k, lanes.const(known.ln2_high)), high)
    return total, lanes.fma(k, lanes.const(known.ln2_low), lanes.add(error, low))


def _finished(lanes: Lanes, x: str, unusual: str, value: str) -> str:
    """Return a logarithm of x, or what it is of 0, of negative numbers, of inf and of NaN."""

    def careful() -> list[str]:
        result = lanes.select(lanes.compare("eq", x, lanes.const(0.0)), lanes.const(-math.inf), value)
        is_inf = lanes.compare("eq", x, lanes.const(math.inf))
        result = lanes.select(is_inf, lanes.const(math.inf), result)
        return [lanes.select(lanes.is_not("ge", x, lanes.const(0.0)), lanes.const(math.nan), result)]

    return lanes.rarely(unusual, [value], careful)[0]


def log(lanes: Lanes, x: str) -> str:
    """Return log(x)."""
    taken = mantissa(lanes, x)
    high, low = joined(lanes, taken.k, *series(lanes, taken.f))
    return _finished(lanes, x, taken.unusual, lanes.add(high, low))


def _to_base(lanes: Lanes, x: str, scale: tuple[float, float], unit: tuple[float, float]) -> str:
    """Return log(x) * scale, with ``unit`` being that of 2; pairs are a float and the rest of it."""
    taken = mantissa(lanes, x)
    high, low = series(lanes, taken.f)
    factor, rest = _in_two(lanes, scale)
    product, error = lanes.exact_product(high, lanes.const(factor))
    error = lanes.fma(high, lanes.const(rest), error)
    error = lanes.fma(low, lanes.const(factor), error)
    total, carried = lanes.fast_sum(lanes.mul(taken.k, lanes.const(unit[0])), product)
    error = lanes.add(carried, error)
    if unit[1]:
        error = lanes.fma(taken.k, lanes.const(unit[1]), error)
    return _finished(lanes, x, taken.unusual, lanes.add(total, error))


def _in_two(lanes: Lanes, pair: tuple[float, float]) -> tuple[float, float]:
    """Return a pair of float64 as a pair of the element, near enough for its precision."""
    if lanes.bits == 64:
        return pair
    scaled = round(math.ldexp(pair[0], 24))
    return scaled * 2.0**-24, pair[0] - scaled * 2.0**-24


def _log2(lanes: Lanes, x: str) -> str:
    return _to_base(lanes, x, _LOG2_E, (1.0, 0.0))


def _log10(lanes: Lanes, x: str) -> str:
    bits = _LOG10_2_BITS[lanes.element]
    high = math.floor(_LOG10_2[0] * 2.0**bits) * 2.0**-bits
    return _to_base(lanes, x, _LOG10_E, (high, (_LOG10_2[0] - high) + _LOG10_2[1]))


def log1p_parts(lanes: Lanes, x: str, low: str | None = None) -> tuple[str, str, str]:
    """Return log(1 + x + low) as two floats, and where 1 + x is none of the positive finite numbers.

    2**-k (1 + x) - 1 is added up from 2**-k x and 2**-k - 1, so that nothing of a small x is lost; what the sum loses
    is worth itself over 1 + f to the logarithm, for which 1 - f does. The sum is exact but for k = 1 and x < 1/2, where
    the second is the larger one.
    """
    one = lanes.const(1.0)
    u = lanes.add(x, one)
    unusual = _unusual(lanes, u)
    _, biased = _exponent(lanes, u)
    k = _float_of_exponent(lanes, biased, lanes.const(2.0**lanes.fraction_bits + lanes.bias))
    minus_n = lanes.integer_op("sub", lanes.whole(lanes.bias), biased)
    scale = lanes.times_power(one, minus_n)
    is_large = lanes.compare("gt", u, lanes.const(2.0 ** (2 * lanes.fraction_bits)))
    scale = lanes.select(is_large, lanes.const(0.0), scale)
    f, lost = lanes.fast_sum(lanes.sub(scale, one), lanes.times_power(x, minus_n))
    if low is not None:
        lost = lanes.fma(low, scale, lost)
    high, rest = series(lanes, f)
    lost = lanes.fma(lanes.neg(f), lost, lost)
    return *joined(lanes, k, high, lanes.add(rest, lost)), unusual


def _log1p(lanes: Lanes, x: str) -> str:
    high, low, unusual = log1p_parts(lanes, x)
    value = lanes.call("copysign", lanes.add(high, low), x)
    return _finished(lanes, lanes.add(x, lanes.const(1.0)), unusual, value)


FUNCTIONS: Mapping[str, Callable[..., str]] = {"log": log, "log2": _log2, "log10": _log10, "log1p": _log1p}
