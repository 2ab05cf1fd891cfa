"""Points, grades, risks, ranks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from corpus.entry import use

WEIGHTS = (0.5, 0.3, 0.2)

use("with_columns", "kg:f64[30,200] m:f64[1.2,2.2]", "body_mass_index")(lambda r: r.kg / r.m**2)
use("with_columns", "score:i32", "pass_or_fail")(lambda r: "pass" if r.score >= 50 else "fail")
use("with_columns", "a:f64 b:f64 c:f64", "weighted_sum")(
    lambda r: WEIGHTS[0] * r.a + WEIGHTS[1] * r.b + WEIGHTS[2] * r.c
)
use("with_columns", "stars:i8[1,5] votes:i32[0,100000]", "bayesian_rating")(
    lambda r: (r.votes * r.stars + 25 * 3.2) / (r.votes + 25)
)


@use("with_columns", "score:f64[0,100]")
def letter_grade(r: Any) -> Any:
    if r.score >= 90:
        return "A"
    elif r.score >= 80:
        return "B"
    elif r.score >= 70:
        return "C"
    elif r.score >= 60:
        return "D"
    else:
        return "F"


@use("with_columns", "up:i32[0,1000] down:i32[0,1000]")
def wilson_lower_bound(r: Any) -> Any:
    n = r.up + r.down
    if n == 0:
        return 0.0
    z = 1.96
    p = r.up / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt((p * (1 - p) + z * z / (4 * n)) / n)
    return (centre - spread) / (1 + z * z / n)


@use("with_columns", "points:i32[0,5000] age_hours:f64[0,500]")
def hacker_news_rank(r: Any) -> Any:
    return (r.points - 1) / (r.age_hours + 2) ** 1.8


@use("with_columns", "ups:i32 downs:i32 seconds:i64[0,2000000000]")
def reddit_hot(r: Any) -> Any:
    s = r.ups - r.downs
    order = math.log10(max(abs(s), 1))
    sign = 1 if s > 0 else -1 if s < 0 else 0
    return round(sign * order + (r.seconds - 1134028003) / 45000, 7)


@use("with_columns", "mine:f64[500,3000] other:f64[500,3000] result:f64[0,1] games:i32[0,100]")
def elo_update(r: Any) -> Any:
    expected = 1 / (1 + 10 ** ((r.other - r.mine) / 400))
    k = 40 if r.games < 30 else 10 if r.mine >= 2400 else 20
    return r.mine + k * (r.result - expected)


@use("with_columns", "age:u8 systolic:i16 smoker:bool diabetic:bool")
def heart_risk_points(r: Any) -> Any:
    points = 0
    if r.age >= 65:
        points += 3
    elif r.age >= 50:
        points += 2
    if r.systolic >= 140:
        points += 2
    points += r.smoker + r.diabetic
    return points


class Apgar(NamedTuple):
    total: int
    label: str


@use("map", "a:i8[0,2] p:i8[0,2] g:i8[0,2] c:i8[0,2] b:i8[0,2]")
def apgar(r: Any) -> Apgar:
    total = r.a + r.p + r.g + r.c + r.b
    return Apgar(total, "normal" if total > 6 else "low" if total > 3 else "critical")


@use("with_columns", "recency:i16[0,400] frequency:i16[0,60] money:f32[0,5000]")
def rfm_segment(r: Any) -> Any:
    def third(value: Any, low: Any, high: Any) -> Any:
        return 1 if value < low else 2 if value < high else 3

    return (4 - third(r.recency, 30, 120)) * 100 + third(r.frequency, 3, 12) * 10 + third(r.money, 100, 900)


@use("filter", "rating:f32 reviews:i32 price:f64")
def worth_showing(r: Any) -> Any:
    return (r.rating >= 4 and r.reviews > 20 and r.price < 100) or r.rating >= 4.8


@use("with_columns", "t1:f64 t2:f64 t3:f64")
def drop_the_lowest(r: Any) -> Any:
    return (r.t1 + r.t2 + r.t3 - min(r.t1, r.t2, r.t3)) / 2


@use("with_columns", "correct:i16[0,50] wrong:i16[0,50]")
def guess_corrected_score(r: Any) -> Any:
    return max(0, r.correct - r.wrong / 4)


@use("with_columns", "value:f64 low:f64 high:f64")
def min_max_scaled(r: Any) -> Any:
    if r.high == r.low:
        return 0.5
    return min(max((r.value - r.low) / (r.high - r.low), 0.0), 1.0)


@use("with_columns", "place:i32[1,30]")
def formula_one_points(r: Any) -> Any:
    points = (25, 18, 15, 12, 10, 8, 6, 4, 2, 1)
    return points[r.place - 1] if 1 <= r.place <= 10 else 0


@use("with_columns", "level:i32[0,60]")
def experience_needed(r: Any) -> Any:
    total = 0
    for i in range(1, r.level):
        total += math.floor(i + 300 * 2 ** (i / 7))
    return total // 4


@use("with_columns", "gcs_eye:i8 gcs_verbal:i8 gcs_motor:i8")
def coma_scale(r: Any) -> Any:
    parts = (r.gcs_eye, r.gcs_verbal, r.gcs_motor)
    if any(p is None for p in parts):
        return None
    return sum(parts)


use("with_columns", "x:f64", "z_score")(lambda r: (r.x - 12.5) / 3.25)
use("with_columns", "p:f32[0,1]", "log_odds")(lambda r: np.log(r.p / (1 - r.p)))
