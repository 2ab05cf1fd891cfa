"""Which memory a run watches: the host's, and that of each device that it computes on.

Covers the choice alone; the monitors are those of `dataflare.control`, and the controller reads them.
"""

from __future__ import annotations

from dataflare.control.clock import Clock
from dataflare.control.monitors import HostMemoryMonitor, MemoryMonitor

__all__ = ["run_monitors"]


def run_monitors(device: str, clock: Clock) -> tuple[MemoryMonitor, ...]:
    """Return the monitors of a run on a device.

    A device's monitor has the name of the device ("cuda:1"), which is what `BackpressureController.forget_device`
    takes from whoever has moved its work elsewhere.
    """
    host = HostMemoryMonitor(clock)
    if not device.startswith("cuda"):
        return (host,)
    from dataflare.control.gpu_memory import BackendMemoryProbe, GpuMemoryMonitor, gpu_memory_monitor
    from dataflare.kernels.cuda.backends import cuda_backends
    from dataflare.kernels.cuda.gpu import CupyBackend

    monitors: list[MemoryMonitor] = [host]
    for backend in cuda_backends(device):
        if isinstance(backend, CupyBackend):
            monitors.append(
                gpu_memory_monitor(
                    backend.hardware,
                    memory_info=backend.driver_memory,
                    pool_free_bytes=backend.pool_free_bytes,
                    clock=clock,
                )
            )
        else:
            monitors.append(GpuMemoryMonitor(backend.name, [BackendMemoryProbe(backend.memory)], clock=clock))
    return tuple(monitors)
