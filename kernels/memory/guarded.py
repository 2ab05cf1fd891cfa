"""Memory that traps, to debug code that works on raw addresses: a pool, and copies of Arrow columns.

Every block lies in pages of its own between two protected ones. It ends flush against the one behind, so that
touching a byte too far is a fault (by up to 63 bytes less: blocks keep their alignment and their slack), or begins
after the one before. What lies between the block and the protected pages is looked at when the block goes: a write
there ends the process. Fresh blocks hold `POISON`, so that a result that was never written is a wrong one, and
blocks that are given back become inaccessible. The environment variable ``DATAFLARE_GUARD_MEMORY`` makes this the
memory of a process: ``end``, ``start``, or ``1`` for either in turn.

A fault is a signal. Whoever runs code on this memory does so in a process of its own, and `faulthandler` says where.
Does not cover memory that others allocate (Arrow's results, constants of machine code), nor nested columns.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import mmap
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

import pyarrow as pa

from dataflare.kernels.errors import MemoryLimitError, OptionError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import (
    ALIGNMENT_BYTES,
    SLACK_BYTES,
    HostBlock,
    HostPool,
    PoolStatistics,
    checked_request,
)

__all__ = [
    "GUARD_VARIABLE",
    "POISON",
    "GuardedBlock",
    "GuardedPool",
    "Placement",
    "guarded_column",
    "placement_asked_for",
]

GUARD_VARIABLE: Final = "DATAFLARE_GUARD_MEMORY"

POISON: Final = 0xA5
"""Each byte of a fresh block, of the room around blocks, and of values under a null of guarded columns."""

Placement = Literal["end", "start", "alternate"]
"""Which side of a block is flush against a protected page."""

_QUARANTINED_REGIONS: Final = 8192  # addresses that trap after use; a process may have some 65,000 mappings
_NO_ACCESS: Final = 0
_READ_ONLY: Final = mmap.PROT_READ


def placement_asked_for() -> Placement | None:
    """Return what ``DATAFLARE_GUARD_MEMORY`` says; None where memory is not to be guarded.

    Raises
    ------
    OptionError
        The variable says something else.
    """
    text = os.environ.get(GUARD_VARIABLE, "")
    match text:
        case "" | "0":
            return None
        case "1":
            return "alternate"
        case "end" | "start":
            return text
    raise OptionError(
        f"{GUARD_VARIABLE} must be 'end', 'start', '1' for either in turn, or '0', not {text!r}."
    )


class _Region:
    """Whole pages between two protected ones, poisoned; unmapped when the last reference goes."""

    __slots__ = ("_mapping", "_protect", "_view", "end", "start")

    def __init__(self, nbytes: int) -> None:
        page_bytes = mmap.PAGESIZE
        inside_bytes = max(1, -(-nbytes // page_bytes)) * page_bytes
        self._mapping = mmap.mmap(
            -1, inside_bytes + 2 * page_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self._view = ctypes.c_char.from_buffer(self._mapping)
        # Not one that releases the interpreter's lock: destructors use it, too.
        self._protect = ctypes.PyDLL(None, use_errno=True).mprotect
        self._protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self.start = ctypes.addressof(self._view) + page_bytes
        self.end = self.start + inside_bytes
        ctypes.memset(self.start, POISON, inside_bytes)
        self._set(self.start - page_bytes, page_bytes, _NO_ACCESS)
        self._set(self.end, page_bytes, _NO_ACCESS)

    def freeze(self) -> None:
        """Make writing a fault."""
        self._set(self.start, self.end - self.start, _READ_ONLY)

    def close(self) -> None:
        """Give the memory back, and keep the addresses: touching them is a fault."""
        self._mapping.madvise(mmap.MADV_DONTNEED)
        self._set(self.start, self.end - self.start, _NO_ACCESS)

    def damaged_at(self, address: int, nbytes: int) -> int | None:
        """Return the first address outside ``nbytes`` bytes from ``address`` on that somebody wrote to."""
        for first, last in ((self.start, address), (address + nbytes, self.end)):
            room = ctypes.string_at(first, last - first)
            whole = len(room) - len(room.lstrip(bytes([POISON])))
            if whole < len(room):
                return first + whole
        return None

    def _set(self, address: int, nbytes: int, access: int) -> None:
        if self._protect(address, nbytes, access):
            raise OSError(ctypes.get_errno(), "memory cannot be protected")


class GuardedBlock(HostBlock):
    """A `HostBlock` between protected pages. Its content is `POISON`; when it goes, its addresses trap."""

    __slots__ = ("_guards", "_origin", "_region")

    def __init__(self, pool: GuardedPool, region: _Region, address: int, nbytes: int, origin: str) -> None:
        self._guards = pool
        self._region = region
        self._origin = origin
        self.address = address
        self.nbytes = nbytes

    def __del__(self, _ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if _ending():  # what this needs may be gone already, and the memory is about to go anyway
            return
        written = self._region.damaged_at(self.address, self.capacity_bytes)
        if written is not None:
            self._stop(written)
        self._region.close()
        self._guards._take_back(self._region)

    @property
    def capacity_bytes(self) -> int:
        """Bytes that may be written: ``nbytes`` and the slack."""
        return self.nbytes + SLACK_BYTES

    def _stop(self, written: int) -> None:
        where = (
            f"{self.address - written} bytes before it"
            if written < self.address
            else f"{written - self.address - self.capacity_bytes} bytes behind it and its slack of {SLACK_BYTES}"
        )
        os.write(
            2,
            f"dataflare: memory was written {where}: the block of {self.nbytes:,} bytes at {self.address:#x} "
            f"that {self._origin} asked for. Found when the block was given back.\n".encode(),
        )
        os.abort()


class GuardedPool(HostPool):
    """A pool whose blocks are never used again and trap outside their bytes, see the module. Thread-safe.

    Parameters
    ----------
    placement
        Which side of each block is flush against a protected page.
    """

    def __init__(self, placement: Placement = "alternate") -> None:
        self._placement: Placement = placement
        super().__init__(limit_bytes=0)
        if not faulthandler.is_enabled():
            faulthandler.enable()

    def _reset(self) -> None:
        super()._reset()
        self._serial = itertools.count()
        self._in_use: dict[int, int] = {}  # bytes by first address of a region
        self._quarantine: deque[_Region] = deque(maxlen=_QUARANTINED_REGIONS)

    def acquire(self, nbytes: int) -> HostBlock:
        """Return a block of ``nbytes`` bytes and the slack, all `POISON`; see `HostPool.acquire`."""
        capacity_bytes = checked_request(nbytes) + SLACK_BYTES
        try:
            region = _Region(capacity_bytes)
        except (OSError, MemoryError) as error:
            raise MemoryLimitError(
                f"the system refused guarded memory for {nbytes:,} bytes: each block takes a mapping and at least "
                f"three pages. Run less at once, or without {GUARD_VARIABLE}."
            ) from error
        at_end = self._placement == "end"
        with self._lock:
            self._allocations += 1
            if self._placement == "alternate":
                at_end = next(self._serial) % 2 == 0
            self._in_use[region.start] = capacity_bytes
            self._peak_allocated_bytes = max(self._peak_allocated_bytes, self._in_use_bytes())
        address = region.end - capacity_bytes if at_end else region.start
        caller = sys._getframe(1)
        origin = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        return GuardedBlock(self, region, address // ALIGNMENT_BYTES * ALIGNMENT_BYTES, nbytes, origin)

    def statistics(self) -> PoolStatistics:
        """Return what the pool holds and has done; nothing lies idle."""
        with self._lock:
            in_use_bytes = self._in_use_bytes()
            return PoolStatistics(
                in_use_bytes=in_use_bytes,
                idle_bytes=0,
                allocated_bytes=in_use_bytes,
                peak_allocated_bytes=self._peak_allocated_bytes,
                limit_bytes=self._limit_bytes,
                acquisitions=self._allocations,
                allocations=self._allocations,
            )

    def _in_use_bytes(self) -> int:
        return sum(list(self._in_use.values()))  # a copy: a destructor may run in between

    def _take_back(self, region: _Region) -> None:
        """Keep a region whose block is gone; destructors call this, so it does what is atomic."""
        self._in_use.pop(region.start, None)  # not there in a child process
        self._quarantine.append(region)


# ------------------------------------------------------------------------------------------------- inputs


def guarded_column(column: HostColumn, *, at_end: bool = True) -> HostColumn:
    """Return a copy of a column each of whose buffers can be read, and only where Arrow says that it has bytes.

    Buffers have neither padding nor alignment: they end flush against a protected page, or begin after one. They
    are read-only. Values under a null are `POISON` (views are empty), and so is text that no row refers to. Rows
    before the first one are left out, as far as whole bytes of bitmaps allow. Nested columns come back as they are.
    """
    return HostColumn.from_arrow(_guarded_array(column.to_arrow(), at_end=at_end))


def _guarded_array(array: pa.Array[Any], *, at_end: bool) -> pa.Array[Any]:
    data_type: Any = array.type
    if isinstance(array, pa.DictionaryArray):
        indices = _guarded_array(array.indices, at_end=at_end)
        dictionary = _guarded_array(array.dictionary, at_end=at_end)
        return pa.DictionaryArray.from_buffers(
            data_type, len(array), indices.buffers(), dictionary, array.null_count, indices.offset
        )
    columns = HostColumn.from_arrow(array)
    if not columns.addresses:
        return array
    buffers = array.buffers()
    skipped = array.offset // 8 * 8
    offset = array.offset - skipped
    rows = offset + len(array)
    validity = None
    if buffers[0] is not None and array.null_count:
        validity = _guarded(_part(buffers[0], skipped // 8, (rows + 7) // 8), at_end=at_end)
    pieces = _pieces(array, buffers, skipped, rows)
    if array.null_count and pieces and data_type.id not in _WITH_OFFSETS and data_type != pa.bool_():
        _poison_nulls(array, pieces[0], offset)
    made = [validity, *(None if piece is None else _guarded(piece, at_end=at_end) for piece in pieces)]
    return pa.Array.from_buffers(data_type, len(array), made, array.null_count, offset)


_WITH_OFFSETS = frozenset(
    {pa.lib.Type_STRING, pa.lib.Type_BINARY, pa.lib.Type_LARGE_STRING, pa.lib.Type_LARGE_BINARY}
)
_VIEWS = frozenset({pa.lib.Type_STRING_VIEW, pa.lib.Type_BINARY_VIEW})


def _pieces(array: pa.Array[Any], buffers: list[Any], skipped: int, rows: int) -> list[bytearray | None]:
    """Return the bytes of every buffer but the validity, from row ``skipped`` of them on."""
    data_type: Any = array.type
    if data_type.id in _VIEWS:
        whole = [None if each is None else bytearray(each.to_pybytes()) for each in buffers[2:]]
        return [_part(buffers[1], 16 * skipped, 16 * rows), *whole]
    if data_type.id not in _WITH_OFFSETS:
        if data_type == pa.bool_():
            return [_part(buffers[1], skipped // 8, (rows + 7) // 8)]
        width_bytes = data_type.bit_width // 8
        return [_part(buffers[1], skipped * width_bytes, rows * width_bytes)]
    width_bytes = 8 if data_type.id in (pa.lib.Type_LARGE_STRING, pa.lib.Type_LARGE_BINARY) else 4
    if not len(array):
        return [bytearray(width_bytes), bytearray()]
    offsets = _part(buffers[1], skipped * width_bytes, (rows + 1) * width_bytes)
    first, last = (
        int.from_bytes(offsets[place * width_bytes : (place + 1) * width_bytes], "little")
        for place in (array.offset - skipped, rows)
    )
    text = bytearray([POISON]) * first
    if buffers[2] is not None:
        text += _part(buffers[2], first, last - first)
    return [offsets, text]


def _part(buffer: Any, start: int, nbytes: int) -> bytearray:
    return bytearray(buffer.slice(start, nbytes).to_pybytes()) if buffer is not None else bytearray()


def _poison_nulls(array: pa.Array[Any], values: bytearray | None, offset: int) -> None:
    if not values:
        return
    is_view = array.type.id in _VIEWS
    width_bytes = 16 if is_view else array.type.bit_width // 8
    filler = bytes([0 if is_view else POISON]) * width_bytes  # Arrow itself follows views under a null
    for row, is_null in enumerate(array.is_null().to_pylist(), offset):
        if is_null:
            values[row * width_bytes : (row + 1) * width_bytes] = filler


def _guarded(content: bytearray, *, at_end: bool) -> pa.Buffer:
    region = _Region(len(content))
    address = region.end - len(content) if at_end else region.start
    ctypes.memmove(address, bytes(content), len(content))
    region.freeze()
    return pa.foreign_buffer(address, len(content), base=region)
