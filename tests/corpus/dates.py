"""Dates, timestamps and durations: calendars, shifts, ages, opening hours."""

from __future__ import annotations

import datetime
from datetime import date, timedelta
from typing import Any

from corpus.entry import use

HOLIDAYS = (date(2024, 1, 1), date(2024, 5, 1), date(2024, 12, 25), date(2024, 12, 26))
LAUNCH = datetime.datetime(2023, 6, 1, 12)
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


use("filter", "day:date", "weekend")(lambda r: r.day.weekday() >= 5)
use("with_columns", "t:ts", "quarter")(lambda r: (r.t.month - 1) // 3 + 1)
use("with_columns", "t:ts", "day_part")(
    lambda r: (
        "night"
        if r.t.hour < 6
        else "morning"
        if r.t.hour < 12
        else "afternoon"
        if r.t.hour < 18
        else "evening"
    )
)
use("with_columns", "start:ts end:ts", "minutes_between")(lambda r: (r.end - r.start).total_seconds() / 60)
use("filter", "t:ts", "after_launch")(lambda r: r.t >= LAUNCH)
use("with_columns", "t:tsn", "hour_of_week")(lambda r: r.t.weekday() * 24 + r.t.hour)
use("filter", "day:date", "not_a_holiday")(lambda r: r.day not in HOLIDAYS)


def is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


use("with_columns", "year:i32", "leap_year")(lambda r: is_leap(r.year))


@use("with_columns", "year:i16[1900,2100] month:i8[1,12]")
def days_in_month(r: Any) -> Any:
    if r.month == 2 and is_leap(r.year):
        return 29
    return MONTH_DAYS[r.month - 1]


@use("with_columns", "born:date today:date")
def age_in_years(r: Any) -> Any:
    years = r.today.year - r.born.year
    if (r.today.month, r.today.day) == (r.born.month, r.born.day):
        return years
    if r.today.month < r.born.month or (r.today.month == r.born.month and r.today.day < r.born.day):
        years -= 1
    return years


@use("with_columns", "day:date")
def day_of_year(r: Any) -> Any:
    days = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)[r.day.month - 1] + r.day.day
    return days + 1 if r.day.month > 2 and is_leap(r.day.year) else days


@use("with_columns", "t:ts")
def billing_period(r: Any) -> Any:
    month = r.t.month if r.t.day < 15 else r.t.month + 1
    year = r.t.year
    if month == 13:
        year, month = year + 1, 1
    return year * 100 + month


@use("with_columns", "year:i32[1583,3000]")
def easter_day_of_march(r: Any) -> Any:
    a = r.year % 19
    b, c = divmod(r.year, 100)
    d, e = divmod(b, 4)
    f = (b + 8) // 25
    g = (b - f + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    x = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * x) // 451
    month = (h + x - 7 * m + 114) // 31
    day = (h + x - 7 * m + 114) % 31 + 1
    return day if month == 3 else day + 31


@use("with_columns", "year:i32[1,4000] month:i32[1,12] day:i32[1,31]")
def zeller_weekday(r: Any) -> Any:
    month, year = r.month, r.year
    if month < 3:
        month += 12
        year -= 1
    k, j = year % 100, year // 100
    return (r.day + 13 * (month + 1) // 5 + k + k // 4 + j // 4 + 5 * j) % 7


@use("with_columns", "t:tsz")
def shop_is_open(r: Any) -> Any:
    if r.t.weekday() == 6:
        return False
    opens, closes = (9, 18) if r.t.weekday() < 5 else (10, 14)
    return opens <= r.t.hour < closes


use("with_columns", "ordered:date express:bool", "promised_delivery")(
    lambda r: r.ordered + (timedelta(days=1) if r.express else timedelta(days=4))
)
use("with_columns", "t:ts", "an_hour_later")(lambda r: r.t + timedelta(hours=1))
use("filter", "seen:tsm now:ts", "stale_for_a_week")(lambda r: r.now - r.seen > timedelta(days=7))
use("with_columns", "waited:dur", "waiting_hours")(lambda r: r.waited.total_seconds() / 3600)
use("with_columns", "seconds:i64", "seconds_to_clock_number")(
    lambda r: r.seconds // 3600 * 10_000 + r.seconds // 60 % 60 * 100 + r.seconds % 60
)
use("with_columns", "epoch_ms:i64", "epoch_to_hour_bucket")(lambda r: r.epoch_ms // 3_600_000 * 3600)
use("with_columns", "t:ts", "seconds_since_midnight")(
    lambda r: r.t.hour * 3600 + r.t.minute * 60 + r.t.second
)


@use("with_columns", "due:date paid:date")
def late_fee(r: Any) -> Any:
    if r.paid is None:
        return None
    late = (r.paid - r.due).days
    return 0.0 if late <= 0 else min(5.0 + 0.5 * late, 50.0)


@use("with_columns", "day:date")
def next_business_day(r: Any) -> Any:
    weekday = r.day.weekday()
    if weekday == 4:
        return r.day + timedelta(days=3)
    if weekday == 5:
        return r.day + timedelta(days=2)
    return r.day + timedelta(days=1)


@use("with_columns", "a:date b:date")
def working_days_between(r: Any) -> Any:
    days = (r.b - r.a).days
    weeks, rest = divmod(days, 7)
    count = weeks * 5
    first = r.a.weekday()
    for i in range(1, 7):
        if i <= rest and (first + i) % 7 < 5:
            count += 1
    return count


@use("with_columns", "month:i8[1,12]")
def season(r: Any) -> Any:
    if r.month in (12, 1, 2):
        return "winter"
    if r.month in (3, 4, 5):
        return "spring"
    if r.month in (6, 7, 8):
        return "summer"
    return "autumn"


use("with_columns", "t:ts", "date_as_text", refused="the method .strftime")(
    lambda r: r.t.strftime("%Y-%m-%d")
)
use("with_columns", "text:s", "parse_date", refused="strptime is not available")(
    lambda r: datetime.datetime.strptime(r.text, "%Y-%m-%d")
)
use("filter", "day:date", "in_the_past", refused=r"\.today.* is not available")(
    lambda r: r.day < date.today()
)
use("with_columns", "t:ts", "first_of_the_month", refused=r"the method .replace\(\) with keyword")(
    lambda r: r.t.replace(day=1)
)
use("with_columns", "t:ts", "iso_week", refused=r"the method .isocalendar\(\)")(
    lambda r: r.t.isocalendar()[1]
)
