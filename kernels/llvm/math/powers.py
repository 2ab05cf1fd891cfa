"""pow: x**y as exp(y log(x)), with a logarithm of twice the digits.

log(1 + f) is 2 atanh(f / (2 + f)): quotient, first term and the sum with k ln 2 are carried as pairs of floats
(Dekker), the rest of the series needs one float. Its relative error is below 2**-64, that of pow below 1 ULP, subnormal
results included. Of float32, plain float64 has digits enough. Special values are those of C's Annex F; a negative base
takes whole exponents only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from dataflare.kernels.llvm.math.exponential import bounded, exponential_of, parts
from dataflare.kernels.llvm.math.fitted import ATANH, EXP_SHORT, LOG_SHORT
from dataflare.kernels.llvm.math.lanes import Lanes
from dataflare.kernels.llvm.math.logarithms import joined, mantissa, series

__all__ = ["FUNCTIONS", "log_pair"]


def log_pair(lanes: Lanes, x: str) -> tuple[str, str, str]:
    """Return the logarithm of a float64 as a float and its error, and where x is not positive, normal and finite."""
    taken = mantissa(lanes, x)
    f, m, known = taken.f, taken.m, exponential_of(lanes)
    one = lanes.const(1.0)
    divisor = lanes.add(m, one)
    divisor_low = lanes.sub(m, lanes.sub(divisor, one))
    inverse = lanes.div(lanes.const(2.0), divisor)
    s = lanes.mul(f, inverse)  # twice the quotient
    half = lanes.mul(s, lanes.const(-0.5))
    missing = lanes.fma(half, divisor_low, lanes.fma(half, divisor, f))
    s_low = lanes.mul(missing, inverse)
    z = lanes.mul(s, s)
    z_low = lanes.fma(lanes.add(s, s), s_low, lanes.fma(s, s, lanes.neg(z)))
    twelfth = 1 / 12
    w = lanes.mul(z, lanes.paired_polynomial(z, lanes.mul(z, z), ATANH))
    u, u_low = lanes.fast_sum(lanes.const(twelfth), w)
    u_low = lanes.add(u_low, lanes.const(_twelfth_rest(twelfth)))
    v, v_low = lanes.exact_product(z, u)
    v_low = lanes.fma(z_low, u, lanes.fma(z, u_low, v_low))
    p, p_low = lanes.exact_product(s, v)
    p_low = lanes.fma(s_low, v, lanes.fma(s, v_low, p_low))
    high, first = lanes.fast_sum(lanes.mul(taken.k, lanes.const(known.ln2_high)), s)
    high, second = lanes.fast_sum(high, p)
    low = lanes.fma(taken.k, lanes.const(known.ln2_low), lanes.add(p_low, s_low))
    low = lanes.add(lanes.add(first, second), low)
    return *lanes.fast_sum(high, low), taken.unusual


def _twelfth_rest(twelfth: float) -> float:
    """Return 1/12 less a float near it."""
    numerator, denominator = twelfth.as_integer_ratio()
    return (denominator - 12 * numerator) / (12 * denominator)


def _pow(lanes: Lanes, x: str, y: str) -> str:
    if lanes.element == "double":
        high, low, unusual = log_pair(lanes, lanes.call("fabs", x))
        exponent, rest = lanes.exact_product(y, high)
        power = parts(lanes, exponent, lanes.fma(y, low, rest))
        value, error = lanes.fast_sum(lanes.const(1.0), power.r)
        value = lanes.add(value, lanes.add(error, power.tail))
        return _finished(lanes, x, y, exponent, unusual, value, power.n)
    wide = Lanes(lanes.emitter, "double")
    x, y = lanes.widen(x), lanes.widen(y)
    taken = mantissa(wide, wide.call("fabs", x))
    exponent = wide.mul(y, wide.add(*joined(wide, taken.k, *series(wide, taken.f, LOG_SHORT))))
    power = parts(wide, exponent, polynomial=EXP_SHORT)
    value = wide.add(wide.const(1.0), wide.add(power.r, power.tail))
    return lanes.narrow(_finished(wide, x, y, exponent, taken.unusual, value, power.n))


def _finished(lanes: Lanes, x: str, y: str, exponent: str, unusual: str, value: str, n: str) -> str:
    """Return value * 2**n with the sign of x**y, or a special value of C's Annex F."""
    known = exponential_of(lanes)
    quick = lanes.times_power(value, n)

    def careful() -> list[str]:
        zero, one, inf = lanes.const(0.0), lanes.const(1.0), lanes.const(math.inf)
        result = bounded(lanes, value, n, exponent)
        size, y_size = lanes.call("fabs", x), lanes.call("fabs", y)
        falls = lanes.compare("lt", y, zero)
        is_zero, is_inf = lanes.compare("eq", size, zero), lanes.compare("eq", size, inf)
        to_zero = lanes.flag("xor", is_zero, falls)
        extreme = lanes.flag("or", is_zero, is_inf)
        result = lanes.select(extreme, lanes.select(to_zero, zero, inf), result)
        endless = lanes.flag("and", lanes.compare("eq", size, one), lanes.compare("eq", y_size, inf))
        result = lanes.select(endless, one, result)
        is_whole = lanes.compare("eq", lanes.call("rint", y), y)
        half = lanes.mul(y, lanes.const(0.5))
        is_odd = lanes.flag("and", is_whole, lanes.is_not("eq", lanes.call("rint", half), half))
        result = lanes.select(is_odd, lanes.call("copysign", result, x), result)
        below = lanes.flag("and", lanes.compare("lt", x, zero), lanes.compare("lt", size, inf))
        nothing = lanes.flag("and", below, lanes.is_not("eq", lanes.call("rint", y), y))
        nothing = lanes.flag("or", nothing, lanes.flag("or", lanes.is_nan(x), lanes.is_nan(y)))
        result = lanes.select(nothing, lanes.const(math.nan), result)
        neutral = lanes.flag("or", lanes.compare("eq", x, one), lanes.compare("eq", y, zero))
        return [lanes.select(neutral, one, result)]

    far = lanes.is_not("le", lanes.call("fabs", exponent), lanes.const(known.ordinary))
    negative = lanes.is_not("gt", x, lanes.const(0.0))
    unusual = lanes.flag("or", lanes.flag("or", far, unusual), negative)
    return lanes.rarely(unusual, [quick], careful)[0]


FUNCTIONS: Mapping[str, Callable[..., str]] = {"pow": _pow}
