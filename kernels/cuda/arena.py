"""Blocks of a device's memory that are used again, so that batches in a steady state ask the device for none.

Works as ``memory.pool`` does for the host: sizes in classes, four a doubling; a block is counted by Python's own
references and lies idle in its class when nobody holds it. Whoever lets go of a block has waited for the work on it,
so that any stream may have it next.

Does not cover how much of a device a run may use, or what is done when it is full (``recovery``).
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

from dataflare.kernels.cuda.device import ALIGNMENT_BYTES, DeviceBackend, DeviceBlock
from dataflare.kernels.errors import DeviceMemoryError

__all__ = ["ArenaBlock", "ArenaPeak", "DeviceArena", "arena_of"]

_SMALLEST_CLASS_BYTES = 16 * ALIGNMENT_BYTES
_FORGOTTEN_AFTER = 256
"""Acquisitions after which a size that nobody asked for is given back to the device."""


class _SizeClass:
    """The blocks of one size, those that lie idle, and when one was last asked for."""

    __slots__ = ("block_bytes", "idle", "last_use", "owned")

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.idle: deque[DeviceBlock] = deque()  # no lock: destructors append to it
        self.last_use = 0
        # All blocks: one that only an `ArenaBlock` held would be finalised with it where both are in a cycle.
        self.owned: dict[int, DeviceBlock] = {}

    def release_idle(self) -> None:
        """Let go of the blocks that lie idle."""
        while True:
            try:
                block = self.idle.popleft()
            except IndexError:  # another thread may have taken the last one
                return
            del self.owned[block.address]


class ArenaBlock:
    """Memory of a device, lying idle in its arena again when nobody holds this object."""

    __slots__ = ("__weakref__", "_block", "_idle", "address", "nbytes")

    def __init__(self, block: DeviceBlock, idle: deque[DeviceBlock], nbytes: int) -> None:
        self._block = block
        self._idle = idle
        self.address = block.address
        self.nbytes = nbytes

    def __del__(self) -> None:
        self._idle.append(self._block)  # in any thread, in the middle of anything: one atomic operation


class ArenaPeak:
    """The most bytes that an arena held since this was made by `DeviceArena.watch_peak`."""

    __slots__ = ("__weakref__", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


class DeviceArena:
    """The blocks of one device that its programs share. Thread-safe."""

    def __init__(self, backend: DeviceBackend) -> None:
        # Weakly, as the backend holds its arena: memory goes when the backend does, and not when cycles are looked for.
        self._backend = weakref.ref(backend)
        self._classes: dict[int, _SizeClass] = {}
        self._lock = threading.Lock()
        self._clock = 0
        self._peaks: weakref.WeakSet[ArenaPeak] = weakref.WeakSet()
        self.acquisitions = 0
        """Blocks that were handed out."""
        self.allocations = 0
        """Blocks that came from the device; the other acquisitions used an idle one again."""

    @property
    def idle_bytes(self) -> int:
        """Bytes that lie idle: used, as the device counts, and free for the next batch."""
        return sum(len(each.idle) * each.block_bytes for each in tuple(self._classes.values()))

    @property
    def held_bytes(self) -> int:
        """Bytes that were taken from the device, those that lie idle included."""
        return sum(len(each.owned) * each.block_bytes for each in tuple(self._classes.values()))

    def watch_peak(self) -> ArenaPeak:
        """Return what follows the most bytes held from now on, for as long as somebody keeps it."""
        with self._lock:
            peak = ArenaPeak(self.held_bytes)
            self._peaks.add(peak)
        return peak

    def acquire(self, nbytes: int) -> ArenaBlock:
        """Return a block of at least so many bytes; its content is whatever was there.

        Raises
        ------
        DeviceMemoryError
            If the device has not so much left, even without the blocks that lie idle here.
        """
        block_bytes = class_bytes(nbytes)
        self._clock += 1
        self.acquisitions += 1
        size_class = self._classes.get(block_bytes)
        if size_class is not None:
            size_class.last_use = self._clock
            try:
                return ArenaBlock(size_class.idle.pop(), size_class.idle, nbytes)
            except IndexError:
                pass
        return self._acquire_elsewhere(block_bytes, nbytes)

    def release_idle(self) -> None:
        """Give all idle blocks back to the device."""
        for size_class in tuple(self._classes.values()):
            size_class.release_idle()
        backend = self._backend()
        if backend is not None:
            backend.release_idle()

    def _acquire_elsewhere(self, block_bytes: int, nbytes: int) -> ArenaBlock:
        """Take an idle block of up to twice the size, or else one of the device."""
        for larger_bytes in sorted(self._classes):
            if block_bytes < larger_bytes <= 2 * block_bytes:
                larger = self._classes[larger_bytes]
                try:
                    found = ArenaBlock(larger.idle.pop(), larger.idle, nbytes)
                except IndexError:
                    continue
                larger.last_use = self._clock
                return found
        backend = self._backend()
        assert backend is not None
        with self._lock:
            size_class = self._classes.setdefault(block_bytes, _SizeClass(block_bytes))
            size_class.last_use = self._clock
            for other in self._classes.values():
                if self._clock - other.last_use > _FORGOTTEN_AFTER:
                    other.release_idle()
        try:
            block = backend.acquire(block_bytes)
        except DeviceMemoryError:
            self.release_idle()
            block = backend.acquire(block_bytes)
        size_class.owned[block.address] = block
        self.allocations += 1
        with self._lock:
            held_bytes = self.held_bytes
            for peak in self._peaks:
                peak.nbytes = max(peak.nbytes, held_bytes)
        return ArenaBlock(block, size_class.idle, nbytes)


def class_bytes(nbytes: int) -> int:
    """Return the size class of a request: four classes a doubling."""
    if nbytes <= _SMALLEST_CLASS_BYTES:
        return _SMALLEST_CLASS_BYTES
    step_bytes = 1 << ((nbytes - 1).bit_length() - 3)
    return -(-nbytes // step_bytes) * step_bytes


_making = threading.Lock()


def arena_of(backend: DeviceBackend) -> DeviceArena:
    """Return the arena of a device: one for all programs."""
    if backend.arena is None:
        with _making:
            if backend.arena is None:
                backend.arena = DeviceArena(backend)
    return backend.arena
