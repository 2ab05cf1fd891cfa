"""Reusable, aligned blocks of host memory.

A fresh page costs more than the kernel that fills it (an 80 MB output: 40 ms in fresh 4 KiB pages, 12 ms in
huge pages, 7 ms in pages that are already there), so blocks are kept and handed out again. A `HostBlock` is
counted by Python's own references: whoever needs the memory holds the block, a ``pyarrow.foreign_buffer``
with ``base=block`` included, and when the last reference goes the memory returns to the pool.

Does not cover reservations and limits of a run (the engine's memory budget) nor pinned or device memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dataflare.kernels.errors import MemoryLimitError, OptionError

__all__ = [
    "ALIGNMENT_BYTES",
    "HUGE_PAGE_BYTES",
    "SLACK_BYTES",
    "HostBlock",
    "HostPool",
    "PoolStatistics",
    "default_pool",
]

ALIGNMENT_BYTES: Final = 64
"""Every block starts at a multiple of this: one cache line, one AVX-512 register."""

SLACK_BYTES: Final = 64
"""Writable bytes after the ones asked for, because SIMD kernels store whole vectors."""

HUGE_PAGE_BYTES: Final = 2 << 20
"""Blocks of more than this are whole huge pages: aligned to them, and advised to use them."""

_SMALLEST_CLASS_BYTES: Final = 256
# From here on blocks are mapped on their own: what the C library gets back between blocks that are in use, it keeps.
_MAPPED_BYTES: Final = 128 << 10
_UNCHECKED_IDLE_BYTES: Final = 1 << 20  # idle bytes of one small size class that need no look at the limit
_REMEMBERED_SIZES: Final = 4096


class _Memory:
    """One piece of address space; unmapped when the last reference to it goes."""

    __slots__ = ("_keepalive", "address")

    def __init__(self, address: int, keepalive: object) -> None:
        self.address = address
        self._keepalive = keepalive


class _SizeClass:
    """The blocks of one size: those that lie idle, and counts."""

    __slots__ = ("acquisitions", "block_bytes", "idle", "last_use", "unchecked_idle_blocks")

    def __init__(self, block_bytes: int, unchecked_idle_blocks: int) -> None:
        self.block_bytes = block_bytes
        # A deque and no lock: a destructor may interrupt the holder of a lock in its own thread.
        self.idle: deque[_Memory] = deque()
        self.acquisitions = 0
        self.last_use = 0
        self.unchecked_idle_blocks = unchecked_idle_blocks


class HostBlock:
    """Writable host memory, 64-byte aligned, owned by whoever holds this object.

    At least `SLACK_BYTES` more than ``nbytes`` may be written. The content is whatever was there before.
    When the object is garbage collected, its memory goes back to its pool: keep the block, not the address.
    ``numpy.asarray(block)`` is a view of its bytes that keeps it alive.
    """

    __slots__ = ("__weakref__", "_memory", "_pool", "_size_class", "address", "nbytes")

    address: int
    """Where the memory starts."""
    nbytes: int
    """How many bytes were asked for."""

    def __init__(self, pool: HostPool, size_class: _SizeClass, memory: _Memory, nbytes: int) -> None:
        self._pool = pool
        self._size_class = size_class
        self._memory = memory
        self.address = memory.address
        self.nbytes = nbytes

    def __del__(self) -> None:
        # Runs in any thread, possibly in the middle of the pool's own code: atomic operations only.
        size_class = self._size_class
        idle = size_class.idle
        idle.append(self._memory)
        if len(idle) > size_class.unchecked_idle_blocks:
            pool = self._pool
            if pool._allocated_bytes > pool._limit_bytes:
                pool._shed()

    @property
    def capacity_bytes(self) -> int:
        """Bytes that may be written: ``nbytes``, the slack, and what rounding to a size class added."""
        return self._size_class.block_bytes

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, False)}

    def __repr__(self) -> str:
        return f"<HostBlock of {self.nbytes:,} bytes at {self.address:#x}>"


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a `HostPool` holds and has done, at one moment."""

    in_use_bytes: int
    """Bytes of blocks that somebody holds, rounded up to their size classes."""
    idle_bytes: int
    """Bytes of blocks that wait to be handed out again. They count as resident memory of the process."""
    allocated_bytes: int
    """Bytes taken from the system and not given back: in use and idle."""
    peak_allocated_bytes: int
    """The most that ``allocated_bytes`` has been."""
    limit_bytes: int
    """The most bytes that may lie idle."""
    acquisitions: int
    """Blocks handed out so far."""
    allocations: int
    """Blocks taken from the system so far; the other acquisitions reused an idle block."""

    @property
    def reuse_ratio(self) -> float | None:
        """Share of the acquisitions that needed no fresh memory; None before the first one."""
        if not self.acquisitions:
            return None
        return 1.0 - self.allocations / self.acquisitions


