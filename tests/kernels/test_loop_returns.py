"""Loops that are left by `return`, `break` and `continue` in every combination give the same result on all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.udf.stages import MapStage

BATCH = pa.record_batch(
    {
        "n": pa.array([1, 2, None, 0, -3, 7], pa.int8()),
        "q": pa.array([True, False, None, True, False, False]),
        "p": pa.array([True, False, None, False, True, False]),
    }
)


def from_an_inner_loop(r: Any) -> Any:
    for a in range(3):
        for b in range(r.n):
            if b > a:
                return {"k": 7}
    return {"k": 1}


def constants_around_a_range(r: Any) -> Any:
    v = r.n
    for k in (1, 2, 5):
        if r.q:
            continue
        for _ in range(k):
            if r.p:
                return {"k": 1}
            v -= 1
    return {"k": v}


def a_range_around_constants(r: Any) -> Any:
    for _ in range(2):
        if r.q:
            continue
        for j in (1, 2):
            if r.p:
                return {"k": j}
    return {"k": 0}


def unreachable(r: Any) -> Any:
    v = 0
    while v < 4:
        v += 1
        if "ab" < "b":
            break
        if r.q:
            return {"k": 1}
    return {"k": 2}


def unreachable_in_both_loops(r: Any) -> Any:
    v = r.n
    for a in range(3):
        if r.q and "ab" > "b":
            return {"k": -1}
        for b in range(a):
            if r.p and "ab" > "b":
                return {"k": -2}
            v += b
    return {"k": v}


def never(r: Any) -> Any:
    for _ in range(3):
        if True:
            continue
        return {"k": 1}
    return {"k": r.n}


def forever_until_returned(r: Any) -> Any:
    c = 0
    while True:
        c += 1
        if c > r.n or c > 5:
            return {"k": c * 10}
        if r.p:
            break
    return {"k": c}


def a_function_made_in_each_round(r: Any) -> Any:
    out = 0
    for a in range(3):

        def plus(v: Any, a: Any = a) -> Any:
            return v + a

        out = plus(out)
    return {"k": out + r.n}


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (from_an_inner_loop, [1, 7, 1, 1, 1, 7]),
        (constants_around_a_range, [1, -6, None, 0, 1, -1]),
        (a_range_around_constants, [0, 0, 0, 0, 1, 0]),
        (unreachable, [2] * 6),
        (unreachable_in_both_loops, [2, 3, None, 1, -2, 8]),
        (never, [1, 2, None, 0, -3, 7]),
        (forever_until_returned, [1, 30, 60, 10, 10, 60]),
        (a_function_made_in_each_round, [4, 5, None, 3, 0, 10]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_leaving_loops(fn: Callable[[Any], Any], expected: list[Any], run_on: Any, device: str) -> None:
    assert run_on(device, [MapStage(fn)], BATCH).batch.column("k").to_pylist() == expected
