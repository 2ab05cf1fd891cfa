"""Writes random expressions over the columns and variables at hand, each of one kind."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chains.vocabulary import (
    AWARE,
    BOOL,
    DATE,
    EXACT,
    FLOAT,
    FLOAT_LITERALS,
    INT,
    INT_LITERALS,
    JOINABLE,
    MOMENTS,
    NAIVE,
    SINGLE,
    SINGLE_LITERALS,
    SPAN,
    STEPS,
    TEXT,
    TEXT_LITERALS,
    UINT,
)


@dataclass
class Expressions:
    """Writes random expressions over the columns and variables at hand."""

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
