"""Outlook: with what batch size and what memory a run would begin, in words, without running it.

Covers the facts of a run as a whole. Those of its stages are in ``dataflare.plan.explanation``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dataflare.control.budget import format_bytes
from dataflare.execute.prepare import PreparedRun, preview_run
from dataflare.kernels.errors import DataFlareError
from dataflare.observe.sizes import bound_text, cost_text, size_text

if TYPE_CHECKING:
    from dataflare.options import RunOptions
    from dataflare.plan.physical import PhysicalPlan

__all__ = ["outlook"]


def outlook(plan: PhysicalPlan, options: RunOptions) -> Mapping[str, str]:
    """Return the facts of a run that would begin now, by name: "tasks", "batch size" and "memory".

    Where such a run would be refused, "refused" says why in place of them.
    """
    try:
        run = preview_run(plan, options)
    except DataFlareError as error:
        return {"refused": str(error)}
    return {
        "tasks": _tasks(run),
        "batch size": "\n".join(_batch_size(run)),
        "memory": "\n".join(_memory(run)),
    }


def _tasks(run: PreparedRun) -> str:
    reading = f"{run.source_tasks} that {'reads' if run.source_tasks == 1 else 'read'}"
    if run.fused:
        reading += " and computes" if run.source_tasks == 1 else " and compute"
    elif run.processor_tasks:
        reading += f", {run.processor_tasks} that {'computes' if run.processor_tasks == 1 else 'compute'}"
    return f"{reading}, 1 that writes"


def _batch_size(run: PreparedRun) -> Iterator[str]:
    found, recalled = run.sizing.found, run.sizing.recalled
    large = f"about {format_bytes(math.ceil(found.rows * run.memory.batch_bytes_per_row))} with the results"
    if recalled is not None and recalled.converged:
        yield f"{size_text(recalled)}, {large}"
        yield "found by an earlier run" + (f": {bound_text(recalled.bound)}" if recalled.bound else "")
    else:
        yield f"{found.rows:,} rows to begin with, {large}"
        if run.options.batching is not None:
            yield "as asked for"
        elif recalled is None:
            yield "nothing is known of this work yet: no earlier run of it is remembered"
        else:
            cost = cost_text(recalled)
            yield f"an earlier run was too short to find the size{f', and saw {cost}' if cost else ''}"
    if run.num_rows is not None and run.num_rows < found.rows * run.source_tasks:
        yield f"the source has fewer: its {run.num_rows:,} rows are shared out among the tasks"


def _memory(run: PreparedRun) -> Iterator[str]:
    limit = run.memory.budget.limit_bytes
    row = f"about {run.memory.batch_bytes_per_row:.4g} bytes a row with what becomes of it"
    yield f"{'no limit' if limit is None else f'at most {format_bytes(limit)}'}; {row}"
    if limit is not None:
        yield f"kept free, with a batch of {run.least_rows:,} rows in each task:"
        for need in run.memory.needs:
            name = need.stage.partition(": ")[0]
            yield f"  {need.tasks} × {format_bytes(math.ceil(need.bytes_a_task))} for {name}"
    batches = run.window * run.source_tasks
    rows = batches * run.batcher.batch_size
    nbytes = math.ceil((rows if run.num_rows is None else min(rows, run.num_rows)) * run.memory.bytes_per_row)
    yield f"up to {batches} batches on the way, {format_bytes(nbytes)}"
