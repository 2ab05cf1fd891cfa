"""Joins columns end to end in one block of the pool, with all cores where that pays.

Covers values of a fixed width in bytes without nulls, which is what most results are made of; `join_columns` leaves
every other column to Arrow.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dataflare.kernels.memory.column import HostColumn, fixed_width_bytes
from dataflare.kernels.memory.pool import default_pool

__all__ = ["join_columns"]

_PARALLEL_BYTES = 8 << 20  # below this a second thread costs more to start than it copies

_Copy = tuple[int, int, int]  # target, source, bytes


def join_columns(columns: Sequence[Sequence[HostColumn]]) -> list[HostColumn | None]:
    """Return for each sequence of parts their concatenation, or None where Arrow has to make it.

    The parts of one column have one type; a single part is returned as it is.
    """
    copies: list[_Copy] = []
    joined = [_plan(parts, copies) for parts in columns]
    total_bytes = sum(nbytes for _, _, nbytes in copies)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if total_bytes < _PARALLEL_BYTES or cores == 1:
        _copy(copies)
        return joined
    with ThreadPoolExecutor(min(cores, len(copies))) as threads:  # memmove releases the interpreter lock
        for _ in threads.map(_copy, (copies[core::cores] for core in range(cores))):
            pass
    return joined


def _plan(parts: Sequence[HostColumn], copies: list[_Copy]) -> HostColumn | None:
    if len(parts) == 1:
        return parts[0]
    width_bytes = fixed_width_bytes(parts[0].type)
    if not width_bytes or any(part.null_count for part in parts):
        return None
    rows = sum(part.length for part in parts)
    block = default_pool().acquire(rows * width_bytes)
    target = block.address
    for part in parts:
        nbytes = part.length * width_bytes
        if nbytes:
            copies.append((target, part.addresses[1] + part.offset * width_bytes, nbytes))
        target += nbytes
    return HostColumn.from_block(parts[0].type, rows, 0, block.address, 0, block)


def _copy(copies: Sequence[_Copy]) -> None:
    for target, source, nbytes in copies:
        ctypes.memmove(target, source, nbytes)
