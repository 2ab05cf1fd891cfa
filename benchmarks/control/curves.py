"""What keeping the curves of a run costs a batch: what `PreparedRun.settle` adds for them, by how long the run is.

Covers recording, with monitors of two devices, in processor time, since it never waits. Drawing comes after a run.
"""

from __future__ import annotations

import argparse
import time

from benchmarks.harness.report import (
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
)
from dataflare.control import BackpressureController, HostMemoryMonitor, MemoryBudget
from dataflare.observe.curves import CurveRecorder

#: Promised microseconds a batch, on average over a run.
MOST_US = 2.0
BATCHES = (100, 1_000, 10_000, 100_000)
GAP_S = 1e-3


def seconds_a_batch(batches: int) -> float:
    """Return what recording takes a batch in a run of so many batches, a millisecond each."""
    monitors = (HostMemoryMonitor(), HostMemoryMonitor())
    for monitor in monitors:
        monitor.read()
    controller = BackpressureController()
    for task in ("worker-0", "worker-1"):
        controller.register_task(task)
    budget = MemoryBudget()
    recorder = CurveRecorder(monitors)
    clock = time.monotonic
    began_s = time.thread_time()
    for number in range(batches):
        clock()  # as a run does for each
        recorder.note_batch(
            number * GAP_S,
            65_536,
            65_536 * 8.0,
            0.001,
            in_flight_rows=controller.in_flight,
            reserved_bytes=budget.reserved_bytes,
        )
    return (time.thread_time() - began_s) / batches


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.control.curves",
        description="What keeping the curves of a run costs a batch.",
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default: 7)")
    arguments = parser.parse_args()
    report = new_report("control.curves", rounds=arguments.rounds)
    console = new_console()
    print_environment(console, report)
    rows = []
    for batches in BATCHES:
        times_us = sorted(seconds_a_batch(batches) * 1e6 for _ in range(arguments.rounds))
        median_us = times_us[len(times_us) // 2]
        rows.append([f"{batches:,}", f"{median_us:.2f}", f"{times_us[0]:.2f}"])
        report["targets"].append(
            target(f"a batch of {batches:,}", MOST_US, median_us, at_least=False, unit="us")
        )
    print_rows(console, "keeping curves, us a batch", ["batches of the run", "median", "minimum"], rows)
    print_targets(console, report)


if __name__ == "__main__":
    main()
