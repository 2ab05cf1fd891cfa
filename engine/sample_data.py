"""Small arrays of every Arrow type, for tests that must work with any column.

Deterministic, with nulls, empty and long texts, and numbers near their limits. Does not cover random
data: a test draws type, length and slice, and gets the values from here.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa

__all__ = ["every_type", "sample_array"]


def every_type() -> list[pa.DataType]:
    """Return at least one type of each kind that Arrow has, nested ones included."""
    numbers = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
    times = (
        "date32 date64 time32[ms] time64[us] duration[s] duration[us] timestamp[s] month_day_nano_interval"
    )
    texts = "string large_string string_view binary large_binary binary_view"
    alias: Any = pa.type_for_alias
    a_or_b: list[pa.Field[Any]] = [pa.field("a", pa.int64()), pa.field("b", pa.string())]
    return [
        pa.null(),
        *[alias(name) for name in f"{numbers} {times} {texts}".split()],
        pa.timestamp("us", "UTC"),
        pa.timestamp("us", "Europe/Berlin"),
        pa.decimal32(7, 2),
        pa.decimal64(15, 2),
        pa.decimal128(38, 10),
        pa.decimal256(50, 5),
        pa.binary(5),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.int64()),
        pa.list_(pa.int32()),
        pa.large_list(pa.string()),
        pa.list_(pa.float64(), 3),
        pa.list_view(pa.int16()),
        pa.struct([("x", pa.int64()), ("y", pa.list_(pa.string()))]),
        pa.map_(pa.string(), pa.int32()),
        pa.sparse_union(a_or_b),
        pa.dense_union(a_or_b),
        pa.run_end_encoded(pa.int32(), pa.int64()),
        pa.uuid(),
        pa.bool8(),
        pa.json_(pa.string()),
        pa.fixed_shape_tensor(pa.int32(), [2, 2]),
    ]


def sample_array(data_type: pa.DataType, rows: int, *, nulls: bool = True) -> pa.Array[Any]:
    """Return ``rows`` values of a type, two in seven of them null if ``nulls``."""
    is_null = [nulls and row % 7 in (1, 5) for row in range(rows)]
    if isinstance(data_type, pa.BaseExtensionType):
        storage = sample_array(data_type.storage_type, rows, nulls=nulls)
        return pa.ExtensionArray.from_storage(data_type, storage)
    if pa.types.is_dictionary(data_type):
        words = [_text(row) if pa.types.is_string(data_type.value_type) else row for row in range(5)]
        indices = [None if null else row % 5 for row, null in enumerate(is_null)]
        return pa.DictionaryArray.from_arrays(
            pa.array(indices, data_type.index_type), pa.array(words, data_type.value_type)
        )
    if pa.types.is_run_end_encoded(data_type):
        ends = [*range(3, rows, 3), rows][: rows or None] if rows else []
        values = sample_array(data_type.value_type, len(ends), nulls=nulls)
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, data_type.run_end_type), values)
    if pa.types.is_union(data_type):
        return _union(data_type, rows, nulls)
    value = _value_of(data_type)
    return pa.array([None if null else value(row) for row, null in enumerate(is_null)], type=data_type)


def _union(data_type: pa.UnionType, rows: int, nulls: bool) -> pa.Array[Any]:
    kinds = pa.array([row % 2 for row in range(rows)], pa.int8())
    names = [field.name for field in data_type]
    if data_type.mode == "sparse":
        children = [sample_array(field.type, rows, nulls=nulls) for field in data_type]
        return pa.UnionArray.from_sparse(kinds, children, names)
    children = [
        sample_array(field.type, (rows + 1 - row) // 2, nulls=nulls) for row, field in enumerate(data_type)
    ]
    return pa.UnionArray.from_dense(
        kinds, pa.array([row // 2 for row in range(rows)], pa.int32()), children, names
    )


def _text(row: int) -> str:
    return ["", "a", "naïve", "twelve bytes", "thirteen byte", "long text " * 5][row % 6] + (
        str(row) if row % 6 > 1 else ""
    )


def _value_of(data_type: pa.DataType) -> Callable[[int], Any]:
    """Return the function from row to Python value for a type that ``pa.array`` takes."""
    types = pa.types
    if types.is_boolean(data_type):
        return lambda row: row % 3 == 0
    if types.is_integer(data_type):
        high = 2 ** (data_type.bit_width - types.is_signed_integer(data_type)) - 1
        low = -high - 1 if types.is_signed_integer(data_type) else 0
        return lambda row: [row % 100, high, low, high - row % 50][row % 4]
    if types.is_floating(data_type):
        return lambda row: [row * 0.5, -0.0, float("inf"), 1.0 / 3, -row * 1.0][row % 5]
    if types.is_decimal(data_type):
        return lambda row: Decimal(row * 12345 - 67) / Decimal(10) ** data_type.scale % 10**4
    if types.is_date(data_type):
        return lambda row: datetime.date(1969, 12, 20) + datetime.timedelta(days=row * 37)
    if types.is_time(data_type):
        return lambda row: datetime.time(row % 24, row % 60, 59, 999000)
    if types.is_timestamp(data_type):
        zone = None if data_type.tz is None else datetime.UTC
        return lambda row: (
            datetime.datetime(1969, 12, 31, 23, 59, tzinfo=zone) + datetime.timedelta(minutes=row)
        )
    if types.is_duration(data_type):
        return lambda row: datetime.timedelta(seconds=row * 61 - 100)
    if types.is_interval(data_type):
        return lambda row: pa.MonthDayNano([row, -row, row * 10**6])  # type: ignore[call-arg, arg-type] # wrong stubs
    if types.is_fixed_size_binary(data_type):
        return lambda row: f"{row:0{data_type.byte_width}}".encode()
    if types.is_binary(data_type) or types.is_large_binary(data_type) or types.is_binary_view(data_type):
        return lambda row: _text(row).encode() + b"\xff"
    if types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type):
        return _text
    if types.is_struct(data_type):
        members = [(field.name, _value_of(field.type)) for field in data_type]
        return lambda row: {name: None if row % 4 == 3 else member(row) for name, member in members}
    if types.is_map(data_type):
        key, item = _value_of(data_type.key_type), _value_of(data_type.item_type)
        return lambda row: [(key(row + number) + f"#{number}", item(number)) for number in range(row % 3)]
    if types.is_fixed_size_list(data_type):
        element = _value_of(data_type.value_type)
        return lambda row: [element(row + number) for number in range(data_type.list_size)]
    if isinstance(data_type, pa.ListType | pa.LargeListType | pa.ListViewType | pa.LargeListViewType):
        element = _value_of(data_type.value_type)
        return lambda row: [None if number == 2 else element(row + number) for number in range(row % 4)]
    return lambda row: None
