"""Hypothesis strategies for Arrow data, and a comparison of batches bit for bit, for tests.

Covers the types that record functions compute with, plain and dictionary-encoded, with the values that
break things: nulls, NaN, both zeros, infinities, the ends of every range, empty and one-row batches, and
slices that do not begin at a byte. Needs the package ``hypothesis``. Fixed samples of every Arrow type,
nested ones too, are in ``sample_data`` and exported here.
"""

from __future__ import annotations

import decimal
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from dataflare.sample_data import every_type, sample_array

__all__ = [
    "DECIMAL_TYPES",
    "FLOAT_TYPES",
    "INTEGER_TYPES",
    "STRING_TYPES",
    "TIME_TYPES",
    "arrays",
    "arrow_types",
    "assert_batches_equal",
    "every_type",
    "record_batches",
    "sample_array",
    "schemas",
    "values",
]

INTEGER_TYPES: tuple[pa.DataType, ...] = (
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
)
FLOAT_TYPES: tuple[pa.DataType, ...] = (pa.float16(), pa.float32(), pa.float64())
STRING_TYPES: tuple[pa.DataType, ...] = (
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.string())),
)
TIME_TYPES: tuple[pa.DataType, ...] = (
    *(pa.date32(), pa.date64()),
    *(pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")),
    *(pa.timestamp("us", "UTC"), pa.timestamp("ns", "Europe/Paris")),
    *(pa.duration("s"), pa.duration("ms"), pa.duration("us"), pa.duration("ns")),
)
DECIMAL_TYPES: tuple[pa.DataType, ...] = (pa.decimal128(5, 2), pa.decimal128(10, 4), pa.decimal128(18, 0))

_TEXTS = (
    "",
    "a",
    "b",
    "ab",
    "abc",
    "aé",
    "é",
    "日本",
    "😀",
    "a b",
    "ABC",
    "x" * 11,
    "x" * 12,
    "x" * 13,
    "longer than a view",
)
_MILLISECONDS_PER_DAY = 86_400_000


def arrow_types() -> st.SearchStrategy[pa.DataType]:
    """Return a strategy for the types that record functions compute with."""
    return st.sampled_from(
        (pa.bool_(), *INTEGER_TYPES, *FLOAT_TYPES, *STRING_TYPES, *TIME_TYPES, *DECIMAL_TYPES)
    )


def values(data_type: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a type, as Python objects; integers for times.

    The ends of the range, zeros and special values come up more often than chance would have them.
    """
    if pa.types.is_boolean(data_type):
        return st.booleans()
    if pa.types.is_integer(data_type):
        return _integers(data_type.bit_width, signed=pa.types.is_signed_integer(data_type))
    if pa.types.is_floating(data_type):
        width: Any = data_type.bit_width
        return st.one_of(
            st.floats(width=width),
            st.integers(-1000, 1000).map(float),
            st.sampled_from([0.0, -0.0, float("nan"), float("inf"), float("-inf"), 0.5, -1.5, 2.5, 1.0]),
        )
    if pa.types.is_dictionary(data_type):
        return values(data_type.value_type)
    if _is_text(data_type):
        return st.one_of(st.sampled_from(_TEXTS), st.text(max_size=20))
    if _is_bytes(data_type):
        return st.one_of(st.sampled_from(_TEXTS).map(str.encode), st.binary(max_size=20))
    if pa.types.is_decimal(data_type):
        limit = 10**data_type.precision - 1
        scale = data_type.scale
        return st.one_of(st.integers(-limit, limit), st.integers(-200, 200)).map(
            lambda unscaled: decimal.Decimal(
                f"{unscaled}e{-scale}"
            )  # exact, where arithmetic rounds to 28 digits
        )
    if pa.types.is_date64(data_type):
        return st.integers(-40_000_000, 40_000_000).map(lambda days: days * _MILLISECONDS_PER_DAY)
    if pa.types.is_date32(data_type):
        return st.one_of(st.integers(-40_000, 40_000), _integers(32, signed=True))
    return st.one_of(st.integers(-(10**10), 10**10), st.integers(-3, 3), _integers(64, signed=True))


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    edges = [low, low + 1, high - 1, high, 0, 1, 2, 3, 7, *([-1, -2, -7] if signed else [])]
    return st.one_of(
        st.sampled_from(edges), st.integers(max(low, -100), min(high, 100)), st.integers(low, high)
    )


def _is_text(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )


def _is_bytes(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(data_type)
        or pa.types.is_large_binary(data_type)
        or pa.types.is_binary_view(data_type)
    )


@st.composite
def arrays(draw: st.DrawFn, data_type: Any, num_rows: int, *, nulls: bool = True) -> pa.Array[Any]:
    """Draw an array of a type with ``num_rows`` rows, often a slice that begins within a byte of its bitmap.

    A few values are drawn and spread over the rows, so that long arrays cost no more than short ones.
    """
    pool = draw(st.lists(values(data_type), min_size=4, max_size=12))
    share_of_nulls = draw(st.sampled_from([0.1, 0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.4, 1.0])) if nulls else 0.0
    before = draw(st.sampled_from([0, 0, 1, 3, 8, 13]))
    chance = np.random.default_rng(draw(st.integers(0, 2**16)))
    total = before + num_rows + before % 3
    chosen = [pool[place] for place in chance.integers(0, len(pool), total)]
    absent = chance.random(total) < share_of_nulls
    whole = _array(chosen, absent, data_type)
    return whole.slice(before, num_rows)


def _array(chosen: list[Any], absent: Any, data_type: Any) -> pa.Array[Any]:
    cells = [None if gone else value for value, gone in zip(chosen, absent, strict=True)]
    array: pa.Array[Any]
    if pa.types.is_dictionary(data_type):
        plain = pa.array(cells, data_type.value_type)
        array = plain.dictionary_encode().cast(data_type)
    elif pa.types.is_float16(data_type):
        array = pa.array([None if cell is None else np.float16(cell) for cell in cells], data_type)
    elif pa.types.is_temporal(data_type):
        array = pa.array(cells, pa.int32() if data_type.bit_width == 32 else pa.int64()).view(data_type)
    else:
        array = pa.array(cells, data_type)
    return array


@st.composite
def schemas(
    draw: st.DrawFn,
    *,
    min_columns: int = 1,
    max_columns: int = 6,
    types: st.SearchStrategy[Any] | None = None,
) -> pa.Schema:
    """Draw a schema whose columns are called ``a``, ``b``, ``c`` and so on."""
    drawn = draw(st.lists(types or arrow_types(), min_size=min_columns, max_size=max_columns))
    return pa.schema([(chr(ord("a") + place), data_type) for place, data_type in enumerate(drawn)])


@st.composite
def record_batches(
    draw: st.DrawFn,
    schema: pa.Schema | None = None,
    *,
    min_rows: int = 0,
    max_rows: int = 150,
    nulls: bool = True,
) -> pa.RecordBatch:
    """Draw a record batch of a schema, or of one that is drawn too; often empty or of one row."""
    if schema is None:
        schema = draw(schemas())
    edges = st.sampled_from([min_rows, min(min_rows + 1, max_rows)])
    some = st.integers(min_rows, max_rows)
    num_rows = draw(edges if draw(st.integers(0, 9)) == 9 else some)
    columns = [draw(arrays(field.type, num_rows, nulls=nulls)) for field in schema]
    if not columns:
        nothing: Any = pa.array([{}] * num_rows, pa.struct([]))
        return pa.RecordBatch.from_struct_array(nothing)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def assert_batches_equal(
    actual: Any, expected: Any, *, ulp: int = 0, ulp_columns: Sequence[str] | None = None
) -> None:
    """Assert that two batches or tables hold the same columns, types, nulls and values, bit for bit.

    Any NaN equals any other. Dictionaries are compared by what they stand for, not by their indices.

    Parameters
    ----------
    actual, expected
        Anything with ``to_arrow()``, or a PyArrow batch or table.
    ulp
        How many units in the last place floats may differ by; 0 also tells ``-0.0`` from ``0.0``.
    ulp_columns
        The columns that ``ulp`` is for; all if None.

    Raises
    ------
    AssertionError
        Naming the column, the row and both values.
    """
    left, right = _table(actual), _table(expected)
    if left.schema.names != right.schema.names:
        raise AssertionError(f"columns differ: {left.schema.names} and {right.schema.names}")
    for name in left.schema.names:
        if left.schema.field(name).type != right.schema.field(name).type:
            types = f"{left.schema.field(name).type} and {right.schema.field(name).type}"
            raise AssertionError(f"column {name!r} differs in type: {types}")
    if left.num_rows != right.num_rows:
        raise AssertionError(f"rows differ: {left.num_rows} and {right.num_rows}")
    for name in left.schema.names:
        allowed = ulp if ulp_columns is None or name in ulp_columns else 0
        _assert_columns_equal(name, left.column(name), right.column(name), allowed)


def _table(data: Any) -> pa.Table:
    arrow = data.to_arrow() if hasattr(data, "to_arrow") else data
    return pa.Table.from_batches([arrow]) if isinstance(arrow, pa.RecordBatch) else arrow


def _assert_columns_equal(name: str, left: Any, right: Any, ulp: int) -> None:
    a, b = (_plain(column) for column in (left, right))
    for row, (x, y) in enumerate(zip(a, b, strict=True)):
        if not _same(x, y, ulp):
            raise AssertionError(f"column {name!r}, row {row}: {_shown(x)} and {_shown(y)}")


def _plain(column: Any) -> list[Any]:
    """Return cells that compare exactly: floats as (kind of NaN or number), times as their integers."""
    data_type = column.type
    if pa.types.is_dictionary(data_type):
        column = column.cast(data_type.value_type)
    elif pa.types.is_temporal(data_type) and data_type.bit_width in (32, 64):
        counts = pa.int32() if data_type.bit_width == 32 else pa.int64()
        column = pa.chunked_array([chunk.view(counts) for chunk in column.chunks], counts)
    elif pa.types.is_floating(data_type):
        width = {16: np.float16, 32: np.float32, 64: np.float64}[data_type.bit_width]
        return [None if cell is None else width(cell) for cell in column.to_pylist()]
    return list(column.to_pylist())


def _same(x: Any, y: Any, ulp: int) -> bool:
    if x is None or y is None:
        return x is y
    if isinstance(x, np.floating):
        if np.isnan(x) or np.isnan(y):
            return bool(np.isnan(x) and np.isnan(y))
        if ulp:
            return abs(_ordinal(x) - _ordinal(y)) <= ulp
        return bool(x.tobytes() == y.tobytes())
    return bool(x == y) or repr(x) == repr(y)


def _ordinal(number: Any) -> int:
    """Return the place of a float among all of its width; neighbours differ by one, both zeros are 0."""
    code = {2: "<h", 4: "<i", 8: "<q"}[number.itemsize]
    bits: int = struct.unpack(code, number.astype(number.dtype.newbyteorder("<")).tobytes())[0]
    return bits if bits >= 0 else -(bits & (2 ** (8 * number.itemsize - 1) - 1))


def _shown(value: Any) -> str:
    if isinstance(value, np.floating):
        return f"{value!r} ({float(value).hex()})"
    return repr(value)
