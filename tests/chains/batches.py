"""Random batches that break things, from a seed: as `dataflare.testing` draws them, thirty times as fast.

Extremes, NaN, both zeros, text of every width; no nulls, some or nothing else; slices that begin within a byte; and
under nulls whatever the memory held, as Arrow allows.
"""

from __future__ import annotations

import decimal
import random
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

TEXTS = (
    *("", "a", "b", "ab", "abc", "aé", "é", "日本", "😀", "a b", "ABC", "x" * 11, "x" * 12, "x" * 13),
    *("longer than a view", "😀" * 5, "a\0b", "\x7f", "abababab", "日本" * 7),
)
FLOATS = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 0.5, -1.5, 2.5, 1.0, 5e-324, 1e308, 2.0**53)
DAY_MS = 86_400_000


def random_batch(
    dice: random.Random, fields: Sequence[tuple[str, Any]], num_rows: int, *, nulls: bool = True
) -> pa.RecordBatch:
    """Return a batch of ``num_rows`` rows with a column for each name and type."""
    arrays = [random_array(dice, data_type, num_rows, nulls=nulls) for _, data_type in fields]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def random_array(dice: random.Random, data_type: Any, num_rows: int, *, nulls: bool = True) -> pa.Array[Any]:
    """Return an array of a few distinct values in random order, often a slice that begins within a byte."""
    pool = [value(dice, data_type) for _ in range(dice.randint(4, 12))]
    share = dice.choice((0.1, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.4, 1.0)) if nulls else 0.0
    before = dice.choice((0, 0, 1, 3, 8, 13))
    total = before + num_rows + before % 3
    chance = np.random.default_rng(dice.getrandbits(32))
    chosen = [pool[place] for place in chance.integers(0, len(pool), total)]
    gone = chance.random(total) < share
    made = _array(chosen, gone, data_type)
    return made.slice(before, num_rows)


def _array(chosen: list[Any], gone: Any, data_type: Any) -> pa.Array[Any]:
    if pa.types.is_dictionary(data_type):
        return _array(chosen, gone, data_type.value_type).dictionary_encode().cast(data_type)
    if pa.types.is_float16(data_type):
        whole = pa.array([np.float16(each) for each in chosen], data_type)
    elif pa.types.is_temporal(data_type):
        whole = pa.array(chosen, pa.int32() if data_type.bit_width == 32 else pa.int64()).view(data_type)
    else:
        whole = pa.array(chosen, data_type)
    if not gone.any():
        return whole
    validity = pa.py_buffer(np.packbits(~gone, bitorder="little").tobytes())
    return pa.Array.from_buffers(data_type, len(whole), [validity, *whole.buffers()[1:]])


def value(dice: random.Random, data_type: Any) -> Any:
    """Return one value of a type, an integer for times; the ends of the range come often."""
    if pa.types.is_dictionary(data_type):
        return value(dice, data_type.value_type)
    if pa.types.is_boolean(data_type):
        return dice.random() < 0.5
    if pa.types.is_integer(data_type):
        return _integer(dice, data_type.bit_width, signed=pa.types.is_signed_integer(data_type))
    if pa.types.is_floating(data_type):
        return _float(dice, data_type.bit_width)
    if pa.types.is_decimal(data_type):
        limit = 10**data_type.precision - 1
        unscaled = dice.choice((dice.randint(-limit, limit), dice.randint(-200, 200), limit, -limit))
        return decimal.Decimal(f"{max(-limit, min(limit, unscaled))}e{-data_type.scale}")
    if pa.types.is_date64(data_type):
        return dice.randint(-40_000_000, 40_000_000) * DAY_MS
    if pa.types.is_date32(data_type):
        return dice.choice((dice.randint(-40_000, 40_000), _integer(dice, 32, signed=True)))
    if pa.types.is_temporal(data_type):
        near = (dice.randint(-(10**10), 10**10), dice.randint(-3, 3))
        return dice.choice((*near, _integer(dice, 64, signed=True)))
    if dice.random() < 0.5:
        return dice.choice(TEXTS)
    return "".join(dice.choice("aabé日😀\0~") for _ in range(dice.randint(0, 20)))


def _integer(dice: random.Random, bits: int, *, signed: bool) -> int:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    edges = (low, low + 1, high - 1, high, 0, 1, 2, 3, 7, *((-1, -2, -7) if signed else ()))
    return dice.choice(
        (dice.choice(edges), dice.randint(max(low, -100), min(high, 100)), dice.randint(low, high))
    )


def _float(dice: random.Random, bits: int) -> float:
    form = {16: "e", 32: "f", 64: "d"}[bits]
    drawn = struct.unpack(f"<{form}", dice.getrandbits(bits).to_bytes(bits // 8, "little"))[0]
    with np.errstate(over="ignore"):
        known = float(np.dtype(f"f{bits // 8}").type(dice.choice(FLOATS)))
    return float(dice.choice((drawn, float(dice.randint(-1000, 1000)), known)))
