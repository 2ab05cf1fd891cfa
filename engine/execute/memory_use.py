"""MemoryUse: growth of the process against what the engine has accounted for.

Covers resident memory from procfs, with psutil where there is none. Limits are not here
(``dataflare.control``).
"""

from __future__ import annotations

import os
from functools import lru_cache

__all__ = ["MemoryUse"]

_STATM = "/proc/self/statm"


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
