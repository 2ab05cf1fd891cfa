"""What the guides of pandas, Numba, cuDF, Spark and Polars show as user-defined functions, written as tasks."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
from corpus.entry import use

THRESHOLD = 10
counter = 0
CACHE: dict[str, int] = {}


use("with_columns", "x:i64", "square")(lambda r: r.x**2)
use("with_columns", "x:i64", "add_one")(lambda r: r.x + 1)
use("with_columns", "a:i64 b:i64", "sum_of_columns")(lambda r: r["a"] + r["b"])
use("with_columns", "x:f64", "polynomial")(lambda r: 3 * r.x**3 - 2 * r.x + 1)
use("filter", "x:i64", "is_even")(lambda r: r.x % 2 == 0)
use("with_columns", "x:i64", "even_or_odd")(lambda r: "even" if r.x % 2 == 0 else "odd")
use("with_columns", "x:f64[0,1000]", "log_plus_one")(lambda r: np.log(r.x + 1))
use("with_columns", "a:i64 b:i64", "safe_ratio")(lambda r: r.a / r.b if r.b != 0 else float("nan"))
use("with_columns", "a:f64 b:f64", "larger_of_two")(lambda r: np.maximum(r.a, r.b))
use("with_columns", "x:i32", "null_aware_add")(lambda r: -1 if r.x is None else r.x + THRESHOLD)
use("with_columns", "x:f64", "bounded_by_global")(lambda r: r.x if r.x < THRESHOLD else THRESHOLD)
use("filter", "x:f64 y:f64", "inside_unit_circle")(lambda r: r.x * r.x + r.y * r.y <= 1.0)
use("with_columns", "low:f64 high:f64", "midpoint")(lambda r: (r.low + r.high) / 2)
use("map", "a:i32 b:i32", "sum_and_difference")(lambda r: {"sum": r.a + r.b, "difference": r.a - r.b})
use("with_columns", "x:i64[0,50]", "triangle_by_loop")(lambda r: sum(i if i <= r.x else 0 for i in range(51)))


@use("with_columns", "x:f64")
def conditional_by_branches(r: Any) -> Any:
    """If-elif-else as in the first example of most guides."""
    if r.x < 0:
        result = -1.0
    elif r.x == 0:
        result = 0.0
    else:
        result = math.sqrt(r.x)
    return result


@use("with_columns", "a:f64 b:f64 c:f64")
def hypotenuse_error(r: Any) -> Any:
    return abs(np.hypot(r.a, r.b) - r.c)


def times(factor: int) -> Any:
    return lambda r: r.x * factor


use("with_columns", "x:i32", "closure_over_factor")(times(7))


@use("with_columns", "x:i32 y:i32")
def keyword_default(r: Any, scale: int = 3) -> Any:
    return r.x * scale + r.y


@use("with_columns", "n:i64[0,200]")
def loop_with_accumulator(r: Any) -> Any:
    total = 0.0
    for i in range(r.n):
        if i % 3 == 0:
            continue
        total += 1 / (i + 1)
    return total


@use("with_columns", "cents:u64 fee:f32")
def unsigned_with_float32(r: Any) -> Any:
    return r.cents * r.fee if r.cents < 9223372036854775808 else r.fee


use("filter", "x:f32", "float32_below_a_big_literal")(lambda r: r.x < 18446744073709551615)


@use("with_columns", "x:i64", refused="a `global` statement cannot be compiled")
def counts_calls(r: Any) -> Any:
    global counter
    counter += 1
    return r.x + counter


@use("with_columns", "x:f64", refused="random.* is not available")
def jitter(r: Any) -> Any:
    return r.x + random.random()


@use("with_columns", "key:s x:i32", refused="records and collections are read-only")
def memoised(r: Any) -> Any:
    CACHE[r.key] = r.x
    return r.x


@use("with_columns", "x:i64[0,20]")
def even_squares(r: Any) -> Any:
    return sum(i * i for i in range(20) if i % 2 == 0)


class Scaler:
    """A model object with state, as scikit-learn has them."""

    def __init__(self, mean: float, scale: float) -> None:
        self.mean = mean
        self.scale = scale

    def transform(self, x: Any) -> Any:
        return (x - self.mean) / self.scale


SCALER = Scaler(3.0, 2.0)

use("with_columns", "x:f64", "attributes_of_an_object")(lambda r: (r.x - SCALER.mean) / SCALER.scale)
use(
    "with_columns",
    "x:f64",
    "method_of_an_object",
    refused="the method .transform.. of an object of class Scaler",
)(lambda r: SCALER.transform(r.x))
