"""Makes the polynomials of exponential, logarithmic and special functions in ``kernels/llvm/math``, with mpmath.

Each is fitted by least squares of the relative error of the function, at Chebyshev nodes, which is within a small
factor of the minimax error. Coefficients are rounded to the element from the lowest on, and the remaining ones are
fitted anew to what is left, so that their rounding costs next to nothing. ``python -m benchmarks.minimax_exponential``
prints each table with its largest relative error as a power of two; it reads and writes nothing.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpmath import mp

__all__ = ["POLYNOMIALS", "Polynomial", "coefficients", "error_bits"]

DIGITS = 60
mp.dps = DIGITS

_HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0001")
_SQRT_HALF = mp.sqrt(mp.mpf(1) / 2)


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """What is fitted: ``value`` over ``low`` to ``high``, weighted by ``weight``, which scales its absolute error."""

    name: str
    value: Callable[[Any], Any]
    weight: Callable[[Any], Any]
    low: Any
    high: Any
    degree: int
    element: str = "double"


def _taylor_safe(direct: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a quotient that is 0/0 at 0, evaluated with twice the digits and next to 0 instead of at it."""

    def value(x: Any) -> Any:
        with mp.workdps(3 * DIGITS):
            return +direct(x if abs(x) > mp.mpf(10) ** -30 else mp.mpf(10) ** -30)

    return value


def _scaled_erfc(t: Any) -> Any:
    """Return (1 + 2 x) exp(x * x) erfc(x) - 1.25 at the x of t = (x - 3.75) / (x + 3.75)."""
    x = mp.mpf("3.75") * (1 + t) / (1 - t)
    with mp.workdps(3 * DIGITS):
        return +((1 + 2 * x) * mp.exp(x * x) * mp.erfc(x) - mp.mpf("1.25"))


def _stirling(y: Any) -> Any:
    """Return x * (lgamma(x) - (x - 1/2) log x + x - log(2 pi) / 2) at x = y ** -1/2."""
    y = max(y, mp.mpf(10) ** -8)
    with mp.workdps(2 * DIGITS):
        x = 1 / mp.sqrt(y)
        return +(x * (mp.loggamma(x) - (x - mp.mpf(1) / 2) * mp.log(x) + x - mp.log(2 * mp.pi) / 2))


def _atanh(z: Any) -> Any:
    """Return Q of log((2 + s) / (2 - s)) = s + s z (1/12 + z Q(z)), z = s * s."""
    s = mp.sqrt(z)
    return ((mp.log((2 + s) / (2 - s)) - s) / (s * z) - mp.mpf(1) / 12) / z


