"""Hyperbolic functions and their inverses, made of exp(x) - 1 and log(1 + x) as pairs of floats.

tanh, sinh and cosh come of e = exp(|x|) - 1 by their definitions without a loss around 0; asinh, acosh and atanh are
log(1 + v) for a v that is small where they are. A quotient gets the digits that the division rounded away with
one more multiply-add of the inverse. Errors: at most 1 ULP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from dataflare.kernels.llvm.math.exponential import (
    bounded,
    expm1_parts,
    exponential_of,
    parts,
)
from dataflare.kernels.llvm.math.lanes import Lanes
from dataflare.kernels.llvm.math.logarithms import joined, log1p_parts, mantissa, series

__all__ = ["FUNCTIONS"]


def _large(lanes: Lanes) -> str:
    """Return a number from which on asinh and acosh are log(2 x); the squares of smaller ones are finite."""
    return lanes.const(2.0 ** (lanes.bias // 2 - 2))


def _tanh(lanes: Lanes, x: str) -> str:
    doubled = lanes.mul(lanes.call("fabs", x), lanes.const(2.0))
    doubled = lanes.at_most(doubled, 2.0 + lanes.fraction_bits)  # a result of 1 within half a unit
    e, e_low = lanes.fast_sum(*expm1_parts(lanes, doubled))
    divisor, divisor_low = lanes.exact_sum(e, lanes.const(2.0))
    quotient, rest = lanes.exact_quotient(e, e_low, divisor, lanes.add(divisor_low, e_low))
    return lanes.call("copysign", lanes.add(quotient, rest), x)


def _half_exponential(lanes: Lanes, size: str, value: str) -> str:
    """Return ``value``, or exp(size) / 2 where exp(-size) is nothing beside it and the exponential may overflow."""

    def careful() -> list[str]:
        exponential = parts(lanes, size)
        half = lanes.add(exponential.r, exponential.tail)
        half = lanes.fma(half, lanes.const(0.5), lanes.const(0.5))
        return [bounded(lanes, half, exponential.n, size)]

    limit = exponential_of(lanes).ordinary
    return lanes.rarely(lanes.is_not("le", size, lanes.const(limit)), [value], careful)[0]


def _sinh(lanes: Lanes, x: str) -> str:
    size = lanes.call("fabs", x)
    e, e_low = lanes.fast_sum(*expm1_parts(lanes, size))
    divisor, divisor_low = lanes.exact_sum(e, lanes.const(1.0))
    quotient, rest = lanes.exact_quotient(e, e_low, divisor, lanes.add(divisor_low, e_low))
    total, lost = lanes.fast_sum(e, quotient)
    total = lanes.add(total, lanes.add(lost, lanes.add(e_low, rest)))
    value = _half_exponential(lanes, size, lanes.mul(total, lanes.const(0.5)))
    return lanes.call("copysign", value, x)


def _cosh(lanes: Lanes, x: str) -> str:
    size = lanes.call("fabs", x)
    exponential = parts(lanes, size)
    one = lanes.const(1.0)
    value, low = lanes.fast_sum(one, exponential.r)
    value = lanes.times_power(value, exponential.n)
    low = lanes.mul(lanes.add(low, exponential.tail), lanes.times_power(one, exponential.n))
    inverse = lanes.div(one, lanes.add(value, low))
    total = lanes.add(value, lanes.add(low, inverse))
    return _half_exponential(lanes, size, lanes.mul(total, lanes.const(0.5)))


def _log_of_double(lanes: Lanes, x: str) -> str:
    """Return log(2 x) of a large number, without doubling it; of inf and NaN what they are."""
    taken = mantissa(lanes, x)
    k = lanes.add(taken.k, lanes.const(1.0))
    value = lanes.add(*joined(lanes, k, *series(lanes, taken.f)))
    return lanes.select(lanes.compare("lt", x, lanes.const(math.inf)), value, x)


def _asinh(lanes: Lanes, x: str) -> str:
    size, one = lanes.call("fabs", x), lanes.const(1.0)
    square = lanes.mul(size, size)
    root = lanes.call("sqrt", lanes.add(square, one))
    v, v_low = lanes.exact_sum(size, lanes.div(square, lanes.add(root, one)))
    high, low, _ = log1p_parts(lanes, v, v_low)
    is_large = lanes.is_not("lt", size, _large(lanes))
    value = lanes.rarely(is_large, [lanes.add(high, low)], lambda: [_log_of_double(lanes, size)])[0]
    return lanes.call("copysign", value, x)


def _acosh(lanes: Lanes, x: str) -> str:
    one = lanes.const(1.0)
    t = lanes.sub(x, one)
    doubled = lanes.add(t, t)
    square = lanes.fma(t, t, doubled)  # x * x - 1
    square_low = lanes.fma(t, t, lanes.sub(doubled, square))
    root = lanes.call("sqrt", square)
    missing = lanes.add(lanes.fma(lanes.neg(root), root, square), square_low)
    divisor = lanes.select(lanes.compare("gt", root, lanes.const(0.0)), lanes.add(root, root), one)
    v, v_low = lanes.exact_sum(root, t)
    v_low = lanes.add(v_low, lanes.div(missing, divisor))
    high, low, _ = log1p_parts(lanes, v, v_low)

    def careful() -> list[str]:
        is_large = lanes.compare("ge", x, _large(lanes))
        return [lanes.select(is_large, _log_of_double(lanes, x), lanes.const(math.nan))]

    inside = lanes.flag("and", lanes.compare("ge", x, one), lanes.compare("lt", x, _large(lanes)))
    outside = lanes.flag("xor", inside, lanes.emitter.splat("i1", "true"))
    return lanes.rarely(outside, [lanes.add(high, low)], careful)[0]


def _atanh(lanes: Lanes, x: str) -> str:
    size, one = lanes.call("fabs", x), lanes.const(1.0)
    divisor, divisor_low = lanes.fast_sum(one, lanes.neg(size))
    doubled = lanes.add(size, size)
    v, v_low = lanes.exact_quotient(doubled, lanes.const(0.0), divisor, divisor_low)
    high, low, _ = log1p_parts(lanes, v, v_low)
    value = lanes.mul(lanes.add(high, low), lanes.const(0.5))

    def careful() -> list[str]:
        is_one = lanes.compare("eq", size, one)
        return [lanes.select(is_one, lanes.const(math.inf), lanes.const(math.nan))]

    value = lanes.rarely(lanes.is_not("lt", size, one), [value], careful)[0]
    return lanes.call("copysign", value, x)


FUNCTIONS: Mapping[str, Callable[..., str]] = {
    "sinh": _sinh,
    "cosh": _cosh,
    "tanh": _tanh,
    "asinh": _asinh,
    "acosh": _acosh,
    "atanh": _atanh,
}
