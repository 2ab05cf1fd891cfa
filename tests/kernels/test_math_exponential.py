"""Exponential, logarithmic, hyperbolic and special functions of kernels/llvm/math: errors, special values, bits."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpmath import mp
from own_math.running import TYPES, assert_same_bits_everywhere, compiled, worst_error

from dataflare.kernels.llvm.math import exponential, fitted, hyperbolic, logarithms, powers, roots, special

FUNCTIONS: Mapping[str, Callable[..., str]] = {
    **exponential.FUNCTIONS,
    **logarithms.FUNCTIONS,
    **powers.FUNCTIONS,
    **hyperbolic.FUNCTIONS,
    **roots.FUNCTIONS,
    **special.FUNCTIONS,
}
INF, NAN = math.inf, math.nan

#: Units of the last place that no result may be off by more than.
BOUNDS_ULP = {
    **dict.fromkeys(FUNCTIONS, 1.0),
    **dict.fromkeys(("log", "log2", "log10", "log1p", "pow"), 0.8),
    **dict.fromkeys(("erf", "erfc"), 1.25),
    **dict.fromkeys(("gamma", "lgamma"), 8.0),
}


# ------------------------------------------------------------------------------------------- arguments


def uniform(low: float, high: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda random, count: random.uniform(low, high, count)


def powers_of_two(low: float, high: float, *, signs: Sequence[int] = (-1, 1), add: float = 0.0) -> Any:
    return lambda random, count: add + random.choice(signs, count) * 2.0 ** random.uniform(low, high, count)


_TINY = powers_of_two(-1074, 1)
_POSITIVE = powers_of_two(-1074, 1023, signs=[1])
_NEAR_ONE = powers_of_two(-53, -1, add=1.0)
_LOGS = (_POSITIVE, uniform(0.5, 2), _NEAR_ONE)
RANGES: Mapping[str, Sequence[Callable[[np.random.Generator, int], np.ndarray]]] = {
    "exp": (uniform(-746, 710), uniform(-104, 89), uniform(-1, 1), _TINY),
    "exp2": (uniform(-1075, 1024), uniform(-150, 128), uniform(-1, 1), _TINY),
    "expm1": (uniform(-50, 710), uniform(-20, 89), uniform(-1, 1), _TINY),
    "log": _LOGS,
    "log2": _LOGS,
    "log10": _LOGS,
    "log1p": (uniform(-1, 1), powers_of_two(-53, -1, add=-1.0, signs=[1]), _TINY, _POSITIVE, uniform(0, 8)),
    "sinh": (uniform(-711, 711), uniform(-90, 90), uniform(-1, 1), uniform(-20, 20), _TINY),
    "cosh": (uniform(-711, 711), uniform(-90, 90), uniform(-1, 1), uniform(-20, 20), _TINY),
    "tanh": (uniform(-20, 20), uniform(-1, 1), _TINY),
    "asinh": (powers_of_two(-1074, 1023), uniform(-3, 3), uniform(-100, 100)),
    "acosh": (powers_of_two(-52, 3, add=1.0, signs=[1]), powers_of_two(0, 1023, signs=[1]), uniform(1, 9)),
    "atanh": (uniform(-1, 1), _TINY, powers_of_two(-53, -1, add=1.0, signs=[-1])),
    "cbrt": (powers_of_two(-1074, 1023), uniform(-8, 8)),
    "erf": (uniform(-6, 6), uniform(-1, 1), _TINY),
    "erfc": (uniform(-6, 27.3), uniform(-1, 1), uniform(0, 11), uniform(26, 27.3), _TINY),
    "gamma": (uniform(-20, 20), uniform(-185, 172), uniform(-1, 3), uniform(7, 12), _TINY),
    "lgamma": (powers_of_two(-1074, 1010, signs=[1]), uniform(0, 20), uniform(0.9, 2.1), _NEAR_ONE),
}
EDGES = np.array(
    [
        *(
            0.25,
            0.34657359,
            0.5,
            0.70710678,
            0.75,
            1,
            1.41421356,
            1.5,
            2,
            3,
            3.75,
            8.5,
            9,
            20,
            26,
            28,
            34.5,
            36.5,
        ),
        *(
            54,
            86.5,
            88.72,
            89,
            103.9,
            104,
            127,
            128,
            149,
            150,
            171.6,
            171.7,
            708,
            709.78,
            709.79,
            710.47,
            710.48,
        ),
        *(745.1, 745.2, 1022, 1023.9, 1074, 1e10, 2.0**53, 2.0**61, 2.0**509, 2.5e305, 1e306, 1.7e308),
    ]
)


def arguments_of(name: str, element: str, count: int = 150) -> list[np.ndarray]:
    random = np.random.default_rng([7, *name.encode()])
    if name == "pow":
        bases = np.concatenate(
            [
                random.uniform(0, 30, count),
                2.0 ** random.uniform(-1074, 1023, count),
                random.uniform(0.99, 1.01, count),
                -random.uniform(0, 30, count),
                random.uniform(0.5, 20, count),
            ]
        )
        exponents = np.concatenate(
            [
                random.uniform(-20, 20, count),
                random.uniform(-1, 1, count),
                random.uniform(-70000, 70000, count),
                np.rint(random.uniform(-250, 250, count)),
                random.uniform(-1100, 1100, count) / 4.5,
            ]
        )
        drawn = [bases, exponents]
    else:
        near = np.concatenate([EDGES, np.nextafter(EDGES, 0), np.nextafter(EDGES, INF)])
        drawn = [np.concatenate([r(random, count) for r in RANGES[name]] + [near, -near])]
    with np.errstate(over="ignore"):
        return [values.astype(TYPES[element]) for values in drawn]


def right(name: str, *arguments: Any) -> Any:
    """Return a function's value with 200 bits; None where it has none."""
    x = mp.mpf(float(arguments[0]))
    if name == "pow":
        y = mp.mpf(float(arguments[1]))
        return None if x < 0 and y != int(y) else mp.power(x, y)
    outside: Mapping[str, bool] = {
        **dict.fromkeys(("log", "log2", "log10"), x <= 0),
        "log1p": x <= -1,
        "acosh": x < 1,
        "atanh": abs(x) >= 1,
        "gamma": x <= 0 and x == mp.floor(x),
        "lgamma": x <= 0,
    }
    if outside.get(name, False):
        return None
    known: Mapping[str, Callable[[Any], Any]] = {
        "exp2": lambda v: mp.power(2, v),
        "log2": lambda v: mp.log(v) / mp.log(2),
        "erfc": lambda v: mp.erfc(min(max(v, -100), 100)),
        "cbrt": lambda v: mp.sign(v) * mp.cbrt(abs(v)),
        "lgamma": mp.loggamma,
    }
    return known.get(name, getattr(mp, name, None))(x)


