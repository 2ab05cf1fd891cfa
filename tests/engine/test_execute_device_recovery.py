"""Runs whose device is full or lost in the middle: no batch is lost or doubled, and the report says what happened."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from chains.faulty import FaultyBackend
from fakes.nvml import install_nvml

import dataflare as flare
from dataflare.batch import SharedDataBatch
from dataflare.control import GpuMemoryMonitor
from dataflare.control.budget import format_bytes
from dataflare.control.gpu_memory import BackendMemoryProbe
from dataflare.control.nvml import NvmlMemoryProbe
from dataflare.execute.run import run_plan
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.device import DEVICE_LOST
from dataflare.kernels.cuda.recovery import DeviceWarning
from dataflare.kernels.devices.driver import CudaDevice
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


def run(device: str, rows: int = ROWS) -> tuple[pa.Table, flare.RunReport]:
    def batches() -> list[SharedDataBatch]:
        firsts = range(0, BATCHES * rows, rows)
        tables = [
            {"a": list(range(first, first + rows)), "s": [f"n{i % 7}" for i in range(rows)]}
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


HARDWARE = CudaDevice(0, "Fake", (9, 0), 16 << 30, "GPU-whole", "0000:01:00.0", False, False, False)
NAMED = (1, 3, 4, 6, 9, 10, 12, 13, 15, 999)
"""Of NVML's errors: uninitialised, not supported, no permission, not found, no driver, timeout, no library, no such
function, lost, and unknown. The tests marked slow go through all of them."""
LOST, UNKNOWN = (15, 16), 999
"""The GPU is lost, or needs a reset; nobody knows, which three times in a row is a lost one."""
UNAVAILABLE = {
    "start": (2, 3, 4, 6, 9, 12, 13, 18),
    "device": (3, 9, 12, 13, 18),
    "memory": (2, 3, 4, 6, 9, 12, 13, 18),
    "memory later": (2, 3, 4, 6, 9, 12, 13, 18),
}
"""After which NVML is not asked again, and the runtime is; any other error may pass."""


@pytest.mark.parametrize("where", UNAVAILABLE)
@pytest.mark.parametrize(
    "code",
    [*NAMED, *(pytest.param(code, marks=pytest.mark.slow) for code in range(1, 31) if code not in NAMED)],
)
def test_whatever_nvml_says_every_batch_is_computed_once(
    install: Install, compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, where: str, code: int
) -> None:
    nvml = install_nvml(compile_c("nvml"), monkeypatch)
    {
        "start": lambda: nvml.fake_init(code),
        "device": lambda: nvml.fake_handle(code),
        "memory": lambda: nvml.fake_memory(0, 0, code),
        "memory later": lambda: nvml.fake_memory_later(2, code),
    }[where]()
    backend = install(FaultyBackend())
    seconds = itertools.count()
    probes = [NvmlMemoryProbe(HARDWARE), BackendMemoryProbe(backend.memory)]
    monitor = GpuMemoryMonitor("cuda:emulated", probes, clock=lambda: float(next(seconds)))
    monkeypatch.setattr("dataflare.execute.prepare.run_monitors", lambda device, clock: (monitor,))
    monkeypatch.setattr("dataflare.actors.source_task.SourceTask.MONITOR_INTERVAL_S", 0.0)
    expected, _ = run("cpu", rows=32)
    if code in LOST or code == UNKNOWN:
        with pytest.warns(DeviceWarning, match="cuda:emulated is lost .NVML: "):
            found, report = run("cuda:emulated", rows=32)
        assert list(report.lost_devices) == ["cuda:emulated"]
        assert 1 <= report.batches_on_cpu <= report.batches
        assert monitor.last.lost
    else:
        found, report = run("cuda:emulated", rows=32)
        assert (report.batches_on_cpu, report.device_retries, report.lost_devices) == (0, 0, {})
        assert backend.calls["launch"] >= 3 * report.batches
        if where == "device" and code in (2, 4, 6):
            assert (monitor.last.source, monitor.last.error) == ("NVML", None)  # found by its bus id
        elif code in UNAVAILABLE[where]:
            assert (monitor.last.source, monitor.last.error) == ("CUDA runtime", None)
        else:
            assert report.monitor_errors == {"cuda:emulated": monitor.last.error}
            assert "cuda:emulated memory could not always be read" in str(report)
    assert found.equals(expected)
    assert (report.rows_in, report.rows_out) == (BATCHES * 32, expected.num_rows)


def test_a_gpu_that_is_lost_before_the_first_batch_is_not_asked(
    install: Install, compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(compile_c("nvml"), monkeypatch).fake_init(LOST[0])
    backend = install(FaultyBackend())
    monitor = GpuMemoryMonitor("cuda:emulated", [NvmlMemoryProbe(HARDWARE)])
    monkeypatch.setattr("dataflare.execute.prepare.run_monitors", lambda device, clock: (monitor,))
    monkeypatch.setattr("dataflare.actors.source_task.SourceTask.MONITOR_INTERVAL_S", 0.0)
    expected, _ = run("cpu")
    with pytest.warns(DeviceWarning, match="fallen off the bus"):
        found, report = run("cuda:emulated")
    assert (report.batches_on_cpu, backend.calls["launch"]) == (report.batches, 0)
    assert found.equals(expected)
