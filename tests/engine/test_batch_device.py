"""Batches on a device: there and back, slices and steps where they lie, and what other libraries take them by."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pyarrow as pa
import pytest

from dataflare import SharedDataBatch
from dataflare.kernels.cuda import arrow_device, dlpack
from dataflare.kernels.cuda.column import DeviceColumn
from dataflare.kernels.cuda.emulated import default_emulator
from dataflare.kernels.errors import (
    BufferUnavailableError,
    DeviceUnavailableError,
    OptionError,
    SchemaError,
)

EMULATED = "cuda:emulated"


@pytest.fixture
def batch() -> SharedDataBatch:
    numbers = pa.array(range(1000))
    data = pa.record_batch(
        {
            "i": numbers,
            "f": pa.array(np.arange(1000) / 4, pa.float32()),
            "n": pa.array([None if i % 7 == 0 else i * 3 for i in range(1000)]),
            "s": pa.array([f"text {i}" * (i % 4) for i in range(1000)]),
            "d": pa.array(["red", "green", None, "blue"] * 250).dictionary_encode(),
            "l": pa.array([[i] for i in range(1000)]),
        }
    )
    return SharedDataBatch.from_arrow(data).with_metadata("k", 1).with_watermark(5)


class Foreign:
    """An array or a table of another library: only the protocols of what it wraps."""

    def __init__(self, wrapped: object) -> None:
        self._wrapped = wrapped


class ForeignArray(Foreign):
    def __dlpack_device__(self):
        return self._wrapped.__dlpack_device__()

    def __dlpack__(self, **kwargs):
        return self._wrapped.__dlpack__(**kwargs)


class ForeignTable(Foreign):
    def __arrow_c_device_array__(self, requested_schema=None, **kwargs):
        return self._wrapped.__arrow_c_device_array__(requested_schema, **kwargs)


def test_there_and_back(batch):
    there = batch.to_device(EMULATED)
    assert (batch.device, there.device, there.to_host().device) == ("cpu", EMULATED, "cpu")
    assert there.to_device(EMULATED) is there
    assert there.to_host().equals(batch)
    assert there.equals(batch)
    assert there.to_arrow().equals(batch.to_arrow())
    assert (there.metadata, there.watermark) == (batch.metadata, 5)
    assert pickle.loads(pickle.dumps(there)).equals(batch)
    assert there.nbytes == pytest.approx(batch.nbytes, abs=100)
    assert "on cuda:emulated" in repr(there)
    assert repr(there).splitlines()[1:] == repr(batch).splitlines()[1:]


def test_devices_that_are_not_there(batch):
    with pytest.raises(DeviceUnavailableError, match="cuda:63"):
        batch.to_device("cuda:63")
    with pytest.raises(OptionError, match="'gpu' is not known"):
        batch.to_device(EMULATED).to_device("gpu")


def test_slices_and_selections_share_the_memory_of_the_device(batch):
    there = batch.to_device(EMULATED)
    used = default_emulator().memory().free_bytes
    part = there[10:20][3:].select("n", "s", "l")
    assert part["n"].addresses == there["n"].addresses
    assert default_emulator().memory().free_bytes == used
    assert part.to_arrow().equals(batch[13:20].select("n", "s", "l").to_arrow())
    assert part.with_metadata("z", 2).device == EMULATED
    assert there[5:5].to_pylist() == []


def test_steps_run_where_the_batch_lies(batch, monkeypatch):
    def steps(one):
        kept = one.filter(lambda r: r.n > 100)
        made = kept.with_columns(x=lambda r: r.f * 2, t=lambda r: r.s if r.i % 2 == 0 else "odd")
        return made.filter(lambda r: r.d != "red")[5:400]

    expected = steps(batch)
    there = batch[3:].to_device(EMULATED)
    moved = []
    backend = default_emulator()
    for name in ("upload", "download"):
        copy = getattr(backend, name)
        monkeypatch.setattr(backend, name, lambda *a, copy=copy: (moved.append(a[2]), copy(*a)))
    found = steps(there)
    assert max(moved) <= 125, "counts, dictionaries, and the bits of who is kept for the nested column"
    monkeypatch.undo()
    assert found.device == EMULATED
    assert 100 < len(found) < 400
    assert found.equals(expected)
    assert (found.metadata, found.watermark) == (batch.metadata, 5)
    mapped = there.map(lambda r: {"y": r.i + 1})
    assert mapped.device == EMULATED
    assert mapped.equals(batch[3:].map(lambda r: {"y": r.i + 1}))


def test_merge(batch):
    parts = [batch[:300].to_device(EMULATED), batch[300:].to_device(EMULATED)]
    merged = SharedDataBatch.merge(parts)
    assert merged.device == EMULATED
    assert merged.equals(batch)
    with pytest.raises(OptionError, match="one device.*cpu, cuda:emulated"):
        SharedDataBatch.merge([batch, parts[0]])


def test_a_column_is_what_cupy_and_torch_take(batch):
    column = batch.to_device(EMULATED)[4:10]["f"]
    assert isinstance(column, DeviceColumn)
    shown = column.__cuda_array_interface__
    assert (shown["shape"], shown["typestr"], shown["version"], shown["stream"]) == ((6,), "<f4", 3, None)
    values = np.empty(6, np.float32)
    default_emulator().download(values.ctypes.data, shown["data"][0], 24, None)
    assert values.tolist() == [1.0, 1.25, 1.5, 1.75, 2.0, 2.25]
    assert column.to_arrow().to_pylist() == values.tolist()


def test_what_is_no_array_says_so(batch):
    there = batch.to_device(EMULATED)
    assert not hasattr(there["n"], "__cuda_array_interface__")
    with pytest.raises(AttributeError, match="143 nulls"):
        _ = there["n"].__cuda_array_interface__
    with pytest.raises(BufferUnavailableError, match="type string"):
        there["s"].__dlpack__()
    with pytest.raises(BufferError, match="to_device"):
        there["i"].__dlpack__(copy=True)
    without_nulls = there["n"].slice(1, 6)
    assert without_nulls.__cuda_array_interface__["typestr"] == "<i8"


def test_dlpack_there_and_back_without_a_copy(batch):
    there = batch.to_device(EMULATED)
    column = there["i"].slice(100, 50)
    assert column.__dlpack_device__() == (dlpack.EMULATED_DEVICE_TYPE, 0)
    made = SharedDataBatch.from_columns(
        {"a": ForeignArray(column), "b": column, "f": there["f"].slice(0, 50)}
    )
    assert made.device == EMULATED
    assert made["a"].data_address == column.data_address
    assert made.to_pylist() == [{"a": 100 + i, "b": 100 + i, "f": i / 4} for i in range(50)]
    assert (
        made.filter(lambda r: r.a % 2 == 0).map(lambda r: {"x": r.a + r.f})["x"].to_arrow()[1].as_py()
        == 102.5
    )


def test_dlpack_keeps_the_memory_until_it_is_let_go(batch):
    gc.collect()
    before = len(dlpack._exported)
    free = default_emulator().memory().free_bytes
    column = batch.select("i").to_device(EMULATED)["i"]
    capsule = column.__dlpack__()
    taken = SharedDataBatch.from_columns({"a": ForeignArray(column)})
    del column
    assert len(dlpack._exported) == before + 2
    assert taken["a"].to_arrow().to_pylist() == list(range(1000))
    del taken
    assert default_emulator().memory().free_bytes < free
    del capsule
    assert len(dlpack._exported) == before
    assert default_emulator().memory().free_bytes == free


def test_arrays_that_make_no_batch_are_refused(batch):
    there = batch.to_device(EMULATED)
    with pytest.raises(SchemaError, match="'b' has 10 rows and column 'a' has 1,000"):
        SharedDataBatch.from_columns({"a": there["i"], "b": there["i"].slice(0, 10)})
    with pytest.raises(SchemaError, match="'b' lies in host memory and column 'a' on cuda:emulated"):
        SharedDataBatch.from_columns({"a": there["i"], "b": np.arange(1000)})


def test_arrow_there_and_back_without_a_copy(batch):
    there = batch.select("i", "n", "s", "d").to_device(EMULATED)[3:900]
    gc.collect()
    before = len(arrow_device._held)
    made = SharedDataBatch.from_arrow(ForeignTable(there))
    assert made.device == EMULATED
    assert made["s"].addresses == there["s"].addresses
    assert made.equals(there)
    assert made.schema.equals(there.schema)
    kept = [one.filter(lambda r: r.n > 1000) for one in (made, there)]
    assert kept[0].equals(kept[1])
    assert 0 < len(kept[0]) < 897
    del made, kept
    gc.collect()
    assert len(arrow_device._held) == before


def test_arrow_memory_is_held_by_who_took_it(batch):
    free = default_emulator().memory().free_bytes
    there = batch.select("i").to_device(EMULATED)
    made = SharedDataBatch.from_arrow(ForeignTable(there))
    del there
    assert made["i"].to_arrow().to_pylist() == list(range(1000))
    del made
    gc.collect()
    assert default_emulator().memory().free_bytes == free


def test_nanoarrow_reads_what_is_exported(batch):
    device = pytest.importorskip("nanoarrow.device")
    there = batch.select("i", "s").to_device(EMULATED)[2:8]
    held = device.c_device_array(ForeignTable(there))
    assert (held.device_type_id, held.device_id) == (dlpack.EMULATED_DEVICE_TYPE, 0)
    assert held.array.length == 6
    assert [child.offset for child in held.array.children] == [2, 2]
    assert held.array.child(0).buffers[1] == there["i"].addresses[1]
    before = len(arrow_device._held)
    del held
    gc.collect()
    assert len(arrow_device._held) < before


def test_nested_columns_are_not_exported(batch):
    with pytest.raises(BufferUnavailableError, match="'l' of type list.*select"):
        batch.to_device(EMULATED).__arrow_c_device_array__()