# ----------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_result_is_off_by_more_than_its_bound(name: str, element: str) -> None:
    off, call, compared = worst_error(
        name, element, arguments_of(name, element), lambda *values: right(name, *values), bits=200
    )
    assert compared > 150
    assert off <= BOUNDS_ULP[name], call


def test_lgamma_of_negative_numbers_is_off_by_little_of_what_it_is_made_of() -> None:
    x = np.random.default_rng(5).uniform(-30, 0, 600)
    results = compiled("lgamma", "double", 16)(x)
    with mp.workprec(200):
        for value, got in zip(map(float, x), results, strict=True):
            reflected = abs(mp.log(mp.pi / abs(value * mp.sinpi(mp.mpf(value)))))
            unit = np.spacing(max(1.0, float(reflected), abs(math.lgamma(-value))))
            assert abs(mp.mpf(float(got)) - mp.log(abs(mp.gamma(mp.mpf(value))))) <= 8 * unit, value


_SPECIAL: Mapping[str, Sequence[tuple[float, float]]] = {
    "exp": [(INF, INF), (-INF, 0.0), (0.0, 1.0), (-0.0, 1.0), (1e300, INF), (-1e300, 0.0)],
    "exp2": [(INF, INF), (-INF, 0.0), (-0.0, 1.0), (1024, INF), (-1080, 0.0)],
    "expm1": [(INF, INF), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (1e300, INF), (-1e300, -1.0)],
    "log": [(INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-1.0, NAN), (-1e-40, NAN)],
    "log2": [(INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-1.0, NAN)],
    "log10": [(INF, INF), (-INF, NAN), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-1.0, NAN)],
    "log1p": [(INF, INF), (-INF, NAN), (-1.0, -INF), (0.0, 0.0), (-0.0, -0.0), (-1.5, NAN)],
    "sinh": [(INF, INF), (-INF, -INF), (0.0, 0.0), (-0.0, -0.0), (1e300, INF), (-1e300, -INF)],
    "cosh": [(INF, INF), (-INF, INF), (0.0, 1.0), (-1e300, INF)],
    "tanh": [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0), (1e300, 1.0), (-1e300, -1.0)],
    "asinh": [(INF, INF), (-INF, -INF), (0.0, 0.0), (-0.0, -0.0)],
    "acosh": [(INF, INF), (-INF, NAN), (1.0, 0.0), (0.5, NAN), (-5.0, NAN)],
    "atanh": [(1.0, INF), (-1.0, -INF), (0.0, 0.0), (-0.0, -0.0), (1.5, NAN), (INF, NAN), (-INF, NAN)],
    "cbrt": [(INF, INF), (-INF, -INF), (0.0, 0.0), (-0.0, -0.0), (-27.0, -3.0)],
    "erf": [(INF, 1.0), (-INF, -1.0), (0.0, 0.0), (-0.0, -0.0)],
    "erfc": [(INF, 0.0), (-INF, 2.0), (0.0, 1.0), (-0.0, 1.0), (30.0, 0.0), (-30.0, 2.0)],
    "gamma": [(INF, INF), (-INF, NAN), (0.0, INF), (-0.0, -INF), (-1.0, NAN), (-300.0, NAN), (1e300, INF)],
    "lgamma": [(INF, INF), (-INF, INF), (0.0, INF), (-0.0, INF), (-3.0, INF), (1.0, 0.0), (2.0, 0.0)],
}


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", _SPECIAL)
def test_special_values_are_those_of_annex_f(name: str, element: str, lanes: int) -> None:
    with np.errstate(over="ignore", under="ignore"):
        table = np.array([*_SPECIAL[name], (NAN, NAN)]).astype(TYPES[element])
    got = compiled(name, element, lanes)(table[:, 0])
    np.testing.assert_array_equal(got, table[:, 1])
    zeros = table[:, 1] == 0
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(table[zeros, 1]))


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("element", TYPES)
def test_powers_of_special_values_are_those_of_annex_f(element: str, lanes: int) -> None:
    values = [
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
        3.0,
        5e5 + 0.5,
        1e300,
        INF,
        2.0**53 + 2,
        2.0**52 + 1,
        1e-310,
        2.0**23 + 1,
    ]
    with np.errstate(all="ignore"):
        both = np.array([*values, *(-v for v in values), NAN]).astype(TYPES[element])
        x, y = np.repeat(both, len(both)), np.tile(both, len(both))
        expected = np.power(x, y)
    got = compiled("pow", element, lanes)(x, y)
    special = (np.abs(expected) < np.finfo(x.dtype).tiny) | np.isinf(expected) | (np.abs(expected) == 1)
    special |= np.isnan(expected)
    assert special.sum() > len(x) / 2
    np.testing.assert_array_equal(got[special], expected[special])
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


