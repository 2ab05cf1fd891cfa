"""What becomes a batch from Python values and arrays, and errors that name record, field and remedy."""

from __future__ import annotations

import datetime
from collections import OrderedDict
from decimal import Decimal
from types import MappingProxyType

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dataflare import SharedDataBatch
from dataflare.kernels.errors import DataError, DeviceUnavailableError, OptionError, SchemaError


def refused(error, make, *parts):
    with pytest.raises(error) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


def test_from_pydict_infers_types_as_arrow_does():
    batch = SharedDataBatch.from_pydict(
        {
            "i": [1, None],
            "f": (1.5, float("nan")),
            "s": ["x", "y"],
            "d": [Decimal("1.20"), None],
            "t": [datetime.date(2024, 2, 29), None],
            "n": np.array([1, 2], np.int8),
            "a": pa.array([1, 2], pa.uint16()),
            "c": pa.chunked_array([[1], [2]]),
            "p": pd.Series([1.0, np.nan]),
            "l": pl.Series(["x", None]),
        }
    )
    assert [str(field.type) for field in batch.schema] == [
        *(
            "int64",
            "double",
            "string",
            "decimal128(3, 2)",
            "date32[day]",
            "int8",
            "uint16",
            "int64",
            "double",
        ),
        "string_view",
    ]
    assert batch["f"].null_count == 0, "NaN is a value"
    assert batch["p"].null_count == 1, "but pandas exports it as null"


def test_from_pydict_with_a_schema_orders_and_converts():
    batch = SharedDataBatch.from_pydict({"b": [1], "a": [2]}, {"a": pa.int8(), "b": pa.float32()})
    assert batch.schema == pa.schema([("a", pa.int8()), ("b", pa.float32())])
    converted = SharedDataBatch.from_pydict({"a": np.array([1.0])}, {"a": pa.int64()})
    assert converted["a"].to_pylist() == [1]


def test_from_pydict_errors():
    make = SharedDataBatch.from_pydict
    refused(SchemaError, lambda: make({"a": [1], "b": [1, 2]}), "'b' has 2 rows and column 'a' has 1")
    refused(SchemaError, lambda: make([1]), "a mapping from column names to values, not a list")
    refused(SchemaError, lambda: make({"a": 3}), "column 'a' is an int, not a sequence")
    refused(SchemaError, lambda: make({"a": "text"}), "column 'a' is a str, not a sequence")
    refused(
        SchemaError,
        lambda: make({"a": [1]}, {"aa": pa.int8()}),
        "'a' is not in the schema. Did you mean 'aa'?",
    )
    refused(SchemaError, lambda: make({"a": [1]}, {"a": pa.int8(), "b": pa.int8()}), "'b' has no values")
    refused(DataError, lambda: make({"a": [1, 2, "x"]}), "column 'a', row 2: 'x' (a str) does not fit")
    refused(DataError, lambda: make({"a": [1, 300]}, {"a": pa.int8()}), "row 1: 300 (an int) is not an int8")
    refused(DataError, lambda: make({"a": np.array([1.5])}, {"a": pa.int8()}), "column 'a'", "truncated")
    refused(OptionError, lambda: make({"a": [1]}, ["a"]), "a schema is a pyarrow.Schema or a mapping")


def test_from_records_takes_the_union_of_fields():
    records = [{"a": 1}, OrderedDict(b="x", a=2), MappingProxyType({"c": None})]
    batch = SharedDataBatch.from_records(iter(records))
    assert batch.to_pylist() == [
        {"a": 1, "b": None, "c": None},
        {"a": 2, "b": "x", "c": None},
        {"a": None, "b": None, "c": None},
    ]
    assert SharedDataBatch.from_records([]).column_names == []


def test_from_records_with_a_schema():
    schema = {"b": pa.string_view(), "a": pa.int16()}
    batch = SharedDataBatch.from_records([{"a": 1, "b": "x"}, {"a": 2.0}], schema)
    assert batch.schema == pa.schema(schema)
    assert batch.to_pylist() == [{"b": "x", "a": 1}, {"b": None, "a": 2}]
    assert SharedDataBatch.from_records([], schema).schema == pa.schema(schema)


