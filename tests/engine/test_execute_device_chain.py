"""Batches that stay on the device between steps: what is copied, what `explain` says, and what failures change."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chains import guarded
from chains.faulty import FaultyBackend
from chains.steps import load, random_chain, stages_of
from fakes import cupy_on_emulator

import dataflare as flare
from dataflare.batch import SharedDataBatch
from dataflare.execute.chain import Chain
from dataflare.execute.chain_making import ChainMaker
from dataflare.execute.run import run_plan
from dataflare.kernels.backend import compile_program
from dataflare.kernels.cuda.device import DEVICE_LOST
from dataflare.kernels.cuda.recovery import DeviceWarning
from dataflare.kernels.errors import DeviceFaultError, DeviceMemoryError, RunError
from dataflare.kernels.udf.program import build_program
from dataflare.optimize.plan import optimize
from dataflare.options import RunOptions
from dataflare.plan.physical import ComputeStep, MapBatchesStep, PhysicalStep
from dataflare.sinks.memory import CollectSink
from dataflare.testing import assert_batches_equal

BATCHES, ROWS = 6, 400
SCHEMA = pa.schema({"a": pa.int64(), "x": pa.float64()})
MAPPED = pa.schema({"a": pa.int64(), "x": pa.float64(), "y": pa.float64()})


class CopyingBackend(FaultyBackend):
    """Counts bytes on their way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.up_bytes = self.down_bytes = 0

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        self.up_bytes += nbytes
        super().upload(address, host_address, nbytes, stream)

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        self.down_bytes += nbytes
        super().download(host_address, address, nbytes, stream)


