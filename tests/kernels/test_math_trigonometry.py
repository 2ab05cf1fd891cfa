"""Trigonometric functions and hypot of kernels/llvm/math: errors, special values, bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from mpmath import mp
from own_math.running import TYPES, assert_same_bits_everywhere, compiled, worst_error

from dataflare.kernels.llvm.math import functions
from dataflare.kernels.llvm.math.trigonometry import FUNCTIONS
from dataflare.kernels.llvm.target import MATH_FUNCTIONS

INF, NAN = math.inf, math.nan
BINARY = ("atan2", "hypot")

#: Units of the last place that no result may be off by more than. Sine and cosine drop what the reduced argument was
#: rounded by, which counts most in results a little below a power of two.
BOUNDS_ULP = {
    **dict.fromkeys(("sin", "cos"), 1.5),
    "tan": 1.0,
    **dict.fromkeys(("asin", "acos", "atan"), 0.75),
    "atan2": 0.85,
    "hypot": 0.8,
}

#: The float64 that is nearest to a multiple of pi/2 for its size, and others that are hard to reduce.
HARD = [6381956970095103 * 2.0**797, 5.319372648326541e255, 1.2154742500762e11, 1e22, 2.0**1023, 2.0**120]


def powers_of_two(random: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    return random.choice([-1, 1], count) * 2.0 ** random.uniform(low, high, count)


def arguments_of(name: str, element: str, count: int = 250) -> list[np.ndarray]:
    random = np.random.default_rng([9, *name.encode()])
    lowest, highest = (-1074, 1023) if element == "double" else (-149, 127.9)
    if name in BINARY:
        pairs = [
            (random.uniform(-1, 1, count), random.uniform(-1, 1, count)),
            (powers_of_two(random, -10, 10, count), powers_of_two(random, -10, 10, count)),
            (
                powers_of_two(random, lowest, highest, count),
                powers_of_two(random, lowest, highest, count),
            ),
            (
                powers_of_two(random, lowest, lowest + 60, count),
                powers_of_two(random, lowest, lowest + 60, count),
            ),
            (
                powers_of_two(random, highest - 20, highest - 1, count),
                powers_of_two(random, highest - 20, highest - 1, count),
            ),
        ]
        drawn = [np.concatenate(sides) for sides in zip(*pairs, strict=True)]
        close = (
            drawn[0] * random.choice([0.5, 1.0, 2.0], len(drawn[0])) * (1 + 2.0 ** random.uniform(-52, -20))
        )
        drawn = [np.concatenate([drawn[0], drawn[0]]), np.concatenate([drawn[1], close])]
    elif name in ("asin", "acos"):
        ends = 1 - 2.0 ** random.uniform(-53, -2, count)
        drawn = [
            np.concatenate(
                [
                    random.uniform(-1, 1, count),
                    random.uniform(0.49, 0.51, count),
                    *(ends, -ends),
                    powers_of_two(random, lowest, -1, count),
                ]
            )
        ]
    else:
        turns = random.integers(-(2**24), 2**24, count) * (math.pi / 2)
        drawn = [
            np.concatenate(
                [
                    random.uniform(-7, 7, count),
                    random.uniform(-1e9, 1e9, count),
                    powers_of_two(random, lowest, highest, count),
                    powers_of_two(random, 13, 32, count),
                    turns,
                    [*HARD, *(-x for x in HARD)],
                ]
            )
        ]
    with np.errstate(over="ignore", under="ignore"):
        cast = [values.astype(TYPES[element]) for values in drawn]
    if name in BINARY:
        keep = (cast[0] != 0) & (cast[1] != 0)  # mpmath knows no -0.0
        cast = [values[keep] for values in cast]
    return cast


def right(name: str) -> Callable[..., Any]:
    """Return the function of mpmath."""
    found: Callable[..., Any] = getattr(mp, name)
    return found


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_result_is_off_by_more_than_its_bound(name: str, element: str) -> None:
    # The largest float64 is taken to 53 bits beside multiples of pi, of which it has 1024 before the point.
    bits = 1400 if name in ("sin", "cos", "tan") else 2400 if name == "hypot" else 200
    off, call, compared = worst_error(name, element, arguments_of(name, element), right(name), bits=bits)
    assert compared > 1000
    assert off <= BOUNDS_ULP[name], call


PI, EIGHTH = math.pi, math.pi / 4
_SPECIAL: Mapping[str, Sequence[tuple[float, float]]] = {
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "cos": [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN)],
    "tan": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN)],
    "asin": [(0.0, 0.0), (-0.0, -0.0), (1.0, PI / 2), (-1.0, -PI / 2), (1.5, NAN), (INF, NAN), (-INF, NAN)],
    "acos": [(1.0, 0.0), (-1.0, PI), (0.0, PI / 2), (-0.0, PI / 2), (-1.5, NAN), (INF, NAN), (-INF, NAN)],
    "atan": [(0.0, 0.0), (-0.0, -0.0), (INF, PI / 2), (-INF, -PI / 2), (1.0, EIGHTH), (-1.0, -EIGHTH)],
}


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """Assert that floats are equal, signs of zeros included."""
    np.testing.assert_array_equal(got, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", _SPECIAL)
def test_special_values_are_those_of_annex_f(name: str, element: str, lanes: int) -> None:
    table = np.array([*_SPECIAL[name], (NAN, NAN)]).astype(TYPES[element])
    assert_same(compiled(name, element, lanes)(table[:, 0]), table[:, 1])


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("element", TYPES)
def test_angles_of_special_points_are_those_of_annex_f(element: str, lanes: int) -> None:
    sides = [0.0, 1.0, 2.5, 1e-30, 1e30, INF]
    both = np.array([*sides, *(-side for side in sides), NAN])
    y, x = np.repeat(both, len(both)), np.tile(both, len(both))
    # Of points on axes and diagonals, whose angles are eighths of a turn; the others are in the test of errors.
    known = (
        (np.abs(y) == np.abs(x)) | (y == 0) | (x == 0) | np.isinf(y) | np.isinf(x) | np.isnan(y) | np.isnan(x)
    )
    y, x = y[known], x[known]
    expected = np.array([math.atan2(*pair) for pair in zip(y, x, strict=True)]).astype(TYPES[element])
    assert_same(compiled("atan2", element, lanes)(y, x), expected)


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("element", TYPES)
def test_hypotenuses_of_special_sides_are_those_of_annex_f(element: str, lanes: int) -> None:
    both = np.array([0.0, -0.0, 1.0, -3.0, 1e30, INF, -INF, NAN])
    x, y = np.repeat(both, len(both)), np.tile(both, len(both))
    plain = (x == 0) | (y == 0) | np.isinf(x) | np.isinf(y) | np.isnan(x) | np.isnan(y)
    x, y = x[plain], y[plain]
    expected = np.array([math.hypot(*pair) for pair in zip(x, y, strict=True)]).astype(TYPES[element])
    assert_same(compiled("hypot", element, lanes)(x, y), expected)


@pytest.mark.parametrize("element", TYPES)
def test_hypotenuses_of_whole_triangles_are_exact(element: str) -> None:
    triples = [(m * m - n * n, 2 * m * n, m * m + n * n) for m in range(2, 60) for n in range(1, m)]
    a, b, c = np.array(triples, dtype=float).T
    np.testing.assert_array_equal(compiled("hypot", element, 16)(a, b), c)


def test_an_angle_that_is_nearly_nothing_is_not_lost() -> None:
    y, x = np.array([1e-162, -1e-300, 3e-308]), np.array([6e141, 1e5, 1.5])
    np.testing.assert_allclose(compiled("atan2", "double", 8)(y, x), y / x, rtol=3e-16)


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_bits_in_any_lane_on_any_level(name: str, element: str) -> None:
    assert_same_bits_everywhere(name, element, arguments_of(name, element, 40))


def test_every_function_has_code_of_its_own() -> None:
    assert set(functions.FUNCTIONS) == set(MATH_FUNCTIONS)
