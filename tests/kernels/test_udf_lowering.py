"""What lowering finds out before anything runs: types, nullability, columns, conditions for readers, the digest."""

from __future__ import annotations

import datetime
import decimal
from collections import namedtuple
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.udf.program import SimplePredicate, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, WithColumnsStage

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("age", pa.int8()),
        pa.field("price", pa.float64()),
        pa.field("small", pa.float32()),
        pa.field("name", pa.string()),
        pa.field("code", pa.dictionary(pa.int32(), pa.string())),
        pa.field("day", pa.date32()),
        pa.field("cost", pa.decimal128(15, 2)),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("flag", pa.bool_()),
    ]
)
Point = namedtuple("Point", ["x", "y"])


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda r: {"x": r.age}, pa.int8()),
        (lambda r: {"x": r.age + 1}, pa.int64()),
        (lambda r: {"x": r.age / 2}, pa.float64()),
        (lambda r: {"x": r.small * 2.5}, pa.float32()),
        (lambda r: {"x": r.small * r.price}, pa.float64()),
        (lambda r: {"x": r.small + r.age}, pa.float64()),
        (lambda r: {"x": r.age > 1}, pa.bool_()),
        (lambda r: {"x": 1}, pa.int64()),
        (lambda r: {"x": 1 if r.age else 2.5}, pa.float64()),
        (lambda r: {"x": "a" if r.age else r.name}, pa.string()),
        (lambda r: {"x": r.code}, pa.dictionary(pa.int32(), pa.string())),
        (lambda r: {"x": r.tags}, pa.list_(pa.string())),
        (lambda r: {"x": r.day - r.day}, pa.duration("s")),
        (lambda r: {"x": r.day + datetime.timedelta(days=1)}, pa.date32()),
        (lambda r: {"x": r.cost + 1}, pa.decimal128(16, 2)),
        (lambda r: {"x": float(r.cost)}, pa.float64()),
    ],
)
def test_result_types_are_known(fn: Any, expected: pa.DataType) -> None:
    assert build_program([MapStage(fn)], SCHEMA).output_schema.field("x").type == expected


