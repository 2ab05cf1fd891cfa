"""Results, times, tables, training."""

from __future__ import annotations

from typing import Any

from corpus.entry import use

use("with_columns", "hits:i32[0,300] at_bats:i32[0,700]", "batting_average")(
    lambda r: round(r.hits / r.at_bats, 3) if r.at_bats > 0 else None
)
use("with_columns", "seconds:f64[600,20000] km:f64[0.1,50]", "pace_minutes_per_km")(
    lambda r: r.seconds / 60 / r.km
)
use("with_columns", "age:i8[10,90] rest:i16[35,90] share:f32[0.5,1]", "target_heart_rate")(
    lambda r: round((220 - r.age - r.rest) * r.share + r.rest)
)
use("with_columns", "kg:f64[1,300] reps:i8[1,12]", "one_rep_max")(lambda r: r.kg * (1 + r.reps / 30))


@use("with_columns", "ours:i8[0,9] theirs:i8[0,9]")
def league_points(r: Any) -> Any:
    if r.ours > r.theirs:
        return 3
    return 1 if r.ours == r.theirs else 0


@use("with_columns", "home:u8[0,9] away:u8[0,9] tip_home:u8[0,9] tip_away:u8[0,9]")
def betting_pool_points(r: Any) -> Any:
    if (r.home, r.away) == (r.tip_home, r.tip_away):
        return 4
    actual, tip = r.home - r.away, r.tip_home - r.tip_away
    if actual == tip:
        return 3
    return 2 if actual * tip > 0 else 0


@use("with_columns", "completions:i16[0,50] attempts:i16[0,60] yards:i16[-20,500] td:i8[0,7] picks:i8[0,5]")
def passer_rating(r: Any) -> Any:
    if r.attempts == 0:
        return None
    parts = (
        (r.completions / r.attempts - 0.3) * 5,
        (r.yards / r.attempts - 3) * 0.25,
        r.td / r.attempts * 20,
        2.375 - r.picks / r.attempts * 25,
    )
    total = 0.0
    for part in parts:
        total += min(max(part, 0.0), 2.375)
    return total / 6 * 100


@use("with_columns", "distance:f64[1,50] time:f64[200,20000]")
def riegel_marathon(r: Any) -> Any:
    return r.time * (42.195 / r.distance) ** 1.06


@use("with_columns", "score:i8[0,13] other:i8[0,13]")
def tennis_set_state(r: Any) -> Any:
    high, low = max(r.score, r.other), min(r.score, r.other)
    if high == 7 or (high == 6 and low <= 4):
        return "won" if r.score > r.other else "lost"
    if high == 6 and low == 6:
        return "tie-break"
    return "open" if high <= 6 else None


@use("with_columns", "strokes:i8[1,15] par:i8[3,5]")
def golf_name(r: Any) -> Any:
    if r.strokes == 1:
        return "ace"
    return {-2: "eagle", -1: "birdie", 0: "par", 1: "bogey"}.get(r.strokes - r.par, "other")


@use("with_columns", "a:i8[0,10] b:i8[0,10] strike_bonus:i8[0,20]")
def bowling_frame(r: Any) -> Any:
    if r.a == 10:
        return 10 + r.strike_bonus
    if r.a + r.b == 10:
        return 10 + r.strike_bonus // 2
    return r.a + r.b


@use("with_columns", "centimetres:f64[0,900] event:s{high jump|long jump|shot put|javelin}")
def decathlon_points(r: Any) -> Any:
    if r.event == "high jump":
        a, b, c = 0.8465, 75.0, 1.42
    elif r.event == "long jump":
        a, b, c = 0.14354, 220.0, 1.4
    else:
        return None
    if r.centimetres <= b:
        return 0
    return int(a * (r.centimetres - b) ** c)


@use("filter", "games:i16 points:f64 injured:bool team:d{LAL|BOS|NYK|}")
def fantasy_candidates(r: Any) -> Any:
    return not r.injured and r.games >= 10 and r.points > 15.5 and r.team not in ("NYK", "")
