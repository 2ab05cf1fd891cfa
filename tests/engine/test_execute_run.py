"""run_plan and iter_plan through the public pipeline: reports, streaming, compiled programs in one output."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import dataflare as flare
from dataflare.actors.local_runtime import LocalRuntime
from dataflare.batch import SharedDataBatch
from dataflare.control import AdaptiveBatchingConfig, MemoryReading
from dataflare.execute.memory_use import resident_bytes
from dataflare.execute.run import run_plan
from dataflare.execute.runtime import load_runtime
from dataflare.execute.stream import iter_plan
from dataflare.kernels.errors import MemoryLimitError, OptionError, RunError
from dataflare.observe.progress import ProgressEvent
from dataflare.optimize.plan import optimize
from dataflare.options import RunOptions
from dataflare.pipeline import Pipeline
from dataflare.sinks.memory import CollectSink

ROWS = 300_001
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(5)
    return pa.table({"a": np.arange(ROWS), "b": random.random(ROWS)})


def run(pipeline: Pipeline, **options: object) -> tuple[CollectSink, flare.RunReport]:
    sink = CollectSink()
    resolved = RunOptions.resolve({"workers": 2, **options})
    report = run_plan(optimize(pipeline._node, sink, ordered=resolved.ordered), resolved)
    return sink, report


def test_a_map_over_memory_is_written_into_one_block(table: pa.Table) -> None:
    sink, report = run(flare.from_arrow(table).map(lambda r: {"c": r.a * r.b}))
    (batch,) = sink.batches
    expected = table["a"].to_numpy() * table["b"].to_numpy()
    assert np.array_equal(batch.to_arrow()["c"].to_numpy(), expected)
    assert (report.rows_in, report.rows_out) == (ROWS, ROWS)
    assert report.batches > 1
    assert report.bytes_in == ROWS * 16
    assert report.bytes_out >= ROWS * 8


def test_a_filter_over_memory_is_written_into_one_block_in_order(table: pa.Table) -> None:
    sink, report = run(
        flare.from_arrow(table).filter(lambda r: r.b > 0.3).map(lambda r: {"a": r.a, "c": r.b * 2})
    )
    (batch,) = sink.batches
    kept = table.filter(pc.greater(table["b"], 0.3))
    assert batch.to_arrow()["a"].to_pylist() == kept["a"].to_pylist()
    assert np.array_equal(batch.to_arrow()["c"].to_numpy(), kept["b"].to_numpy() * 2)
    assert (report.rows_in, report.rows_out) == (ROWS, kept.num_rows)
    assert [stage.rows_out for stage in report.stages] == [ROWS, kept.num_rows, kept.num_rows]


def test_a_filter_whose_worst_case_exceeds_the_limit_runs_by_batches(table: pa.Table) -> None:
    pipeline = flare.from_arrow(table).filter(lambda r: r.a % 1000 == 0).map(lambda r: {"a": r.a, "b": r.b})
    sink, report = run(pipeline, memory_limit=2_000_000)  # every record kept would take 4.8 MB
    assert [a for batch in sink.batches for a in batch.to_arrow()["a"].to_pylist()] == [*range(0, ROWS, 1000)]
    assert report.peak_host_bytes is not None
    assert report.peak_host_bytes <= 2_000_000


@pytest.mark.parametrize(
    "chunks", [[ROWS], [64 * 1000, ROWS - 64 * 1000], [100, ROWS - 100], [1] * 3 + [ROWS - 3]]
)
def test_chunks_of_any_size_give_the_same(table: pa.Table, chunks: list[int]) -> None:
    starts = np.cumsum([0, *chunks[:-1]])
    parts = [table.slice(start, rows) for start, rows in zip(starts, chunks, strict=True)]
    sink, _ = run(flare.from_arrow(pa.concat_tables(parts)).map(lambda r: {"c": r.a * 2}))
    assert np.array_equal(sink.batch().to_arrow()["c"].to_numpy(), table["a"].to_numpy() * 2)


def test_nulls_survive_the_one_block(table: pa.Table) -> None:
    values = pa.array([None if value % 3 == 0 else value for value in range(ROWS)], pa.int64())
    sink, _ = run(flare.from_arrow(pa.table({"a": values})).map(lambda r: {"c": r.a + 1}))
    (batch,) = sink.batches
    assert batch.to_arrow()["c"].null_count == values.null_count
    assert batch.to_arrow()["c"].equals(pa.compute.add(values, 1))


def test_a_filter_keeps_the_order_and_counts_null_conditions(table: pa.Table) -> None:
    values = pa.array([None if value % 5 == 0 else value for value in range(ROWS)], pa.int64())
    sink, report = run(flare.from_arrow(pa.table({"a": values})).filter(lambda r: r.a % 2 == 0))
    expected = [value for value in range(0, ROWS, 2) if value % 5]
    assert sink.table()["a"].to_pylist() == expected
    assert report.rows_dropped_null_predicate == values.null_count
    assert report.rows_out == len(expected)


def test_the_device_python_gives_the_same(table: pa.Table) -> None:
    pipeline = (
        flare.from_arrow(table.slice(0, 2000)).filter(lambda r: r.b > 0.5).map(lambda r: {"c": r.a * r.b})
    )
    python, _ = run(pipeline, device="python")
    cpu, report = run(pipeline)
    assert python.table().equals(cpu.table())
    assert report.device == "cpu"


def test_the_report_tells_stages_and_prints(table: pa.Table) -> None:
    def halve(r):  # type: ignore[no-untyped-def]
        return {"c": r.b / 2}

    _, report = run(flare.from_arrow(table).map(halve))
    assert [stage.kind for stage in report.stages] == ["source", "processor", "destination"]
    source, compute, sink = report.stages
    assert source.name.startswith("pyarrow Table in memory")
    assert compute.name.startswith("compute 1: halve (test_execute_run.py:")
    assert sink.name == "collect"
    assert source.rows_out == compute.rows_in == compute.rows_out == sink.rows_out == ROWS
    assert compute.kernel_s > 0.0
    assert compute.tasks == 2
    assert report.wall_s >= report.compile_s > 0.0
    assert report.unaccounted_bytes is not None
    assert report.peak_host_bytes >= ROWS * 8
    assert 0 < len(report.batch_size_curve) <= 256
    text = str(report)
    assert "300,001 rows in, 300,001 rows out" in text
    assert "compute 1: halve" in text


def test_the_report_prints_as_a_table_that_fits(table: pa.Table) -> None:
    from rich.console import Console

    _, report = run(flare.from_arrow(table).map(lambda r: {"c": r.b / 2}))
    console = Console(width=90, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(report)
    lines = capture.get().splitlines()
    assert max(len(line) for line in lines) <= 90
    assert sum("300,001" in line for line in lines) >= 4
    assert any("wait" in line for line in lines)


def test_iterating_gives_every_batch_in_order(table: pa.Table) -> None:
    batches = list(flare.from_arrow(table).filter(lambda r: r.a % 2 == 0).iter_batches(workers=2))
    assert all(isinstance(batch, SharedDataBatch) for batch in batches)
    assert [value for batch in batches for value in batch.to_arrow()["a"].to_pylist()] == list(
        range(0, ROWS, 2)
    )


class EndlessSource:
    """Batches without end; tells how many were taken."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken = 0
        self.closed = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        batch = pa.record_batch({"a": list(range(100))})
        try:
            yield batch
            while True:
                with self.changed:
                    self.taken += 1
                    self.changed.notify_all()
                yield batch
        finally:
            with self.changed:
                self.closed = True
                self.changed.notify_all()


