"""Where "auto" runs a plan: the reasons, the model with rates by hand, and the rates that are measured."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes.cupy_on_emulator import device_found, install

import dataflare as flare
from dataflare.kernels.cuda.backends import cuda_backend
from dataflare.kernels.devices.detection import CudaDetection
from dataflare.kernels.devices.driver import CudaDevice
from dataflare.optimize.calibration import device_rates, measure_rates
from dataflare.optimize.placement import ASSUMED, DeviceRates, Placement, RecordWork, place, record_work
from dataflare.options import RunOptions
from dataflare.plan.physical import ComputeStep, PhysicalPlan
from dataflare.sinks.memory import CollectSink

_MANY = 500_000_000
_GPUS = CudaDetection(usable=True, reason="", way_out="", devices=(device_found(0),))
_NO_GPU = CudaDetection(usable=False, reason="there is no driver", way_out="")


def plan_of(pipeline: flare.Pipeline) -> PhysicalPlan:
    return pipeline._physical(CollectSink(), RunOptions())


def many() -> flare.Pipeline:
    """Return a stream of unknown length, so that it is never too little for a GPU."""
    return flare.from_batches(iter(()), schema=pa.schema([pa.field("x", pa.float64(), nullable=False)]))


def hard(r):  # type: ignore[no-untyped-def]
    y = r.x
    for _ in range(200):
        y = y * r.x + 0.5
    return {"y": y}


def placed(
    pipeline: flare.Pipeline, found: CudaDetection = _GPUS, cores: int = 8, **options: object
) -> Placement:
    def rates(_: CudaDevice) -> DeviceRates:
        return ASSUMED

    return place(plan_of(pipeline), RunOptions(**options), cores, detect=lambda: found, rates_of=rates)  # type: ignore[arg-type]


def test_what_is_asked_for_is_not_weighed() -> None:
    assert placed(many().map(hard), device="cpu") == Placement("cpu", "asked for")
    assert placed(many().map(hard), device="cuda:emulated").device == "cuda:emulated"


def test_one_addition_belongs_on_the_cpu_and_much_work_on_the_gpu() -> None:
    one = placed(many().map(lambda r: {"y": r.x + 1}))
    assert one.device == "cpu"
    assert "a record takes about 1 ns on 1 GPU (0.67 ns in, 0.001 ns kernel, 0.67 ns out" in one.reason
    assert "and 0.5 ns on 8 cores" in one.reason
    much = placed(many().map(hard))
    assert much.device == "cuda"
    assert "16 ns on 8 cores" in much.reason


def test_cores_and_the_margin_count() -> None:
    work = RecordWork(8.0, 8.0, 16.0)
    assert work.cpu_s(ASSUMED, 4) == work.cpu_s(ASSUMED, 1) / 4 == 2e-9
    assert work.gpu_s(ASSUMED, 2) == work.gpu_s(ASSUMED, 1) / 2
    assert placed(many().map(lambda r: {"y": r.x * 2 + 1}), cores=1).device == "cuda"
    assert (
        placed(many().map(lambda r: {"y": r.x * 2 + 1}), cores=5).device == "cpu"
    )  # faster, but not by enough


def test_without_a_gpu_the_reason_is_that_of_the_detection() -> None:
    assert placed(many().map(hard), _NO_GPU) == Placement("cpu", "chosen by auto: there is no driver")


def test_for_little_work_nobody_looks_for_a_gpu() -> None:
    def look() -> CudaDetection:
        raise AssertionError

    plan = plan_of(flare.from_arrow(pa.table({"x": np.arange(1000.0)})).map(hard))
    assert place(plan, RunOptions(), 8, detect=look).reason == "chosen by auto: too little work for a GPU"
    assert (
        place(plan_of(many()), RunOptions(), 8, detect=look).reason
        == "chosen by auto: there is nothing to compute"
    )


def test_batches_that_stay_are_copied_once() -> None:
    schema = pa.schema([pa.field("y", pa.float64())])

    def reason(batch_format: str) -> str:
        steps = many().map(hard).map_batches(lambda c: c, schema, batch_format=batch_format)
        return placed(steps.map(hard_again)).reason

    assert "1.3 ns in" in reason("numpy")
    assert "1.3 ns out" in reason("numpy")
    assert "0.67 ns in" in reason("torch")
    assert "0.68 ns out" in reason("torch")


def hard_again(r):  # type: ignore[no-untyped-def]
    z = r.y
    for _ in range(200):
        z = z * r.y + 0.25
    return {"z": z}


def test_where_batches_lie_and_who_takes_cupy_arrays_decides() -> None:
    lies_there = flare.from_batches(
        [flare.SharedDataBatch.from_pydict({"x": [1.0]}).to_device("cuda:emulated")]
    )
    assert placed(lies_there.filter(lambda r: r.x > 0), _NO_GPU).device == "cuda:emulated"
    assert placed(lies_there.filter(lambda r: r.x > 0), device="cpu").device == "cpu"
    cupy = many().map(lambda r: {"y": r.x + 1}).map_batches(lambda c: c, batch_format="cupy")
    assert placed(cupy) == Placement("cuda", "chosen by auto: map_batches takes CuPy arrays")
    assert placed(cupy, _NO_GPU) == Placement("cpu", "chosen by auto: there is no driver")


def test_exact_mathematics_are_the_cpus() -> None:
    assert placed(many().map(hard), math="exact").device == "cpu"


def test_work_counts_what_is_moved_and_what_loops() -> None:
    def work(pipeline: flare.Pipeline) -> RecordWork:
        return record_work(step.program for step in plan_of(pipeline).steps if isinstance(step, ComputeStep))

    schema = pa.schema([pa.field(name, pa.float64(), nullable=False) for name in "xyz"])
    wide = flare.from_batches(iter(()), schema=schema)
    assert work(wide.with_columns(w=lambda r: r.x + r.y)) == RecordWork(24.0, 8.0, 1.0)
    assert work(wide.map(lambda r: {"w": r.x + r.y})) == RecordWork(16.0, 8.0, 1.0)
    assert work(wide.map(lambda r: {"s": math.sin(r.x)})).steps == 24.0

    def turns(r):  # type: ignore[no-untyped-def]
        n = r.x
        while n > 1.0:
            n = n / 2.0
        return {"n": n}

    assert work(wide.map(turns)).steps > 32.0


def test_explain_and_the_run_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    fast = DeviceRates(1.0, 1.0, 1e12, 1e12, 1e12, 1e-9)
    monkeypatch.setattr("dataflare.optimize.calibration.device_rates", lambda device: fast)
    monkeypatch.setattr("dataflare.optimize.placement._SMALL_S", 0.0)
    pipeline = flare.from_arrow(pa.table({"x": np.arange(100.0)})).map(lambda r: {"y": r.x + 1})
    assert pipeline.explain().device.startswith("cuda (chosen by auto: a record takes about")
    assert pipeline.write(_ignore).run().device == "cuda"
    printing = flare.from_arrow(pa.table({"x": np.arange(100.0)})).map(hard)
    monkeypatch.setattr("dataflare.kernels.cuda.fused.compile_cuda", _refuse)
    assert printing.write(_ignore).run().device == "cpu"  # auto does not insist


def _refuse(*_: object, **__: object) -> None:
    raise flare.CompileError("kernels cannot have this")


def test_rates_are_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(tmp_path))
    measured = measure_rates(cuda_backend("cuda:0"), "cuda:0", 1 << 10)
    assert all(0 < value < math.inf for value in asdict(measured).values())
    calls = []

    def measure(*arguments: object) -> DeviceRates:
        calls.append(arguments)
        return measured

    monkeypatch.setattr("dataflare.optimize.calibration.measure_rates", measure)
    for _ in range(2):
        device_rates.cache_clear()
        assert device_rates(device_found(0)) == measured
    assert len(calls) == 1
    (file,) = (tmp_path / "rates").iterdir()
    file.write_text("{")  # damaged: measured anew
    device_rates.cache_clear()
    assert device_rates(device_found(0)) == measured
    assert len(calls) == 2
    device_rates.cache_clear()


def _ignore(batch: object) -> None:
    """Take a batch."""
