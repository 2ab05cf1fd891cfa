"""Micro-batches: microseconds a call on small batches, with the tail.

Covers: a compiled program over columns that are already there, ``batch.map`` with a known function, and
what NumPy, Polars and a hand-written Numba kernel need for the same batch. One thread, one call at a time.
Every call is timed by itself, so that the 99th percentile is one of calls and not of averages; it is the
median turn's, for on a shared machine the tail over all turns is that of other people's processes (the JSON
has both).
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

import dataflare as flare
from benchmarks import numba_kernels
from benchmarks.contenders import with_polars
from benchmarks.contenders.with_dataflare import stages
from benchmarks.data import Columns, generate
from benchmarks.definitions import WORKLOADS, Workload, check_result
from benchmarks.harness.options import common_parser, parse_size, quiet_cores
from benchmarks.harness.plot import bars
from benchmarks.harness.report import (
    Progress,
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    write_json,
)
from benchmarks.harness.runner import quantile
from benchmarks.record_functions import line_total
from dataflare.kernels.backend import compile_program
from dataflare.kernels.memory import HostColumn
from dataflare.kernels.udf.program import build_program

#: Promised microseconds a call.
PROGRAM_1K_US = 10.0
PROGRAM_10K_W3_US = 60.0
BATCH_MAP_1K_US = 25.0
TAIL_RATIO = 3.0

_KEYS = ("W1", "W2-81", "W3")
_CALLS_A_TURN = 200

Call = Callable[[], Any]


def _program_call(workload: Workload, columns: Columns) -> Call:
    table = columns.table
    program = build_program(stages(workload), table.schema)
    compiled = compile_program(program, device="cpu")
    inputs = [HostColumn.from_arrow(table[name].chunk(0)) for name in program.required_columns]
    rows = columns.rows
    result = compiled.run(inputs, rows)
    arrays = {
        name: column.to_arrow()
        for name, column in zip(program.output_schema.names, result.columns, strict=True)
    }
    _check(f"{workload.key} compiled program", workload, columns, arrays)
    return lambda: compiled.run(inputs, rows)


def _check(name: str, workload: Workload, columns: Columns, arrays: dict[str, Any]) -> None:
    import pyarrow as pa

    check_result(name, pa.table(arrays), workload.expected(columns), workload.tolerance)


def _batch_map_call(columns: Columns) -> Call:
    batch = flare.SharedDataBatch.from_arrow(columns.table)
    total = lambda r: {"total": line_total(r)}  # noqa: E731  (a known function is one object, called again and again)
    return lambda: batch.map(total)


def _numba_call(workload: Workload, columns: Columns) -> Call:
    first, second = np.empty(columns.rows), np.empty(columns.rows)
    age, price, qty, rows = columns.arrays.get("age"), columns["price"], columns["qty"], columns.rows
    if workload.kind == "W1":
        return lambda: numba_kernels.orders_total(price, qty, first, 0, rows)
    if workload.kind == "W2":
        ids, kept_ids = columns["id"], np.empty(rows, np.int64)
        return lambda: numba_kernels.orders_filter(ids, age, price, qty, kept_ids, first, 18, 0, rows)
    return lambda: numba_kernels.orders_chain(age, price, qty, first, second, 0, rows)


def _polars_call(workload: Workload, columns: Columns) -> Call:
    frame = pl.DataFrame(pl.from_arrow(columns.table))
    return lambda: with_polars.query(workload, frame).collect(engine="in-memory")


def _calls(key: str, rows: int) -> dict[str, tuple[str, Call]]:
    workload = WORKLOADS[key]
    columns = generate(workload.inputs, rows)
    calls: dict[str, tuple[str, Call]] = {
        f"{key}: compiled program": ("dataflare", _program_call(workload, columns)),
        f"{key}: hand-written Numba, reused output": ("hand-written", _numba_call(workload, columns)),
        f"{key}: NumPy": ("peer", lambda: workload.expected(columns)),
        f"{key}: Polars lazy": ("peer", _polars_call(workload, columns)),
    }
    if key == "W1":
        calls[f"{key}: batch.map(fn), known fn"] = ("dataflare", _batch_map_call(columns))
    return calls


def time_calls(calls: Sequence[Call], *, rounds: int, wait: Callable[[], float]) -> list[list[list[float]]]:
    """Return the seconds of every single call, by contender and turn; a turn is ``_CALLS_A_TURN`` calls."""
    turns: list[list[list[float]]] = [[] for _ in calls]
    clock = time.perf_counter
    for _ in range(rounds):
        for call, taken in zip(calls, turns, strict=True):
            wait()
            into: list[float] = []
            taken.append(into)
            for _ in range(10):  # the first calls of a turn find cold caches: another contender was here
                call()
            gc.collect()
            gc.disable()
            try:
                for _ in range(_CALLS_A_TURN):
                    start = clock()
                    call()
                    into.append(clock() - start)
            finally:
                gc.enable()
    return turns


def summary(turns: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the quantiles; the tail is that of the median turn, which others' processes did not interrupt.

    ``p99_all_s`` is over all calls of all turns, interruptions included.
    """
    calls = [seconds for turn in turns for seconds in turn]
    return {
        "calls": len(calls),
        "median_s": quantile(calls, 0.5),
        "p99_s": statistics.median(quantile(turn, 0.99) for turn in turns),
        "p99_all_s": quantile(calls, 0.99),
        "min_s": min(calls),
        "max_s": max(calls),
    }


