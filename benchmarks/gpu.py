"""A GPU against the CPU, by records and by computation a record: streamed from host memory, resident, copies apart.

``streamed`` is ``collect(device=…)`` from host memory and back, all copies counted; ``resident`` is one batch that lies
on the GPU before and after; ``copy in`` and ``copy out`` are ``to_device`` and ``to_host`` of the same batches. The CPU
runs ``collect`` on all cores. Where a curve crosses 1 the GPU begins to win. Without a GPU it says why, and ends;
``--device cuda:emulated`` only shows that it runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

import dataflare as flare
from benchmarks.harness.options import common_parser, parse_size, quiet_cores
from benchmarks.harness.report import new_console, new_report, print_environment, print_rows, write_json
from dataflare.kernels.devices.detection import require_gpu
from dataflare.kernels.errors import DeviceUnavailableError

__all__ = ["main"]

_PARTS = ("cpu", "streamed", "resident", "copy in", "copy out")
_SIZES = "10k,100k,1M,10M,50M"
_TINY_SIZES = "100,2k"


def polynomial(terms: int) -> Callable[[Any], Any]:
    """Return a function of a record that takes ``terms`` multiplications and additions."""

    def of_terms(r: Any) -> Any:
        y = r.x
        for _ in range(terms):
            y = y * r.x + 0.5
        return {"y": y}

    return of_terms


def times_s(rows: int, terms: int, device: str, rounds: int) -> dict[str, float]:
    """Return the shortest time of each part, over one column of float64; checks that both devices agree."""
    batch = flare.SharedDataBatch.from_arrow(pa.record_batch({"x": np.linspace(0.0, 0.9, rows)}))
    function = polynomial(terms)
    pipeline = flare.from_arrow(batch.to_arrow()).map(function)
    lying = batch.to_device(device)
    made = lying.map(function)
    runs: dict[str, Callable[[], Any]] = {
        "cpu": lambda: pipeline.collect(device="cpu"),
        "streamed": lambda: pipeline.collect(device=device),
        "resident": lambda: lying.map(function),
        "copy in": lambda: batch.to_device(device),
        "copy out": made.to_host,
    }
    results = {part: run() for part, run in runs.items()}  # compiles, and fills the pools
    expected = results["cpu"].to_arrow()
    for part in ("streamed", "copy out"):
        if not results[part].to_arrow().equals(expected):
            raise AssertionError(f"{part} on {device} differs from the CPU at {rows:,} rows, {terms} terms")
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for part, run in runs.items():
            began_s = time.perf_counter()
            run()
            best[part] = min(best[part], time.perf_counter() - began_s)
    return best


def crossover_rows(points: Sequence[dict[str, Any]], part: str) -> int | None:
    """Return the rows from which on the GPU is the faster in all larger sizes; None if it never is."""
    found = None
    for point in sorted(points, key=lambda point: -point["rows"]):
        if point["s"][part] >= point["s"]["cpu"]:
            break
        found = point["rows"]
    return found


def draw(sections: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw how many times faster than the CPU the GPU is, by rows, a line for each computation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, part in zip(figure.subplots(1, 2, sharey=True), ("streamed", "resident"), strict=True):
        for section in sections:
            points = section["points"]
            ratios = [point["s"]["cpu"] / point["s"][part] for point in points]
            ax.plot(
                [point["rows"] for point in points], ratios, marker="o", label=f"{section['terms']} terms"
            )
        ax.axhline(1.0, color="#868e96", linewidth=1)
        ax.set(xscale="log", yscale="log", xlabel="records", title=f"{part}: times the CPU's speed")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Run the table; return the report, or None where there is no GPU."""
    options = _parse(arguments)
    console = new_console()
    if options.device != "cuda:emulated":
        try:
            require_gpu(options.device)
        except DeviceUnavailableError as error:
            console.print(f"Nothing to measure: {error}")
            return None
    quiet_cores(options)
    report = new_report("gpu", device=options.device, rounds=options.rounds)
    print_environment(console, report)
    for terms in options.terms:
        points = [
            {"rows": rows, "s": times_s(rows, terms, options.device, options.rounds)}
            for rows in options.sizes
        ]
        section = {
            "title": f"{terms} multiplications and additions a record",
            "terms": terms,
            "points": points,
            "crossover_rows": {part: crossover_rows(points, part) for part in ("streamed", "resident")},
        }
        report["sections"].append(section)
        _print(console, section)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        draw(report["sections"], options.plot)
    return report


def _print(console: Console, section: dict[str, Any]) -> None:
    rows = []
    for point in section["points"]:
        taken = point["s"]
        times = [f"{1e3 * taken[part]:.3f}" for part in _PARTS]
        ratios = [f"{taken['cpu'] / taken[part]:.2f}x" for part in ("streamed", "resident")]
        rows.append((f"{point['rows']:,}", *times, *ratios))
    print_rows(
        console,
        section["title"] + ", ms, best of the rounds",
        ("rows", *_PARTS, "cpu / streamed", "cpu / resident"),
        rows,
    )
    for part, crossover in section["crossover_rows"].items():
        begins = "is not faster" if crossover is None else f"is faster from {crossover:,} records on"
        console.print(f"  {part}: the GPU {begins}")


def _numbers(text: str) -> list[int]:
    return [parse_size(part) for part in text.split(",")]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("gpu", __doc__, size=None, rounds=5)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cuda:emulated for tiny sizes")
    parser.add_argument("--sizes", type=_numbers, default=None, help=f"records, such as {_SIZES}")
    parser.add_argument("--terms", type=_numbers, default=_numbers("1,16,256"), help="of the polynomial")
    options = parser.parse_args(arguments)
    if options.sizes is None:
        options.sizes = _numbers(_TINY_SIZES if options.device == "cuda:emulated" else _SIZES)
    return options


if __name__ == "__main__":
    main()
