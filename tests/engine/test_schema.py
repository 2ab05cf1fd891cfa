"""Where two schemas differ, said in words that name the column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dataflare.kernels.errors import ColumnNotFoundError, SchemaError
from dataflare.schema import column_index, first_difference, merged_schema, require_unique_names

BASE = pa.schema([("a", pa.int64()), ("b", pa.string())])


@pytest.mark.parametrize(
    "found",
    [
        BASE,
        pa.schema([("a", pa.int64()), ("b", pa.string())], {"k": "v"}),
        pa.schema([pa.field("a", pa.int64(), nullable=False), ("b", pa.string())]),
        pa.schema([pa.field("a", pa.int64(), metadata={"unit": "s"}), ("b", pa.string())]),
    ],
)
def test_metadata_and_nullability_make_no_difference(found):
    assert first_difference(BASE, found) is None
    assert first_difference(found, BASE) is None


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ([("a", pa.int64())], "column 'b' is missing."),
        ([("a", pa.int64()), ("B", pa.string())], "column 'b' is missing. Did you mean 'B'?"),
        (
            [("a", pa.int64()), ("b", pa.string()), ("c", pa.null())],
            "column 'c' of type null is not expected.",
        ),
        ([("a", pa.int32()), ("b", pa.string())], "column 'a' is int32 where int64 is expected."),
        (
            [("b", pa.string()), ("a", pa.int64())],
            "column 1 is 'b' where 'a' is expected: the same columns in another order.",
        ),
        (
            [("a", pa.int64()), ("b", pa.dictionary(pa.int8(), pa.string()))],
            "column 'b' is dictionary<values=string, indices=int8, ordered=0> where string is expected.",
        ),
    ],
)
def test_the_first_difference_names_the_column(found, difference):
    assert first_difference(BASE, pa.schema(found)) == difference


def test_a_merged_schema_promises_no_more_than_each_of_its_parts():
    strict = pa.schema([pa.field("a", pa.int64(), False), pa.field("b", pa.string(), False)], {"k": "v"})
    mixed = pa.schema([pa.field("a", pa.int64(), False), ("b", pa.string())])
    assert merged_schema([strict, strict]) is strict
    assert merged_schema([strict, mixed, strict]).equals(mixed.with_metadata({"k": "v"}), check_metadata=True)
    assert merged_schema([BASE, strict]).equals(BASE)


def test_names_must_be_unique():
    require_unique_names(BASE)
    with pytest.raises(SchemaError, match="column 'x' appears 3 times"):
        require_unique_names(pa.schema([("x", pa.int8())] * 3 + [("y", pa.int8())]))


def test_positions_by_name():
    assert column_index(BASE, "b", "here") == 1
    with pytest.raises(ColumnNotFoundError, match=r"here: there is no column 'c'.* Columns here: a, b\."):
        column_index(BASE, "c", "here")
