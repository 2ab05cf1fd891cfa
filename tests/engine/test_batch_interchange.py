"""Batches from and to other libraries, through Arrow's interfaces, over the same memory."""

from __future__ import annotations

import builtins

import arro3.core
import duckdb
import nanoarrow
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from dataflare import SharedDataBatch
from dataflare.kernels.errors import SchemaError
from dataflare.sample_data import every_type, sample_array

ROWS = [{"n": 1, "x": 0.5, "s": "a"}, {"n": None, "x": 1.5, "s": "a longer word than twelve"}]
types = pytest.mark.parametrize("data_type", every_type(), ids=str)


def addresses(array):
    return [None if buffer is None else buffer.address for buffer in array.buffers()]


@pytest.fixture
def batch():
    return SharedDataBatch.from_records(ROWS)


@types
def test_every_type_round_trips_through_pyarrow_without_copying(data_type):
    source = pa.record_batch({"x": sample_array(data_type, 30)})[3:]
    batch = SharedDataBatch.from_arrow(source)
    assert batch.to_arrow() is source
    assert SharedDataBatch.from_arrow(batch) is batch
    tabled = SharedDataBatch.from_arrow(pa.Table.from_batches([source]))
    for array in (batch["x"], tabled["x"], SharedDataBatch.from_arrow(tabled.to_arrow())["x"]):
        assert addresses(array) == addresses(source.column(0))


@types
def test_every_type_passes_arrows_c_interfaces_without_copying(data_type):
    if isinstance(data_type, pa.RunEndEncodedType) and not hasattr(
        pa.RunEndEncodedArray, "__arrow_c_array__"
    ):
        pytest.skip("pyarrow does not export it")
    batch = SharedDataBatch.from_arrow(pa.record_batch({"x": sample_array(data_type, 30)}))
    for found in (pa.record_batch(batch), pa.table(batch).to_batches()[0]):
        assert found.schema.equals(batch.schema)
        if not data_type.num_fields:
            mine = [address for address in addresses(batch["x"]) if address]
            theirs = [address for address in addresses(found.column(0)) if address]
            assert mine == theirs
    assert pa.schema(batch).equals(batch.schema)
    again = SharedDataBatch.from_arrow(_OnlyArray(batch))
    assert again.equals(batch)


class _OnlyArray:
    """Has the array interface and no other."""

    def __init__(self, batch):
        self._batch = batch

    def __arrow_c_array__(self, requested_schema=None):
        return self._batch.__arrow_c_array__(requested_schema)


class _OnlyDeviceArray:
    """Has the device interface and no other."""

    def __init__(self, batch):
        self._batch = batch

    def __arrow_c_device_array__(self, requested_schema=None, **kwargs):
        return self._batch.__arrow_c_device_array__(requested_schema, **kwargs)


def test_the_device_interface_hands_over_host_memory(batch):
    again = SharedDataBatch.from_arrow(_OnlyDeviceArray(batch))
    assert addresses(again["x"]) == addresses(batch["x"])


def test_a_table_is_made_contiguous_only_where_it_is_not():
    whole = pa.chunked_array([pa.array([1, 2, 3])])
    parts = pa.chunked_array([pa.array([1.0]), pa.array([2.0, 3.0])])
    padded = pa.chunked_array(
        [pa.array([], pa.string()), pa.array(["a", "b", "c"]), pa.array([], pa.string())]
    )
    none = pa.chunked_array([], pa.int8())
    batch = SharedDataBatch.from_arrow(pa.table({"whole": whole, "parts": parts, "padded": padded}))
    assert addresses(batch["whole"]) == addresses(whole.chunk(0))
    assert addresses(batch["padded"]) == addresses(padded.chunk(1))
    assert batch["parts"].to_pylist() == [1.0, 2.0, 3.0]
    assert len(SharedDataBatch.from_arrow(pa.table({"none": none}))) == 0


def test_readers_and_streams(batch):
    reader = pa.RecordBatchReader.from_batches(batch.schema, [batch.to_arrow()] * 3)
    assert len(SharedDataBatch.from_arrow(reader)) == 6


def test_polars(batch):
    frame = pl.DataFrame(ROWS)
    mine = SharedDataBatch.from_arrow(frame)
    assert mine.to_pylist() == ROWS
    assert mine.schema.field("s").type == pa.string_view()
    assert mine["x"].buffers()[1].address == frame["x"].to_arrow().buffers()[1].address
    assert batch.to_polars().equals(frame)
    assert mine.to_polars()["x"].to_arrow().buffers()[1].address == mine["x"].buffers()[1].address
    assert pl.DataFrame(batch[1:]).rows() == [(None, 1.5, "a longer word than twelve")]


def test_pandas(batch):
    frame = pd.DataFrame({"x": [0.5, 1.5, 2.5], "s": ["a", None, "c"]})
    mine = SharedDataBatch.from_arrow(frame)
    assert mine.column_names == ["x", "s"]
    assert mine["s"].to_pylist() == ["a", None, "c"]
    assert mine["x"].buffers()[1].address == frame["x"].to_numpy().ctypes.data
    assert batch.to_pandas()["x"].tolist() == [0.5, 1.5]


def test_duckdb(batch):
    relation = duckdb.sql("select range as n, range::varchar as s from range(5000)")
    mine = SharedDataBatch.from_arrow(relation)
    assert len(mine) == 5000
    assert mine[4999:].to_pylist() == [{"n": 4999, "s": "4999"}]
    assert duckdb.sql("select sum(x) from batch").fetchall() == [(2.0,)]


def test_nanoarrow_and_arro3(batch):
    for theirs in (nanoarrow.Array(batch), arro3.core.RecordBatch.from_arrow(batch)):
        mine = SharedDataBatch.from_arrow(theirs)
        assert mine.to_pylist() == ROWS
        assert addresses(mine["x"])[1] == addresses(batch["x"])[1]


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        ({"a": [1]}, "use from_pydict"),
        ([{"a": 1}], "use from_records"),
        (pl.LazyFrame({"a": [1]}), "collect() it first"),
        (3, "none of __arrow_c_stream__"),
        (pa.array([1, 2]), "from_columns({'name': data})"),
        (nanoarrow.Array([1, 2], nanoarrow.int64()), "from_columns({'name': data})"),
    ],
    ids=["dict", "list", "LazyFrame", "int", "Array", "nanoarrow.Array"],
)
def test_what_is_no_batch_is_refused_with_a_remedy(data, remedy):
    with pytest.raises(SchemaError) as caught:
        SharedDataBatch.from_arrow(data)
    assert remedy in str(caught.value)


def test_numpy_arrays_are_sent_to_from_columns():
    with pytest.raises(SchemaError, match="use from_columns"):
        SharedDataBatch.from_arrow(pd.Series([1]).to_numpy())


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_a_missing_library_is_named(batch, monkeypatch, name):
    original = builtins.__import__

    def without(module, *args, **kwargs):
        if module == name:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=f"to_{name} needs {name}: pip install {name}"):
        getattr(batch, f"to_{name}")()


def test_records_out(batch):
    assert batch.to_pylist() == ROWS
    assert batch[:0].to_pylist() == []
