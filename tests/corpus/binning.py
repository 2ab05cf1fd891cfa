"""Clipping, binning, thresholds, lookups in small tables."""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np
from corpus.entry import use

EDGES = (0, 10, 20, 50, 100)
LABELS = ["tiny", "small", "medium", "large", "huge"]
RATE_BY_ZONE = [1.0, 1.5, 2.25, 4.0]
AGE_GROUPS = ((18, "minor"), (35, "young"), (60, "middle"), (200, "senior"))

use("with_columns", "x:f64", "clip_to_percent")(lambda r: max(0.0, min(r.x, 100.0)))
use("with_columns", "x:i32", "clip_integer")(lambda r: min(max(r.x, -100), 100))
use("with_columns", "x:f64", "bin_of_width_five")(lambda r: math.floor(r.x / 5) * 5)
use("with_columns", "x:i64", "tens")(lambda r: r.x // 10 * 10)
use("with_columns", "x:f64", "rounded_to_quarter")(lambda r: round(r.x * 4) / 4)
use("with_columns", "x:f64", "relu")(lambda r: r.x if r.x > 0 else 0.0)
use("with_columns", "x:f32", "leaky_relu")(lambda r: np.where(r.x > 0, r.x, r.x * 0.01))
use("with_columns", "x:f64[0,100000000]", "order_of_magnitude")(
    lambda r: int(math.log10(r.x)) if r.x >= 1 else 0
)
use("filter", "x:f64", "within_three_sigma")(lambda r: abs(r.x - 10) <= 3 * 2.5)
use("with_columns", "zone:i8[0,5]", "rate_by_zone")(lambda r: RATE_BY_ZONE[r.zone])
use("with_columns", "x:f64", "sign_word")(lambda r: "+" if r.x > 0 else "-" if r.x < 0 else "0")


@use("with_columns", "x:f64")
def bin_label(r: Any) -> Any:
    for edge, label in zip(EDGES[1:], LABELS, strict=False):
        if r.x < edge:
            return label
    return LABELS[-1]


@use("with_columns", "x:i32")
def bin_index(r: Any) -> Any:
    index = 0
    for edge in EDGES:
        if r.x >= edge:
            index += 1
    return index


@use("with_columns", "age:i32")
def age_group(r: Any) -> Any:
    if r.age is None:
        return "unknown"
    for limit, name in AGE_GROUPS:
        if r.age < limit:
            return name
    return "?"


@use("with_columns", "x:f64 lower:f64 upper:f64")
def clamp_between_columns(r: Any) -> Any:
    if r.x < r.lower:
        return r.lower
    if r.x > r.upper:
        return r.upper
    return r.x


@use("with_columns", "x:f64")
def soft_threshold(r: Any) -> Any:
    limit = 2.0
    if r.x > limit:
        return r.x - limit
    if r.x < -limit:
        return r.x + limit
    return 0.0


@use("with_columns", "pm25:f64[0,600]")
def air_quality_index(r: Any) -> Any:
    table = ((0.0, 12.0, 0, 50), (12.1, 35.4, 51, 100), (35.5, 55.4, 101, 150), (55.5, 150.4, 151, 200))
    for c_low, c_high, i_low, i_high in table:
        if c_low <= r.pm25 <= c_high:
            return round((i_high - i_low) / (c_high - c_low) * (r.pm25 - c_low) + i_low)
    return None


@use("with_columns", "income:f64")
def bracket_by_else(r: Any) -> Any:
    bracket = 0
    for limit in (10_000, 40_000, 90_000):
        if r.income < limit:
            break
        bracket += 1
    else:
        bracket = 99
    return bracket


@use("with_columns", "x:f64[-5,105]")
def piecewise_linear(r: Any) -> Any:
    xs = (0.0, 10.0, 40.0, 100.0)
    ys = (0.0, 5.0, 8.0, 9.0)
    if r.x <= xs[0]:
        return ys[0]
    for i in range(3):
        if r.x <= xs[i + 1]:
            t = (r.x - xs[i]) / (xs[i + 1] - xs[i])
            return ys[i] + t * (ys[i + 1] - ys[i])
    return ys[-1]


@use("with_columns", "grade:d{A|B|C|D|E|F}")
def grade_points(r: Any) -> Any:
    return {"A": 4.0, "B": 3.0, "C": 2.0, "D": 1.0}.get(r.grade, 0.0)


@use("with_columns", "a:i32 b:i32")
def comparison_code(r: Any) -> Any:
    return (r.a > r.b) - (r.a < r.b)


@use("with_columns", "n:i32[0,1000]")
def fizz_buzz(r: Any) -> Any:
    if r.n % 15 == 0:
        return "FizzBuzz"
    if r.n % 3 == 0:
        return "Fizz"
    if r.n % 5 == 0:
        return "Buzz"
    return None


use("with_columns", "x:f64", "bisect_edges", refused="bisect.* is not available")(
    lambda r: bisect.bisect_right(EDGES, r.x)
)
use(
    "with_columns",
    "key:s table:s",
    "dict_of_column",
    refused="the column names of a record must be constant strings",
)(lambda r: {r.table: 1}[r.key])
