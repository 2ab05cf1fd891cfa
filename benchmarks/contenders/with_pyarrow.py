"""PyArrow: compute functions over the table, and the same expressions as one Acero plan on all cores."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc

from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.runner import Contender

__all__ = ["contenders"]


def _total(price: object, qty: object) -> object:
    return pc.multiply(pc.multiply(price, pc.cast(qty, pa.float64())), 1.08)


def _eager(workload: Workload, table: pa.Table) -> pa.Table:
    if workload.kind == "W1":
        return pa.table({"total": _total(table["price"], table["qty"])})
    if workload.kind == "W2":
        kept = table.filter(pc.greater(table["age"], workload.threshold))
        return pa.table({"id": kept["id"], "total": _total(kept["price"], kept["qty"])})
    gross = pc.multiply(table["price"], pc.cast(table["qty"], pa.float64()))
    net = pc.if_else(pc.greater(table["age"], 30), pc.multiply(gross, 0.9), gross)
    net = pc.max_element_wise(pc.min_element_wise(net, 2000.0), 5.0)
    kept = pa.table({"net": net, "age": table["age"]}).filter(pc.greater(net, 300.0))
    damped = pc.log1p(kept["net"])
    score = pc.multiply(pc.sqrt(pc.add(kept["net"], damped)), 1.5)
    return pa.table(
        {"net": kept["net"], "score": pc.subtract(pc.add(score, damped), pc.multiply(kept["age"], 0.1))}
    )


def _plan(workload: Workload, table: pa.Table) -> acero.Declaration:
    price, qty, age, net, damped = (pc.field(name) for name in ("price", "qty", "age", "net", "damped"))
    scan = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))

    def project(expressions: dict[str, pc.Expression]) -> acero.Declaration:
        return acero.Declaration(
            "project", acero.ProjectNodeOptions(list(expressions.values()), list(expressions))
        )

    def keep(condition: pc.Expression) -> acero.Declaration:
        return acero.Declaration("filter", acero.FilterNodeOptions(condition))

    total = price * qty.cast(pa.float64()) * pc.scalar(1.08)
    if workload.kind == "W1":
        steps = [project({"total": total})]
    elif workload.kind == "W2":
        steps = [keep(age > workload.threshold), project({"id": pc.field("id"), "total": total})]
    else:
        gross = price * qty.cast(pa.float64())
        clipped = pc.max_element_wise(pc.min_element_wise(pc.field("net"), pc.scalar(2000.0)), pc.scalar(5.0))
        steps = [
            project({"age": age, "gross": gross}),
            project({"age": age, "net": pc.if_else(age > 30, pc.field("gross") * 0.9, pc.field("gross"))}),
            project({"age": age, "net": clipped}),
            keep(net > 300.0),
            project({"age": age, "net": net, "damped": pc.log1p(net)}),
            project(
                {"net": net, "score": pc.sqrt(net + damped) * 1.5 + damped - age.cast(pa.float64()) * 0.1}
            ),
        ]
    return acero.Declaration.from_sequence([scan, *steps])


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    if workload.kind == "W4":
        return []  # a function of one's own runs over a table through NumPy only, which is there by itself
    table = columns.select(workload.inputs).table
    return [
        Contender(
            name="PyArrow compute",
            rows=columns.rows,
            run=lambda: _eager(workload, table),
            to_arrow=lambda result: result,
        ),
        Contender(
            name="PyArrow Acero",
            rows=columns.rows,
            run=lambda: _plan(workload, table).to_table(use_threads=True),
            to_arrow=lambda result: result,
        ),
    ]
