"""Random chains of random functions give the same result, bit for bit, on every device.

Each example writes Python functions to a file, as a user would, and runs a chain of filter, map, with_columns and
select on a random batch. Axes: types and slices of the columns, nulls, extremes, operators, conditions, branches,
loops with break and continue, early return, helpers, closures, tuples, string and time operations.

Not here: results of approximate functions used further (a difference of one ULP may turn a comparison), paths that
join an integer with a float, or a plain Python number with a float32 (the join is a static type; plain Python has
none), and arithmetic of plain numbers alone, which Python does before any device sees it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import Phase, given, note, reject, settings
from hypothesis import strategies as st

from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, WithColumnsStage
from dataflare.testing import (
    DECIMAL_TYPES,
    FLOAT_TYPES,
    INTEGER_TYPES,
    STRING_TYPES,
    assert_batches_equal,
    record_batches,
)

# What an expression is: integer, uint64, float64, float32, bool, string, naive and aware timestamp, date, duration,
# decimal, and a float from an approximate function, which nothing reads.
INT, UINT, FLOAT, SINGLE, BOOL, TEXT = "int", "uint", "float", "single", "bool", "text"
NAIVE, AWARE, DATE, SPAN, EXACT, ROUGH = "naive", "aware", "date", "span", "exact", "rough"
JOINABLE = (INT, FLOAT, SINGLE, UINT, BOOL, TEXT)

COLUMN_TYPES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a": (INT, INTEGER_TYPES[:7]),
    "b": (INT, INTEGER_TYPES[:4]),
    "u": (UINT, (pa.uint64(),)),
    "x": (FLOAT, (pa.float64(),)),
    "y": (FLOAT, (pa.float64(),)),
    "g": (SINGLE, (pa.float32(), *FLOAT_TYPES[:1])),
    "h": (SINGLE, (pa.float32(),)),
    "p": (BOOL, (pa.bool_(),)),
    "q": (BOOL, (pa.bool_(),)),
    "s": (TEXT, STRING_TYPES),
    "z": (TEXT, STRING_TYPES),
    "t": (NAIVE, tuple(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns"))),
    "v": (NAIVE, tuple(pa.timestamp(unit) for unit in ("us", "ns", "s"))),
    "w": (AWARE, (pa.timestamp("us", "UTC"), pa.timestamp("ns", "Asia/Tokyo"))),
    "d": (DATE, (pa.date32(), pa.date64())),
    "e": (DATE, (pa.date32(),)),
    "r1": (SPAN, tuple(pa.duration(unit) for unit in ("s", "ms", "us", "ns"))),
    "m": (EXACT, DECIMAL_TYPES[:1]),
    "n": (EXACT, DECIMAL_TYPES[:1]),
}
INT_LITERALS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "7",
    "10",
    "100",
    "-128",
    "255",
    "65536",
    "4294967296",
    "9223372036854775807",
)
FLOAT_LITERALS = ("0.5", "2.0", "-1.5", "0.0", "-0.0", "0.1", "1e300", "1e-310", "3.0", "100.0")
SINGLE_LITERALS = ("0.1", "2", "-1.5", "0.5", "3", "1e30", "0.0")
TEXT_LITERALS = ("''", "'a'", "'ab'", "'é'", "'日本'", "'😀'", "'longer than a view'", "'xxxxxxxxxxxx'")
MOMENTS = {
    NAIVE: "datetime.datetime(2024, 2, 29, 12, 30)",
    AWARE: "datetime.datetime(1969, 12, 31, tzinfo=UTC)",
}
STEPS = (
    "datetime.timedelta(days=1)",
    "datetime.timedelta(hours=-5)",
    "datetime.timedelta(microseconds=1500)",
)
HEADER = """import datetime
import math
from decimal import Decimal

import numpy as np

UTC = datetime.UTC
SCALE = 3
OFFSET = 0.25
WORDS = ("a", "ab", "é")
NUMBERS = {1, 2, 100, -1}
TABLE = [5, -7, 0, 2]
CODES = {1: 10, 0: -3, 127: 4, 3: None}


def clamp(value, low=-10, high=50):
    if value < low:
        return low + 0 * value
    return min(value, high)


def halves(value):
    whole = value // 2
    return whole, value - whole


def pick(condition, a, b):
    return a if condition else b


def scaled(x, by=1.5):
    result = x * by
    return result - OFFSET
