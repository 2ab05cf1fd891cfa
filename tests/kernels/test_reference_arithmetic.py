"""The reference's numbers against what defines their rules: NumPy for integers, CPython for ``//`` and ``%``."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.reference import semantics
from dataflare.kernels.reference.arithmetic import float_kind, integer_kind

int64s = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-(2**63), 2**63 - 1, 0, 1, -1]))
uint64s = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63, 2**64 - 1]))
doubles = st.one_of(
    st.floats(), st.integers(-50, 50).map(float), st.sampled_from([math.inf, -math.inf, math.nan, -0.0])
)
finite = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-50, 50).map(float))


def binary(symbol: str, a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return semantics.BINARY_OPERATORS[symbol](a, b)


def bits(number: Any) -> bytes:
    return b"nan" if np.isnan(number) else bytes(number.tobytes())


@pytest.mark.parametrize("symbol", ["+", "-", "*", "&", "|", "^"])
@given(a=int64s, b=int64s)
def test_int64_is_numpys(symbol: str, a: int, b: int) -> None:
    apply = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "&": operator.and_,
        "|": operator.or_,
        "^": operator.xor,
    }
    with np.errstate(all="ignore"):
        expected = apply[symbol](np.array([a]), np.array([b]))[0]
    result = binary(symbol, np.int64(a), np.int64(b))
    assert type(result) is np.int64
    assert result == expected


@pytest.mark.parametrize("symbol", ["+", "-", "*"])
@given(a=uint64s, b=uint64s)
def test_uint64_is_numpys(symbol: str, a: int, b: int) -> None:
    apply = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    with np.errstate(all="ignore"):
        expected = apply[symbol](np.array([a], np.uint64), np.array([b], np.uint64))[0]
    result = binary(symbol, np.uint64(a), np.uint64(b))
    assert type(result) is np.uint64
    assert result == expected


@given(a=int64s, b=int64s)
def test_integer_floor_division_is_pythons(a: int, b: int) -> None:
    quotient, rest = binary("//", np.int64(a), np.int64(b)), binary("%", np.int64(a), np.int64(b))
    if b == 0:
        assert quotient is None
        assert rest is None
    else:
        assert (int(quotient) - a // b) % 2**64 == 0
        assert rest == a % b


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/"])
@pytest.mark.parametrize("width", [np.float32, np.float64])
@given(a=doubles, b=doubles)
def test_floats_are_numpys_bit_for_bit(symbol: str, width: Any, a: float, b: float) -> None:
    apply = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    with np.errstate(all="ignore"):
        x, y = width(a), width(b)
        expected = apply[symbol](x, y)
    result = binary(symbol, x, y)
    assert type(result) is width
    assert bits(result) == bits(expected)


@pytest.mark.parametrize("symbol", ["//", "%"])
@given(a=finite, b=finite.filter(bool))
def test_float_floor_division_is_cpythons_bit_for_bit(symbol: str, a: float, b: float) -> None:
    expected = np.float64(a // b if symbol == "//" else a % b)
    assert bits(binary(symbol, np.float64(a), np.float64(b))) == bits(expected)


@given(a=doubles)
def test_float_floor_division_by_zero_is_ieee(a: float) -> None:
    with np.errstate(all="ignore"):
        expected = np.floor(np.float64(a) / np.float64(0.0))
    assert bits(binary("//", np.float64(a), 0.0)) == bits(expected)
    assert np.isnan(binary("%", np.float64(a), 0.0))


@given(base=int64s, exponent=st.integers(0, 70))
def test_power_wraps_as_repeated_multiplication_does(base: int, exponent: int) -> None:
    expected = np.int64(1)
    with np.errstate(all="ignore"):
        for _ in range(exponent):
            expected = expected * np.int64(base)
    assert binary("**", np.int64(base), np.int64(exponent)) == expected


@given(a=int64s, count=st.integers(-3, 130))
def test_shifts(a: int, count: int) -> None:
    left, right = binary("<<", np.int64(a), count), binary(">>", np.int64(a), count)
    if count < 0:
        assert left is None
        assert right is None
    else:
        assert (int(left) - (a << count)) % 2**64 == 0
        assert right == a >> count


@pytest.mark.parametrize(
    ("operands", "kind"),
    [
        ((np.int8(1), np.int8(1)), np.int64),
        ((np.uint8(1), np.uint32(1)), np.int64),
        ((np.uint64(1), np.uint64(1)), np.uint64),
        ((np.uint64(1), 1), np.uint64),
        ((np.uint64(1), np.uint8(1)), np.int64),
        ((np.int64(1), np.uint64(1)), np.int64),
        ((True, True), np.int64),
        ((1, 1), int),
    ],
)
def test_type_of_an_integer_result(operands: tuple[Any, Any], kind: type) -> None:
    assert integer_kind(*operands) is kind
    assert type(binary("+", *operands)) is kind


@pytest.mark.parametrize(
    ("operands", "kind"),
    [
        ((np.float32(1), np.float32(1)), np.float32),
        ((np.float32(1), 1), np.float32),
        ((np.float32(1), 0.1), np.float32),
        ((np.float32(1), np.float64(1)), np.float64),
        ((np.float32(1), np.int8(1)), np.float64),
        ((np.float32(1), True), np.float64),
        ((np.int8(1), 0.1), np.float64),
        ((1, 0.5), float),
    ],
)
def test_type_of_a_float_result(operands: tuple[Any, Any], kind: type) -> None:
    assert float_kind(*operands) is kind
    assert type(binary("+", *operands)) is kind


def test_a_weak_number_is_rounded_to_float32_first() -> None:
    assert binary("*", np.float32(3), 0.1) == np.float32(3) * np.float32(0.1)
    assert semantics.compare_chain(("==",), np.float32(0.1), 0.1) is True
    assert semantics.compare_chain(("==",), np.float32(0.1), np.float64(0.1)) is False


@given(a=int64s, b=uint64s)
def test_integers_of_both_signs_compare_exactly(a: int, b: int) -> None:
    for symbol, apply in [("<", operator.lt), ("==", operator.eq), (">=", operator.ge)]:
        assert semantics.compare_chain((symbol,), np.int64(a), np.uint64(b)) is apply(a, b)


@pytest.mark.parametrize("symbol", sorted(semantics.BINARY_OPERATORS))
def test_null_operand_makes_null(symbol: str) -> None:
    assert binary(symbol, None, np.int64(1)) is None
    assert binary(symbol, np.int64(1), None) is None


@given(x=doubles)
def test_int_truncates_or_is_null(x: float) -> None:
    result = semantics.FUNCTIONS[int](np.float64(x))
    if math.isfinite(x) and -(2**63) <= math.trunc(x) < 2**63:
        assert result == math.trunc(x)
    else:
        assert result is None


@given(x=finite, digits=st.integers(0, 6))
def test_round_to_digits_is_numpys(x: float, digits: int) -> None:
    with np.errstate(all="ignore"):
        expected = np.round(np.float64(x), digits)
        result = semantics.FUNCTIONS[round](np.float64(x), digits)
    assert bits(result) == bits(expected)


@given(x=finite.filter(lambda x: abs(x) < 2**53))
def test_round_is_half_to_even(x: float) -> None:
    assert semantics.FUNCTIONS[round](np.float64(x)) == round(x)


@given(numbers=st.lists(doubles, min_size=2, max_size=4))
def test_min_and_max_are_pythons_with_nan(numbers: list[float]) -> None:
    wrapped = [np.float64(number) for number in numbers]
    assert bits(semantics.FUNCTIONS[min](*wrapped)) == bits(min(*wrapped))
    assert bits(semantics.FUNCTIONS[max](*wrapped)) == bits(max(*wrapped))


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("sqrt", -1.0, math.nan),
        ("log", 0.0, -math.inf),
        ("log", -1.0, math.nan),
        ("exp", 1000.0, math.inf),
        ("gamma", 0.0, math.inf),
        ("gamma", -0.0, -math.inf),
        ("gamma", -1.0, math.nan),
        ("gamma", 1000.0, math.inf),
        ("lgamma", -1.0, math.inf),
        ("atanh", 1.0, math.inf),
        ("acos", 2.0, math.nan),
    ],
)
def test_mathematics_never_raises(name: str, argument: float, expected: float) -> None:
    with np.errstate(all="ignore"):
        result = semantics.FUNCTIONS[getattr(math, name)](np.float64(argument))
    assert bits(result) == bits(np.float64(expected))
    assert type(result) is np.float64


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-math.inf, 0.5, math.inf),
        (-0.0, 0.5, 0.0),
        (-0.0, -1.0, -math.inf),
        (0.0, -2.0, math.inf),
        (-8.0, 1.0 / 3.0, math.nan),
        (-1e300, 3.0, -math.inf),
        (1.0, math.nan, 1.0),
        (-1.0, math.inf, 1.0),
    ],
)
def test_power_of_floats_is_cs_pow(x: float, y: float, expected: float) -> None:
    assert bits(binary("**", np.float64(x), np.float64(y))) == bits(np.float64(expected))


@pytest.mark.parametrize("name", ["sin", "exp", "log1p", "tanh", "atan", "cbrt", "erf", "lgamma"])
@given(x=st.floats(0.001, 100))
def test_mathematics_is_the_math_modules(name: str, x: float) -> None:
    result = semantics.FUNCTIONS[getattr(math, name)](np.float64(x))
    assert result == pytest.approx(getattr(math, name)(x), rel=1e-15)


def test_mathematics_of_float32_is_float32() -> None:
    result = semantics.FUNCTIONS[np.exp](np.float32(1.5))
    assert type(result) is np.float32
    assert result == np.float32(math.exp(1.5))