def _targets(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    targets = []
    for r in results:
        median_us = r["median_s"] * 1e6
        name = f"{r['name']}, {r['rows']:,} rows"
        if "compiled program" in r["name"] and r["rows"] == 1000:
            targets.append(target(name, PROGRAM_1K_US, median_us, at_least=False, unit="µs"))
        if "W3: compiled program" in r["name"] and r["rows"] == 10_000:
            targets.append(target(name, PROGRAM_10K_W3_US, median_us, at_least=False, unit="µs"))
        if "batch.map" in r["name"] and r["rows"] == 1000:
            targets.append(target(name, BATCH_MAP_1K_US, median_us, at_least=False, unit="µs"))
        if r["role"] == "dataflare" and r["rows"] in (1000, 10_000):
            tail = r["p99_s"] / r["median_s"]
            targets.append(target(f"{name}: p99 over median", TAIL_RATIO, tail, at_least=False, unit="×"))
    return targets


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("microbatch", __doc__, size=None, rounds=15)
    parser.add_argument(
        "--size",
        type=parse_size,
        action="append",
        help="rows of a batch; may be repeated (default: 1k and 10k)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    sizes = options.size or [1000, 10_000]
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("microbatch", sizes=sizes, rounds=options.rounds, calls_a_round=_CALLS_A_TURN)
    print_environment(console, report)
    panels = {}
    for rows in sizes:
        calls = {name: call for key in _KEYS for name, call in _calls(key, rows).items()}
        with Progress(console) as progress:
            progress(f"batches of {rows:,} rows")
            turns = time_calls([c for _, c in calls.values()], rounds=options.rounds, wait=quiet.wait)
        results = [
            {"name": name, "role": role, "rows": rows, **summary(taken)}
            for (name, (role, _)), taken in zip(calls.items(), turns, strict=True)
        ]
        report["sections"].append(
            {"title": f"batches of {rows:,} rows", "rows": rows, "measurements": results}
        )
        report["targets"] += _targets(results)
        print_rows(
            console,
            f"batches of {rows:,} rows, µs a call",
            ("contender", "median", "p99", "min", "max", "p99/median"),
            [
                (r["name"], *(f"{r[k] * 1e6:.1f}" for k in ("median_s", "p99_s", "min_s", "max_s")),
                f"{r['p99_s'] / r['median_s']:.1f}") for r in results
            ],
        )  # fmt: skip
        panels[f"batches of {rows:,} rows"] = [(r["name"], r["median_s"] * 1e6, r["role"]) for r in results]
    report["quiet_waited_s"] = quiet.waited_s
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        bars(panels, options.plot, axis="µs a call, median (logarithmic)", logarithmic=True)
    return report


if __name__ == "__main__":
    main()
