"""DuckDB: SQL over its own in-memory table and over Arrow.

For W4 an Arrow function that calls a Numba ufunc, and a Python function per record.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from benchmarks.contenders.slow_routes import COMPILED, PER_RECORD, per_record_rows
from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.environment import available_cores
from benchmarks.harness.runner import Contender
from benchmarks.numba_kernels import trip_ufunc
from benchmarks.record_functions import trip_cost

__all__ = ["contenders", "sql"]

_TOTAL = "price * qty * 1.08::DOUBLE AS total"
_CHAIN = """
    WITH gross AS (SELECT age, price * qty AS gross FROM {source}),
         priced AS (SELECT age, CASE WHEN age > 30 THEN gross * 0.9::DOUBLE ELSE gross END AS price
                    FROM gross),
         net AS (SELECT age, greatest(least(price, 2000.0::DOUBLE), 5.0::DOUBLE) AS net FROM priced),
         damped AS (SELECT age, net, ln(1.0::DOUBLE + net) AS damped FROM net WHERE net > 300.0::DOUBLE)
    SELECT net, sqrt(net + damped) * 1.5::DOUBLE + damped - 0.1::DOUBLE * age AS score FROM damped
"""


def sql(workload: Workload, source: str) -> str:
    if workload.kind == "W1":
        return f"SELECT {_TOTAL} FROM {source}"
    if workload.kind == "W2":
        return f"SELECT id, {_TOTAL} FROM {source} WHERE age > {workload.threshold}"
    return _CHAIN.format(source=source)


def _connection(table: pa.Table) -> Any:
    connection = duckdb.connect()
    connection.execute(f"SET threads = {available_cores()}")
    connection.register("arrow_rows", table)
    return connection


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    connection = _connection(columns.select(workload.inputs).table)
    if workload.kind == "W4":
        return _functions(workload, columns, connection)
    connection.execute("CREATE TABLE own_rows AS SELECT * FROM arrow_rows")
    return [
        Contender(
            name=f"DuckDB, {label}",
            rows=columns.rows,
            run=lambda source=source: connection.sql(sql(workload, source)).to_arrow_table(),
            to_arrow=lambda result: result,
        )
        for label, source in (("own table", "own_rows"), ("Arrow table", "arrow_rows"))
    ]


def _functions(workload: Workload, columns: Columns, connection: Any) -> list[Contender]:
    ufunc = trip_ufunc(parallel=False)
    types = ["DOUBLE"] * 4 + ["BIGINT"]

    def whole_vectors(lat1: Any, lon1: Any, lat2: Any, lon2: Any, qty: Any) -> pa.Array:
        return pa.array(ufunc(*(column.to_numpy() for column in (lat1, lon1, lat2, lon2, qty))))

    def one_record(lat1: float, lon1: float, lat2: float, lon2: float, qty: int) -> float:
        return trip_cost(lat1, lon1, lat2, lon2, qty)

    connection.create_function("trip_vectors", whole_vectors, types, "DOUBLE", type="arrow")
    connection.create_function("trip_record", one_record, types, "DOUBLE", type="native")
    arguments = ", ".join(workload.inputs)
    few = per_record_rows(columns.rows)
    return [
        Contender(
            name="DuckDB Arrow function + Numba ufunc",
            route=COMPILED,
            rows=columns.rows,
            run=lambda: connection.sql(
                f"SELECT trip_vectors({arguments}) AS cost FROM arrow_rows"
            ).to_arrow_table(),
            to_arrow=lambda result: result,
        ),
        Contender(
            name="DuckDB Python function",
            route=PER_RECORD,
            rows=few,
            note=f"on the first {few:,} rows",
            run=lambda: connection.sql(
                f"SELECT trip_record({arguments}) AS cost FROM (SELECT * FROM arrow_rows LIMIT {few})"
            ).to_arrow_table(),
            to_arrow=lambda result: result,
        ),
    ]
