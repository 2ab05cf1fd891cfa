"""BatchingMetrics: what the batches of one task cost, measured over a bounded window and in total.

Exact under threads and bounded in memory. Not here: any decision (``batching``), and time by stage of a run
(``dataflare.observe.report``).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from dataflare.control.checks import require_integer, require_number
from dataflare.control.clock import Clock, Duration, to_seconds

__all__ = ["BatchRecord", "BatchingMetrics", "MetricsSnapshot"]


class BatchRecord(NamedTuple):
    """One batch that was processed."""

    at_s: float
    """When it was recorded, on the clock of the metrics."""
    rows: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The figures of a `BatchingMetrics` at one moment; None where nothing is known yet."""

    throughput: float | None
    average_latency_s: float | None
    average_record_latency_s: float | None
    p50_latency_s: float | None
    p99_latency_s: float | None
    average_batch_size: float | None
    batch_size_histogram: Mapping[int, int]
    total_records: int
    total_time_s: float
    batch_count: int


class BatchingMetrics:
    """Throughput, latency and sizes of batches.

    Averages, quantiles and throughput are those of the last ``window`` batches, computed exactly when they
    are asked for; totals and the histogram cover everything since the start. Recording is O(1).

    Parameters
    ----------
    window
        How many of the latest batches the averages cover, and the length of `history`.
    clock
        Monotonic clock in seconds; stamps the history.
    """

    __slots__ = ("_clock", "_history", "_lock", "_octaves", "_total_records", "_total_time_s")

    def __init__(self, window: int = 1024, clock: Clock = time.monotonic) -> None:
        require_integer("BatchingMetrics", "window", window, 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._history: deque[BatchRecord] = deque(maxlen=window)
        self._octaves: dict[int, int] = {}
        self._total_records = 0
        self._total_time_s = 0.0

    def record_batch(self, rows: int, duration: Duration) -> None:
        """Add one batch of ``rows`` records that took ``duration`` (seconds or timedelta)."""
        duration_s = to_seconds(duration)
        if rows < 0:
            require_integer("BatchingMetrics", "rows", rows, 0)
        record = BatchRecord(self._clock(), rows, duration_s)
        octave = rows.bit_length()
        with self._lock:
            self._history.append(record)
            self._octaves[octave] = self._octaves.get(octave, 0) + 1
            self._total_records += rows
            self._total_time_s += duration_s

    @property
    def throughput(self) -> float | None:
        """Records per second of processing time over the window."""
        rows, duration_s, _ = self._window_sums()
        return rows / duration_s if duration_s > 0.0 else None

    @property
    def average_latency(self) -> float | None:
        """Seconds a batch takes, on average over the window."""
        _, duration_s, batches = self._window_sums()
        return duration_s / batches if batches else None

    @property
    def average_record_latency(self) -> float | None:
        """Seconds of processing a record, on average over the window."""
        rows, duration_s, _ = self._window_sums()
        return duration_s / rows if rows else None

    @property
    def average_batch_size(self) -> float | None:
        """Records in a batch, on average over the window."""
        rows, _, batches = self._window_sums()
        return rows / batches if batches else None

    def latency_quantile(self, q: float) -> float | None:
        """Return the exact ``q`` quantile (0 to 1, linear between neighbours) of the batch latencies."""
        require_number("BatchingMetrics", "q", q, 0.0, 1.0)
        return _quantile(sorted(record.duration_s for record in self.history), q)

    @property
    def batch_size_histogram(self) -> Mapping[int, int]:
        """Batches by size since the start: lower bound of each power-of-two class (0, 1, 2, 4, …): count."""
        with self._lock:
            octaves = sorted(self._octaves.items())
        return MappingProxyType({(1 << octave) >> 1: batches for octave, batches in octaves})

    @property
    def history(self) -> tuple[BatchRecord, ...]:
        """The last ``window`` batches, oldest first."""
        with self._lock:
            return tuple(self._history)

    @property
    def total_records(self) -> int:
        """Records since the start."""
        return self._total_records

    @property
    def total_time(self) -> float:
        """Seconds of processing since the start."""
        return self._total_time_s

    @property
    def batch_count(self) -> int:
        """Batches since the start."""
        with self._lock:
            return sum(self._octaves.values())

    def snapshot(self) -> MetricsSnapshot:
        """Return all figures at one moment, as a frozen dataclass."""
        with self._lock:
            history = tuple(self._history)
            octaves = sorted(self._octaves.items())
            total_records, total_time_s = self._total_records, self._total_time_s
        rows = sum(record.rows for record in history)
        duration_s = math.fsum(record.duration_s for record in history)
        latencies = sorted(record.duration_s for record in history)
        return MetricsSnapshot(
            throughput=rows / duration_s if duration_s > 0.0 else None,
            average_latency_s=duration_s / len(history) if history else None,
            average_record_latency_s=duration_s / rows if rows else None,
            p50_latency_s=_quantile(latencies, 0.5),
            p99_latency_s=_quantile(latencies, 0.99),
            average_batch_size=rows / len(history) if history else None,
            batch_size_histogram=MappingProxyType({(1 << octave) >> 1: count for octave, count in octaves}),
            total_records=total_records,
            total_time_s=total_time_s,
            batch_count=sum(count for _, count in octaves),
        )

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._history.clear()
            self._octaves.clear()
            self._total_records = 0
            self._total_time_s = 0.0

    def _window_sums(self) -> tuple[int, float, int]:
        history = self.history
        rows = sum(record.rows for record in history)
        return rows, math.fsum(record.duration_s for record in history), len(history)


def _quantile(ordered: list[float], q: float) -> float | None:
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
