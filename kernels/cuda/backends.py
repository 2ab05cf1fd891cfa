"""The one place that turns the name of a CUDA device into a backend."""

from __future__ import annotations

from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.devices.detection import require_gpu
from dataflare.kernels.errors import DeviceUnavailableError

__all__ = ["cuda_backend"]


def cuda_backend(device: str) -> DeviceBackend:
    """Return the backend of a device: "cuda:emulated", "cuda" or "cuda:N".

    Raises
    ------
    DeviceUnavailableError
        If there is no such GPU, or none that can be used; the message says why and what to do.
    """
    if device == "cuda:emulated":
        from dataflare.kernels.cuda.emulated import default_emulator

        return default_emulator()
    require_gpu(device)
    raise DeviceUnavailableError(f"device {device!r} is not available in this version: use 'cuda:emulated'.")
