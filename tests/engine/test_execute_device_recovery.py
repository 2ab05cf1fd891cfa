"""Runs whose device is full or lost in the middle: no batch is lost or doubled, and the report says what happened."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pyarrow as pa
import pytest
from chains.faulty import FaultyBackend

import dataflare as flare
from dataflare.batch import SharedDataBatch
from dataflare.control import GpuMemoryMonitor
from dataflare.control.backpressure import BackpressureController
from dataflare.control.budget import format_bytes
from dataflare.control.gpu_memory import DeviceLostError
from dataflare.execute.run import run_plan
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.device import DEVICE_LOST
from dataflare.kernels.cuda.recovery import DeviceWarning
from dataflare.kernels.errors import DeviceFaultError, DeviceMemoryError
from dataflare.optimize.plan import optimize
from dataflare.options import RunOptions
from dataflare.sinks.memory import CollectSink

BATCHES, ROWS = 8, 400
SCHEMA = pa.schema({"a": pa.int64(), "s": pa.string()})

Install = Callable[[FaultyBackend], FaultyBackend]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what makes a backend the device "cuda:emulated", with no program compiled for it."""

    def made(backend: FaultyBackend) -> FaultyBackend:
        monkeypatch.setattr("dataflare.kernels.backend._programs", OrderedDict())
        monkeypatch.setattr("dataflare.kernels.cuda.emulated.default_emulator", lambda: backend)
        return backend

    return made


def run(device: str) -> tuple[pa.Table, flare.RunReport]:
    def batches() -> list[SharedDataBatch]:
        firsts = range(0, BATCHES * ROWS, ROWS)
        tables = [
            {"a": list(range(first, first + ROWS)), "s": [f"n{i % 7}" for i in range(ROWS)]}
            for first in firsts
        ]
        return [SharedDataBatch.from_arrow(pa.record_batch(each, schema=SCHEMA)) for each in tables]

    pipeline = flare.from_batches(iter(batches()), schema=SCHEMA)
    pipeline = pipeline.filter(lambda r: r.a % 3 != 0).with_columns(
        lambda r: {"b": r.a * 2, "p": r.s == "n3"}
    )
    sink = CollectSink()
    options = RunOptions.resolve({"workers": 3, "device": device})
    report = run_plan(optimize(pipeline._node, sink, ordered=options.ordered), options)
    return pa.Table.from_batches([batch.to_arrow() for batch in sink.batches]), report


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("acquire", 1),
        *(
            (call, number)
            for call in ("upload", "launch", "download", "synchronize")
            for number in (1, 5, 12)
        ),
    ],
)
def test_a_device_lost_in_the_middle_ends_right(install: Install, call: str, number: int) -> None:
    def fails(called: str, count: int) -> Exception | None:
        return (
            DeviceFaultError("fell off the bus", DEVICE_LOST) if (called, count) == (call, number) else None
        )

    install(FaultyBackend(fails))
    expected, _ = run("cpu")
    with pytest.warns(DeviceWarning, match="runs on the CPU from here on"):
        found, report = run("cuda:emulated")
    assert found.equals(expected)
    assert report.lost_devices == {"cuda:emulated": "fell off the bus"}
    assert 1 <= report.batches_on_cpu <= report.batches
    assert "cuda:emulated was lost while running: fell off the bus" in str(report)
    assert f"{report.batches_on_cpu} batches were computed on the CPU" in str(report)


@pytest.mark.parametrize("call", ["upload", "launch", "download"])
def test_refusals_of_memory_are_counted_and_change_nothing(install: Install, call: str) -> None:
    def fails(called: str, count: int) -> Exception | None:
        return DeviceMemoryError("full") if called == call and count == 5 else None

    install(FaultyBackend(fails))
    expected, _ = run("cpu")
    found, report = run("cuda:emulated")
    assert found.equals(expected)
    assert (report.device_retries, report.batches_on_cpu) == (1, 0)
    assert "1 times cuda:emulated had no memory" in str(report)


def test_a_device_without_memory_leaves_all_batches_to_the_cpu(install: Install) -> None:
    install(FaultyBackend(memory_bytes=2_048))
    expected, _ = run("cpu")
    with pytest.warns(DeviceWarning, match="batches are run on the CPU while that is so"):
        found, report = run("cuda:emulated")
    assert found.equals(expected)
    assert report.batches_on_cpu == report.batches
    assert not report.lost_devices


def test_the_peak_of_the_device_is_that_of_the_run(install: Install) -> None:
    backend = install(FaultyBackend(memory_bytes=1 << 24))
    _, first = run("cuda:emulated")
    assert first.peak_device_bytes is not None
    assert BATCHES * ROWS < first.peak_device_bytes <= backend._memory.peak_bytes
    assert set(first.curves.memory_pressure) == {"host", "cuda:emulated"}
    assert f"on the device {format_bytes(first.peak_device_bytes)}" in str(first)
    arena_of(backend).release_idle()
    _, second = run("cuda:emulated")
    assert second.peak_device_bytes is not None
    assert BATCHES * ROWS < second.peak_device_bytes <= backend._memory.peak_bytes
    assert run("cpu")[1].peak_device_bytes is None


class Failing:
    """A source of memory figures that fails."""

    source = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self) -> tuple[int, int]:
        raise self.error


@pytest.mark.parametrize("error", [DeviceLostError("NVML: GPU is lost"), OSError("NVML: no permission")])
def test_what_monitors_say_meanwhile(
    install: Install, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    backend = install(FaultyBackend())
    expected, _ = run("cpu")
    monitor = GpuMemoryMonitor("cuda:emulated", [Failing(error)])
    monkeypatch.setattr(
        "dataflare.execute.prepare.BackpressureController",
        lambda config, clock, monitors, budget: BackpressureController(
            config, clock, (monitor,), budget=budget
        ),
    )
    monkeypatch.setattr("dataflare.actors.source_task.SourceTask.MONITOR_INTERVAL_S", 0.0)
    if isinstance(error, DeviceLostError):
        with pytest.warns(DeviceWarning, match="GPU is lost"):
            found, report = run("cuda:emulated")
        assert report.lost_devices == {"cuda:emulated": "NVML: GPU is lost"}
        assert (report.batches_on_cpu, backend.calls["launch"]) == (report.batches, 0)
    else:
        found, report = run("cuda:emulated")
        assert (report.batches_on_cpu, report.lost_devices) == (0, {})
        assert report.monitor_errors == {"cuda:emulated": "failing: NVML: no permission"}
        assert "cuda:emulated memory could not always be read" in str(report)
    assert found.equals(expected)
