"""NumPy: array expressions on one thread, temporaries and all; for W4 also the Numba ufunc by itself."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from benchmarks.contenders.slow_routes import COMPILED
from benchmarks.data import Columns
from benchmarks.definitions import Workload, numpy_trip_cost
from benchmarks.harness.runner import Contender
from benchmarks.numba_kernels import trip_ufunc

__all__ = ["contenders"]


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    if workload.kind != "W4":
        return [
            Contender(
                name="NumPy", rows=columns.rows, run=lambda: workload.expected(columns), to_arrow=pa.table
            ),
        ]
    inputs = [columns[name] for name in workload.inputs]
    routes: dict[str, tuple[Any, str]] = {
        "NumPy, arrays": (numpy_trip_cost, ""),
        "NumPy + Numba ufunc": (trip_ufunc(parallel=False), COMPILED),
        "NumPy + Numba ufunc, all cores": (trip_ufunc(parallel=True), COMPILED),
    }
    return [
        Contender(
            name=name,
            route=route,
            rows=columns.rows,
            run=lambda function=function: {"cost": function(*inputs)},
            to_arrow=pa.table,
        )
        for name, (function, route) in routes.items()
    ]
