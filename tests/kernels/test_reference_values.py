"""The reference's times, decimals, truth values and strings against datetime, PyArrow and Python."""

from __future__ import annotations

import datetime
import itertools
import operator
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataflare.kernels.errors import CompileError
from dataflare.kernels.reference import semantics
from dataflare.kernels.reference.decimals import DecimalValue
from dataflare.kernels.reference.times import TimeValue, from_python_time

UNITS = ("s", "ms", "us", "ns")
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
counts = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(10**12), 10**12), st.integers(-3, 3))
moments = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))
PREDICATES = {"<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt}


@given(moment=moments)
def test_calendar_fields_are_datetimes(moment: datetime.datetime) -> None:
    value = from_python_time(moment)
    for name in ("year", "month", "day", "hour", "minute", "second", "microsecond"):
        assert getattr(value, name) == getattr(moment, name)
    for method in ("weekday", "isoweekday", "toordinal"):
        assert getattr(value, method)() == getattr(moment, method)()
    assert value.date() == from_python_time(moment.date())


@pytest.mark.parametrize("unit", UNITS)
@given(count=st.integers(-(2**55), 2**55))
def test_calendar_fields_are_arrows(unit: Any, count: int) -> None:
    assume(abs(count // PER_SECOND[unit]) < 10**11)  # PyArrow's calendar ends at the year 32767
    stamp = pa.scalar(count, pa.timestamp(unit))
    value = TimeValue("timestamp", unit, count)
    for name in ("year", "month", "day", "hour", "minute", "second"):
        assert getattr(value, name) == getattr(pc, name)(stamp).as_py()
    assert value.weekday() == pc.day_of_week(stamp).as_py()


@pytest.mark.parametrize(("one", "other"), [*itertools.product(UNITS, UNITS)])
@given(a=counts, b=counts)
def test_times_of_two_units_compare_exactly(one: Any, other: Any, a: int, b: int) -> None:
    left, right = TimeValue("timestamp", one, a), TimeValue("timestamp", other, b)
    x, y = a * 10**9 // PER_SECOND[one], b * 10**9 // PER_SECOND[other]
    for symbol, apply in PREDICATES.items():
        assert semantics.compare_chain((symbol,), left, right) is apply(x, y)


@given(a=moments, b=moments)
def test_difference_of_timestamps_is_datetimes(a: datetime.datetime, b: datetime.datetime) -> None:
    assert semantics.BINARY_OPERATORS["-"](a, b) == from_python_time(a - b)


def test_difference_wraps() -> None:
    difference = TimeValue("timestamp", "ns", 2**63 - 1) - TimeValue("timestamp", "ns", -1)
    assert (difference.unit, difference.value) == ("ns", -(2**63))


@given(day=st.dates(), step=st.integers(-10_000, 10_000))
def test_date_arithmetic_is_datetimes(day: datetime.date, step: int) -> None:
    try:
        expected = day + datetime.timedelta(days=step)
    except OverflowError:
        return
    moved = semantics.BINARY_OPERATORS["+"](from_python_time(day), datetime.timedelta(days=step))
    assert moved == from_python_time(expected)
    assert (moved - from_python_time(day)).unit == "s"


def test_a_constant_step_keeps_the_unit_if_it_can() -> None:
    stamp = TimeValue("timestamp", "s", 10)
    assert (stamp + from_python_time(datetime.timedelta(minutes=1))).unit == "s"
    assert (stamp + from_python_time(datetime.timedelta(milliseconds=1))).unit == "us"
    assert (stamp + TimeValue("duration", "ms", 1000)).unit == "ms"


def test_naive_and_aware_do_not_mix() -> None:
    naive, aware = TimeValue("timestamp", "s", 0), TimeValue("timestamp", "s", 0, "UTC")
    with pytest.raises(CompileError, match="time zone"):
        semantics.compare_chain(("<",), naive, aware)
    with pytest.raises(CompileError, match="time zone"):
        semantics.BINARY_OPERATORS["-"](naive, aware)


def test_dates_and_timestamps_do_not_compare() -> None:
    with pytest.raises(CompileError, match=r"datetime\.date"):
        semantics.compare_chain(("==",), TimeValue("date", "D", 0), datetime.datetime(1970, 1, 1))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (TimeValue("date", "D", 0), "<date[D] 1970-01-01>"),
        (TimeValue("timestamp", "ns", -1), "<timestamp[ns] 1969-12-31 23:59:59.999999999>"),
        (TimeValue("timestamp", "s", 0, "UTC"), "<timestamp[s, UTC] 1970-01-01 00:00:00Z>"),
        (TimeValue("duration", "ms", 1500), "<duration[ms] 1500 ms>"),
        (TimeValue("time", "s", 3661), "<time[s] 01:01:01>"),
    ],
)
def test_times_show_what_they_are(value: TimeValue, shown: str) -> None:
    assert repr(value) == shown


def test_time_values_are_immutable_and_pickle() -> None:
    value = TimeValue("timestamp", "us", 5, "UTC")
    with pytest.raises(AttributeError, match="immutable"):
        value.value = 6
    assert pickle.loads(pickle.dumps(value)) == value
    assert len({value, TimeValue("timestamp", "ns", 5000, "UTC")}) == 1


decimals_5_2 = st.integers(-99_999, 99_999)


@pytest.mark.parametrize("symbol", ["+", "-", "*"])
@given(a=decimals_5_2, b=st.integers(-9_999, 9_999))
def test_decimal_arithmetic_is_arrows(symbol: str, a: int, b: int) -> None:
    left, right = DecimalValue(5, 2, a), DecimalValue(4, 3, b)
    compute = {"+": pc.add, "-": pc.subtract, "*": pc.multiply}[symbol]
    expected = compute(
        pa.scalar(left.to_python(), pa.decimal128(5, 2)), pa.scalar(right.to_python(), pa.decimal128(4, 3))
    )
    result = semantics.BINARY_OPERATORS[symbol](left, right)
    assert result.to_python() == expected.as_py()
    assert pa.decimal128(result.precision, result.scale) == expected.type


@given(a=decimals_5_2, b=decimals_5_2)
def test_decimals_compare_exactly(a: int, b: int) -> None:
    for symbol, apply in PREDICATES.items():
        result = semantics.compare_chain((symbol,), DecimalValue(5, 2, a), Decimal(b).scaleb(-3))
        assert result is apply(Decimal(a).scaleb(-2), Decimal(b).scaleb(-3))


def test_decimal_of_too_many_digits_is_refused() -> None:
    wide = DecimalValue(18, 0, 1)
    with pytest.raises(CompileError, match="more than 18 digits"):
        semantics.BINARY_OPERATORS["+"](wide, wide)


def test_decimal_with_float_is_refused_with_the_way_out() -> None:
    with pytest.raises(CompileError, match=r"float\(r\.x\)"):
        semantics.BINARY_OPERATORS["*"](DecimalValue(5, 2, 1), np.float64(0.5))


@pytest.mark.parametrize(("a", "b"), [*itertools.product([True, False, None], repeat=2)])
def test_and_or_are_arrows_kleene(a: bool | None, b: bool | None) -> None:
    left, right = pa.array([a], pa.bool_()), pa.array([b], pa.bool_())
    conjunction = a if semantics.decides_and(a) else semantics.both(a, b)
    disjunction = a if semantics.decides_or(a) else semantics.either(a, b)
    assert conjunction is pc.and_kleene(left, right)[0].as_py()
    assert disjunction is pc.or_kleene(left, right)[0].as_py()
    assert semantics.BINARY_OPERATORS["&"](a, b) is conjunction
    assert semantics.BINARY_OPERATORS["|"](a, b) is disjunction


@given(a=st.text(), b=st.text())
def test_strings_compare_as_their_utf8_bytes(a: str, b: str) -> None:
    for symbol, apply in PREDICATES.items():
        expected = apply(a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass"))
        assert semantics.compare_chain((symbol,), a, b) is expected


@given(s=st.text(max_size=6), part=st.text(max_size=2))
def test_string_operations_are_pythons(s: str, part: str) -> None:
    assert semantics.METHODS["startswith"](s, part) is s.startswith(part)
    assert semantics.METHODS["endswith"](s, (part, "x")) is s.endswith((part, "x"))
    assert semantics.METHODS["find"](s, part) == s.find(part)
    assert semantics.compare_chain(("in",), part, s) is (part in s)
    assert semantics.FUNCTIONS[len](s) == len(s)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1", np.int64(1)),
        (True, "x"),
        (np.float64(1), TimeValue("date", "D", 0)),
        ("a", DecimalValue(1, 0, 1)),
    ],
)
def test_values_of_different_families_do_not_compare(a: Any, b: Any) -> None:
    with pytest.raises(CompileError, match="not defined for"):
        semantics.compare_chain(("==",), a, b)
