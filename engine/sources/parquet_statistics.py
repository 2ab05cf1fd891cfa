"""Decides by a row group's statistics that no record in it can pass a predicate.

Conservative: a row group is left out only when that is certain, and the filter that the predicate came from
still runs on what is read. What makes statistics unusable is kept in mind here: absent or partial ones, NaN
(which writers leave out of minimum and maximum), bounds of long text that were cut off, values that are
compared in another type than they are stored in, and constants that do not belong to the column's type.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import operator
import struct
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from pyarrow._parquet import ColumnSchema  # as the stubs call it

    from dataflare.sources.base import Predicate

__all__ = ["may_match"]

_EPOCH = dt.datetime(1970, 1, 1)
_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_DAY = dt.date(1970, 1, 1).toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)
_UNIT_NS = {"milliseconds": 1_000_000, "microseconds": 1_000, "nanoseconds": 1}

# A pair of bounds with a constant in the same terms, all comparable with each other and monotone in the
# values.
_Comparable = tuple[Any, Any, Any]


def may_match(
    row_group: pq.RowGroupMetaData,
    leaf: int,
    column: ColumnSchema,
    arrow_type: pa.DataType,
    predicate: Predicate,
) -> bool:
    """Whether a record of the row group may pass `predicate`; True whenever that is not certainly false.

    Parameters
    ----------
    leaf
        Position of the column among the row group's chunks; the column is not nested.
    column
        How the column is stored.
    arrow_type
        What records see of it.
    """
    try:
        statistics = row_group.column(leaf).statistics
    except (OSError, ValueError, NotImplementedError):  # damaged statistics are no reason to fail
        return True
    if statistics is None:
        return True
    nulls = statistics.null_count if statistics.has_null_count else None  # type: ignore[attr-defined]
    if predicate.op == "is_null":
        return nulls != 0
    if nulls == row_group.num_rows:
        return False  # a null passes no comparison, and is not valid
    if predicate.op == "is_valid" or not statistics.has_min_max:
        return True
    if predicate.op == "in":
        values = predicate.value
        if not isinstance(values, Collection) or isinstance(values, str | bytes):
            return True
        return any(
            value is None or _comparison_may_hold(statistics, column, arrow_type, "==", value)
            for value in values
        )
    return _comparison_may_hold(statistics, column, arrow_type, predicate.op, predicate.value)


def _comparison_may_hold(
    statistics: pq.Statistics, column: ColumnSchema, arrow_type: pa.DataType, op: str, constant: Any
) -> bool:
    holds = _MAY_HOLD.get(op)
    readings = _comparables(statistics, column, arrow_type, constant)
    if holds is None or not readings:
        return True
    if op == "!=" and pa.types.is_floating(arrow_type):
        return True  # a NaN is unequal to everything and not in the bounds
    try:
        return any(holds(low, high, value) for low, high, value in readings)
    except (TypeError, ArithmeticError):
        return True


# With low <= every value <= high.
_MAY_HOLD: dict[str, Callable[[Any, Any, Any], bool]] = {
    "==": lambda low, high, value: low <= value <= high,
    "!=": lambda low, high, value: not (low == value == high),
    "<": lambda low, high, value: operator.lt(low, value),
    "<=": lambda low, high, value: operator.le(low, value),
    ">": lambda low, high, value: operator.gt(high, value),
    ">=": lambda low, high, value: operator.ge(high, value),
}


def _comparables(
    statistics: pq.Statistics, column: ColumnSchema, arrow_type: pa.DataType, constant: Any
) -> list[_Comparable]:
    """Return the bounds and the constant in each way a filter could compare them; none when they are of no use."""
    types = pa.types
    if types.is_boolean(arrow_type) or types.is_integer(arrow_type):
        if column.physical_type not in ("BOOLEAN", "INT32", "INT64"):
            return []
        return _integer_comparables(statistics.min, statistics.max, constant)
    if types.is_float32(arrow_type) or types.is_float64(arrow_type):
        return _float_comparables(statistics, arrow_type, constant)
    if types.is_decimal(arrow_type):
        low, high = statistics.min, statistics.max
        if (
            not isinstance(constant, int | Decimal)
            or not isinstance(low, Decimal)
            or not isinstance(high, Decimal)
        ):
            return []
        return [(low, high, constant)]
    if types.is_string(arrow_type) or types.is_large_string(arrow_type) or types.is_string_view(arrow_type):
        # Bytes, since a bound that was cut off may end inside a character.
        low, high = statistics.min_raw, statistics.max_raw
        if not isinstance(constant, str) or not isinstance(low, bytes) or not isinstance(high, bytes):
            return []
        return [(low, high, constant.encode("utf-8", "surrogatepass"))]
    if types.is_date32(arrow_type):
        if not isinstance(constant, dt.date) or isinstance(constant, dt.datetime):
            return []
        return [(statistics.min_raw, statistics.max_raw, constant.toordinal() - _EPOCH_DAY)]
    if types.is_timestamp(arrow_type) and column.physical_type == "INT64":
        return _timestamp_comparables(statistics, column, arrow_type, constant)
    return []


def _integer_comparables(low: Any, high: Any, constant: Any) -> list[_Comparable]:
    if not isinstance(low, int) or not isinstance(high, int):
        return []
    if isinstance(constant, int):  # bools too
        return [(low, high, constant)]
    if isinstance(constant, float) and not math.isnan(constant):
        # The filter rounds the column to float64 first, and rounding is monotone.
        return [(low, high, constant), (float(low), float(high), constant)]
    return []


def _float_comparables(
    statistics: pq.Statistics, arrow_type: pa.DataType, constant: Any
) -> list[_Comparable]:
    low, high = statistics.min, statistics.max
    if not isinstance(low, float) or not isinstance(high, float) or math.isnan(low) or math.isnan(high):
        return []
    if not isinstance(constant, int | float):
        return []
    try:
        value = float(constant)
    except OverflowError:
        return []
    if math.isnan(value):
        return []
    readings: list[_Comparable] = [(low, high, value)]
    if pa.types.is_float32(arrow_type):
        # The filter rounds the constant to float32 first.
        try:
            (rounded,) = struct.unpack("<f", struct.pack("<f", value))
        except OverflowError:
            rounded = math.copysign(math.inf, value)
        readings.append((low, high, rounded))
    return readings


def _timestamp_comparables(
    statistics: pq.Statistics, column: ColumnSchema, arrow_type: pa.DataType, constant: Any
) -> list[_Comparable]:
    if not isinstance(constant, dt.datetime) or getattr(constant, "nanosecond", None):
        return []
    if (constant.tzinfo is None) != (arrow_type.tz is None):  # type: ignore[attr-defined] # a TimestampType
        return []
    unit_ns = _UNIT_NS.get(json.loads(column.logical_type.to_json()).get("timeUnit", ""))
    if unit_ns is None:
        return []
    low, high = statistics.min_raw, statistics.max_raw
    if not isinstance(low, int) or not isinstance(high, int):
        return []
    since = constant - (_EPOCH if constant.tzinfo is None else _EPOCH_UTC)
    value_ns = since // _MICROSECOND * 1_000
    return [(low * unit_ns, high * unit_ns, value_ns)]
