"""Expressions of a job file: text about a record ``r`` that becomes a real Python function, and nothing else.

Covers what an expression may contain, the message when it contains something else, and the function that
the compiler reads. An expression is parsed, every node of its tree is checked against a list of what is
allowed, and only then is it compiled; no text of a job file is ever evaluated unchecked. What the
operations mean is the compiler's (`dataflare.kernels.udf`).

Allowed: columns (``r.name``, ``r["any name"]``), constants of the job file, numbers, text, ``None``,
arithmetic, comparisons, ``and or not``, ``in``, ``a if c else b``, slices of text, the functions ``abs all
any bool float int len max min round sum``, everything in ``math``, methods of text and times, and the fields
of dates and times.
"""

from __future__ import annotations

import ast
import linecache
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataflare.kernels.errors import OptionError, nearest

__all__ = ["Expression", "ExpressionError", "build_functions", "check_expression"]

RECORD = "r"
_CALLABLE = (abs, all, any, bool, float, int, len, max, min, round, sum)
FUNCTIONS = {function.__name__: function for function in _CALLABLE}
MATH_FUNCTIONS = frozenset(name for name in dir(math) if not name.startswith("_"))
TEXT_METHODS = (
    "casefold", "endswith", "find", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "islower", "isnumeric",
    "isspace", "isupper", "lower", "lstrip", "rstrip", "startswith", "strip", "upper",
)  # fmt: skip
METHODS = frozenset((*TEXT_METHODS, "isoweekday", "total_seconds", "weekday"))
FIELDS = frozenset(
    ("day", "days", "hour", "microsecond", "microseconds", "minute", "month", "second", "seconds", "year")
)

_OPERATORS = (ast.boolop, ast.operator, ast.unaryop, ast.cmpop, ast.expr_context)
_PLAIN = (ast.BoolOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Tuple, ast.List, ast.Set, ast.Slice)
_NOT_ALLOWED: dict[type[ast.AST], str] = {
    ast.Lambda: "a lambda",
    ast.NamedExpr: "an assignment (:=)",
    ast.JoinedStr: "an f-string",
    ast.Dict: "a dict",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a generator",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "a starred value",
}


@dataclass(frozen=True, slots=True)
class Expression:
    """One expression and where it came from.

    Attributes
    ----------
    text
        What stands in the job file.
    name
        What the function is called in messages and plans: the key, such as "filter" or "speed_mph".
    line
        Line of the first character in the job file, counted from 1.
    """

    text: str
    name: str
    line: int


class ExpressionError(OptionError):
    """An expression that is not allowed; ``line`` and the columns count from 0 within its text."""

    def __init__(self, message: str, line: int = 0, column: int = 0, end_column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.end_column = column + 1 if end_column is None else end_column


def check_expression(text: str, constants: Mapping[str, Any]) -> None:
    """Raise where ``text`` is not an expression of allowed parts.

    Raises
    ------
    ExpressionError
        With the place of what is not allowed, and the way out in the message.
    """
    if not text.strip():
        raise ExpressionError(f"the expression is empty; write one of {RECORD}, such as {RECORD}.amount > 0.")
    tree = _parse(text)
    checker = _Checker(text, constants)
    checker.check(tree.body)


def _parse(text: str) -> ast.Expression:
    """Parse within parentheses, which let an expression span lines and move its first line by one column."""
    lines = text.split("\n")
    shift = -1
    try:
        if len(lines) == 1:  # alone, so that a parenthesis that is missing is not found in the added ones
            shift = len(text) - len(text.lstrip())
            ast.parse(text.strip(), mode="eval")
            shift = -1
        return ast.parse(f"({text})", mode="eval")
    except SyntaxError as error:
        line = min(error.lineno or 1, len(lines)) - 1
        if error.offset:
            reason = str(error.msg).rstrip(".?")
            column = error.offset - 1 + (shift if line == 0 else 0)
        else:  # so Python says that the text ended too early
            reason = "something is missing at the end"
            column = len(lines[line])
        message = f"this is not a Python expression: {reason}."
        raise ExpressionError(message, line, min(max(column, 0), len(lines[line]))) from None


def build_functions(
    expressions: Sequence[Expression], constants: Mapping[str, Any], filename: str
) -> list[Callable[[Any], Any]]:
    """Return a function of one record for each expression, after checking it.

    The functions say that they come from ``filename``, each from the line of its expression: Python shows
    and the compiler reads that line through `linecache`, where it stands as a lambda.
    """
    for expression in expressions:
        check_expression(expression.text, constants)
    in_order = sorted(range(len(expressions)), key=lambda index: expressions[index].line)
    source = _source_of([expressions[index] for index in in_order])
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"__builtins__": FUNCTIONS, "__name__": filename, "math": math, **constants}
    functions: dict[int, Callable[[Any], Any]] = {}
    for index, statement in zip(in_order, ast.parse(source, filename).body, strict=True):
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Lambda)
        code = compile(ast.Expression(statement.value), filename, "eval")
        function = eval(code, namespace)  # a checked lambda: evaluating it makes a function and calls nothing
        function.__name__ = function.__qualname__ = expressions[index].name
        functions[index] = function
    return [functions[index] for index in range(len(expressions))]


def _source_of(expressions: Sequence[Expression]) -> str:
    """Return a Python text that holds each expression, as a lambda, at the line where the job file has it."""
    lines: list[str] = []
    for expression in expressions:
        first, *others = f"lambda {RECORD}: ({expression.text})".split("\n")
        if len(lines) < expression.line:
            lines += [""] * (expression.line - 1 - len(lines)) + [first]
        else:  # a second expression on the same line
            lines[-1] += "; " + first
        lines += others
    return "\n".join(lines) + "\n"


