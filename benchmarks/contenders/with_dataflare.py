"""DataFlare through its public interface: timed from ``from_arrow`` to the result.

``collect()`` gives one contiguous batch, ``to_arrow()`` a table of the chunks as they came.
"""

from __future__ import annotations

import math
from typing import Any

import dataflare as flare
from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.runner import Contender
from benchmarks.record_functions import discounted, line_total, score, trip_record

__all__ = ["contenders", "pipeline", "stages"]


def pipeline(workload: Workload, source: Any) -> Any:
    """Return the pipeline of ``workload`` over an Arrow table, as a user would write it."""
    start = flare.from_arrow(source)
    if workload.kind == "W1":
        return start.map(lambda r: {"total": line_total(r)})
    if workload.kind == "W2":
        threshold = workload.threshold
        return start.filter(lambda r: r.age > threshold).map(lambda r: {"id": r.id, "total": line_total(r)})
    if workload.kind == "W3":
        return (
            start.with_columns(gross=lambda r: r.price * r.qty)
            .with_columns(net=discounted)
            .with_columns(net=lambda r: min(max(r.net, 5.0), 2000.0))
            .filter(lambda r: r.net > 300.0)
            .with_columns(damped=lambda r: math.log1p(r.net))
            .map(lambda r: {"net": r.net, "score": score(r)})
        )
    return start.map(trip_record)


def stages(workload: Workload) -> list[Any]:
    """Return the same steps as the compiler gets them."""
    from dataflare.kernels.udf.stages import FilterStage, MapStage, WithColumnsStage

    if workload.kind == "W1":
        return [MapStage(lambda r: {"total": line_total(r)})]
    if workload.kind == "W2":
        threshold = workload.threshold
        return [
            FilterStage(lambda r: r.age > threshold),
            MapStage(lambda r: {"id": r.id, "total": line_total(r)}),
        ]
    if workload.kind == "W4":
        return [MapStage(trip_record)]
    return [
        WithColumnsStage(named=(("gross", lambda r: r.price * r.qty),)),
        WithColumnsStage(named=(("net", discounted),)),
        WithColumnsStage(named=(("net", lambda r: min(max(r.net, 5.0), 2000.0)),)),
        FilterStage(lambda r: r.net > 300.0),
        WithColumnsStage(named=(("damped", lambda r: math.log1p(r.net)),)),
        MapStage(lambda r: {"net": r.net, "score": score(r)}),
    ]


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    table = columns.select(workload.inputs).table
    return [
        Contender(
            name="DataFlare collect()",
            role="dataflare",
            route="compiled function",
            rows=columns.rows,
            run=lambda: pipeline(workload, table).collect(),
            to_arrow=lambda batch: batch.to_arrow(),
        ),
        Contender(
            name="DataFlare to_arrow()",
            role="dataflare",
            route="compiled function",
            rows=columns.rows,
            run=lambda: pipeline(workload, table).to_arrow(),
            to_arrow=lambda result: result,
        ),
    ]
