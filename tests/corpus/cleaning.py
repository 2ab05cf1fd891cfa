"""Missing values, sentinels, defaults, duplicates, impossible values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from corpus.entry import use

SENTINELS = (-999, -9999, 9999)

use("with_columns", "x:f64", "nan_to_zero")(lambda r: 0.0 if math.isnan(r.x) else r.x)
use("with_columns", "x:f64", "nan_to_null")(lambda r: None if r.x != r.x else r.x)
use("with_columns", "a:i32", "null_to_zero")(lambda r: r.a if r.a is not None else 0)
use("with_columns", "a:i64 b:i64 c:i64", "coalesce")(lambda r: r.a or r.b or r.c or 0)
use("filter", "a:i32 b:f64 c:s", "complete_cases")(
    lambda r: r.a is not None and r.b is not None and r.c is not None and not math.isnan(r.b)
)
use("with_columns", "a:i32", "sentinel_to_null")(lambda r: None if r.a in SENTINELS else r.a)
use("with_columns", "x:f64", "infinite_to_null")(lambda r: r.x if np.isfinite(r.x) else None)
use("with_columns", "x:f64 fallback:f32", "first_valid_number")(
    lambda r: r.x if r.x is not None and not np.isnan(r.x) else r.fallback
)
use("with_columns", "flag:bool", "null_flag_is_false")(lambda r: bool(r.flag or False))
use("with_columns", "a:bool b:bool", "exactly_one")(lambda r: r.a != r.b)
use("with_columns", "a:i8 b:i8 c:i8 d:i8", "count_missing")(
    lambda r: sum(1 if v is None else 0 for v in (r.a, r.b, r.c, r.d))
)


@use("with_columns", "age:i16")
def plausible_age(r: Any) -> Any:
    if r.age is None or r.age < 0 or r.age > 120:
        return None
    return r.age


@use("with_columns", "temperature:f64 unit:s{C|F|K|?}")
def to_celsius(r: Any) -> Any:
    if r.unit == "C":
        return r.temperature
    if r.unit == "F":
        return (r.temperature - 32) * 5 / 9
    if r.unit == "K":
        return r.temperature - 273.15
    return None


@use("map", "low:f64 high:f64")
def ordered_bounds(r: Any) -> Any:
    low, high = r.low, r.high
    if low > high:
        low, high = high, low
    return {"low": low, "high": high, "swapped": r.low > r.high}


@use("with_columns", "weight:f64 unit:d{kg|g|lb|oz}")
def to_kilograms(r: Any) -> Any:
    factor = {"kg": 1.0, "g": 0.001, "lb": 0.45359237, "oz": 0.028349523125}
    return r.weight * factor[r.unit]


@use("with_columns", "reading:f64 previous:f64")
def carry_forward(r: Any) -> Any:
    value = r.reading
    if value is None or math.isnan(value):
        value = r.previous
    return value


@use("with_columns", "a:f64 b:f64 c:f64")
def median_of_three(r: Any) -> Any:
    if r.a > r.b:
        if r.b > r.c:
            return r.b
        return r.c if r.a > r.c else r.a
    if r.a > r.c:
        return r.a
    return r.c if r.b > r.c else r.b


@use("with_columns", "a:f64 b:f64 c:f64 d:f64")
def mean_of_valid(r: Any) -> Any:
    total, count = 0.0, 0
    for v in (r.a, r.b, r.c, r.d):
        if v is None or math.isnan(v):
            continue
        total += v
        count += 1
    return total / count if count else None


@use("with_columns", "phone:i64[0,99999999999]")
def phone_digits_ok(r: Any) -> Any:
    n = r.phone
    digits = 0
    while n > 0:
        n //= 10
        digits += 1
    return 7 <= digits <= 11


@use("with_columns", "gender:s{m|f|male|female|x|}")
def harmonised_gender(r: Any) -> Any:
    if r.gender in ("m", "male", "M"):
        return "male"
    if r.gender in ("f", "female", "F"):
        return "female"
    return None


@use("with_columns", "x:f64")
def winsorise(r: Any) -> Any:
    return np.clip(r.x, -100.0, 100.0)


@use("with_columns", "code:i32")
def negative_codes_flipped(r: Any) -> Any:
    code = r.code
    if code is None:
        code = -1
    if code < 0:
        code = -code
    return code % 1000


@use("with_columns", "value:f64 text:s{12.5|x}", refused="A `try` statement cannot be compiled")
def float_or_default(r: Any) -> Any:
    try:
        return float(r.text)
    except ValueError:
        return r.value


use("with_columns", "price:f64", "fix_thousandfold")(
    lambda r: r.price / 1000 if r.price > 100_000 else r.price
)
use("filter", "x:f32 y:f32", "drop_zero_rows")(lambda r: not (r.x == 0 and r.y == 0))
