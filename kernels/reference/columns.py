"""Arrow columns as lists of values that functions compute with, and back.

Columns of types that functions do not touch (lists, structs, binary, wide decimals …) give `Untouched`
cells: they can be passed on and tested for None. What is passed on is taken from the input column, so its
type and bytes stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataflare.kernels.dtypes import ValueType, value_type
from dataflare.kernels.errors import CompileError
from dataflare.kernels.reference.decimals import DecimalValue
from dataflare.kernels.reference.times import TimeValue
from dataflare.kernels.reference.values import lift

__all__ = ["Carried", "InputColumn", "Untouched", "column_of"]


class InputColumn:
    """One input column; its values are made when a function first reads it."""

    def __init__(self, name: str, array: pa.Array[Any]) -> None:
        self.name = name
        self.array = array

    @cached_property
    def values(self) -> Sequence[Any]:
        """The cells as values; None for a null."""
        kind = value_type(self.array.type)
        if kind is None:
            return [None if null else Untouched(self, row) for row, null in enumerate(self._nulls())]
        return _load(self.array, kind)

    def _nulls(self) -> list[bool]:
        return [bool(null) for null in pc.is_null(self.array).to_pylist()]

    def take(self, rows: Sequence[int | None]) -> pa.Array[Any]:
        """Return the cells of some rows, None for a null, in the column's own type."""
        if rows == list(range(len(self.array))):
            return self.array
        try:
            taken: pa.Array[Any] = self.array.take(pa.array(rows, pa.int64()))
        except pa.ArrowNotImplementedError:  # string views and others have no kernel for it
            null: Any = pa.nulls(1, self.array.type)
            pieces = [null if row is None else self.array.slice(row, 1) for row in rows]
            taken = pa.concat_arrays([self.array.slice(0, 0), *pieces])
        return taken


class Carried:
    """A cell that was passed on without a look at its value."""

    __slots__ = ("column", "row")

    def __init__(self, column: InputColumn, row: int) -> None:
        self.column = column
        self.row = row

    @property
    def value(self) -> Any:
        """The value, as a function sees it."""
        return self.column.values[self.row]


class Untouched:
    """A cell of a type that functions cannot compute with."""

    __slots__ = ("column", "row")

    def __init__(self, column: InputColumn, row: int) -> None:
        self.column = column
        self.row = row

    def __bool__(self) -> bool:
        raise self._refusal()

    def __eq__(self, other: object) -> bool:
        raise self._refusal()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.column.array.type} {self.column.name}[{self.row}]>"

    def _refusal(self) -> CompileError:
        return CompileError(
            f"column {self.column.name!r} is {self.column.array.type}: functions can pass it on and test it "
            "for None, nothing else. Use map_batches to compute with it."
        )


def _load(array: pa.Array[Any], kind: ValueType) -> list[Any]:
    if kind.kind in ("bool", "string"):
        return array.to_pylist()
    if kind.kind == "decimal":
        return [
            None if cell is None else DecimalValue(kind.precision, kind.scale, int(cell.scaleb(kind.scale)))
            for cell in array.to_pylist()
        ]
    if kind.is_temporal:
        counts = _load(array.view(pa.int32() if kind.bits == 32 else pa.int64()), _count_type(kind.bits))
        return [
            None if count is None else TimeValue(kind.kind, kind.unit, int(count), kind.tz)  # type: ignore[arg-type]
            for count in counts
        ]
    valid = pc.is_valid(array).to_pylist()
    numbers = _filled(array).to_numpy(zero_copy_only=False)
    if kind.bits == 16 and kind.kind == "float":
        numbers = numbers.astype(np.float32)
    return [number if there else None for number, there in zip(numbers, valid, strict=True)]


def _count_type(bits: int) -> ValueType:
    return ValueType("int", bits)


