"""Finds conflicting accesses that nothing orders: two threads, one byte, at least one write, no barrier between.

For each granule the last writer and the last readers are remembered. Two accesses are ordered if one thread makes
both, if the threads share a block that passed a barrier between, or share a warp that passed a ``bar.warp.sync``.
Does not see an order made by atomics and fences, nor a race with an access older than the last of its kind.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dataflare.kernels.emulator.types import Array

__all__ = ["RaceShadow", "access_keys"]

# A key: who in the upper half, with two flags for readers; the epochs of block and warp in 16 bits each.
_THREAD_SHIFT: Final = 32
_THREAD_MASK: Final = (1 << 29) - 1
_MANY: Final = 1 << 61
_MANY_WARPS: Final = 1 << 62
_BLOCK_EPOCH: Final = 0xFFFF0000
_WARP_EPOCH: Final = 0xFFFF
_NOBODY: Final = -1


def access_keys(thread: Array, block_epoch: Array, warp_epoch: Array) -> Array:
    """Return one key for each access: the thread's number in the grid and the epochs of its block and warp."""
    epochs = ((block_epoch & 0xFFFF) << 16) | (warp_epoch & 0xFFFF)
    return np.asarray(((thread & _THREAD_MASK) << _THREAD_SHIFT) | epochs)


class RaceShadow:
    """The last writer and readers of each granule of a piece of memory.

    Parameters
    ----------
    size_bytes
        Of the memory.
    granule_bytes
        The smallest access.
    threads
        Of a block.
    spans_blocks
        Whether threads of different blocks may meet here, as in global memory.
    """

    def __init__(self, size_bytes: int, granule_bytes: int, threads: int, *, spans_blocks: bool) -> None:
        self._granule_bytes = granule_bytes
        self._threads = threads
        self._warps = -(-threads // 32)
        self._spans_blocks = spans_blocks
        self._writer = np.full(-(-size_bytes // granule_bytes), _NOBODY, np.int64)
        self._reader = self._writer.copy()

    def access(self, offsets: Array, size_bytes: int, keys: Array, *, writes: bool) -> Array | None:
        """Note an access of each lane at a byte offset; return which of them race, or None where none does."""
        wrong = np.zeros(offsets.shape, np.bool_)
        first = offsets // self._granule_bytes
        for granule in range(max(1, size_bytes // self._granule_bytes)):
            at = first + granule
            self._mark(wrong, self._writer[at], keys)
            if writes:
                self._mark(wrong, self._reader[at], keys)
                self._writer[at] = keys
                wrong |= self._writer[at] != keys  # another lane wrote it with the same instruction
            else:
                self._note_readers(at, keys)
        return wrong if wrong.any() else None

    def _mark(self, wrong: Array, before: Array, now: Array) -> None:
        """Set `wrong` where an access of now and one before are not ordered."""
        difference = before ^ now
        suspect = (before != _NOBODY) & (difference >> _THREAD_SHIFT != 0)
        if not self._spans_blocks:
            suspect &= (difference & _BLOCK_EPOCH) == 0
        if not suspect.any():
            return
        at = np.nonzero(suspect)[0]
        before, now, difference = before[at], now[at], difference[at]
        thread_before = (before >> _THREAD_SHIFT) & _THREAD_MASK
        thread_now = now >> _THREAD_SHIFT
        same_warp = (self._warp(thread_before) == self._warp(thread_now)) & ((before & _MANY_WARPS) == 0)
        ordered = same_warp & ((difference & _WARP_EPOCH) != 0)
        if self._spans_blocks:
            same_block = thread_before // self._threads == thread_now // self._threads
            ordered |= same_block & ((difference & _BLOCK_EPOCH) != 0)
        wrong[at[~ordered]] = True

    def _note_readers(self, at: Array, keys: Array) -> None:
        before = self._reader[at]
        difference = before ^ keys
        joins = (before != _NOBODY) & (difference & (_BLOCK_EPOCH | _WARP_EPOCH) == 0) & (difference != 0)
        new = keys
        if joins.any():
            other_warp = self._warp((before >> _THREAD_SHIFT) & _THREAD_MASK) != self._warp(
                keys >> _THREAD_SHIFT
            )
            joined = before | _MANY | np.where(other_warp, _MANY_WARPS, 0)
            new = np.where(joins, joined, keys)
        self._reader[at] = new
        after = self._reader[at]
        lost = after != new
        if lost.any():  # several lanes read it with this instruction
            place = at[lost]
            self._reader[place] |= _MANY
            other_warp = self._warp((after[lost] >> _THREAD_SHIFT) & _THREAD_MASK) != self._warp(
                (new[lost] >> _THREAD_SHIFT) & _THREAD_MASK
            )
            self._reader[place[other_warp]] |= _MANY_WARPS

    def _warp(self, thread: Array) -> Array:
        return np.asarray(thread // self._threads * self._warps + thread % self._threads // 32)
