"""Which memory a run watches: the host's, and that of each device that it computes on.

Covers the choice alone; the monitors are those of `dataflare.control`, and the controller reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from dataflare.control.clock import Clock
from dataflare.control.monitors import HostMemoryMonitor

if TYPE_CHECKING:
    from dataflare.control.gpu_memory import GpuMemoryMonitor
    from dataflare.kernels.cuda.arena import DeviceArena

__all__ = ["run_monitors"]


def run_monitors(device: str, clock: Clock) -> tuple[HostMemoryMonitor | GpuMemoryMonitor, ...]:
    """Return the monitors of a run on a device.

    A device's monitor has the name of the device ("cuda:1"), which is what `BackpressureController.forget_device`
    takes from whoever has moved its work elsewhere.
    """
    host = HostMemoryMonitor(clock)
    if not device.startswith("cuda"):
        return (host,)
    from dataflare.control.gpu_memory import BackendMemoryProbe, GpuMemoryMonitor, gpu_memory_monitor
    from dataflare.kernels.cuda.arena import arena_of
    from dataflare.kernels.cuda.backends import cuda_backends
    from dataflare.kernels.cuda.gpu import CupyBackend

    monitors: list[HostMemoryMonitor | GpuMemoryMonitor] = [host]
    for backend in cuda_backends(device):
        idle = arena_of(backend)
        if isinstance(backend, CupyBackend):
            monitors.append(
                gpu_memory_monitor(
                    backend.hardware,
                    memory_info=backend.driver_memory,
                    pool_free_bytes=partial(_idle_bytes, idle, backend.pool_free_bytes),
                    clock=clock,
                )
            )
        else:
            monitors.append(
                GpuMemoryMonitor(
                    backend.name,
                    [BackendMemoryProbe(backend.memory)],
                    pool_free_bytes=partial(_idle_bytes, idle),
                    clock=clock,
                )
            )
    return tuple(monitors)


def _idle_bytes(arena: DeviceArena, pool_free_bytes: Callable[[], int] = lambda: 0) -> int:
    """Return the bytes that lie idle in the arena of a device and in the pool below it."""
    return arena.idle_bytes + pool_free_bytes()
