"""A function's key changes with everything that would change its code, and with nothing else."""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dataflare.kernels.udf.capture import function_key, resolve_name

THRESHOLD: Any = 10


def over_threshold(r: Any) -> Any:
    return r.a > THRESHOLD


def closing_over(value: Any) -> Callable[[Any], Any]:
    return lambda r: r.a + value


def test_the_same_function_has_the_same_key() -> None:
    assert function_key(closing_over(1)) == function_key(closing_over(1))
    assert hash(function_key(over_threshold)) == hash(function_key(over_threshold))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("a", "b"),
        ((1, 2), (1, 3)),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"a": 2}),
        (datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)),
        (np.float32(1), np.float64(1)),
        (np.array([1, 2]), np.array([1, 3])),
        (None, 0),
    ],
)
def test_different_captured_values_give_different_keys(one: Any, other: Any) -> None:
    assert function_key(closing_over(one)) != function_key(closing_over(other))


def test_a_captured_nan_is_equal_to_itself() -> None:
    assert function_key(closing_over(math.nan)) == function_key(closing_over(math.nan))


def test_a_changed_global_gives_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = function_key(over_threshold)
    monkeypatch.setitem(globals(), "THRESHOLD", 11)
    assert function_key(over_threshold) != before


def test_a_list_changed_in_place_gives_another_key() -> None:
    values = [1, 2]
    fn = closing_over(values)
    before = function_key(fn)
    values.append(3)
    assert function_key(fn) != before


def test_a_changed_attribute_of_a_captured_object_gives_another_key() -> None:
    settings = types.SimpleNamespace(rate=1.0, unused=1)
    fn = lambda r: r.a * settings.rate  # noqa: E731
    before = function_key(fn)
    settings.unused = 2
    assert function_key(fn) == before
    settings.rate = 2.0
    assert function_key(fn) != before


def test_a_helper_counts_with_what_it_captured() -> None:
    def caller(helper: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda r: helper(r)

    assert function_key(caller(closing_over(1))) != function_key(caller(closing_over(2)))
    assert function_key(caller(closing_over(1))) == function_key(caller(closing_over(1)))


def test_defaults_count() -> None:
    def make(default: int) -> Callable[..., Any]:
        def fn(r: Any, k: int = default) -> Any:
            return r.a + k

        return fn

    assert function_key(make(1)) != function_key(make(2))


def test_a_function_that_calls_itself_has_a_key() -> None:
    def again(r: Any) -> Any:
        return again(r)

    assert hash(function_key(again)) == hash(function_key(again))


def test_names_are_resolved_as_python_does() -> None:
    local = 5
    fn = lambda r: (local, THRESHOLD, len, r)  # noqa: E731
    assert resolve_name(fn, "local") == 5
    assert resolve_name(fn, "THRESHOLD") == THRESHOLD
    assert resolve_name(fn, "len") is len
    with pytest.raises(KeyError):
        resolve_name(fn, "nowhere")


class Rates:
    standard = 1.0


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        self.rate = rate


def test_a_changed_class_attribute_gives_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    fn = lambda r: r.a * Rates.standard  # noqa: E731
    before = function_key(fn)
    monkeypatch.setattr(Rates, "standard", 2.0)
    assert function_key(fn) != before


def test_a_changed_slot_gives_another_key() -> None:
    rates = Slotted(1.0)
    fn = lambda r: r.a * rates.rate  # noqa: E731
    before = function_key(fn)
    rates.rate = 2.0
    assert function_key(fn) != before


def test_a_changed_attribute_of_an_attribute_gives_another_key() -> None:
    settings = types.SimpleNamespace(rates=types.SimpleNamespace(low=1.0))
    fn = lambda r: r.a * settings.rates.low  # noqa: E731
    before = function_key(fn)
    settings.rates.low = 2.0
    assert function_key(fn) != before
