"""The rules that every device agrees on, one line a rule: a function, its input, what must come out.

This is the README's table as a test. Each line runs on every device. Random functions are in
``test_devices_agree.py``; what the rules are held against is in ``test_reference_*.py``.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, WithColumnsStage
from dataflare.testing import assert_batches_equal

NAN, INF = float("nan"), float("inf")
LOW, HIGH = -(2**63), 2**63 - 1
FACTOR = 3
MOMENTS_SEEN = {datetime.date(2024, 2, 29): 7, datetime.date(2024, 3, 1): 8}
ROWS = (("a", 0.5), ("b", 1.5))
THRESHOLDS = {"a": 1, "b": 2}
NOON = datetime.datetime(2024, 2, 29, 12, 0, 0)
NOON_UTC = NOON.replace(tzinfo=datetime.UTC)


def i8(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int8())


def i64(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64())


def u64(*values: int | None) -> pa.Array:
    return pa.array(values, pa.uint64())


def f32(*values: float | None) -> pa.Array:
    return pa.array(values, pa.float32())


def f64(*values: float | None) -> pa.Array:
    return pa.array(values, pa.float64())


def flags(*values: bool | None) -> pa.Array:
    return pa.array(values, pa.bool_())


def text(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


def timestamps(unit: str, *values: int | None, tz: str | None = None) -> pa.Array:
    return pa.array(values, pa.timestamp(unit, tz))


def durations(unit: str, *values: int | None) -> pa.Array:
    return pa.array(values, pa.duration(unit))


def dates(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int32()).view(pa.date32())


def decimals(precision: int, scale: int, *values: str | None) -> pa.Array:
    numbers = [None if value is None else Decimal(value) for value in values]
    return pa.array(numbers, pa.decimal128(precision, scale))


class Rule(NamedTuple):
    """One line of the table: of records with the columns ``given``, ``function`` makes ``expected``."""

    name: str
    function: Callable[[Any], Any]
    given: dict[str, pa.Array]
    expected: pa.Array


def helper_with_default(x: Any, factor: int = 2) -> Any:
    return x * factor


def early_return(r: Any) -> Any:
    if r.a is None:
        return -1
    for i in range(10):
        if i * i >= r.a:
            return i
    return 99


def loop_with_break_and_continue(r: Any) -> Any:
    total = 0
    for i in range(r.n):
        if i == 2:
            continue
        if i > 5:
            break
        total += i
    return total


def while_loop(r: Any) -> Any:
    x = r.a
    steps = 0
    while x != 1 and steps < 100:
        x = x // 2 if x % 2 == 0 else 3 * x + 1
        steps += 1
    return steps


def tuples(r: Any) -> Any:
    low, high = (r.a, r.b) if r.a < r.b else (r.b, r.a)
    return high - low


def quotient_and_rest(r: Any) -> Any:
    q, m = divmod(r.a, r.b)
    return q * 100 + m


def prime_by_else(r: Any) -> Any:
    if r.n is None:
        return None
    d = 2
    while d * d <= r.n:
        if r.n % d == 0:
            found = False
            break
        d += 1
    else:
        found = r.n > 1
    return found


def first_multiple(r: Any) -> Any:
    for d in (3, 5):
        if r.n % d == 0:
            result = d
            break
    else:
        result = -1
    return result


def inner_variable_left_behind(r: Any) -> Any:
    total = r.n
    for i in (1, 2):
        if total > 9:
            break
        for k in range(i):
            total += k + i
    else:
        total = -total
    return total


def primes_below(r: Any) -> Any:
    count = 0
    for n in range(2, r.n):
        for d in range(2, n):
            if n % d == 0:
                break
        else:
            count += 1
    return count


def weighted_places(r: Any) -> Any:
    total = 0
    for place, value in enumerate((r.a, r.b), start=1):
        total += place * value
    return total


def later_minus_earlier(r: Any) -> Any:
    later, earlier = reversed((r.a, r.b))
    return later - earlier


def dot_product(r: Any) -> Any:
    return sum(x * y for x, y in zip((r.a, r.b), (10, 20, 30), strict=False))


def tuple_of_loop_constants(r: Any) -> Any:
    total = r.a
    for k in (1, 2, 5):
        if (k, k % 3) in ((1, 1), (5, 2), (2, 0), 7):
            total += 1
    return total


def elif_chain(r: Any) -> str:
    if r.a > 10:
        label = "big"
    elif r.a > 0:
        label = "small"
    else:
        label = "none"
    return label


NULLS = [
    Rule("null + 1", lambda r: r.a + 1, {"a": i64(1, None)}, i64(2, None)),
    Rule("null compared", lambda r: r.a > 0, {"a": i64(1, None, -1)}, flags(True, None, False)),
    Rule("is None", lambda r: r.a is None, {"a": i64(1, None)}, flags(False, True)),
    Rule("is not None", lambda r: r.a is not None, {"a": text("", None)}, flags(True, False)),
    Rule("null condition", lambda r: 1 if r.c else 2, {"c": flags(True, False, None)}, i64(1, 2, 2)),
    Rule("None result", lambda r: r.a if r.a > 0 else None, {"a": i64(1, -1, None)}, i64(1, None, None)),
    Rule(
        "null method", lambda r: r.s.startswith("a"), {"s": text("ab", None, "b")}, flags(True, None, False)
    ),
    Rule("null in math", lambda r: math.sqrt(r.x), {"x": f64(4.0, None)}, f64(2.0, None)),
    Rule("len of null", lambda r: len(r.s), {"s": text("aé😀", None, "")}, i64(3, None, 0)),
    Rule(
        "min with null",
        lambda r: min(r.a, r.b),
        {"a": i64(1, 5, None), "b": i64(2, None, 3)},
        i64(1, None, None),
    ),
    Rule("null in constants", lambda r: r.a in (1, 2), {"a": i64(1, 3, None)}, flags(True, False, None)),
    Rule("not null", lambda r: not r.c, {"c": flags(True, False, None)}, flags(False, True, None)),
]
_A = flags(True, True, True, False, False, False, None, None, None)
_B = flags(True, False, None, True, False, None, True, False, None)
BOOLEANS = [
    Rule(
        "and",
        lambda r: r.a and r.b,
        {"a": _A, "b": _B},
        flags(True, False, None, False, False, False, None, False, None),
    ),
    Rule(
        "or",
        lambda r: r.a or r.b,
        {"a": _A, "b": _B},
        flags(True, True, True, True, False, None, True, None, None),
    ),
    Rule(
        "& and | are Kleene too",
        lambda r: (r.a & r.b) | False,
        {"a": _A, "b": _B},
        flags(True, False, None, False, False, False, None, False, None),
    ),
    Rule(
        "^ on bools",
        lambda r: r.a ^ r.b,
        {"a": flags(True, False), "b": flags(True, True)},
        flags(False, True),
    ),
    Rule("~ on bools", lambda r: ~r.a, {"a": flags(True, False, None)}, flags(False, True, None)),
    Rule("or default", lambda r: r.a or 7, {"a": i64(3, 0, None)}, i64(3, 7, 7)),
    Rule("and value", lambda r: r.a and r.a * 2, {"a": i64(3, 0, None)}, i64(6, 0, None)),
    Rule(
        "chain", lambda r: 0 < r.a <= 5, {"a": i64(0, 1, 5, 6, None)}, flags(False, True, True, False, None)
    ),
    Rule("not of a number", lambda r: not r.a, {"a": i64(0, 2, None)}, flags(True, False, None)),
    Rule(
        "NaN is true", lambda r: bool(r.x), {"x": f64(NAN, 0.0, -0.0, 1.0)}, flags(True, False, False, True)
    ),
    Rule("bool in arithmetic", lambda r: r.c + r.c, {"c": flags(True, False, None)}, i64(2, 0, None)),
    Rule("empty text is false", lambda r: 1 if r.s else 0, {"s": text("", "a", None)}, i64(0, 1, 0)),
]
INTEGERS = [
    Rule("int8 promotes", lambda r: r.a + r.a, {"a": i8(127, -128)}, i64(254, -256)),
    Rule("int8 passes", lambda r: r.a, {"a": i8(127, None)}, i8(127, None)),
    Rule("wraps up", lambda r: r.a + 1, {"a": i64(HIGH)}, i64(LOW)),
    Rule("wraps down", lambda r: r.a - 1, {"a": i64(LOW)}, i64(HIGH)),
    Rule("wraps times", lambda r: r.a * r.a, {"a": i64(2**32, 3037000500)}, i64(0, -9223372036709301616)),
    Rule("uint64 stays", lambda r: r.a + r.a, {"a": u64(2**63, 5)}, u64(0, 10)),
    Rule("uint64 with literal", lambda r: r.a - 1, {"a": u64(0, 5)}, u64(2**64 - 1, 4)),
    Rule("uint64 with int64", lambda r: r.a + r.b, {"a": u64(2**64 - 1), "b": i64(2)}, i64(1)),
    Rule(
        "exact comparison", lambda r: r.a > r.b, {"a": u64(2**64 - 1, 0), "b": i64(-1, -1)}, flags(True, True)
    ),
    Rule(
        "// floors", lambda r: r.a // r.b, {"a": i64(7, -7, 7, -7), "b": i64(2, 2, -2, -2)}, i64(3, -4, -4, 3)
    ),
    Rule(
        "% floors", lambda r: r.a % r.b, {"a": i64(7, -7, 7, -7), "b": i64(2, 2, -2, -2)}, i64(1, 1, -1, -1)
    ),
    Rule("// by zero", lambda r: r.a // r.b, {"a": i64(7, 0), "b": i64(0, 0)}, i64(None, None)),
    Rule("% by zero", lambda r: r.a % r.b, {"a": i64(7, 0), "b": i64(0, 0)}, i64(None, None)),
    Rule("// overflow", lambda r: r.a // r.b, {"a": i64(LOW), "b": i64(-1)}, i64(LOW)),
    Rule("% overflow", lambda r: r.a % r.b, {"a": i64(LOW), "b": i64(-1)}, i64(0)),
    Rule(
        "/ is true",
        lambda r: r.a / r.b,
        {"a": i64(7, 1, -1, 0), "b": i64(2, 0, 0, 0)},
        f64(3.5, INF, -INF, NAN),
    ),
    Rule(
        "power wraps", lambda r: r.a**r.b, {"a": i64(2, 3, -2, 0), "b": i64(64, 4, 63, 0)}, i64(0, 81, LOW, 1)
    ),
    Rule("negative power", lambda r: r.a**r.b, {"a": i64(2), "b": i64(-1)}, i64(None)),
    Rule("<<", lambda r: r.a << r.b, {"a": i64(1, 1, 1, 1), "b": i64(3, 63, 64, -1)}, i64(8, LOW, 0, None)),
    Rule(">>", lambda r: r.a >> r.b, {"a": i64(8, -8, -8, 8), "b": i64(2, 1, 64, -1)}, i64(2, -4, -1, None)),
    Rule(">> of uint64", lambda r: r.a >> r.b, {"a": u64(2**63, 8), "b": u64(63, 64)}, u64(1, 0)),
    Rule("& | ^ ~", lambda r: (r.a & 6) | (r.a ^ 1) | ~r.a, {"a": i64(5)}, i64(-2 | 4)),
    Rule("-x wraps", lambda r: -r.a, {"a": i64(LOW, 5)}, i64(LOW, -5)),
    Rule("-x of uint64", lambda r: -r.a, {"a": u64(1)}, u64(2**64 - 1)),
    Rule("abs wraps", lambda r: abs(r.a), {"a": i64(LOW, -5)}, i64(LOW, 5)),
    Rule("-x of int8", lambda r: -r.a, {"a": i8(-128)}, i64(128)),
    Rule("divmod", quotient_and_rest, {"a": i64(7, -7), "b": i64(2, 2)}, i64(301, -399)),
    Rule("captured constant", lambda r: r.a * FACTOR, {"a": i64(5)}, i64(15)),
]
FLOATS = [
    Rule("float32 stays", lambda r: r.x * r.x, {"x": f32(1.1)}, f32(np.float32(1.1) * np.float32(1.1))),
    Rule("float32 and literal", lambda r: r.x + 0.1, {"x": f32(1.0)}, f32(np.float32(1) + np.float32(0.1))),
    Rule(
        "float32 and a large literal",
        lambda r: r.x * 18446744073709551615,
        {"x": f32(0.1)},
        f32(np.float32(0.1) * np.float32(2**64)),
    ),
    Rule("float32 compared", lambda r: r.x == 0.1, {"x": f32(0.1)}, flags(True)),
    Rule(
        "float32 and float64",
        lambda r: r.x + r.y,
        {"x": f32(0.1), "y": f64(1.0)},
        f64(float(np.float32(0.1)) + 1),
    ),
    Rule(
        "float32 and int column",
        lambda r: r.x + r.a,
        {"x": f32(0.1), "a": i8(1)},
        f64(float(np.float32(0.1)) + 1),
    ),
    Rule("int and float", lambda r: r.a + 0.5, {"a": i64(2**53 + 1)}, f64(2.0**53)),
    Rule(
        "/ by zero",
        lambda r: r.x / r.y,
        {"x": f64(1, -1, 0, 1), "y": f64(0, 0, 0, -0.0)},
        f64(INF, -INF, NAN, -INF),
    ),
    Rule(
        "// floors",
        lambda r: r.x // r.y,
        {"x": f64(7.5, -7.5, 7.5, 1, 0.0, -1), "y": f64(2, 2, -2, 0.0, 0.0, INF)},
        f64(3, -4, -4, INF, NAN, -1),
    ),
    Rule(
        "% has the divisor's sign",
        lambda r: r.x % r.y,
        {"x": f64(7.5, -7.5, 7.5, 4, -4, 1, -1), "y": f64(2, 2, -2, -2, 2, 0.0, INF)},
        f64(1.5, 0.5, -0.5, -0.0, 0.0, NAN, INF),
    ),
    Rule("NaN compares false", lambda r: r.x < r.x, {"x": f64(NAN, 1)}, flags(False, False)),
    Rule("NaN is not itself", lambda r: r.x != r.x, {"x": f64(NAN, 1)}, flags(True, False)),
    Rule("zeros are equal", lambda r: r.x == 0, {"x": f64(0.0, -0.0)}, flags(True, True)),
    Rule("-0.0", lambda r: -r.x, {"x": f64(0.0, -0.0, NAN)}, f64(-0.0, 0.0, NAN)),
    Rule("square", lambda r: r.x**2, {"x": f64(1.1, -3.0)}, f64(1.1 * 1.1, 9.0)),
    Rule(
        "min keeps the first",
        lambda r: min(r.x, r.y),
        {"x": f64(NAN, 1, 0.0), "y": f64(1, NAN, -0.0)},
        f64(NAN, 1, 0.0),
    ),
    Rule("max of three", lambda r: max(r.x, 2.0, r.y), {"x": f64(1, 3), "y": f64(5, -INF)}, f64(5, 3)),
    Rule("abs", lambda r: abs(r.x), {"x": f64(-0.0, -1.5, -INF)}, f64(0.0, 1.5, INF)),
    Rule("float16 loads as float32", lambda r: r.x + 1, {"x": pa.array([np.float16(0.5)])}, f32(1.5)),
]
CONVERSIONS = [
    Rule(
        "int() truncates",
        lambda r: int(r.x),
        {"x": f64(2.9, -2.9, NAN, INF, 9.3e18, -(2.0**63))},
        i64(2, -2, None, None, None, LOW),
    ),
    Rule("float()", lambda r: float(r.a), {"a": i64(2**53 + 1, -1)}, f64(2.0**53, -1)),
    Rule("float() widens", lambda r: float(r.x), {"x": f32(0.1)}, f64(float(np.float32(0.1)))),
    Rule("bool()", lambda r: bool(r.a), {"a": i64(0, 5, None)}, flags(False, True, None)),
    Rule(
        "round() to even",
        lambda r: round(r.x),
        {"x": f64(0.5, 1.5, -2.5, NAN, 1e30)},
        i64(0, 2, -2, None, None),
    ),
    Rule(
        "round() to digits",
        lambda r: round(r.x, 1),
        {"x": f64(2.25, 2.35, -0.04, NAN)},
        f64(2.2, 2.4, -0.0, NAN),
    ),
    Rule("round() of an int", lambda r: round(r.a), {"a": i8(5)}, i64(5)),
    Rule(
        "floor ceil trunc",
        lambda r: math.floor(r.x) * 100 + math.ceil(r.x) * 10 + math.trunc(r.x),
        {"x": f64(-1.5)},
        i64(-211),
    ),
    Rule("floor of NaN", lambda r: math.floor(r.x), {"x": f64(NAN, INF, 1e19)}, i64(None, None, None)),
    Rule("np.floor", lambda r: np.floor(r.x), {"x": f64(-1.5, NAN)}, f64(-2.0, NAN)),
    Rule("np.float32()", lambda r: np.float32(r.x), {"x": f64(0.1)}, f32(0.1)),
    Rule("np.int8() wraps", lambda r: np.int8(r.a), {"a": i64(200, -1)}, i8(-56, -1)),
]
MATHEMATICS = [
    Rule(
        "sqrt", lambda r: math.sqrt(r.x), {"x": f64(2.0, -1.0, INF, -0.0)}, f64(math.sqrt(2), NAN, INF, -0.0)
    ),
    Rule("log", lambda r: math.log(r.x), {"x": f64(1.0, 0.0, -1.0)}, f64(0.0, -INF, NAN)),
    Rule(
        "exp overflows to inf", lambda r: math.exp(r.x), {"x": f64(1000.0, -1000.0, 0.0)}, f64(INF, 0.0, 1.0)
    ),
    Rule("isnan", lambda r: math.isnan(r.x), {"x": f64(NAN, 1.0, None)}, flags(True, False, None)),
    Rule("isinf", lambda r: math.isinf(r.x), {"x": f64(NAN, -INF, 1.0)}, flags(False, True, False)),
    Rule("isfinite", lambda r: np.isfinite(r.x), {"x": f64(NAN, INF, 1.0)}, flags(False, False, True)),
    Rule("fmod", lambda r: math.fmod(r.x, r.y), {"x": f64(-7.5, 1.0), "y": f64(2.0, 0.0)}, f64(-1.5, NAN)),
    Rule("copysign", lambda r: math.copysign(r.x, -1.0), {"x": f64(1.5, -0.0)}, f64(-1.5, -0.0)),
    Rule(
        "copysign of a NaN",
        lambda r: math.copysign(r.x, r.y % 3.0),
        {"x": f64(1.5, -2.0, 3.0), "y": f64(math.inf, -math.nan, -1.0)},
        f64(1.5, 2.0, 3.0),
    ),
    Rule(
        "copysign of a NaN float32",
        lambda r: np.copysign(r.x, r.y - r.y),
        {"x": f32(-1.5, 2.0), "y": f32(math.inf, 1.0)},
        f32(1.5, 2.0),
    ),
    Rule(
        "np.maximum keeps NaN", lambda r: np.maximum(r.x, 1.0), {"x": f64(NAN, 2.0, 0.0)}, f64(NAN, 2.0, 1.0)
    ),
    Rule("np.where", lambda r: np.where(r.a > 0, r.a, 0), {"a": i64(5, -5, None)}, i64(5, 0, 0)),
    Rule("np.sqrt of float32", lambda r: np.sqrt(r.x), {"x": f32(2.0)}, f32(np.sqrt(np.float32(2)))),
]
STRINGS = [
    Rule("==", lambda r: r.s == "é", {"s": text("é", "e", None)}, flags(True, False, None)),
    Rule("by code point", lambda r: r.s < "😀", {"s": text("�", "a", "😁")}, flags(True, True, False)),
    Rule(
        "column with column",
        lambda r: r.s <= r.t,
        {"s": text("a", "b", "ab"), "t": text("b", "a", "ab")},
        flags(True, False, True),
    ),
    Rule("in a string", lambda r: "b" in r.s, {"s": text("abc", "ac", None)}, flags(True, False, None)),
    Rule("in constants", lambda r: r.s in {"x", "y"}, {"s": text("x", "z", None)}, flags(True, False, None)),
    Rule("not in", lambda r: r.s not in ("x",), {"s": text("x", "z", None)}, flags(False, True, None)),
    Rule(
        "endswith", lambda r: r.s.endswith(("b", "é")), {"s": text("ab", "aé", "a")}, flags(True, True, False)
    ),
    Rule("find", lambda r: r.s.find("b"), {"s": text("éab", "", None)}, i64(2, -1, None)),
    Rule("find a column", lambda r: r.s.find(r.t), {"s": text("日本", "a"), "t": text("本", "")}, i64(1, 0)),
    Rule(
        "isdigit", lambda r: r.s.isdigit(), {"s": text("1²", "", "a", None)}, flags(True, False, False, None)
    ),
    Rule("isupper", lambda r: r.s.isupper(), {"s": text("A1", "1", "Aa")}, flags(True, False, False)),
    Rule("lower", lambda r: r.s.lower() == "k", {"s": text("K", "\u212a", None)}, flags(True, True, None)),
    Rule("upper", lambda r: r.s.upper() != "STRASSE", {"s": text("straße", "s")}, flags(False, True)),
    Rule(
        "strip",
        lambda r: r.s.strip().endswith("a"),
        {"s": text("a\u2003", "a b ", None)},
        flags(True, False, None),
    ),
    Rule("slice", lambda r: r.s[-3:-1] == "é日", {"s": text("aé日b", "é日", None)}, flags(True, False, None)),
    Rule("character", lambda r: r.s[1] == "é", {"s": text("aé", "aa", "a")}, flags(True, False, None)),
    Rule(
        "changed and empty", lambda r: not r.s.strip(), {"s": text(" ", "a", None)}, flags(True, False, None)
    ),
    Rule(
        "pick a string",
        lambda r: r.s if len(r.s) > 1 else "short",
        {"s": text("ab", "a", None)},
        text("ab", "short", "short"),
    ),
    Rule(
        "dictionary",
        lambda r: r.s == "b",
        {"s": text("a", "b", None).dictionary_encode()},
        flags(False, True, None),
    ),
    Rule("large_string", lambda r: len(r.s), {"s": text("a", "日本").cast(pa.large_string())}, i64(1, 2)),
    Rule(
        "string_view",
        lambda r: r.s == "longer than a view",
        {"s": text("longer than a view", "x").cast(pa.string_view())},
        flags(True, False),
    ),
]
TIMES = [
    Rule("datetime", lambda r: r.t < NOON, {"t": timestamps("ms", 0, 2**50, None)}, flags(True, False, None)),
    Rule(
        "exact across units",
        lambda r: r.t == r.u,
        {"t": timestamps("s", HIGH, 1), "u": timestamps("ns", -(10**9), 10**9)},
        flags(False, True),
    ),
    Rule("with a zone", lambda r: r.t >= NOON_UTC, {"t": timestamps("us", 0, tz="Asia/Tokyo")}, flags(False)),
    Rule(
        "difference",
        lambda r: r.t - r.u,
        {"t": timestamps("s", 5), "u": timestamps("ms", 1500)},
        durations("ms", 3500),
    ),
    Rule(
        "dates differ",
        lambda r: r.d - r.e,
        {"d": dates(10, None), "e": dates(3, 1)},
        durations("s", 7 * 86400, None),
    ),
    Rule(
        "shift", lambda r: r.t + datetime.timedelta(hours=1), {"t": timestamps("s", 0)}, timestamps("s", 3600)
    ),
    Rule(
        "shift by less",
        lambda r: r.t - datetime.timedelta(milliseconds=5),
        {"t": timestamps("s", 1)},
        timestamps("us", 995000),
    ),
    Rule("shift a date", lambda r: r.d + datetime.timedelta(days=2), {"d": dates(0)}, dates(2)),
    Rule(
        "fields",
        lambda r: (
            (((r.t.year * 100 + r.t.month) * 100 + r.t.day) * 100 + r.t.hour) * 10000
            + r.t.minute * 100
            + r.t.second
        ),
        {"t": timestamps("ns", 1709210096123456789, -1)},
        i64(20240229123456, 19691231235959),
    ),
    Rule("weekday", lambda r: r.d.weekday(), {"d": dates(0, -1, 4, None)}, i64(3, 2, 0, None)),
    Rule("total_seconds", lambda r: r.d.total_seconds(), {"d": durations("ms", 1500, None)}, f64(1.5, None)),
    Rule("ratio", lambda r: r.a / r.b, {"a": durations("s", 3), "b": durations("ms", 1500)}, f64(2.0)),
    Rule(
        "timedelta",
        lambda r: r.a > datetime.timedelta(minutes=1),
        {"a": durations("s", 60, 61)},
        flags(False, True),
    ),
    Rule("date constant", lambda r: r.d == datetime.date(1970, 1, 2), {"d": dates(1, 2)}, flags(True, False)),
]
DECIMALS = [
    Rule(
        "+",
        lambda r: r.p + r.q,
        {"p": decimals(5, 2, "1.25", None), "q": decimals(6, 3, "0.125", "1")},
        decimals(7, 3, "1.375", None),
    ),
    Rule(
        "*",
        lambda r: r.p * r.q,
        {"p": decimals(5, 2, "1.25"), "q": decimals(6, 3, "-0.125")},
        decimals(12, 5, "-0.15625"),
    ),
    Rule(
        "compare",
        lambda r: r.p > Decimal("1.2"),
        {"p": decimals(5, 2, "1.25", "1.2", None)},
        flags(True, False, None),
    ),
    Rule("compare with int", lambda r: r.p == 3, {"p": decimals(5, 2, "3.00", "3.01")}, flags(True, False)),
    Rule("minus an int", lambda r: 1 - r.p, {"p": decimals(5, 2, "0.05")}, decimals(6, 2, "0.95")),
    Rule("float()", lambda r: float(r.p), {"p": decimals(5, 2, "0.07", None)}, f64(0.07, None)),
]
CONTROL_FLOW = [
    Rule("tuple of loop constants", tuple_of_loop_constants, {"a": i64(1, None)}, i64(3, None)),
    Rule("early return", early_return, {"a": i64(4, 10, 1000, None)}, i64(2, 4, 99, -1)),
    Rule("break and continue", loop_with_break_and_continue, {"n": i64(0, 3, 100, None)}, i64(0, 1, 13, 0)),
    Rule("while", while_loop, {"a": i64(1, 6, 27)}, i64(0, 8, 100)),
    Rule("tuples", tuples, {"a": i64(1, 9), "b": i64(5, 2)}, i64(4, 7)),
    Rule("elif", elif_chain, {"a": i64(11, 5, -1, None)}, text("big", "small", "none", "none")),
    Rule(
        "helper with a default",
        lambda r: helper_with_default(r.a) + helper_with_default(r.a, 3),
        {"a": i64(2)},
        i64(10),
    ),
    Rule(
        "captured table", lambda r: THRESHOLDS[r.s], {"s": text("b", "a", "x", None)}, i64(2, 1, None, None)
    ),
    Rule("while else", prime_by_else, {"n": i64(1, 2, 9, 13, None)}, flags(False, True, False, True, None)),
    Rule("for else", first_multiple, {"n": i64(9, 10, 7, None)}, i64(3, 5, -1, -1)),
    Rule(
        "variables of an inner loop before an else",
        inner_variable_left_behind,
        {"n": i64(0, 9, 8, 20)},
        i64(-6, 10, -14, 20),
    ),
    Rule(
        "else of a loop inside a loop",
        primes_below,
        {"n": i64(0, 3, 10, 20)},
        i64(0, 1, 4, 8),
    ),
    Rule(
        "captured table with a default",
        lambda r: THRESHOLDS.get(r.s, -1),
        {"s": text("b", "a", "x", None)},
        i64(2, 1, -1, -1),
    ),
    Rule("captured table without one", lambda r: THRESHOLDS.get(r.s), {"s": text("b", "x")}, i64(2, None)),
    Rule("a constant that is not there", lambda r: r.a + (THRESHOLDS["zz"] or 0), {"a": i64(1)}, i64(1)),
    Rule(
        "table of moments",
        lambda r: MOMENTS_SEEN.get(r.d, 0),
        {"d": dates(19782, 0, None)},
        i64(7, 0, 0),
    ),
    Rule(
        "table written where it is used",
        lambda r: {1: "one", 2: "two"}.get(r.a, "many"),
        {"a": i64(1, 2, 3, None)},
        text("one", "two", "many", "many"),
    ),
    Rule("table of rows", lambda r: ROWS[r.a][1], {"a": i64(0, 1, -1)}, f64(0.5, 1.5, 1.5)),
    Rule("enumerate", weighted_places, {"a": i64(2, None), "b": i64(3, 1)}, i64(8, None)),
    Rule("zip", dot_product, {"a": i64(2), "b": i64(3)}, i64(2 * 10 + 3 * 20)),
    Rule("reversed", lambda r: later_minus_earlier(r), {"a": i64(2), "b": i64(3)}, i64(1)),
    Rule(
        "generator with a condition",
        lambda r: sum(r.a * i for i in range(6) if i % 2),
        {"a": i64(2)},
        i64(18),
    ),
    Rule(
        "choices among the items of a generator",
        lambda r: sum(x * 2 for x in (r.a or 5, r.a and r.b)),
        {"a": i64(2, 0), "b": i64(3, 3)},
        i64(10, 10),
    ),
    Rule("part of constants", lambda r: r.a in (1, 2, 3)[1:], {"a": i64(1, 2)}, flags(False, True)),
    Rule(
        "tuple in tuples",
        lambda r: (r.a, r.b) in ((1, 2), (2, 1)),
        {"a": i64(1, 2, 3, None, None), "b": i64(2, 2, 1, 1, 9)},
        flags(True, False, False, None, False),
    ),
    Rule("walrus", lambda r: (y := r.a + 1) * y, {"a": i64(2)}, i64(9)),
    Rule("item access", lambda r: r["a"] + 1, {"a": i64(2)}, i64(3)),
]
RULES = {
    "nulls": NULLS,
    "booleans": BOOLEANS,
    "integers": INTEGERS,
    "floats": FLOATS,
    "conversions": CONVERSIONS,
    "mathematics": MATHEMATICS,
    "strings": STRINGS,
    "times": TIMES,
    "decimals": DECIMALS,
    "control flow": CONTROL_FLOW,
}


@pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, id=f"{group}: {rule.name}") for group, rules in RULES.items() for rule in rules],
)
def test_rule(device: str, run_on: Any, rule: Rule) -> None:
    batch = pa.RecordBatch.from_pydict(rule.given)
    stages = [WithColumnsStage(named=(("result", rule.function),)), SelectStage((("result", "result"),))]
    outcome = run_on(device, stages, batch)
    assert_batches_equal(outcome.batch, pa.RecordBatch.from_pydict({"result": rule.expected}))


def test_filter_counts_nulls(device: str, run_on: Any) -> None:
    batch = pa.RecordBatch.from_pydict(
        {"a": i64(1, None, -1, None, 5), "l": pa.array([[1], [2], [3], [], None])}
    )
    outcome = run_on(device, [FilterStage(lambda r: r.a > 0)], batch)
    assert outcome.batch.to_pydict() == {"a": [1, 5], "l": [[1], None]}
    assert outcome.rows_dropped_null_predicate == 2


def test_second_filter_does_not_count_what_the_first_dropped(device: str, run_on: Any) -> None:
    batch = pa.RecordBatch.from_pydict({"a": i64(1, None, 2), "b": i64(None, None, 3)})
    outcome = run_on(device, [FilterStage(lambda r: r.a > 0), FilterStage(lambda r: r.b > 0)], batch)
    assert outcome.batch.to_pydict() == {"a": [2], "b": [3]}
    assert outcome.rows_dropped_null_predicate == 2


def test_named_functions_see_the_record_as_it_came(device: str, run_on: Any) -> None:
    batch = pa.RecordBatch.from_pydict({"a": i64(1, 2)})
    stage = WithColumnsStage(named=(("a", lambda r: r.a + 10), ("b", lambda r: r.a)))
    assert run_on(device, [stage], batch).batch.to_pydict() == {"a": [11, 12], "b": [1, 2]}


class Point(NamedTuple):
    x: int
    y: float


def test_map_to_a_named_tuple(device: str, run_on: Any) -> None:
    batch = pa.RecordBatch.from_pydict({"a": i64(1, 2)})
    outcome = run_on(device, [MapStage(lambda r: Point(x=r.a, y=r.a / 2))], batch)
    assert_batches_equal(outcome.batch, pa.RecordBatch.from_pydict({"x": i64(1, 2), "y": f64(0.5, 1.0)}))


def test_map_that_keeps_the_record_keeps_every_type(device: str, run_on: Any) -> None:
    batch = pa.RecordBatch.from_pydict(
        {
            "a": i64(1, 2, 3),
            "l": pa.array([[1], None, []], pa.list_(pa.int8())),
            "v": pa.array(["x", None, "longer than a view"], pa.string_view()),
            "d": pa.array(["p", "q", "p"]).dictionary_encode(),
            "w": pa.array([Decimal(1), None, Decimal(2)], pa.decimal256(50, 0)),
        }
    ).slice(1)
    outcome = run_on(device, [MapStage(lambda r: {**r, "b": r.a * 2}), FilterStage(lambda r: r.b > 0)], batch)
    expected = pa.RecordBatch.from_arrays(
        [*batch.columns, i64(4, 6)], schema=batch.schema.append(pa.field("b", pa.int64()))
    )
    assert_batches_equal(outcome.batch, expected)


def test_select_renames_and_reorders(device: str, run_on: Any) -> None:
    batch = pa.RecordBatch.from_pydict({"a": i8(1), "b": text("x"), "c": f32(1.5)})
    outcome = run_on(device, [SelectStage((("z", "c"), ("a", "b")))], batch)
    assert_batches_equal(outcome.batch, pa.RecordBatch.from_pydict({"z": f32(1.5), "a": text("x")}))


@pytest.mark.parametrize("num_rows", [0, 1, 63, 64, 65, 1000])
def test_batches_of_any_size(device: str, run_on: Any, num_rows: int) -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array(range(num_rows), pa.int64())})
    stages = [FilterStage(lambda r: r.a % 3 == 0), WithColumnsStage(named=(("b", lambda r: r.a * 2),))]
    kept = [n for n in range(num_rows) if n % 3 == 0]
    outcome = run_on(device, stages, batch)
    assert outcome.batch.to_pydict() == {"a": kept, "b": [2 * n for n in kept]}
