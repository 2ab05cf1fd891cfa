"""Data for the columns of an entry: nulls, NaN, zeros, the ends of the range, and values of everyday size.

The same entry gets the same data each time. Rows are few, and the batch is a slice that begins inside a byte.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
from corpus.entry import Column, Entry

__all__ = ["batch_for"]

ROWS = 45
OFFSET = 3
SHARE_OF_NULLS = 0.12
TEXTS = ("", "a", "ab", "Anna", " x ", "été", "日本語", "😀", "longer than a view", "12", "Z")
SPECIAL_FLOATS = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 0.5, -1.5, 1e300)


def batch_for(entry: Entry) -> pa.RecordBatch:
    """Return a batch with the columns of an entry."""
    chance = random.Random(f"{entry.theme}.{entry.name}")
    arrays = [_array(column, chance) for column in entry.columns]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in entry.columns]).slice(OFFSET)


def _array(column: Column, chance: random.Random) -> pa.Array[Any]:
    kind: Any = column.type
    cells: list[Any] = [
        None if chance.random() < SHARE_OF_NULLS else _value(column, chance) for _ in range(ROWS + OFFSET)
    ]
    if pa.types.is_temporal(kind):
        counts = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.array(cells, counts).view(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(cells, kind.value_type).dictionary_encode()
    return pa.array(cells, kind)


def _value(column: Column, chance: random.Random) -> Any:
    kind: Any = column.type
    if column.choices:
        return chance.choice(column.choices)
    if pa.types.is_boolean(kind):
        return chance.random() < 0.5
    if pa.types.is_integer(kind):
        return _integer(column, chance)
    if pa.types.is_floating(kind):
        return _float(column, chance)
    if pa.types.is_decimal(kind):
        return Decimal(chance.randint(-(10**5) + 1, 10**5 - 1)).scaleb(-kind.scale)
    if pa.types.is_temporal(kind):
        return _moment(kind, chance)
    if pa.types.is_list(kind):
        return [chance.random() for _ in range(chance.randint(0, 3))]
    if pa.types.is_struct(kind):
        return {"x": chance.random(), "y": chance.random()}
    return chance.choice(TEXTS)


def _integer(column: Column, chance: random.Random) -> int:
    kind: Any = column.type
    if column.low is not None and column.high is not None:
        low, high = int(column.low), int(column.high)
        return chance.choice((low, high, chance.randint(low, high), chance.randint(low, high)))
    bits = kind.bit_width
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(kind) else (0, 2**bits - 1)
    )
    everyday = chance.randint(max(low, -100), min(high, 100))
    return chance.choice((low, high, 0, 1, everyday, everyday, everyday, chance.randint(low, high)))


def _float(column: Column, chance: random.Random) -> float:
    if column.low is not None and column.high is not None:
        low, high = column.low, column.high
        number = chance.uniform(low, high)
        return chance.choice((low, high, number, number, number, float("nan")))
    everyday = chance.uniform(-100, 100)
    return chance.choice((*SPECIAL_FLOATS, *([everyday] * 12), chance.uniform(-1e6, 1e6)))


def _moment(kind: Any, chance: random.Random) -> int:
    if pa.types.is_date(kind):
        return chance.choice((0, -1, 19_782, chance.randint(-40_000, 40_000), chance.randint(19_500, 20_100)))
    if pa.types.is_time(kind):
        return chance.randrange(86_400 * 10**6)
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    if pa.types.is_duration(kind):
        return chance.choice((0, -1, chance.randint(-(10**6), 10**6))) * per_second
    seconds = chance.choice(
        (0, -1, chance.randint(-(10**9), 2 * 10**9), chance.randint(16 * 10**8, 18 * 10**8))
    )
    return seconds * per_second + chance.randrange(per_second)
