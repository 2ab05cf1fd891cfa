"""erf, erfc, gamma and lgamma; float32 is computed in float64, erf and erfc with shorter polynomials there.

- erf below 3/4 is a polynomial of x * x. Beyond, erfc is exp(-x * x) / (1 + 2 x) times a polynomial of
  (x - 15/4) / (x + 15/4) that covers all positive x (Shepherd and Laframboise 1981). At most 1.25 ULP.
- gamma and lgamma below 8.5 are gamma(2 + t), with t from the nearest whole number, and its recurrence; beyond,
  Stirling's series; negative x by the reflection formula. At most 8 ULP. lgamma of a negative number is a difference:
  log(pi / |x sin(pi x)|) - lgamma(-x), and at most 8 ULP of the larger of these and 1 off, also near its zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from dataflare.kernels.llvm.math.exponential import parts
from dataflare.kernels.llvm.math.fitted import (
    ERF,
    ERF_SHORT,
    EXP_SHORT,
    GAMMA,
    LOG_GAMMA,
    SCALED_ERFC,
    SCALED_ERFC_SHORT,
    SIN_PI,
    STIRLING,
)
from dataflare.kernels.llvm.math.lanes import Lanes
from dataflare.kernels.llvm.math.logarithms import joined, log, mantissa, series
from dataflare.kernels.llvm.math.powers import log_pair

__all__ = ["FUNCTIONS"]

_ERF_SERIES_BELOW = 0.75
_LARGEST_ERFC = 28.0
_STIRLING_FROM = 8.5
_LARGEST_GAMMA = 200.0
_HUGE = 2.0**1000
_ROOT_OF_TWO_PI = 2.5066282746310002
_HALF_LOG_OF_TWO_PI = 0.9189385332046728


def _erf_excess(lanes: Lanes, x: str, polynomial: Sequence[float]) -> str:
    """Return erf(x) - x for small x."""
    square = lanes.mul(x, x)
    return lanes.mul(x, lanes.paired_polynomial(square, lanes.mul(square, square), polynomial))


def _erfc_parts(lanes: Lanes, size: str) -> tuple[str, str]:
    """Return erfc of a positive number up to 28 as a float and the exponent of the power of two to multiply with.

    One division serves both quotients.
    """
    one, centre = lanes.const(1.0), lanes.const(3.75)
    divisor, divisor_low = lanes.exact_sum(lanes.add(size, size), one)
    moved = lanes.add(size, centre)
    shared = lanes.div(one, lanes.mul(moved, divisor))
    inverse = lanes.mul(moved, shared)
    t = lanes.mul(lanes.mul(lanes.sub(size, centre), divisor), shared)
    excess = lanes.paired_polynomial(t, lanes.mul(t, t), SCALED_ERFC)
    factor, factor_low = lanes.fast_sum(lanes.const(1.25), excess)
    square, square_low = lanes.exact_product(size, size)
    power = parts(lanes, lanes.neg(square), lanes.neg(square_low))
    value, value_low = lanes.fast_sum(one, power.r)
    value_low = lanes.add(value_low, power.tail)
    product, product_low = lanes.exact_product(value, factor)
    product_low = lanes.fma(value, factor_low, lanes.fma(value_low, factor, product_low))
    quotient, rest = lanes.exact_quotient(product, product_low, divisor, divisor_low, inverse)
    return lanes.add(quotient, rest), power.n


def _erf(lanes: Lanes, x: str) -> str:
    size = lanes.call("fabs", x)
    small = lanes.add(x, _erf_excess(lanes, x, ERF))
    value, n = _erfc_parts(lanes, lanes.at_most(size, 6.5))
    return _joined_erf(lanes, x, size, small, lanes.times_power(value, n))


def _joined_erf(lanes: Lanes, x: str, size: str, small: str, erfc: str) -> str:
    is_small = lanes.compare("lt", size, lanes.const(_ERF_SERIES_BELOW))
    result = lanes.select(is_small, small, lanes.sub(lanes.const(1.0), erfc))
    return lanes.call("copysign", result, x)


def _erfc(lanes: Lanes, x: str) -> str:
    size, one = lanes.call("fabs", x), lanes.const(1.0)
    total, lost = lanes.fast_sum(one, lanes.neg(x))
    small = lanes.add(total, lanes.sub(lost, _erf_excess(lanes, x, ERF)))
    value, n = _erfc_parts(lanes, lanes.at_most(size, _LARGEST_ERFC))
    quick = lanes.times_power(value, n)
    far = lanes.is_not("lt", size, lanes.const(26.0))
    large = lanes.rarely(far, [quick], lambda: [lanes.scaled(value, n)])[0]
    return _joined_erfc(lanes, x, size, small, large)


def _joined_erfc(lanes: Lanes, x: str, size: str, small: str, large: str) -> str:
    is_negative = lanes.compare("lt", x, lanes.const(0.0))
    large = lanes.select(is_negative, lanes.sub(lanes.const(2.0), large), large)
    return lanes.select(lanes.compare("lt", size, lanes.const(_ERF_SERIES_BELOW)), small, large)


def _short_erfc_of_positive(lanes: Lanes, size: str) -> str:
    """Return erfc of a positive float64 with digits enough for float32, of which it is 0 from 12 on."""
    size = lanes.at_most(size, 12.0)
    one, centre = lanes.const(1.0), lanes.const(3.75)
    divisor, moved = lanes.add(lanes.add(size, size), one), lanes.add(size, centre)
    shared = lanes.div(one, lanes.mul(moved, divisor))
    t = lanes.mul(lanes.mul(lanes.sub(size, centre), divisor), shared)
    excess = lanes.paired_polynomial(t, lanes.mul(t, t), SCALED_ERFC_SHORT)
    factor = lanes.mul(lanes.add(excess, lanes.const(1.25)), lanes.mul(moved, shared))
    power = parts(lanes, lanes.neg(lanes.mul(size, size)), polynomial=EXP_SHORT)
    value = lanes.add(one, lanes.add(power.r, power.tail))
    return lanes.times_power(lanes.mul(value, factor), power.n)


def _short_erf(lanes: Lanes, x: str) -> str:
    size = lanes.call("fabs", x)
    small = lanes.add(x, _erf_excess(lanes, x, ERF_SHORT))
    return _joined_erf(lanes, x, size, small, _short_erfc_of_positive(lanes, size))


def _short_erfc(lanes: Lanes, x: str) -> str:
    size = lanes.call("fabs", x)
    small = lanes.sub(lanes.sub(lanes.const(1.0), x), _erf_excess(lanes, x, ERF_SHORT))
    return _joined_erfc(lanes, x, size, small, _short_erfc_of_positive(lanes, size))


def _is_whole(lanes: Lanes, x: str) -> str:
    return lanes.compare("eq", lanes.call("rint", x), x)


def _sin_pi(lanes: Lanes, x: str) -> str:
    """Return sin(pi * x), relatively right also near whole numbers."""
    whole = lanes.call("rint", x)
    r = lanes.sub(x, whole)
    square = lanes.mul(r, r)
    value = lanes.mul(r, lanes.polynomial(square, SIN_PI))
    half = lanes.mul(whole, lanes.const(0.5))
    is_odd = lanes.is_not("eq", lanes.call("rint", half), half)
    return lanes.select(is_odd, lanes.neg(value), value)


def _offset(lanes: Lanes, x: str, size: str) -> tuple[str, str]:
    """Return the whole number j nearest to |x| and |x| - j, or x for j = 0."""
    whole = lanes.call("rint", size)
    t = lanes.sub(size, whole)
    return whole, lanes.select(lanes.compare("eq", whole, lanes.const(0.0)), x, t)


def _factors(lanes: Lanes, whole: str, t: str) -> str:
    """Return (2 + t) (3 + t) ... (j - 1 + t), for a whole j up to 8; 1 for j < 3."""
    one = lanes.const(1.0)
    product = one
    for factor in range(2, 8):
        needed = lanes.compare("gt", whole, lanes.const(float(factor)))
        next_one = lanes.add(t, lanes.const(float(factor)))
        product = lanes.mul(product, lanes.select(needed, next_one, one))
    return product


def _stirling(lanes: Lanes, size: str) -> str:
    """Return lgamma(x) - (x - 1/2) log(x) + x - log(2 pi) / 2 for x from 8.5 on."""
    inverse = lanes.div(lanes.const(1.0), size)
    return lanes.mul(inverse, lanes.polynomial(lanes.mul(inverse, inverse), STIRLING))


def _gamma(lanes: Lanes, x: str) -> str:
    size, one, zero = lanes.call("fabs", x), lanes.const(1.0), lanes.const(0.0)
    is_negative = lanes.compare("lt", x, lanes.const(-0.5))
    whole, t = _offset(lanes, x, size)
    value = lanes.fma(t, lanes.paired_polynomial(t, lanes.mul(t, t), GAMMA), one)
    below_two = lanes.compare("lt", whole, lanes.const(2.0))
    divisor = lanes.select(below_two, lanes.add(t, one), one)
    divisor = lanes.mul(divisor, lanes.select(lanes.compare("eq", whole, zero), t, one))
    value = lanes.div(lanes.mul(value, _factors(lanes, whole, t)), divisor)

    def reflected() -> list[str]:
        product = lanes.mul(lanes.mul(x, _sin_pi(lanes, x)), value)
        result = lanes.div(lanes.const(-math.pi), product)
        is_pole = _is_whole(lanes, x)
        return [lanes.select(is_pole, lanes.const(math.nan), result)]

    small = lanes.rarely(is_negative, [value], reflected)[0]

    def large() -> list[str]:
        clamped = lanes.at_most(size, _LARGEST_GAMMA)
        high, low, _ = log_pair(lanes, clamped)
        times = lanes.sub(clamped, lanes.const(0.5))
        exponent, error = lanes.exact_product(times, high)
        error = lanes.fma(times, low, error)
        exponent, lost = lanes.fast_sum(exponent, lanes.neg(clamped))
        exponent, last = lanes.fast_sum(exponent, _stirling(lanes, clamped))
        error = lanes.add(error, lanes.add(lost, last))
        exponent = lanes.select(is_negative, lanes.neg(exponent), exponent)
        error = lanes.select(is_negative, lanes.neg(error), error)
        power = parts(lanes, exponent, error)
        result = lanes.add(one, lanes.add(power.r, power.tail))
        reflection = lanes.mul(lanes.mul(x, _sin_pi(lanes, x)), lanes.const(_ROOT_OF_TWO_PI))
        reflection = lanes.div(lanes.const(-math.pi), reflection)
        factor = lanes.select(is_negative, reflection, lanes.const(_ROOT_OF_TWO_PI))
        result = lanes.scaled(lanes.mul(result, factor), power.n)
        is_pole = lanes.flag("and", is_negative, _is_whole(lanes, x))
        return [lanes.select(is_pole, lanes.const(math.nan), result)]

    return lanes.rarely(lanes.is_not("lt", size, lanes.const(_STIRLING_FROM)), [small], large)[0]


def _lgamma(lanes: Lanes, x: str) -> str:
    size, one, zero = lanes.call("fabs", x), lanes.const(1.0), lanes.const(0.0)
    is_small = lanes.compare("lt", size, lanes.const(_STIRLING_FROM))
    whole, t = _offset(lanes, x, size)
    of_two = lanes.mul(t, lanes.paired_polynomial(t, lanes.mul(t, t), LOG_GAMMA))
    below_one = lanes.call("fabs", lanes.mul(t, lanes.add(t, one)))
    below_two = lanes.compare("lt", whole, lanes.const(2.0))
    factor = lanes.select(lanes.compare("eq", whole, zero), below_one, size)
    factor = lanes.select(below_two, factor, _factors(lanes, whole, t))
    taken = mantissa(lanes, lanes.select(is_small, factor, size))
    high, low = lanes.fast_sum(*joined(lanes, taken.k, *series(lanes, taken.f)))
    logarithm = lanes.add(high, low)
    signed = lanes.select(below_two, lanes.neg(logarithm), logarithm)
    small = lanes.add(of_two, signed)
    times = lanes.sub(size, lanes.const(0.5))
    product, error = lanes.exact_product(times, high)
    error = lanes.fma(times, low, error)
    total, lost = lanes.fast_sum(product, lanes.neg(size))
    rest = lanes.add(lanes.const(_HALF_LOG_OF_TWO_PI), _stirling(lanes, size))
    large = lanes.add(total, lanes.add(rest, lanes.add(lost, error)))
    value = lanes.select(is_small, small, large)

    def careful() -> list[str]:
        sine = lanes.call("fabs", lanes.mul(x, _sin_pi(lanes, x)))
        reflected = lanes.sub(log(lanes, lanes.div(lanes.const(math.pi), sine)), value)
        is_negative = lanes.compare("lt", x, lanes.const(-0.5))
        result = lanes.select(is_negative, reflected, value)
        huge = lanes.mul(
            size, lanes.add(lanes.sub(high, one), low)
        )  # all that counts, without an early overflow
        huge = lanes.select(lanes.compare("eq", size, lanes.const(math.inf)), size, huge)
        result = lanes.select(lanes.compare("ge", size, lanes.const(_HUGE)), huge, result)
        infinite = lanes.flag("and", is_negative, _is_whole(lanes, x))
        infinite = lanes.flag("or", infinite, lanes.compare("eq", x, zero))
        return [lanes.select(infinite, lanes.const(math.inf), result)]

    positive = lanes.flag("and", lanes.compare("gt", x, zero), lanes.compare("lt", x, lanes.const(_HUGE)))
    unusual = lanes.flag("xor", positive, lanes.emitter.splat("i1", "true"))
    return lanes.rarely(unusual, [value], careful)[0]


def _in_float64(
    function: Callable[..., str], of_float: Callable[..., str] | None = None
) -> Callable[..., str]:
    """Return a function that computes float32 in float64, maybe by a shorter way, and rounds the result."""

    def compute(lanes: Lanes, x: str) -> str:
        if lanes.element == "double":
            return function(lanes, x)
        wide = Lanes(lanes.emitter, "double")
        return lanes.narrow((of_float or function)(wide, lanes.widen(x)))

    return compute


FUNCTIONS: Mapping[str, Callable[..., str]] = {
    "erf": _in_float64(_erf, _short_erf),
    "erfc": _in_float64(_erfc, _short_erfc),
    "gamma": _in_float64(_gamma),
    "lgamma": _in_float64(_lgamma),
}
