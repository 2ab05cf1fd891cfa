"""GpuMemoryMonitor: how full a GPU's memory is, from the sources that can tell, asked at most ten times a second.

Covers the policy: which source is believed, what a failure means, and that memory which the pool holds and nobody
uses is free. The sources are handed in; that of NVML is in ``nvml``. Does not act on what it reads: a
``BackpressureController`` does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dataflare.control.clock import Clock
from dataflare.control.monitors import MemoryReading
from dataflare.kernels.devices.driver import CudaDevice

__all__ = [
    "BackendMemoryProbe",
    "DeviceFailingError",
    "DeviceLostError",
    "GpuMemoryMonitor",
    "MemoryProbe",
    "SourceUnavailableError",
    "UnifiedMemoryProbe",
    "gpu_memory_monitor",
]


class SourceUnavailableError(Exception):
    """A source cannot tell on this machine, now or later: the next one is asked from then on."""


class DeviceLostError(Exception):
    """The device is gone and does not come back while this process lives."""


class DeviceFailingError(Exception):
    """The device answers with an error that nobody knows: this may pass, and where it does not, it is lost."""


class MemoryProbe(Protocol):
    """One source of a device's memory figures."""

    @property
    def source(self) -> str:
        """What it is called in readings."""

    def read(self) -> tuple[int, int]:
        """Return (total, free) bytes.

        Raises
        ------
        SourceUnavailableError, DeviceLostError, DeviceFailingError
            As they say; any other exception is a failure that may pass.
        """


class BackendMemoryProbe:
    """What the CUDA runtime says, through a callable of the backend; it needs the process's own context.

    Parameters
    ----------
    memory_info
        Returns (free, total) bytes, as ``cudaMemGetInfo`` does.
    """

    source = "CUDA runtime"

    def __init__(self, memory_info: Callable[[], tuple[int, int]]) -> None:
        self._memory_info = memory_info

    def read(self) -> tuple[int, int]:
        """Return (total, free) bytes."""
        free_bytes, total_bytes = self._memory_info()
        return total_bytes, free_bytes


class UnifiedMemoryProbe:
    """The host's memory, which is the GPU's on devices that share it.

    There CUDA's own figure takes the page cache for used, which the kernel gives back when asked.

    Parameters
    ----------
    proc
        Where procfs is mounted.
    """

    source = "/proc/meminfo"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._meminfo = proc / "meminfo"

    def read(self) -> tuple[int, int]:
        """Return (total, available) bytes."""
        try:
            fields = dict(line.split(":", 1) for line in self._meminfo.read_text().splitlines())
            total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        except (OSError, KeyError, ValueError) as error:
            raise SourceUnavailableError(f"{self._meminfo}: {error}") from error
        return total, available


class GpuMemoryMonitor:
    """Memory use of one GPU: what others and this process use, without what its pool holds for nobody.

    A failure keeps the last value and says so (``stale``, ``error``). A device that is lost, or has failed with
    an unknown error `FAILURES_UNTIL_LOST` times in a row, is ``lost``: the controller admits nothing more for it.

    Parameters
    ----------
    device
        Name under which pressure is reported: "cuda:0".
    probes
        Sources, the best first. One that is unavailable is not asked again.
    pool_free_bytes
        Bytes that the memory pool holds and nobody uses; the driver counts them as used.
    clock
        Monotonic clock in seconds.
    """

    LEAST_INTERVAL_S = 0.1
    FAILURES_UNTIL_LOST = 3

    def __init__(
        self,
        device: str,
        probes: Sequence[MemoryProbe],
        *,
        pool_free_bytes: Callable[[], int] = lambda: 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._device = device
        self._probes = list(probes)
        self._pool_free_bytes = pool_free_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._unavailable: list[str] = []
        self._failures = 0
        self._is_gone = False
        self._next_s: float | None = None
        self._last = MemoryReading(None, None, None, None)

    @property
    def device(self) -> str:
        """Name under which pressure is reported."""
        return self._device

    @property
    def last(self) -> MemoryReading:
        """The latest reading, without reading again."""
        return self._last

    def read(self) -> MemoryReading:
        """Read now, or return the last reading where that is less than a tenth of a second old. Never raises.

        A call that comes while another thread is reading gets the last reading, too: nobody waits for a driver twice.
        """
        if self._is_gone or not self._lock.acquire(blocking=False):
            return self._last
        try:
            now_s = self._clock()
            if self._next_s is None or now_s >= self._next_s:
                self._next_s = now_s + self.LEAST_INTERVAL_S
                self._last = self._read(now_s)
            return self._last
        finally:
            self._lock.release()

    def _read(self, now_s: float) -> MemoryReading:
        while self._probes:
            probe = self._probes[0]
            try:
                total, free = probe.read()
                free += self._pool_free_bytes()
            except SourceUnavailableError as error:
                self._unavailable.append(str(error))
                del self._probes[0]
            except DeviceLostError as error:
                self._is_gone = True
                return self._kept(str(error), lost=True)
            except DeviceFailingError as error:
                self._failures += 1
                return self._kept(str(error), lost=self._failures >= self.FAILURES_UNTIL_LOST)
            except Exception as error:  # a monitor must never take the run down
                return self._kept(f"{probe.source}: {str(error) or type(error).__name__}", lost=False)
            else:
                self._failures = 0
                return MemoryReading(max(0, total - free), total, probe.source, now_s)
        return self._kept("; ".join(self._unavailable) or "there is no source", lost=False)

    def _kept(self, reason: str, *, lost: bool) -> MemoryReading:
        last = self._last
        return MemoryReading(
            last.used_bytes, last.limit_bytes, last.source, last.at_s, stale=True, error=reason, lost=lost
        )


def gpu_memory_monitor(
    device: CudaDevice,
    *,
    memory_info: Callable[[], tuple[int, int]] | None = None,
    pool_free_bytes: Callable[[], int] = lambda: 0,
    clock: Clock = time.monotonic,
) -> GpuMemoryMonitor:
    """Return a monitor of a device that was found, with the sources that suit it.

    Parameters
    ----------
    memory_info
        Returns (free, total) bytes as the backend knows them; None leaves this source out.
    pool_free_bytes, clock
        As of `GpuMemoryMonitor`.
    """
    from dataflare.control.nvml import NvmlMemoryProbe

    probes: list[MemoryProbe] = [NvmlMemoryProbe(device)]
    if device.has_unified_memory:
        probes.append(UnifiedMemoryProbe())
    if memory_info is not None:
        probes.append(BackendMemoryProbe(memory_info))
    return GpuMemoryMonitor(device.label, probes, pool_free_bytes=pool_free_bytes, clock=clock)
