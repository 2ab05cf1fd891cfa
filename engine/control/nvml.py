"""NvmlMemoryProbe: the memory of one GPU, read through NVIDIA's management library (the package nvidia-ml-py).

Turns the library's error codes into what `GpuMemoryMonitor` tells apart: no answer to be had here, a failure that may
pass, a device that fails or is lost. Does not decide what follows from them.
"""

from __future__ import annotations

from typing import Any

from dataflare.control.gpu_memory import DeviceFailingError, DeviceLostError, SourceUnavailableError
from dataflare.kernels.devices.driver import CudaDevice

__all__ = ["NvmlMemoryProbe"]

# nvmlReturn_t: what will not change while this process lives, and what ends the device.
_UNAVAILABLE = {
    2: "it does not know this device",
    3: "not supported on this device",
    4: "no permission",
    6: "it does not know this device",
    9: "the driver is not loaded",
    12: "libnvidia-ml.so.1 is not here",
    13: "the driver's NVML is too old",
    18: "NVML and the driver are of different versions",
}
_LOST = {
    15: "the GPU has fallen off the bus or is otherwise gone",
    16: "the GPU needs a reset",
}
_UNINITIALIZED = 1
_UNKNOWN = 999
_LOOK_ELSEWHERE = (2, 4, 6)
"""Not a UUID it knows, or not one it may give: the PCI bus id may still do."""


class NvmlMemoryProbe:
    """Reads total and free bytes of one CUDA device.

    The device is found by its UUID, or else by its PCI bus id; never by its number, since CUDA_VISIBLE_DEVICES and
    CUDA_DEVICE_ORDER give CUDA numbers of its own. A MIG slice is only found by its UUID: its bus id is that of the
    whole GPU.

    Parameters
    ----------
    device
        What detection found.
    """

    source = "NVML"

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._nvml: Any = None
        self._started = False
        self._handle: Any = None

    def read(self) -> tuple[int, int]:
        """Return (total, free) bytes.

        Raises
        ------
        SourceUnavailableError
            There is no such answer on this machine, now or later.
        DeviceLostError, DeviceFailingError
            The device is gone, or may be.
        Exception
            Any other failure, which may pass.
        """
        nvml = self._import()
        try:
            try:
                return self._query(nvml)
            except nvml.NVMLError as error:
                if error.value != _UNINITIALIZED:
                    raise
                # Another library of this process has shut NVML down under us; handles are void, too.
                self._started, self._handle = False, None
                return self._query(nvml)
        except nvml.NVMLError as error:
            if error.value in _UNAVAILABLE:
                raise SourceUnavailableError(f"NVML: {_UNAVAILABLE[error.value]}") from error
            if error.value in _LOST:
                raise DeviceLostError(f"NVML: {_LOST[error.value]}") from error
            if error.value == _UNKNOWN:
                raise DeviceFailingError(f"NVML: {error}") from error
            raise

    def driver_version(self) -> str:
        """Return the version of the driver; raises as `read` does, or what nvidia-ml-py raises."""
        nvml = self._import()
        nvml.nvmlInit()
        try:
            return str(nvml.nvmlSystemGetDriverVersion())
        finally:
            nvml.nvmlShutdown()

    def close(self) -> None:
        """Let NVML go; further calls do nothing."""
        if not self._started:
            return
        self._started, self._handle = False, None
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:  # somebody else has shut it down already
            pass

    def _import(self) -> Any:
        if self._nvml is None:
            try:
                import pynvml
            except ImportError as error:
                raise SourceUnavailableError(
                    "the package nvidia-ml-py is missing; pip install 'dataflare[cuda13]'"
                ) from error
            self._nvml = pynvml
        return self._nvml

    def _query(self, nvml: Any) -> tuple[int, int]:
        if not self._started:
            nvml.nvmlInit()
            self._started = True
        if self._handle is None:
            self._handle = self._find(nvml)
        # The first form of this query: whether `used` of the second includes what the driver reserves is unclear,
        # and `free`, all that is wanted, is the same in both.
        memory = nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return int(memory.total), int(memory.free)

    def _find(self, nvml: Any) -> Any:
        try:
            return nvml.nvmlDeviceGetHandleByUUID(self._device.uuid)
        except nvml.NVMLError as error:
            if self._device.is_mig or error.value not in _LOOK_ELSEWHERE:
                raise
        return nvml.nvmlDeviceGetHandleByPciBusId(self._device.pci_bus_id)
