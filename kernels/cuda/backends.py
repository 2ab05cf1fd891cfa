"""The one place that turns the name of a CUDA device into backends, one for each GPU of this process."""

from __future__ import annotations

import threading

from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.devices.detection import require_gpu
from dataflare.kernels.devices.driver import CudaDevice

__all__ = ["cuda_backend", "cuda_backends"]

_gpus: dict[str, DeviceBackend] = {}
_lock = threading.Lock()


def cuda_backend(device: str) -> DeviceBackend:
    """Return the backend of a device: "cuda:emulated", "cuda:N", or "cuda" for the first GPU.

    Raises
    ------
    DeviceUnavailableError
        If there is no such GPU, or none that can be used; the message says why and what to do.
    """
    return cuda_backends(device)[0]


def cuda_backends(device: str) -> tuple[DeviceBackend, ...]:
    """Return the backends that a name stands for: all usable GPUs for "cuda", else one.

    Raises
    ------
    DeviceUnavailableError
        As of `cuda_backend`.
    """
    if device == "cuda:emulated":
        from dataflare.kernels.cuda.emulated import default_emulator

        return (default_emulator(),)
    return tuple(_gpu(found) for found in require_gpu(device))


def _gpu(found: CudaDevice) -> DeviceBackend:
    from dataflare.kernels.cuda.gpu import CupyBackend

    with _lock:
        backend = _gpus.get(found.label)
        if backend is None:
            backend = _gpus[found.label] = CupyBackend(found)
        return backend
