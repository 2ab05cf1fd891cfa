"""Chains on the device ``python``: which cells are carried, how results are stored, what is counted."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.errors import ColumnNotFoundError, CompileError, SchemaError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.reference.columns import Carried, InputColumn, column_of
from dataflare.kernels.reference.fused import ReferenceProgram, compile_reference
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, Stage, WithColumnsStage
from dataflare.testing import (
    arrays,
    arrow_types,
    assert_batches_equal,
    every_type,
    record_batches,
    sample_array,
)


def compiled(stages: list[Stage], batch: pa.RecordBatch, output: pa.Schema) -> ReferenceProgram:
    return compile_reference(stages, batch.schema, output, batch.schema.names)


def run(stages: list[Stage], batch: pa.RecordBatch, output: pa.Schema) -> tuple[pa.RecordBatch, int]:
    columns = [HostColumn.from_arrow(column) for column in batch.columns]
    result = compiled(stages, batch, output).run(columns, batch.num_rows)
    made = pa.RecordBatch.from_arrays([column.to_arrow() for column in result.columns], schema=output)
    assert made.num_rows == result.num_rows
    return made, result.rows_dropped_null_predicate


@given(batch=record_batches())
def test_values_survive_loading_and_storing(batch: pa.RecordBatch) -> None:
    made, _ = run([MapStage(lambda r: {name: r[name] for name in r})], batch, batch.schema)
    assert_batches_equal(made, batch)


@pytest.mark.parametrize("data_type", every_type(), ids=str)
def test_any_type_is_carried_untouched(data_type: pa.DataType) -> None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(11)), sample_array(data_type, 13).slice(2)], names=["a", "c"]
    )
    made, _ = run([FilterStage(lambda r: r.a % 2 == 0)], batch, batch.schema)
    rows = range(0, 11, 2)
    assert made.column("c").to_pylist() == [batch.column("c").to_pylist()[row] for row in rows]
    whole, _ = run([MapStage(lambda r: {**r})], batch, batch.schema)
    assert whole.column("c").to_pylist() == batch.column("c").to_pylist()


def test_untouchable_cells_pass_through_functions() -> None:
    batch = pa.RecordBatch.from_pydict({"l": [[1], None, [2, 3]], "a": [1, 2, 3]})
    output = pa.schema([("l", pa.list_(pa.int64()))])
    made, _ = run([MapStage(lambda r: {"l": r.l if r.a != 3 else None})], batch, output)
    assert made.to_pydict() == {"l": [[1], None, None]}


def test_computing_with_an_untouchable_cell_is_refused() -> None:
    batch = pa.RecordBatch.from_pydict({"l": [[1]]})
    with pytest.raises(CompileError, match=r"list.* to_pylist|not defined for|pass it on"):
        run([FilterStage(lambda r: r.l)], batch, batch.schema)
    with pytest.raises(CompileError, match="not defined for"):
        run([FilterStage(lambda r: r.l == 1)], batch, batch.schema)


def test_int_results_wrap_into_the_column_type() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array([200, None], pa.uint8())})
    output = pa.schema([("a", pa.int8())])
    made, _ = run([MapStage(lambda r: {"a": r.a})], batch, output)
    assert made.to_pydict() == {"a": [-56, None]}


def test_a_step_sees_the_types_that_the_one_before_stored() -> None:
    batch = pa.RecordBatch.from_pydict({"g": pa.array([0.1], pa.float32())})
    output = pa.schema([("y", pa.float64())])
    stages: list[Stage] = [
        WithColumnsStage(named=(("k", lambda r: 0.1),)),
        MapStage(lambda r: {"y": r.g + r.k}),  # a float64 column by now, not a literal
    ]
    made, _ = run(stages, batch, output)
    assert made.column("y").to_pylist() == [batch.column("g")[0].as_py() + 0.1]


def test_dictionary_results_are_encoded_again() -> None:
    data_type = pa.dictionary(pa.int8(), pa.string())
    batch = pa.RecordBatch.from_arrays([pa.array(["x", None, "y", "x"]).cast(data_type)], names=["s"])
    made, _ = run([MapStage(lambda r: {"s": r.s})], batch, batch.schema)
    assert made.column("s").to_pylist() == ["x", None, "y", "x"]


def test_nulls_of_predicates_are_counted_per_filter() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1, None, 3, None], "b": [None, 1, 3, 4]})
    made, dropped = run([FilterStage(lambda r: r.a > 0), FilterStage(lambda r: r.b > 0)], batch, batch.schema)
    assert made.to_pydict() == {"a": [3], "b": [3]}
    assert dropped == 3


def test_replaced_columns_keep_their_place_and_see_the_old_record() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1], "b": [2]})
    made, _ = run([WithColumnsStage(fn=lambda r: {"a": r.b, "b": r.a})], batch, batch.schema)
    assert made.to_pydict() == {"a": [2], "b": [1]}


@pytest.mark.parametrize("result", [None, 3, (1, 2)])
def test_map_must_return_a_record(result: Any) -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1]})
    with pytest.raises(SchemaError, match="must return a dict or a NamedTuple"):
        run([MapStage(lambda r: result)], batch, batch.schema)


def test_unknown_columns_are_named() -> None:
    batch = pa.RecordBatch.from_pydict({"price": [1]})
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'price'"):
        run([SelectStage((("p", "prise"),))], batch, batch.schema)
    with pytest.raises(ColumnNotFoundError, match="no column 'other'"):
        compile_reference([], batch.schema, batch.schema, ["other"])


def test_empty_batch_has_the_output_schema() -> None:
    batch = pa.RecordBatch.from_pydict({"a": pa.array([], pa.int64())})
    output = pa.schema([("x", pa.decimal128(5, 2)), ("y", pa.dictionary(pa.int8(), pa.string()))])
    made, dropped = run([MapStage(lambda r: {"x": Decimal("1.5"), "y": "a"})], batch, output)
    assert made.schema == output
    assert (made.num_rows, dropped) == (0, 0)


def test_runs_in_several_threads_at_once() -> None:
    batch = pa.RecordBatch.from_pydict({"a": list(range(200))})
    program = compiled([MapStage(lambda r: {"a": r.a * 2})], batch, batch.schema)
    results: list[list[int]] = []

    def work() -> None:
        outcome = program.run([HostColumn.from_arrow(batch.column("a"))], batch.num_rows)
        results.append(outcome.columns[0].to_arrow().to_pylist())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[2 * n for n in range(200)]] * 3


@given(data=st.data())
def test_take_is_arrows(data: st.DataObject) -> None:
    array = data.draw(arrow_types().flatmap(lambda data_type: arrays(data_type, 20)))
    rows = data.draw(st.lists(st.integers(0, 19), max_size=10))
    column = InputColumn("c", array)
    taken = column_of([Carried(column, row) for row in rows], array.type)
    expected = pa.concat_arrays([array.slice(0, 0), *(array.slice(row, 1) for row in rows)])
    assert_batches_equal(
        pa.RecordBatch.from_arrays([taken], names=["c"]), pa.RecordBatch.from_arrays([expected], names=["c"])
    )