class _Checker:
    def __init__(self, text: str, constants: Mapping[str, Any]) -> None:
        self._lines = text.split("\n")
        self._constants = constants

    def check(self, node: ast.AST) -> None:
        """Raise at the first part that is not allowed."""
        match node:
            case ast.Constant(value):
                if value is not None and not isinstance(value, bool | int | float | str):
                    raise self._error(node, f"a constant of type {type(value).__name__} is not allowed here.")
                return
            case ast.Name(name):
                self._check_name(node, name)
                return
            case ast.Attribute(ast.Name("math"), name):
                if name not in MATH_FUNCTIONS:
                    raise self._error(node, f"there is no math.{name}.", nearest(name, MATH_FUNCTIONS))
                return
            case ast.Attribute(value, name):
                self._check_attribute(node, value, name)
                return
            case ast.Subscript(value, index):
                self._check_subscript(node, value, index)
                return
            case ast.Call():
                self._check_call(node)
                return
            case ast.BinOp(op=ast.MatMult()):
                raise self._error(node, "the operator @ is not allowed here.")
            case ast.BinOp():
                pass
            case _ if isinstance(node, _OPERATORS):
                return
            case _ if not isinstance(node, _PLAIN):
                what = _NOT_ALLOWED.get(type(node), f"{type(node).__name__}")
                raise self._error(
                    node,
                    f"{what} is not allowed in a job file; a job in Python may have it (dataflare run x.py).",
                )
        for child in ast.iter_child_nodes(node):
            self.check(child)

    def _check_name(self, node: ast.Name, name: str) -> None:
        if name in self._constants:
            return
        if name == RECORD:
            raise self._error(node, f"{RECORD} is the whole record; name a column of it: {RECORD}.column.")
        if name in FUNCTIONS or name == "math":
            call = "math.sqrt" if name == "math" else name
            raise self._error(node, f"{name} is not a value; call {call}(...).")
        known = [RECORD, "math", *FUNCTIONS, *self._constants]
        raise self._error(
            node,
            f"the name {name!r} is not known here.",
            nearest(name, known),
            f"A column is {RECORD}.{name}; a constant stands in the table [constants].",
        )

    def _check_attribute(self, node: ast.Attribute, value: ast.expr, name: str) -> None:
        if name.startswith("__"):
            raise self._error(node, f"names with two underscores such as {name} are not allowed here.")
        if isinstance(value, ast.Name) and value.id == RECORD:
            return
        if name in METHODS:
            raise self._error(node, f"{name} is a method; call it: .{name}(...).")
        if name not in FIELDS:
            hint = nearest(name, METHODS | FIELDS)
            raise self._error(node, f"there is no field .{name} here.", hint, self._listing("Fields", FIELDS))
        self.check(value)

    def _check_subscript(self, node: ast.Subscript, value: ast.expr, index: ast.expr) -> None:
        if isinstance(value, ast.Name) and value.id == RECORD:
            if not (isinstance(index, ast.Constant) and isinstance(index.value, str)):
                raise self._error(node, f'a column is named by text: {RECORD}["name"].')
            return
        self.check(value)
        self.check(index)

    def _check_call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Name(name) if name in FUNCTIONS and name not in self._constants:
                pass
            case ast.Name(name):
                raise self._error(
                    node.func,
                    f"the function {name} is not allowed here.",
                    nearest(name, FUNCTIONS),
                    self._listing("Functions", FUNCTIONS)
                    + " Also math.sqrt and the other functions of math.",
                )
            case ast.Attribute(ast.Name("math"), name):
                self.check(node.func)
                if not callable(getattr(math, name)):
                    raise self._error(node.func, f"math.{name} is a number, not a function.")
            case ast.Attribute(ast.Name(name), column) if name == RECORD:
                raise self._error(node.func, f"{RECORD}.{column} is a column, which cannot be called.")
            case ast.Attribute(value, name) if name in METHODS:
                self.check(value)
            case ast.Attribute(_, name):
                raise self._error(
                    node.func,
                    f"the method {name} is not allowed here.",
                    nearest(name, METHODS),
                    self._listing("Methods", METHODS),
                )
            case _:
                raise self._error(node.func, "only a function that has a name can be called here.")
        if node.keywords:
            raise self._error(node, "functions are called without keywords here: write the value alone.")
        for argument in node.args:
            self.check(argument)

    @staticmethod
    def _listing(title: str, names: Any) -> str:
        return f"{title}: {', '.join(sorted(names))}."

    def _error(self, node: ast.AST, *parts: str) -> ExpressionError:
        assert isinstance(node, ast.expr)
        line = node.lineno - 1
        start = self._column(line, node.col_offset)
        same_line = node.end_lineno == node.lineno and node.end_col_offset is not None
        end = self._column(line, node.end_col_offset or 0) if same_line else len(self._lines[line])
        return ExpressionError(" ".join(part for part in parts if part), line, start, max(end, start + 1))

    def _column(self, line: int, offset_bytes: int) -> int:
        """Turn the UTF-8 offset of a node into a column of the text, before which a parenthesis was put."""
        if line == 0:
            offset_bytes -= 1
        return len(self._lines[line].encode()[: max(offset_bytes, 0)].decode(errors="ignore"))
