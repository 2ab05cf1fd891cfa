"""Polars, in memory and streaming: lazy expressions; for W4 a Numba ufunc per batch and Python per record."""

from __future__ import annotations

from typing import Any

import polars as pl

from benchmarks.contenders.slow_routes import COMPILED, PER_RECORD, per_record_rows
from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.runner import Contender
from benchmarks.numba_kernels import trip_ufunc
from benchmarks.record_functions import trip_cost

__all__ = ["contenders", "query", "through_ufunc"]

_TOTAL = pl.col("price") * pl.col("qty") * 1.08


def query(workload: Workload, frame: pl.DataFrame) -> pl.LazyFrame:
    """Return W1, W2 or W3 over ``frame`` as a lazy query."""
    lazy = frame.lazy()
    if workload.kind == "W1":
        return lazy.select(total=_TOTAL)
    if workload.kind == "W2":
        return lazy.filter(pl.col("age") > workload.threshold).select("id", total=_TOTAL)
    gross = pl.col("price") * pl.col("qty")
    return (
        lazy.with_columns(gross=gross)
        .with_columns(net=pl.when(pl.col("age") > 30).then(pl.col("gross") * 0.9).otherwise(pl.col("gross")))
        .with_columns(net=pl.col("net").clip(5.0, 2000.0))
        .filter(pl.col("net") > 300.0)
        .with_columns(damped=pl.col("net").log1p())
        .select(
            "net",
            score=(pl.col("net") + pl.col("damped")).sqrt() * 1.5 + pl.col("damped") - 0.1 * pl.col("age"),
        )
    )


def through_ufunc(frame: pl.DataFrame, names: tuple[str, ...], ufunc: Any) -> pl.LazyFrame:
    """Return a query that gives batches of columns to a NumPy ufunc."""

    def apply(series: Any) -> pl.Series:
        return pl.Series(ufunc(*(s.to_numpy() for s in series)))

    return frame.lazy().select(
        cost=pl.map_batches(names, apply, return_dtype=pl.Float64, is_elementwise=True)
    )


def _per_record(frame: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
    return frame.select(
        cost=pl.struct(*names).map_elements(lambda record: trip_cost(**record), return_dtype=pl.Float64)
    )


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    frame = pl.DataFrame(pl.from_arrow(columns.select(workload.inputs).table))
    if workload.kind == "W4":
        return _functions(workload, columns, frame)
    return [
        Contender(
            name=f"Polars, {engine}",
            rows=columns.rows,
            run=lambda engine=engine: query(workload, frame).collect(engine=engine),
            to_arrow=lambda result: result.to_arrow(),
        )
        for engine in ("in-memory", "streaming")
    ]


def _functions(workload: Workload, columns: Columns, frame: pl.DataFrame) -> list[Contender]:
    names = workload.inputs
    single, parallel = trip_ufunc(parallel=False), trip_ufunc(parallel=True)
    few = per_record_rows(columns.rows)
    head = frame.head(few)
    compiled = [
        (f"Polars map_batches + Numba ufunc, {engine}{label}", ufunc, engine)
        for label, ufunc, engine in (
            ("", single, "in-memory"),
            (", ufunc on all cores", parallel, "in-memory"),
            ("", single, "streaming"),
        )
    ]
    return [
        *(
            Contender(
                name=name,
                route=COMPILED,
                rows=columns.rows,
                run=lambda ufunc=ufunc, engine=engine: through_ufunc(frame, names, ufunc).collect(
                    engine=engine
                ),
                to_arrow=lambda result: result.to_arrow(),
            )
            for name, ufunc, engine in compiled
        ),
        Contender(
            name="Polars map_elements",
            route=PER_RECORD,
            rows=few,
            note=f"on the first {few:,} rows",
            run=lambda: _per_record(head, names),
            to_arrow=lambda result: result.to_arrow(),
        ),
    ]
