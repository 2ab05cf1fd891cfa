"""The part of the CUDA driver's library that can be asked without making a context.

Covers versions and what devices there are. A context is made by the backend when work begins; `cuInit`, which
`CudaDriver.initialise` calls, makes none, but a process that has called it can no longer be forked for GPU work.
"""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass
from typing import Any

__all__ = ["CudaDevice", "CudaDriver", "DriverCallError", "Version"]

Version = tuple[int, int]

_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_INTEGRATED = 18
_COMPUTE_MODE = 20
_PROHIBITED = 2


class DriverCallError(Exception):
    """A call of the driver failed.

    Parameters
    ----------
    call
        Name of the function.
    code
        What it returned, a ``CUresult``.
    name
        What the driver calls this code; empty where it does not say.
    """

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call} returned {code}" + (f" ({name})" if name else ""))
        self.call = call
        self.code = code


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU, or one slice of one, as the CUDA driver lists it."""

    ordinal: int
    """Its number among the visible devices, as in ``"cuda:1"``."""
    name: str
    compute_capability: Version
    total_bytes: int
    uuid: str
    """As NVML writes it: ``GPU-…``, or ``MIG-…`` for a slice."""
    pci_bus_id: str
    """``domain:bus:device.function``; a slice has that of its GPU."""
    is_mig: bool
    """It is a slice of a GPU (Multi-Instance GPU)."""
    has_unified_memory: bool
    """Host and GPU share one memory, as on Jetson and DGX Spark."""
    is_prohibited: bool
    """Its compute mode lets no process use it."""

    @property
    def label(self) -> str:
        """The device as DataFlare names it."""
        return f"cuda:{self.ordinal}"


class CudaDriver:
    """Calls of one ``libcuda``; each failure is a `DriverCallError`.

    Parameters
    ----------
    library
        The loaded library. One that lacks a function raises AttributeError at the call: it is too old.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def initialise(self) -> None:
        """Call ``cuInit``, without which nothing else is answered."""
        self._call("cuInit", 0)

    def supported_cuda(self) -> Version:
        """Return the newest CUDA version that this driver supports."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value // 1000, version.value % 1000 // 10

    def devices(self) -> tuple[CudaDevice, ...]:
        """Return the visible devices, in the order of their ordinals."""
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return tuple(self._device(ordinal) for ordinal in range(count.value))

    def _device(self, ordinal: int) -> CudaDevice:
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), ordinal)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), handle)
        total = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(total), handle)
        bus_id = ctypes.create_string_buffer(32)
        self._call("cuDeviceGetPCIBusId", bus_id, len(bus_id), handle)
        # Of a slice the older function gives the UUID of its GPU and the newer one its own.
        own = self._uuid("cuDeviceGetUuid_v2", handle)
        is_mig = own != self._uuid("cuDeviceGetUuid", handle)
        return CudaDevice(
            ordinal=ordinal,
            name=name.value.decode(errors="replace"),
            compute_capability=(
                self._attribute(_COMPUTE_CAPABILITY_MAJOR, handle),
                self._attribute(_COMPUTE_CAPABILITY_MINOR, handle),
            ),
            total_bytes=total.value,
            uuid=f"{'MIG' if is_mig else 'GPU'}-{own}",
            pci_bus_id=bus_id.value.decode(errors="replace"),
            is_mig=is_mig,
            has_unified_memory=bool(self._attribute(_INTEGRATED, handle)),
            is_prohibited=self._attribute(_COMPUTE_MODE, handle) == _PROHIBITED,
        )

    def _uuid(self, function: str, handle: ctypes.c_int) -> uuid.UUID:
        octets = (ctypes.c_ubyte * 16)()
        self._call(function, ctypes.byref(octets), handle)
        return uuid.UUID(bytes=bytes(octets))

    def _attribute(self, number: int, handle: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, handle)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            raise DriverCallError(function, code, self._name(code))

    def _name(self, code: int) -> str:
        name = ctypes.c_char_p()
        if not hasattr(self._library, "cuGetErrorName"):
            return ""
        self._library.cuGetErrorName(code, ctypes.byref(name))
        return (name.value or b"").decode(errors="replace")
