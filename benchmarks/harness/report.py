"""What a table says in the end: on the terminal, as JSON, as a plot.

A report is a plain dictionary from the start, so that the file holds exactly what was shown. Keys carry
their units (``_s``, ``_bytes``, ``_per_s``). Nothing in it names the machine's host, user or folders.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import describe_environment
from benchmarks.harness.runner import Measurement

__all__ = ["Progress", "best", "new_console", "new_report", "print_environment", "print_measurements",
           "print_rows", "print_targets", "target", "time_text", "write_json"]  # fmt: skip

_WIDTH_WITHOUT_TERMINAL = 140


def new_console() -> Console:
    """Return the console that tables go to; wide enough to be read in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)


def new_report(benchmark: str, **settings: Any) -> dict[str, Any]:
    """Return an empty report of this machine and these settings."""
    return {
        "benchmark": benchmark,
        "environment": describe_environment(),
        "settings": settings,
        "sections": [],
        "targets": [],
    }


def target(
    what: str, goal: float, measured: float | None, *, at_least: bool, unit: str = ""
) -> dict[str, Any]:
    """Return one promise beside what was measured; ``met`` is None when nothing could be measured."""
    met = None if measured is None else (measured >= goal if at_least else measured <= goal)
    return {
        "what": what,
        "goal": goal,
        "relation": ">=" if at_least else "<=",
        "unit": unit,
        "measured": measured,
        "met": met,
    }


def best(measurements: Sequence[Measurement], *roles: str, route: str | None = None) -> Measurement | None:
    """Return the fastest by median records a second among ``roles``, or None when there is none."""
    fitting = [
        m for m in measurements if m.contender.role in roles and (route is None or m.contender.route == route)
    ]
    return max(fitting, key=lambda m: m.records_per_s, default=None)


def print_environment(console: Console, report: dict[str, Any]) -> None:
    e = report["environment"]
    simd = ", ".join(e["simd"]) or "no AVX2"
    console.print(
        f"[bold]{report['benchmark']}[/bold]  {e['processor']} ({simd}), {e['cores']} cores, "
        f"{e['memory_bytes'] / 2**30:.0f} GiB; Python {e['python']}; "
        + ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    )


def time_text(seconds: float) -> str:
    """Return a duration in the unit that fits it."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e6:.2f} µs"


def print_measurements(
    console: Console,
    title: str,
    measurements: Sequence[Measurement],
    *,
    bandwidth: float | None = None,
    probes: bool = False,
) -> None:
    """Print contenders, fastest first; ratios are DataFlare's best rate over theirs.

    The column about the copy bandwidth is there when ``bandwidth`` is; probes are shown when asked for.
    """
    ours = best(measurements, "dataflare")
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("contender")
    last = ("of copy bandwidth",) if bandwidth else ()
    for heading in ("median", "min", "cold", "M records/s", "DataFlare is", "others busy", *last):
        table.add_column(heading, justify="right")
    for m in sorted(measurements, key=lambda m: -m.records_per_s):
        if m.contender.role == "probe" and not probes:
            continue
        rate = m.bytes_per_s
        share = f"{100 * rate / bandwidth:.0f} %" if rate is not None and bandwidth else ""
        ratio = (
            ""
            if ours is None or m.contender.role == "dataflare"
            else f"{ours.records_per_s / m.records_per_s:.2f}×"
        )
        name = m.contender.name + (f" ({m.contender.note})" if m.contender.note else "")
        table.add_row(
            f"[bold]{name}[/bold]" if m.contender.role == "dataflare" else name,
            time_text(m.median_s),
            time_text(m.min_s),
            time_text(m.cold_s),
            f"{m.records_per_s / 1e6:.3g}",
            ratio,
            f"{statistics.fmean(m.busy_percent):.0f} %" if m.busy_percent else "",
            *((share,) if bandwidth else ()),
        )
    console.print(table)


def print_rows(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a plain table whose first column is text and whose others are figures."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_targets(console: Console, report: dict[str, Any]) -> None:
    """Print every promise, what was measured, and whether it was kept."""
    if not report["targets"]:
        return
    table = Table(title="promises", title_justify="left", header_style="bold")
    for heading in ("promise", "goal", "measured", ""):
        table.add_column(heading, justify="left" if heading in ("promise", "") else "right")
    for t in report["targets"]:
        measured = "not measured" if t["measured"] is None else f"{t['measured']:.4g} {t['unit']}".strip()
        verdict = {True: "[green]kept[/green]", False: "[red]missed[/red]", None: ""}[t["met"]]
        table.add_row(t["what"], f"{t['relation']} {t['goal']:g} {t['unit']}".strip(), measured, verdict)
    console.print(table)


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write the report; the folder must exist."""
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class Progress:
    """One status line on a terminal, nothing anywhere else."""

    def __init__(self, console: Console) -> None:
        self._status = console.status("") if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)
