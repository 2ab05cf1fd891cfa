"""Probes of what the memory bus gives right now: they take their turns among the contenders.

Covers: copying with all cores through the C library and with non-temporal stores, and reading. Buffers are
reused, so no page is ever fresh. Does not cover: latency, caches, NUMA.

A copy of n bytes moves 2 n: n read, n written. (A plain store moves the line in before it is overwritten, a
third transfer that is not counted: compulsory bytes only, for probes and for contenders alike.)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks import numba_kernels
from benchmarks.harness.environment import available_cores
from benchmarks.harness.runner import Contender, Measurement

__all__ = ["bandwidth_probes", "best_copy_bandwidth"]

PROBE_BYTES = 256 * 2**20
_COPY = "copy"


def bandwidth_probes(total_bytes: int = PROBE_BYTES) -> list[Contender]:
    """Return the probes, over buffers of ``total_bytes`` on either side."""
    cores = available_cores()
    words = max(total_bytes // 8 // cores // 64 * 64, 64)
    sources = [np.ones(words) for _ in range(cores)]
    targets = [numba_kernels.aligned_empty(words) for _ in range(cores)]
    for target in targets:
        target.fill(0.0)
    pool = ThreadPoolExecutor(cores, thread_name_prefix="probe")

    def everywhere(work: Callable[[int], Any]) -> Callable[[], None]:
        def run() -> None:
            for future in [pool.submit(work, core) for core in range(cores)]:
                future.result()

        return run

    one_way = 8.0 * words * cores
    return [
        Contender(
            name=f"copy, C library, {cores} threads",
            run=everywhere(lambda core: np.copyto(targets[core], sources[core])),
            rows=words * cores,
            role="probe",
            route=_COPY,
            moved_bytes=2 * one_way,
        ),
        Contender(
            name=f"copy, non-temporal stores, {cores} threads",
            run=everywhere(lambda core: numba_kernels.copy_streaming(sources[core], targets[core])),
            rows=words * cores,
            role="probe",
            route=_COPY,
            moved_bytes=2 * one_way,
        ),
        Contender(
            name=f"read, {cores} threads",
            run=everywhere(lambda core: numba_kernels.sum_words(sources[core])),
            rows=words * cores,
            role="probe",
            route="read",
            moved_bytes=one_way,
        ),
    ]


def best_copy_bandwidth(measurements: list[Measurement]) -> float | None:
    """Return the bytes a second of the faster way to copy, by its median over the run."""
    copies = [
        m.bytes_per_s for m in measurements if m.contender.role == "probe" and m.contender.route == _COPY
    ]
    return max((rate for rate in copies if rate is not None), default=None)