class HostPool:
    """A pool of aligned, reusable blocks of host memory. Thread-safe.

    Sizes are rounded up to classes, four a doubling, so that batches of nearly the same size share blocks.
    A block comes back into its class when it is garbage collected; the one returned last is handed out first,
    because the caches may still hold it. A process made by ``fork`` starts with an empty pool: blocks that it
    inherited stay usable there, as private copies, and are unmapped when they go, never handed out again.

    Parameters
    ----------
    limit_bytes
        The most bytes that may lie idle before the least recently used ones go back to the system. None means
        a quarter of the machine's memory, or of the control group's limit where that is smaller.
    """

    def __init__(self, *, limit_bytes: int | None = None) -> None:
        self._limit_bytes = _default_limit_bytes() if limit_bytes is None else _checked_limit(limit_bytes)
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        """Start with nothing. Blocks in use keep their former size class alive and die with it."""
        self._lock = threading.Lock()  # for all that changes with memory taken from or given to the system
        self._by_size: dict[int, _SizeClass] = {}
        self._by_request: dict[int, _SizeClass] = {}
        self._clock = 0
        self._allocations = 0
        self._allocated_bytes = 0
        self._peak_allocated_bytes = 0

    @property
    def limit_bytes(self) -> int:
        """The most bytes that may lie idle. Setting it lower gives memory back at once."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, limit_bytes: int) -> None:
        with self._lock:
            self._limit_bytes = _checked_limit(limit_bytes)
            for size_class in self._by_size.values():
                size_class.unchecked_idle_blocks = self._unchecked_idle_blocks(size_class.block_bytes)
        self._shed()

    def acquire(self, nbytes: int) -> HostBlock:
        """Return a block of at least ``nbytes`` bytes with whatever content it had before.

        Raises
        ------
        MemoryLimitError
            The system has no more memory for this process.
        OptionError
            ``nbytes`` is negative.
        """
        size_class = self._by_request.get(nbytes) or self._class_for(nbytes)
        size_class.acquisitions += 1
        size_class.last_use = self._clock = self._clock + 1
        try:
            memory = size_class.idle.pop()
        except IndexError:
            return self._acquire_elsewhere(size_class, nbytes)
        return HostBlock(self, size_class, memory, nbytes)

    def trim(self, to_bytes: int = 0) -> int:
        """Give idle memory back to the system until ``to_bytes`` or less lie idle; return the bytes given."""
        with self._lock:
            return self._trim_locked(to_bytes)

    def statistics(self) -> PoolStatistics:
        """Return what the pool holds and has done."""
        with self._lock:
            idle_bytes = self._idle_bytes()
            return PoolStatistics(
                in_use_bytes=self._allocated_bytes - idle_bytes,
                idle_bytes=idle_bytes,
                allocated_bytes=self._allocated_bytes,
                peak_allocated_bytes=self._peak_allocated_bytes,
                limit_bytes=self._limit_bytes,
                acquisitions=sum(size_class.acquisitions for size_class in self._by_size.values()),
                allocations=self._allocations,
            )

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<HostPool: {now.in_use_bytes:,} bytes in use, "
            f"{now.idle_bytes:,} idle of at most {now.limit_bytes:,}>"
        )

    def _class_for(self, nbytes: int) -> _SizeClass:
        block_bytes = _class_bytes(checked_request(nbytes))
        with self._lock:
            size_class = self._by_size.get(block_bytes)
            if size_class is None:
                size_class = _SizeClass(block_bytes, self._unchecked_idle_blocks(block_bytes))
                self._by_size[block_bytes] = size_class
            if len(self._by_request) >= _REMEMBERED_SIZES:
                self._by_request.clear()
            self._by_request[nbytes] = size_class
        return size_class

    def _acquire_elsewhere(self, size_class: _SizeClass, nbytes: int) -> HostBlock:
        """Take an idle block of up to twice the size, or else fresh memory."""
        with self._lock:
            largest_bytes = 2 * size_class.block_bytes
            candidates = sorted(
                (size for size in self._by_size if size_class.block_bytes < size <= largest_bytes),
            )
            for block_bytes in candidates:
                larger = self._by_size[block_bytes]
                with contextlib.suppress(IndexError):  # another thread may have taken the last one
                    return HostBlock(self, larger, larger.idle.pop(), nbytes)
            try:
                memory = _allocate(size_class.block_bytes)
            except (OSError, MemoryError):
                self._trim_locked(0)
                try:
                    memory = _allocate(size_class.block_bytes)
                except (OSError, MemoryError) as error:
                    raise MemoryLimitError(
                        f"the system refused {size_class.block_bytes:,} bytes of host memory; "
                        f"blocks in use take {self._allocated_bytes:,} bytes already. "
                        "Use smaller batches, or set memory_limit so that they become smaller."
                    ) from error
            self._allocations += 1
            self._allocated_bytes += size_class.block_bytes
            self._peak_allocated_bytes = max(self._peak_allocated_bytes, self._allocated_bytes)
        return HostBlock(self, size_class, memory, nbytes)

    def _unchecked_idle_blocks(self, block_bytes: int) -> int:
        return min(_UNCHECKED_IDLE_BYTES, self._limit_bytes // 64) // block_bytes

    def _idle_bytes(self) -> int:
        classes = list(self._by_size.values())  # a copy: another thread may add one
        return sum(len(size_class.idle) * size_class.block_bytes for size_class in classes)

    def _shed(self) -> None:
        """Keep to the limit. Called by destructors, so it never waits: the next to return tries again."""
        if self._idle_bytes() > self._limit_bytes and self._lock.acquire(blocking=False):
            try:
                self._trim_locked(self._limit_bytes)
            finally:
                self._lock.release()

    def _trim_locked(self, to_bytes: int) -> int:
        excess_bytes = self._idle_bytes() - to_bytes
        freed_bytes = 0
        for size_class in sorted(self._by_size.values(), key=lambda each: each.last_use):
            while freed_bytes < excess_bytes:
                try:
                    size_class.idle.popleft()  # the coldest
                except IndexError:
                    break
                freed_bytes += size_class.block_bytes
        self._allocated_bytes -= freed_bytes
        return freed_bytes


def checked_request(nbytes: int) -> int:
    """Return the bytes of a request, or raise `OptionError` where no block can have so many."""
    if nbytes < 0:
        raise OptionError(f"a block cannot have {nbytes} bytes: ask for 0 or more.")
    return nbytes


def _class_bytes(nbytes: int) -> int:
    """Return the size class of a request: four classes a doubling, whole huge pages from 2 MiB on."""
    wanted_bytes = max(nbytes + SLACK_BYTES, _SMALLEST_CLASS_BYTES)
    step_bytes = 1 << ((wanted_bytes - 1).bit_length() - 3)
    if wanted_bytes > HUGE_PAGE_BYTES:
        step_bytes = max(step_bytes, HUGE_PAGE_BYTES)
    return -(-wanted_bytes // step_bytes) * step_bytes


def _allocate(block_bytes: int) -> _Memory:
    if block_bytes < _MAPPED_BYTES:
        return _aligned(bytearray(block_bytes + ALIGNMENT_BYTES), ALIGNMENT_BYTES)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # private, so that a forked child gets copies
    if block_bytes < HUGE_PAGE_BYTES:
        return _aligned(mmap.mmap(-1, block_bytes, flags=flags), ALIGNMENT_BYTES)
    # Mapped with one huge page to spare, which is never touched.
    mapping = mmap.mmap(-1, block_bytes + HUGE_PAGE_BYTES, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages still has memory
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return _aligned(mapping, HUGE_PAGE_BYTES)


def _aligned(storage: bytearray | mmap.mmap, alignment_bytes: int) -> _Memory:
    view = ctypes.c_char.from_buffer(storage)  # keeps the storage alive
    return _Memory(-(-ctypes.addressof(view) // alignment_bytes) * alignment_bytes, view)


def _checked_limit(limit_bytes: int) -> int:
    if limit_bytes < 0:
        raise OptionError(f"limit_bytes of a pool must be 0 or more, not {limit_bytes}.")
    return limit_bytes


def _default_limit_bytes() -> int:
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine_bytes, *_control_group_limits()]) // 4


def _control_group_limits() -> list[int]:
    """Return the memory limits, in bytes, of this process's control group and of the groups around it."""
    try:
        lines = Path("/proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            folder, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):  # version 1
            folder, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        for part in ["", *(part for part in path.split("/") if part not in ("", ".."))]:
            folder /= part
            with contextlib.suppress(OSError, ValueError):  # a container hides outer groups; "max"
                limits.append(int((folder / name).read_text("ascii")))
    return limits


_pools: weakref.WeakSet[HostPool] = weakref.WeakSet()
_default_pool: HostPool | None = None
_default_pool_lock = threading.Lock()


def default_pool() -> HostPool:
    """Return the pool of this process that kernels and batches share."""
    global _default_pool
    if _default_pool is None:
        with _default_pool_lock:
            if _default_pool is None:
                _default_pool = _new_default_pool()
    return _default_pool


def _new_default_pool() -> HostPool:
    if not os.environ.get("DATAFLARE_GUARD_MEMORY"):
        return HostPool()
    from dataflare.kernels.memory.guarded import GuardedPool, placement_asked_for  # builds on this module

    placement = placement_asked_for()
    return HostPool() if placement is None else GuardedPool(placement)


def _start_afresh_in_child() -> None:
    global _default_pool_lock
    _default_pool_lock = threading.Lock()  # another thread of the parent may have held it
    for pool in list(_pools):
        pool._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
