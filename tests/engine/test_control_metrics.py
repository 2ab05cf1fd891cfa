"""BatchingMetrics against NumPy, at its bounds, and under threads."""

from __future__ import annotations

import dataclasses
import threading
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.control import BatchingMetrics
from dataflare.kernels.errors import OptionError

batches = st.lists(st.tuples(st.integers(1, 10**9), st.floats(1e-9, 1e6)), min_size=1, max_size=60)


@given(batches, st.integers(1, 40), st.floats(0.0, 1.0))
def test_figures_equal_numpy_over_the_window(trace: list[tuple[int, float]], window: int, q: float) -> None:
    metrics = BatchingMetrics(window=window, clock=lambda: 0.0)
    for rows, duration_s in trace:
        metrics.record_batch(rows, duration_s)
    kept = trace[-window:]
    rows = np.array([row for row, _ in kept], dtype=np.float64)
    durations = np.array([duration for _, duration in kept])
    assert metrics.throughput == pytest.approx(rows.sum() / durations.sum())
    assert metrics.average_latency == pytest.approx(durations.mean())
    assert metrics.average_record_latency == pytest.approx(durations.sum() / rows.sum())
    assert metrics.average_batch_size == pytest.approx(rows.mean())
    assert metrics.latency_quantile(q) == pytest.approx(np.quantile(durations, q), rel=1e-9)
    assert metrics.total_records == sum(row for row, _ in trace)
    assert metrics.total_time == pytest.approx(sum(duration for _, duration in trace))
    assert metrics.batch_count == len(trace)
    assert len(metrics.history) == len(kept)


def test_what_is_not_known_is_none() -> None:
    metrics = BatchingMetrics()
    assert metrics.throughput is None
    assert metrics.average_latency is None
    assert metrics.average_record_latency is None
    assert metrics.average_batch_size is None
    assert metrics.latency_quantile(0.5) is None
    snapshot = metrics.snapshot()
    assert snapshot.throughput is None
    assert snapshot.p99_latency_s is None
    assert snapshot.batch_count == 0


def test_the_histogram_counts_by_power_of_two() -> None:
    metrics = BatchingMetrics()
    for rows in (0, 1, 2, 3, 4, 1023, 1024):
        metrics.record_batch(rows, 0.1)
    assert dict(metrics.batch_size_histogram) == {0: 1, 1: 1, 2: 2, 4: 1, 512: 1, 1024: 1}


def test_history_is_stamped_by_the_clock_and_durations_may_be_timedeltas() -> None:
    metrics = BatchingMetrics(clock=iter([3.5, 4.5]).__next__)
    metrics.record_batch(10, timedelta(milliseconds=250))
    metrics.record_batch(20, 0.5)
    assert metrics.history == ((3.5, 10, 0.25), (4.5, 20, 0.5))


def test_a_snapshot_stays_as_it_was() -> None:
    metrics = BatchingMetrics()
    metrics.record_batch(100, 0.5)
    before = metrics.snapshot()
    metrics.record_batch(1, 100.0)
    assert before.throughput == 200.0
    assert before.batch_count == 1
    assert dict(before.batch_size_histogram) == {64: 1}


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), timedelta(seconds=-1), "1s", True])
def test_a_duration_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(OptionError, match="duration"):
        BatchingMetrics().record_batch(1, bad)  # type: ignore[arg-type]


def test_negative_rows_and_bad_quantiles_are_refused() -> None:
    with pytest.raises(OptionError, match=r"rows must be >= 0"):
        BatchingMetrics().record_batch(-1, 0.1)
    with pytest.raises(OptionError, match=r"q must be >= 0 and <= 1"):
        BatchingMetrics().latency_quantile(1.01)


def test_totals_are_exact_under_threads() -> None:
    metrics = BatchingMetrics(window=10)
    begin = threading.Barrier(4)

    def record() -> None:
        begin.wait()
        for _ in range(500):
            metrics.record_batch(3, 0.25)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.total_records == 6000
    assert metrics.total_time == 500.0
    assert metrics.batch_count == 2000
    assert dict(metrics.batch_size_histogram) == {2: 2000}


def test_a_snapshot_is_of_one_moment_under_threads_and_cannot_be_changed() -> None:
    metrics = BatchingMetrics(window=50)
    stop = threading.Event()

    def record(rows: int) -> None:
        while not stop.is_set():
            metrics.record_batch(rows, rows * 0.001)

    threads = [threading.Thread(target=record, args=(rows,)) for rows in (10, 20, 40)]
    for thread in threads:
        thread.start()
    snapshots = [metrics.snapshot() for _ in range(300)]
    stop.set()
    for thread in threads:
        thread.join()
    for snapshot in snapshots:
        assert sum(snapshot.batch_size_histogram.values()) == snapshot.batch_count
        if snapshot.batch_count:
            assert snapshot.total_time_s == pytest.approx(0.001 * snapshot.total_records)
            assert snapshot.throughput == pytest.approx(1000.0)
            assert snapshot.average_record_latency_s == pytest.approx(0.001)
            assert snapshot.p50_latency_s is not None
            assert snapshot.p99_latency_s is not None
            assert 0.01 <= snapshot.p50_latency_s <= snapshot.p99_latency_s <= 0.04
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshots[-1].batch_count = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        snapshots[-1].batch_size_histogram[1] = 0  # type: ignore[index]


@pytest.mark.parametrize("window", [1, 7, 1024])
def test_a_recorded_trace_has_numpys_quantiles(window: int) -> None:
    """Batches as runs have them: sizes that double, times with outliers, some batches empty."""
    draw = np.random.default_rng(7)
    rows = np.concatenate([1 << np.arange(10, 20), np.full(1500, 1 << 19), [0, 0, 17]])
    durations = (
        (25e-6 + 3e-9 * rows) * draw.lognormal(0.0, 0.1, rows.size) * draw.choice([1, 1, 1, 30], rows.size)
    )
    metrics = BatchingMetrics(window=window, clock=lambda: 0.0)
    for count, duration_s in zip(rows.tolist(), durations.tolist(), strict=True):
        metrics.record_batch(count, duration_s)
    kept = durations[-window:]
    for q in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0):
        assert metrics.latency_quantile(q) == pytest.approx(np.quantile(kept, q), rel=1e-12)
    snapshot = metrics.snapshot()
    assert snapshot.p99_latency_s == pytest.approx(np.quantile(kept, 0.99), rel=1e-12)
    assert snapshot.average_latency_s == pytest.approx(kept.mean())
    assert snapshot.total_records == rows.sum()
    classes, counts = np.unique(
        np.where(rows > 0, 1 << np.log2(np.maximum(rows, 1)).astype(int), 0), return_counts=True
    )
    assert dict(snapshot.batch_size_histogram) == dict(zip(classes.tolist(), counts.tolist(), strict=True))
