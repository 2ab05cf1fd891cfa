"""pandas: column expressions; for W4 ``apply`` compiled by Numba, and ``apply`` per record."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.contenders.slow_routes import COMPILED, PER_RECORD, per_record_rows
from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.runner import Contender
from benchmarks.record_functions import trip_cost

__all__ = ["contenders"]

#: pandas' per-record route is the slowest of all.
_SLOWER = 10


def _run(workload: Workload, frame: pd.DataFrame) -> pd.DataFrame:
    if workload.kind == "W1":
        return pd.DataFrame({"total": frame["price"] * frame["qty"] * 1.08})
    if workload.kind == "W2":
        kept = frame[frame["age"] > workload.threshold]
        return pd.DataFrame({"id": kept["id"], "total": kept["price"] * kept["qty"] * 1.08})
    gross = frame["price"] * frame["qty"]
    net = gross.where(frame["age"] <= 30, gross * 0.9).clip(5.0, 2000.0)
    keep = net > 300.0
    net, age = net[keep], frame["age"][keep]
    damped = np.log1p(net)
    return pd.DataFrame({"net": net, "score": np.sqrt(net + damped) * 1.5 + damped - 0.1 * age})


def _to_arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    frame = pd.DataFrame(columns.select(workload.inputs).arrays, copy=False)
    if workload.kind == "W4":
        return _functions(workload, columns, frame)
    return [
        Contender(name="pandas", rows=columns.rows, run=lambda: _run(workload, frame), to_arrow=_to_arrow)
    ]


def _functions(workload: Workload, columns: Columns, frame: pd.DataFrame) -> list[Contender]:
    compiled = numba.njit(trip_cost)
    few = max(per_record_rows(columns.rows) // _SLOWER, 1)
    head = frame.head(few)

    def values(row: Any) -> float:
        return compiled(row[0], row[1], row[2], row[3], row[4])

    def record(row: Any) -> float:
        return trip_cost(row["lat1"], row["lon1"], row["lat2"], row["lon2"], row["qty"])

    return [
        Contender(
            name="pandas apply(engine='numba')",
            route=COMPILED,
            rows=columns.rows,
            run=lambda: frame.apply(
                values, axis=1, raw=True, engine="numba", engine_kwargs={"parallel": True, "nogil": True}
            ),
            to_arrow=lambda series: _to_arrow(series.to_frame("cost")),
        ),
        Contender(
            name="pandas apply",
            route=PER_RECORD,
            rows=few,
            note=f"on the first {few:,} rows",
            run=lambda: head.apply(record, axis=1),
            to_arrow=lambda series: _to_arrow(series.to_frame("cost")),
        ),
    ]
