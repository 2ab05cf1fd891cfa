"""Dates, timestamps and durations as a count of a unit: comparison, difference, and calendar fields in UTC.

Python's datetime has no nanoseconds and ends in the year 9999; Arrow's values are 64-bit counts, so this
class keeps the count. Comparisons are exact across units; results of arithmetic wrap at 64 bits like
integers do. Times of day compare and have fields, and take part in no arithmetic. Month intervals are not
covered.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal

import numpy as np

from dataflare.kernels.errors import CompileError

__all__ = ["TimeKind", "TimeUnit", "TimeValue", "finer_unit", "from_python_time"]

TimeKind = Literal["date", "time", "timestamp", "duration"]
TimeUnit = Literal["D", "s", "ms", "us", "ns"]

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SECONDS_PER_DAY = 86_400
_NANOSECONDS = {"D": SECONDS_PER_DAY * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_UNITS: tuple[TimeUnit, ...] = ("D", "s", "ms", "us", "ns")
_EPOCH = datetime.datetime(1970, 1, 1)
_EPOCH_UTC = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def finer_unit(a: TimeUnit, b: TimeUnit) -> TimeUnit:
    """Return the finer of two units."""
    return max(a, b, key=_UNITS.index)


def _wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


class TimeValue:
    """A date, a time of day, a timestamp or a duration; immutable.

    Parameters
    ----------
    kind
        What it is.
    unit
        ``"D"`` for date32, else the unit of Arrow's type (date64 is a date in ``"ms"``).
    value
        How many units: since 1970-01-01 (UTC if there is a time zone), since midnight, or of duration.
    tz
        The time zone of a timestamp column; None for naive ones. It does not change the value.
    is_constant
        Whether it was written in the program: such a duration takes the unit of the timestamp that it
        moves, if it is whole in that unit.
    """

    __slots__ = ("is_constant", "kind", "tz", "unit", "value")

    kind: TimeKind
    unit: TimeUnit
    value: int
    tz: str | None
    is_constant: bool

    def __init__(
        self, kind: TimeKind, unit: TimeUnit, value: int, tz: str | None = None, is_constant: bool = False
    ) -> None:
        for name, given in zip(
            ("kind", "unit", "value", "tz", "is_constant"), (kind, unit, value, tz, is_constant), strict=True
        ):
            object.__setattr__(self, name, given)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a time value is immutable; cannot set {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (TimeValue, (self.kind, self.unit, self.value, self.tz, self.is_constant))

    def in_unit(self, unit: TimeUnit) -> int:
        """Return the exact count in a unit that is as fine or finer."""
        return self.value * (_NANOSECONDS[self.unit] // _NANOSECONDS[unit])

    @property
    def _nanoseconds(self) -> int:
        return self.value * _NANOSECONDS[self.unit]

    # Comparison: exact, at the finer unit.

    def _comparable(self, other: Any) -> TimeValue | None:
        if not isinstance(other, TimeValue):
            return None
        if self.kind != other.kind:
            raise CompileError(
                f"a {self.kind} cannot be compared with a {other.kind}. Compare dates with datetime.date, "
                "timestamps with datetime.datetime, durations with datetime.timedelta."
            )
        self._require_same_awareness(other)
        return other

    def _require_same_awareness(self, other: TimeValue) -> None:
        if self.kind == other.kind == "timestamp" and (self.tz is None) != (other.tz is None):
            raise CompileError(
                "a timestamp with a time zone and one without cannot be combined. "
                "Use an aware datetime (tzinfo=datetime.UTC) with a column that has a time zone, a naive one "
                "with a column that has none."
            )

    def __eq__(self, other: object) -> bool:
        comparable = self._comparable(other)
        return comparable is not None and self._nanoseconds == comparable._nanoseconds

    def __lt__(self, other: Any) -> bool:
        comparable = self._comparable(other)
        return NotImplemented if comparable is None else self._nanoseconds < comparable._nanoseconds

    def __le__(self, other: Any) -> bool:
        comparable = self._comparable(other)
        return NotImplemented if comparable is None else self._nanoseconds <= comparable._nanoseconds

    def __gt__(self, other: Any) -> bool:
        comparable = self._comparable(other)
        return NotImplemented if comparable is None else self._nanoseconds > comparable._nanoseconds

    def __ge__(self, other: Any) -> bool:
        comparable = self._comparable(other)
        return NotImplemented if comparable is None else self._nanoseconds >= comparable._nanoseconds

    def __hash__(self) -> int:
        return hash((self.kind, self._nanoseconds))

    def __bool__(self) -> bool:
        return self.kind != "duration" or self.value != 0

    # Arithmetic.

    def __sub__(self, other: Any) -> TimeValue:
        if not isinstance(other, TimeValue):
            return NotImplemented
        if other.kind == "duration":
            return self._shifted(other, -1)
        if self.kind != other.kind or self.kind == "time":
            raise CompileError(f"a {other.kind} cannot be subtracted from a {self.kind}.")
        self._require_same_awareness(other)
        if self.kind == "date":
            difference = self._nanoseconds - other._nanoseconds
            return TimeValue("duration", "s", _wrap(difference // _NANOSECONDS["s"]))
        unit = finer_unit(self.unit, other.unit)
        return TimeValue("duration", unit, _wrap(self.in_unit(unit) - other.in_unit(unit)))

    def __add__(self, other: Any) -> TimeValue:
        if not isinstance(other, TimeValue):
            return NotImplemented
        if other.kind == "duration":
            return self._shifted(other, 1)
        if self.kind == "duration":
            return other._shifted(self, 1)
        raise CompileError(f"a {self.kind} and a {other.kind} cannot be added; add a duration.")

    def _shifted(self, duration: TimeValue, sign: int) -> TimeValue:
        if self.kind == "time":
            raise CompileError("a time of day cannot be moved; only dates, timestamps and durations can.")
        if self.kind == "date":
            days = self._days + sign * (duration._nanoseconds // _NANOSECONDS["D"])  # as Python: whole days
            if self.unit == "D":
                return _date32(days)
            return TimeValue("date", self.unit, _wrap(TimeValue("date", "D", days).in_unit(self.unit)))
        unit = finer_unit(self.unit, duration.unit)
        if self.kind == "timestamp" and duration.is_constant:
            whole, rest = divmod(duration._nanoseconds, _NANOSECONDS[self.unit])
            if not rest:
                unit, duration = self.unit, TimeValue("duration", self.unit, whole)
        return TimeValue(self.kind, unit, _wrap(self.in_unit(unit) + sign * duration.in_unit(unit)), self.tz)

    def __neg__(self) -> TimeValue:
        self._require_duration("negated")
        return TimeValue("duration", self.unit, _wrap(-self.value))

    def __abs__(self) -> TimeValue:
        self._require_duration("made absolute")
        return TimeValue("duration", self.unit, _wrap(abs(self.value)))

    def __truediv__(self, other: Any) -> np.float64:
        numerator, denominator, _ = self._ratio(other)
        return np.float64(np.float64(numerator) / np.float64(denominator))

    def __floordiv__(self, other: Any) -> np.int64 | None:
        numerator, denominator, _ = self._ratio(other)
        return np.int64(_wrap(numerator // denominator)) if denominator else None

    def __mod__(self, other: Any) -> TimeValue | None:
        numerator, denominator, unit = self._ratio(other)
        return TimeValue("duration", unit, numerator % denominator) if denominator else None

    def _ratio(self, other: TimeValue) -> tuple[int, int, TimeUnit]:
        self._require_duration("divided")
        other._require_duration("divided by")
        unit = finer_unit(self.unit, other.unit)
        return _wrap(self.in_unit(unit)), _wrap(other.in_unit(unit)), unit

    def _require_duration(self, what: str) -> None:
        if self.kind != "duration":
            raise CompileError(f"a {self.kind} cannot be {what}; a difference of two can.")

    def total_seconds(self) -> np.float64:
        """Return a duration in seconds."""
        self._require_duration("turned into seconds")
        return np.float64(np.float64(self.value) / np.float64(PER_SECOND[self.unit]))

    def timestamp(self) -> np.float64:
        """Return the seconds since 1970-01-01 of a timestamp, which counts as UTC."""
        self._second_of_day()
        return np.float64(np.float64(self.value) / np.float64(PER_SECOND[self.unit]))

    @property
    def days(self) -> np.int64:
        """Whole days of a duration, rounded down."""
        self._require_duration("read in days")
        return np.int64(self._nanoseconds // _NANOSECONDS["D"])

    @property
    def seconds(self) -> np.int64:
        """Whole seconds of a duration beyond its days, 0 to 86399."""
        self._require_duration("read in seconds")
        return np.int64(self._nanoseconds // _NANOSECONDS["s"] % SECONDS_PER_DAY)

    @property
    def microseconds(self) -> np.int64:
        """Microseconds of a duration beyond its seconds, 0 to 999999."""
        self._require_duration("read in microseconds")
        return np.int64(self._nanoseconds // 1_000 % 10**6)

    # Calendar fields, in UTC, by the proleptic Gregorian calendar over the whole 64-bit range.

    @property
    def _days(self) -> int:
        self._require_calendar()
        return self._nanoseconds // _NANOSECONDS["D"]

    def _require_calendar(self) -> None:
        if self.kind in ("duration", "time"):
            raise CompileError(f"a {self.kind} has no year, month, day or weekday.")

    def _second_of_day(self) -> int:
        if self.kind not in ("timestamp", "time"):
            raise CompileError(f"a {self.kind} has no hour, minute or second.")
        return self._nanoseconds // _NANOSECONDS["s"] % SECONDS_PER_DAY

    def _civil(self) -> tuple[int, int, int]:
        # Eras of 400 years that begin on 1 March, so that the leap day is a year's last.
        shifted = self._days + 719_468
        era, day_of_era = divmod(shifted, 146_097)
        year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
        day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
        shifted_month = (5 * day_of_year + 2) // 153
        day = day_of_year - (153 * shifted_month + 2) // 5 + 1
        month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
        return (year_of_era + era * 400 + (month <= 2), month, day)

    @property
    def year(self) -> np.int64:
        """Year; 0 and below are before the common era."""
        return np.int64(self._civil()[0])

    @property
    def month(self) -> np.int64:
        """Month, 1 to 12."""
        return np.int64(self._civil()[1])

    @property
    def day(self) -> np.int64:
        """Day of the month, 1 to 31."""
        return np.int64(self._civil()[2])

    @property
    def hour(self) -> np.int64:
        """Hour, 0 to 23."""
        return np.int64(self._second_of_day() // 3_600)

    @property
    def minute(self) -> np.int64:
        """Minute, 0 to 59."""
        return np.int64(self._second_of_day() // 60 % 60)

    @property
    def second(self) -> np.int64:
        """Second, 0 to 59."""
        return np.int64(self._second_of_day() % 60)

    @property
    def microsecond(self) -> np.int64:
        """Microsecond of the second, 0 to 999999."""
        self._second_of_day()
        return np.int64(self._nanoseconds // 1_000 % 10**6)

    def weekday(self) -> np.int64:
        """Return the day of the week, Monday 0 to Sunday 6."""
        return np.int64((self._days + 3) % 7)

    def date(self) -> TimeValue:
        """Return the date of a timestamp, in UTC."""
        self._second_of_day()
        return _date32(self._days)

    def toordinal(self) -> np.int64:
        """Return the number of the day, 1 for 0001-01-01."""
        return np.int64(self._days + 719_163)

    def isoweekday(self) -> np.int64:
        """Return the day of the week, Monday 1 to Sunday 7."""
        return np.int64((self._days + 3) % 7 + 1)

    def __repr__(self) -> str:
        zone = f", {self.tz}" if self.tz else ""
        return f"<{self.kind}[{self.unit}{zone}] {self}>"

    def __str__(self) -> str:
        if self.kind == "duration":
            return f"{self.value} {self.unit}"
        text = ""
        if self.kind != "time":
            year, month, day = self._civil()
            text = f"{year:04d}-{month:02d}-{day:02d}"
        if self.kind == "date":
            return text
        seconds = self._second_of_day()
        text = f"{text} {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}".strip()
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[self.unit]
        if digits:
            text += f".{self.value % 10**digits:0{digits}d}"
        return text + ("Z" if self.tz else "")


def _date32(days: int) -> TimeValue:
    """Return a date of 32 bits, which wraps."""
    return TimeValue("date", "D", (days + 2**31) % 2**32 - 2**31)


def from_python_time(value: Any) -> TimeValue:
    """Return the value of a ``datetime``, ``date``, ``timedelta`` or NumPy time constant."""
    microsecond = datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return TimeValue("timestamp", "us", (value - _EPOCH) // microsecond, None, True)
        return TimeValue("timestamp", "us", (value - _EPOCH_UTC) // microsecond, "UTC", True)
    if isinstance(value, datetime.date):
        return TimeValue("date", "D", (value - _EPOCH.date()).days)
    if isinstance(value, datetime.time):
        since_midnight = datetime.datetime.combine(_EPOCH, value.replace(tzinfo=None)) - _EPOCH
        return TimeValue("time", "us", since_midnight // microsecond)
    if isinstance(value, datetime.timedelta):
        return TimeValue("duration", "us", value // microsecond, None, True)
    if isinstance(value, np.timedelta64):
        return TimeValue("duration", _numpy_unit(value), int(value.astype(np.int64)), None, True)
    if isinstance(value, np.datetime64):
        unit = _numpy_unit(value)
        return TimeValue("date" if unit == "D" else "timestamp", unit, int(value.astype(np.int64)))
    raise TypeError(f"{value!r} is not a time")


def _numpy_unit(value: np.datetime64 | np.timedelta64) -> TimeUnit:
    unit, count = np.datetime_data(value.dtype)
    if count == 1:
        for known in _UNITS:
            if unit == known:
                return known
    raise CompileError(f"{value!r}: the unit of a NumPy time must be one of {', '.join(_UNITS)}.")
