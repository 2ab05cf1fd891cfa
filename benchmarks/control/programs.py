"""Real programs through the engine: a sweep of fixed batch sizes against a run that finds its size from cold.

Four programs over columns in memory: a cheap map, a heavy function, a selective filter, and a model-like function of
whole batches, whose every call costs some milliseconds. Rates are those between the first batch that is done and the
last, so that neither starting threads nor compiling counts; data is as long as it takes, by using it again.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

import dataflare as flare
from benchmarks.data import generate
from benchmarks.record_functions import line_total, trip_record
from dataflare.control import AdaptiveBatchingConfig, BatchRecord, remembered_sizes
from dataflare.control.strategies import FoundSize
from dataflare.execute.prepare import prepare_run
from dataflare.execute.runtime import load_runtime
from dataflare.options import RunOptions

__all__ = ["LATE_SHARE", "PROGRAMS", "Comparison", "Program", "compare"]

LATE_SHARE = 0.02
"""Of batches that may take longer than the latency target."""

# Of those of a fixed size, which in a sweep may be few: a hiccup of the machine does not make it a bad one.
_LATE_SHARE_IN_SWEEP = 0.1
_BLOCK_ROWS = 1 << 21
_SIZES = [1 << power for power in range(10, 22)]
_CALL_S = 4e-3
_WITHIN = 30
_WINDOW = 20
_SWEEP_BATCHES = 300
_SWEEP_S = 0.2
_BATCHES = 300
_MOST_ROWS = 1 << 30
_TARGET_S = AdaptiveBatchingConfig().latency_target_s


@dataclass(frozen=True)
class Program:
    """A pipeline over columns in memory."""

    name: str
    columns: tuple[str, ...]
    steps: Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Fixed sizes against the size that was found, of one program."""

    program: str
    rates: dict[int, float]
    """Rows a second by fixed size."""
    latencies_s: dict[int, float]
    """Median seconds of a batch by fixed size."""
    late: dict[int, float]
    """Share of the batches that took longer than the latency target, by fixed size."""
    found: FoundSize
    reach: int | None
    """Batches from cold until the rate of the next 20 is 90 % of the best; None if never."""
    steady: float
    """Rate of the second half of a run from cold, over that of the best size of the sweep in the same round."""
    over_target: float
    """Share of the batches of that half that took longer than the latency target."""
    control: float
    """Rate of a run that begins with what was found, over that of the same size without a search."""

    @property
    def best_rows(self) -> int:
        """The fixed size with the highest rate, of those whose batches meet the latency target, all but a tenth."""
        return _best_rows(self.rates, self.late)


class _Model:
    """A small network behind a call that takes its time, as one over a network or to a device does."""

    def __init__(self) -> None:
        self._weights = np.random.default_rng(1).normal(size=(8, 3))

    def __call__(self, batch: flare.SharedDataBatch) -> dict[str, Any]:
        time.sleep(_CALL_S)
        columns = batch.to_arrow()
        price, qty = (np.asarray(columns[name], dtype=np.float64) for name in ("price", "qty"))
        # Unit by unit: matrix products would start threads of their own, and fight for the cores of the workers.
        return {"score": sum(out * np.tanh(a * price + b * qty) for a, b, out in self._weights)}


PROGRAMS = (
    Program("cheap map", ("price", "qty"), lambda p: p.map(lambda r: {"total": line_total(r)})),
    Program("heavy function", ("lat1", "lon1", "lat2", "lon2", "qty"), lambda p: p.map(trip_record)),
    Program(
        "filter that keeps 9 %",
        ("id", "age", "price", "qty"),
        lambda p: p.filter(lambda r: r.age > 90).map(lambda r: {"id": r.id, "total": line_total(r)}),
    ),
    Program(
        "model-like map_batches",
        ("price", "qty"),
        lambda p: p.map_batches(_Model, schema=pa.schema({"score": pa.float64()})),
    ),
)


