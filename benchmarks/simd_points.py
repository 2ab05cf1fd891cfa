"""The points that ``benchmarks.simd`` measures: data, the right answer, and every engine's own way.

Each point is a kind of record function that a compiler to SIMD code finds hard: nulls, branches and math without
a loop, loops of a length of their own for every record, strings, and filters from the emptiest to the fullest. W3 and
W4 are those of ``benchmarks.workloads``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

import dataflare as flare
from benchmarks import numba_kernels as kernels
from benchmarks.contenders import with_dataflare, with_polars
from benchmarks.contenders.every import all_contenders
from benchmarks.contenders.slow_routes import COMPILED, PER_RECORD
from benchmarks.contenders.with_duckdb import sql
from benchmarks.data import Columns, generate
from benchmarks.definitions import WORKLOADS, numpy_trip_fare
from benchmarks.harness.environment import available_cores
from benchmarks.harness.runner import Contender
from benchmarks.record_functions import collatz_steps, line_total, trip_fare

__all__ = ["POINTS", "ROW_BY_ROW", "SELECTIVITY_PERCENT", "Point"]

ROW_BY_ROW = "row by row"
SELECTIVITY_PERCENT = (0.1, 1, 10, 50, 90, 99)
_NULL_SHARE = 0.3
_DISTINCT = 1000
_TRIP = ("lat1", "lon1", "lat2", "lon2", "qty")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One table: contenders for one kind of record function, and the right answer by NumPy, a null as NaN."""

    key: str
    title: str
    contenders: Callable[[int], list[Contender]]
    expected: Callable[[int], dict[str, np.ndarray]]
    tolerance: float = 1e-12


def _dataflare(pipeline: Callable[[], Any], rows: int) -> list[Contender]:
    return [
        Contender(
            name="DataFlare collect()",
            role="dataflare",
            route=COMPILED,
            rows=rows,
            run=lambda: pipeline().collect(),
            to_arrow=lambda batch: batch.to_arrow(),
        )
    ]


def _polars(
    query: Callable[[], pl.LazyFrame], rows: int, *, how: str = "", route: str = ""
) -> list[Contender]:
    return [
        Contender(
            name=f"Polars{how}, {engine}",
            route=route,
            rows=rows,
            run=lambda engine=engine: query().collect(engine=engine),
            to_arrow=lambda frame: frame.to_arrow(),
        )
        for engine in ("in-memory", "streaming")
    ]


def _duckdb(table: pa.Table, query: str, rows: int) -> list[Contender]:
    """Return DuckDB over a table of its own, which the query calls ``own_rows``."""
    connection = duckdb.connect()
    connection.execute(f"SET threads = {available_cores()}")
    connection.register("arrow_rows", table)
    connection.execute("CREATE TABLE own_rows AS SELECT * FROM arrow_rows")
    return [
        Contender(
            name="DuckDB, own table",
            rows=rows,
            run=lambda: connection.sql(query).to_arrow_table(),
            to_arrow=lambda result: result,
        )
    ]


# ------------------------------------------------------------------------------------------------ W3 and W4 as they are


def _workload(key: str) -> Point:
    workload = WORKLOADS[key]

    def contenders(rows: int) -> list[Contender]:
        every = all_contenders(workload, generate(workload.inputs, rows))
        fast = ("DataFlare", "hand-written", "Polars", "DuckDB")
        return [c for c in every if c.name.startswith(fast) and c.route != PER_RECORD]

    return Point(
        key=key,
        title=workload.title,
        contenders=contenders,
        expected=lambda rows: workload.expected(generate(workload.inputs, rows)),
        tolerance=workload.tolerance,
    )


# ---------------------------------------------------------------------------------------------------- W3 with nulls


def _with_nulls(rows: int) -> tuple[Columns, dict[str, np.ndarray]]:
    columns = generate(("age", "price", "qty"), rows)
    masks = {
        name: np.random.default_rng([2, *name.encode()]).random(rows) < _NULL_SHARE for name in columns.arrays
    }
    return columns, masks


