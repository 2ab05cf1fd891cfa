"""How batch sizes are found: rules on simulated costs, then real programs against a sweep of fixed sizes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmarks.control.cost_curves import CURVES
from benchmarks.control.programs import LATE_SHARE, PROGRAMS, Comparison, compare
from benchmarks.control.rules import RULES
from benchmarks.control.simulation import NEAR, Result, simulate
from benchmarks.harness.options import quiet_cores
from benchmarks.harness.report import (
    Progress,
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    time_text,
)

_WITHIN_BATCHES = 30
_STEADY = 0.93
_CONTROL = 0.97


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.control", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=200, help="random runs of each rule on each curve")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each size of a real program")
    parser.add_argument("--quick", action="store_true", help="20 seeds and one round")
    parser.add_argument("--only", choices=("simulation", "programs"), help="one half of it")
    parser.add_argument(
        "--quiet-wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="wait at most this long, all in all, for other processes to leave the cores alone",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.rounds = min(options.seeds, 20), 1
    return options


def _simulation(console: Any, report: dict[str, Any], seeds: int) -> None:
    results: dict[str, list[Result]] = {}
    with Progress(console) as progress:
        for rule in RULES:
            progress(f"simulating {rule.name}")
            results[rule.name] = [simulate(rule, work, seeds) for work in CURVES]
    for work, column in zip(CURVES, zip(*results.values(), strict=True), strict=True):
        change = work.cost_after_s is not None
        print_rows(
            console,
            f"{work.name}: {seeds} runs, 95th percentile in brackets",
            ("rule", "batches to 90 % of the best", *(("after the change",) if change else ()),
             "steady share of the best", "5th percentile", "over the latency target"),
            [
                (r.rule, _batches(r.reach, r.reach_95th), *((_batches(r.recover, r.recover_95th),) if change else ()),
                 f"{100 * r.steady:.1f} %", f"{100 * r.steady_5th:.1f} %", f"{100 * r.over_target:.1f} %")
                for r in column
            ],
        )  # fmt: skip
    print_rows(
        console,
        "the worst of all curves",
        ("rule", "batches to 90 % of the best", "steady share of the best", "5th percentile",
         "over the latency target"),
        [
            (name, _batches(*_worst(rs)), f"{100 * min(r.steady for r in rs):.1f} %",
             f"{100 * min(r.steady_5th for r in rs):.1f} %", f"{100 * max(r.over_target for r in rs):.1f} %")
            for name, rs in results.items()
        ],
    )  # fmt: skip
    knee = results["knee"]
    others = [r for name, rs in results.items() if name != "knee" for r in rs]
    best_other = max(min(r.steady for r in others if r.rule == name) for name in results if name != "knee")
    report["targets"] += [
        target(f"P1, simulated: batches to {100 * NEAR:.0f} % of the best, worst curve", _WITHIN_BATCHES,
               _worst(knee)[0], at_least=False),
        target("P2, simulated: steady share of the best, worst curve", _STEADY, min(r.steady for r in knee),
               at_least=True),
        target("P2, simulated: batches over the latency target, worst curve", LATE_SHARE,
               max(r.over_target for r in knee), at_least=False),
        target("steady share on the worst curve, over that of the best other rule", 1.0,
               min(r.steady for r in knee) / best_other, at_least=True, unit="×"),
    ]  # fmt: skip
    report["sections"].append({"title": "simulation", "results": results})


def _programs(console: Any, report: dict[str, Any], options: argparse.Namespace) -> None:
    quiet = quiet_cores(options)
    compared = []
    for program in PROGRAMS:
        with Progress(console) as progress:
            progress(program.name)
            compared.append(compare(program, rounds=options.rounds, wait=quiet.wait))
    sizes = list(compared[0].rates)
    print_rows(
        console,
        "rate of fixed sizes, over the best that meets the latency target; the median time of a batch",
        ("rows", *(c.program for c in compared)),
        [(f"{rows:,}", *(_share(c, rows) for c in compared)) for rows in sizes],
    )  # fmt: skip
    print_rows(
        console,
        "the size that a run finds from cold",
        ("program", "best fixed", "M rows/s", "found", "held by", "fixed cost", "a row", "batches to 90 %",
         "steady", "over target", "next run, over fixed at that size"),
        [_row(c) for c in compared],
    )  # fmt: skip
    for c in compared:
        report["targets"] += [
            target(f"P1: batches to 90 % of the best, {c.program}", _WITHIN_BATCHES, c.reach, at_least=False),
            target(f"P2: steady share of the best, {c.program}", _STEADY, c.steady, at_least=True),
            target(f"P2: batches over the latency target, {c.program}", LATE_SHARE, c.over_target,
                   at_least=False),
            target(f"P7: next run over fixed at that size, {c.program}", _CONTROL, c.control, at_least=True),
        ]  # fmt: skip


def _share(c: Comparison, rows: int) -> str:
    return f"{100 * c.rates[rows] / c.rates[c.best_rows]:.0f} %  {time_text(c.latencies_s[rows])}"


def _row(c: Comparison) -> tuple[str, ...]:
    found = c.found
    fixed = "" if found.fixed_cost_s is None else f"{1e6 * found.fixed_cost_s:.0f} µs"
    row = "" if found.row_cost_s is None else f"{1e9 * found.row_cost_s:.2f} ns"
    return (
        c.program,
        f"{c.best_rows:,}",
        f"{c.rates[c.best_rows] / 1e6:.1f}",
        f"{found.rows:,}",
        found.bound or "still searching",
        fixed,
        row,
        _batches(c.reach),
        f"{100 * c.steady:.0f} %",
        f"{100 * c.over_target:.1f} %",
        f"{100 * c.control:.0f} %",
    )


def _worst(results: Sequence[Result]) -> tuple[float | None, float | None]:
    reach = [count for r in results for count in (r.reach, r.recover if r.changes else r.reach)]
    late = [count for r in results for count in (r.reach_95th, r.recover_95th if r.changes else r.reach_95th)]
    return (_largest(reach), _largest(late))


def _largest(batches: Sequence[float | None]) -> float | None:
    known = [count for count in batches if count is not None]
    return max(known) if len(known) == len(batches) else None


def _batches(median: float | None, late: float | None = -1.0) -> str:
    text = "never" if median is None else f"{median:.0f}"
    return text if late == -1.0 else f"{text} ({'never' if late is None else f'{late:.0f}'})"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Print all tables; return the report."""
    options = _parse(arguments)
    console = new_console()
    report = new_report("control", seeds=options.seeds, rounds=options.rounds)
    print_environment(console, report)
    if options.only != "programs":
        _simulation(console, report, options.seeds)
    if options.only != "simulation":
        _programs(console, report, options)
    print_targets(console, report)
    return report


if __name__ == "__main__":
    main()
