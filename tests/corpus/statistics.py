"""Densities, links, losses, activations, distances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from corpus.entry import use

COEFFICIENTS = {"age": 0.03, "income": -0.00001, "bias": -1.2}

use("with_columns", "x:f64[-30,30]", "sigmoid")(lambda r: 1 / (1 + math.exp(-r.x)))
use("with_columns", "x:f64[-5,5]", "normal_density")(
    lambda r: math.exp(-r.x * r.x / 2) / math.sqrt(2 * math.pi)
)
use("with_columns", "x:f64[-5,5]", "normal_distribution")(lambda r: 0.5 * math.erfc(-r.x / math.sqrt(2)))
use("with_columns", "x:f32[-50,50]", "softplus")(lambda r: np.log1p(np.exp(-abs(r.x))) + max(r.x, 0))
use("with_columns", "x:f64[-5,5]", "gelu")(
    lambda r: 0.5 * r.x * (1 + math.tanh(0.7978845608 * (r.x + 0.044715 * r.x**3)))
)
use("with_columns", "age:i16[18,90] income:f64[0,200000]", "logistic_prediction")(
    lambda r: (
        1
        / (
            1
            + math.exp(
                -(COEFFICIENTS["bias"] + COEFFICIENTS["age"] * r.age + COEFFICIENTS["income"] * r.income)
            )
        )
    )
)
use("with_columns", "y:f64[0,1] p:f64[0.001,0.999]", "cross_entropy")(
    lambda r: -(r.y * math.log(r.p) + (1 - r.y) * math.log(1 - r.p))
)
use("with_columns", "k:i32[0,40] rate:f64[0.1,20]", "poisson_probability")(
    lambda r: math.exp(r.k * math.log(r.rate) - r.rate - math.lgamma(r.k + 1))
)


@use("with_columns", "error:f64")
def huber_loss(r: Any) -> Any:
    e = abs(r.error)
    return 0.5 * e * e if e <= 1 else e - 0.5


@use("with_columns", "x1:f64 x2:f64 x3:f64 y1:f64 y2:f64 y3:f64")
def cosine_similarity(r: Any) -> Any:
    xs, ys = (r.x1, r.x2, r.x3), (r.y1, r.y2, r.y3)
    dot = sum(x * y for x, y in zip(xs, ys, strict=True))
    norms = math.sqrt(sum(x * x for x in xs)) * math.sqrt(sum(y * y for y in ys))
    return dot / norms if norms > 0 else 0.0


@use("with_columns", "age:i16 income:f64 owner:bool")
def decision_tree(r: Any) -> Any:
    if r.age < 30:
        if r.income < 20_000:
            return 0.12
        return 0.35 if r.owner else 0.28
    if r.income < 55_000:
        return 0.44
    return 0.81 if r.owner else 0.66


@use("with_columns", "x:f64[0,10] y:f64[0,10]")
def nearest_centroid(r: Any) -> Any:
    best, best_distance = -1, math.inf
    for label, (cx, cy) in enumerate(((1.0, 1.0), (5.0, 8.0), (9.0, 3.0))):
        d = (r.x - cx) ** 2 + (r.y - cy) ** 2
        if d < best_distance:
            best, best_distance = label, d
    return best


@use("with_columns", "x:f64[0,1] a:f64[0.5,5] b:f64[0.5,5]")
def beta_density(r: Any) -> Any:
    log_beta = math.lgamma(r.a) + math.lgamma(r.b) - math.lgamma(r.a + r.b)
    return r.x ** (r.a - 1) * (1 - r.x) ** (r.b - 1) / math.exp(log_beta)


@use("with_columns", "x:f64[-1,1]")
def legendre_five(r: Any) -> Any:
    before, current = 1.0, r.x
    for n in range(1, 5):
        before, current = current, ((2 * n + 1) * r.x * current - n * before) / (n + 1)
    return current


@use("with_columns", "x:f64[0.01,30]")
def gamma_incomplete_series(r: Any) -> Any:
    total = term = 1 / 2.5
    n = 1
    while term > total * 1e-12 and n < 200:
        term *= r.x / (2.5 + n)
        total += term
        n += 1
    return total * math.exp(-r.x + 2.5 * math.log(r.x))


@use("with_columns", "observed:i32[0,500] expected:f64[1,500]")
def chi_square_term(r: Any) -> Any:
    return (r.observed - r.expected) ** 2 / r.expected


@use("with_columns", "h1:u64 h2:u64")
def hamming_distance(r: Any) -> Any:
    x = r.h1 ^ r.h2
    count = 0
    for _ in range(64):
        if x == 0:
            break
        x &= x - 1
        count += 1
    return count
