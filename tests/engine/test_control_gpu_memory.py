"""GpuMemoryMonitor: its policy on scripted sources, its NVML source on a library made of C, and what admission does."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.nvml import install_nvml

from dataflare.control import (
    BackpressureController,
    CreditConfig,
    CreditMode,
    GpuMemoryMonitor,
    gpu_memory_monitor,
)
from dataflare.control.gpu_memory import (
    BackendMemoryProbe,
    DeviceFailingError,
    DeviceLostError,
    SourceUnavailableError,
    UnifiedMemoryProbe,
)
from dataflare.control.nvml import NvmlMemoryProbe
from dataflare.kernels.devices.driver import CudaDevice

GIB = 1 << 30
WHOLE = CudaDevice(0, "Fake", (9, 0), 16 * GIB, "GPU-whole", "0000:01:00.0", False, False, False)
SLICE = replace(WHOLE, uuid="MIG-slice", is_mig=True)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """Answers in turn, the last one for ever; an exception is raised."""

    source = "scripted"

    def __init__(self, *answers: tuple[int, int] | Exception) -> None:
        self.answers = list(answers)
        self.reads = 0

    def read(self) -> tuple[int, int]:
        self.reads += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def readings(monitor: GpuMemoryMonitor, clock: Clock, count: int) -> list[Any]:
    found = []
    for _ in range(count):
        found.append(monitor.read())
        clock.now_s += 1.0
    return found


def test_what_the_pool_holds_for_nobody_is_free() -> None:
    monitor = GpuMemoryMonitor("cuda:0", [Scripted((100, 20))], pool_free_bytes=lambda: 30, clock=Clock())
    reading = monitor.read()
    assert (reading.available_bytes, reading.pressure, reading.status) == (50, 0.5, "ok")
    assert (reading.source, reading.at_s) == ("scripted", 0.0)


def test_it_asks_ten_times_a_second_at_most_whatever_callers_do() -> None:
    clock, probe = Clock(), Scripted((100, 50))
    monitor = GpuMemoryMonitor("cuda:0", [probe], clock=clock)
    for _ in range(1000):
        monitor.read()
        clock.now_s += 0.001
    assert probe.reads == 10


def test_nobody_waits_for_a_driver_that_another_call_is_waiting_for() -> None:
    nested: list[str] = []

    class Reentrant(Scripted):
        def read(self) -> tuple[int, int]:
            nested.append(monitor.read().status)
            return super().read()

    monitor = GpuMemoryMonitor("cuda:0", [Reentrant((100, 50))], clock=Clock())
    assert monitor.read().status == "ok"
    assert nested == ["unknown"]


def test_a_failure_keeps_the_last_value_and_says_so() -> None:
    clock = Clock()
    monitor = GpuMemoryMonitor(
        "cuda:0", [Scripted((100, 40), OSError("busy"), (100, 80))], clock=clock, pool_free_bytes=lambda: 0
    )
    good, failed, better = readings(monitor, clock, 3)
    assert (failed.pressure, failed.status, failed.at_s) == (0.6, "stale", good.at_s)
    assert failed.error == "scripted: busy"
    assert (better.status, better.pressure, better.error) == ("ok", pytest.approx(0.2), None)


def test_before_the_first_success_nothing_is_known() -> None:
    reading = GpuMemoryMonitor("cuda:0", [Scripted(OSError("busy"))], clock=Clock()).read()
    assert (reading.status, reading.pressure, reading.used_bytes) == ("unknown", None, None)


def test_a_source_that_cannot_tell_gives_way_to_the_next_for_good() -> None:
    clock, first = Clock(), Scripted(SourceUnavailableError("not here"))
    monitor = GpuMemoryMonitor("cuda:0", [first, BackendMemoryProbe(lambda: (25, 100))], clock=clock)
    assert [reading.pressure for reading in readings(monitor, clock, 3)] == [0.75] * 3
    assert monitor.last.source == "CUDA runtime"
    assert first.reads == 1


def test_without_any_source_the_reasons_are_kept() -> None:
    sources = [Scripted(SourceUnavailableError("no package")), Scripted(SourceUnavailableError("no context"))]
    clock = Clock()
    monitor = GpuMemoryMonitor("cuda:0", sources, clock=clock)
    assert [r.error for r in readings(monitor, clock, 2)] == ["no package; no context"] * 2


def test_a_lost_device_is_not_asked_again() -> None:
    clock, probe = Clock(), Scripted((100, 40), DeviceLostError("gone"), (100, 40))
    monitor = GpuMemoryMonitor("cuda:0", [probe], clock=clock)
    assert [reading.status for reading in readings(monitor, clock, 4)] == ["ok", "lost", "lost", "lost"]
    assert probe.reads == 2
    assert monitor.last.pressure == 0.6


def test_three_unknown_failures_in_a_row_are_a_lost_device_until_one_reading_succeeds() -> None:
    clock, bad = Clock(), DeviceFailingError("unknown")
    monitor = GpuMemoryMonitor(
        "cuda:0", [Scripted((9, 9), bad, bad, (9, 9), bad, bad, bad, (9, 9))], clock=clock
    )
    states = [reading.status for reading in readings(monitor, clock, 8)]
    assert states == ["ok", "stale", "stale", "ok", "stale", "stale", "lost", "ok"]


def test_any_other_failure_is_not_a_lost_device_however_often() -> None:
    clock = Clock()
    monitor = GpuMemoryMonitor("cuda:0", [Scripted((9, 9), TimeoutError())], clock=clock)
    assert {reading.status for reading in readings(monitor, clock, 20)[1:]} == {"stale"}
    assert monitor.last.error == "scripted: TimeoutError"


def test_a_pool_that_fails_is_not_a_lost_device() -> None:
    def broken() -> int:
        raise RuntimeError("pool")

    clock = Clock()
    monitor = GpuMemoryMonitor("cuda:0", [Scripted((9, 9))], pool_free_bytes=broken, clock=clock)
    assert {reading.status for reading in readings(monitor, clock, 20)} == {"unknown"}


def test_unified_memory_is_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:  400 kB\n")
    assert UnifiedMemoryProbe(tmp_path).read() == (1000 * 1024, 400 * 1024)
    with pytest.raises(SourceUnavailableError, match="meminfo"):
        UnifiedMemoryProbe(tmp_path / "none").read()


def controller(*answers: tuple[int, int] | Exception, clock: Clock) -> BackpressureController:
    monitor = GpuMemoryMonitor("cuda:0", [Scripted(*answers)], clock=clock)
    config = CreditConfig(mode=CreditMode.FIXED, initial_credits=100, min_credits=1, max_credits=100)
    made = BackpressureController(config, clock, [monitor])
    made.register_task("t")
    made.poll_monitors()
    return made


def test_a_full_gpu_is_pressure() -> None:
    assert dict(controller((100, 5), clock=Clock()).snapshot().pressure_by_device) == {"cuda:0": 0.95}


def test_a_lost_device_stops_admission_until_it_is_forgotten() -> None:
    clock = Clock()
    made = controller((100, 5), DeviceLostError("off the bus"), clock=clock)
    inside = made.admit("t", 10, 1.0)
    assert inside is not None
    clock.now_s = 1.0
    made.poll_monitors()
    assert dict(made.snapshot().lost_devices) == {"cuda:0": "off the bus"}
    assert made.admit("t", 10, 1.0) is None
    assert made.request_credits("t", 10) == made.available_credits("t") == 0
    assert made.acquire("t", 10) == 0
    assert made.seconds_until_credits("t", 10) is None
    inside.settle(0.1)  # what is inside drains
    made.forget_device("cuda:0")
    made.poll_monitors()
    assert not made.lost_devices
    assert made.memory_pressure is None
    assert made.admit("t", 10, 1.0) is not None


@pytest.fixture
def nvml(compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    return install_nvml(compile_c("nvml"), monkeypatch)


def test_nvml_is_asked_by_uuid(nvml: ctypes.CDLL) -> None:
    probe = NvmlMemoryProbe(WHOLE)
    assert probe.read() == (16 * GIB, 8 * GIB)
    assert probe.read() == (16 * GIB, 8 * GIB)
    assert nvml.fake_inits() == 1
    assert probe.driver_version() == "580.00"
    probe.close()
    probe.close()
    assert nvml.fake_alive() == 0


def test_a_slice_is_asked_by_its_own_uuid_and_never_by_its_gpus_bus_id(nvml: ctypes.CDLL) -> None:
    assert NvmlMemoryProbe(SLICE).read() == (4 * GIB, 2 * GIB)
    nvml.fake_handle(4)
    with pytest.raises(SourceUnavailableError, match="no permission"):
        NvmlMemoryProbe(SLICE).read()


@pytest.mark.parametrize("code", [2, 4, 6])
def test_where_the_uuid_does_not_do_the_bus_id_does(nvml: ctypes.CDLL, code: int) -> None:
    nvml.fake_handle(code)
    assert NvmlMemoryProbe(WHOLE).read() == (16 * GIB, 8 * GIB)


@pytest.mark.parametrize(("code", "words"), [(3, "not supported"), (4, "no permission"), (13, "too old")])
def test_what_nvml_cannot_tell_the_runtime_does(nvml: ctypes.CDLL, code: int, words: str) -> None:
    nvml.fake_memory(0, 0, code)
    with pytest.raises(SourceUnavailableError, match=words):
        NvmlMemoryProbe(WHOLE).read()
    reading = gpu_memory_monitor(WHOLE, memory_info=lambda: (3, 4), clock=Clock()).read()
    assert (reading.source, reading.pressure, reading.status) == ("CUDA runtime", 0.25, "ok")


def test_unified_memory_comes_before_the_runtimes_word(nvml: ctypes.CDLL) -> None:
    nvml.fake_memory(0, 0, 3)
    device = replace(WHOLE, has_unified_memory=True)
    assert (
        gpu_memory_monitor(device, memory_info=lambda: (3, 4), clock=Clock()).read().source == "/proc/meminfo"
    )


@pytest.mark.parametrize(
    ("code", "words"), [(9, "not loaded"), (12, "libnvidia-ml"), (18, "different versions")]
)
def test_nvml_that_does_not_start(nvml: ctypes.CDLL, code: int, words: str) -> None:
    nvml.fake_init(code)
    with pytest.raises(SourceUnavailableError, match=words):
        NvmlMemoryProbe(WHOLE).read()


def test_a_library_that_is_not_there(nvml: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(pynvml, "CDLL", missing)
    with pytest.raises(SourceUnavailableError, match="libnvidia-ml"):
        NvmlMemoryProbe(WHOLE).read()


def test_a_library_without_the_query(compile_c: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(compile_c("nvml", "-DOLD"), monkeypatch)
    with pytest.raises(SourceUnavailableError, match="too old"):
        NvmlMemoryProbe(WHOLE).read()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SourceUnavailableError, match=r"dataflare\[cuda13\]"):
        NvmlMemoryProbe(WHOLE).read()


@pytest.mark.parametrize("code", [15, 16])
def test_a_gpu_that_nvml_calls_lost_is_lost(nvml: ctypes.CDLL, code: int) -> None:
    clock = Clock()
    monitor = gpu_memory_monitor(WHOLE, clock=clock)
    monitor.read()
    nvml.fake_memory(0, 0, code)
    clock.now_s = 1.0
    reading = monitor.read()
    assert (reading.status, reading.pressure) == ("lost", 0.5)
    assert nvml.fake_queries() == 2


def test_a_device_that_nvml_does_not_know_is_not_a_lost_one(nvml: ctypes.CDLL) -> None:
    stranger = replace(WHOLE, uuid="GPU-other", pci_bus_id="0000:09:00.0")
    with pytest.raises(SourceUnavailableError, match="does not know this device"):
        NvmlMemoryProbe(stranger).read()


@pytest.mark.parametrize("code", [10, 17, 20])
def test_other_codes_are_failures_that_may_pass(nvml: ctypes.CDLL, code: int) -> None:
    nvml.fake_memory(0, 0, code)
    clock = Clock()
    assert {r.status for r in readings(gpu_memory_monitor(WHOLE, clock=clock), clock, 5)} == {"unknown"}


def test_an_unknown_error_may_pass(nvml: ctypes.CDLL) -> None:
    clock = Clock()
    monitor = gpu_memory_monitor(WHOLE, clock=clock)
    monitor.read()
    nvml.fake_memory(0, 0, 999)
    clock.now_s = 1.0
    assert monitor.read().status == "stale"
    nvml.fake_memory(GIB, GIB, 0)
    clock.now_s = 2.0
    assert (monitor.read().status, monitor.last.pressure) == ("ok", 0.0)
    assert nvml.fake_alive() == 1


def test_when_somebody_else_shuts_nvml_down_it_is_started_again(nvml: ctypes.CDLL) -> None:
    probe = NvmlMemoryProbe(WHOLE)
    probe.read()
    nvml.fake_forget()
    assert probe.read() == (16 * GIB, 8 * GIB)
    assert nvml.fake_inits() == 2