"""


@dataclass
class Writer:
    """Writes random expressions and statements over the columns and variables at hand."""

    dice: random.Random
    columns: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    serial: int = 0
    early_return: Callable[[], str] | None = None

    def choose(self, options: Any) -> Any:
        return self.dice.choice(options)

    def chance(self, one_in: int) -> bool:
        return self.dice.randrange(one_in) == 0

    def fresh(self) -> str:
        self.serial += 1
        return f"v{self.serial}"

    def column(self, kind: str) -> str | None:
        names = [name for name, known in self.columns.items() if known == kind]
        if not names:
            return None
        name = self.choose(names)
        self.used.add(name)
        return f'r["{name}"]' if self.chance(6) else f"r.{name}"

    def leaf(self, kind: str) -> str:
        known = [name for name, held in self.variables.items() if held == kind]
        if known and self.chance(2):
            return str(self.choose(known))
        column = self.column(kind)
        if column is not None:
            return column
        return {  # INT and BOOL columns there always are
            UINT: f"np.uint64({self.column(INT)})",
            FLOAT: f"({self.column(INT)} / 2)",
            SINGLE: f"np.float32({self.column(INT)})",
            TEXT: f"('ab' if {self.column(BOOL)} else 'é')",
        }[kind]

    def has(self, kind: str) -> bool:
        return kind in self.columns.values()

    def expression(self, kind: str, depth: int) -> str:
        if depth <= 0:
            return self.leaf(kind)
        return str(getattr(self, f"_{kind}")(depth - 1))

    def either(self, kind: str, depth: int) -> str:
        """An expression that is the same on all devices wherever it is joined with another of its kind."""
        return (
            f"({self.expression(kind, depth)} if {self.condition(depth)} else {self.expression(kind, depth)})"
        )

    def condition(self, depth: int) -> str:
        return self.expression(BOOL, depth)

    # Each of these writes one operation that gives its kind.

    def _int(self, depth: int) -> str:
        x, y = (lambda: self.expression(INT, depth)), (lambda: self.expression(INT, depth))
        options: list[Callable[[], str]] = [
            lambda: self.leaf(INT),
            lambda: f"({x()} {self.choose('+-*')} {y()})",
            lambda: f"({x()} {self.choose('+-*')} {self.choose(INT_LITERALS)})",
            lambda: f"({self.choose(INT_LITERALS)} {self.choose('+-*')} {x()})",
            lambda: f"({x()} {self.choose(('//', '%'))} {y()})",
            lambda: f"({x()} {self.choose(('//', '%'))} {self.choose(INT_LITERALS)})",
            lambda: f"({x()} {self.choose('&|^')} {y()})",
            lambda: f"({x()} {self.choose(('<<', '>>'))} ({y()} % 70))",
            lambda: f"({x()} {self.choose(('<<', '>>'))} {y()})",
            lambda: f"{x()} ** {self.choose('012345')}",
            lambda: f"{x()} ** ({y()} % 9)",
            lambda: f"({self.choose(('-', '+', '~'))}{x()})",
            lambda: f"abs({x()})",
            lambda: f"{self.choose(('min', 'max'))}({x()}, {y()})",
            lambda: f"{self.choose(('min', 'max'))}({x()}, {self.choose(INT_LITERALS)}, {y()})",
            lambda: (
                f"{self.choose(('int', 'round', 'math.floor', 'math.ceil'))}({self.expression(FLOAT, depth)})"
            ),
            lambda: f"int({self.expression(SINGLE, depth)})",
            lambda: self.either(INT, depth),
            lambda: f"({x()} if {self.condition(depth)} else {self.choose(INT_LITERALS)})",
            lambda: f"({x()} or {y()})",
            lambda: f"({x()} and {y()})",
            lambda: f"({self.expression(BOOL, depth)} + {self.expression(BOOL, depth)})",
            lambda: f"clamp({x()})",
            lambda: f"pick({self.condition(depth)}, {x()}, {y()})",
            lambda: f"({x()} * SCALE)",
            lambda: f"halves({x()})[{self.choose('01')}]",
            lambda: f"TABLE[{self.choose(('abs', ''))}({x()}) % 5]",
            lambda: f"CODES[{self.column(INT)}]",
            lambda: f"CODES.get({x()}, {y()})",
            lambda: f"sum(k * v for k, v in enumerate(({x()}, {y()}, 3), 1) if k != 2)",
            lambda: f"sum(a * b for a, b in zip(({x()}, {y()}), TABLE))",
            lambda: (
                f"({x()} {self.choose(('//', '%'))} {self.choose(('8192', '86400', '1000', '-7', '10'))})"
            ),
            lambda: f"sum(({x()}, {y()}, 1))",
            lambda: f"np.int16({x()})",
            lambda: f"divmod({x()}, {y()})[{self.choose('01')}]",
            lambda: f"np.where({self.condition(depth)}, {x()}, {y()})",
            lambda: f"({x()} if {x()} is not None else np.int64(-1))",
        ]
        if self.has(TEXT):
            options.append(lambda: f"len({self.expression(TEXT, depth)})")
        for kind in (NAIVE, AWARE):
            if self.has(kind):
                names = ("year", "month", "day", "hour", "minute", "second", "weekday()")
                options.append(lambda kind=kind, names=names: f"{self.leaf(kind)}.{self.choose(names)}")
        if self.has(DATE):
            options.append(lambda: f"{self.leaf(DATE)}.{self.choose(('year', 'month', 'day', 'weekday()'))}")
        return str(self.choose(options)())

    def _uint(self, depth: int) -> str:
        x, y = (lambda: self.expression(UINT, depth)), (lambda: self.expression(UINT, depth))
        options: list[Callable[[], str]] = [
            lambda: self.leaf(UINT),
            lambda: f"({x()} {self.choose(('+', '-', '*', '//', '%', '&', '|', '^'))} {y()})",
            lambda: (
                f"({x()} {self.choose(('+', '-', '*', '//', '%', '&', '|'))} {self.choose(INT_LITERALS[:4])})"
            ),
            lambda: f"({x()} {self.choose(('<<', '>>'))} {self.choose(('0', '3', '63', '64'))})",
            lambda: f"({self.choose(('-', '+', '~'))}{x()})",
            lambda: f"{self.choose(('min', 'max'))}({x()}, {y()})",
            lambda: f"np.uint64({self.expression(INT, depth)})",
            lambda: f"{x()} ** {self.choose('0123')}",
            lambda: f"abs({x()})",
            lambda: self.either(UINT, depth),
        ]
        return str(self.choose(options)())

    def _float(self, depth: int) -> str:
        x, y = (lambda: self.expression(FLOAT, depth)), (lambda: self.expression(FLOAT, depth))
        operators = ("+", "-", "*", "/", "//", "%")
        options: list[Callable[[], str]] = [
            lambda: self.leaf(FLOAT),
            lambda: f"({x()} {self.choose(operators)} {y()})",
            lambda: f"({x()} {self.choose(operators)} {self.choose(FLOAT_LITERALS)})",
            lambda: f"({self.choose(FLOAT_LITERALS)} {self.choose(operators)} {x()})",
            lambda: f"({x()} {self.choose(operators)} {self.expression(INT, depth)})",
            lambda: f"({self.expression(INT, depth)} / {self.expression(INT, depth)})",
            lambda: f"({self.expression(UINT, depth)} / {self.expression(UINT, depth)})",
            lambda: f"({self.expression(SINGLE, depth)} {self.choose('+-*/')} {self.leaf(FLOAT)})",
            lambda: f"({self.expression(SINGLE, depth)} {self.choose('+-*/')} {self.leaf(INT)})",
            lambda: f"(-{x()})",
            lambda: (
                f"{self.choose(('abs', 'math.fabs', 'np.floor', 'np.ceil', 'np.trunc', 'np.rint'))}({x()})"
            ),
            lambda: f"math.sqrt({x()})",
            lambda: f"{self.choose(('min', 'max', 'np.minimum', 'np.maximum'))}({x()}, {y()})",
            lambda: f"{self.choose(('min', 'max'))}({x()}, {self.choose(FLOAT_LITERALS)})",
            lambda: f"float({self.expression(self.choose((INT, UINT, SINGLE, FLOAT)), depth)})",
            lambda: f"{self.choose(('math.fmod', 'math.copysign'))}({x()}, {y()})",
            lambda: f"round({x()}, {self.choose(('0', '1', '3', '-1'))})",
            lambda: f"{x()} ** 2",
            lambda: self.either(FLOAT, depth),
            lambda: f"({x()} if {self.condition(depth)} else np.float64({self.choose(FLOAT_LITERALS)}))",
            lambda: f"({x()} or {y()})",
            lambda: f"scaled({x()})",
            lambda: f"pick({self.condition(depth)}, {x()}, {y()})",
        ]
        if self.has(SPAN):
            options.append(lambda: f"{self.expression(SPAN, depth)}.total_seconds()")
            options.append(lambda: f"({self.expression(SPAN, depth)} / {self.leaf(SPAN)})")
        if self.has(EXACT):
            options.append(lambda: f"float({self.expression(EXACT, depth)})")
        return str(self.choose(options)())

    def _single(self, depth: int) -> str:
        x, y = (lambda: self.expression(SINGLE, depth)), (lambda: self.expression(SINGLE, depth))
        operators = ("+", "-", "*", "/", "//", "%")
        options: list[Callable[[], str]] = [
            lambda: self.leaf(SINGLE),
            lambda: f"({x()} {self.choose(operators)} {y()})",
            lambda: f"({x()} {self.choose(operators)} {self.choose(SINGLE_LITERALS)})",
            lambda: f"({self.choose(SINGLE_LITERALS)} {self.choose(operators)} {x()})",
            lambda: f"({x()} * OFFSET)",
            lambda: f"(-{x()})",
            lambda: f"{self.choose(('abs', 'np.sqrt', 'np.floor', 'np.rint'))}({x()})",
            lambda: f"{self.choose(('min', 'max'))}({x()}, {y()})",
            lambda: f"np.float32({self.expression(self.choose((FLOAT, INT)), depth)})",
            lambda: f"{x()} ** 2",
            lambda: f"round({x()}, 1)",
            lambda: self.either(SINGLE, depth),
        ]
        return str(self.choose(options)())

    def _bool(self, depth: int) -> str:
        order = ("<", "<=", ">", ">=", "==", "!=")
        numbers = (INT, UINT, FLOAT, SINGLE)
        x, y = (lambda: self.expression(BOOL, depth)), (lambda: self.expression(BOOL, depth))

        def compared() -> str:
            kind = self.choose(numbers)
            return f"({self.expression(kind, depth)} {self.choose(order)} {self.expression(kind, depth)})"

        def compared_across() -> str:
            kinds = self.choose(((INT, UINT), (INT, FLOAT), (UINT, INT), (SINGLE, FLOAT), (FLOAT, UINT)))
            left, right = (self.expression(kind, depth) for kind in kinds)
            return f"({left} {self.choose(order)} {right})"

        def compared_with_literal() -> str:
            kind = self.choose((INT, FLOAT, SINGLE, UINT))
            literals = {FLOAT: FLOAT_LITERALS, SINGLE: SINGLE_LITERALS}.get(kind, INT_LITERALS)
            return f"({self.expression(kind, depth)} {self.choose(order)} {self.choose(literals)})"

        def chained() -> str:
            parts = [self.expression(INT, depth) for _ in range(3)]
            return f"({parts[0]} {self.choose(order)} {parts[1]} {self.choose(order)} {parts[2]})"

        options: list[Callable[[], str]] = [
            compared,
            lambda: self.leaf(BOOL),
            compared_with_literal,
            compared_across,
            chained,
            lambda: f"({x()} {self.choose(('and', 'or'))} {y()})",
            lambda: f"({x()} {self.choose(('and', 'or'))} {y()} {self.choose(('and', 'or'))} {x()})",
            lambda: f"(not {x()})",
            lambda: f"({x()} {self.choose(('==', '!=', '^', '&', '|'))} {y()})",
            lambda: f"(~{x()})",
            lambda: (
                f"({self.expression(self.choose(JOINABLE[:5]), depth)} is {self.choose(('None', 'not None'))})"
            ),
            lambda: f"({self.expression(INT, depth)} {self.choose(('in', 'not in'))} (1, 2, -3, 100))",
            lambda: f"({self.expression(INT, depth)} in NUMBERS)",
            lambda: f"(({self.leaf(INT)}, {self.leaf(INT)} % 3) in ((1, 2), (0, 0), (7, 1)))",
            lambda: f"({self.expression(FLOAT, depth)} in (0.0, 0.5, 1.0))",
            lambda: (
                f"{self.choose(('math.isnan', 'math.isinf', 'np.isfinite'))}({self.expression(FLOAT, depth)})"
            ),
            lambda: f"bool({self.expression(self.choose((INT, FLOAT, TEXT)), depth)})",
            lambda: f"any(({x()}, {y()}))",
            lambda: f"all(k < {self.expression(INT, 1)} for k in TABLE)",
            lambda: (
                f"(({self.expression(INT, 1)}, {self.leaf(FLOAT)}) == ({self.leaf(INT)}, {self.leaf(FLOAT)}))"
            ),
            lambda: self.either(BOOL, depth),
        ]
        if self.has(TEXT):

            def s() -> str:
                return self.expression(TEXT, depth)

            options += [
                lambda: f"({s()} {self.choose(order)} {s()})",
                lambda: f"({s()} {self.choose(order)} {self.choose(TEXT_LITERALS)})",
                lambda: f"({s()} {self.choose(('in', 'not in'))} WORDS)",
                lambda: f"({self.choose(TEXT_LITERALS)} in {s()})",
                lambda: f"{s()}.{self.choose(('startswith', 'endswith'))}({self.choose(TEXT_LITERALS)})",
                lambda: f"{s()}.startswith(WORDS)",
            ]
        for kind in (NAIVE, AWARE, DATE, SPAN):
            if self.has(kind):
                options.append(
                    lambda kind=kind: f"({self.moment(kind, depth)} {self.choose(order)} {self.leaf(kind)})"
                )
        for kind in (NAIVE, AWARE):
            if self.has(kind):
                options.append(lambda kind=kind: f"({self.leaf(kind)} {self.choose(order)} {MOMENTS[kind]})")
        if self.has(DATE):
            options.append(lambda: f"({self.leaf(DATE)} {self.choose(order)} datetime.date(2020, 1, 1))")
        if self.has(SPAN):
            options.append(lambda: f"({self.leaf(SPAN)} {self.choose(order)} {self.choose(STEPS)})")
        if self.has(EXACT):
            literal = ("Decimal('1.50')", "2", "Decimal('-0.5')")
            options.append(lambda: f"({self.leaf(EXACT)} {self.choose(order)} {self.choose(literal)})")
            options.append(lambda: f"({self.leaf(EXACT)} {self.choose(order)} {self.leaf(EXACT)})")
        return str(self.choose(options)())

    def moment(self, kind: str, depth: int) -> str:
        return self.expression(kind, depth) if kind == SPAN else self.leaf(kind)

    def _text(self, depth: int) -> str:
        options: list[Callable[[], str]] = [
            lambda: self.leaf(TEXT),
            lambda: self.either(TEXT, depth),
            lambda: f"({self.leaf(TEXT)} if {self.condition(depth)} else {self.choose(TEXT_LITERALS)})",
            lambda: f"({self.leaf(TEXT)} or {self.choose(TEXT_LITERALS)})",
            lambda: f"min({self.leaf(TEXT)}, {self.choose(TEXT_LITERALS)})",
        ]
        return str(self.choose(options)())

    def _naive(self, depth: int) -> str:
        return f"({self.leaf(NAIVE)} {self.choose('+-')} {self.choose(STEPS)})"

    def _aware(self, depth: int) -> str:
        return f"({self.leaf(AWARE)} {self.choose('+-')} {self.choose(STEPS)})"

    def _date(self, depth: int) -> str:
        return f"({self.leaf(DATE)} {self.choose('+-')} datetime.timedelta(days={self.choose((1, -400, 36524))}))"

    def _span(self, depth: int) -> str:
        options: list[Callable[[], str]] = [lambda: self.leaf(SPAN)]
        options.append(lambda: f"({self.leaf(SPAN)} {self.choose('+-')} {self.leaf(SPAN)})")
        options.append(lambda: f"({self.leaf(SPAN)} * {self.expression(INT, depth)})")
        options.append(lambda: f"abs({self.leaf(SPAN)})")
        options.append(lambda: f"(-{self.leaf(SPAN)})")
        if self.has(NAIVE):
            options.append(lambda: f"({self.leaf(NAIVE)} - {self.leaf(NAIVE)})")
            options.append(lambda: f"({self.leaf(NAIVE)} - {MOMENTS[NAIVE]})")
        if self.has(DATE):
            options.append(lambda: f"({self.leaf(DATE)} - {self.leaf(DATE)})")
        return str(self.choose(options)())

    def _exact(self, depth: int) -> str:
        literal = ("2", "Decimal('0.25')", "-3")
        options: list[Callable[[], str]] = [
            lambda: f"({self.leaf(EXACT)} {self.choose('+-*')} {self.leaf(EXACT)})",
            lambda: f"({self.leaf(EXACT)} {self.choose('+-*')} {self.choose(literal)})",
            lambda: f"(-{self.leaf(EXACT)})",
            lambda: f"abs({self.leaf(EXACT)})",
        ]
        return str(self.choose(options)())

    def _rough(self, depth: int) -> str:
        one = (
            "sin",
            "cos",
            "tan",
            "exp",
            "log",
            "log2",
            "log10",
            "log1p",
            "expm1",
            "tanh",
            "atan",
            "cbrt",
            "asinh",
        )
        options: list[Callable[[], str]] = [
            lambda: f"math.{self.choose(one)}({self.expression(FLOAT, depth)})",
            lambda: f"np.{self.choose(one[:6])}({self.expression(SINGLE, depth)})",
            lambda: f"{self.expression(FLOAT, depth)} ** {self.expression(FLOAT, depth)}",
            lambda: f"{self.expression(FLOAT, depth)} ** 0.5",
            lambda: f"math.{self.choose(('atan2', 'hypot', 'pow'))}({self.leaf(FLOAT)}, {self.leaf(FLOAT)})",
        ]
        return str(self.choose(options)())

    # Statements: each returns lines, and leaves new variables in ``variables``.

    def statements(self, depth: int) -> list[str]:
        kinds = (self._assign, self._assign, self._branch, self._count_up, self._while, self._swap)
        return list(self.choose(kinds)(depth))

    def _assign(self, depth: int) -> list[str]:
        kind = self.choose(JOINABLE)
        value = self.expression(kind, depth)
        name = self.fresh()
        self.variables[name] = kind
        return [f"{name} = {value}"]

    def _branch(self, depth: int) -> list[str]:
        kind = self.choose(JOINABLE)
        name = self.fresh()
        lines = [f"if {self.condition(depth)}:", f"    {name} = {self.expression(kind, depth)}"]
        if self.chance(2):
            lines += [f"elif {self.condition(depth)}:", f"    {name} = {self.expression(kind, depth)}"]
        lines += ["else:", f"    {name} = {self.expression(kind, depth)}"]
        self.variables[name] = kind
        if self.chance(3):
            lines += [f"if {self.condition(depth)}:", f"    {name} = {self.expression(kind, depth)}"]
        return lines

    def _accumulator(self) -> tuple[str, str, str]:
        kind = self.choose((INT, FLOAT, INT, UINT, SINGLE))
        name = self.fresh()
        start = f"{name} = {self.leaf(kind)}"
        self.variables[name] = kind
        return kind, name, start

    def _body(self, kind: str, name: str, depth: int, *, may_leave: bool) -> list[str]:
        lines = []
        if may_leave and self.chance(2):
            lines += [f"if {self.condition(depth)}:", f"    {self.choose(('break', 'continue'))}"]
        if may_leave and self.early_return is not None and self.chance(3):
            lines += [f"if {self.condition(depth)}:", f"    {self.early_return()}"]
        operator = self.choose("+-*")
        if self.chance(2):
            lines.append(f"{name} {operator}= {self.expression(kind, depth)}")
        else:
            lines.append(f"{name} = {name} {operator} {self.expression(kind, depth)}")
        if may_leave and self.chance(3):
            lines += [f"if {self.condition(depth)}:", "    break"]
        return lines

    def _count_up(self, depth: int) -> list[str]:
        kind, name, start = self._accumulator()
        counter = self.fresh()
        bounds = self.choose(
            (
                f"range({self.choose((0, 3, 5))})",
                f"range({self.expression(INT, 1)} % 5)",
                "range(5, 0, -2)",
                "(1, 2, 5)",
            )
        )
        self.variables[counter] = INT
        body = self._body(kind, name, depth, may_leave=True)
        if self.chance(3):
            inner = self.fresh()
            self.variables[inner] = INT
            nested = self._body(kind, name, 1, may_leave=True)
            del self.variables[inner]
            body += [f"for {inner} in range({counter}):", *_indented(nested)]
        del self.variables[counter]
        return [start, f"for {counter} in {bounds}:", *_indented(body), *self._otherwise(kind, name)]

    def _otherwise(self, kind: str, name: str) -> list[str]:
        """An `else` for some loops: what runs if there was no `break`."""
        return ["else:", f"    {name} = {name} + {self.leaf(kind)}"] if self.chance(3) else []

    def _while(self, depth: int) -> list[str]:
        kind, name, start = self._accumulator()
        counter = self.fresh()
        test = f"{counter} < {self.choose((2, 4))}" + (
            f" and {self.condition(depth)}" if self.chance(2) else ""
        )
        body = self._body(kind, name, depth, may_leave=True)
        loop = [f"while {test}:", *_indented([f"{counter} += 1", *body]), *self._otherwise(kind, name)]
        return [start, f"{counter} = 0", *loop]

    def _swap(self, depth: int) -> list[str]:
        kind = self.choose((INT, FLOAT, TEXT, BOOL))
        one, two = self.fresh(), self.fresh()
        lines = [f"{one}, {two} = {self.expression(kind, depth)}, {self.expression(kind, depth)}"]
        self.variables.update({one: kind, two: kind})
        return [*lines, f"if {self.condition(depth)}:", f"    {one}, {two} = {two}, {one}"]

    def block(self, depth: int) -> list[str]:
        lines: list[str] = []
        for _ in range(self.dice.randint(0, 2)):
            lines += self.statements(depth)
        return lines


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


@dataclass
class Chain:
    """The text of a module, and how to make the steps from what it defines."""

    text: str
    steps: list[tuple[str, Any]]
    rough: set[str]
    used: set[str]


ANY_KIND = (*JOINABLE, NAIVE, AWARE, DATE, SPAN, EXACT, ROUGH)


class ChainWriter:
    """Writes the functions of a chain of steps, following which columns there are after each."""

    def __init__(self, dice: random.Random, columns: dict[str, str], *, most_steps: int, depth: int) -> None:
        self.dice = dice
        self.most_steps = most_steps
        self.depth = depth
        self.columns = dict(columns)
        self.initial = set(columns)
        self.used: set[str] = set()
        self.rough: set[str] = set()
        self.parts: list[str] = []
        self.steps: list[tuple[str, Any]] = []

    def writer(self) -> Writer:
        return Writer(self.dice, self.columns)

    def _finish(self, writer: Writer) -> None:
        self.used |= {name for name in writer.used if name in self.initial}

    def function(
        self, write_return: Callable[[Writer], list[str]], kinds: dict[str, str], *, whole: bool
    ) -> str:
        """Write a function as a def, a lambda where it has one line, or a closure; return its name.

        ``kinds`` are the columns of the record that it returns, if ``whole``, or the one value.
        """
        writer = self.writer()
        if kinds and all(kind in JOINABLE for kind in kinds.values()):

            def early_return() -> str:
                items = {name: writer.expression(kind, 1) for name, kind in kinds.items()}
                shown = ", ".join(f'"{name}": {value}' for name, value in items.items())
                return "return {" + shown + "}" if whole else f"return {next(iter(items.values()))}"

            writer.early_return = early_return
        depth = self.dice.randint(1, self.depth)
        name = f"step{len(self.parts)}"
        block = [] if self.dice.randint(0, 2) == 0 else writer.block(depth)
        returned = write_return(writer)
        self._finish(writer)
        if not block and len(returned) == 1 and self.dice.random() < 0.5:
            self.parts.append(f"{name} = lambda r: {returned[0].removeprefix('return ')}")
        elif self.dice.randint(0, 3) == 0:
            body = _indented(_indented([*block, *returned]))
            self.parts.append(
                "\n".join(
                    [f"def make_{name}(SCALE, OFFSET=0.5):", "    def step(r):", *body, "    return step"]
                )
                + f"\n\n\n{name} = make_{name}(7)"
            )
        else:
            self.parts.append("\n".join([f"def {name}(r):", *_indented([*block, *returned])]))
        return name

    def value(self, kind: str) -> Callable[[Writer], list[str]]:
        def write(writer: Writer) -> list[str]:
            lines: list[str] = []
            if kind in JOINABLE and writer.chance(3):
                early = writer.choose((writer.expression(kind, 1), "None"))
                lines = [f"if {writer.condition(1)}:", f"    return {early}"]
            return [*lines, f"return {writer.expression(kind, self.depth)}"]

        return write

    def record(self, kinds: dict[str, str], *, keep: bool) -> Callable[[Writer], list[str]]:
        def shown(writer: Writer, depth: int) -> str:
            items = [f'"{name}": {writer.expression(kind, depth)}' for name, kind in kinds.items()]
            return "{" + ", ".join([*(["**r"] if keep else []), *items]) + "}"

        def write(writer: Writer) -> list[str]:
            lines: list[str] = []
            if writer.chance(4) and all(kind in JOINABLE for kind in kinds.values()):
                lines = [f"if {writer.condition(1)}:", f"    return {shown(writer, 1)}"]
            return [*lines, f"return {shown(writer, self.depth)}"]

        return write

    def kind(self, writer: Writer) -> str:
        possible = [k for k in ANY_KIND if k in JOINABLE or k == ROUGH or writer.has(k)]
        return str(writer.choose(possible))

    def new_columns(self, *, fresh: bool = False) -> dict[str, str]:
        writer = self.writer()
        replaceable = [name for name in self.columns if name not in ("a", "p")]
        names = [f"k{len(self.steps)}", f"l{len(self.steps)}", *replaceable[:2]]
        count = 1 + self.dice.randint(0, 2)
        kinds = {names[place]: self.kind(writer) for place in range(min(count, len(names)))}
        return {**kinds, "a": INT, "p": BOOL} if fresh else kinds

    def _settle(self, kinds: dict[str, str], *, keep: bool) -> None:
        """Note which columns there are now; nothing reads approximate results, or decimals grown by arithmetic."""
        settled = {name: "done" if kind in (ROUGH, EXACT) else kind for name, kind in kinds.items()}
        self.columns = {**(self.columns if keep else {}), **settled}
        self.rough = {name for name in self.rough if keep and name not in kinds}
        self.rough |= {name for name, kind in kinds.items() if kind == ROUGH}

    def add_filter(self) -> None:
        self.steps.append(("filter", self.function(self.value(BOOL), {"": BOOL}, whole=False)))

    def add_map(self) -> None:
        keep = self.dice.random() < 0.5
        kinds = self.new_columns(fresh=not keep)
        self.steps.append(
            ("map", self.function(self.record(kinds, keep=keep), {} if keep else kinds, whole=True))
        )
        if keep:
            self.used |= self.initial & set(self.columns)
        self._settle(kinds, keep=keep)

    def add_with_columns(self) -> None:
        kinds = self.new_columns()
        if self.dice.random() < 0.5:
            self.steps.append(("with", self.function(self.record(kinds, keep=False), kinds, whole=True)))
        else:
            named = [
                (name, self.function(self.value(kind), {name: kind}, whole=False))
                for name, kind in kinds.items()
            ]
            self.steps.append(("named", named))
        self._settle(kinds, keep=True)

    def add_select(self) -> None:
        names = list(self.columns)
        chosen = [name for name in names if name in ("a", "p") or self.dice.randint(0, 3) > 0]
        renamed = {name: (f"{name}_" if self.dice.randint(0, 3) == 3 else name) for name in chosen}
        renamed.update(a="a", p="p")
        self.steps.append(("select", tuple((renamed[name], name) for name in chosen)))
        self.used |= {name for name in chosen if name in self.initial}
        self.columns = {renamed[name]: self.columns[name] for name in chosen}
        self.rough = {renamed[name] for name in chosen if name in self.rough}
        self.initial = {renamed[name] for name in chosen if name in self.initial and renamed[name] == name}

    def add_single_operations(self) -> None:
        """Add columns of one operation each: what goes wrong there shows, where a deep expression may hide it."""
        kinds = {f"o{place}": self.kind(self.writer()) for place in range(6)}
        named = []
        for name, kind in kinds.items():
            writer = self.writer()
            self.parts.append(f"{name} = lambda r: {writer.expression(kind, 1)}")
            self._finish(writer)
            named.append((name, name))
        self.steps.append(("named", named))
        self._settle(kinds, keep=True)

    def chain(self) -> Chain:
        self.add_single_operations()
        for _ in range(self.dice.randint(1, self.most_steps)):
            adders = (
                self.add_with_columns,
                self.add_with_columns,
                self.add_map,
                self.add_map,
                self.add_filter,
            )
            (*adders, self.add_select)[self.dice.randint(0, len(adders))]()
        text = HEADER + "".join(f"\n\n{part}\n" for part in self.parts)
        return Chain(text, self.steps, self.rough, self.used)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Chain, pa.RecordBatch]:
    """Draw a chain of steps and a batch for it; columns that nothing reads or passes on are left out."""
    others = [name for name in COLUMN_TYPES if name not in ("a", "p")]
    # Functions come from a seed and not from single draws: Hypothesis prefers small choices and repeats them with
    # other data, and small functions show little. The data is part of the seed, so that none comes twice.
    seed = draw(st.integers(0, 2**32))
    dice = random.Random(seed)
    others = [name for name in COLUMN_TYPES if name not in ("a", "p")]
    names = ["a", "p", *dice.sample(others, draw(st.integers(4, 10)))]
    fields = [(name, dice.choice(COLUMN_TYPES[name][1])) for name in names]
    batch = draw(record_batches(pa.schema(fields), max_rows=90))
    most_steps, depth = draw(st.integers(1, 3)), dice.choice((1, 1, 2, 2, 2, 3))
    dice = random.Random(f"{seed} {most_steps} {depth} {batch.serialize().to_pybytes()!r}")
    columns = {name: COLUMN_TYPES[name][0] for name in names}
    chain = ChainWriter(dice, columns, most_steps=most_steps, depth=depth).chain()
    return chain, batch


def load(text: str, folder: Path) -> ModuleType:
    """Write a module to a file and import it, so that its functions have source text."""
    name = "chain_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stages_of(chain: Chain, module: ModuleType) -> list[Any]:
    stages: list[Any] = []
    for kind, what in chain.steps:
        if kind == "filter":
            stages.append(FilterStage(getattr(module, what)))
        elif kind == "map":
            stages.append(MapStage(getattr(module, what)))
        elif kind == "with":
            stages.append(WithColumnsStage(fn=getattr(module, what)))
        elif kind == "named":
            stages.append(WithColumnsStage(named=tuple((name, getattr(module, fn)) for name, fn in what)))
        else:
            stages.append(SelectStage(what))
    return stages


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chains")


@pytest.mark.timeout(1200)
@settings(
    max_examples=5 * settings.default.max_examples, phases=[Phase.generate]
)  # other data is another chain
@given(drawn=chains())
def test_random_chains(
    folder: Path, run_on: Any, compiled_device: str, drawn: tuple[Chain, pa.RecordBatch]
) -> None:
    chain, batch = drawn
    note(chain.text[len(HEADER) :])
    note(repr(chain.steps))
    note(repr(batch.schema))
    stages = stages_of(chain, load(chain.text, folder))
    try:
        outcome = run_on(compiled_device, stages, batch)
    except CompileError as error:
        if "is None for every record" in str(error):  # conditions that happen to be constant
            reject()
        raise
    expected = run_on("python", stages, batch)
    assert_batches_equal(outcome.batch, expected.batch, ulp=4, ulp_columns=sorted(chain.rough))
    assert outcome.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
