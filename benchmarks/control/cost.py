"""What control costs: a call of each controller, and a whole run against the same run with nothing to decide.

Covers the calls that a batch makes, by one thread and by eight at once, and two pipelines four times: with fixed
batches of the size that had been found and credits without bounds, twice, which shows the noise; with everything at
work, but bound to that size, which is what control costs; and as by default, with probes of other sizes.
``benchmarks.control`` judges those.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import dataflare as flare
from benchmarks.contenders.with_dataflare import pipeline
from benchmarks.data import generate
from benchmarks.definitions import WORKLOADS
from benchmarks.harness.options import cache_folder, common_parser, quiet_cores
from benchmarks.harness.report import (
    Progress,
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    time_text,
    write_json,
)
from benchmarks.parquet import q6_lines
from benchmarks.tpch import lineitem
from dataflare.control import (
    AdaptiveBatcher,
    AdaptiveBatchingConfig,
    BackpressureController,
    BatchingMetrics,
    CreditConfig,
    CreditMode,
    MemoryBudget,
)

#: Promised microseconds a call, and percent of a run.
REQUEST_US = 1.0
CONTENDED_REQUEST_US = 5.0
RUN_PERCENT = 3.0

THREADS = 8
_OF_A_BATCH = ("admit and settle", "AdaptiveBatcher.record_batch")
_STRETCH_CALLS = 500
_MANY = 1 << 50
_WATCHED_S = 4.0  # of runs of each kind: the shorter they are, the more one differs from the next

Call = Callable[[], object]


def _calls() -> dict[str, Call]:
    """Return what one batch asks of the controllers; windows are so wide that nothing is ever refused."""
    credits_ = CreditConfig(
        mode=CreditMode.ADAPTIVE, initial_credits=_MANY, max_credits=_MANY, queue_target=None
    )
    controller = BackpressureController(credits_)
    admitting = BackpressureController(credits_, budget=MemoryBudget(_MANY))
    for each in (controller, admitting):
        each.register_task("t")
    budget, metrics, batcher = MemoryBudget(_MANY), BatchingMetrics(), AdaptiveBatcher()

    def admit_and_settle() -> None:
        admission = admitting.admit("t", 1000, 16.0, window_rows=8000)
        assert admission is not None
        admission.settle(0.001)

    def reserve_and_release() -> None:
        reservation = budget.reserve("t", 16_000)
        assert reservation is not None
        reservation.release()

    return {
        "request_credits": lambda: controller.request_credits("t", 1000),
        "acquire, nobody waits": lambda: controller.acquire("t", 1000),
        "report_processing": lambda: controller.report_processing("t", 1000, 0.001),
        "BatchingMetrics.record_batch": lambda: metrics.record_batch(1000, 0.001),
        "AdaptiveBatcher.record_batch": lambda: batcher.record_batch(1000, 0.001),
        "MemoryBudget.reserve and release": reserve_and_release,
        "admit and settle": admit_and_settle,
    }


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _seconds_alone(call: Call, calls: int) -> float:
    """Return the seconds of a call: the median of stretches too short to be interrupted often."""
    stretches = []
    with _no_collection():
        for _ in range(max(1, calls // _STRETCH_CALLS)):
            began_s = time.perf_counter()
            for _ in repeat(None, _STRETCH_CALLS):
                call()
            stretches.append(time.perf_counter() - began_s)
    return statistics.median(stretches) / _STRETCH_CALLS


def _seconds_contended(call: Call, calls: int, threads: int) -> float:
    """Return the seconds from one call to the next, of whichever thread: the wall time over all calls."""
    ready = threading.Barrier(threads + 1)

    def work() -> None:
        ready.wait()
        for _ in repeat(None, calls // threads):
            call()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    with _no_collection():
        ready.wait()
        began_s = time.perf_counter()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - began_s) / calls


def time_calls(calls: int, rounds: int, wait: Callable[[], float]) -> list[dict[str, Any]]:
    """Return the microseconds of each call, alone and contended: the median of rounds that take turns."""
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, call in _calls().items():
            wait()
            taken.setdefault((name, 1), []).append(_seconds_alone(call, calls))
            wait()
            taken.setdefault((name, THREADS), []).append(_seconds_contended(call, calls, THREADS))
    return [
        {
            "name": name,
            "median_us": statistics.median(taken[name, 1]) * 1e6,
            "min_us": min(taken[name, 1]) * 1e6,
            "contended_median_us": statistics.median(taken[name, THREADS]) * 1e6,
            "contended_min_us": min(taken[name, THREADS]) * 1e6,
        }
        for name in dict.fromkeys(name for name, _ in taken)
    ]


def _programs(rows: int, scale: float, data: Path) -> dict[str, Any]:
    """Return two pipelines whose sink keeps nothing, so that each batch goes all the way."""
    workload = WORKLOADS["W3"]
    table = generate(workload.inputs, rows).table
    path = lineitem(data, scale)
    return {
        f"six fused steps over {rows:,} rows in memory": pipeline(workload, table).write(_drop),
        f"Q6's lines of lineitem, scale {scale:g}, from Parquet": q6_lines(flare.read_parquet(path)).write(
            _drop
        ),
    }


def _drop(batch: object) -> None:
    """Take a batch and do nothing."""


def time_runs(name: str, program: Any, rounds: int, wait: Callable[[], float]) -> dict[str, Any]:
    """Return the seconds of runs with control and with nothing to decide, each round one of both.

    Short runs have more rounds than were asked for.
    """
    for _ in range(3):  # compiled, and the size found
        began_s = time.perf_counter()
        report = program.run()
        run_s = time.perf_counter() - began_s
    rounds = max(rounds, round(_WATCHED_S / run_s))
    size = round(statistics.median(rows for _, rows in report.batch_size_curve))
    options: dict[str, dict[str, Any]] = {
        "default": {},
        "control": {"batching": AdaptiveBatchingConfig(initial_size=size, min_size=size, max_size=size)},
        "fixed": {
            "batching": AdaptiveBatchingConfig(
                initial_size=size, min_size=1, max_size=_MANY, strategy="fixed"
            ),
            "backpressure": CreditConfig(
                mode=CreditMode.FIXED, initial_credits=_MANY, max_credits=_MANY, refill_rate=_MANY
            ),
        },
    }
    options["again"] = options["fixed"]  # what is more than nothing here is noise
    taken: dict[str, list[float]] = {which: [] for which in options}
    processor: dict[str, list[float]] = {which: [] for which in options}
    for number in range(rounds):
        order = list(options) if number % 2 else list(reversed(options))
        for which in order:
            program.run(**options[which])  # untimed: the other one was here
            wait()
            with _no_collection():
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                program.run(**options[which])
                taken[which].append(time.perf_counter() - began_s)
                processor[which].append(time.process_time() - began_cpu_s)
    return {
        "name": name,
        "batch_rows": size,
        "batches": report.batches,
        "control_median_s": statistics.median(taken["control"]),
        "fixed_median_s": statistics.median(taken["fixed"]),
        "cost_percent": _more_percent(taken, "control"),
        "processor_percent": _more_percent(processor, "control"),
        "default_percent": _more_percent(taken, "default"),
        "noise_percent": _more_percent(taken, "again"),
        "processor_s": statistics.median(processor["control"]),
    }


def _more_percent(seconds: dict[str, list[float]], which: str) -> float:
    """Return by how much a run takes longer than the fixed one, in the median of the rounds."""
    ratios = [mine / other for mine, other in zip(seconds[which], seconds["fixed"], strict=True)]
    return 100.0 * (statistics.median(ratios) - 1.0)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run both tables; return the report."""
    parser = common_parser("control.cost", __doc__, size="10M", rounds=15)
    parser.add_argument("--scale", type=float, default=1.0, help="scale factor of lineitem")
    parser.add_argument("--data", type=Path, default=cache_folder(), help="where lineitem is, or is made")
    parser.add_argument("--calls", type=int, default=80_000, help="calls a round")
    options = parser.parse_args(arguments)
    console, quiet = new_console(), quiet_cores(options)
    report = new_report("control.cost", rows=options.size, scale=options.scale, rounds=options.rounds)
    print_environment(console, report)
    with Progress(console) as progress:
        progress("calls")
        calls = time_calls(options.calls, min(options.rounds, 7), quiet.wait)
        runs = []
        for name, program in _programs(options.size, options.scale, options.data).items():
            progress(name)
            runs.append(time_runs(name, program, options.rounds, quiet.wait))
    batch_us = sum(r["median_us"] for r in calls if r["name"] in _OF_A_BATCH)
    for run in runs:
        run["calls_percent"] = 100.0 * run["batches"] * batch_us / 1e6 / run["processor_s"]
    print_rows(
        console,
        f"µs a call: by one thread, and by {THREADS} at once (wall time over all their calls)",
        ("call", "median", "min", f"{THREADS} threads", "min"),
        [
            (r["name"], *(f"{r[k]:.2f}" for k in ("median_us", "min_us", "contended_median_us", "contended_min_us")))
            for r in calls
        ],
    )  # fmt: skip
    print_rows(
        console,
        "whole runs: control at the size it found, against fixed batches of that size and credits without bounds",
        (
            *("program", "rows a batch", "control", "fixed", "cost", "of processor time", "its calls alone"),
            *("with probes", "fixed again"),
        ),
        [
            (
                r["name"],
                f"{r['batch_rows']:,}",
                time_text(r["control_median_s"]),
                time_text(r["fixed_median_s"]),
                f"{r['cost_percent']:+.1f} %",
                f"{r['processor_percent']:+.1f} %",
                f"{r['calls_percent']:.2f} %",
                f"{r['default_percent']:+.1f} %",
                f"{r['noise_percent']:+.1f} %",
            )
            for r in runs
        ],
    )  # fmt: skip
    report["sections"] = [{"title": "calls", "measurements": calls}, {"title": "runs", "measurements": runs}]
    asked = calls[0]
    report["targets"] = [
        target("request_credits", REQUEST_US, asked["median_us"], at_least=False, unit="µs"),
        target(
            f"request_credits by {THREADS} threads",
            CONTENDED_REQUEST_US,
            asked["contended_median_us"],
            at_least=False,
            unit="µs",
        ),
        *(target(f"control: {r['name']}", RUN_PERCENT, r["cost_percent"], at_least=False, unit="%") for r in runs),
    ]  # fmt: skip
    report["quiet_waited_s"] = quiet.waited_s
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    main()
