"""What random functions are made of: kinds of values, the columns, literals, and helpers that they may call."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dataflare.testing import DECIMAL_TYPES, FLOAT_TYPES, INTEGER_TYPES, STRING_TYPES

# What an expression is: integer, uint64, float64, float32, bool, string, naive and aware timestamp, date, duration,
# decimal, and a float from an approximate function, which nothing reads.
INT, UINT, FLOAT, SINGLE, BOOL, TEXT = "int", "uint", "float", "single", "bool", "text"
NAIVE, AWARE, DATE, SPAN, EXACT, ROUGH = "naive", "aware", "date", "span", "exact", "rough"
JOINABLE = (INT, FLOAT, SINGLE, UINT, BOOL, TEXT)
ANY_KIND = (*JOINABLE, NAIVE, AWARE, DATE, SPAN, EXACT, ROUGH)

COLUMN_TYPES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a": (INT, INTEGER_TYPES[:7]),
    "b": (INT, INTEGER_TYPES[:4]),
    "u": (UINT, (pa.uint64(),)),
    "x": (FLOAT, (pa.float64(),)),
    "y": (FLOAT, (pa.float64(),)),
    "g": (SINGLE, (pa.float32(), *FLOAT_TYPES[:1])),
    "h": (SINGLE, (pa.float32(),)),
    "p": (BOOL, (pa.bool_(),)),
    "q": (BOOL, (pa.bool_(),)),
    "s": (TEXT, STRING_TYPES),
    "z": (TEXT, STRING_TYPES),
    "t": (NAIVE, tuple(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns"))),
    "v": (NAIVE, tuple(pa.timestamp(unit) for unit in ("us", "ns", "s"))),
    "w": (AWARE, (pa.timestamp("us", "UTC"), pa.timestamp("ns", "Asia/Tokyo"))),
    "d": (DATE, (pa.date32(), pa.date64())),
    "e": (DATE, (pa.date32(),)),
    "r1": (SPAN, tuple(pa.duration(unit) for unit in ("s", "ms", "us", "ns"))),
    "m": (EXACT, DECIMAL_TYPES[:1]),
    "n": (EXACT, DECIMAL_TYPES[:1]),
}
INT_LITERALS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "7",
    "10",
    "100",
    "-128",
    "255",
    "65536",
    "4294967296",
    "9223372036854775807",
)
FLOAT_LITERALS = ("0.5", "2.0", "-1.5", "0.0", "-0.0", "0.1", "1e300", "1e-310", "3.0", "100.0")
SINGLE_LITERALS = ("0.1", "2", "-1.5", "0.5", "3", "1e30", "0.0")
TEXT_LITERALS = ("''", "'a'", "'ab'", "'é'", "'日本'", "'😀'", "'longer than a view'", "'xxxxxxxxxxxx'")
MOMENTS = {
    NAIVE: "datetime.datetime(2024, 2, 29, 12, 30)",
    AWARE: "datetime.datetime(1969, 12, 31, tzinfo=UTC)",
}
STEPS = (
    "datetime.timedelta(days=1)",
    "datetime.timedelta(hours=-5)",
    "datetime.timedelta(microseconds=1500)",
)
HEADER = """import datetime
import math
from decimal import Decimal

import numpy as np

UTC = datetime.UTC
SCALE = 3
OFFSET = 0.25
WORDS = ("a", "ab", "é")
NUMBERS = {1, 2, 100, -1}
TABLE = [5, -7, 0, 2]
CODES = {1: 10, 0: -3, 127: 4, 3: None}


def clamp(value, low=-10, high=50):
    if value < low:
        return low + 0 * value
    return min(value, high)


def halves(value):
    whole = value // 2
    return whole, value - whole


def pick(condition, a, b):
    return a if condition else b


def scaled(x, by=1.5):
    result = x * by
    return result - OFFSET
"""
