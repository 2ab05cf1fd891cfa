"""DuckDB and Polars give the same answers, bit for bit, where their rules are ours, on random data.

Axes: arithmetic, comparison and Kleene logic with nulls, string predicates, date parts, floor division. Not here:
where the peers have another rule by design (NaN equals itself and is the largest for both, DuckDB's ``%`` truncates
and its integers do not wrap), so floats are finite and integers of 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflare.kernels.udf.stages import FilterStage, SelectStage, WithColumnsStage
from dataflare.testing import assert_batches_equal, record_batches

SCHEMA = pa.schema(
    [
        *[("a", pa.int32()), ("b", pa.int32()), ("x", pa.float64()), ("y", pa.float64())],
        *[("p", pa.bool_()), ("q", pa.bool_()), ("s", pa.string()), ("z", pa.string())],
        *[("t", pa.timestamp("us")), ("u", pa.timestamp("us")), ("d", pa.date32())],
    ]
)
CENTURY_US = 100 * 366 * 86_400 * 10**6


class Question(NamedTuple):
    """One expression in three languages; None where a peer has another rule."""

    ours: Callable[[Any], Any]
    sql: str | None
    polars: pl.Expr | None


A, B = pl.col("a").cast(pl.Int64), pl.col("b").cast(pl.Int64)
X, Y, P, Q, S, Z, T, U, D = (pl.col(name) for name in "xypqsztud")
QUESTIONS = {
    "add": Question(lambda r: r.a + r.b, "a::BIGINT + b::BIGINT", A + B),
    "subtract": Question(lambda r: r.a - r.b, "a::BIGINT - b::BIGINT", A - B),
    "multiply": Question(lambda r: r.a * r.b, "a::BIGINT * b::BIGINT", A * B),
    "wrap": Question(lambda r: r.a * 2**40 * r.b, None, A * 2**40 * B),
    "true division": Question(lambda r: r.a / r.b, None, A / B),
    "floor division": Question(lambda r: r.a // r.b, None, A // B),
    "modulo": Question(lambda r: r.a % r.b, None, A % B),
    "negate": Question(lambda r: -r.a, "-a::BIGINT", -A),
    "bits": Question(
        lambda r: (r.a & 12) | (r.b ^ 5), "(a::BIGINT & 12) | xor(b::BIGINT, 5)", (A & 12) | (B ^ 5)
    ),
    "float add": Question(lambda r: r.x + r.y, "x + y", X + Y),
    "float multiply": Question(lambda r: r.x * 0.1 - r.y, "x * 0.1::DOUBLE - y", X * 0.1 - Y),
    "float divide": Question(lambda r: r.x / r.y, None, X / Y),
    "mixed": Question(lambda r: r.a + r.x, "a::BIGINT + x", A + X),
    "absolute": Question(lambda r: abs(r.x), "abs(x)", X.abs()),
    "floor": Question(lambda r: np.floor(r.x), "floor(x)", X.floor()),
    "square root": Question(lambda r: abs(r.x) ** 2, "abs(x) * abs(x)", X.abs() * X.abs()),
    "less": Question(lambda r: r.a < r.b, "a < b", A < B),
    "less or equal": Question(lambda r: r.x <= r.y, "x <= y", X <= Y),
    "equal": Question(lambda r: r.a == r.b, "a = b", A == B),
    "not equal": Question(lambda r: r.x != r.y, "x <> y", X != Y),
    "between": Question(lambda r: -100 <= r.a < 100, "-100 <= a AND a < 100", (A >= -100) & (A < 100)),
    "and": Question(lambda r: r.p and r.q, "p AND q", P & Q),
    "or": Question(lambda r: r.p or r.q, "p OR q", P | Q),
    "not": Question(lambda r: not r.p, "NOT p", ~P),
    "xor": Question(lambda r: r.p ^ r.q, "p <> q", P ^ Q),
    "logic": Question(
        lambda r: (r.p and r.a > 0) or not (r.q or r.x < 1),
        "(p AND a > 0) OR NOT (q OR x < 1)",
        (P & (A > 0)) | ~(Q | (X < 1)),
    ),
    "is null": Question(lambda r: r.a is None, "a IS NULL", A.is_null()),
    "choose": Question(
        lambda r: r.a if r.p else r.b,
        "CASE WHEN p THEN a ELSE b END",
        pl.when(pl.col("p")).then(pl.col("a")).otherwise(pl.col("b")),
    ),
    "in": Question(lambda r: r.a in (0, 1, -1, 7), "a IN (0, 1, -1, 7)", A.is_in([0, 1, -1, 7])),
    "text less": Question(lambda r: r.s < r.z, "s < z", S < Z),
    "text equal": Question(lambda r: r.s == r.z, "s = z", S == Z),
    "text literal": Question(lambda r: r.s >= "ab", "s >= 'ab'", S >= "ab"),
    "starts": Question(lambda r: r.s.startswith("a"), "starts_with(s, 'a')", S.str.starts_with("a")),
    "ends": Question(lambda r: r.s.endswith("é"), "ends_with(s, 'é')", S.str.ends_with("é")),
    "contains": Question(lambda r: "b" in r.s, "contains(s, 'b')", S.str.contains("b", literal=True)),
    "length": Question(lambda r: len(r.s), "length(s)", S.str.len_chars().cast(pl.Int64)),
    "year": Question(lambda r: r.t.year, "year(t)", T.dt.year().cast(pl.Int64)),
    "month": Question(lambda r: r.t.month, "month(t)", T.dt.month().cast(pl.Int64)),
    "day": Question(lambda r: r.d.day, "day(d)", D.dt.day().cast(pl.Int64)),
    "hour": Question(lambda r: r.t.hour, "hour(t)", T.dt.hour().cast(pl.Int64)),
    "minute": Question(lambda r: r.t.minute, "minute(t)", T.dt.minute().cast(pl.Int64)),
    "second": Question(lambda r: r.t.second, "second(t)", T.dt.second().cast(pl.Int64)),
    "weekday": Question(lambda r: r.d.weekday(), "isodow(d) - 1", D.dt.weekday().cast(pl.Int64) - 1),
    "earlier": Question(lambda r: r.t < r.u, "t < u", T < U),
    "difference": Question(lambda r: r.t - r.u, None, T - U),
    "days": Question(lambda r: (r.t - r.u).days, None, (T - U).dt.total_microseconds() // 86_400_000_000),
}


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Draw a batch of finite floats and of times that every peer's calendar has."""
    batch = draw(record_batches(SCHEMA, max_rows=60))
    columns = {name: batch.column(name) for name in SCHEMA.names}
    for name in "xy":
        columns[name] = pc.if_else(pc.is_finite(columns[name]), columns[name], 0.0)
    for name in "tu":
        counts = columns[name].view(pa.int64())
        shifted = pa.array([None if n is None else n % CENTURY_US for n in counts.to_pylist()], pa.int64())
        columns[name] = shifted.view(pa.timestamp("us"))
    days = [None if n is None else n % 36_525 for n in columns["d"].view(pa.int32()).to_pylist()]
    columns["d"] = pa.array(days, pa.int32()).view(pa.date32())
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=SCHEMA)


