"""Ten times the data: lineitem at scale 1 and 10, streamed from Parquet: time and memory.

Covers: wall time, processor time and peak memory of a filter and map in a process of its own, measured from
outside; the same job through Polars' streaming engine for comparison. The output of every run is counted
and compared.

Memory is anonymous memory and resident memory; the second has mapped files in it, which are the page
cache's and grow with the file wherever a reader maps it. The files are read once before the clock starts,
so that both sizes come from the page cache when memory allows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.harness.options import cache_folder, common_parser, quiet_cores
from benchmarks.harness.plot import bars
from benchmarks.harness.processes import ChildRun, run_child
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
from benchmarks.tpch import lineitem

TIME_RATIO = 10.5
#: "The same peak memory", with room for the noise of allocators and read-ahead.
MEMORY_RATIO = 1.15

_OURS_WRITE = "DataFlare, Parquet to Parquet"
_OURS_COUNT = "DataFlare, count"
_POLARS = "Polars streaming, Parquet to Parquet"
_JOBS = (_OURS_WRITE, _OURS_COUNT, _POLARS)


def _flare_pipeline(path: Path) -> Any:
    import dataflare as flare

    cheap = Decimal("24.00")
    return (
        flare.read_parquet(str(path))
        .filter(lambda r: r.l_quantity < cheap)
        .map(
            lambda r: {
                "order": r.l_orderkey,
                "line": r.l_linenumber,
                "revenue": float(r.l_extendedprice) * (1.0 - float(r.l_discount)),
            }
        )
    )


def _write_with_flare(source: Path, output: Path) -> dict[str, Any]:
    report = _flare_pipeline(source).write_parquet(str(output)).run()
    return {
        "rows_in": report.rows_in,
        "rows_out": report.rows_out,
        "engine_wall_s": report.wall_s,
        "compile_s": report.compile_s,
        "reported_peak_host_bytes": report.peak_host_bytes,
        "reported_unaccounted_bytes": report.unaccounted_bytes,
        "batches": report.batches,
    }


def _count_with_flare(source: Path, _output: Path) -> dict[str, Any]:
    return {"rows_out": _flare_pipeline(source).count()}


def _write_with_polars(source: Path, output: Path) -> dict[str, Any]:
    import polars as pl

    revenue = pl.col("l_extendedprice").cast(pl.Float64) * (1.0 - pl.col("l_discount").cast(pl.Float64))
    query = (
        pl.scan_parquet(source)
        .filter(pl.col("l_quantity") < Decimal("24.00"))
        .select(order="l_orderkey", line="l_linenumber", revenue=revenue)
    )
    query.sink_parquet(output)
    return {"rows_out": pl.scan_parquet(output).select(pl.len()).collect().item()}


_RUNS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    _OURS_WRITE: _write_with_flare,
    _OURS_COUNT: _count_with_flare,
    _POLARS: _write_with_polars,
}


def _child(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.data) as folder:
        output = Path(folder) / "out.parquet"
        start = time.perf_counter()
        result = _RUNS[options.child](options.child_source, output)
        return {**result, "job_s": time.perf_counter() - start}


def _read_once(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(16 * 2**20):
            pass


def _summary(job: str, scale: float, runs: Sequence[ChildRun]) -> dict[str, Any]:
    def median(value: Callable[[ChildRun], float]) -> float:
        return statistics.median(value(run) for run in runs)

    return {
        "name": job,
        "role": "peer" if job == _POLARS else "dataflare",
        "scale": scale,
        "job_s": median(lambda run: run.output["job_s"]),
        "cpu_s": median(lambda run: run.cpu_s),
        "peak_rss_bytes": median(lambda run: run.peak_rss_bytes),
        "peak_anonymous_bytes": median(lambda run: run.peak_anonymous_bytes),
        **{key: value for key, value in runs[-1].output.items() if key != "job_s"},
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("scale", __doc__, size=None, rounds=3)
    parser.add_argument("--size", type=float, default=1.0, help="the smaller scale factor of lineitem")
    parser.add_argument(
        "--data", type=Path, default=cache_folder(), help="folder that keeps the generated files"
    )
    parser.add_argument("--child", choices=_JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--child-source", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    if options.child is not None:
        result = _child(options)
        print(json.dumps(result))
        return result
    console = new_console()
    quiet = quiet_cores(options)
    scales = (options.size, options.size * 10)
    report = new_report("scale", scales=scales, rounds=options.rounds)
    print_environment(console, report)
    runs: dict[tuple[str, float], list[ChildRun]] = {(job, scale): [] for job in _JOBS for scale in scales}
    with Progress(console) as progress:
        files = {}
        for scale in scales:
            progress(f"lineitem at scale {scale:g}")
            files[scale] = lineitem(options.data, scale)
        for index in range(options.rounds):
            for job, scale in runs:
                progress(f"round {index + 1} of {options.rounds}: {job}, scale {scale:g}")
                _read_once(files[scale])
                quiet.wait()
                runs[job, scale].append(
                    run_child(
                        [
                            *("-m", "benchmarks.scale", "--child", job),
                            *("--child-source", str(files[scale]), "--data", str(options.data)),
                        ]
                    )
                )
    results = {key: _summary(*key, taken) for key, taken in runs.items()}
    small, large = scales
    for scale in scales:
        rows = {results[job, scale]["rows_out"] for job in _JOBS}
        if len(rows) != 1:
            raise AssertionError(f"the jobs disagree about the rows at scale {scale:g}: {sorted(rows)}")
    report["sections"].append({"title": "lineitem streamed", "measurements": list(results.values())})
    for job in (_OURS_WRITE, _OURS_COUNT):
        one, ten = results[job, small], results[job, large]
        report["targets"] += [
            target(
                f"{job}: time, ×10 data", TIME_RATIO, ten["job_s"] / one["job_s"], at_least=False, unit="×"
            ),
            target(
                f"{job}: peak anonymous memory, ×10 data",
                MEMORY_RATIO,
                ten["peak_anonymous_bytes"] / one["peak_anonymous_bytes"],
                at_least=False,
                unit="×",
            ),
        ]
    print_rows(
        console,
        "lineitem streamed, each run in its own process",
        ("job", "scale", "rows out", "time", "CPU", "peak anonymous MiB", "peak RSS MiB"),
        [
            (
                job,
                f"{scale:g}",
                f"{r['rows_out']:,}",
                time_text(r["job_s"]),
                time_text(r["cpu_s"]),
                f"{r['peak_anonymous_bytes'] / 2**20:.0f}",
                f"{r['peak_rss_bytes'] / 2**20:.0f}",
            )
            for (job, scale), r in results.items()
        ],
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        labelled = [(f"{job}, scale {scale:g}", r) for (job, scale), r in results.items()]
        panels = {
            "seconds": [(label, r["job_s"], r["role"]) for label, r in labelled],
            "peak anonymous MiB": [
                (label, r["peak_anonymous_bytes"] / 2**20, r["role"]) for label, r in labelled
            ],
        }
        bars(panels, options.plot, axis="")
    return report


if __name__ == "__main__":
    main()