EXACT: Mapping[str, Sequence[tuple[float, float]]] = {
    "exp2": [(float(n), 2.0**n) for n in range(-149, 128)],
    "log2": [(2.0**n, float(n)) for n in range(-149, 128)],
    "log10": [(10.0**n, float(n)) for n in range(11)],
    "cbrt": [(float(n**3), float(n)) for n in range(-200, 201)],
    "gamma": [(float(n), float(math.factorial(n - 1))) for n in range(1, 9)],
}


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", EXACT)
def test_results_that_a_float_can_be_are_exact(name: str, element: str) -> None:
    table = np.array(EXACT[name])
    np.testing.assert_array_equal(compiled(name, element, 8)(table[:, 0]), table[:, 1])


@pytest.mark.parametrize("element", TYPES)
def test_whole_powers_of_small_whole_numbers_are_exact(element: str) -> None:
    digits = np.finfo(TYPES[element]).nmant + 1
    pairs = [(x, y) for x in range(-20, 21) for y in range(40) if abs(x**y) < 2**digits]
    x, y = np.array(pairs, dtype=float).T
    expected = [float(a**b) for a, b in pairs]
    np.testing.assert_array_equal(compiled("pow", element, 16)(x, y), expected)


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_bits_in_any_lane_on_any_level(name: str, element: str) -> None:
    assert_same_bits_everywhere(name, element, arguments_of(name, element, 60))


def generator(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "minimax_exponential.py"
    spec = importlib.util.spec_from_file_location("minimax_exponential", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["EXP_FLOAT", "CUBE_ROOT", pytest.param("", marks=pytest.mark.slow)])
def test_the_coefficients_are_those_that_the_generator_makes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mp.workdps(60):
        module = generator(monkeypatch)
        for polynomial in module.POLYNOMIALS:
            if name in ("", polynomial.name):
                assert module.coefficients(polynomial) == getattr(fitted, polynomial.name), polynomial.name