def compare(program: Program, *, rounds: int, wait: Callable[[], float]) -> Comparison:
    """Sweep the sizes, then let the run find its own."""
    block = generate(program.columns, _BLOCK_ROWS).table
    taken: dict[int, list[float]] = {rows: [] for rows in _SIZES}
    latencies: dict[int, list[float]] = {rows: [] for rows in _SIZES}
    guess = 0.0
    for _ in range(rounds):
        for rows in _SIZES:
            wait()
            batches = _SWEEP_BATCHES if not guess else min(_SWEEP_BATCHES, 8 + int(_SWEEP_S * guess / rows))
            _, history = _run(program, block, rows * batches, _fixed(rows))
            taken[rows].append(_rate(history))
            latencies[rows] += [batch.duration_s for batch in history]
            guess = max(guess, taken[rows][-1])
    rates = {rows: statistics.median(found) for rows, found in taken.items()}
    latencies_s = {rows: statistics.median(found) for rows, found in latencies.items()}
    late = {rows: sum(s > _TARGET_S for s in found) / len(found) for rows, found in latencies.items()}
    best_rows = _best_rows(rates, late)
    most = min(_MOST_ROWS, best_rows * _BATCHES)
    reaches: list[int | None] = []
    steady, control = [], []
    slow = batches = 0
    for _ in range(rounds):
        wait()
        with _nothing_remembered():
            found, history = _run(program, block, most, None)
            wait()
            again = _rate(_run(program, block, most // 2, None)[1])
        wait()
        best = _rate(_run(program, block, most // 2, _fixed(best_rows))[1])  # beside it: the machine drifts
        wait()
        same = _rate(_run(program, block, most // 2, _fixed(found.rows))[1])
        half = history[len(history) // 2 :]
        reaches.append(_reach(history, best))
        steady.append(_rate(half) / best)
        control.append(again / same)
        slow += sum(batch.duration_s > _TARGET_S for batch in half)
        batches += len(half)
    reached = [reach for reach in reaches if reach is not None]
    return Comparison(
        program=program.name,
        rates=rates,
        latencies_s=latencies_s,
        late=late,
        found=found,
        reach=round(statistics.median(reached)) if 2 * len(reached) > rounds else None,
        steady=statistics.median(steady),
        over_target=slow / batches,
        control=statistics.median(control),
    )


def _best_rows(rates: dict[int, float], late: dict[int, float]) -> int:
    return max((rows for rows in rates if late[rows] <= _LATE_SHARE_IN_SWEEP), key=lambda rows: rates[rows])


def _fixed(rows: int) -> AdaptiveBatchingConfig:
    return AdaptiveBatchingConfig(
        initial_size=rows, min_size=1, max_size=max(rows, _BLOCK_ROWS), strategy="fixed"
    )


def _run(
    program: Program, block: pa.Table, rows: int, batching: AdaptiveBatchingConfig | None
) -> tuple[FoundSize, tuple[BatchRecord, ...]]:
    """Run a program over so many rows; return the size that was found, and what the batches took."""
    whole, rest = divmod(rows, block.num_rows)
    table = pa.concat_tables([*[block] * whole, block.slice(0, rest)]) if whole else block.slice(0, rest)
    written = program.steps(flare.from_arrow(table)).write(lambda batch: None)
    options = RunOptions.resolve({"batching": batching, "device": "cpu"}, environment={})
    run = prepare_run(written._physical(written._planned_sink(), options), options)
    load_runtime(options.runtime).run(run, ())
    return run.batcher.found, run.batcher.metrics.history


def _rate(history: tuple[BatchRecord, ...]) -> float:
    first, *others = history
    return sum(batch.rows for batch in others) / max(1e-9, others[-1].at_s - first.at_s)


def _reach(history: tuple[BatchRecord, ...], best: float) -> int | None:
    for number in range(len(history) - _WINDOW):
        if _rate(history[number : number + _WINDOW]) >= 0.9 * best:
            return number
    return None


@contextmanager
def _nothing_remembered() -> Iterator[None]:
    """Hide the sizes that earlier runs found, here and on disk."""
    remembered_sizes().clear()
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch("dataflare.execute.found_sizes.cache_directory", return_value=Path(folder)):
            yield
    remembered_sizes().clear()
