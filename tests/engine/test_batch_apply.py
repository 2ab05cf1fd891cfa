"""`map`, `filter` and `with_columns` of one batch: what is compiled, remembered, and handed to a kernel."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from dataflare import SharedDataBatch, apply
from dataflare.kernels.errors import ColumnNotFoundError, CompileError, OptionError


@pytest.fixture
def batch():
    return SharedDataBatch.from_columns({"a": np.arange(10), "b": np.arange(10) / 2, "c": np.arange(10)})


@pytest.fixture
def compiled(monkeypatch):
    """Forget all programs, and record what is compiled."""
    import dataflare.kernels.backend as backend

    stages = []
    original = backend.compile_program

    def recording(program, device="cpu"):
        stages.append(program)
        return original(program, device)

    monkeypatch.setattr(backend, "compile_program", recording)
    monkeypatch.setattr(apply, "_known", {})
    return stages


def test_map_filter_and_with_columns(batch):
    assert batch.map(lambda r: {"twice": r.a * 2}).to_pylist()[:2] == [{"twice": 0}, {"twice": 2}]
    assert batch.filter(lambda r: r.b > 3)["a"].to_pylist() == [7, 8, 9]
    wider = batch[2:4].with_columns(total=lambda r: r.a + r.b, a=lambda r: -r.a)
    assert wider.column_names == ["a", "b", "c", "total"]
    assert wider.select("a", "total").to_pylist() == [{"a": -2, "total": 3.0}, {"a": -3, "total": 4.5}]
    assert batch[:1].with_columns(lambda r: {"d": 1.5})["d"].to_pylist() == [1.5]


def test_metadata_and_watermark_are_carried_on(batch):
    marked = batch.with_metadata("k", 1).with_watermark(5)
    for made in (marked.map(lambda r: {"a": r.a}), marked.filter(lambda r: r.a > 3)):
        assert (dict(made.metadata), made.watermark) == ({"k": 1}, 5)


def test_empty_batches_and_nothing_left(batch):
    assert len(batch[:0].map(lambda r: {"a": r.a})) == 0
    none = batch.filter(lambda r: r.a > 100)
    assert len(none) == 0
    assert none.schema == batch.schema
    none.to_arrow().validate(full=True)


def test_a_known_function_is_not_compiled_again(batch, compiled):
    def half(r):
        return {"half": r.a / 2}

    for _ in range(3):
        batch.map(half)
        batch[3:].map(half)
    for _ in range(3):
        batch.map(lambda r: {"a": r.a})  # a new function object each time, the same code
    assert len(compiled) == 2


def test_a_changed_captured_value_compiles_again(batch, compiled):
    limit = 3
    over = lambda r: r.a > limit  # noqa: E731
    assert len(batch.filter(over)) == 6
    limit = 7
    assert len(batch.filter(over)) == 2
    limit = 3
    assert len(batch.filter(over)) == 6
    assert len(compiled) == 2


def test_another_schema_compiles_again_and_both_are_known(batch, compiled):
    function = lambda r: {"x": r.a + 1}  # noqa: E731
    other = batch.select("b", "a")
    metadata = SharedDataBatch.from_arrow(batch.to_arrow().replace_schema_metadata({"k": "v"}))
    for _ in range(2):
        for each in (batch, other, metadata):
            assert each.map(function)["x"].to_pylist() == list(range(1, 11))
    assert len(compiled) == 3


def test_the_kinds_of_stage_are_kept_apart(batch, compiled):
    function = lambda r: {"x": r.a}  # noqa: E731
    assert batch.map(function).column_names == ["x"]
    assert batch.with_columns(function).column_names == ["a", "b", "c", "x"]
    value = lambda r: r.a  # noqa: E731
    assert batch.with_columns(p=value).column_names[-1] == "p"
    assert batch.with_columns(q=value).column_names[-1] == "q"
    assert len(compiled) == 4


def test_what_is_remembered_is_bounded(batch, compiled):
    for number in range(apply._KNOWN_KEYS + 10):
        apply.remember_program(("key", number), apply_stage(), batch.schema)
    assert len(apply._known) == apply._KNOWN_KEYS
    for number in range(20):
        schema = pa.schema([("a", pa.int64()), (f"n{number}", pa.int64())])
        apply.remember_program("one", apply_stage(), schema)
    assert len(apply._known["one"]) == apply._SCHEMAS_A_KEY


def apply_stage():
    from dataflare.kernels.udf.stages import FilterStage

    return FilterStage(lambda r: r.a > 0)


def test_only_the_columns_that_a_program_requires_are_touched(batch, monkeypatch):
    seen = []

    def run(columns, num_rows):
        seen.append(columns)
        return SimpleNamespace(columns=tuple(columns), num_rows=num_rows, rows_dropped_null_predicate=0)

    schema = pa.schema([("c", pa.int64())])
    known = apply.KnownProgram(batch.schema, schema, (2,), run)
    monkeypatch.setattr(apply, "known_program", lambda key, schema: known)
    part = batch[4:6]
    made = part.map(lambda r: {"c": r.c})
    assert made.to_pylist() == [{"c": 4}, {"c": 5}]
    assert [column.offset for column in seen[0]] == [4]
    assert part._loaded == [None, None, seen[0][0]]


def test_errors_come_from_the_compiler_with_its_words(batch):
    with pytest.raises(ColumnNotFoundError, match="'prize'"):
        batch.filter(lambda r: r.prize > 1)
    with pytest.raises(CompileError):
        batch.map(lambda r: {"x": print(r.a)})
    with pytest.raises(OptionError, match="needs a function, or name=function"):
        batch.with_columns()
