"""Row groups are skipped by statistics, and never one that holds a record that passes."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage
from dataflare.sources.parquet import ParquetSource
from dataflare.testing import arrays, values


@dataclass(frozen=True)
class Where:
    column: str
    op: str
    value: Any = None


COMPARISONS: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "==": lambda c: lambda r: r.x == c,
    "!=": lambda c: lambda r: r.x != c,
    "<": lambda c: lambda r: r.x < c,
    "<=": lambda c: lambda r: r.x <= c,
    ">": lambda c: lambda r: r.x > c,
    ">=": lambda c: lambda r: r.x >= c,
    "not <": lambda c: lambda r: not r.x < c,
    "not ==": lambda c: lambda r: not r.x == c,  # noqa: SIM201 - another form for the planner
    "mirrored": lambda c: lambda r: c < r.x,
    "both": lambda c: lambda r: r.x >= c and r.x <= c,
    "is None": lambda c: lambda r: r.x is None,
    "is not None": lambda c: lambda r: r.x is not None,
}

NUMBERS = [
    pa.int8(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint32(),
    pa.uint64(),
    pa.float32(),
    pa.float64(),
]
OTHERS = [pa.string(), pa.string_view(), pa.date32(), pa.decimal128(9, 2), pa.decimal128(18, 4), pa.bool_()]
TIMES = [
    pa.timestamp("ms"),
    pa.timestamp("us"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("s"),
    pa.timestamp("ns"),
]


def constants(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_timestamp(kind):
        zone = None if kind.tz is None else dt.UTC
        return st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(1990, 1, 1), timezones=st.just(zone))
    if pa.types.is_date(kind):
        return st.dates(dt.date(1950, 1, 1), dt.date(2040, 1, 1))
    if pa.types.is_decimal(kind):
        return st.integers(-100, 100) | st.decimals(-100, 100, places=kind.scale, allow_nan=False)
    if pa.types.is_integer(kind):
        return values(kind) | st.floats(-200, 200) | st.sampled_from([0.5, 2.0**53, -(2.0**63), float("inf")])
    if pa.types.is_floating(kind):
        return values(pa.float64()) | st.integers(-200, 200) | st.sampled_from([0.1, 1e-46, 3.4e38])
    return values(kind)


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Array[Any], str, Any, int]:
    kind = draw(st.sampled_from([*NUMBERS, *OTHERS, *TIMES]))
    array = draw(arrays(kind, draw(st.integers(1, 40))))
    if not pa.types.is_timestamp(kind) and draw(st.booleans()):
        # Sorted data is what skipping is for.
        plain = array.cast(pa.string()) if kind == pa.string_view() else array  # which lacks both functions
        array = plain.take(pa.compute.sort_indices(plain)).cast(kind)
    present = (
        [] if pa.types.is_temporal(kind) else [value for value in array.to_pylist() if value is not None]
    )
    constant = draw(st.sampled_from(present) if present and draw(st.booleans()) else constants(kind))
    return array, draw(st.sampled_from(sorted(COMPARISONS))), constant, draw(st.integers(1, 10))


@given(cases())
def test_no_record_that_passes_is_lost(run_on: Any, case: tuple[pa.Array[Any], str, Any, int]) -> None:
    array, op, constant, group_rows = case
    table = pa.table({"x": array, "n": pa.array(range(len(array)), pa.int64())})
    stages = [FilterStage(COMPARISONS[op](constant))]
    try:
        program = build_program(stages, table.schema)
    except TypeError:  # no such comparison
        return
    expected = run_on("python", stages, table.combine_chunks().to_batches()[0]).batch["n"].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        try:
            pq.write_table(table, path, row_group_size=group_rows)
        except pa.ArrowInvalid:  # Parquet has no seconds, and milliseconds do not reach as far
            reject()
        source = ParquetSource.open(path, decoder="pyarrow").with_predicates(program.pushdown)
        left = [
            n for part in source.partitions() for b in part.read(lambda: 1000) for n in b["n"].to_pylist()
        ]
    assert set(expected) <= set(left)


def kept(path: Path, *predicates: Where) -> list[int]:
    source = ParquetSource.open(path).with_predicates(predicates)
    return [group for part in source.partitions() for group in part.row_groups]


def groups(path: Path, *columns: list[Any], kind: pa.DataType | None = None, **options: Any) -> Path:
    """Write one row group for each list."""
    arrays = [pa.array(values, kind) for values in columns]
    with pq.ParquetWriter(path, pa.schema([("x", arrays[0].type)]), **options) as writer:
        for array in arrays:
            writer.write_table(pa.table({"x": array}))
    return path


@pytest.mark.parametrize(
    ("op", "value", "expected"),
    [
        ("==", 5, [1]),
        ("!=", 4, [0, 1, 2]),
        ("<", 3, [0]),
        ("<=", 3, [0]),
        ("<=", 4, [0, 1]),
        (">", 6, [2]),
        (">", 5, [1, 2]),
        (">=", 100, []),
        ("in", (1, 8), [0, 2]),
        ("in", [], []),
        ("in", (None, 100), [0, 1, 2]),
        ("in", "text", [0, 1, 2]),
        ("==", "text", [0, 1, 2]),
        ("==", None, [0, 1, 2]),
        ("~", 5, [0, 1, 2]),
        ("<", 3.5, [0]),
        ("<", float("nan"), [0, 1, 2]),
        ("is_null", None, [2]),
        ("is_valid", None, [0, 1, 2]),
    ],
)
def test_row_groups_that_are_left(tmp_path: Path, op: str, value: Any, expected: list[int]) -> None:
    path = groups(tmp_path / "a.parquet", [1, 2, 3], [4, 5, 6], [7, 8, None])
    assert kept(path, Where("x", op, value)) == expected


def test_several_predicates_add_up(tmp_path: Path) -> None:
    path = groups(tmp_path / "a.parquet", [1, 2], [4, 5], [7, 8])
    assert kept(path, Where("x", ">", 2), Where("x", "<", 7)) == [1]
    source = (
        ParquetSource.open(path).with_predicates([Where("x", ">", 2)]).with_predicates([Where("x", "<", 7)])
    )
    assert source.num_rows == 2
    assert "1 of 3 row groups" in source.description


def test_the_column_need_not_be_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3, 4], "y": [1, 2, 3, 4]}), tmp_path / "a.parquet", row_group_size=2)
    source = ParquetSource.open(tmp_path).with_predicates([Where("x", ">", 2)]).with_projection(["y"])
    assert [b["y"].to_pylist() for part in source.partitions() for b in part.read(lambda: 9)] == [[3, 4]]


def test_unknown_columns_and_missing_statistics_skip_nothing(tmp_path: Path) -> None:
    path = groups(tmp_path / "a.parquet", [1], [2], write_statistics=False)
    assert kept(path, Where("x", ">", 100)) == [0, 1]
    assert kept(groups(tmp_path / "b.parquet", [1], [2]), Where("zzz", ">", 100)) == [0, 1]


def test_groups_of_nulls_only(tmp_path: Path) -> None:
    path = groups(tmp_path / "a.parquet", [None, None], [1, None], [1, 2], kind=pa.int64())
    assert kept(path, Where("x", ">=", 0)) == [1, 2]
    assert kept(path, Where("x", "!=", 9)) == [1, 2]
    assert kept(path, Where("x", "is_valid")) == [1, 2]
    assert kept(path, Where("x", "is_null")) == [0, 1]


def test_nan_is_not_in_the_bounds_of_floats(tmp_path: Path) -> None:
    nan = float("nan")
    path = groups(tmp_path / "a.parquet", [1.0, nan], [nan, nan], [1.0, 1.0], [-0.0, 0.0])
    assert kept(path, Where("x", "!=", 1.0)) == [0, 1, 2, 3]
    assert 1 in kept(path, Where("x", ">", 5.0))
    assert kept(path, Where("x", "==", 0.0)) == [1, 3]


def test_a_constant_is_rounded_to_float32_as_the_filter_does(tmp_path: Path) -> None:
    path = groups(tmp_path / "a.parquet", [0.1], [0.7], kind=pa.float32())
    assert kept(path, Where("x", "==", 0.1)) == [0]
    assert kept(path, Where("x", "<=", 0.1)) == [0]
    assert kept(path, Where("x", ">", 1e300)) == []


def test_large_integers_are_compared_with_floats_as_the_filter_does(tmp_path: Path) -> None:
    path = groups(tmp_path / "a.parquet", [2**53 + 1], [5])
    assert kept(path, Where("x", "==", 2.0**53)) == [0]


def test_unsigned_bounds_are_not_negative(tmp_path: Path) -> None:
    for kind, top in ((pa.uint32(), 2**32 - 1), (pa.uint64(), 2**64 - 1)):
        path = groups(tmp_path / "a.parquet", [1, top], [1, 2], kind=kind)
        assert kept(path, Where("x", ">", 100)) == [0]


def test_bounds_of_long_text_may_be_cut_off(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    long = "é" * 300
    polars.DataFrame({"x": [long + "a", long + "z"]}).write_parquet(tmp_path / "a.parquet")
    assert kept(tmp_path / "a.parquet", Where("x", "==", long + "m")) == [0]
    assert kept(tmp_path / "a.parquet", Where("x", "==", "a")) == []
    assert kept(groups(tmp_path / "b.parquet", ["é"], ["z"]), Where("x", "==", "é")) == [0]


def test_decimals_whatever_they_are_stored_as(tmp_path: Path) -> None:
    for precision in (9, 18, 30):
        for as_integer in (False, True):
            path = groups(
                tmp_path / "a.parquet",
                [Decimal("-1.50"), Decimal("2.25")],
                [Decimal("3.00")],
                kind=pa.decimal128(precision, 2),
                store_decimal_as_integer=as_integer,
            )
            assert kept(path, Where("x", "<", 0)) == [0]
            assert kept(path, Where("x", ">=", Decimal("2.5"))) == [1]
            assert kept(path, Where("x", "<", 0.5)) == [0, 1]  # a float: left to the filter


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_times_of_every_unit(tmp_path: Path, unit: Any, zone: str | None) -> None:
    day = dt.datetime(2020, 1, 2, tzinfo=None if zone is None else dt.UTC)
    later = day + dt.timedelta(days=1)
    path = groups(tmp_path / "a.parquet", [day], [later], kind=pa.timestamp(unit, zone))
    assert kept(path, Where("x", ">", day)) == [1]
    assert kept(path, Where("x", "==", later)) == [1]
    other = day.replace(tzinfo=dt.UTC if zone is None else None)
    assert kept(path, Where("x", ">", other)) == [0, 1]


def test_dates(tmp_path: Path) -> None:
    path = groups(tmp_path / "a.parquet", [dt.date(1969, 12, 31)], [dt.date(2020, 1, 1)])
    assert kept(path, Where("x", "<", dt.date(1970, 1, 1))) == [0]
    assert kept(path, Where("x", "<", dt.datetime(1970, 1, 1))) == [0, 1]