def _polynomials() -> tuple[Polynomial, ...]:
    exp = {  # what is left after 1 + r + r * r / 2
        "value": _taylor_safe(lambda r: (mp.exp(r) - 1 - r - r**2 / 2) / r**3),
        "weight": lambda r: r**3 / mp.exp(r),
        "low": -_HALF_LN2,
        "high": _HALF_LN2,
    }
    exp2 = {
        "value": _taylor_safe(lambda r: (mp.mpf(2) ** r - 1) / r),
        "weight": lambda r: r / mp.mpf(2) ** r,
        "low": mp.mpf("-0.5"),
        "high": mp.mpf("0.5"),
    }
    log = {  # twice the rest, since the cube comes as half of one
        "value": _taylor_safe(lambda f: 2 * (mp.log1p(f) - f + f**2 / 2) / f**3),
        "weight": lambda f: f**2 / 2,
        "low": _SQRT_HALF - 1,
        "high": 2 * _SQRT_HALF - 1,
    }
    cube_root = {
        "value": lambda m: mp.cbrt(1 / m),
        "weight": mp.cbrt,
        "low": mp.mpf(1),
        "high": mp.mpf(2),
    }
    erf = {
        "value": _taylor_safe(lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1),
        "weight": lambda z: mp.mpf(1),
        "low": mp.mpf(0),
        "high": mp.mpf("0.5625"),
    }
    erfc = {
        "value": _scaled_erfc,
        "weight": lambda t: mp.mpf(1),
        "low": mp.mpf("-0.67"),
        "high": mp.mpf("0.7642"),
    }
    half = {"low": mp.mpf("-0.5"), "high": mp.mpf("0.5")}
    return (
        Polynomial(name="EXP", degree=9, **exp),
        Polynomial(name="EXP_FLOAT", degree=4, element="float", **exp),
        Polynomial(name="EXP_SHORT", degree=4, **exp),
        Polynomial(name="EXP2", degree=11, **exp2),
        Polynomial(name="EXP2_FLOAT", degree=5, element="float", **exp2),
        Polynomial(name="LOG", degree=19, **log),
        Polynomial(name="LOG_FLOAT", degree=8, element="float", **log),
        Polynomial(name="LOG_SHORT", degree=12, **log),
        Polynomial(
            name="ATANH",
            degree=8,
            value=_taylor_safe(_atanh),
            weight=lambda z: z * z,
            low=mp.mpf(0),
            high=mp.mpf("0.1178"),
        ),
        Polynomial(name="CUBE_ROOT", degree=5, element="float", **cube_root),
        Polynomial(name="ERF", degree=11, **erf),
        Polynomial(name="ERF_SHORT", degree=6, **erf),
        Polynomial(name="SCALED_ERFC", degree=24, **erfc),
        Polynomial(name="SCALED_ERFC_SHORT", degree=12, **erfc),
        Polynomial(
            name="GAMMA",
            degree=19,
            value=_taylor_safe(lambda t: (mp.gamma(2 + t) - 1) / t),
            weight=lambda t: t,
            **half,
        ),
        Polynomial(
            name="LOG_GAMMA",
            degree=19,
            value=_taylor_safe(lambda t: mp.loggamma(2 + t) / t),
            weight=lambda t: mp.mpf(2),
            **half,
        ),
        Polynomial(
            name="STIRLING",
            degree=7,
            value=_stirling,
            weight=lambda y: mp.sqrt(y),
            low=mp.mpf(10) ** -8,
            high=mp.mpf("0.0139"),
        ),
        Polynomial(
            name="SIN_PI",
            degree=8,
            value=_taylor_safe(lambda z: mp.sin(mp.pi * mp.sqrt(z)) / mp.sqrt(z)),
            weight=lambda z: mp.mpf("0.4"),
            low=mp.mpf(0),
            high=mp.mpf("0.25"),
        ),
    )


POLYNOMIALS = _polynomials()


def _rounded(value: Any, element: str) -> float:
    if element == "float":
        narrow: float = struct.unpack("<f", struct.pack("<f", float(value)))[0]
        return narrow
    return float(value)


def _nodes(polynomial: Polynomial, count: int) -> list[Any]:
    middle, radius = (polynomial.high + polynomial.low) / 2, (polynomial.high - polynomial.low) / 2
    return [middle + radius * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def coefficients(polynomial: Polynomial) -> tuple[float, ...]:
    """Return the coefficients, from the lowest on, each a float of the element."""
    nodes = _nodes(polynomial, 3 * (polynomial.degree + 1))
    left = [polynomial.value(x) for x in nodes]
    weights = [polynomial.weight(x) for x in nodes]
    found: list[float] = []
    for power in range(polynomial.degree + 1):
        free = range(power, polynomial.degree + 1)
        rows = mp.matrix([[w * x**j for j in free] for x, w in zip(nodes, weights, strict=True)])
        goal = mp.matrix([w * y for w, y in zip(weights, left, strict=True)])
        fitted = mp.lu_solve(rows.T * rows, rows.T * goal)
        found.append(_rounded(fitted[0], polynomial.element))
        left = [y - found[-1] * x**power for x, y in zip(nodes, left, strict=True)]
    return tuple(found)


def error_bits(polynomial: Polynomial, found: Sequence[float]) -> float:
    """Return the largest weighted error over 300 points, as a power of two."""
    largest = max(
        abs(polynomial.weight(x) * (mp.polyval(list(reversed(found)), x) - polynomial.value(x)))
        for x in _nodes(polynomial, 300)
    )
    return float(mp.log(largest, 2))


def main() -> None:
    """Print the tables whose names are given, or all."""
    for polynomial in POLYNOMIALS:
        if sys.argv[1:] and polynomial.name not in sys.argv[1:]:
            continue
        found = coefficients(polynomial)
        print(f"\n{polynomial.name} = (  # 2**{error_bits(polynomial, found):.1f}")
        for value in found:
            print(f"    {value!r},")
        print(")")


if __name__ == "__main__":
    main()
