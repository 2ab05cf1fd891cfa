"""Hand-written Numba on all cores: kernels written for the workload, outputs fresh or reused.

Reused outputs are no peer (nobody may keep the result); they show what fresh pages cost. The row-by-row
kernel of W4 is the user's function under ``numba.njit`` with a loop around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import numba_kernels as kernels
from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.environment import available_cores
from benchmarks.harness.runner import Contender

__all__ = ["contenders"]

#: One output array of this many rows.
Allocate = Callable[[int], np.ndarray]


def _chunks(names: tuple[str, ...]) -> Callable[[Any], pa.Table]:
    """Join the parts of all threads as chunks of a table; nothing is copied."""

    def to_arrow(parts: list[tuple[np.ndarray, ...]]) -> pa.Table:
        arrays = [
            pa.chunked_array([pa.array(column) for column in pieces]) for pieces in zip(*parts, strict=True)
        ]
        return pa.table(arrays, names=list(names))

    return to_arrow


def _total(columns: Columns, threads: kernels.Threads, kernel: Any, allocate: Allocate) -> Any:
    total = allocate(columns.rows)
    threads.run(lambda a, b: kernel(columns["price"], columns["qty"], total, a, b), columns.rows)
    return [(total,)]


def _filter(columns: Columns, threads: kernels.Threads, threshold: int, allocate: Allocate) -> Any:
    ids, total = allocate(columns.rows).view(np.int64), allocate(columns.rows)

    def work(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        kept = kernels.orders_filter(
            columns["id"],
            columns["age"],
            columns["price"],
            columns["qty"],
            ids,
            total,
            threshold,
            start,
            stop,
        )
        return ids[start : start + int(kept)], total[start : start + int(kept)]

    return threads.run(work, columns.rows)


def _chain(columns: Columns, threads: kernels.Threads, allocate: Allocate) -> Any:
    net, score = allocate(columns.rows), allocate(columns.rows)

    def work(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        kept = kernels.orders_chain(columns["age"], columns["price"], columns["qty"], net, score, start, stop)
        return net[start : start + int(kept)], score[start : start + int(kept)]

    return threads.run(work, columns.rows)


def _trips(columns: Columns, threads: kernels.Threads, kernel: Any, allocate: Allocate) -> Any:
    cost = allocate(columns.rows)
    inputs = [columns[name] for name in ("lat1", "lon1", "lat2", "lon2", "qty")]
    threads.run(lambda a, b: kernel(*inputs, cost, a, b), columns.rows)
    return [(cost,)]


class _Reused:
    """Hands out the same arrays again for every run."""

    def __init__(self, rows: int, count: int) -> None:
        self._arrays = [kernels.aligned_empty(rows) for _ in range(count)]
        self._next = 0
        for array in self._arrays:
            array.fill(0.0)

    def __call__(self, rows: int) -> np.ndarray:
        self._next = (self._next + 1) % len(self._arrays)
        return self._arrays[self._next]


def contenders(workload: Workload, columns: Columns) -> list[Contender]:
    threads = kernels.Threads(available_cores())
    fresh: Allocate = kernels.aligned_empty
    if workload.kind == "W1":
        names = ("total",)
        plain, streaming = kernels.orders_total, kernels.orders_total_streaming
        reused = _Reused(columns.rows, 1)
        runs = {
            "fresh output": lambda: _total(columns, threads, plain, fresh),
            "reused output": lambda: _total(columns, threads, plain, reused),
            "reused output, streaming stores": lambda: _total(columns, threads, streaming, reused),
        }
    elif workload.kind == "W2":
        names = ("id", "total")
        reused = _Reused(columns.rows, 2)
        runs = {
            "fresh output": lambda: _filter(columns, threads, workload.threshold, fresh),
            "reused output": lambda: _filter(columns, threads, workload.threshold, reused),
        }
    elif workload.kind == "W3":
        names = ("net", "score")
        reused = _Reused(columns.rows, 2)
        runs = {
            "fresh output": lambda: _chain(columns, threads, fresh),
            "reused output": lambda: _chain(columns, threads, reused),
        }
    else:
        names = ("cost",)
        runs = {
            "tiles, fresh output": lambda: _trips(columns, threads, kernels.trip_tiles, fresh),
            "plain njit loop": lambda: _trips(columns, threads, kernels.trip_rows, fresh),
        }
    return [
        Contender(
            name=f"hand-written Numba, {how}",
            role="hand-written",
            route="reused output" if "reused" in how else "",
            rows=columns.rows,
            run=run,
            to_arrow=_chunks(names),
        )
        for how, run in runs.items()
    ]
