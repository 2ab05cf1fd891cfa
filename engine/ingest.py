"""What can become a batch: Arrow objects of any library, dicts of columns, records, NumPy and DLPack arrays.

Every function returns a schema, Arrow arrays and a row count, without copying wherever the memory allows.
Does not cover files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import pyarrow as pa

from dataflare.kernels.errors import DataError, OptionError, SchemaError, nearest
from dataflare.schema import require_unique_names

__all__ = [
    "arrow_batch",
    "as_schema",
    "empty_array",
    "from_columns",
    "from_pydict",
    "from_records",
    "may_lie_on_device",
    "one_array",
]


def as_schema(schema: pa.Schema | Mapping[str, pa.DataType]) -> pa.Schema:
    """Return an Arrow schema, given one or a mapping from names to types."""
    if not isinstance(schema, pa.Schema):
        if not isinstance(schema, Mapping):
            raise OptionError(
                "a schema is a pyarrow.Schema or a mapping from column names to Arrow types, "
                f"not {_kind(schema)}."
            )
        schema = pa.schema(list(schema.items()))
    require_unique_names(schema)
    return schema


def empty_array(data_type: pa.DataType) -> pa.Array[Any]:
    """Return an array of no rows, for types that ``pa.array`` refuses too."""
    try:
        return pa.array([], type=data_type)
    except pa.ArrowNotImplementedError:  # unions
        children = [empty_array(data_type.field(position).type) for position in range(data_type.num_fields)]
        buffers = [None, pa.py_buffer(b"")] + [pa.py_buffer(b"")] * (data_type.id == pa.lib.Type_DENSE_UNION)
        return pa.Array.from_buffers(data_type, 0, buffers, 0, 0, children)


def may_lie_on_device(data: Any) -> bool:
    """Return whether something has an interface for memory of a device, without asking it where it is."""
    if isinstance(data, pa.RecordBatch | pa.Table | pa.Array | pa.ChunkedArray) or _is_ndarray(data):
        return False
    return any(
        hasattr(type(data), interface)
        for interface in ("__arrow_c_device_array__", "__dlpack_device__", "__cuda_array_interface__")
    )


def arrow_batch(data: Any) -> pa.RecordBatch:
    """Return one record batch over the memory of anything that speaks Arrow.

    Columns in several chunks are made one, which copies those columns and no others.
    """
    if isinstance(data, pa.RecordBatch):
        batch = data
    elif isinstance(data, pa.Table):
        batch = _one_batch(data)
    elif hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        batch = _imported(data)
    elif hasattr(data, "__arrow_c_device_array__"):
        batch = pa.record_batch(data)
    else:
        raise SchemaError(f"from_arrow cannot read {_kind(data)}: {_remedy(data)}")
    require_unique_names(batch.schema)
    for position, field in enumerate(batch.schema):
        if not field.nullable:
            _require_no_nulls(field.name, batch.column(position))
    return batch


def _require_no_nulls(name: str, array: pa.Array[Any]) -> None:
    """Hold a schema to its word, since compiled code does not look for nulls where it rules them out."""
    if array.null_count:
        row = array.is_null().index(True).as_py()
        raise DataError(
            f"column {name!r}, row {row} is null, and the schema says that the column has none. "
            "Make the field nullable."
        )


def _imported(data: Any) -> pa.RecordBatch:
    try:
        if hasattr(data, "__arrow_c_stream__"):
            return _one_batch(pa.RecordBatchReader.from_stream(data).read_all())
        return pa.record_batch(data)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(
            f"from_arrow needs columns with names, and {_kind(data)} gave none: {error}. "
            "For a single column use SharedDataBatch.from_columns({'name': data})."
        ) from error


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    columns = [_one_chunk(name, table.column(position)) for position, name in enumerate(table.schema.names)]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def _one_chunk(name: str, column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    return one_array(name, chunks) if chunks else empty_array(column.type)


def one_array(name: str, arrays: Sequence[pa.Array[Any]]) -> pa.Array[Any]:
    """Concatenate the parts of a column; a single part is returned as it is."""
    if len(arrays) == 1:
        return arrays[0]
    try:
        return pa.concat_arrays(arrays)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"column {name!r} is too large for one batch: {error}. "
            "Cast it to a large_ type, or go through the data in several batches."
        ) from error


def from_pydict(
    data: Mapping[str, Any], schema: pa.Schema | Mapping[str, pa.DataType] | None = None
) -> tuple[pa.Schema, list[pa.Array[Any]], int]:
    """Convert a mapping from names to sequences of Python values, or arrays."""
    if not isinstance(data, Mapping):
        raise SchemaError(f"from_pydict takes a mapping from column names to values, not {_kind(data)}.")
    fields = None if schema is None else as_schema(schema)
    if fields is not None:
        for name in data:
            if name not in fields.names:
                raise SchemaError(
                    f"column {name!r} is not in the schema. {nearest(name, fields.names)}".rstrip()
                )
        for name in fields.names:
            if name not in data:
                raise SchemaError(
                    f"the schema's column {name!r} has no values. {nearest(name, data)}".rstrip()
                )
    names = list(data) if fields is None else fields.names
    arrays = []
    for name in names:
        try:
            arrays.append(_array(name, data[name], None if fields is None else fields.field(name).type))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, DataError | SchemaError):
                raise
            values = data[name]
            if not isinstance(values, list | tuple):
                raise DataError(f"column {name!r}: {error}") from error
            row, reason = _first_refused(list(values), None if fields is None else fields.field(name).type)
            raise DataError(f"column {name!r}, row {row}: {reason or error}") from error
    return _assembled(names, arrays, fields)


def from_records(
    records: Iterable[Mapping[str, Any]], schema: pa.Schema | Mapping[str, pa.DataType] | None = None
) -> tuple[pa.Schema, list[pa.Array[Any]], int]:
    """Convert mappings, one a row. A field that a record lacks is null."""
    rows = records if isinstance(records, list) else list(records)
    for index, kind in enumerate(map(type, rows)):
        if kind is not dict and not isinstance(rows[index], Mapping):
            raise DataError(
                f"record {index} is {_kind(rows[index])}, not a mapping from field names to values."
            )
    seen = dict.fromkeys(chain.from_iterable(rows))
    for name in seen:
        if not isinstance(name, str):
            index = next(index for index, row in enumerate(rows) if name in row)
            raise DataError(f"record {index}: the field name {name!r} is {_kind(name)}, not a string.")
    fields = None if schema is None else as_schema(schema)
    if fields is not None:
        expected = set(fields.names)
        for name in seen:
            if name not in expected:
                index = next(index for index, row in enumerate(rows) if name in row)
                hint = nearest(name, fields.names) or f"Its fields: {', '.join(fields.names)}."
                raise DataError(f"record {index} has a field {name!r} that the schema does not have. {hint}")
    names = list(seen) if fields is None else fields.names
    arrays = []
    for name in names:
        try:
            values = [row[name] for row in rows]
        except KeyError:
            values = [row.get(name) for row in rows]
        field = None if fields is None else fields.field(name)
        arrays.append(_record_field(name, values, None if field is None else field.type))
        if field is not None and not field.nullable and arrays[-1].null_count:
            index = values.index(None)
            what = "is null" if name in rows[index] else "is missing"
            raise DataError(f"record {index}: field {name!r} {what}, and the schema says it is never null.")
    return _assembled(names, arrays, fields, len(rows))


def from_columns(columns: Mapping[str, Any]) -> tuple[pa.Schema, list[pa.Array[Any]], int]:
    """Wrap one-dimensional arrays: NumPy, anything with DLPack on the CPU, anything with an Arrow array."""
    if not isinstance(columns, Mapping):
        raise SchemaError(f"from_columns takes a mapping from column names to arrays, not {_kind(columns)}.")
    arrays = [_wrapped(name, column) for name, column in columns.items()]
    return _assembled(list(columns), arrays, None)


def _assembled(
    names: Sequence[str], arrays: list[pa.Array[Any]], fields: pa.Schema | None, rows: int | None = None
) -> tuple[pa.Schema, list[pa.Array[Any]], int]:
    num_rows = rows if rows is not None else (len(arrays[0]) if arrays else 0)
    for name, array in zip(names, arrays, strict=True):
        if len(array) != num_rows:
            raise SchemaError(
                f"column {name!r} has {len(array):,} rows and column {names[0]!r} has {num_rows:,}: "
                "all columns of a batch have as many."
            )
    if fields is not None:
        for field, array in zip(fields, arrays, strict=True):
            if not field.nullable:
                _require_no_nulls(field.name, array)
    else:
        fields = pa.schema([(name, array.type) for name, array in zip(names, arrays, strict=True)])
    return fields, arrays, num_rows


def _array(name: str, values: Any, data_type: pa.DataType | None) -> pa.Array[Any]:
    """Convert Python values, or take over an array of any kind."""
    if isinstance(values, pa.ChunkedArray):
        array = _one_chunk(name, values)
    elif isinstance(values, pa.Array):
        array = values
    elif hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__") or _is_ndarray(values):
        array = _wrapped(name, values)
    else:
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise SchemaError(f"column {name!r} is {_kind(values)}, not a sequence of values or an array.")
        _refuse_truncation(values, data_type)
        return pa.array(values, type=data_type)
    return array if data_type is None or array.type == data_type else array.cast(data_type)


def _record_field(name: str, values: list[Any], data_type: pa.DataType | None) -> pa.Array[Any]:
    try:
        _refuse_truncation(values, data_type)
        return pa.array(values, type=data_type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        index, reason = _first_refused(values, data_type)
        raise DataError(f"record {index}, field {name!r}: {reason or error}") from error


def _refuse_truncation(values: Any, data_type: pa.DataType | None) -> None:
    """Refuse 1.5 for an integer column: Arrow would store 1."""
    if data_type is None or not pa.types.is_integer(data_type) or not isinstance(values, list | tuple):
        return
    if not any(kind not in (int, bool, type(None)) for kind in set(map(type, values))):
        return
    for value in values:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError(f"{value!r} is not a whole number")


def _first_refused(values: list[Any], data_type: pa.DataType | None) -> tuple[int, str]:
    """Find the first value that makes the conversion fail, by bisection, and say why it does."""

    def fails(count: int) -> bool:
        try:
            _refuse_truncation(values[:count], data_type)
            pa.array(values[:count], type=data_type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return True
        return False

    low, high = 0, len(values)  # the first `low` values convert, the first `high` do not
    if not fails(high):
        return 0, ""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(middle) else (middle, high)
    value = values[low]
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if data_type is None:
        before = pa.array(values[:low]).type
        if not low or pa.types.is_null(before):
            return low, f"{shown} ({_kind(value)}) is not a value that a column can hold. Convert it first."
        return low, (
            f"{shown} ({_kind(value)}) does not fit the records before it, whose values are {before}. "
            "Make them alike, or give a schema."
        )
    return low, f"{shown} ({_kind(value)}) is not {_article(str(data_type))}."


def _wrapped(name: str, column: Any) -> pa.Array[Any]:
    """Take over one array without copying where its memory allows."""
    if isinstance(column, pa.Array):
        return column
    if isinstance(column, pa.ChunkedArray):
        return _one_chunk(name, column)
    if _is_ndarray(column):
        return _from_numpy(name, column)
    if hasattr(column, "__arrow_c_array__"):
        return cast("pa.Array[Any]", pa.array(column))
    if hasattr(column, "__arrow_c_stream__"):
        return _one_chunk(name, pa.chunked_array(column))
    if hasattr(column, "__dlpack__"):
        return _from_dlpack(name, column)
    if hasattr(column, "__array__") and not isinstance(column, list | tuple):
        import numpy as np

        return _from_numpy(name, np.asarray(column))
    raise SchemaError(
        f"column {name!r} is {_kind(column)}, not an array. For lists of Python values use from_pydict."
    )


def _is_ndarray(column: Any) -> bool:
    import numpy as np

    return isinstance(column, np.ndarray)


def _from_dlpack(name: str, column: Any) -> pa.Array[Any]:
    import numpy as np

    try:
        array = np.from_dlpack(column)
    except (BufferError, RuntimeError, TypeError) as error:
        raise SchemaError(f"column {name!r}: DLPack gave no array that NumPy can use: {error}") from error
    return _from_numpy(name, array)


def _from_numpy(name: str, column: Any) -> pa.Array[Any]:
    import numpy as np

    if column.ndim != 1:
        raise SchemaError(
            f"column {name!r} has {column.ndim} dimensions, shape {column.shape}: a column has one. "
            "Give each of its columns a name of its own."
        )
    kind = column.dtype.kind
    if column.dtype.names:
        fields = ", ".join(column.dtype.names)
        raise SchemaError(
            f"column {name!r} is a structured array. Give its fields as columns: "
            f"from_columns({{f: array[f] for f in array.dtype.names}}), here {fields}."
        )
    if kind == "c" or (kind == "f" and column.dtype.itemsize > 8):
        raise SchemaError(
            f"column {name!r} has dtype {column.dtype}, for which Arrow has no type. Convert it."
        )
    if kind == "O":
        raise SchemaError(f"column {name!r} holds Python objects. Use from_pydict, or give it a dtype.")
    if kind in "mM":
        unit, count = np.datetime_data(column.dtype)
        if count != 1 or (unit not in ("s", "ms", "us", "ns") and (kind, unit) != ("M", "D")):
            exact = "s" if unit in ("Y", "M", "W", "D", "h", "m") else "ns"
            raise SchemaError(
                f"column {name!r} has dtype {column.dtype}, a unit Arrow does not have. "
                f"Convert it: array.astype('{'datetime64' if kind == 'M' else 'timedelta64'}[{exact}]')."
            )
    if not column.dtype.isnative:
        column = column.astype(column.dtype.newbyteorder("="))
    if isinstance(column, np.ma.MaskedArray):
        return pa.array(column.data, mask=np.ma.getmaskarray(column))
    return cast("pa.Array[Any]", pa.array(column))


def _kind(value: object) -> str:
    kind = type(value)
    return _article(kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}")


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


def _remedy(data: Any) -> str:
    if isinstance(data, Mapping):
        return "use from_pydict for Python values or from_columns for arrays."
    if isinstance(data, list | tuple):
        return "use from_records for records, SharedDataBatch.merge for batches."
    if _is_ndarray(data):
        return "use from_columns({'name': array})."
    if type(data).__name__ == "LazyFrame":
        return "collect() it first."
    return "it has none of __arrow_c_stream__, __arrow_c_array__ and __arrow_c_device_array__."