def test_from_records_errors_name_record_and_field():
    make = SharedDataBatch.from_records
    many = [{"a": row} for row in range(1000)]
    refused(DataError, lambda: make([*many, {"a": "x"}]), "record 1000, field 'a': 'x' (a str)", "int64")
    refused(DataError, lambda: make([{"a": 1}, 3]), "record 1 is an int, not a mapping")
    refused(DataError, lambda: make([{"a": 1}, {1: 2}]), "record 1: the field name 1 is an int")
    refused(DataError, lambda: make([{"a": 2**70}]), "record 0, field 'a'", "Convert it first")
    refused(DataError, lambda: make([{"a": None}, {"a": object}]), "record 1, field 'a'")
    schema = {"amount": pa.int32()}
    refused(
        DataError,
        lambda: make([{"amount": 1}, {"amuont": 2}], schema),
        *("record 1 has a field 'amuont'", "Did you mean 'amount'?"),
    )
    refused(DataError, lambda: make([{"x": 1}], schema), "record 0 has a field 'x'", "Its fields: amount.")
    refused(
        DataError,
        lambda: make([{}, {"amount": 1.5}], schema),
        "record 1, field 'amount': 1.5 (a float)",
        "int32",
    )
    refused(DataError, lambda: make([{"amount": 2**40}], schema), "record 0, field 'amount'")
    strict = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    refused(DataError, lambda: make([{"a": 1}, {}], strict), "record 1: field 'a' is missing", "never null")
    refused(DataError, lambda: make([{"a": 1}, {"a": None}], strict), "record 1: field 'a' is null")


def test_schemas_are_held_to_their_word():
    strict = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    said = ("column 'a', row 1 is null", "Make the field nullable")
    refused(DataError, lambda: SharedDataBatch.from_pydict({"a": [1, None]}, strict), *said)
    lying = pa.record_batch([pa.array([1, None])], schema=strict)
    refused(DataError, lambda: SharedDataBatch.from_arrow(lying), *said)
    refused(DataError, lambda: SharedDataBatch.from_arrow(pa.table(lying)), *said)
    assert len(SharedDataBatch.from_arrow(lying[:1])) == 1


def test_a_fraction_never_becomes_an_integer_unseen():
    refused(DataError, lambda: SharedDataBatch.from_pydict({"a": [1, 2.5]}, {"a": pa.int64()}), "row 1: 2.5")


def address_of(column):
    return column.buffers()[1].address


@pytest.mark.parametrize(
    "dtype",
    "i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 M8[s] M8[ms] M8[us] M8[ns] m8[s] m8[ms] m8[us] m8[ns]".split(),
)
def test_numpy_memory_is_shared(dtype):
    values = np.arange(50).astype(dtype)
    column = SharedDataBatch.from_columns({"x": values})["x"]
    assert address_of(column) == values.ctypes.data
    assert np.array_equal(column.to_numpy(zero_copy_only=False), values)
    part = values[7:]
    part.flags.writeable = False
    assert address_of(SharedDataBatch.from_columns({"x": part})["x"]) == part.ctypes.data


def test_numpy_arrays_that_must_be_copied_are():
    values = np.arange(20)
    made = {
        "strided": values[::2],
        "backwards": values[9::-1],
        "swapped": values[:10].astype(">i8"),
        "bools": values[:10] > 4,
        "words": values[:10].astype(str),
        "bytes": values[:10].astype("S"),
        "days": values[:10].astype("M8[D]"),
    }
    batch = SharedDataBatch.from_columns(made)
    assert batch["strided"].to_pylist() == list(range(0, 20, 2))
    assert batch["backwards"].to_pylist() == list(range(9, -1, -1))
    assert batch["swapped"].to_pylist() == list(range(10))
    assert batch["bools"].to_pylist() == [False] * 5 + [True] * 5
    assert batch["words"].to_pylist() == [str(row) for row in range(10)]
    assert batch["bytes"].type == pa.binary()
    assert batch["days"].type == pa.date32()
    assert values.flags.writeable


