"""The rewritten function means the same, stands in the user's file, and sees what was captured when it was made."""

from __future__ import annotations

import linecache
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from dataflare.kernels.errors import ColumnNotFoundError, CompileError
from dataflare.kernels.reference.instrument import instrument
from dataflare.kernels.reference.record import Record

LIMIT = 10
WEIGHTS = [1, 2, 3]


def call(fn: Callable[..., Any], **cells: Any) -> Any:
    return instrument(fn)(Record(cells))


def module_helper(x: Any, by: int = 2) -> Any:
    return None if x > LIMIT else x * by


def factorial_of(n: Any) -> Any:
    return 1 if n <= 1 else n * factorial_of(n - 1)


def test_operators_take_the_shared_meaning() -> None:
    assert call(lambda r: r.a // 0, a=np.int64(1)) is None
    assert call(lambda r: -r.a, a=np.int8(-128)) == 128
    assert call(lambda r: r["a"] + 1, a=None) is None


def test_arithmetic_of_literals_is_pythons() -> None:
    assert call(lambda r: r.u == 2**64 - 1, u=np.uint64(2**64 - 1)) is True
    assert call(lambda r: r.x * 2**-1, x=np.float64(3)) == 1.5
    assert call(lambda r: 7 // 0) is None


def test_augmented_assignment() -> None:
    def fn(r: Any) -> Any:
        x = r.a
        x += 1
        x <<= 62
        return x

    assert call(fn, a=np.int8(1)) == -(2**63)


def test_condition_on_null_is_false_everywhere() -> None:
    def fn(r: Any) -> Any:
        steps = 0
        while r.a:
            steps += 1
        if r.a:
            steps += 1
        return steps + (10 if r.a else 20)

    assert call(fn, a=None) == 20


def test_chain_evaluates_each_operand_once() -> None:
    def fn(r: Any) -> Any:
        calls = 0
        inside = 0 < (calls := calls + r.a) < 5
        return calls if inside else -1

    assert call(fn, a=np.int64(3)) == 3


def test_and_does_not_evaluate_what_is_decided() -> None:
    def forever() -> bool:
        while True:
            pass

    assert call(lambda r: r.a and forever(), a=False) is False
    assert call(lambda r: r.a or forever(), a=True) is True


def test_helpers_are_rewritten_through_closures_and_globals() -> None:
    def local_helper(x: Any) -> Any:
        return module_helper(x) // 0

    assert call(lambda r: local_helper(r.a), a=np.int64(1)) is None
    assert call(lambda r: module_helper(r.a, by=5), a=np.int64(2)) == 10
    assert call(lambda r: module_helper(r.a), a=None) is None


def test_recursive_helper() -> None:
    assert call(lambda r: factorial_of(r.n), n=np.int64(5)) == 120


def test_helper_through_a_module() -> None:
    module = ModuleType("users_module")
    module.__dict__["helper"] = module_helper
    assert call(lambda r: module.helper(r.a), a=np.int64(1)) == 2


def test_nested_function_and_lambda() -> None:
    def fn(r: Any, k: int = 3) -> Any:
        def inner(x: Any, extra: Any = r.a + 1) -> Any:
            return x * k + extra

        twice = lambda x: x * 2  # noqa: E731
        return twice(inner(r.a))

    assert call(fn, a=np.int64(2)) == 18


def test_captured_values_are_read_when_rewritten() -> None:
    table = {"a": 1}
    factor = 2

    def fn(r: Any) -> Any:
        return table["a"] * factor + WEIGHTS[0] + len(table)

    rewritten = instrument(fn)
    table["a"] = 100
    table["b"] = 5
    factor = 3
    assert rewritten(Record({})) == 4
    assert instrument(fn)(Record({})) == 303


def test_lookup_that_finds_nothing_is_null() -> None:
    assert call(lambda r: WEIGHTS[r.i], i=np.int64(7)) is None
    assert call(lambda r: {"x": 1}[r.s], s="y") is None


def test_range_over_a_null_is_empty() -> None:
    def fn(r: Any) -> Any:
        total = 0
        for i in range(r.n):
            total += i
        return total

    assert call(fn, n=None) == 0
    assert call(fn, n=np.int64(4)) == 6


def test_generators_and_sums() -> None:
    assert call(lambda r: sum((r.a, r.b, 1)), a=np.int8(100), b=np.int8(100)) == 201
    assert call(lambda r: any(r.a > k for k in (1, 50)), a=np.int8(20)) is True
    assert call(lambda r: all(r.a > k for k in (1, 50)), a=None) is False


def test_attributes_of_constants_and_times_of_null() -> None:
    assert call(lambda r: math.pi * r.x, x=np.float64(2)) == math.tau
    assert call(lambda r: r.t.year, t=None) is None
    assert call(lambda r: r.t.weekday(), t=None) is None


def test_unknown_column_names_the_nearest() -> None:
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'price'"):
        call(lambda r: r.prise, price=np.float64(1))


def test_comparing_with_none_says_what_to_write() -> None:
    with pytest.raises(CompileError, match=r"line \d+: .*write `is None`"):
        instrument(lambda r: r.a == None)  # noqa: E711


@pytest.mark.parametrize(
    ("fn", "name"),
    [(lambda r: sorted(r.a), "sorted"), (lambda r: r.s.title(), "title"), (lambda r: str(r.a), "str")],
)
def test_what_has_no_meaning_is_refused(fn: Callable[..., Any], name: str) -> None:
    with pytest.raises(CompileError, match=rf"{name}\(\) has no meaning"):
        call(fn, a=np.int64(1), s="x")


def test_record_is_read_only() -> None:
    with pytest.raises(CompileError, match="read-only"):
        Record({"a": 1}).a = 2


def test_record_shows_its_columns() -> None:
    assert repr(Record({"a": "x", "b": None})) == "Record(a='x', b=None)"
    assert call(lambda r: {**r, "b": 2}, a=1, b=None) == {"a": 1, "b": 2}


def test_print_works_and_shows_the_users_values(capsys: pytest.CaptureFixture[str]) -> None:
    def fn(r: Any) -> Any:
        print("a is", r.a)
        return r.a

    call(fn, a=np.int8(5))
    assert capsys.readouterr().out == "a is 5\n"


def test_traceback_shows_the_users_line(tmp_path: Path) -> None:
    path = tmp_path / "job.py"
    path.write_text(
        "def fn(r):\n    x = r.a + 1\n    y = undefined_name + x\n    return y\n", encoding="utf-8"
    )
    namespace: dict[str, Any] = {}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    with pytest.raises(NameError) as caught:
        call(namespace["fn"], a=np.int64(1))
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno, last.line) == (str(path), 3, "y = undefined_name + x")
    linecache.clearcache()


def test_a_debugger_stops_on_the_users_lines() -> None:
    def fn(r: Any) -> Any:
        x = r.a + 1
        return x * 2

    first = fn.__code__.co_firstlineno
    lines: list[int] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != __file__ or frame.f_code.co_name != "fn":
            return None
        if event == "line":
            lines.append(frame.f_lineno)
        if event == "return":
            assert frame.f_locals["x"] == 6
        return trace

    rewritten = instrument(fn)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        rewritten(Record({"a": np.int64(5)}))
    finally:
        sys.settrace(before)
    assert lines == [first + 1, first + 2]


class Pair(NamedTuple):
    left: int
    right: float = 0.5


def test_named_tuples_are_built() -> None:
    assert call(lambda r: Pair(r.a), a=np.int64(1)) == Pair(np.int64(1), 0.5)
