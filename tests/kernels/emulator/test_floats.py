"""Floating-point instructions and conversions against exact rational arithmetic, and NVIDIA's answers at the edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

Run = Callable[..., Any]
DTYPES: dict[str, Any] = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


def finite(name: str) -> st.SearchStrategy[float]:
    if name == "f16":
        patterns = st.integers(0, 0x7BFF) | st.integers(0x8000, 0xFBFF)
        return patterns.map(lambda bits: float(np.uint16(bits).view(np.float16)))
    width: Any = int(name[1:])
    return st.floats(allow_nan=False, allow_infinity=False, width=width)


def rounded(exact: Fraction, dtype: Any, mode: str = "rn") -> float:
    """Round a rational number that is not zero once."""
    info = np.finfo(dtype)
    magnitude, is_negative = abs(exact), exact < 0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, int(info.minexp)) - int(info.nmant))
    count, rest = divmod(magnitude, unit)
    if mode == "rn":
        goes_up = rest * 2 > unit or (rest * 2 == unit and count % 2 == 1)
    else:
        goes_up = rest > 0 and mode == ("rm" if is_negative else "rp")
    value = (count + goes_up) * unit
    if value > Fraction(float(info.max)):
        stays_finite = mode in ("rz", "rp" if is_negative else "rm")
        return math.copysign(float(info.max) if stays_finite else math.inf, -1 if is_negative else 1)
    return float(-value if is_negative else value)


def operands(name: str, rows: list[tuple[float, ...]]) -> list[tuple[str, Any]]:
    return [(name, np.array(column, DTYPES[name])) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", DTYPES)
@given(data=st.data())
def test_fma_rounds_once(name: str, run_instruction: Run, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(*[finite(name)] * 3), min_size=1, max_size=20))
    rows += [
        (a, b, -float(DTYPES[name](a) * DTYPES[name](b))) for a, b, _ in rows if abs(a) < 100 > abs(b)
    ]  # cancels
    got = run_instruction(f"fma.rn.{name} %r, %a0, %a1, %a2;", operands(name, rows), name, DTYPES[name])
    for (a, b, c), value in zip(rows, got, strict=True):
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        if exact:
            assert float(value) == rounded(exact, DTYPES[name]), (a, b, c)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("name", ["f32", "f64"])
@given(data=st.data())
def test_directions_of_rounding(name: str, mode: str, run_instruction: Run, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(finite(name), finite(name)), min_size=1, max_size=12))
    exact: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
        "add": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
    }
    for operation, definition in exact.items():
        got = run_instruction(
            f"{operation}.{mode}.{name} %r, %a0, %a1;", operands(name, rows), name, DTYPES[name]
        )
        for (a, b), value in zip(rows, got, strict=True):
            if operation != "div" or b:
                want = definition(Fraction(a), Fraction(b))
                if want:
                    assert float(value) == rounded(want, DTYPES[name], mode), (operation, a, b)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@given(values=st.lists(finite("f64"), min_size=1, max_size=30))
def test_conversion_to_fewer_bits(mode: str, run_instruction: Run, values: list[float]) -> None:
    got = run_instruction(f"cvt.{mode}.f32.f64 %r, %a0;", [("f64", np.array(values))], "f32", np.float32)
    for value, result in zip(values, got, strict=True):
        if value:
            assert float(result) == rounded(Fraction(value), np.float32, mode)


@pytest.mark.parametrize("to", ["f32", "f64"])
@pytest.mark.parametrize("kind", ["s64", "u64"])
@given(values=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_conversion_from_wide_integers(to: str, kind: str, run_instruction: Run, values: list[int]) -> None:
    got = run_instruction(
        f"cvt.rn.{to}.{kind} %r, %a0;", [("b64", np.array(values, np.uint64))], to, DTYPES[to]
    )
    for value, result in zip(values, got, strict=True):
        whole = value - 2**64 if kind == "s64" and value >> 63 else value
        assert float(result) == (rounded(Fraction(whole), DTYPES[to]) if whole else 0.0)


def bfloat(value: Fraction) -> int:
    """The bits of the bfloat16 nearest to a number in its normal range."""
    sign, value = (0x8000, -value) if value < 0 else (0, value)
    exponent = math.frexp(float(value))[1] - 1
    if Fraction(2) ** exponent > value:
        exponent -= 1
    scaled = value / Fraction(2) ** (exponent - 7)
    mantissa = round(scaled)  # ties to even
    return sign | (((exponent + 127) << 7) + (mantissa - 128))


@given(values=st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=30))
def test_bfloat_is_rounded_once_from_float64(run_instruction: Run, values: list[float]) -> None:
    values += [1 + 2**-8 + 2**-40, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 - 2**-40]
    got = run_instruction("cvt.rn.bf16.f64 %r, %a0;", [("f64", np.array(values))], "b16", np.uint16)
    assert list(got) == [bfloat(Fraction(value)) for value in values]


@given(rows=st.lists(st.tuples(*[st.integers(0x3000, 0x4800)] * 3), min_size=1, max_size=30))
def test_bfloat_fma_rounds_once(run_instruction: Run, rows: list[tuple[int, int, int]]) -> None:
    columns = [np.array(column, np.uint16) for column in zip(*rows, strict=True)]
    got = run_instruction(
        "fma.rn.bf16 %r, %a0, %a1, %a2;", [("b16", column) for column in columns], "b16", np.uint16
    )
    wide = [(column.astype(np.uint32) << 16).view(np.float32) for column in columns]
    for a, b, c, result in zip(*wide, got, strict=True):
        assert result == bfloat(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))


@given(rows=st.lists(st.tuples(*[finite("f16")] * 4), min_size=1, max_size=20))
def test_packed_halves(run_instruction: Run, rows: list[tuple[float, ...]]) -> None:
    values = np.array(rows, np.float16)
    first, second = (np.ascontiguousarray(values[:, at : at + 2]).view(np.uint32)[:, 0] for at in (0, 2))
    got = run_instruction("mul.rn.f16x2 %r, %a0, %a1;", [("b32", first), ("b32", second)], "b32", np.uint32)
    with np.errstate(over="ignore"):
        want = values[:, :2] * values[:, 2:]
    assert (got.view(np.float16).reshape(-1, 2) == want).all()
    got = run_instruction(
        "cvt.rn.f16x2.f32 %r, %a0, %a1;",
        [("f32", values[:, 0].astype("f4")), ("f32", values[:, 1].astype("f4"))],
        "b32",
        np.uint32,
    )
    assert (got.view(np.float16).reshape(-1, 2) == values[:, 1::-1]).all()


def test_halves_and_singles_in_one_sum(run_instruction: Run) -> None:
    a, b = np.array([1.5, -2.25], np.float16), np.array([1e-3, 7.0], np.float32)
    got = run_instruction("add.rn.f32.f16 %r, %a0, %a1;", [("f16", a), ("f32", b)], "f32", np.float32)
    assert list(got) == list(a.astype(np.float32) + b)


def bits(value: float, name: str) -> int:
    return int(np.array(value, DTYPES[name]).view(f"u{int(name[1:]) // 8}"))


INF, NAN = math.inf, math.nan
#: Of minima and maxima: -0.0 is the lesser zero, and NaN gives the other operand.
EXTREMES = [
    ("min", -0.0, 0.0, -0.0),
    ("min", 0.0, -0.0, -0.0),
    ("max", -0.0, 0.0, 0.0),
    ("max", 0.0, -0.0, 0.0),
    ("min", NAN, 1.0, 1.0),
    ("max", 1.0, NAN, 1.0),
    ("min", NAN, NAN, NAN),
    ("min.NaN", NAN, 1.0, NAN),
    ("max.NaN", 1.0, NAN, NAN),
    ("max.NaN", -0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("operation", "a", "b", "want"), EXTREMES)
@pytest.mark.parametrize("name", ["f16", "f32", "f64"])
def test_extremes(run_instruction: Run, name: str, operation: str, a: float, b: float, want: float) -> None:
    if name == "f64":
        operation = operation.removesuffix(".NaN")  # not an instruction; NaN of both operands is left
        want = 1.0 if math.isnan(want) and (a, b) in ((NAN, 1.0), (1.0, NAN)) else want
    sources = [(name, np.array([value], DTYPES[name])) for value in (a, b)]
    got = run_instruction(f"{operation}.{name} %r, %a0, %a1;", sources, name, DTYPES[name])
    if math.isnan(want):
        assert np.isnan(got[0])
    else:
        assert bits(float(got[0]), name) == bits(want, name)


@pytest.mark.parametrize(
    "instruction", ["add.rn.f32 %r, %a0, %a1;", "min.f32 %r, %a0, %a0;", "sqrt.rn.f32 %r, %a0;"]
)
def test_singles_that_are_not_numbers_have_one_pattern(run_instruction: Run, instruction: str) -> None:
    strange = np.array([0xFFC00001], np.uint32).view(np.float32)
    got = run_instruction(instruction, [("f32", strange), ("f32", strange)], "f32", np.uint32)
    assert int(got[0]) == 0x7FFFFFFF


def test_signs_are_changed_in_nans_too(run_instruction: Run) -> None:
    strange = np.array([0x7FC00001], np.uint32)
    assert int(run_instruction("neg.f32 %r, %a0;", [("f32", strange)], "f32", np.uint32)[0]) == 0xFFC00001
    assert (
        int(run_instruction("abs.f32 %r, %a0;", [("f32", strange | 2**31)], "f32", np.uint32)[0])
        == 0x7FC00001
    )


def test_comparison_with_two_results_and_a_third_operand(run_instruction: Run) -> None:
    a, third = np.array([1, 5, 1, 5], np.uint32), np.array([1, 1, 0, 0], np.uint8)
    code = "setp.lt.and.u32 %p0|%p1, %a0, 3, %a1; selp.b32 %t0, 1, 0, %p0; selp.b32 %t1, 2, 0, %p1;"
    code += " or.b32 %r, %t0, %t1;"
    assert list(run_instruction(code, [("b32", a), ("pred", third)], "b32", np.uint32)) == [1, 2, 0, 0]


def test_set_gives_ones_or_one(run_instruction: Run) -> None:
    a = np.array([1, 5], np.uint32)
    assert list(run_instruction("set.lt.u32.u32 %r, %a0, 3;", [("b32", a)], "b32", np.uint32)) == [
        2**32 - 1,
        0,
    ]
    assert list(run_instruction("set.lt.f32.u32 %r, %a0, 3;", [("b32", a)], "f32", np.float32)) == [1.0, 0.0]


def test_subnormals_are_kept_unless_flushed(run_instruction: Run) -> None:
    tiny = np.array([1e-40, -1e-40, 1.5e-38], np.float32)
    kept = run_instruction("add.rn.f32 %r, %a0, 0f00000000;", [("f32", tiny)], "f32", np.float32)
    assert list(kept) == list(tiny)
    flushed = run_instruction("add.rn.ftz.f32 %r, %a0, 0f80000000;", [("f32", tiny)], "f32", np.float32)
    assert list(flushed.view(np.uint32)) == [0, 0x80000000, bits(float(tiny[2]), "f32")]
    halved = run_instruction("mul.rn.ftz.f32 %r, %a0, 0f3F000000;", [("f32", tiny)], "f32", np.float32)
    assert list(halved) == [0, 0, 0]


def test_saturation(run_instruction: Run) -> None:
    values = np.array([-1.0, 0.25, 7.0, NAN, -0.0], np.float32)
    got = run_instruction("add.rn.sat.f32 %r, %a0, 0f00000000;", [("f32", values)], "f32", np.float32)
    assert list(got.view(np.uint32)) == [bits(value, "f32") for value in (0.0, 0.25, 1.0, 0.0, 0.0)]


def test_classes_of_numbers(run_instruction: Run) -> None:
    values = np.array([1.0, INF, NAN, 1e-40, 0.0], np.float32)
    wanted = {
        "finite": (1, 0, 0, 1, 1), "infinite": (0, 1, 0, 0, 0), "number": (1, 1, 0, 1, 1),
        "notanumber": (0, 0, 1, 0, 0), "normal": (1, 0, 0, 0, 0), "subnormal": (0, 0, 0, 1, 0),
    }  # fmt: skip
    for name, want in wanted.items():
        got = run_instruction(f"testp.{name}.f32 %r, %a0;", [("f32", values)], "pred", np.bool_)
        assert tuple(got.astype(int)) == want, name


def test_approximations_are_close(run_instruction: Run) -> None:
    values = np.array([0.5, 1.0, 2.25, 3.0], np.float32)
    functions: dict[str, Any] = {
        "ex2.approx.f32": np.exp2, "lg2.approx.f32": np.log2, "sin.approx.f32": np.sin, "cos.approx.f32": np.cos,
        "tanh.approx.f32": np.tanh, "rsqrt.approx.f32": lambda x: 1 / np.sqrt(x), "rcp.approx.f32": lambda x: 1 / x,
        "sqrt.approx.f32": np.sqrt,
    }  # fmt: skip
    for name, function in functions.items():
        got = run_instruction(f"{name} %r, %a0;", [("f32", values)], "f32", np.float32)
        np.testing.assert_allclose(got, function(values.astype(np.float64)), rtol=1e-7, atol=1e-7)


def test_approximations_of_float64_have_half_the_bits(run_instruction: Run) -> None:
    values = np.array([3.0, 7.0])
    for name, exact in (("rcp.approx.ftz.f64", 1 / values), ("rsqrt.approx.f64", 1 / np.sqrt(values))):
        got = run_instruction(f"{name} %r, %a0;", [("f64", values)], "f64", np.float64)
        assert (got.view(np.uint64) & np.uint64(0xFFFFFFFF) == 0).all()
        np.testing.assert_allclose(got, exact, rtol=1e-5)
