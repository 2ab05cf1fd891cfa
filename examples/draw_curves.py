"""Draws how a run went over time, as `curves.svg`: the picture in README.md. Run from the root of the repository.

python examples/draw_curves.py

The run reads all flights of 2013 many times over, within 48 MB, and hands those that were late to a store that takes
ten times as long for a while. Needs matplotlib: pip install 'dataflare[plot]'.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import dataflare as flare

FLIGHTS = Path(__file__).with_name("flights.parquet")
PICTURE = Path("examples/curves.svg")
SECONDS_A_ROW = 0.25e-6


class Store:
    """Stands in for a store somewhere else: takes its time for each row, and ten times as long in the middle.

    Parameters
    ----------
    rows
        How many will come.
    """

    def __init__(self, rows: int) -> None:
        self._slow = range(rows * 4 // 10, rows * 5 // 10)
        self._taken = 0

    def __call__(self, batch: flare.SharedDataBatch) -> None:
        """Take a batch."""
        factor = 10.0 if self._taken in self._slow else 1.0
        self._taken += len(batch)
        time.sleep(len(batch) * SECONDS_A_ROW * factor)


def late_flights(copies: int) -> flare.Pipeline:
    """Return the flights that left late, with their speed; each of them ``copies`` times."""
    return (
        flare.read_parquet([FLIGHTS] * copies)
        .filter(lambda r: r.dep_delay > 0)
        .with_columns(mph=lambda r: r.distance / (r.air_time / 60))
        .select("time_hour", "carrier", "origin", "dest", "dep_delay", "mph")
    )


def main() -> None:
    """Count, which also says how many rows will come, then run and draw."""
    parser = argparse.ArgumentParser(description="Draw how a run went over time.")
    parser.add_argument("--copies", type=int, default=60, help="how often the flights are read (default: 60)")
    parser.add_argument("--output", type=Path, default=PICTURE, help=f"the picture (default: {PICTURE})")
    arguments = parser.parse_args()
    flights = late_flights(arguments.copies)
    rows = late_flights(1).count() * arguments.copies
    report = flights.write(Store(rows)).run(memory_limit="48MB")
    report.write_curves(arguments.output)
    print(report)


if __name__ == "__main__":
    main()
