"""numexpr on all cores; what it lacks (selection) is NumPy's."""

from __future__ import annotations

from typing import Any

import numexpr
import pyarrow as pa

from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.environment import available_cores
from benchmarks.harness.runner import Contender

__all__ = ["contenders"]


def _run(workload: Workload, columns: Columns) -> dict[str, Any]:
    evaluate = numexpr.evaluate
    if workload.kind == "W1":
        return {"total": evaluate("price * qty * 1.08", local_dict=columns.arrays)}
    if workload.kind == "W2":
        keep = evaluate(f"age > {workload.threshold}", local_dict=columns.arrays)
        kept = {name: columns[name][keep] for name in ("id", "price", "qty")}
        return {"id": kept["id"], "total": evaluate("price * qty * 1.08", local_dict=kept)}
    net = evaluate(
        "where(age > 30, price * qty * 0.9, price * qty)", local_dict=columns.arrays
    )  # minimum and maximum are written out: the older releases have no such functions
    net = evaluate("where(net < 5.0, 5.0, where(net > 2000.0, 2000.0, net))", local_dict={"net": net})
    keep = evaluate("net > 300.0", local_dict={"net": net})
    kept = {"net": net[keep], "age": columns["age"][keep]}
    score = evaluate("sqrt(net + log1p(net)) * 1.5 + log1p(net) - 0.1 * age", local_dict=kept)
    return {"net": kept["net"], "score": score}


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    if workload.kind == "W4":
        return []  # no loops
    numexpr.set_num_threads(available_cores())
    return [
        Contender(name="numexpr", rows=columns.rows, run=lambda: _run(workload, columns), to_arrow=pa.table),
    ]
