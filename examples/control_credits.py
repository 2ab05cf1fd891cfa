"""A producer that never gets far ahead of its consumers: credits, and what memory pressure does to them.

python examples/control_credits.py
"""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

import dataflare as flare

FLIGHTS = Path(__file__).with_name("flights.parquet")
CONSUMERS = 2
TASK = "flights"

Batches = queue.SimpleQueue[flare.SharedDataBatch | None]


def produce(
    flights: flare.SharedDataBatch, controller: flare.BackpressureController, batches: Batches
) -> int:
    """Send all flights, as many at once as credits are granted; return the batches sent."""
    sent = done = 0
    while done < len(flights):
        granted = controller.acquire(TASK, 5000)  # sleeps until consumers have reported enough
        batch = flights.slice(done, done + granted)
        controller.return_credits(TASK, granted - len(batch))  # there were fewer left than granted
        batches.put(batch)
        done += len(batch)
        sent += 1
        controller.poll_monitors()
    return sent


def consume(controller: flare.BackpressureController, batches: Batches, late: list[int]) -> None:
    """Count late flights until the end is sent, and give the credits back."""
    while (batch := batches.get()) is not None:
        began_s = time.perf_counter()
        late.append(len(batch.filter(lambda r: r.dep_delay > 15)))
        controller.report_processing(TASK, len(batch), time.perf_counter() - began_s)


def run(flights: flare.SharedDataBatch, controller: flare.BackpressureController) -> tuple[int, int]:
    """Connect one producer with its consumers; return the flights that were late, and the batches."""
    controller.register_task(TASK)
    batches: Batches = queue.SimpleQueue()
    late: list[int] = []
    consumers = [threading.Thread(target=consume, args=(controller, batches, late)) for _ in range(CONSUMERS)]
    for consumer in consumers:
        consumer.start()
    try:
        sent = produce(flights, controller, batches)
    finally:
        for _ in consumers:
            batches.put(None)
        for consumer in consumers:
            consumer.join()
    return sum(late), sent


def show(controller: flare.BackpressureController) -> None:
    """Print what the controller knows."""
    now = controller.snapshot()
    task = now.tasks[TASK]
    rate = "unknown" if task.processing_rate is None else f"{task.processing_rate / 1e6:.1f} M records/s"
    pressure = "unknown" if now.memory_pressure is None else f"{now.memory_pressure:.0%}"
    print(f"  {task.granted_total:,} credits granted, {task.processed_total:,} records processed, "
          f"{task.in_flight} in flight; rate {rate}")  # fmt: skip
    print(f"  memory pressure {pressure}: {task.allowance:,} records may be on their way")
    for device, error in now.monitor_errors.items():
        print(f"  {device} could not be read, its last value counts: {error}")


def main() -> None:
    """Run once as this machine is, and once as if its memory were nearly full."""
    flights = flare.SharedDataBatch.from_arrow(pq.read_table(FLIGHTS, columns=["dep_delay", "distance"]))
    config = flare.CreditConfig(
        mode=flare.CreditMode.ADAPTIVE, initial_credits=20_000, min_credits=500, max_credits=100_000
    )
    controller = flare.BackpressureController(config, monitors=[flare.HostMemoryMonitor()])
    late, sent = run(flights, controller)
    print(f"{late:,} flights were late; {sent} batches were sent")
    show(controller)

    crowded = flare.BackpressureController(config)
    crowded.update_memory_pressure(0.99)
    late, sent = run(flights, crowded)
    print(f"{late:,} flights were late; {sent} batches were sent with memory nearly full")
    show(crowded)


if __name__ == "__main__":
    main()
