"""Joined columns are what Arrow's concatenation gives, wherever they were cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dataflare.kernels.memory import joining
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.joining import join_columns
from dataflare.kernels.memory.pool import default_pool

TYPES = [
    pa.int8(),
    pa.uint16(),
    pa.float32(),
    pa.int64(),
    pa.timestamp("ns"),
    pa.decimal128(18, 2),
    pa.binary(3),
]


def cut(array: pa.Array[Any]) -> list[HostColumn]:
    whole = HostColumn.from_arrow(array)
    return [whole.slice(3, 10), whole.slice(0, 0), whole.slice(13, 500), HostColumn.from_arrow(array[7:100])]


@pytest.mark.parametrize("least_bytes", [0, 1 << 40], ids=["on all cores", "on one core"])
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_parts_follow_each_other(
    kind: pa.DataType, least_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_PARALLEL_BYTES", least_bytes)
    numbers = np.random.default_rng(1).integers(0, 100, 1000)
    if pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind):
        array: pa.Array[Any] = pa.array([bytes([n] * 3) for n in numbers], kind)
    else:
        array = pa.array(numbers).cast(pa.int32() if pa.types.is_decimal(kind) else pa.int64()).cast(kind)
    parts = cut(array)
    (joined,) = join_columns([parts])
    assert joined is not None
    result = joined.to_arrow()
    result.validate(full=True)
    assert result.equals(pa.concat_arrays([part.to_arrow() for part in parts]))


@pytest.mark.parametrize(
    "array",
    [pa.array([1, None, 3] * 400), pa.array([True, False] * 600), pa.array(["a", "bc"] * 600)],
    ids=["nulls", "bits", "strings"],
)
def test_other_columns_are_left_to_arrow(array: pa.Array[Any]) -> None:
    assert join_columns([cut(array)]) == [None]


def test_the_result_is_memory_of_the_pool() -> None:
    before = default_pool().statistics().in_use_bytes
    (joined,) = join_columns([cut(pa.array(range(1000)))])
    assert default_pool().statistics().in_use_bytes > before
    del joined
    assert default_pool().statistics().in_use_bytes == before
