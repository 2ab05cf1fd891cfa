"""What the record compiler makes of hard functions: nulls, branches, loops, strings, and filters of every selectivity.

One table a point, every contender in one interleaved run, every result compared with plain NumPy before anything is
timed. ``benchmarks/simd_points.py`` has the points; the promises are those of the compiler to SIMD code.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks.contenders.slow_routes import COMPILED
from benchmarks.definitions import check_result
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
from benchmarks.simd_points import POINTS, ROW_BY_ROW, SELECTIVITY_PERCENT, Point

#: Promised rates: times that of the best peer, and of peers of one route where the point compares routes.
PROMISED = {"W3": 4.0, "W3-nulls": 3.0, "string-plain": 1.5, "string-dictionary": 1.5}
PROMISED_BY_ROUTE = {"W4": (8.0, COMPILED), "W4-fare": (5.0, COMPILED), "collatz": (4.0, ROW_BY_ROW)}
PROMISED_SELECTIVE = 1.2
PROMISED_OVER_TILES = 0.85
#: No cliff: the next selectivity costs at most this many times as much a record, either way.
PROMISED_STEP = 2.0


def run_point(
    point: Point, rows: int, *, rounds: int, quiet: QuietCores, progress: Progress
) -> list[Measurement]:
    """Return the measurements of all contenders of a point."""
    expected = point.expected(rows)

    def check(contender: Contender, result: Any) -> None:
        assert contender.to_arrow is not None
        check_result(contender.name, contender.to_arrow(result), expected, point.tolerance)

    return measure(
        point.contenders(rows),
        rounds=rounds,
        quiet=quiet,
        check=check,
        progress=lambda text: progress(f"{point.key}: {text}"),
    )


def _ratio(ours: Measurement | None, theirs: Measurement | None) -> float | None:
    return None if ours is None or theirs is None else ours.records_per_s / theirs.records_per_s


def point_targets(point: Point, measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return the promises that a point stands for."""
    ours = best(measurements, "dataflare")
    if point.key in PROMISED_BY_ROUTE:
        goal, route = PROMISED_BY_ROUTE[point.key]
        theirs = best(measurements, "peer", route=route)
        targets = [
            target(f"{point.key} over the best {route}", goal, _ratio(ours, theirs), at_least=True, unit="×")
        ]
    else:
        goal = PROMISED.get(point.key, PROMISED_SELECTIVE)
        ratio = _ratio(ours, best(measurements, "peer"))
        targets = [target(f"{point.key} over the best peer", goal, ratio, at_least=True, unit="×")]
    if point.key == "W4":
        tiles = best([m for m in measurements if "tiles" in m.contender.name], "hand-written")
        ratio = _ratio(ours, tiles)
        targets.append(
            target("W4 over hand-written tiles", PROMISED_OVER_TILES, ratio, at_least=True, unit="×")
        )
    return targets


def step_targets(ours: dict[str, Measurement]) -> list[dict[str, Any]]:
    """Return for each two neighbouring selectivities how far apart their costs are."""
    keys = [f"keep-{percent:g}" for percent in SELECTIVITY_PERCENT]
    targets = []
    for a, b in itertools.pairwise(keys):
        if a in ours and b in ours:
            rates = ours[a].records_per_s, ours[b].records_per_s
            step = max(rates) / min(rates)
            targets.append(target(f"from {a} to {b}", PROMISED_STEP, step, at_least=False, unit="×"))
    return targets


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("simd", __doc__, size="10M", rounds=9)
    parser.add_argument(
        "--point", action="append", choices=list(POINTS), help="only this one; may be repeated"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the tables; return the report."""
    options = _parse(arguments)
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("simd", rows=options.size, rounds=options.rounds)
    print_environment(console, report)
    panels, ours = {}, {}
    for key in options.point or POINTS:
        point = POINTS[key]
        with Progress(console) as progress:
            measurements = run_point(
                point, options.size, rounds=options.rounds, quiet=quiet, progress=progress
            )
        title = f"{key} {point.title}: {options.size:,} rows"
        report["sections"].append(
            {
                "key": key,
                "title": point.title,
                "rows": options.size,
                "measurements": [m.as_json() for m in measurements],
            }
        )
        report["targets"] += point_targets(point, measurements)
        print_measurements(console, title, measurements)
        panels[f"{key} {point.title}"] = [
            (m.contender.name, m.records_per_s / 1e6, m.contender.role) for m in measurements
        ]
        mine = best(measurements, "dataflare")
        if mine is not None:
            ours[key] = mine
    report["targets"] += step_targets(ours)
    report["quiet_waited_s"] = quiet.waited_s
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        bars(panels, options.plot, axis="million records a second")
    return report


if __name__ == "__main__":
    main()
