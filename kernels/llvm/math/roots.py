"""cbrt: the cube root, at most 1 ULP off.

A polynomial gives 1/cbrt(m) for the mantissa to 17 bits, one of three factors the third of the exponent that is left
over; Newton's iteration, which for the inverse root needs no division, does the rest, the last step with the error of
the square.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from dataflare.kernels.llvm.math.fitted import CUBE_ROOT
from dataflare.kernels.llvm.math.lanes import Lanes

__all__ = ["FUNCTIONS"]


def _cbrt(lanes: Lanes, x: str) -> str:
    digits, bias = lanes.fraction_bits, lanes.bias
    size = lanes.call("fabs", x)
    smallest = 2.0 ** (1 - bias)
    subnormal = lanes.compare("lt", size, lanes.const(smallest))
    raised = 3 * (digits // 3 + 1)
    size = lanes.select(subnormal, lanes.mul(size, lanes.const(2.0**raised)), size)
    bits = lanes.to_bits(size)
    exponent = lanes.integer_op("lshr", bits, lanes.whole(digits))
    exponent = lanes.integer_op(
        "add", exponent, lanes.whole(-bias % 3)
    )  # the bias in it is now a multiple of 3
    third = lanes.integer_op("lshr", lanes.integer_op("mul", exponent, lanes.whole(43691)), lanes.whole(17))
    left = lanes.integer_op("sub", exponent, lanes.integer_op("mul", third, lanes.whole(3)))
    fraction = lanes.integer_op("and", bits, lanes.whole((1 << digits) - 1))
    m = lanes.from_bits(lanes.integer_op("or", fraction, lanes.whole(bias << digits)))
    inverse = lanes.paired_polynomial(m, lanes.mul(m, m), CUBE_ROOT)
    has_two = lanes.compare_whole("eq", left, lanes.whole(2))
    has_one = lanes.compare_whole("eq", left, lanes.whole(1))
    factor = lanes.select(has_one, lanes.const(2.0 ** (-1 / 3)), lanes.const(1.0))
    factor = lanes.select(has_two, lanes.const(2.0 ** (-2 / 3)), factor)
    power = lanes.select(has_one, lanes.const(2.0), lanes.const(1.0))
    m = lanes.mul(m, lanes.select(has_two, lanes.const(4.0), power))
    inverse = lanes.mul(inverse, factor)
    square = lanes.mul(inverse, inverse)
    if lanes.bits == 64:
        missing = lanes.fma(lanes.neg(lanes.mul(m, square)), inverse, lanes.const(1.0))
        inverse = lanes.fma(lanes.mul(inverse, lanes.const(1 / 3)), missing, inverse)
        square = lanes.mul(inverse, inverse)
    root = lanes.mul(m, square)
    product, error = lanes.exact_product(root, root)
    excess = lanes.fma(error, root, lanes.fma(product, root, lanes.neg(m)))
    root = lanes.fma(lanes.mul(square, lanes.const(-1 / 3)), excess, root)
    root = lanes.times_power(root, lanes.integer_op("sub", third, lanes.whole((bias + 2) // 3)))
    root = lanes.select(subnormal, lanes.mul(root, lanes.const(2.0 ** -(raised // 3))), root)
    usual = lanes.call("copysign", root, x)
    proper = lanes.flag(
        "and",
        lanes.compare("gt", size, lanes.const(0.0)),
        lanes.compare("lt", size, lanes.const(math.inf)),
    )
    return lanes.select(proper, usual, x)


FUNCTIONS: Mapping[str, Callable[..., str]] = {"cbrt": _cbrt}
