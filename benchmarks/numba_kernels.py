"""Hand-written Numba kernels for W1-W4: what the machine gives when a person writes the loop.

Written for these workloads and no others: columns without nulls, fast math on, ranges instead of batches,
tiles that stay in L1, vector math through ``benchmarks.vector_math``. They show how far a compiler of
record functions can go; they are a reference, not an engine. Compaction is a branch-free scatter, the best
that AVX2 has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, register_jitable

from benchmarks import vector_math
from benchmarks.record_functions import EARTH_RADIUS_KM, collatz_steps, trip_cost, trip_fare

__all__ = [
    "Threads",
    "aligned_empty",
    "collatz_rows",
    "copy_streaming",
    "orders_chain",
    "orders_filter",
    "orders_total",
    "orders_total_streaming",
    "sum_words",
    "trip_rows",
    "trip_tiles",
    "trip_ufunc",
]

_JIT = {"nogil": True, "fastmath": True, "error_model": "numpy", "boundscheck": False}
_TILE = 1024
_LOCKSTEP = 64
_RADIANS = math.pi / 180
_u64 = np.uint64


def aligned_empty(words: int) -> np.ndarray:
    """Return uninitialised float64 memory whose first element lies on a cache line, for streaming stores."""
    raw = np.empty(words * 8 + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + words * 8].view(np.float64)


class Threads:
    """As many threads as cores; each gets one contiguous range of the rows."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="numba-kernel")

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """Return ``count`` ranges that cover ``rows``, cut at whole tiles."""
        step = rows // self.count // _TILE * _TILE
        return [(k * step, rows if k == self.count - 1 else (k + 1) * step) for k in range(self.count)]

    def run(self, work: Callable[[int, int], Any], rows: int) -> list[Any]:
        """Call ``work(start, stop)`` for every range at once; return the results in order."""
        if self.count == 1:
            return [work(0, rows)]
        futures = [self._pool.submit(work, start, stop) for start, stop in self.ranges(rows)]
        return [future.result() for future in futures]