def test_missing_values_of_numpy():
    batch = SharedDataBatch.from_columns(
        {
            "time": np.array(["2024-01-01", "NaT"], "M8[s]"),
            "masked": np.ma.array([1, 2], mask=[False, True]),
            "nan": np.array([1.0, np.nan]),
        }
    )
    assert batch["time"].null_count == batch["masked"].null_count == 1
    assert batch["nan"].null_count == 0


class OnDevice:
    """An array of a device, as CuPy and torch present theirs."""

    def __dlpack_device__(self):
        return (2, 1)

    def __dlpack__(self, **_):
        raise AssertionError("must not be asked")


class OnlyDlpack:
    """Host memory that speaks DLPack and nothing else."""

    def __init__(self, values):
        self._values = values

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()

    def __dlpack__(self, **options):
        return self._values.__dlpack__(**options)


def test_dlpack_memory_is_shared():
    values = np.arange(9.0)
    column = SharedDataBatch.from_columns({"x": OnlyDlpack(values)})["x"]
    assert address_of(column) == values.ctypes.data


def test_other_libraries_columns_are_shared():
    series = pl.Series([1, 2, 3])
    batch = SharedDataBatch.from_columns({"x": series, "y": pa.array([1, 2, 3])})
    assert batch.to_pylist() == [{"x": row, "y": row} for row in (1, 2, 3)]
    assert address_of(batch["x"]) == address_of(series.to_arrow())


def test_from_columns_errors():
    make = SharedDataBatch.from_columns
    refused(SchemaError, lambda: make({"x": np.zeros((2, 3))}), "'x' has 2 dimensions, shape (2, 3)")
    refused(SchemaError, lambda: make({"x": np.float64(1)[()]}), "column 'x'")
    refused(
        SchemaError, lambda: make({"x": np.zeros(2, [("p", "i4"), ("q", "f8")])}), "structured", "here p, q"
    )
    refused(SchemaError, lambda: make({"x": np.zeros(2, complex)}), "complex128", "no type")
    refused(SchemaError, lambda: make({"x": np.zeros(2, np.longdouble)}), "no type")
    refused(SchemaError, lambda: make({"x": np.array([1, "a"], object)}), "Python objects. Use from_pydict")
    refused(SchemaError, lambda: make({"x": np.zeros(2, "M8[h]")}), "astype('datetime64[s]')")
    refused(SchemaError, lambda: make({"x": np.zeros(2, "m8[ps]")}), "astype('timedelta64[ns]')")
    refused(SchemaError, lambda: make({"x": np.zeros(2, "M8[25s]")}), "a unit Arrow does not have")
    refused(SchemaError, lambda: make({"x": [1, 2]}), "is a list, not an array", "from_pydict")
    refused(SchemaError, lambda: make([1]), "takes a mapping from column names to arrays")
    refused(
        SchemaError, lambda: make({"x": np.zeros(2), "y": np.zeros(3)}), "'y' has 3 rows and column 'x' has 2"
    )
    refused(DeviceUnavailableError, lambda: make({"x": OnDevice()}), "'x' lies on", "cupy.asnumpy", "x.cpu()")
    refused(DataError, lambda: SharedDataBatch.from_pydict({"x": [object()]}), "column 'x', row 0")


def test_schemas_with_a_name_twice_are_refused():
    twice = pa.schema([("a", pa.int8()), ("a", pa.int8())])
    refused(SchemaError, lambda: SharedDataBatch.empty(twice), "'a' appears 2 times")
    table = pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"])
    refused(SchemaError, lambda: SharedDataBatch.from_arrow(table), "'a' appears 2 times")


def test_columns_too_large_for_their_type_say_so(monkeypatch):
    def overflow(arrays):
        raise pa.ArrowInvalid("offset overflow while concatenating arrays")

    monkeypatch.setattr("dataflare.ingest.pa.concat_arrays", overflow)
    table = pa.table({"s": pa.chunked_array([["a"], ["b"]])})
    refused(DataError, lambda: SharedDataBatch.from_arrow(table), "'s' is too large", "large_ type")
