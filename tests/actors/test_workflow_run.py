"""Whole runs through the actors: results, order, limits, failures, and what is left behind."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dataflare.actors.local_runtime import LocalRuntime
from dataflare.batch import SharedDataBatch
from dataflare.control import AdaptiveBatchingConfig, CreditConfig, CreditMode
from dataflare.execute.outcome import WorkflowState
from dataflare.kernels.errors import (
    MemoryLimitError,
    OutputExistsError,
    ReadError,
    RunError,
    SchemaError,
    SinkError,
)

FIXED_100 = AdaptiveBatchingConfig(initial_size=100, strategy="fixed")


def unchanged(batch: SharedDataBatch) -> SharedDataBatch:
    return batch


def numbers(batch: SharedDataBatch) -> np.ndarray[Any, Any]:
    return batch.to_arrow().column(0).to_numpy()


@pytest.mark.parametrize("where", ["in_memory", "is_local", "remote"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("sizes", [[1000], [250, 1, 700, 49], [], [64] * 20])
@pytest.mark.parametrize("steps", [(), (unchanged,), (unchanged, unchanged)])
def test_every_record_arrives_once_and_in_order(
    kit: SimpleNamespace,
    runtime: LocalRuntime,
    where: str,
    workers: int,
    sizes: list[int],
    steps: tuple[Any, ...],
) -> None:
    source = kit.FakeSource(sizes, in_memory=where == "in_memory", is_local=where == "is_local")
    sink = kit.FakeSink(files=("out",))
    run = kit.make_run(kit.make_plan(source, sink, *steps), workers=workers)
    outcome = runtime.deploy(run).wait()
    assert sink.numbers == list(range(sum(sizes)))
    assert sink.calls == ["open", "commit"]
    assert outcome.status == (WorkflowState.COMPLETED, None)
    assert outcome.files == ("out",)
    assert outcome.rows_in == outcome.rows_out == sum(sizes)
    assert source.open_partitions == 0
    assert run.memory.budget.reserved_bytes == 0


def test_a_slow_first_batch_does_not_change_the_order(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    gate = kit.Gate()
    others = kit.Gate(open=True)

    def hold_the_first(batch: SharedDataBatch) -> SharedDataBatch:
        if numbers(batch)[0] == 0:
            gate.pass_through()
        else:
            others.pass_through()
            gate.open()
        return batch

    sink = kit.FakeSink()
    run = kit.make_run(kit.make_plan(kit.FakeSource([1000]), sink, hold_the_first), batching=FIXED_100)
    runtime.deploy(run).wait()
    assert sink.numbers == list(range(1000))


def test_unordered_output_does_not_wait_for_a_slow_batch(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    gate = kit.Gate()

    def hold_the_first(batch: SharedDataBatch) -> SharedDataBatch:
        if numbers(batch)[0] == 0:
            gate.pass_through()
        return batch

    def written(batch: SharedDataBatch) -> None:
        gate.open()  # any other batch was written while the first was held

    sink = kit.FakeSink(written)
    plan = kit.make_plan(kit.FakeSource([1000]), sink, hold_the_first, ordered=False)
    runtime.deploy(kit.make_run(plan, batching=FIXED_100)).wait()
    assert sink.numbers != list(range(1000))
    assert sorted(sink.numbers) == list(range(1000))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("rows", [1, 150, 200, 1000, 5000, 0])
def test_a_limit_at_the_source_reads_no_more_than_it_lets_pass(
    kit: SimpleNamespace, runtime: LocalRuntime, in_memory: bool, rows: int
) -> None:
    source, sink = kit.FakeSource([300, 700], in_memory=in_memory), kit.FakeSink()
    run = kit.make_run(kit.make_plan(source, sink, rows, unchanged), batching=FIXED_100)
    outcome = runtime.deploy(run).wait()
    assert sink.numbers == list(range(min(rows, 1000)))
    assert outcome.rows_in == min(rows, 1000)
    if not in_memory:
        assert source.rows_read <= rows
    assert source.open_partitions == 0


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_limit_behind_other_steps_stops_the_source(
    kit: SimpleNamespace, runtime: LocalRuntime, in_memory: bool
) -> None:
    source, sink = kit.FakeSource([100_000], in_memory=in_memory), kit.FakeSink()

    def odd(batch: SharedDataBatch) -> dict[str, Any]:
        return {"n": numbers(batch)[1::2]}

    run = kit.make_run(kit.make_plan(source, sink, odd, 70, unchanged), batching=FIXED_100)
    outcome = runtime.deploy(run).wait()
    assert sink.numbers == list(range(1, 141, 2))
    assert outcome.rows_in < 10_000
    assert sink.calls == ["open", "commit"]
    assert source.open_partitions == 0


def test_steps_behind_a_limit_see_only_what_passed(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    seen: list[int] = []

    def look(batch: SharedDataBatch) -> SharedDataBatch:
        seen.extend(numbers(batch).tolist())
        return batch

    sink = kit.FakeSink()
    plan = kit.make_plan(kit.FakeSource([1000]), sink, unchanged, 250, look)
    runtime.deploy(kit.make_run(plan, batching=FIXED_100)).wait()
    assert seen == sink.numbers == list(range(250))


def test_a_stalled_sink_stops_the_source_after_a_few_batches(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    gate = kit.Gate()
    source = kit.FakeSource([10_000, 10_000])
    sink = kit.FakeSink(lambda batch: gate.pass_through())
    run = kit.make_run(kit.make_plan(source, sink, unchanged), batching=FIXED_100)
    handle = runtime.deploy(run)
    gate.wait_for_visitors()
    window = run.window * run.source_tasks
    with source.lock:
        assert source.lock.wait_for(lambda: source.batches_read >= window, kit.PATIENCE_S)
    assert source.batches_read == window
    assert run.memory.budget.reserved_bytes <= window * 100 * 40
    gate.open()
    handle.wait()
    assert source.batches_read == 200
    assert sink.numbers == list(range(20_000))
    assert run.memory.budget.peak_bytes <= window * 100 * 40


def test_local_files_are_read_where_they_are_computed(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    source = kit.FakeSource([500] * 8, is_local=True)
    outcome = runtime.deploy(kit.make_run(kit.make_plan(source, kit.FakeSink(), unchanged))).wait()
    assert [stage.tasks for stage in outcome.stages] == [2, 2, 1]
    few = kit.make_run(kit.make_plan(kit.FakeSource([500] * 3, is_local=True), kit.FakeSink(), unchanged))
    assert few.processor_tasks == 2
    assert not few.fused


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_failing_function_is_named_with_its_place_and_cause(
    kit: SimpleNamespace, runtime: LocalRuntime, in_memory: bool
) -> None:
    def divide(batch: SharedDataBatch) -> SharedDataBatch:
        if numbers(batch)[-1] >= 450:
            raise ZeroDivisionError("no zero, please")
        return batch

    source, sink = kit.FakeSource([300, 100_000], in_memory=in_memory), kit.FakeSink()
    run = kit.make_run(kit.make_plan(source, sink, divide), batching=FIXED_100, workers=1)
    with pytest.raises(RunError, match=r"map_batches 1: .*divide failed at batch \d+") as caught:
        runtime.deploy(run).wait()
    if not in_memory:
        assert "of part-1" in str(caught.value)
    assert "ZeroDivisionError: no zero, please" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert sink.calls == ["open", "abort"]
    assert source.open_partitions == 0
    assert run.memory.budget.reserved_bytes == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_exception_that_is_no_exception_fails_its_run_only(
    kit: SimpleNamespace, runtime: LocalRuntime, error: BaseException
) -> None:
    def raise_it(batch: SharedDataBatch) -> SharedDataBatch:
        raise error

    cluster = runtime.cluster
    with pytest.raises(RunError) as caught:
        runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(), raise_it))).wait()
    assert caught.value.__cause__ is error
    assert cluster.alive
    sink = kit.FakeSink()
    runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), sink))).wait()
    assert len(sink.numbers) == 1000


def test_a_source_that_fails_in_the_middle_is_named(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def fail(row: int) -> None:
        if row >= 500:
            raise OSError("the disk went away")

    source, sink = kit.FakeSource([200, 800], before_batch=fail), kit.FakeSink()
    with pytest.raises(
        RunError, match=r"fake source failed at batch 3 of part-1: OSError: the disk"
    ) as caught:
        runtime.deploy(kit.make_run(kit.make_plan(source, sink, unchanged))).wait()
    assert isinstance(caught.value.__cause__, OSError)
    assert sink.calls == ["open", "abort"]
    assert source.open_partitions == 0


def test_errors_that_are_clear_by_themselves_pass_unchanged(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    clear = ReadError("a.parquet: row group 3 is cut off")

    def fail(row: int) -> None:
        raise clear

    with pytest.raises(ReadError) as caught:
        runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(before_batch=fail), kit.FakeSink()))).wait()
    assert caught.value is clear


@pytest.mark.parametrize("phase", ["open", "write", "commit"])
def test_a_sink_that_fails_is_aborted(kit: SimpleNamespace, runtime: LocalRuntime, phase: str) -> None:
    def disk_full(batch: SharedDataBatch) -> None:
        if phase == "write":
            raise SinkError("no space left on device")

    error: SinkError = (
        OutputExistsError("out.parquet is there") if phase == "open" else SinkError("rename failed")
    )
    source = kit.FakeSource([100_000])
    sink = kit.FakeSink(
        disk_full,
        fail_open=error if phase == "open" else None,
        fail_commit=error if phase == "commit" else None,
    )
    with pytest.raises(SinkError):
        runtime.deploy(kit.make_run(kit.make_plan(source, sink, unchanged))).wait()
    assert sink.calls[-1] == "abort"
    assert source.open_partitions == 0
    if phase == "open":
        assert source.batches_read == 0


def test_an_unexpected_error_of_the_sink_names_it(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def fail(batch: SharedDataBatch) -> None:
        raise ValueError("strange")

    with pytest.raises(RunError, match=r"fake sink failed at batch 0 of part-0: ValueError: strange"):
        runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(fail)))).wait()


def test_a_class_is_built_once_a_worker(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    built: list[str] = []

    class Model:
        def __init__(self) -> None:
            built.append(threading.current_thread().name)

        def __call__(self, batch: SharedDataBatch) -> SharedDataBatch:
            return batch

    sink = kit.FakeSink()
    run = kit.make_run(kit.make_plan(kit.FakeSource([5000]), sink, Model), workers=3)
    runtime.deploy(run).wait()
    assert sorted(built) == ["worker-0", "worker-1", "worker-2"]
    assert sink.numbers == list(range(5000))


def test_a_class_that_cannot_be_built_is_named(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    class Model:
        def __init__(self) -> None:
            raise FileNotFoundError("weights.bin")

    with pytest.raises(RunError, match=r"map_batches 1: .*Model could not be built: FileNotFound.*weights"):
        runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(), Model))).wait()


@pytest.mark.parametrize(
    "convert",
    [
        lambda batch: batch.to_arrow(),
        lambda batch: pa.Table.from_batches([batch.to_arrow()]),
        lambda batch: {"n": batch.to_arrow()["n"].to_numpy()},
        lambda batch: {"n": batch.to_arrow()["n"].to_pylist()},
        lambda batch: {"n": batch.to_arrow()["n"]},
        lambda batch: pl.DataFrame(batch),
        lambda batch: pd.DataFrame({"n": batch.to_arrow()["n"].to_numpy()}),
    ],
    ids=["record batch", "table", "numpy", "lists", "arrow array", "polars", "pandas"],
)
def test_functions_may_return_anything_that_can_become_a_batch(
    kit: SimpleNamespace, runtime: LocalRuntime, convert: Any
) -> None:
    sink = kit.FakeSink()
    plan = kit.make_plan(kit.FakeSource([500]), sink, convert, schema=None)
    runtime.deploy(kit.make_run(plan)).wait()
    assert sink.numbers == list(range(500))
    assert sink.schema is not None
    assert sink.schema.field("n").type == pa.int64()


def test_a_result_that_is_no_batch_is_refused(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    plan = kit.make_plan(kit.FakeSource(), kit.FakeSink(), lambda batch: 5, schema=None)
    with pytest.raises(SchemaError, match=r"must return a SharedDataBatch.*not int"):
        runtime.deploy(kit.make_run(plan)).wait()


def test_a_result_of_another_schema_is_refused(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def rename(batch: SharedDataBatch) -> dict[str, Any]:
        return {"m": numbers(batch)}

    with pytest.raises(SchemaError, match=r"differs from the schema given for it: missing n; unexpected m"):
        runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource(), kit.FakeSink(), rename))).wait()


def test_without_a_schema_the_first_batch_decides(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def change(batch: SharedDataBatch) -> dict[str, Any]:
        values = numbers(batch)
        return {"n": values.astype(np.float64) if values[0] >= 500 else values}

    plan = kit.make_plan(kit.FakeSource(), kit.FakeSink(), change, schema=None)
    with pytest.raises(
        SchemaError, match=r"the first batch it returned: n is (double, not int64|int64, not double)"
    ):
        runtime.deploy(kit.make_run(plan, workers=1, batching=FIXED_100)).wait()


def test_a_run_without_a_batch_and_without_a_schema_commits_an_empty_output(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    sink = kit.FakeSink()
    runtime.deploy(kit.make_run(kit.make_plan(kit.FakeSource([]), sink, unchanged, schema=None))).wait()
    assert sink.calls == ["open", "commit"]
    assert sink.schema == pa.schema([])


def test_a_limit_that_cannot_hold_one_batch_is_refused_before_the_start(kit: SimpleNamespace) -> None:
    source, sink = kit.FakeSource([1000]), kit.FakeSink()
    with pytest.raises(MemoryLimitError) as caught:
        kit.make_run(kit.make_plan(source, sink, unchanged), memory_limit=1000)
    text = str(caught.value)
    assert "1000 B cannot hold one smallest batch (100 rows)" in text
    assert "fake source: 1 × 800 B" in text
    assert "fake sink: 1 × 8" in text
    assert sink.calls == []
    assert source.batches_read == 0


@pytest.mark.parametrize("limit_bytes", [4_000, 10_000, 100_000])
def test_under_a_limit_reservations_stay_below_it_and_the_run_ends(
    kit: SimpleNamespace, runtime: LocalRuntime, limit_bytes: int
) -> None:
    sink = kit.FakeSink()
    plan = kit.make_plan(kit.FakeSource([20_000, 20_000], block_rows=10_000), sink, unchanged)
    run = kit.make_run(plan, memory_limit=limit_bytes)
    runtime.deploy(run).wait()
    assert sink.numbers == list(range(40_000))
    assert run.memory.budget.peak_bytes <= limit_bytes
    assert run.memory.budget.snapshot().overdraft_bytes == 0


def test_a_result_that_is_kept_must_fit_the_limit(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    sink = kit.FakeSink(keeps_batches=True)
    run = kit.make_run(kit.make_plan(kit.FakeSource([20_000]), sink, unchanged), memory_limit=50_000)
    with pytest.raises(MemoryLimitError, match="The result does not fit: fake sink keeps all batches"):
        runtime.deploy(run).wait()
    assert sink.calls == ["open", "abort"]


def test_a_rate_limit_slows_the_source_by_time_alone(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    credits_ = CreditConfig(
        mode=CreditMode.FIXED,
        initial_credits=100,
        min_credits=1,
        max_credits=100,
        refill_rate=1e6,
        refill_interval=0.0,
    )
    sink = kit.FakeSink()
    run = kit.make_run(kit.make_plan(kit.FakeSource([3000]), sink, unchanged), backpressure=credits_)
    runtime.deploy(run).wait()
    assert sink.numbers == list(range(3000))
    assert max(sink.batch_rows) <= 100


def test_the_user_s_batch_size_is_followed(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    sink = kit.FakeSink()
    config = AdaptiveBatchingConfig(initial_size=128, strategy="fixed")
    run = kit.make_run(
        kit.make_plan(kit.FakeSource([1000], block_rows=1000), sink, unchanged), batching=config
    )
    runtime.deploy(run).wait()
    assert sink.batch_rows == [128] * 7 + [104]


def test_the_next_run_starts_with_the_size_that_this_one_found(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    def run_once(found: int | None) -> int:
        source = kit.FakeSource([60_000], block_rows=1 << 40)
        run = kit.make_run(kit.make_plan(source, kit.FakeSink(), remembered_work))
        if found is not None:
            assert run.batcher.batch_size == found
        for _ in range(8):
            run.batcher.record_batch(run.batcher.batch_size, 0.004)
        runtime.deploy(run).wait()
        return run.batcher.found.rows

    run_once(run_once(None))


def test_a_batch_during_which_something_was_compiled_says_nothing_about_its_size(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kit.make_run(kit.make_plan(kit.FakeSource([10_000]), kit.FakeSink(), work_with_a_kernel), workers=1)
    compiled_s = 0.0
    monkeypatch.setattr(type(run), "late_compile_s", property(lambda run: compiled_s))
    task = run.source_task_names[0]
    rows = run.batcher.batch_size

    def settled(compiling: bool) -> int:
        nonlocal compiled_s
        admission = run.admit(task, alone=True)
        compiled_s += compiling
        run.settle(admission, rows, 0.01)
        return sum(cost.batches for cost in run.batcher.found.measured)

    assert settled(compiling=False) == 0  # the first of its task
    assert settled(compiling=True) == 0
    assert settled(compiling=False) == 1
    assert run.batcher.metrics.batch_count == 3


def work_with_a_kernel(batch: SharedDataBatch) -> SharedDataBatch:
    return batch


def remembered_work(batch: SharedDataBatch) -> SharedDataBatch:
    return batch


def test_nothing_of_a_run_stays_behind(kit: SimpleNamespace) -> None:
    import pykka

    local = LocalRuntime()
    source = kit.FakeSource([5000, 5000])
    local.deploy(kit.make_run(kit.make_plan(source, kit.FakeSink(), unchanged))).wait()
    assert pykka.ActorRegistry.get_all() == []
    assert local.threads.wait_until_busy_at_most(1, kit.PATIENCE_S)  # the cluster's
    workers = list(local.threads._parked)
    assert workers
    assert local.close(kit.PATIENCE_S)
    assert not any(worker.is_alive() for worker in workers)
    assert local.threads.busy == local.threads.parked == 0


def test_threads_are_used_again(kit: SimpleNamespace, runtime: LocalRuntime) -> None:
    def threads_of_a_run() -> set[int]:
        seen: set[int] = set()

        def look(batch: SharedDataBatch) -> SharedDataBatch:
            seen.add(threading.get_ident())
            return batch

        run = kit.make_run(kit.make_plan(kit.FakeSource([100]), kit.FakeSink(), look), workers=1)
        runtime.deploy(run).wait()
        assert runtime.threads.wait_until_busy_at_most(1, kit.PATIENCE_S)  # the cluster's
        return seen

    started = [threads_of_a_run() for _ in range(3)]
    assert set().union(*started) <= {thread.ident for thread in threading.enumerate()}
    assert runtime.threads.parked <= 5


@pytest.mark.parametrize("quick", [False, True])
def test_a_quick_sink_has_no_thread_of_its_own(
    kit: SimpleNamespace, runtime: LocalRuntime, quick: bool
) -> None:
    names: set[str] = set()
    sink = kit.FakeSink(lambda batch: names.add(threading.current_thread().name))
    sink.is_quick = quick
    source = kit.FakeSource([500] * 8, is_local=True, block_rows=10)
    runtime.deploy(kit.make_run(kit.make_plan(source, sink, unchanged))).wait()
    assert sink.numbers == [*range(4000)]
    assert "destination" not in names if quick else names == {"destination"}


def test_a_quick_sink_that_fails_fails_the_run_and_not_its_sender(
    kit: SimpleNamespace, runtime: LocalRuntime
) -> None:
    def fail(batch: SharedDataBatch) -> None:
        raise ValueError("no room")

    sink = kit.FakeSink(fail)
    sink.is_quick = True
    source = kit.FakeSource([500] * 8, is_local=True)
    with pytest.raises(RunError, match="fake sink failed.*no room"):
        runtime.deploy(kit.make_run(kit.make_plan(source, sink, unchanged))).wait()
    assert sink.calls == ["open", "abort"]


def test_a_task_waits_for_memory_that_others_hold_and_is_refused_only_when_nobody_does(
    kit: SimpleNamespace,
) -> None:
    plan = kit.make_plan(kit.FakeSource([5000, 5000]), kit.FakeSink(), unchanged)
    run = kit.make_run(plan, memory_limit=40_000_000)
    run.begin()
    fat = run.admit("source-0", alone=True)
    assert fat is not None and fat.reservation is not None
    fat.reservation.correct(50_000_000)  # its records were longer than anybody knew
    assert run.admit("source-1", alone=True) is None
    wait_s = run.seconds_until_room("source-1", alone=True)
    assert wait_s is not None and 0.0 < wait_s < 1.0
    assert (
        run.seconds_until_room("source-1", alone=False) is None
    )  # a batch of its own that is consumed tells
    fat.settle(0.0)
    own = run.admit("source-1", alone=True)
    assert own is not None and own.reservation is not None
    own.settle(0.0)
    standing = run.memory.budget.reserve("somebody for ever", run.memory.budget.available_bytes or 0)
    assert standing is not None
    standing.correct(50_000_000)
    assert run.admit("source-1", alone=True) is None
    assert run.seconds_until_room("source-1", alone=True) is None  # nobody is on the way: it is refused
    standing.release()
    run.end()
    assert run.memory.budget.reserved_bytes == 0
