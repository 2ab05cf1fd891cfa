"""A sink that stands still for ten seconds, and one that is ten times as slow for as long: what the run does meanwhile.

Covers a stream that reads on other threads than it computes on, and a Parquet file that is read where it is computed,
both under a memory limit. Prints what went in and out by half seconds; promised is that the source pauses, that memory
stays under the limit, and that the rate is back within two seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

import dataflare as flare
from benchmarks.data import generate
from benchmarks.harness.options import cache_folder, common_parser, quiet_cores
from benchmarks.harness.report import (
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    write_json,
)
from benchmarks.tpch import lineitem

#: Promised: percent of the rate before, seconds after the sink is well again.
BACK_PERCENT = 95.0
BACK_WITHIN_S = 2.0

FAULTS = ("stands still", "ten times as slow")
SOURCES = ("stream", "parquet")
_SLOWER = 10
_RATE_OVER_S = 1.0
_BIN_S = 0.5
_SLACK_S = 0.5


class Event(NamedTuple):
    """Records that were read or written."""

    at_s: float
    rows: int


class SickSink:
    """Takes ``seconds_a_row`` for each record; between two moments it stands still, or takes ten times as long."""

    def __init__(self, fault: str, seconds_a_row: float, ill_from_s: float, ill_for_s: float) -> None:
        self._fault = fault
        self._seconds_a_row = seconds_a_row
        self._ill_from_s = ill_from_s
        self.well_s = ill_from_s + ill_for_s
        self._began_s: float | None = None
        self.written: list[Event] = []

    def elapsed_s(self) -> float:
        """Return the seconds since the first batch was written or read."""
        now_s = time.perf_counter()
        if self._began_s is None:
            self._began_s = now_s
        return now_s - self._began_s

    def ill(self) -> bool:
        """Return whether the sink is ill now."""
        return self._ill_from_s <= self.elapsed_s() < self.well_s

    def write(self, batch: flare.SharedDataBatch) -> None:
        """Take a batch."""
        if self.ill() and self._fault == FAULTS[0]:
            time.sleep(self.well_s - self.elapsed_s())
        time.sleep(batch.num_rows * self._seconds_a_row * (_SLOWER if self.ill() else 1))
        self.written.append(Event(self.elapsed_s(), batch.num_rows))


def _stream(sink: SickSink, until_s: float, read: list[Event]) -> Iterator[pa.RecordBatch]:
    whole = generate(("price", "qty"), 262_144).table.combine_chunks().to_batches()[0]
    while (now_s := sink.elapsed_s()) < until_s:
        read.append(Event(now_s, whole.num_rows))
        yield whole


def _pipeline(sink: SickSink, until_s: float, read: list[Event], path: Path | None) -> Any:
    if path is None:
        schema = generate(("price", "qty"), 1).table.schema
        start = flare.from_batches(_stream(sink, until_s, read), schema)
        return start.map(lambda r: {"total": r.price * r.qty * 1.08}).write(sink.write)
    start = flare.read_parquet(path)
    return start.map(lambda r: {"total": float(r.l_extendedprice) * (1.0 - float(r.l_discount))}).write(
        sink.write
    )


def rate(events: Sequence[Event], from_s: float, to_s: float) -> float:
    """Return the records a second between two moments."""
    return sum(event.rows for event in events if from_s < event.at_s <= to_s) / (to_s - from_s)


def _back_after_s(written: Sequence[Event], well_s: float, before: float) -> float | None:
    """Return the seconds after which the rate over one second is what it was before the illness, nearly."""
    last_s = written[-1].at_s
    for tenths in range(int((last_s - well_s - _RATE_OVER_S) * 10)):
        from_s = well_s + tenths / 10
        if rate(written, from_s, from_s + _RATE_OVER_S) >= before * BACK_PERCENT / 100:
            return tenths / 10
    return None


def sick_run(
    source: str, fault: str, *, ill_for_s: float, around_s: float, limit_bytes: int, path: Path | None
) -> dict[str, Any]:
    """Run a pipeline whose sink falls ill ``around_s`` seconds after the start; return what was seen."""
    sink = SickSink(fault, 1e-7 if source == "parquet" else 4e-8, around_s, ill_for_s)
    read: list[Event] = []
    until_s = around_s + ill_for_s + around_s + BACK_WITHIN_S
    pipeline = _pipeline(sink, until_s, read, path)
    report = pipeline.run(memory_limit=limit_bytes)
    written = sink.written
    before = rate(written, 1.0, around_s)  # the first second belongs to the search for the batch size
    while_ill = [e for e in read if around_s + _SLACK_S < e.at_s < sink.well_s]
    curve_s = [n * _BIN_S for n in range(int(written[-1].at_s / _BIN_S) + 1)]
    return {
        "name": f"{source}, the sink {fault}",
        "still": fault == FAULTS[0],
        "rows": report.rows_in,
        "rate_before": before,
        "back_after_s": _back_after_s(written, sink.well_s, before),
        "read_while_ill_rows": sum(e.rows for e in while_ill) if read else None,
        "peak_bytes": report.peak_host_bytes,
        "limit_bytes": limit_bytes,
        "curve": [
            {
                "from_s": at_s,
                "read_rows_per_s": rate(read, at_s, at_s + _BIN_S) if read else None,
                "written_rows_per_s": rate(written, at_s, at_s + _BIN_S),
                "batch_rows": statistics.median(sizes) if sizes else None,
            }
            for at_s in curve_s
            if (sizes := [e.rows for e in written if at_s < e.at_s <= at_s + _BIN_S]) or True
        ],
    }


def _print_run(console: Any, run: dict[str, Any]) -> None:
    full: Callable[[float | None], str] = lambda r: "" if r is None else f"{r / 1e6:.1f}"  # noqa: E731
    rows = [
        (
            f"{p['from_s']:.1f} s",
            full(p["read_rows_per_s"]),
            full(p["written_rows_per_s"]),
            "" if p["batch_rows"] is None else f"{p['batch_rows']:,.0f}",
            "█" * round(30 * p["written_rows_per_s"] / max(q["written_rows_per_s"] for q in run["curve"])),
        )
        for p in run["curve"]
    ]
    print_rows(console, run["name"], ("from", "read M/s", "written M/s", "batch", ""), rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run all; return the report."""
    parser = common_parser("control.recovery", __doc__, size=None, rounds=1)
    parser.add_argument("--source", choices=SOURCES, action="append", help="default: both")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="default: both")
    parser.add_argument("--ill-s", type=float, default=10.0, help="seconds for which the sink is ill")
    parser.add_argument(
        "--around-s", type=float, default=3.0, help="seconds before, and after the two of recovery"
    )
    parser.add_argument("--limit-mb", type=int, default=256, help="memory limit")
    parser.add_argument("--scale", type=float, default=10.0, help="scale factor of lineitem")
    parser.add_argument("--data", type=Path, default=cache_folder(), help="where lineitem is, or is made")
    options = parser.parse_args(arguments)
    console, quiet = new_console(), quiet_cores(options)
    report = new_report(
        "control.recovery", ill_s=options.ill_s, limit_mb=options.limit_mb, scale=options.scale
    )
    print_environment(console, report)
    runs = []
    for source in options.source or SOURCES:
        for fault in options.fault or FAULTS:
            quiet.wait()
            run = sick_run(
                source,
                fault,
                ill_for_s=options.ill_s,
                around_s=options.around_s,
                limit_bytes=options.limit_mb << 20,
                path=lineitem(options.data, options.scale) if source == "parquet" else None,
            )
            _print_run(console, run)
            runs.append(run)
            name = run["name"]
            report["targets"] += [
                target(f"{name}: back", BACK_WITHIN_S, run["back_after_s"], at_least=False, unit="s"),
                target(
                    f"{name}: peak of the limit",
                    100.0,
                    100.0 * run["peak_bytes"] / run["limit_bytes"],
                    at_least=False,
                    unit="%",
                ),
            ]
            if run["still"] and run["read_while_ill_rows"] is not None:
                report["targets"].append(
                    target(
                        f"{name}: read meanwhile",
                        0.0,
                        run["read_while_ill_rows"],
                        at_least=False,
                        unit="rows",
                    )
                )
    report["sections"] = [{"title": "runs", "measurements": runs}]
    report["quiet_waited_s"] = quiet.waited_s
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    main()
