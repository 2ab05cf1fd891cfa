"""A function that cannot be compiled is refused with its file, line, columns, the reason and the way out."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.errors import ColumnNotFoundError, CompileError, SchemaError
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, Stage, WithColumnsStage

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("age", pa.int32()),
        ("price", pa.float64()),
        ("when", pa.timestamp("us")),
        ("zoned", pa.timestamp("us", tz="UTC")),
        ("day", pa.date32()),
        ("cost", pa.decimal128(15, 2)),
        ("tags", pa.list_(pa.string())),
    ]
)


def refused(*stages: Stage) -> str:
    with pytest.raises(CompileError) as caught:
        build_program(stages, SCHEMA)
    return str(caught.value)


def test_the_message_has_every_part() -> None:
    fn = lambda r: r.age > 3 and r.name.title() == "A"  # noqa: E731
    line = fn.__code__.co_firstlineno
    assert refused(FilterStage(fn)).splitlines() == [
        f"{__file__}:{line}: cannot compile this lambda",
        f'{line:>5} |     fn = lambda r: r.age > 3 and r.name.title() == "A"  # noqa: E731',
        " " * (8 + len("    fn = lambda r: r.age > 3 and ")) + "^" * len("r.name.title()"),
        "The string method .title() is not available; strings have == != < in len() .startswith() .endswith() "
        ".find() .isdigit(), and .lower() .upper() .strip() and slices before a test.",
        "Columns used: age: int32, name: string.",
        "Way out: rewrite this part with what record functions have (see the README), or do it in "
        ".map_batches(fn), which gets whole Arrow batches and may use any library.",
    ]


def test_the_line_inside_a_helper_is_shown_with_its_caller() -> None:
    def helper(x: Any) -> Any:
        y = x + 1
        return open(y)  # noqa: PTH123

    def caller(r: Any) -> Any:
        return helper(r.age)

    message = refused(FilterStage(caller))
    assert "cannot compile the function helper" in message
    assert "return open(y)" in message
    assert f"called from the function caller ({__file__}:" in message


def test_an_unknown_column_is_named_with_the_nearest() -> None:
    with pytest.raises(ColumnNotFoundError, match="There is no column 'pricee'. Did you mean 'price'"):
        build_program([FilterStage(lambda r: r.pricee > 1)], SCHEMA)
    with pytest.raises(ColumnNotFoundError, match="no column 'x'"):
        build_program([SelectStage((("x", "x"),))], SCHEMA)


def test_a_column_that_an_earlier_step_removed_is_gone() -> None:
    with pytest.raises(ColumnNotFoundError, match="Columns here: total"):
        build_program([MapStage(lambda r: {"total": r.price * 2}), FilterStage(lambda r: r.age > 1)], SCHEMA)


def test_two_results_of_one_name_are_refused() -> None:
    with pytest.raises(SchemaError, match="two columns would be called a"):
        build_program([SelectStage((("a", "age"), ("a", "price")))], SCHEMA)


def forever(r: Any) -> Any:
    return forever(r)


def unbound(r: Any) -> Any:
    if r.age > 1:
        x = 1
    return {"x": x}


def two_types(r: Any) -> Any:
    return {"x": r.name if r.age > 1 else r.price}


def changes_type(r: Any) -> Any:
    x = r.name
    for _ in range(3):
        x = r.age
    return {"x": x}


def different_records(r: Any) -> Any:
    if r.age > 1:
        return {"a": 1}
    return {"b": 1}


def generator(r: Any) -> Any:
    yield r.age


def tries(r: Any) -> Any:
    try:
        return {"a": r.age}
    except ValueError:
        return {"a": 0}


def writes(r: Any) -> Any:
    r.age = 3
    return {"a": r.age}


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (forever, "calls itself"),
        (unbound, "the variable 'x' has no value"),
        (two_types, "One path gives string and the other double"),
        (changes_type, "'x' changes its type"),
        (different_records, "differ in the columns a, b"),
        (generator, "Generators"),
        (tries, "A `try` statement cannot be compiled"),
        (writes, "read-only"),
        (lambda r: {"x": f"{r.name}!"}, "F-strings cannot be compiled"),
        (lambda r: {"x": r.name + "!"}, "do not build new strings"),
        (lambda r: {"x": r.tags}, None),
        (lambda r: {"x": len(r.tags)}, "list<.*> cannot be used inside a record function, only passed on"),
        (lambda r: {"x": r.cost * 0.5}, r"decimals and floats do not mix"),
        (lambda r: {"x": r.cost > 0.5}, "rarely the number that was written"),
        (lambda r: {"x": r.cost * r.cost}, "needs 31 digits"),
        (lambda r: {"x": r.when > r.zoned}, "one has a time zone and the other has none"),
        (lambda r: {"x": r.when > r.day}, r"timestamp\[us\] cannot be compared with date32"),
        (lambda r: {"x": r.when + r.when}, "is not defined"),
        (lambda r: {"x": r.name > 3}, "a string cannot be compared with another type"),
        (lambda r: {"x": r.age == None}, "== None is null for every record"),  # noqa: E711
        (lambda r: {"x": None}, "column 'x' is None for every record"),
        (lambda r: {"x": print(r.age)}, r"print\(\) cannot be compiled"),
        (lambda r: {"x": nowhere}, "the name 'nowhere' is not defined"),  # type: ignore[name-defined]  # noqa: F821
        (lambda r: {"x": decimal.Decimal(r.age)}, "of a column is not available"),
        (lambda r: r.age, "Map gives a record and this gives int32"),
        (lambda r: {"x": {"y": r.age}}, "column 'x' would hold a record"),
        (lambda r: {"x": r.age ^ r.price}, "bits are only defined for integers"),
        (lambda r: {"x": 2**64 + r.age}, "does not fit in 64 bits"),
    ],
)
def test_each_refusal_says_why(fn: Callable[[Any], Any], reason: str | None) -> None:
    if reason is None:
        build_program([MapStage(fn)], SCHEMA)  # passing a nested column on is fine
        return
    with pytest.raises(CompileError, match=f"(?i){reason}"):
        build_program([MapStage(fn)], SCHEMA)


def test_a_filter_needs_a_condition() -> None:
    assert "A filter gives true or false and this gives a record" in refused(
        FilterStage(lambda r: {"a": r.age})
    )


def test_with_columns_needs_a_record_or_names() -> None:
    message = refused(WithColumnsStage(lambda r: r.age + 1))
    assert "with_columns(name=lambda r: ...)" in message