def _filled(array: pa.Array[Any]) -> pa.Array[Any]:
    """Return the array with its nulls hidden, so that NumPy keeps the integers that they stand between."""
    if array.null_count == 0:
        return array
    buffers = array.buffers()
    plain: pa.Array[Any] = pa.Array.from_buffers(
        array.type, len(array), [None, buffers[1]], offset=array.offset
    )
    return plain


def column_of(cells: Sequence[Any], arrow: Any) -> pa.Array[Any]:
    """Build a column of a given type: passed on as it was if every cell was, else from the values."""
    carried = [cell for cell in cells if isinstance(cell, Carried)]
    if carried and len(carried) == len(cells):
        column = carried[0].column
        if column.array.type == arrow and all(cell.column is column for cell in carried):
            return column.take([cell.row for cell in carried])
    values = [lift(cell.value) if isinstance(cell, Carried) else lift(cell) for cell in cells]
    untouched = [value for value in values if isinstance(value, Untouched)]
    if untouched:
        return _passed_on(values, untouched)
    return _store(values, arrow)


def _passed_on(values: list[Any], untouched: list[Untouched]) -> pa.Array[Any]:
    column = untouched[0].column
    if any(cell.column is not column for cell in untouched):
        raise CompileError(f"one result is a {column.array.type} of more than one column; use map_batches.")
    return column.take([value.row if isinstance(value, Untouched) else None for value in values])


def _store(values: list[Any], arrow: Any) -> pa.Array[Any]:
    if pa.types.is_dictionary(arrow):
        distinct = list(dict.fromkeys(value for value in values if value is not None))
        places = {value: place for place, value in enumerate(distinct)}
        indices = pa.array([None if v is None else places[v] for v in values], arrow.index_type)
        return pa.DictionaryArray.from_arrays(
            indices, _store(distinct, arrow.value_type), ordered=arrow.ordered
        )
    kind = value_type(arrow)
    if kind is None or not values or all(value is None for value in values):
        empty: pa.Array[Any] = pa.nulls(len(values), arrow)
        return empty
    if kind.kind == "string":
        texts: pa.Array[Any] = pa.array(values, arrow)
        return texts
    if kind.kind == "bool":
        return _from_numpy([bool(value) for value in values], values, arrow)
    if kind.kind == "decimal":
        scaled = (
            v if isinstance(v, DecimalValue) or v is None else DecimalValue(18, 0, int(v)) for v in values
        )
        decimals: pa.Array[Any] = pa.array([None if v is None else v.to_python() for v in scaled], arrow)
        return decimals
    if kind.is_temporal:
        unit: Any = kind.unit
        counts = [0 if value is None else value.in_unit(unit) for value in values]
        stored = _from_numpy(counts, values, pa.int32() if kind.bits == 32 else pa.int64())
        viewed: pa.Array[Any] = stored.view(arrow)
        return viewed
    if kind.kind == "float":
        return _from_numpy([0.0 if value is None else value for value in values], values, arrow)
    return _from_numpy([0 if value is None else int(value) for value in values], values, arrow)


def _from_numpy(filled: list[Any], values: list[Any], arrow: Any) -> pa.Array[Any]:
    """Build a fixed-width column from numbers in place of nulls and the values that say where nulls are."""
    there = np.array([value is not None for value in values])
    validity = pa.py_buffer(np.packbits(there, bitorder="little").tobytes())
    if pa.types.is_boolean(arrow):
        data: Any = np.packbits(np.array(filled, np.bool_), bitorder="little")
    elif pa.types.is_floating(arrow):
        width = np.dtype(arrow.to_pandas_dtype())
        data = np.array([width.type(number) for number in filled], width)
    else:
        width = np.dtype(arrow.to_pandas_dtype())
        data = np.array([number % 2**64 for number in filled], np.uint64).astype(width)
    stored: pa.Array[Any] = pa.Array.from_buffers(
        arrow, len(values), [validity, pa.py_buffer(data.tobytes())]
    )
    return stored
