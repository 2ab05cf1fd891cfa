"""run_plan: runs a physical plan to its end and reports.

Covers the way from a plan to its report: preparing, deploying on a runtime, progress, memory figures. The
work is done by the tasks of the runtime.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dataflare.control.credits import CreditMode
from dataflare.execute.device_use import DeviceUse
from dataflare.execute.memory_use import MemoryUse
from dataflare.execute.prepare import PreparedRun, prepare_run
from dataflare.execute.runtime import load_runtime
from dataflare.observe.report import RunReport

if TYPE_CHECKING:
    from dataflare.execute.outcome import Outcome
    from dataflare.observe.curves import RunCurves
    from dataflare.observe.progress import ProgressEvent
    from dataflare.options import ProgressOption, RunOptions
    from dataflare.plan.physical import PhysicalPlan

__all__ = ["run_plan"]


def run_plan(plan: PhysicalPlan, options: RunOptions) -> RunReport:
    """Run a plan to its end.

    Raises
    ------
    MemoryLimitError
        One smallest batch for each task does not fit the memory limit; nothing has run.
    RunError
        A stage failed; the message names the stage and the place in the data, and ``__cause__`` is what it
        raised. Errors that are clear by themselves (`ReadError`, `SinkError`, ...) are raised as they are.
    KeyboardInterrupt
        Ctrl-C: everything was stopped, and no output was written.
    """
    began_s = time.perf_counter()
    runtime = load_runtime(options.runtime)
    run = prepare_run(plan, options)
    memory, device = MemoryUse(), DeviceUse(run.device)
    with _subscribers(options.progress) as subscribers:
        outcome = runtime.run(run, subscribers)
    return _report(run, outcome, memory, device, time.perf_counter() - began_s)


def _report(
    run: PreparedRun, outcome: Outcome, memory: MemoryUse, device: DeviceUse, wall_s: float
) -> RunReport:
    stages = outcome.stages
    read = sum(stage.bytes_in for stage in stages if stage.kind == "source")
    source = run.plan.source
    if not read and source.size_bytes and source.num_rows:  # in memory: nothing was moved, so nothing counted
        read = round(source.size_bytes * (outcome.rows_in / source.num_rows))
    return RunReport(
        run_id=run.run_id,
        device=run.device,
        runtime=run.options.runtime,
        workers=run.workers,
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        bytes_in=read,
        bytes_out=sum(stage.bytes_out for stage in stages),
        batches=outcome.batches,
        wall_s=wall_s,
        compile_s=run.compile_s + run.late_compile_s,
        stages=stages,
        peak_host_bytes=run.memory.budget.peak_bytes,
        peak_device_bytes=device.peak_bytes,
        unaccounted_bytes=memory.unaccounted_bytes(run.memory.budget.peak_bytes),
        spilled_bytes=run.memory.spill.spilled_bytes,
        rows_dropped_null_predicate=outcome.rows_dropped_null_predicate,
        lost_devices=dict(run.lost_devices),
        monitor_errors={**run.curves.monitor_errors, **run.controller.snapshot().monitor_errors},
        files=outcome.files,
        batch_size=run.sizing.found if outcome.batches else None,
        curves=_curves(run),
    )


def _curves(run: PreparedRun) -> RunCurves:
    """Return the curves of the run, with the bounds that its controllers worked to."""
    batching, flow = run.batcher.config, run.controller.config
    return run.curves.curves(
        memory_limit_bytes=run.memory.budget.limit_bytes,
        latency_target_s=None if batching.strategy == "fixed" else batching.latency_target_s,
        pressure_threshold=flow.memory_threshold if flow.mode is CreditMode.ADAPTIVE else None,
    )


@contextlib.contextmanager
def _subscribers(progress: ProgressOption | None) -> Iterator[tuple[Callable[[ProgressEvent], object], ...]]:
    if callable(progress):
        yield (progress,)
    elif progress:
        from dataflare.observe.progress import ProgressBar

        with ProgressBar() as bar:
            yield (bar,)
    else:
        yield ()
