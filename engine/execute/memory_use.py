"""MemoryUse and GrowthBound: growth of the process against what the engine has accounted for, and against its limit.

Covers resident memory from procfs, with psutil where there is none, and giving back what allocators keep. Counting
and admitting are not here (``dataflare.control``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import lru_cache

__all__ = ["GrowthBound", "MemoryUse"]

_STATM = "/proc/self/statm"
_BEARABLE_SHARE = 3 / 4  # what is decoded and encoded until the next look is to fit as well
# Of the limit: a look costs microseconds, giving back some milliseconds, and the pages have to be got anew.
_STEP_SHARE = 1 / 16


class MemoryUse:
    """Resident memory and pool memory at the moment it is made, to compare with later."""

    def __init__(self) -> None:
        self._resident_bytes = resident_bytes()
        self._pool_bytes = _pool_bytes()

    def unaccounted_bytes(self, accounted_bytes: int) -> int | None:
        """Return the growth of resident memory that neither the pool nor ``accounted_bytes`` explains."""
        now = resident_bytes()
        if now is None or self._resident_bytes is None:
            return None
        pool_growth = max(0, _pool_bytes() - self._pool_bytes)
        return max(0, now - self._resident_bytes - max(pool_growth, accounted_bytes))


class GrowthBound:
    """Has Arrow's allocator give memory back to the system before the process grows beyond a limit.

    What was decoded, copied and encoded is free again after each block, and no longer counted. Arrow's allocator keeps
    it for what comes next, more and more in a long run, since some threads free what others have allocated.

    Parameters
    ----------
    limit_bytes
        How much the process may grow from now on.
    resident
        Tells the resident memory; None when the system does not say, and then nothing is done.
    give_back
        What is called where there is too much: that of Arrow's default pool when None.
    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        resident: Callable[[], int | None] | None = None,
        give_back: Callable[[], object] | None = None,
    ) -> None:
        self._resident = resident_bytes if resident is None else resident
        self._give_back = _release_arrow_memory if give_back is None else give_back
        self._step_bytes = max(1, int(_STEP_SHARE * limit_bytes))
        self._passed_bytes = 0
        self._times = 0
        self._thread = threading.local()
        self._bearable_bytes = (self._resident() or 0) + int(_BEARABLE_SHARE * limit_bytes)
        self._next_bytes = self._bearable_bytes

    def note_batch(self, nbytes: int) -> None:
        """Take note of the bytes of one more batch; where it is time to look, look. Any thread may call it."""
        self.follow()
        self._passed_bytes += nbytes
        if self._passed_bytes < self._step_bytes:
            return
        self._passed_bytes = 0
        now = self._resident()
        if now is None or now <= self._next_bytes:
            return
        self._times += 1
        self.follow()
        # What is left is in use, or not Arrow's: there is no point in trying again before there is more.
        self._next_bytes = max(self._bearable_bytes, (self._resident() or now) + self._step_bytes)

    def follow(self) -> None:
        """Give back the calling thread's part, where any thread has given back its own since it last did."""
        times = self._times
        if getattr(self._thread, "times", 0) != times:
            self._thread.times = times
            self._give_back()


def _release_arrow_memory() -> None:
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def resident_bytes() -> int | None:
    """Return the resident memory of this process, None when the system does not say."""
    try:
        return int(os.pread(_statm(os.getpid()), 128, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    try:
        import psutil

        return int(psutil.Process().memory_info().rss)
    except Exception:
        return None


@lru_cache(maxsize=1)
def _statm(process_id: int) -> int:
    """Return procfs's file opened, once a process: opening it takes four times as long as reading it."""
    return os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)


def _pool_bytes() -> int:
    from dataflare.kernels.memory.pool import default_pool

    return default_pool().statistics().allocated_bytes