def test_a_slow_consumer_slows_the_source_and_closing_stops_it() -> None:
    source = EndlessSource()
    schema = pa.schema({"a": pa.int64()})
    batches = (
        flare.from_batches(source, schema).map_batches(lambda batch: batch, schema).iter_batches(workers=2)
    )
    next(batches)
    threads = LocalRuntime.shared().threads
    with source.changed:
        assert source.changed.wait_for(lambda: source.taken >= 3, PATIENCE_S)
    for _ in range(20):
        next(batches)
    assert source.taken <= 21 + 20
    batches.close()  # type: ignore[attr-defined]
    with source.changed:
        assert source.changed.wait_for(lambda: source.closed, PATIENCE_S)
    assert threads.wait_until_busy_at_most(1, PATIENCE_S)


def test_an_iterator_that_nobody_starts_starts_nothing() -> None:
    source = EndlessSource()
    threads = LocalRuntime.shared().threads
    assert threads.wait_until_busy_at_most(1, PATIENCE_S)
    batches = flare.from_batches(source, pa.schema({"a": pa.int64()})).iter_batches()
    assert threads.busy <= 1
    assert source.taken == 0
    batches.close()  # type: ignore[attr-defined]


def test_a_failure_reaches_the_consumer_after_the_batches_before_it() -> None:
    def fail(batch: SharedDataBatch) -> SharedDataBatch:
        if batch.to_arrow()["a"][0].as_py() >= 300:
            raise ValueError("too far")
        return batch

    schema = pa.schema({"a": pa.int64()})
    parts = [pa.record_batch({"a": list(range(start, start + 100))}) for start in range(0, 1000, 100)]
    batches = flare.from_batches(iter(parts), schema).map_batches(fail, schema).iter_batches(workers=1)
    seen: list[int] = []

    def consume() -> None:
        for batch in batches:
            seen.extend(batch.to_arrow()["a"].to_pylist())

    with pytest.raises(RunError, match=r"ValueError: too far"):
        consume()
    assert seen == list(range(len(seen)))
    assert len(seen) <= 300


