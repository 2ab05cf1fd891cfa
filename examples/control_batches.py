"""Batches by hand: made from a file, cut without copying, labelled, and put together again.

python examples/control_batches.py
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

import dataflare as flare

FLIGHTS = Path(__file__).with_name("flights.parquet")


def months(flights: flare.SharedDataBatch) -> list[flare.SharedDataBatch]:
    """Cut the year into its months: slices share the memory of the whole, only the bounds are new."""
    names = flights["month"].to_pylist()
    starts = [row for row, name in enumerate(names) if row == 0 or name != names[row - 1]]
    batches = []
    for start, stop in zip(starts, [*starts[1:], len(flights)], strict=True):
        month = flights.slice(start, stop)
        # No later flight of this month is older than its first: what a watermark promises, here in days of the year.
        batches.append(
            month.with_metadata("month", str(names[start])).with_watermark(31 * (names[start] - 1))
        )
    return batches


def main() -> None:
    """Print what becomes of metadata and watermarks when batches are cut and merged."""
    table = pq.read_table(FLIGHTS, columns=["month", "day", "dep_delay", "distance"]).sort_by("month")
    flights = flare.SharedDataBatch.from_arrow(table)
    print(f"{len(flights):,} flights in {flights.nbytes / 1e6:.1f} MB, id {flights.id}, on {flights.device}")

    parts = months(flights)
    for part in parts[:3]:
        print(f"month {part.metadata['month']:>2}: {len(part):,} flights, watermark {part.watermark}")

    summer = flare.SharedDataBatch.merge(parts[5:8])
    print(f"summer: {len(summer):,} flights, metadata {dict(summer.metadata)}, watermark {summer.watermark}")
    in_order = flare.SharedDataBatch.merge(parts[5:8], watermark="max")
    print(f"the same as consecutive batches of one ordered stream: watermark {in_order.watermark}")

    late = summer.filter(lambda r: r.dep_delay > 60).with_columns(hours=lambda r: r.dep_delay / 60)
    print(f"{len(late):,} of them left more than an hour late")


if __name__ == "__main__":
    main()