def _null_contenders(rows: int) -> list[Contender]:
    columns, masks = _with_nulls(rows)
    table = pa.table({n: pa.array(values, mask=masks[n]) for n, values in columns.arrays.items()})
    frame = pl.DataFrame(pl.from_arrow(table))
    workload = WORKLOADS["W3"]
    known = "(SELECT * FROM own_rows WHERE price IS NOT NULL AND qty IS NOT NULL)"  # least() takes a null for absent
    return [
        *_dataflare(lambda: with_dataflare.pipeline(workload, table), rows),
        *_polars(lambda: with_polars.query(workload, frame), rows),
        *_duckdb(table, sql(workload, known), rows),
    ]


def _null_expected(rows: int) -> dict[str, np.ndarray]:
    """W3 where a null age is not over 30, a null price or quantity drops the record, and a null age has no score."""
    columns, masks = _with_nulls(rows)
    old = (columns["age"] > 30) & ~masks["age"]
    gross = columns["price"] * columns["qty"]
    net = np.clip(np.where(old, gross * 0.9, gross), 5.0, 2000.0)
    keep = (net > 300.0) & ~masks["price"] & ~masks["qty"]
    net, age = net[keep], np.where(masks["age"], np.nan, columns["age"])[keep]
    damped = np.log1p(net)
    return {"net": net, "score": np.sqrt(net + damped) * 1.5 + damped - 0.1 * age}


# ------------------------------------------------------------------------------------------- W4 without its loop


def _fare_contenders(rows: int) -> list[Contender]:
    table = generate(_TRIP, rows).table
    frame = pl.DataFrame(pl.from_arrow(table))
    single = kernels.trip_ufunc(parallel=False, function=trip_fare)
    parallel = kernels.trip_ufunc(parallel=True, function=trip_fare)
    return [
        *_dataflare(
            lambda: flare.from_arrow(table).map(
                lambda r: {"cost": trip_fare(r.lat1, r.lon1, r.lat2, r.lon2, r.qty)}
            ),
            rows,
        ),
        *(
            contender
            for label, ufunc in ((" + Numba ufunc", single), (" + Numba ufunc on all cores", parallel))
            for contender in _polars(
                lambda ufunc=ufunc: with_polars.through_ufunc(frame, _TRIP, ufunc),
                rows,
                how=label,
                route=COMPILED,
            )
        ),
    ]


# ------------------------------------------------------------------------------------------------------- Collatz


def _collatz_data(rows: int) -> np.ndarray:
    return np.random.default_rng(3).integers(1, 10_000, rows)


def _collatz_contenders(rows: int) -> list[Contender]:
    numbers = _collatz_data(rows)
    table = pa.table({"n": numbers})
    threads = kernels.Threads(available_cores())

    def row_by_row() -> np.ndarray:
        steps = np.empty(rows, np.int64)
        threads.run(lambda a, b: kernels.collatz_rows(numbers, steps, a, b), rows)
        return steps

    return [
        *_dataflare(lambda: flare.from_arrow(table).map(lambda r: {"steps": collatz_steps(r.n)}), rows),
        Contender(
            name="Numba, row by row on all cores",
            route=ROW_BY_ROW,
            rows=rows,
            run=row_by_row,
            to_arrow=lambda steps: pa.table({"steps": steps}),
        ),
    ]