def test_leaving_the_loop_early_leaves_no_thread_busy(table: pa.Table) -> None:
    config = AdaptiveBatchingConfig(initial_size=1000, strategy="fixed")
    for batch in flare.from_arrow(table).filter(lambda r: r.a >= 0).iter_batches(batching=config):
        assert batch.num_rows == 1000
        break
    del batch
    assert LocalRuntime.shared().threads.wait_until_busy_at_most(1, PATIENCE_S)


def test_progress_is_called_with_events(table: pa.Table) -> None:
    events: list[ProgressEvent] = []
    run(flare.from_arrow(table).map(lambda r: {"c": r.a}), progress=events.append)
    assert events[-1].status == "completed"
    assert events[-1].rows_read == ROWS
    assert events[-1].fraction == 1.0


def test_progress_true_shows_a_bar(table: pa.Table, capsys: pytest.CaptureFixture[str]) -> None:
    run(flare.from_arrow(table).map(lambda r: {"c": r.a}), progress=True)
    assert capsys.readouterr().out == ""


def test_a_result_beyond_the_limit_is_refused_with_the_way_out(table: pa.Table) -> None:
    with pytest.raises(MemoryLimitError, match=r"Write to files, use iter_batches, or raise memory_limit"):
        run(flare.from_arrow(table).map(lambda r: {"c": r.a * 2}), memory_limit="1MB")


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(OptionError, match=r"there is no runtime 'locl'\. Did you mean 'local'"):
        load_runtime("locl")


def test_iter_plan_uses_its_own_sink(table: pa.Table) -> None:
    sink = CollectSink()
    plan = optimize(flare.from_arrow(table)._node, sink)
    rows = sum(batch.num_rows for batch in iter_plan(plan, RunOptions()))
    assert rows == ROWS
    assert sink.batches == ()


def test_resident_memory_is_known_here() -> None:
    assert (resident_bytes() or 0) > 1 << 20 or not Path("/proc/self/statm").exists()


def test_a_forked_child_gets_a_runtime_of_its_own() -> None:
    before = LocalRuntime.shared()
    LocalRuntime._shared_pid -= 1  # as it looks in a child
    try:
        assert LocalRuntime.shared() is not before
    finally:
        other, LocalRuntime._shared = LocalRuntime._shared, before
        assert other is not None
        other.close()


class LostGpu:
    """The monitor of a device that is gone."""

    device = "cuda:0"

    def read(self) -> MemoryReading:
        return MemoryReading(None, None, None, None, stale=True, error="off the bus", lost=True)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_run_whose_device_is_lost_ends_with_its_name_and_the_reason(
    table: pa.Table, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr("dataflare.execute.prepare.run_monitors", lambda device, clock: (LostGpu(),))
    monkeypatch.setattr("dataflare.actors.source_task.SourceTask.MONITOR_INTERVAL_S", 0.0)
    batches = (SharedDataBatch.from_arrow(batch) for batch in table.to_batches())
    source = flare.from_arrow(table) if in_memory else flare.from_batches(batches, schema=table.schema)
    with pytest.raises(RunError, match="cuda:0 was lost while running: off the bus") as caught:
        run(source.map(lambda r: {"c": r.a}))
    assert "device='cpu'" in str(caught.value)
