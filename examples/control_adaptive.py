"""A loop of one's own whose batches find their size: AdaptiveBatcher without a pipeline, and what was measured.

python examples/control_adaptive.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

import dataflare as flare

FLIGHTS = Path(__file__).with_name("flights.parquet")


def late(batch: flare.SharedDataBatch) -> flare.SharedDataBatch:
    """Return the flights that left late: the work of the loop."""
    return batch.filter(lambda r: r.dep_delay > 15)


def drive(
    flights: flare.SharedDataBatch,
    batcher: flare.AdaptiveBatcher,
    work: Callable[[flare.SharedDataBatch], flare.SharedDataBatch],
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Work through all flights in batches of the size that the batcher wants; return how many are left."""
    kept = done = 0
    while done < len(flights):
        wanted = batcher.batch_size
        batch = flights.slice(done, done + wanted)
        began_s = clock()
        kept += len(work(batch))
        # The last batch is what was left over, so it tells nothing about its size.
        batcher.record_batch(len(batch), clock() - began_s, steady=len(batch) == wanted)
        done += len(batch)
    return kept


def show(metrics: flare.BatchingMetrics) -> None:
    """Print what the batches took: of the latest ones, and in all."""
    now = metrics.snapshot()
    print(
        f"{now.total_records:,} records in {now.batch_count} batches, {now.total_time_s * 1e3:.1f} ms of work"
    )
    if now.throughput is None or now.p50_latency_s is None or now.p99_latency_s is None:
        return  # nothing was recorded: what is not known is None, never 0
    print(f"{now.throughput / 1e6:.1f} M records/s; a batch takes {now.p50_latency_s * 1e3:.2f} ms (median), "
          f"{now.p99_latency_s * 1e3:.2f} ms (99 %)")  # fmt: skip
    for at_least, batches in now.batch_size_histogram.items():
        print(f"  from {at_least:>7,} rows: {'#' * min(batches, 60)} {batches}")


def main() -> None:
    """Go over a year of flights again and again, starting with batches that are far too small."""
    flights = flare.SharedDataBatch.from_arrow(pq.read_table(FLIGHTS, columns=["dep_delay", "distance"]))
    late(flights.slice(0, 1))  # compiled before the clock starts
    config = flare.AdaptiveBatchingConfig(initial_size=1000, latency_target_ms=50)
    batcher = flare.AdaptiveBatcher(config)
    for number in range(5):
        before = batcher.batch_size
        kept = drive(flights, batcher, late)
        print(f"round {number}: {kept:,} flights were late; batches of {before:,} rows at first, "
              f"{batcher.batch_size:,} at the end")  # fmt: skip
    show(batcher.metrics)


if __name__ == "__main__":
    main()
