"""W1-W4 in memory: DataFlare against every peer and hand-written Numba, beside the copy bandwidth.

Every result is compared with plain NumPy before anything is timed. See ``benchmarks/definitions.py`` for
the workloads and ``benchmarks/README.md`` for how to read the table.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders.every import all_contenders
from benchmarks.contenders.slow_routes import COMPILED, PER_RECORD
from benchmarks.data import Columns, generate
from benchmarks.definitions import WORKLOADS, Workload, check_result
from benchmarks.harness.bandwidth import bandwidth_probes, best_copy_bandwidth
from benchmarks.harness.options import common_parser, quiet_cores
from benchmarks.harness.plot import bars
from benchmarks.harness.report import (
    Progress,
    best,
    new_console,
    new_report,
    print_environment,
    print_measurements,
    print_targets,
    target,
    write_json,
)
from benchmarks.harness.runner import Contender, Measurement, QuietCores, measure

#: What DataFlare promises: times the best peer's rate, and the share of the copy bandwidth.
PROMISED_RATIO = {"W1": 1.1, "W2": 1.2, "W3": 1.5, "W4": 1.2}
PROMISED_BANDWIDTH_PERCENT = {"W1": 65.0, "W2": 65.0}
PROMISED_OVER_PER_RECORD = 30.0


def _checker(workload: Workload, columns: Columns) -> Callable[[Contender, Any], None]:
    expected = workload.expected(columns)

    def check(contender: Contender, result: Any) -> None:
        if contender.role == "probe" or contender.to_arrow is None:
            return
        right = expected
        if contender.rows != columns.rows:
            right = workload.expected(columns.head(contender.rows))
        check_result(contender.name, contender.to_arrow(result), right, workload.tolerance)

    return check


def run_workload(
    workload: Workload,
    columns: Columns,
    *,
    rounds: int,
    quiet: QuietCores,
    only: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[list[Measurement], int]:
    """Return the measurements of every contender and of the bandwidth probes, and the rows of the result."""
    rows_out = len(next(iter(workload.expected(columns).values())))
    moved = workload.moved_bytes(columns.rows, rows_out)
    contenders = [
        dataclasses.replace(c, moved_bytes=moved if c.rows == columns.rows else None)
        for c in all_contenders(workload, columns)
        if not only or any(part.lower() in c.name.lower() for part in only)
    ]
    measurements = measure(
        [*contenders, *bandwidth_probes(min(256 * 2**20, max(columns.rows * 8, 2**16)))],
        rounds=rounds,
        quiet=quiet,
        check=_checker(workload, columns),
        progress=lambda text: progress(f"{workload.key}: {text}"),
    )
    return measurements, rows_out


def _ratio(ours: Measurement | None, theirs: Measurement | None) -> float | None:
    return None if ours is None or theirs is None else ours.records_per_s / theirs.records_per_s


def workload_targets(
    workload: Workload, measurements: Sequence[Measurement], bandwidth: float | None
) -> list[dict[str, Any]]:
    """Return the promises that this workload stands for. Hand-written kernels are a reference, not a peer."""
    ours = best(measurements, "dataflare")
    goal = PROMISED_RATIO[workload.kind]

    def over(whose: str, goal: float, route: str | None = None) -> dict[str, Any]:
        theirs = best(measurements, "peer", route=route)
        return target(f"{workload.key} over {whose}", goal, _ratio(ours, theirs), at_least=True, unit="×")

    if workload.kind == "W4":
        return [
            over("the best peer's compiled function route", goal, COMPILED),
            over("the best peer's per-record route", PROMISED_OVER_PER_RECORD, PER_RECORD),
        ]
    targets = [over("the best peer", goal)]
    if workload.kind in PROMISED_BANDWIDTH_PERCENT:
        rate = ours.bytes_per_s if ours is not None else None
        share = None if rate is None or bandwidth is None else 100 * rate / bandwidth
        goal = PROMISED_BANDWIDTH_PERCENT[workload.kind]
        targets.append(target(f"{workload.key} of the copy bandwidth", goal, share, at_least=True, unit="%"))
    return targets


def _section(
    workload: Workload, measurements: Sequence[Measurement], rows: int, rows_out: int, bandwidth: float | None
) -> dict[str, Any]:
    return {
        "key": workload.key,
        "title": workload.title,
        "rows": rows,
        "rows_out": rows_out,
        "moved_bytes": workload.moved_bytes(rows, rows_out),
        "copy_bandwidth_bytes_per_s": bandwidth,
        "measurements": [m.as_json() for m in measurements],
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("workloads", __doc__, size="10M", rounds=9)
    parser.add_argument(
        "--workload", action="append", choices=list(WORKLOADS), help="only this one; may be repeated"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only contenders with TEXT in the name"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("workloads", rows=options.size, rounds=options.rounds)
    print_environment(console, report)
    panels = {}
    for key in options.workload or WORKLOADS:
        workload = WORKLOADS[key]
        columns = generate(workload.inputs, options.size)
        with Progress(console) as progress:
            measurements, rows_out = run_workload(
                workload, columns, rounds=options.rounds, quiet=quiet, only=options.only, progress=progress
            )
        bandwidth = best_copy_bandwidth(measurements)
        report["sections"].append(_section(workload, measurements, columns.rows, rows_out, bandwidth))
        report["targets"] += workload_targets(workload, measurements, bandwidth)
        shown = f", copy {bandwidth / 1e9:.1f} GB/s" if bandwidth else ""
        title = f"{key} {workload.title}: {columns.rows:,} rows in, {rows_out:,} out{shown}"
        print_measurements(console, title, measurements, bandwidth=bandwidth)
        panels[f"{key} {workload.title}"] = [
            (m.contender.name, m.records_per_s / 1e6, m.contender.role)
            for m in measurements
            if m.contender.role != "probe"
        ]
    report["quiet_waited_s"] = quiet.waited_s
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        bars(panels, options.plot, axis="million records a second")
    return report


if __name__ == "__main__":
    main()