@intrinsic
def _store_streaming(typing_context, target, j, source, i):  # type: ignore[no-untyped-def]
    """target[j:j+8] = source[i:i+8], past the cache; target[j] must lie on a cache line."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        vector = ir.VectorType(ir.DoubleType(), 8)

        def pointer(array_type: Any, array: Any, index: Any) -> Any:
            data = context.make_array(array_type)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        value = builder.load(pointer(signature.args[2], arguments[2], arguments[3]), align=8)
        store = builder.store(value, pointer(signature.args[0], arguments[0], arguments[1]), align=64)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64), generate


@numba.njit(**_JIT)
def copy_streaming(source, target):  # type: ignore[no-untyped-def]
    """Copy whole cache lines with non-temporal stores; the length must be a multiple of 8."""
    for i in range(0, source.size - 7, 8):
        _store_streaming(target, i, source, i)


@numba.njit(**_JIT)
def sum_words(source):  # type: ignore[no-untyped-def]
    """Read everything once."""
    total = 0.0
    for i in range(source.size):
        total += source[i]
    return total


@numba.njit(**_JIT)
def orders_total(price, qty, total, start, stop):  # type: ignore[no-untyped-def]
    """W1."""
    p, q, t = price[start:stop], qty[start:stop], total[start:stop]
    for i in range(t.size):
        t[i] = p[i] * q[i] * 1.08


@numba.njit(**_JIT)
def orders_total_streaming(price, qty, total, start, stop):  # type: ignore[no-untyped-def]
    """W1 through an L1 tile that leaves past the cache; total[start] must lie on a cache line."""
    tile = np.empty(_TILE)
    rows = stop - start
    for s in range(0, rows, _TILE):
        n = min(_TILE, rows - s)
        p, q, t = (
            price[start + s : start + s + n],
            qty[start + s : start + s + n],
            total[start + s : start + s + n],
        )
        for i in range(n):
            tile[i] = p[i] * q[i] * 1.08
        for i in range(0, n - 7, 8):
            _store_streaming(t, i, tile, i)
        for i in range(n // 8 * 8, n):
            t[i] = tile[i]


@numba.njit(**_JIT)
def orders_filter(ids, age, price, qty, out_ids, out_total, threshold, start, stop):  # type: ignore[no-untyped-def]
    """W2: write every row, advance only past those that pass, without a branch. Returns the rows kept."""
    d, a, p, q = ids[start:stop], age[start:stop], price[start:stop], qty[start:stop]
    o, t = out_ids[start:], out_total[start:]
    kept = _u64(0)
    for i in range(a.size):
        o[kept] = d[i]
        t[kept] = p[i] * q[i] * 1.08
        kept += _u64(a[i] > threshold)
    return kept


@numba.njit(**_JIT)
def orders_chain(age, price, qty, out_net, out_score, start, stop):  # type: ignore[no-untyped-def]
    """W3: a tile is evaluated whole in vector loops, then compacted. Returns the rows kept."""
    net_tile, score_tile, keep_tile = np.empty(_TILE), np.empty(_TILE), np.empty(_TILE, np.uint8)
    o1, o2 = out_net[start:], out_score[start:]
    kept = _u64(0)
    for s in range(start, stop, _TILE):
        n = min(_TILE, stop - s)
        a, p, q = age[s : s + n], price[s : s + n], qty[s : s + n]
        for i in range(n):
            gross = p[i] * q[i]
            net = gross * 0.9 if a[i] > 30 else gross
            net = min(max(net, 5.0), 2000.0)
            damped = vector_math.log1p(net)
            net_tile[i] = net
            score_tile[i] = math.sqrt(net + damped) * 1.5 + damped - 0.1 * a[i]
            keep_tile[i] = net > 300.0
        for i in range(n):
            o1[kept] = net_tile[i]
            o2[kept] = score_tile[i]
            kept += _u64(keep_tile[i])
    return kept


@numba.njit(**_JIT)
def trip_tiles(lat1, lon1, lat2, lon2, qty, cost, start, stop):  # type: ignore[no-untyped-def]
    """W4 split at its loop: vector distance, if-converted tariff, Newton in lock-step over 64 rows."""
    target = np.empty(_TILE)
    for s in range(start, stop, _TILE):
        n = min(_TILE, stop - s)
        a, b, c, d = lat1[s : s + n], lon1[s : s + n], lat2[s : s + n], lon2[s : s + n]
        q, o = qty[s : s + n], cost[s : s + n]
        for i in range(n):
            phi1, phi2 = a[i] * _RADIANS, c[i] * _RADIANS
            sin_phi = vector_math.sin((phi2 - phi1) * 0.5)
            sin_lambda = vector_math.sin((d[i] - b[i]) * _RADIANS * 0.5)
            h = sin_phi * sin_phi + vector_math.cos(phi1) * vector_math.cos(phi2) * sin_lambda * sin_lambda
            o[i] = 2 * EARTH_RADIUS_KM * vector_math.asin(math.sqrt(h))
        for i in range(n):
            km, units = o[i], float(q[i])
            short = 3.0 + 0.8 * (km - 2.0)
            middle = 9.4 + 0.5 * (km - 10.0)
            middle = middle * 0.95 if units > 20 else middle
            far = 16.9 + 0.35 * (km - 25.0) + 0.02 * units
            beyond = 29.15 + 0.2 * (km - 60.0)
            fee = (
                3.0
                if km < 2.0
                else (short if km < 10.0 else (middle if km < 25.0 else (far if km < 60.0 else beyond)))
            )
            o[i] = fee
            target[i] = fee * units
        for g in range(0, n, _LOCKSTEP):
            x, t = o[g : min(g + _LOCKSTEP, n)], target[g : min(g + _LOCKSTEP, n)]
            for _ in range(30):
                active = 0
                for i in range(x.size):
                    root, goal = x[i], t[i]
                    moving = abs(root * root * root - goal) > 1e-9 * goal
                    x[i] = (2.0 * root + goal / (root * root)) / 3.0 if moving else root
                    active += moving
                if active == 0:
                    break


register_jitable(trip_fare)  # what compiled functions call
_trip_cost = numba.njit(inline="always", **_JIT)(trip_cost)
_collatz_steps = numba.njit(inline="always", **_JIT)(collatz_steps)


@numba.njit(**_JIT)
def collatz_rows(n, steps, start, stop):  # type: ignore[no-untyped-def]
    """Run the Collatz loop row by row: the user's function as Numba compiles it by itself."""
    for i in range(start, stop):
        steps[i] = _collatz_steps(n[i])


@numba.njit(**_JIT)
def trip_rows(lat1, lon1, lat2, lon2, qty, cost, start, stop):  # type: ignore[no-untyped-def]
    """W4 row by row: the user's function as Numba compiles it by itself."""
    a, b, c, d = lat1[start:stop], lon1[start:stop], lat2[start:stop], lon2[start:stop]
    q, o = qty[start:stop], cost[start:stop]
    for i in range(o.size):
        o[i] = _trip_cost(a[i], b[i], c[i], d[i], q[i])


def trip_ufunc(*, parallel: bool, function: Callable[..., Any] = trip_cost) -> Any:
    """W4, or another function of a trip, as a NumPy ufunc compiled by Numba, the route that other engines take.

    On one thread or all.
    """
    if parallel:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return numba.vectorize(
        ["float64(float64, float64, float64, float64, int64)"], target="parallel" if parallel else "cpu"
    )(function)
