"""The forms in which `map_batches` gives batches to functions, on every device, and what it refuses."""

from __future__ import annotations

import datetime
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import dataflare as flare
from dataflare.kernels.errors import DataError, DeviceUnavailableError, OptionError, RunError, SchemaError

ROWS = 100
SCHEMA = pa.schema({"i": pa.int32(), "f": pa.float64()})


def numbers() -> flare.Pipeline:
    return flare.from_batches(
        [pa.table({"i": range(ROWS), "f": [i / 4 for i in range(ROWS)]}, schema=SCHEMA)]
    )


@pytest.mark.parametrize(
    ("batch_format", "given"),
    [
        ("batch", flare.SharedDataBatch),
        ("arrow", pa.RecordBatch),
        ("device", flare.SharedDataBatch),
        ("numpy", dict),
    ],
)
def test_each_form_between_two_programs(device: str, batch_format: Any, given: type) -> None:
    def same(batch: Any) -> Any:
        assert type(batch) is given
        if given is dict:
            assert all(type(column) is np.ndarray for column in batch.values())
        elif given is flare.SharedDataBatch:
            assert batch.device == (device if batch_format == "device" and device != "python" else "cpu")
        return batch

    steps = numbers().filter(lambda r: r.i % 3 == 0).map_batches(same, SCHEMA, batch_format=batch_format)
    result = steps.with_columns(g=lambda r: r.f + r.i).collect(device=device)
    assert result.device == "cpu"
    assert result.to_pylist() == [{"i": i, "f": i / 4, "g": i / 4 + i} for i in range(0, ROWS, 3)]


def test_arrays_are_views_of_the_batch_that_cannot_be_written() -> None:
    batch = flare.SharedDataBatch.from_columns({"x": np.arange(5.0)})

    def doubled(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert columns["x"].ctypes.data == batch["x"].buffers()[1].address
        with pytest.raises(ValueError, match="read-only"):
            columns["x"][0] = 1
        return {"x": columns["x"] * 2}

    steps = flare.from_batches([batch]).map_batches(doubled, batch_format="numpy")
    assert steps.collect(device="cpu").to_pylist() == [{"x": 2.0 * i} for i in range(5)]


def test_types_that_numpy_has_go_there_and_back() -> None:
    table = pa.table(
        {
            "flag": [True, False],
            "day": [datetime.date(2024, 2, 29), datetime.date(1969, 12, 31)],
            "at": pa.array([1, -1], pa.timestamp("us")),
            "took": pa.array([5, 6], pa.duration("ms")),
            "half": pa.array(np.array([1, 2], "f2")),
            "small": pa.array([1, 255], pa.uint8()),
        }
    )
    found = flare.from_arrow(table).map_batches(lambda c: c, table.schema, batch_format="numpy").to_arrow()
    assert found.equals(table)


def test_on_the_emulated_gpu_numpy_takes_the_place_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(columns: dict[str, Any]) -> dict[str, Any]:
        assert type(columns["f"]) is np.ndarray
        return {"f": columns["f"] / 2, "big": columns["f"] > 20}

    found = numbers().map_batches(halved, batch_format="cupy").collect(device="cuda:emulated")
    assert found.to_pylist() == [{"f": i / 8, "big": i / 4 > 20} for i in range(ROWS)]


@pytest.mark.parametrize("batch_format", ["numpy", "cupy", "torch"])
def test_a_type_without_an_array_is_refused_before_anything_runs(batch_format: Any) -> None:
    texts = flare.from_batches([pa.table({"x": [1], "name": ["a"]})])
    with pytest.raises(SchemaError, match=r"column 'name' is string.*select or drop.*batch_format='arrow'"):
        texts.map_batches(lambda c: c, batch_format=batch_format)
    texts.drop("name").map_batches(lambda c: c, batch_format=batch_format)


@pytest.mark.parametrize(
    ("batch_format", "data_type", "fits"),
    [
        ("numpy", pa.bool_(), True),
        ("cupy", pa.bool_(), False),
        ("torch", pa.timestamp("us"), False),
        ("numpy", pa.timestamp("us", "UTC"), False),
        ("numpy", pa.decimal128(5, 2), False),
        ("torch", pa.uint64(), True),
        ("device", pa.list_(pa.int8()), True),
    ],
)
def test_which_types_a_form_has(batch_format: Any, data_type: pa.DataType, fits: bool) -> None:
    empty = flare.from_arrow(pa.schema({"x": data_type}).empty_table())
    if fits:
        empty.map_batches(lambda b: b, batch_format=batch_format)
    else:
        with pytest.raises(SchemaError, match="column 'x'"):
            empty.map_batches(lambda b: b, batch_format=batch_format)


def test_types_that_are_not_known_before_are_looked_at_when_they_come() -> None:
    texts = flare.from_batches([pa.table({"name": ["a"]})]).map_batches(lambda b: b)
    with pytest.raises(SchemaError, match=r"map_batches 2: .*column 'name' is string"):
        texts.map_batches(lambda c: c, batch_format="numpy").collect()


def test_nulls_have_no_place_in_arrays(device: str) -> None:
    some = flare.from_batches([pa.table({"x": [1.0, None, 3.0]})])
    with pytest.raises(DataError, match=r"map_batches 2: .*column 'x' has 1 here.*with_columns\(x=lambda r"):
        some.with_columns(y=lambda r: 0.5).map_batches(lambda c: c, batch_format="numpy").collect(
            device=device
        )
    filled = some.with_columns(x=lambda r: r.x if r.x is not None else 0.0)
    found = filled.map_batches(lambda c: {"s": c["x"] + 1}, batch_format="numpy").collect(device=device)
    assert found.to_pylist() == [{"s": 2.0}, {"s": 1.0}, {"s": 4.0}]


def test_a_form_that_is_not_there() -> None:
    with pytest.raises(
        OptionError, match=r"one of batch, arrow, numpy, .*, not 'numpi'. Did you mean 'numpy'"
    ):
        numbers().map_batches(lambda b: b, batch_format="numpi")  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["auto", "cpu"])
def test_cupy_without_a_gpu(where: str) -> None:
    steps = numbers().map_batches(lambda c: c, batch_format="cupy")
    with pytest.raises(
        DeviceUnavailableError, match=r"map_batches 1: .*takes CuPy arrays.*batch_format='numpy'"
    ):
        steps.collect(device=where)


def test_what_no_batch_can_be_made_of() -> None:
    with pytest.raises(SchemaError, match="NumPy, CuPy, torch or Arrow arrays"):
        numbers().map_batches(lambda c: c["f"], batch_format="numpy").collect()
    with pytest.raises(RunError, match="KeyError"):
        numbers().map_batches(lambda c: c["z"], batch_format="numpy").collect()


def test_torch_shares_memory_with_the_batch() -> None:
    torch = pytest.importorskip("torch", reason="torch is no dependency")
    batch = flare.SharedDataBatch.from_columns({"x": np.arange(5.0), "n": np.arange(5, dtype="u4")})

    def halved(columns: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(columns["x"], torch.Tensor)
        assert columns["x"].data_ptr() == batch["x"].buffers()[1].address
        return {"half": columns["x"] / 2, "n": columns["n"], "big": columns["x"] > 2}

    found = flare.from_batches([batch]).map_batches(halved, batch_format="torch").collect(device="cpu")
    assert found.to_pylist() == [{"half": i / 2, "n": i, "big": i > 2} for i in range(5)]


def test_torch_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r"map_batches 1: .*pip install torch"):
        numbers().map_batches(lambda c: c, batch_format="torch").collect()
