"""The kernels of one device: compiled and loaded once, whichever program needs them, and launched with a fitting grid.

Does not cover argument blocks: who launches a kernel knows what its slots are.
"""

from __future__ import annotations

import struct
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.cuda.kernel_text import BLOCK_THREADS, KernelText
from dataflare.kernels.cuda.primitives import SUM_THREADS, running_sum_kernel
from dataflare.kernels.cuda.ptx import image_of

__all__ = ["Launcher", "LoadedKernel", "grid_of", "launcher_of"]


class LoadedKernel:
    """A kernel that a device can run, for as long as somebody holds this object.

    Parameters
    ----------
    handle
        What the backend's ``launch`` takes.
    from_disk
        Whether it was in the cache on disk.
    """

    __slots__ = ("__weakref__", "from_disk", "handle")

    def __init__(self, handle: Any, from_disk: bool) -> None:
        self.handle = handle
        self.from_disk = from_disk


class Launcher:
    """The kernels of one device. Thread-safe: of threads that need a kernel at once, one loads it.

    Those of programs go with the last program that holds them; those that are no program's stay.
    """

    def __init__(self, backend: DeviceBackend) -> None:
        self._backend = weakref.ref(backend)
        self._loaded: weakref.WeakValueDictionary[KernelText, LoadedKernel] = weakref.WeakValueDictionary()
        self._shared: dict[Hashable, LoadedKernel] = {}
        self._lock = threading.Lock()

    @property
    def backend(self) -> DeviceBackend:
        """The device."""
        backend = self._backend()
        assert backend is not None  # who has columns or a program of a device holds it
        return backend

    def kernel(self, text: KernelText) -> LoadedKernel:
        """Return a kernel of the device; compiled when it is first needed."""
        with self._lock:
            known = self._loaded.get(text)
            if known is None:
                backend = self.backend
                image = image_of(text, backend.target)
                known = self._loaded[text] = LoadedKernel(backend.load(image), image.from_disk)
            return known

    def shared(self, key: Hashable, make: Callable[[], KernelText]) -> LoadedKernel:
        """Return a kernel that is no program's: the one known by ``key``, or the one that ``make`` returns."""
        known = self._shared.get(key)
        if known is None:
            known = self._shared[key] = self.kernel(make())
        return known

    def launch(self, kernel: LoadedKernel, threads: int, slots: Sequence[int], stream: Any) -> None:
        """Run a kernel with about so many threads."""
        backend = self.backend
        backend.launch(kernel.handle, grid_of(backend, threads), BLOCK_THREADS, _packed(slots), stream)

    def add_up(self, numbers: int, count: int, total: int, stream: Any) -> None:
        """Replace ``count`` int64 at an address by their running sums, and write the sum of all."""
        backend = self.backend
        kernel = self._shared.get("running_sum")
        if kernel is None:
            kernel = self.shared("running_sum", lambda: running_sum_kernel(backend.target))
        backend.launch(kernel.handle, 1, SUM_THREADS, _pack_sums(count, numbers, total), stream)


def grid_of(backend: DeviceBackend, threads: int) -> int:
    """Return the blocks of a grid of about so many threads; at most as many as keep the device busy."""
    return max(1, min(backend.resident_blocks, -(-threads // BLOCK_THREADS)))


_launchers: weakref.WeakKeyDictionary[DeviceBackend, Launcher] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
_pack_sums = struct.Struct("<3Q").pack


def launcher_of(backend: DeviceBackend) -> Launcher:
    """Return the launcher of a device."""
    with _lock:
        found = _launchers.get(backend)
        if found is None:
            found = _launchers[backend] = Launcher(backend)
        return found


def _packed(slots: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(slots)}Q", *(slot & (2**64 - 1) for slot in slots))