Install = Callable[..., CopyingBackend]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what makes a new backend the device "cuda:emulated", with no program compiled for it."""

    def made(*args: Any, **options: Any) -> CopyingBackend:
        backend = CopyingBackend(*args, **options)
        monkeypatch.setattr("dataflare.kernels.backend._programs", OrderedDict())
        monkeypatch.setattr("dataflare.kernels.cuda.emulated.default_emulator", lambda: backend)
        return backend

    return made


class Batches:
    """A source that is read batch by batch, as often as one likes."""

    def __iter__(self) -> Iterator[SharedDataBatch]:
        for first in range(0, BATCHES * ROWS, ROWS):
            rows = range(first, first + ROWS)
            columns = {"a": rows, "x": [i / 8 for i in rows]}
            yield SharedDataBatch.from_arrow(pa.record_batch(columns, schema=SCHEMA))


def with_sum(batch: SharedDataBatch) -> SharedDataBatch:
    return batch.with_columns(y=lambda r: r.x + r.a)


def chained(batch_format: Any = "device", fn: Callable[[Any], Any] = with_sum) -> flare.Pipeline:
    """Return compute, map_batches, compute."""
    pipeline = flare.from_batches(Batches(), schema=SCHEMA).filter(lambda r: r.a % 4 != 1)
    return pipeline.map_batches(fn, MAPPED, batch_format=batch_format).with_columns(z=lambda r: r.y * 2)


def run(pipeline: flare.Pipeline, device: str, **options: Any) -> tuple[pa.Table, flare.RunReport]:
    sink = CollectSink()
    sizes = flare.AdaptiveBatchingConfig(ROWS, min_size=ROWS, max_size=ROWS, strategy="fixed")
    resolved = RunOptions.resolve({"device": device, "workers": 2, "batching": sizes, **options})
    report = run_plan(optimize(pipeline._node, sink), resolved)
    assert all(batch.device == "cpu" for batch in sink.batches)
    return sink.table(), report


# ---------------------------------------------------------------------------------------------- what is copied


def test_one_upload_and_one_download_of_each_value(install: Install) -> None:
    backend = install()
    found, _ = run(chained(), "cuda:emulated")
    assert found.equals(run(chained(), "cpu")[0])
    assert backend.up_bytes == BATCHES * ROWS * 16
    counters = BATCHES * 3 * 16  # of the filter: how many records it kept
    assert found.nbytes <= backend.down_bytes <= found.nbytes + counters


def test_a_function_of_batches_in_host_memory_costs_the_way_there_and_back(install: Install) -> None:
    backend = install()
    found, _ = run(chained("batch"), "cuda:emulated")
    assert found.equals(run(chained(), "cpu")[0])
    # up: what came in, and what the last program reads; down: what the filter left, and the results
    assert backend.up_bytes == BATCHES * ROWS * 16 + found.num_rows * 8
    assert backend.down_bytes >= found.num_rows * (16 + 8)


def test_functions_in_a_row_pass_batches_on_where_they_lie(install: Install) -> None:
    backend = install()
    seen: list[str] = []

    def look(batch: SharedDataBatch) -> SharedDataBatch:
        seen.append(batch.device)
        return batch

    pipeline = flare.from_batches(Batches(), schema=SCHEMA)
    for _ in range(3):
        pipeline = pipeline.map_batches(look, SCHEMA, batch_format="device")
    found, _ = run(pipeline, "cuda:emulated")
    assert found.num_rows == BATCHES * ROWS
    assert seen == ["cuda:emulated"] * (3 * BATCHES)
    assert backend.up_bytes == backend.down_bytes == found.nbytes


def test_limits_see_batches_in_host_memory(device: str) -> None:
    pipeline = chained().limit(700).map_batches(with_sum, batch_format="device").limit(650)
    found, report = run(pipeline, device)
    assert found.num_rows == report.rows_out == 650
    assert found.equals(run(pipeline, "cpu")[0])


@pytest.mark.parametrize("device", ["auto", "cuda:emulated"])
def test_a_source_on_the_device_is_not_copied(install: Install, device: str) -> None:
    backend = install()
    on_device = [batch.to_device("cuda:emulated") for batch in Batches()]
    backend.up_bytes = backend.down_bytes = 0
    pipeline = (
        flare.from_batches(on_device)
        .filter(lambda r: r.a < 1000)
        .map_batches(with_sum, batch_format="device")
    )
    found, report = run(pipeline, device)
    assert report.device == "cuda:emulated"
    assert found.to_pylist() == [{"a": i, "x": i / 8, "y": i / 8 + i} for i in range(1000)]
    assert backend.up_bytes == 0
    assert found.nbytes <= backend.down_bytes <= found.nbytes + 8 * BATCHES * 3
    assert backend.down_bytes < BATCHES * ROWS * 16


def test_results_come_back_even_where_nothing_is_done(install: Install) -> None:
    install()
    on_device = [batch.to_device("cuda:emulated") for batch in Batches()]
    pipeline = flare.from_batches(on_device)
    assert pipeline.select("x").collect().device == "cpu"
    assert {batch.device for batch in pipeline.iter_batches()} == {"cpu"}
    assert {batch.device for batch in flare.from_batches(iter(on_device)).iter_batches()} == {"cpu"}
    assert pipeline.filter(lambda r: r.a < 7).collect(device="cpu").num_rows == 7
    assert pipeline.count() == BATCHES * ROWS


def test_tables_of_other_libraries_stay_where_they_lie(install: Install) -> None:
    backend = install()
    held = next(iter(Batches())).to_device("cuda:emulated")

    class Table:
        """Has the interface for the host too, as a copy."""

        def __arrow_c_device_array__(self, requested_schema: object = None, **options: object) -> Any:
            return held.__arrow_c_device_array__(requested_schema, **options)

        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            raise AssertionError("copied to the host")

    for pipeline in (flare.from_arrow(Table()), flare.from_batches([Table(), Table()])):
        backend.up_bytes = 0
        result = pipeline.filter(lambda r: r.a < 5)
        assert result.explain().device.startswith("cuda:emulated")
        assert result.collect().num_rows % 5 == 0
        assert backend.up_bytes == 0


def test_batches_here_and_there_mix(install: Install) -> None:
    install()
    mixed = [batch.to_device("cuda:emulated") if i % 2 else batch for i, batch in enumerate(Batches())]
    pipeline = flare.from_batches(mixed).filter(lambda r: r.a % 4 != 1)
    expected, _ = run(flare.from_batches(list(Batches())).filter(lambda r: r.a % 4 != 1), "cpu")
    for device in ("cuda:emulated", "cpu", "auto"):
        assert run(pipeline, device)[0].combine_chunks().equals(expected.combine_chunks())


def test_explain_says_where_batches_move() -> None:
    def moves(pipeline: flare.Pipeline, device: str) -> list[str | None]:
        return [stage.facts.get("batches") for stage in pipeline.explain(device=device).stages[1:-1]]

    assert moves(chained(), "cpu") == [None] * 3
    assert moves(chained(), "cuda:emulated") == [
        "copied to cuda:emulated, results stay on cuda:emulated",
        "stay on cuda:emulated",
        "stay on cuda:emulated, results copied to the host",
    ]
    assert moves(chained("arrow"), "cuda:emulated") == [
        "copied to cuda:emulated, results copied to the host",
        "copied to the host: map_batches takes an Arrow record batch",
        "copied to cuda:emulated, results copied to the host",
    ]
    on_device = flare.from_batches([batch.to_device("cuda:emulated") for batch in Batches()])
    assert "the batches lie there" in on_device.explain().device
    assert moves(on_device.filter(lambda r: r.a > 1), "cpu") == ["copied from cuda:emulated to the host"]
    assert moves(on_device.limit(9).filter(lambda r: r.a > 1), "auto") == [
        None,
        "stay on cuda:emulated, results copied to the host",
    ]


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))]
)
def test_random_steps_with_functions_between_them_agree_with_the_cpu(seed: int, tmp_path: Path) -> None:
    chain, first = random_chain(seed)
    steps: list[PhysicalStep] = []
    schema = first.schema
    try:
        for stage in stages_of(chain, load(chain.text, tmp_path)):
            program = build_program((stage,), schema)
            schema = program.output_schema
            steps += [ComputeStep(program), MapBatchesStep(lambda batch: batch, schema, schema, "device")]
    except flare.CompileError as error:
        assert "is None for every record" in str(error)
        pytest.skip("conditions that happen to be constant")
    on_cpu, on_device = make_chain(steps, "cpu"), make_chain(steps, "cuda:emulated")
    for batch in guarded.batches(seed, first):
        given = SharedDataBatch.from_arrow(batch)
        expected, found = on_cpu.process(given), on_device.process(given)
        if expected is None or not expected.num_rows:
            assert found is None or not found.num_rows
        else:
            assert found is not None
            assert_batches_equal(found.to_arrow(), expected.to_arrow())


def make_chain(steps: list[PhysicalStep], device: str) -> Chain:
    programs = {
        id(step): compile_program(step.program, device) for step in steps if isinstance(step, ComputeStep)
    }
    return ChainMaker(steps, device, programs).make(steps, lambda device, reason: None)


# ------------------------------------------------------------------------------------------ where devices fail


def test_memory_that_runs_out_at_each_allocation(install: Install) -> None:
    expected, _ = run(chained(), "cpu")
    backend = install()
    run(chained(), "cuda:emulated")
    backend.calls.clear()
    run(chained(), "cuda:emulated")
    allocations = backend.calls["acquire"]
    assert allocations >= BATCHES * 8  # two columns up, and what three programs write
    for number in range(1, allocations + 1, 11):  # of all kinds: a batch makes no multiple of eleven
        backend.calls.clear()
        backend.fails = refusal(number)
        found, report = run(chained(), "cuda:emulated")
        assert found.equals(expected), number
        assert (report.device_retries, report.batches_on_cpu) in ((1, 0), (0, 0)), number
        assert [stage.rows_out for stage in report.stages[1:]] == [found.num_rows] * 4


def refusal(number: int) -> Callable[[str, int], Exception | None]:
    """Return what refuses one allocation."""
    return lambda call, count: DeviceMemoryError("full") if (call, count) == ("acquire", number) else None


def test_a_device_without_memory_leaves_batches_to_the_host(install: Install) -> None:
    expected, _ = run(chained(), "cpu")
    install(memory_bytes=2_048)
    with pytest.warns(DeviceWarning) as told:
        found, report = run(chained(), "cuda:emulated")
    texts = [str(each.message) for each in told]
    assert any(
        "map_batches 2: with_sum has batches in host memory: The device memory is full" in t for t in texts
    )
    assert found.equals(expected)
    assert [stage.batches_on_cpu for stage in report.stages if stage.kind == "processor"] == [BATCHES] * 3
    assert report.device_retries > 0
    assert not report.lost_devices


def test_a_function_that_wants_too_much_gets_parts(install: Install) -> None:
    sizes: list[int] = []
    rows = 8 * 1024

    def hungry(batch: SharedDataBatch) -> SharedDataBatch:
        if batch.num_rows > 3000:
            raise DeviceMemoryError("full")
        sizes.append(batch.num_rows)
        return batch.with_columns(y=lambda r: r.x + r.a)

    install()
    table = pa.table({"a": range(3 * rows), "x": [i / 8 for i in range(3 * rows)]}, schema=SCHEMA)
    pipeline = flare.from_batches(iter([table]), schema=SCHEMA).map_batches(
        hungry, MAPPED, batch_format="device"
    )
    size = flare.AdaptiveBatchingConfig(rows, min_size=rows, max_size=rows, strategy="fixed")
    found, report = run(pipeline, "cuda:emulated", workers=1, batching=size)
    assert found["y"].to_pylist() == [i / 8 + i for i in range(3 * rows)]
    assert sizes == [2048] * 12
    assert (report.batches_on_cpu, report.device_retries) == (0, 1)


@pytest.mark.parametrize("call", ["acquire", "upload", "launch", "download", "synchronize"])
def test_a_device_lost_at_any_call_loses_and_doubles_nothing(install: Install, call: str) -> None:
    expected, _ = run(chained(), "cpu")
    backend = install()
    run(chained(), "cuda:emulated")
    calls = backend.calls[call]
    for number in sorted({1, 2, calls // 2, calls // 2 + 1, calls // 2 + 2, calls}):

        def fails(called: str, count: int, number: int = number) -> Exception | None:
            return (
                DeviceFaultError("off the bus", DEVICE_LOST)
                if (called, count) >= (call, number) and called == call
                else None
            )

        install(fails)
        with pytest.warns(DeviceWarning):
            found, report = run(chained(), "cuda:emulated")
        assert found.equals(expected), number
        assert report.lost_devices == {"cuda:emulated": "off the bus"}
        computed = [stage for stage in report.stages if stage.kind == "processor"]
        assert [stage.batches for stage in computed] == [BATCHES] * 3
        assert [stage.rows_out for stage in computed] == [expected.num_rows] * 3
        assert computed[0].rows_in == BATCHES * ROWS
        assert report.batches_on_cpu > 0


def test_batches_that_were_only_on_a_lost_device_end_the_run(install: Install) -> None:
    backend = install()
    on_device = [batch.to_device("cuda:emulated") for batch in Batches()]
    backend.fails = lambda call, count: (
        DeviceFaultError("off the bus", DEVICE_LOST) if call != "acquire" else None
    )
    with pytest.raises(DeviceFaultError, match="off the bus"):
        run(flare.from_batches(on_device).filter(lambda r: r.a > 1), "cuda:emulated")


def test_a_function_that_asks_for_another_device_loses_none(install: Install) -> None:
    backend = install()

    def elsewhere(batch: SharedDataBatch) -> SharedDataBatch:
        return batch.to_device("cuda:63")

    with pytest.raises(flare.DeviceUnavailableError, match="cuda:63"):
        run(chained("device", elsewhere), "cuda:emulated")
    assert backend.lost is None


# ------------------------------------------------------------------------------------------------ CuPy and torch


def by_operators(columns: dict[str, Any]) -> dict[str, Any]:
    return {"a": columns["a"], "x": columns["x"], "y": columns["x"] + columns["a"] * 1.0}


def test_cupy_arrays_between_two_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = run(chained(), "cpu")
    cuda = cupy_on_emulator.install(monkeypatch, gpus=2)
    found, report = run(chained("cupy", by_operators), "cuda", workers=4)
    assert found.equals(expected)
    assert report.device == "cuda"
    assert cuda.calls["asarray"] == 2 * BATCHES
    assert cuda.calls["computeArray"] == 2 * BATCHES


def test_classes_are_built_on_the_gpu_that_their_batches_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = cupy_on_emulator.install(monkeypatch, gpus=2)
    built: list[tuple[int, Any]] = []

    class Model:
        def __init__(self) -> None:
            built.append((cuda.current, cuda.stream))
            self.here = built[-1]

        def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
            assert (cuda.current, cuda.stream) == self.here
            return by_operators(columns)

    expected, _ = run(chained(), "cpu")
    found, _ = run(chained("cupy", Model), "cuda", workers=4)
    assert found.equals(expected)
    assert sorted(gpu for gpu, _ in built) == [0, 0, 1, 1]
    assert len({stream.ptr for _, stream in built}) == 4


def test_cupy_arrays_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = cupy_on_emulator.install(monkeypatch)
    before = run(flare.from_batches(Batches(), schema=SCHEMA).with_columns(y=lambda r: r.x + r.a), "cuda:0")[
        0
    ]
    fused_copies = cuda.calls["memcpyAsync"]
    pipeline = flare.from_batches(Batches(), schema=SCHEMA).map_batches(
        by_operators, MAPPED, batch_format="cupy"
    )
    found, _ = run(pipeline, "cuda:0")
    assert found.equals(before)
    assert cuda.calls["memcpyAsync"] - fused_copies == BATCHES * (2 + 3)  # columns up, columns down


def test_bools_of_cupy_become_bits_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy_on_emulator.install(monkeypatch)

    def compared(columns: dict[str, Any]) -> dict[str, Any]:
        return {"big": columns["x"] > 20.0}

    schema = pa.schema({"big": pa.bool_()})
    pipeline = flare.from_batches(Batches(), schema=SCHEMA).map_batches(compared, schema, batch_format="cupy")
    assert run(pipeline, "cuda")[0]["big"].to_pylist() == [i / 8 > 20 for i in range(BATCHES * ROWS)]
    kept = pipeline.map(lambda r: {"n": 1 if r.big else 0})
    assert sum(run(kept, "cuda")[0]["n"].to_pylist()) == sum(i / 8 > 20 for i in range(BATCHES * ROWS))


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_functions_of_cupy_arrays_run_on_a_gpu_wherever_the_rest_does(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    expected, _ = run(chained(), "cpu")
    cuda = cupy_on_emulator.install(monkeypatch)
    pipeline = chained("cupy", by_operators)
    found, report = run(pipeline, device)
    assert found.equals(expected)
    assert report.device == ("cuda" if device == "auto" else "cpu")
    assert cuda.calls["asarray"] == 2 * BATCHES
    if device == "auto":
        assert "map_batches takes CuPy arrays" in pipeline.explain().device
    else:
        assert "copied to the first GPU" in pipeline.explain(device="cpu").stages[2].facts["batches"]


def test_memory_of_a_gpu_that_runs_out_in_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = cupy_on_emulator.install(monkeypatch)
    expected, _ = run(chained(), "cpu")
    cuda.fail("computeArray", 2, after=3)
    found, report = run(chained("cupy", by_operators), "cuda")
    assert found.equals(expected)
    assert (report.device_retries, report.batches_on_cpu) == (1, 0)


def test_a_gpu_lost_in_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = cupy_on_emulator.install(monkeypatch)
    expected, _ = run(chained(), "cpu")
    cuda.fail("computeArray", 999, after=3)
    with pytest.warns(DeviceWarning):
        found, report = run(chained("cupy", by_operators), "cuda")
    assert found.equals(expected)
    assert list(report.lost_devices) == ["cuda:0"]
    assert report.batches_on_cpu > 0


def test_an_error_of_the_function_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy_on_emulator.install(monkeypatch)
    with pytest.raises(RunError, match=r"map_batches 2: .*KeyError: 'nothing'"):
        run(chained("cupy", lambda columns: columns["nothing"]), "cuda")


def test_torch_works_on_the_stream_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = run(chained(), "cpu")
    cuda = cupy_on_emulator.install(monkeypatch)
    torch = cupy_on_emulator.fake_torch(sys.modules["cupy"])
    monkeypatch.setitem(sys.modules, "torch", torch)
    found, _ = run(chained("torch", by_operators), "cuda")
    assert found.equals(expected)
    assert torch.streams and {device for device, _ in torch.streams} == {0}
    assert {pointer for _, pointer in torch.streams} <= {stream.ptr for stream in cuda.streams}
