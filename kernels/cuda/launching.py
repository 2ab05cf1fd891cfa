"""Launches kernels by the text that they are made of: compiled and loaded once a device, with a grid for the work."""

from __future__ import annotations

import struct
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from dataflare.kernels.cuda.codegen import KernelText
from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.cuda.primitives import SUM_THREADS, running_sum_kernel
from dataflare.kernels.cuda.ptx import image_of

__all__ = ["Launcher", "launcher_of"]

_BLOCK_THREADS = 256


class Launcher:
    """The kernels of one device. Thread-safe; a kernel that two threads need first is loaded by both."""

    def __init__(self, backend: DeviceBackend) -> None:
        self._backend = weakref.ref(backend)
        self._kernels: dict[Hashable, Any] = {}

    @property
    def backend(self) -> DeviceBackend:
        """The device."""
        backend = self._backend()
        assert backend is not None  # who has columns or a program of a device holds it
        return backend

    def launch(
        self, key: Hashable, make: Callable[[], KernelText], threads: int, slots: Sequence[int], stream: Any
    ) -> None:
        """Run the kernel known by ``key``, or the one that ``make`` returns, with about so many threads."""
        backend = self.backend
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = backend.load(image_of(make(), backend.target))
        blocks = max(1, min(backend.resident_blocks, -(-threads // _BLOCK_THREADS)))
        backend.launch(kernel, blocks, _BLOCK_THREADS, _packed(slots), stream)

    def add_up(self, numbers: int, count: int, total: int, stream: Any) -> None:
        """Replace ``count`` int64 at an address by their running sums, and write the sum of all."""
        backend = self.backend
        kernel = self._kernels.get("running_sum")
        if kernel is None:
            text = running_sum_kernel(backend.target.triple)
            kernel = self._kernels["running_sum"] = backend.load(image_of(text, backend.target))
        backend.launch(kernel, 1, SUM_THREADS, _packed([count, numbers, total]), stream)


_launchers: weakref.WeakKeyDictionary[DeviceBackend, Launcher] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def launcher_of(backend: DeviceBackend) -> Launcher:
    """Return the launcher of a device."""
    with _lock:
        found = _launchers.get(backend)
        if found is None:
            found = _launchers[backend] = Launcher(backend)
        return found


def _packed(slots: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(slots)}Q", *(slot & (2**64 - 1) for slot in slots))
