"""exp, exp2 and expm1, and what functions with an exponential in them are made of.

The argument is taken apart as n ln 2 + r by Cody and Waite's reduction, of which the first step is exact; 2**n goes
to the exponent and exp(r) is a polynomial of our own. Where a function needs it, a sum keeps its rounding error
(Dekker). Errors: at most 1 ULP. Logarithms and pow have modules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dataflare.kernels.llvm.math.fitted import EXP, EXP2, EXP2_FLOAT, EXP_FLOAT
from dataflare.kernels.llvm.math.lanes import Lanes

__all__ = ["FUNCTIONS", "Exponential", "Parts", "bounded", "expm1_parts", "exponential_of", "parts"]


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """What exponentials need to know of an element.

    ``ln2_high`` has as many zeros at its end as n has bits. Up to ``ordinary`` exp(x) and exp(-x) are normal numbers,
    and from ``overflow`` on infinite and 0, also as subnormals.
    """

    polynomial: Sequence[float]
    polynomial2: Sequence[float]
    ln2_high: float
    ln2_low: float
    ordinary: float
    overflow: float


_LN2_TAIL = 2.3190468138462996e-17
"""ln 2 less its nearest float64."""


def _split_ln2(bits: int) -> tuple[float, float]:
    """Return ln 2 as ``bits`` of it, and the rest rounded to float64."""
    high = math.floor(math.log(2) * 2.0**bits) * 2.0**-bits
    return high, (math.log(2) - high) + _LN2_TAIL


_DOUBLE, _FLOAT = _split_ln2(42), _split_ln2(15)
_EXPONENTIALS: Mapping[str, Exponential] = {
    "double": Exponential(
        polynomial=EXP,
        polynomial2=EXP2,
        ln2_high=_DOUBLE[0],
        ln2_low=_DOUBLE[1],
        ordinary=708.0,
        overflow=746.0,
    ),
    "float": Exponential(
        polynomial=EXP_FLOAT,
        polynomial2=EXP2_FLOAT,
        ln2_high=_FLOAT[0],
        ln2_low=_FLOAT[1],
        ordinary=86.5,
        overflow=104.0,
    ),
}


def exponential_of(lanes: Lanes) -> Exponential:
    """Return the constants of the element."""
    return _EXPONENTIALS[lanes.element]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """exp(x) as 2**n * (1 + r + tail): an integer and two floats, the second up to a fifth of the first."""

    n: str
    r: str
    tail: str


def parts(lanes: Lanes, x: str, low: str | None = None, polynomial: Sequence[float] = ()) -> Parts:
    """Return exp(x + low) in parts; ``low`` is far smaller than 1. A NaN leaves anything in ``n`` and NaN in ``r``."""
    known = exponential_of(lanes)
    whole, n = lanes.nearest(x, 1 / math.log(2))
    first = lanes.fma(whole, lanes.const(-known.ln2_high), x)
    rest = lanes.const(-known.ln2_low)
    rest = lanes.mul(whole, rest) if low is None else lanes.fma(whole, rest, low)
    r = lanes.add(first, rest)
    error = lanes.add(lanes.sub(first, r), rest)
    error = lanes.fma(error, r, error)  # the exponential's is that of r, times itself
    square, series = _beyond_linear(lanes, r, polynomial or known.polynomial)
    return Parts(n=n, r=r, tail=lanes.fma(square, series, error))


def _beyond_linear(lanes: Lanes, r: str, polynomial: Sequence[float]) -> tuple[str, str]:
    """Return the factors of exp(r) - 1 - r: the square, and 1/2 and more, of which 1/2 is added last."""
    square = lanes.mul(r, r)
    return square, lanes.fma(lanes.paired_polynomial(r, square, polynomial), r, lanes.const(0.5))


def bounded(lanes: Lanes, value: str, n: str, exponent: str) -> str:
    """Return value * 2**n, the exponential of ``exponent``, whatever that is; of NaN it is NaN if ``value`` is."""
    return _bounded(lanes, value, n, exponent, exponential_of(lanes).overflow)


def _bounded(lanes: Lanes, value: str, n: str, exponent: str, overflow: float) -> str:
    too_large = lanes.compare("ge", exponent, lanes.const(overflow))
    too_small = lanes.compare("le", exponent, lanes.const(-overflow))
    result = lanes.select(too_large, lanes.const(math.inf), lanes.scaled(value, n))
    return lanes.select(too_small, lanes.const(0.0), result)


def _finished(lanes: Lanes, value: str, n: str, exponent: str, limit: float, overflow: float) -> str:
    """Return the same by a short way while ``exponent`` is within ``limit``."""
    unusual = lanes.is_not("le", lanes.call("fabs", exponent), lanes.const(limit))
    quick = lanes.times_power(value, n)
    return lanes.rarely(unusual, [quick], lambda: [_bounded(lanes, value, n, exponent, overflow)])[0]


def _exp(lanes: Lanes, x: str) -> str:
    known = exponential_of(lanes)
    whole, n = lanes.nearest(x, 1 / math.log(2))
    r = lanes.fma(whole, lanes.const(-known.ln2_high), x)
    r = lanes.fma(whole, lanes.const(-known.ln2_low), r)
    square, series = _beyond_linear(lanes, r, known.polynomial)
    value = lanes.add(lanes.fma(square, series, r), lanes.const(1.0))
    return _finished(lanes, value, n, x, known.ordinary, known.overflow)


def _exp2(lanes: Lanes, x: str) -> str:
    known = exponential_of(lanes)
    whole, n = lanes.nearest(x)
    r = lanes.sub(x, whole)
    rest = lanes.paired_polynomial(r, lanes.mul(r, r), known.polynomial2)
    value = lanes.fma(rest, r, lanes.const(1.0))
    limit = lanes.bias - 2.0
    return _finished(lanes, value, n, x, limit, lanes.bias + lanes.fraction_bits + 1.0)


def expm1_parts(lanes: Lanes, x: str) -> tuple[str, str]:
    """Return exp(x) - 1 as a float and its error, for arguments of which the exponential is a normal number."""
    exponential = parts(lanes, x)
    scale = lanes.times_power(lanes.const(1.0), exponential.n)
    first, lost = lanes.fast_sum(scale, lanes.const(-1.0))  # of a large number, 1 may be half a unit
    high, low = lanes.fast_sum(first, lanes.mul(scale, exponential.r))
    return high, lanes.fma(scale, exponential.tail, lanes.add(low, lost))


def _expm1(lanes: Lanes, x: str) -> str:
    known = exponential_of(lanes)
    high, low = expm1_parts(lanes, x)
    usual = lanes.call("copysign", lanes.add(high, low), x)

    def careful() -> list[str]:
        large = _exp(lanes, x)
        is_small = lanes.compare("lt", x, lanes.const(0.0))
        return [lanes.select(is_small, lanes.const(-1.0), large)]

    unusual = lanes.is_not("le", lanes.call("fabs", x), lanes.const(known.ordinary))
    return lanes.rarely(unusual, [usual], careful)[0]


FUNCTIONS: Mapping[str, Callable[..., str]] = {"exp": _exp, "exp2": _exp2, "expm1": _expm1}
