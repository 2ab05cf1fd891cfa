"""DeviceUse: how much of a device's memory programs took while a run went on.

Covers what comes from the arenas of CUDA devices, emulated ones included. What else is on a device is the monitors'
business (``dataflare.control``).
"""

from __future__ import annotations

__all__ = ["DeviceUse"]


class DeviceUse:
    """Follows the memory of the devices of a run from the moment it is made.

    Parameters
    ----------
    device
        That of the run: "cpu", "cuda", "cuda:1".
    """

    def __init__(self, device: str) -> None:
        self._peaks = []
        if device.startswith("cuda"):
            from dataflare.kernels.cuda.arena import arena_of
            from dataflare.kernels.cuda.backends import cuda_backends

            self._peaks = [arena_of(backend).watch_peak() for backend in cuda_backends(device)]

    @property
    def peak_bytes(self) -> int | None:
        """The most bytes taken from any one device at once; None where the run has no device but the host."""
        return max((peak.nbytes for peak in self._peaks), default=None)