def ask(run_on: Any, device: str, names: list[str], batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return one column for each question, all computed by one program."""
    named = tuple((name, QUESTIONS[name].ours) for name in names)
    stages = [WithColumnsStage(named=named), SelectStage(tuple((name, name) for name in names))]
    answers: pa.RecordBatch = run_on(device, stages, batch).batch
    return answers


@settings(max_examples=min(50, settings.default.max_examples))
@given(batch=batches())
def test_duckdb_agrees(device: str, run_on: Any, batch: pa.RecordBatch) -> None:
    asked = {name: question.sql for name, question in QUESTIONS.items() if question.sql is not None}
    ours = ask(run_on, device, list(asked), batch)
    connection = duckdb.connect()
    connection.register("data", pa.Table.from_batches([batch]))
    query = ", ".join(f'{sql} AS "{name}"' for name, sql in asked.items())
    theirs = connection.sql(f"SELECT {query} FROM data").to_arrow_table()
    assert_batches_equal(ours, theirs.cast(ours.schema))


@settings(max_examples=min(50, settings.default.max_examples))
@given(batch=batches())
def test_polars_agrees(device: str, run_on: Any, batch: pa.RecordBatch) -> None:
    asked = {name: question.polars for name, question in QUESTIONS.items() if question.polars is not None}
    ours = ask(run_on, device, list(asked), batch)
    frame = pl.from_arrow(pa.Table.from_batches([batch]))
    assert isinstance(frame, pl.DataFrame)
    theirs = frame.select(**asked).to_arrow()
    assert_batches_equal(ours, theirs.cast(ours.schema))


@settings(max_examples=min(50, settings.default.max_examples))
@given(batch=batches())
def test_filters_keep_the_same_rows(device: str, run_on: Any, batch: pa.RecordBatch) -> None:
    outcome = run_on(device, [FilterStage(lambda r: r.a > r.b and (r.p or r.s != "a"))], batch)
    condition = "a > b AND (p OR s <> 'a')"
    connection = duckdb.connect()
    connection.register("data", pa.Table.from_batches([batch]))
    kept = connection.sql(f"SELECT * FROM data WHERE {condition}").to_arrow_table()
    unknown = connection.sql(f"SELECT count(*) FROM data WHERE ({condition}) IS NULL").fetchall()
    assert_batches_equal(outcome.batch, kept.cast(outcome.batch.schema))
    assert unknown == [(outcome.rows_dropped_null_predicate,)]
