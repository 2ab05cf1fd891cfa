"""Curves: recorded in a bounded number of points without losing a batch or a peak, and handed out as a table."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflare as flare
from dataflare.control.monitors import MemoryReading
from dataflare.observe.curves import CurveRecorder, RunCurves


class Watched:
    """A monitor that says what it is told to."""

    def __init__(self, device: str = "host") -> None:
        self.device = device
        self.last = MemoryReading(None, None, None, None)

    def tell(self, used_bytes: int) -> None:
        self.last = MemoryReading(used_bytes, 100, "test", 0.0)


def note(recorder: CurveRecorder, at_s: float, rows: int = 10, latency_s: float = 0.5, **kept: int) -> None:
    recorder.note_batch(
        at_s,
        rows,
        rows * 8.0,
        latency_s,
        in_flight_rows=kept.get("in_flight_rows", rows),
        reserved_bytes=kept.get("reserved_bytes", 0),
    )


batch = st.tuples(st.floats(1e-7, 1.0), st.integers(1, 1000), st.floats(0.0, 1.0), st.integers(0, 1 << 40))


@given(st.lists(batch, max_size=400), st.integers(2, 40))
def test_points_are_bounded_and_nothing_is_lost(
    batches: list[tuple[float, int, float, int]], capacity: int
) -> None:
    recorder = CurveRecorder([], capacity)
    now_s = 0.0
    for gap_s, rows, latency_s, reserved in batches:
        now_s += gap_s
        note(recorder, now_s, rows, latency_s, in_flight_rows=2 * rows, reserved_bytes=reserved)
    curves = recorder.curves()
    assert len(curves) <= capacity
    assert sum(curves.batches) == len(batches)
    assert all(early < late for early, late in pairwise(curves.at_s))
    if not batches:
        return
    assert curves.at_s[-1] == now_s
    assert sum(n * rows for n, rows in zip(curves.batches, curves.batch_rows, strict=True)) == pytest.approx(
        sum(rows for _, rows, *_ in batches)
    )
    assert max(curves.longest_latency_s) == max(latency_s for *_, latency_s, _ in batches)
    assert max(curves.reserved_bytes) == max(reserved for *_, reserved in batches)
    assert max(curves.in_flight_rows) == 2 * max(rows for _, rows, *_ in batches)


def test_a_short_run_keeps_a_point_for_each_batch() -> None:
    recorder = CurveRecorder()
    for number in range(256):
        note(recorder, number * 1e-5, rows=number + 1)
    curves = recorder.curves()
    assert curves.batch_rows == tuple(range(1, 257))
    assert curves.batch_bytes[:2] == (8.0, 16.0)


def test_a_long_run_keeps_points_at_even_distances() -> None:
    recorder = CurveRecorder(capacity=64)
    for number in range(10_000):
        note(recorder, 0.01 * (number + 1))
    gaps = [late - early for early, late in pairwise(recorder.curves().at_s)][:-1]
    assert len(gaps) >= 30
    assert max(gaps) < 1.1 * min(gaps)


def test_a_batch_that_comes_late_counts_in_the_latest_point() -> None:
    recorder = CurveRecorder()
    note(recorder, 1.0)
    note(recorder, 0.9, rows=30)
    curves = recorder.curves()
    assert (curves.at_s, curves.batches, curves.batch_rows) == ((1.0,), (2,), (20.0,))


def test_the_rate_rests_on_several_batches_where_they_come_in_pairs() -> None:
    recorder = CurveRecorder()
    for number in range(1, 101):  # two tasks are done a millisecond after each other, five times a second
        note(recorder, 0.2 * number)
        note(recorder, 0.2 * number + 0.001)
    rates = recorder.curves().rows_per_s
    assert rates[-1] == pytest.approx(100.0, rel=0.15)
    assert max(rates[8:]) < 120.0


def test_the_rate_of_a_stall_is_low_and_that_after_it_is_not() -> None:
    recorder = CurveRecorder()
    times_s = [0.01 * number for number in range(1, 101)]
    times_s += [11.0]  # a batch that the sink kept for ten seconds
    times_s += [11.0 + 0.01 * number for number in range(1, 101)]
    for at_s in times_s:
        note(recorder, at_s)
    rates = dict(recorder.curves().points("rows_per_s"))
    assert rates[1.0] == pytest.approx(1000.0)
    assert rates[11.0] == pytest.approx(1.0)
    assert rates[12.0] == pytest.approx(1000.0)


def test_pressure_is_unknown_until_it_is_read_and_peaks_stay() -> None:
    host, gpu = Watched(), Watched("cuda:0")
    recorder = CurveRecorder([host, gpu], capacity=4)
    note(recorder, 1.0)
    host.tell(90)
    note(recorder, 2.0)
    host.tell(20)
    for number in range(3, 40):
        note(recorder, float(number))
    pressure = recorder.curves().memory_pressure
    assert list(pressure) == ["host", "cuda:0"]
    assert pressure["host"][0] == 0.9
    assert pressure["host"][-1] == 0.2
    assert set(pressure["cuda:0"]) == {None}


def test_a_monitor_that_failed_for_a_while_is_remembered() -> None:
    watched = Watched()
    recorder = CurveRecorder([watched])
    watched.tell(50)
    note(recorder, 1.0)
    watched.last = replace(watched.last, stale=True, error="no permission")
    note(recorder, 2.0)
    watched.tell(60)
    note(recorder, 3.0)
    assert recorder.curves().memory_pressure["host"] == (0.5, 0.5, 0.6)
    assert recorder.monitor_errors == {"host": "no permission"}


def test_the_table_has_a_row_a_point_and_a_column_a_curve() -> None:
    watched = Watched()
    recorder = CurveRecorder([watched])
    note(recorder, 0.5, rows=100, latency_s=0.25, in_flight_rows=300, reserved_bytes=4096)
    watched.tell(30)
    note(recorder, 1.0, rows=200)
    table = recorder.curves().to_arrow()
    assert table.schema.field("at_s").type == pa.float64()
    assert table.to_pylist()[0] == {
        "at_s": 0.5,
        "batches": 1,
        "batch_rows": 100.0,
        "batch_bytes": 800.0,
        "rows_per_s": 200.0,
        "latency_s": 0.25,
        "longest_latency_s": 0.25,
        "in_flight_rows": 300,
        "reserved_bytes": 4096,
        "memory_pressure_host": None,
    }
    assert table["memory_pressure_host"].to_pylist() == [None, 0.3]
    assert RunCurves().to_arrow().num_rows == 0


def test_a_run_has_curves_of_all_its_batches() -> None:
    table = pa.table({"a": list(range(50_000))})
    batching = flare.AdaptiveBatchingConfig(initial_size=1000, min_size=1000, max_size=1000)
    pipeline = flare.from_arrow(table).filter(lambda r: r.a % 2 == 0)
    kept: list[object] = []
    report = pipeline.write(kept.append).run(device="cpu", batching=batching, memory_limit="50MB")
    curves = report.curves
    assert sum(curves.batches) == report.batches == 50
    assert set(curves.batch_rows) == {1000.0}
    assert curves.batch_bytes[0] == pytest.approx(8000, rel=0.02)
    assert (curves.memory_limit_bytes, curves.latency_target_s) == (50_000_000, 0.05)
    assert max(curves.in_flight_rows) >= 1000
    assert 0 < max(curves.reserved_bytes) <= report.peak_host_bytes
    assert report.batch_size_curve == curves.points("batch_rows")
    assert report.credit_curve == curves.points("in_flight_rows")
    assert pickle.loads(pickle.dumps(report)) == report


def test_sizes_that_are_fixed_have_no_target() -> None:
    batching = flare.AdaptiveBatchingConfig(strategy="fixed", initial_size=500)
    kept: list[object] = []
    pipeline = flare.from_arrow(pa.table({"a": list(range(2000))})).write(kept.append)
    assert pipeline.run(batching=batching).curves.latency_target_s is None
    flow = replace(flare.CreditConfig(), memory_threshold=0.6)
    assert pipeline.run(backpressure=flow).curves.pressure_threshold is None
    assert pipeline.run().curves.pressure_threshold == 0.7
