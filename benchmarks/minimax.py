"""Makes the polynomials of ``kernels/llvm/math``: prints each table of coefficients, and how far it is off.

A polynomial is fitted by least squares, with mpmath, to many Chebyshev nodes of its interval, weighted by what an error
counts in the result: within a small factor of the best one. The coefficients are rounded one after the other, from
the constant term on; what a rounding changes is taken up by the terms that are not rounded yet. Run it after changing
an interval or a number of terms, and copy the tables. The error is that of the polynomial alone, in units of the
last place of the function.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpmath import asin, atan, cos, lu_solve, matrix, mp, mpf, pi, sin, sqrt

mp.dps = 60
_NODES_A_TERM = 4

Real = Any  # mpmath has no types


@dataclass(frozen=True)
class Fit:
    """A polynomial for ``fn(z)`` on ``[0, high]``, whose error counts ``weight(z)`` in the result."""

    name: str
    fn: Callable[[Real], Real]
    weight: Callable[[Real], Real]
    high: Real
    terms: int
    element: str


def _odd(fn: Callable[[Real], Real]) -> Callable[[Real], Real]:
    """Return (fn(r) - r) / r**3 as a function of z = r**2."""

    def of_square(z: Real) -> Real:
        r = sqrt(z)
        return (fn(r) - r) / r**3

    return of_square


def _odd_weight(fn: Callable[[Real], Real]) -> Callable[[Real], Real]:
    """Return what an error of `_odd` counts relative to fn(r)."""
    return lambda z: sqrt(z) ** 3 / fn(sqrt(z))


def _cosine(z: Real) -> Real:
    return (cos(sqrt(z)) - 1 + z / 2) / z**2


def _cosine_weight(z: Real) -> Real:
    return z**2 / cos(sqrt(z))


#: Intervals are a little wider than what remains of an argument, whose multiple of pi is rounded.
_MARGIN = mpf("1.001")


def _fits(element: str, half: int, quarter: int, arcsine: int, arctangent: int) -> list[Fit]:
    fits = (
        ("SINE_HALF_TURN", _odd(sin), _odd_weight(sin), (pi / 2 * _MARGIN) ** 2, half),
        ("SINE_QUARTER_TURN", _odd(sin), _odd_weight(sin), (pi / 4 * _MARGIN) ** 2, quarter),
        ("COSINE_QUARTER_TURN", _cosine, _cosine_weight, (pi / 4 * _MARGIN) ** 2, quarter),
        ("ARCSINE", _odd(asin), _odd_weight(asin), mpf("0.25"), arcsine),
        ("ARCTANGENT", _odd(atan), _odd_weight(atan), mpf("0.25"), arctangent),
    )
    return [Fit(name, fn, weight, high, terms, element) for name, fn, weight, high, terms in fits]


FITS = (*_fits("double", 8, 6, 13, 13), *_fits("float", 5, 3, 5, 6))


def _nodes(count: int, high: Real) -> list[Real]:
    return [high / 2 * (1 + cos(pi * (2 * i + 1) / (2 * count))) for i in range(count)]


def _rounded(value: Real, element: str) -> float:
    number = float(value)
    return number if element == "double" else float(struct.unpack("<f", struct.pack("<f", number))[0])


def coefficients(fit: Fit) -> list[float]:
    """Return the coefficients of a fit, from the constant term on, as floats of its width."""
    done: list[float] = []
    while len(done) < fit.terms:
        powers = range(len(done), fit.terms)
        rows, rest = [], []
        for z in _nodes(_NODES_A_TERM * fit.terms, fit.high):
            weight = fit.weight(z)
            rows.append([weight * z**power for power in powers])
            rest.append(weight * (fit.fn(z) - _value(done, z)))
        solution = lu_solve(matrix(rows), matrix(rest))  # more equations than terms: least squares
        done.append(_rounded(solution[0], fit.element))
    return done


def _value(values: Sequence[float], z: Real) -> Real:
    return sum((mpf(c) * z**i for i, c in enumerate(values)), mpf(0))


def error(fit: Fit, values: Sequence[float], points: int = 500) -> float:
    """Return the largest error of a polynomial, in units of 2**-53 or 2**-24 of the function that it is for."""
    unit = mpf(2) ** (-53 if fit.element == "double" else -24)
    zs = [fit.high * (i + 1) / points for i in range(points)]
    return float(max(abs(_value(values, z) - fit.fn(z)) * fit.weight(z) for z in zs) / unit)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    argparse.ArgumentParser(prog="minimax", description=__doc__).parse_args(arguments)
    for fit in FITS:
        values = coefficients(fit)
        print(f"{fit.name} of {fit.element}, off by {error(fit, values):.4f} units at most:")
        print("".join(f"    {value!r},\n" for value in values))


if __name__ == "__main__":
    main()
