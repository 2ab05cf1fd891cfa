"""Dates, times, timestamps and durations: differences, comparison across units, and calendar fields in UTC.

Everything is integer arithmetic on ticks. Values of different units are compared exactly: the finer one is split
into whole coarse ticks and a rest, so nothing overflows. The calendar is the proleptic Gregorian one; years, months
and days come from Howard Hinnant's ``civil_from_days`` ("chrono-Compatible Low-Level Date Algorithms").
"""

from __future__ import annotations

from dataclasses import replace

from dataflare.kernels.dtypes import BOOL, FLOAT64, INT64, ValueType
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import Scalar, Value, describe

__all__ = ["FIELDS", "METHODS", "binary", "compare", "field", "method"]

TICKS_PER_DAY = {"D": 1, "s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
FIELDS = {
    "date": ("year", "month", "day"),
    "timestamp": ("year", "month", "day", "hour", "minute", "second", "microsecond"),
    "time": ("hour", "minute", "second", "microsecond"),
    "duration": ("days", "seconds", "microseconds"),
}
METHODS = {
    "date": ("weekday", "isoweekday", "toordinal"),
    "timestamp": ("weekday", "isoweekday", "toordinal", "date", "timestamp"),
    "time": (),
    "duration": ("total_seconds",),
}


def ticks_per_day(kind: ValueType) -> int:
    """Return how many ticks of a temporal type make a day."""
    return TICKS_PER_DAY[kind.unit or "s"]


def binary(scope: Scope, op: str, a: Scalar, b: Scalar, valid: Node | None) -> Scalar:
    """Return ``a op b`` where at least one is temporal."""
    graph = scope.graph
    kinds = (a.type.kind, b.type.kind)
    if kinds in (("timestamp", "timestamp"), ("duration", "duration")) and op in ("-", "+", "/", "//", "%"):
        if kinds[0] == "timestamp" and op != "-":
            _undefined(scope, op, a, b)
        _check_zone(scope, op, a, b)
        kind = ValueType("duration", 64, unit=_finer(a.type, b.type).unit)
        x, y = _in_unit(scope, a, kind), _in_unit(scope, b, kind)
        if op in ("+", "-"):
            return Scalar(kind, graph.op("sub" if op == "-" else "add", kind, x, y), valid)
        return _duration_ratio(scope, op, kind, x, y, valid)
    if kinds == ("date", "date") and op == "-":
        days = graph.op("sub", INT64, _days(scope, a), _days(scope, b))
        kind = ValueType("duration", 64, unit="s")
        return Scalar(
            kind, graph.op("mul", kind, graph.op("convert", kind, days), graph.const(kind, 86_400)), valid
        )
    if kinds == ("timestamp", "duration") and op in ("+", "-"):
        return _shift_timestamp(scope, op, a, b, valid)
    if kinds == ("duration", "timestamp") and op == "+":
        return _shift_timestamp(scope, op, b, a, valid)
    if kinds == ("date", "duration") and op in ("+", "-"):
        return _shift_date(scope, op, a, b, valid)
    if "duration" in kinds and op == "*":
        duration, factor = (a, b) if a.type.kind == "duration" else (b, a)
        if factor.type.is_integer:
            kind = duration.type
            count = graph.op("convert", kind, scope.cast(factor, INT64))
            return Scalar(kind, graph.op("mul", kind, duration.node, count), valid)
    _undefined(scope, op, a, b)
    raise AssertionError


def _undefined(scope: Scope, op: str, a: Scalar, b: Scalar) -> None:
    scope.fail(
        f"{describe(a)} {op} {describe(b)} is not defined",
        "differences give durations; .total_seconds() turns a duration into a number",
    )


def _check_zone(scope: Scope, op: str, a: Scalar, b: Scalar) -> None:
    if a.type.kind == b.type.kind == "timestamp" and (a.type.tz is None) != (b.type.tz is None):
        scope.fail(
            f"{describe(a)} {op} {describe(b)}: one has a time zone and the other has none",
            "give the datetime constant tzinfo=datetime.UTC for a column with a zone, none for one without",
        )


def _finer(a: ValueType, b: ValueType) -> ValueType:
    return a if ticks_per_day(a) >= ticks_per_day(b) else b


def _in_unit(scope: Scope, value: Scalar, kind: ValueType) -> Node:
    """Return the ticks of ``value`` in the unit of ``kind``, which is not coarser."""
    factor = ticks_per_day(kind) // ticks_per_day(value.type)
    node = scope.graph.op("convert", kind, value.node)
    return node if factor == 1 else scope.graph.op("mul", kind, node, scope.graph.const(kind, factor))


def _duration_ratio(scope: Scope, op: str, kind: ValueType, x: Node, y: Node, valid: Node | None) -> Scalar:
    from dataflare.kernels.udf import arithmetic

    graph = scope.graph
    a, b = (Scalar(INT64, graph.op("convert", INT64, node)) for node in (x, y))
    if op == "/":
        return Scalar(
            FLOAT64, graph.op("div", FLOAT64, scope.cast(a, FLOAT64), scope.cast(b, FLOAT64)), valid
        )
    quotient, rest = arithmetic.floor_divide(scope, a, b, valid)
    if op == "//":
        return quotient
    return Scalar(kind, graph.op("convert", kind, rest.node), rest.valid)


def _shift_timestamp(scope: Scope, op: str, moment: Scalar, step: Scalar, valid: Node | None) -> Scalar:
    graph = scope.graph
    kind = moment.type
    if ticks_per_day(step.type) > ticks_per_day(kind):
        factor = ticks_per_day(step.type) // ticks_per_day(kind)
        if step.node.is_const and step.node.attr % factor == 0:  # timedelta(days=1) keeps the column's unit
            step = Scalar(
                replace(step.type, unit=kind.unit), graph.const(step.type, step.node.attr // factor)
            )
        else:
            kind = replace(kind, unit=step.type.unit)
    x, y = _in_unit(scope, moment, kind), _in_unit(scope, step, kind)
    return Scalar(kind, graph.op("sub" if op == "-" else "add", kind, x, y), valid)


def _shift_date(scope: Scope, op: str, day: Scalar, step: Scalar, valid: Node | None) -> Scalar:
    """Python drops the part of a timedelta below a day."""
    graph = scope.graph
    days = floor_divide(scope, graph.op("convert", INT64, step.node), ticks_per_day(step.type))
    total = graph.op("sub" if op == "-" else "add", INT64, _days(scope, day), days)
    ticks = graph.op("mul", INT64, total, graph.const(INT64, ticks_per_day(day.type)))
    return Scalar(day.type, graph.op("convert", day.type, ticks), valid)


def compare(scope: Scope, op: str, a: Scalar, b: Scalar) -> Node:
    """Return the flag ``a op b`` (op one of eq ne lt le gt ge), exactly, whatever the units."""
    if a.type.kind != b.type.kind:
        hint = (
            "compare .date() of the timestamp" if {a.type.kind, b.type.kind} == {"date", "timestamp"} else ""
        )
        way_out = hint or "compare values of one kind: date, datetime or timedelta constants for such columns"
        scope.fail(f"{describe(a)} cannot be compared with {describe(b)}", way_out)
    _check_zone(scope, "compared with", a, b)
    graph = scope.graph
    if ticks_per_day(a.type) == ticks_per_day(b.type):
        kind = a.type if a.type.bits >= b.type.bits else b.type
        return graph.op(op, BOOL, graph.op("convert", kind, a.node), graph.op("convert", kind, b.node))
    if ticks_per_day(a.type) > ticks_per_day(b.type):
        swapped = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}.get(op, op)
        return compare(scope, swapped, b, a)
    factor = ticks_per_day(b.type) // ticks_per_day(a.type)
    coarse = graph.op("convert", INT64, a.node)
    fine = graph.op("convert", INT64, b.node)
    whole = floor_divide(scope, fine, factor)
    rest = graph.op("sub", INT64, fine, graph.op("mul", INT64, whole, graph.const(INT64, factor)))
    zero = graph.const(INT64, 0)
    exact = graph.op("eq", BOOL, rest, zero)
    same = graph.op("eq", BOOL, coarse, whole)
    below = graph.op("lt", BOOL, coarse, whole)
    if op in ("eq", "ne"):
        equal = graph.op("and", BOOL, same, exact)
        return equal if op == "eq" else graph.negate(equal)
    if op in ("lt", "ge"):
        less = graph.op("or", BOOL, below, graph.op("and", BOOL, same, graph.negate(exact)))
        return less if op == "lt" else graph.negate(less)
    less_or_equal = graph.op("or", BOOL, below, same)
    return less_or_equal if op == "le" else graph.negate(less_or_equal)


def floor_divide(scope: Scope, node: Node, divisor: int) -> Node:
    """Return an int64 node divided by a positive constant, rounded down."""
    graph = scope.graph
    if divisor == 1:
        return node
    return graph.op("floordiv", INT64, node, graph.const(INT64, divisor))


def _days(scope: Scope, value: Scalar) -> Node:
    ticks = scope.graph.op("convert", INT64, value.node)
    return floor_divide(scope, ticks, ticks_per_day(value.type))


def _in_day(scope: Scope, value: Scalar) -> Node:
    """Return the ticks since midnight."""
    graph = scope.graph
    ticks = graph.op("convert", INT64, value.node)
    if value.type.kind == "time":
        return ticks
    per_day = graph.const(INT64, ticks_per_day(value.type))
    return graph.op("sub", INT64, ticks, graph.op("mul", INT64, _days(scope, value), per_day))


def field(scope: Scope, value: Scalar, name: str) -> Value:
    """Return a calendar field as int64."""
    if name in ("year", "month", "day"):
        return Scalar(INT64, _civil(scope, _days(scope, value))[name], value.valid)
    if name == "days":
        return Scalar(INT64, _days(scope, value), value.valid)
    graph = scope.graph
    ticks = _in_day(scope, value)
    per_second = ticks_per_day(value.type) // 86_400
    seconds = floor_divide(scope, ticks, per_second)
    if name in ("microsecond", "microseconds"):
        rest = graph.op("sub", INT64, ticks, graph.op("mul", INT64, seconds, graph.const(INT64, per_second)))
        if per_second <= 10**6:
            node = graph.op("mul", INT64, rest, graph.const(INT64, 10**6 // per_second))
        else:
            node = floor_divide(scope, rest, per_second // 10**6)
        return Scalar(INT64, node, value.valid)
    if name == "seconds":
        return Scalar(INT64, seconds, value.valid)
    size, limit = {"hour": (3600, 24), "minute": (60, 60), "second": (1, 60)}[name]
    whole = floor_divide(scope, seconds, size)
    carry = graph.op("mul", INT64, floor_divide(scope, whole, limit), graph.const(INT64, limit))
    return Scalar(INT64, graph.op("sub", INT64, whole, carry), value.valid)


def _civil(scope: Scope, days: Node) -> dict[str, Node]:
    graph = scope.graph

    def c(value: int) -> Node:
        return graph.const(INT64, value)

    def add(a: Node, b: Node) -> Node:
        return graph.op("add", INT64, a, b)

    def sub(a: Node, b: Node) -> Node:
        return graph.op("sub", INT64, a, b)

    def mul(a: Node, b: int) -> Node:
        return graph.op("mul", INT64, a, c(b))

    def div(a: Node, b: int) -> Node:
        return graph.op("floordiv", INT64, a, c(b))

    z = add(days, c(719_468))
    era = floor_divide(scope, z, 146_097)
    day_of_era = sub(z, mul(era, 146_097))
    leap = sub(add(sub(day_of_era, div(day_of_era, 1460)), div(day_of_era, 36_524)), div(day_of_era, 146_096))
    year_of_era = div(leap, 365)
    day_of_year = sub(day_of_era, sub(add(mul(year_of_era, 365), div(year_of_era, 4)), div(year_of_era, 100)))
    shifted = div(add(mul(day_of_year, 5), c(2)), 153)  # March is 0
    day = add(sub(day_of_year, div(add(mul(shifted, 153), c(2)), 5)), c(1))
    early = graph.op("lt", BOOL, shifted, c(10))
    month = graph.select(early, add(shifted, c(3)), sub(shifted, c(9)))
    year = add(year_of_era, mul(era, 400))
    january = graph.op("le", BOOL, month, c(2))
    return {"year": graph.select(january, add(year, c(1)), year), "month": month, "day": day}


def method(scope: Scope, value: Scalar, name: str) -> Value:
    """Return the result of a method without arguments."""
    graph = scope.graph
    if name in ("weekday", "isoweekday"):
        days = graph.op("add", INT64, _days(scope, value), graph.const(INT64, 3))  # 1970-01-01 was a Thursday
        week = graph.op("mul", INT64, floor_divide(scope, days, 7), graph.const(INT64, 7))
        day = graph.op("sub", INT64, days, week)
        first = graph.const(INT64, 1 if name == "isoweekday" else 0)
        return Scalar(INT64, graph.op("add", INT64, day, first), value.valid)
    if name == "toordinal":
        ordinal = graph.op("add", INT64, _days(scope, value), graph.const(INT64, 719_163))
        return Scalar(INT64, ordinal, value.valid)
    if name == "date":
        kind = ValueType("date", 32, unit="D")
        return Scalar(kind, graph.op("convert", kind, _days(scope, value)), value.valid)
    ticks = graph.op("convert", FLOAT64, graph.op("convert", INT64, value.node))
    per_second = graph.const(FLOAT64, float(ticks_per_day(value.type) // 86_400))
    return Scalar(FLOAT64, graph.op("div", FLOAT64, ticks, per_second), value.valid)