def _collatz_expected(rows: int) -> dict[str, np.ndarray]:
    numbers = _collatz_data(rows)
    steps = np.zeros(rows, np.int64)
    for _ in range(100):
        inside = numbers > 1
        numbers = np.where(inside, np.where(numbers % 2 == 0, numbers // 2, 3 * numbers + 1), numbers)
        steps += inside
    return {"steps": steps}


# ------------------------------------------------------------------------------------------------------- strings


def _names(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    distinct = np.array([f"customer-{i:04d}" for i in range(_DISTINCT)])
    random = np.random.default_rng(4)
    return distinct, random.integers(0, _DISTINCT, rows).astype(np.int32), random.random(rows)


def _string_contenders(rows: int, *, dictionary: bool) -> list[Contender]:
    distinct, codes, x = _names(rows)
    encoded = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(distinct))
    table = pa.table({"name": encoded if dictionary else encoded.cast(pa.string()), "x": x})
    frame = pl.DataFrame(pl.from_arrow(table))
    name = pl.col("name")
    starts = name.cat.starts_with("customer-01") if dictionary else name.str.starts_with("customer-01")
    return [
        *_dataflare(
            lambda: (
                flare.from_arrow(table)
                .filter(lambda r: r.name.startswith("customer-01"))
                .map(lambda r: {"x": r.x})
            ),
            rows,
        ),
        *_polars(lambda: frame.lazy().filter(starts).select("x"), rows),
        *_duckdb(table, "SELECT x FROM own_rows WHERE starts_with(name, 'customer-01')", rows),
    ]


def _string_expected(rows: int) -> dict[str, np.ndarray]:
    _, codes, x = _names(rows)
    return {"x": x[codes // 100 == 1]}


# --------------------------------------------------------------------------------------------------- selectivities


def _selected(rows: int) -> Columns:
    columns = generate(("id", "price", "qty"), rows)
    return Columns({**columns.arrays, "u": np.random.default_rng(5).random(rows)})


def _selective(percent: float) -> Point:
    threshold = 1 - percent / 100

    def contenders(rows: int) -> list[Contender]:
        table = _selected(rows).table
        frame = pl.DataFrame(pl.from_arrow(table))
        total = pl.col("price") * pl.col("qty") * 1.08
        return [
            *_dataflare(
                lambda: (
                    flare.from_arrow(table)
                    .filter(lambda r: r.u > threshold)
                    .map(lambda r: {"id": r.id, "total": line_total(r)})
                ),
                rows,
            ),
            *_polars(lambda: frame.lazy().filter(pl.col("u") > threshold).select("id", total=total), rows),
            *_duckdb(
                table,
                f"SELECT id, price * qty * 1.08::DOUBLE AS total FROM own_rows WHERE u > {threshold!r}::DOUBLE",
                rows,
            ),
        ]

    def expected(rows: int) -> dict[str, np.ndarray]:
        c = _selected(rows)
        keep = c["u"] > threshold
        return {"id": c["id"][keep], "total": c["price"][keep] * c["qty"][keep] * 1.08}

    return Point(
        key=f"keep-{percent:g}", title=f"filter keeps {percent:g} %, then id and total",
        contenders=contenders, expected=expected,
    )  # fmt: skip


POINTS: dict[str, Point] = {
    point.key: point
    for point in (
        _workload("W3"),
        Point(
            key="W3-nulls",
            title="W3 with 30 % nulls in every column",
            contenders=_null_contenders,
            expected=_null_expected,
        ),
        _workload("W4"),
        Point(
            key="W4-fare",
            title="W4 without its loop",
            contenders=_fare_contenders,
            expected=lambda rows: {"cost": numpy_trip_fare(*generate(_TRIP, rows).arrays.values())},
        ),
        Point(
            key="collatz",
            title="Collatz, a hundred steps at most",
            contenders=_collatz_contenders,
            expected=_collatz_expected,
        ),
        *(
            Point(
                key=f"string-{form}",
                title=f"startswith on 1,000 distinct strings, {form}",
                contenders=lambda rows, form=form: _string_contenders(rows, dictionary=form == "dictionary"),
                expected=_string_expected,
            )
            for form in ("plain", "dictionary")
        ),
        *map(_selective, SELECTIVITY_PERCENT),
    )
}
