"""Pickled batches: buffers out of band without a copy, slices without their parents, everything else kept."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare import SharedDataBatch
from dataflare.sample_data import every_type, sample_array

BY_NAME = {str(data_type): data_type for data_type in every_type()}


def shipped(batch):
    buffers = []
    return pickle.dumps(batch, protocol=5, buffer_callback=buffers.append), buffers


def address(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


def test_buffers_go_out_of_band_and_come_back_without_a_copy():
    values = np.arange(1_000_000)
    batch = SharedDataBatch.from_columns({"x": values})
    data, buffers = shipped(batch)
    assert len(data) < 1000
    assert [address(buffer) for buffer in buffers] == [values.ctypes.data]
    again = pickle.loads(data, buffers=buffers)
    assert again["x"].buffers()[1].address == values.ctypes.data


def test_a_slice_ships_only_its_rows():
    values = np.arange(1_000_000)
    words = pa.array([f"word {row:09}" for row in range(1_000_000)])
    batch = SharedDataBatch.from_arrow(pa.record_batch({"x": values, "s": words}))[500_000:500_100]
    data, buffers = shipped(batch)
    assert len(data) + sum(buffer.raw().nbytes for buffer in buffers) < 4000
    assert address(buffers[0]) == values[500_000:].ctypes.data
    assert pickle.loads(data, buffers=buffers).equals(batch)
    assert len(pickle.dumps(batch)) < 4000, "in band too"


@given(
    name=st.sampled_from(sorted(BY_NAME)),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    protocol=st.sampled_from([2, 4, 5]),
)
def test_any_slice_of_any_type_survives(name, cut, protocol):
    batch = SharedDataBatch.from_arrow(pa.record_batch({"x": sample_array(BY_NAME[name], 30)}))[slice(*cut)]
    again = pickle.loads(pickle.dumps(batch, protocol=protocol))
    again.to_arrow().validate(full=True)
    assert again.schema.equals(batch.schema, check_metadata=True)
    assert again.to_pylist() == batch.to_pylist()


def test_watermark_metadata_identity_and_age_survive(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("dataflare.shared_columns._clock", lambda: now[0])
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False, metadata={"unit": "s"})], {"k": "v"})
    batch = SharedDataBatch.from_pydict({"x": [1]}, schema).with_metadata("m", [1, 2]).with_watermark(9)
    now[0] = 13.0
    data = pickle.dumps(batch)
    now[0] = 1000.0  # another machine's clock
    again = pickle.loads(data)
    assert again == batch
    assert hash(again) == hash(batch)
    assert (again.watermark, dict(again.metadata)) == (9, {"m": [1, 2]})
    assert again.schema.equals(schema, check_metadata=True)
    assert again.age() == pytest.approx(3.0)
    with pytest.raises(TypeError):
        again.metadata["m"] = 1


def test_rows_without_columns_survive():
    assert len(pickle.loads(pickle.dumps(SharedDataBatch.from_records([{}, {}])))) == 2


def test_another_process_reads_it():
    batch = SharedDataBatch.from_pydict({"x": [1, None, 3], "s": ["a", "b", None]})[1:]
    script = "import pickle, sys; b = pickle.load(sys.stdin.buffer); print(b.id, b.to_pylist())"
    answer = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(batch), capture_output=True, check=True
    )
    assert answer.stdout.decode().strip() == f"{batch.id} {batch.to_pylist()}"