def test_a_result_can_be_null_only_if_something_can() -> None:
    program = build_program(
        [MapStage(lambda r: {"a": r.id + 1, "b": r.age + 1, "c": r.id // r.id, "d": r.age is None})], SCHEMA
    )
    assert [f.nullable for f in program.output_schema] == [False, True, True, False]


def test_a_named_tuple_is_a_record() -> None:
    program = build_program([MapStage(lambda r: Point(r.age, y=r.price))], SCHEMA)
    assert program.output_schema.names == ["x", "y"]


def test_only_the_columns_needed_are_asked_for() -> None:
    program = build_program(
        [FilterStage(lambda r: r.age > 18), MapStage(lambda r: {"id": r.id, "total": r.price * 2})], SCHEMA
    )
    assert program.required_columns == ("id", "age", "price")
    assert program.read_columns == ("age", "price")


def test_a_column_made_and_dropped_again_costs_nothing() -> None:
    program = build_program(
        [WithColumnsStage(named=(("x", lambda r: r.price * 2),)), SelectStage((("id", "id"),))], SCHEMA
    )
    assert program.required_columns == ("id",)
    assert program.read_columns == ()


def test_named_columns_all_see_the_record_as_it_came() -> None:
    program = build_program(
        [WithColumnsStage(named=(("age", lambda r: r.price), ("copy", lambda r: r.age)))], SCHEMA
    )
    assert program.output_schema.field("copy").type == pa.int8()
    assert program.output_schema.field("age").type == pa.float64()
    assert program.output_schema.names.index("age") == 1


def test_a_number_that_one_step_writes_is_a_column_of_the_next() -> None:
    steps = [
        MapStage(lambda r: {"small": r.small, "factor": 2}),
        WithColumnsStage(named=(("half", lambda r: 0.5),)),
        MapStage(lambda r: {"twice": r.small * r.factor, "less": r.small * r.half, "same": r.small * 2}),
    ]
    fused = build_program(steps, SCHEMA).output_schema
    apart = SCHEMA
    for step in steps:
        apart = build_program([step], apart).output_schema
    assert fused.types == apart.types == [pa.float64(), pa.float64(), pa.float32()]


def test_equal_computations_are_one_node() -> None:
    program = build_program(
        [
            WithColumnsStage(named=(("a", lambda r: r.price * r.id),)),
            MapStage(lambda r: {"a": r.a, "b": r.price * r.id + 1.0}),
        ],
        SCHEMA,
    )
    assert program.describe().count("= mul") == 1


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda r: r.age > 18, [("age", ">", 18)]),
        (lambda r: 18 < r.age, [("age", ">", 18)]),  # noqa: SIM300
        (lambda r: not r.age > 18, [("age", "<=", 18)]),
        (lambda r: 1.5 <= r.price < 9, [("price", ">=", 1.5), ("price", "<", 9.0)]),
        (lambda r: r.name == "x", [("name", "==", "x")]),
        (lambda r: r.day >= datetime.date(2020, 1, 2), [("day", ">=", datetime.date(2020, 1, 2))]),
        (lambda r: r.cost < decimal.Decimal("24.00"), [("cost", "<", decimal.Decimal("24.00"))]),
        (lambda r: not r.price > 18, []),  # NaN
        (lambda r: r.age > 18 or r.price > 1, []),
        (lambda r: r.age is None, [("age", "is_null", None)]),
        (lambda r: r.age is None or r.age > 3, []),
        (lambda r: r.age + 1 > 18, []),
        (lambda r: r.small > 0.1, [("small", ">", 0.10000000149011612)]),
    ],
)
def test_conditions_for_readers(fn: Any, expected: list[Any]) -> None:
    program = build_program([FilterStage(fn)], SCHEMA)
    found = [p for p in program.pushdown if p.op != "is_valid"]
    assert found == [SimplePredicate(*e) for e in expected]


def test_a_condition_on_a_computed_column_is_not_pushed_down() -> None:
    program = build_program(
        [WithColumnsStage(named=(("price", lambda r: r.price * 2),)), FilterStage(lambda r: r.price > 5)],
        SCHEMA,
    )
    assert not [p for p in program.pushdown if p.op != "is_valid"]


def test_the_digest_changes_with_what_is_computed() -> None:
    def key(constant: Any) -> str:
        return build_program([FilterStage(lambda r: r.price > constant)], SCHEMA).key

    assert key(1.0) == key(1.0)
    assert key(1.0) != key(2.0)
    assert key(0.0) != key(-0.0)


def test_captured_values_are_read_when_the_program_is_built() -> None:
    limits = {"low": 1}
    fn = lambda r: r.age > limits["low"]  # noqa: E731
    before = build_program([FilterStage(fn)], SCHEMA)
    limits["low"] = 2
    after = build_program([FilterStage(fn)], SCHEMA)
    assert before.key != after.key
    assert SimplePredicate("age", ">", 1) in before.pushdown
    assert SimplePredicate("age", ">", 2) in after.pushdown


def test_a_filter_that_is_always_true_drops_nothing() -> None:
    assert build_program([FilterStage(lambda r: True)], SCHEMA).row_preserving


def test_a_filter_keeps_the_metadata_of_the_schema() -> None:
    schema = SCHEMA.with_metadata({"origin": "here"})
    assert build_program([FilterStage(lambda r: r.age > 1)], schema).output_schema.metadata == {
        b"origin": b"here"
    }


def test_a_helper_compiled_by_numba_is_inlined_like_any_other() -> None:
    import numba

    @numba.njit
    def doubled(x: Any) -> Any:
        return x * 2

    program = build_program([MapStage(lambda r: {"x": doubled(r.price)})], SCHEMA)
    assert program.output_schema.field("x").type == pa.float64()
    assert "mul" in program.describe()
