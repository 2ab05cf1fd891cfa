"""Expressions of job files: what is allowed, what is refused and how, and the functions they become."""

from __future__ import annotations

import ast
import linecache
from types import SimpleNamespace

import pytest

from dataflare.cli.expressions import Expression, ExpressionError, build_functions, check_expression
from dataflare.kernels.udf.source import describe_function, function_ast

CONSTANTS = {"late": 15, "names": ("a", "b")}

ALLOWED = [
    "r.a > late",
    "r['two words'] + 1",
    "None if r.a is None else r.b / (r.a / 60)",
    "max(r.a, 0) + abs(-r.b) - round(r.c, 2)",
    "math.sqrt(r.x ** 2 + r.y ** 2) < math.pi",
    "r.name in ('a', 'b') or r.name in names",
    "not (0 <= r.a < 10) and r.b != r.c",
    "r.name.startswith('N') and len(r.name) == 6",
    "r.name[1:3] == 'ab'",
    "r.seen.year >= 2013 and r.seen.weekday() == 0",
    "(r.left - r.arrived).total_seconds() / 60",
    "~r.a & 7 | (r.b << 2) ^ 1",
    "\n  r.a\n  and r.b\n",
    "any((r.a > 1, r.b > 1)) and sum([r.a, r.b]) > 3",
    "True",
]

REFUSED = [
    ("open('x')", "the function open is not allowed here", "open"),
    ("eval(r.a)", "the function eval is not allowed here", "eval"),
    ("__import__('os')", "the function __import__ is not allowed here", "__import__"),
    ("roud(r.a)", "Did you mean 'round'", "roud"),
    ("r", "name a column of it: r.column", "r"),
    ("r.a + r", "name a column of it", "r"),
    ("r.__class__", "names with two underscores", "r.__class__"),
    ("r.a.__class__.__mro__", "names with two underscores", "r.a.__class__.__mro__"),
    ("().__class__", "names with two underscores", "().__class__"),
    ("r['a'].__doc__", "names with two underscores", "r['a'].__doc__"),
    ("math.__loader__", "there is no math.__loader__", "math.__loader__"),
    ("math.sqr(r.a)", "Did you mean 'sqrt'", "math.sqr"),
    ("math.pi()", "math.pi is a number", "math.pi"),
    ("math", "math is not a value; call math.sqrt(...)", "math"),
    ("latee + 1", "the name 'latee' is not known here. Did you mean 'late'", "latee"),
    ("r.a.foo", "there is no field .foo here", "r.a.foo"),
    ("r.a.upper", "upper is a method; call it: .upper(...)", "r.a.upper"),
    ("r.a()", "r.a is a column, which cannot be called", "r.a"),
    ("r.a.encode()", "the method encode is not allowed here", "r.a.encode"),
    ("r.a.uper()", "Did you mean 'upper'", "r.a.uper"),
    ("(lambda: 1)()", "only a function that has a name", "lambda: 1"),
    ("late(3)", "the function late is not allowed here", "late"),
    ("r[0]", "a column is named by text", "r[0]"),
    ("r[r.a]", "a column is named by text", "r[r.a]"),
    ("[x for x in r.a]", "a comprehension is not allowed in a job file", "[x for x in r.a]"),
    ("sorted(r.a)", "the function sorted is not allowed here", "sorted"),
    ("max(x for x in r.a)", "a generator is not allowed", "(x for x in r.a)"),
    ("(y := r.a)", "an assignment (:=) is not allowed", "y := r.a"),
    ("f'{r.a}'", "an f-string is not allowed", "f'{r.a}'"),
    ("{'a': r.a}", "a dict is not allowed", "{'a': r.a}"),
    ("lambda r: r.a", "a lambda is not allowed", "lambda r: r.a"),
    ("max(*r.a)", "a starred value is not allowed", "*r.a"),
    ("round(r.a, ndigits=2)", "without keywords", "round(r.a, ndigits=2)"),
    ("r.a @ r.b", "the operator @ is not allowed", "r.a @ r.b"),
    ("r.a == b'x'", "a constant of type bytes", "b'x'"),
    ("r.a + 2j", "a constant of type complex", "2j"),
    ("r.a == ...", "a constant of type ellipsis", "..."),
    ("r.größe > 1 and nein", "the name 'nein' is not known", "nein"),
    ("r.a and\n  eval(r.b)", "the function eval is not allowed", "eval"),
]


@pytest.mark.parametrize("text", ALLOWED)
def test_allowed(text: str) -> None:
    check_expression(text, CONSTANTS)


@pytest.mark.parametrize(("text", "message", "marked"), REFUSED)
def test_refused_with_the_place(text: str, message: str, marked: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        check_expression(text, CONSTANTS)
    assert message in str(caught.value)
    error = caught.value
    assert text.split("\n")[error.line][error.column : error.end_column] == marked


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("r.a >", (0, 5)),
        ("  r.a if", (0, 8)),
        ("r.a + (1", (0, 6)),
        ("r.a) + (r.b", (0, 3)),
        ("r.a\n  ++ * 2", (1, 5)),
        ("  r.a 1", (0, 6)),
        ("import os", (0, 0)),
    ],
)
def test_what_is_not_python_says_where(text: str, place: tuple[int, int]) -> None:
    with pytest.raises(ExpressionError, match="this is not a Python expression") as caught:
        check_expression(text, {})
    assert (caught.value.line, caught.value.column) == place


@pytest.mark.parametrize("text", ["", "  \n "])
def test_an_empty_expression(text: str) -> None:
    with pytest.raises(ExpressionError, match="the expression is empty"):
        check_expression(text, {})


def test_functions_compute_and_know_their_lines() -> None:
    expressions = [
        Expression("r.b * 2", "twice", 7),
        Expression("r.a > late", "filter", 3),
        Expression("\nr.a\n + r.b", "total", 4),
        Expression("r.c", "same_line", 7),
    ]
    functions = build_functions(expressions, CONSTANTS, "job_of_test.toml")
    record = SimpleNamespace(a=20, b=5, c="x")
    assert [function(record) for function in functions] == [10, True, 25, "x"]
    assert [describe_function(function) for function in functions] == [
        "twice (job_of_test.toml:7)",
        "filter (job_of_test.toml:3)",
        "total (job_of_test.toml:4)",
        "same_line (job_of_test.toml:7)",
    ]


def test_the_compiler_finds_each_functions_own_tree() -> None:
    texts = ["r.a + 1", "r.a + 2", "(r.a\n + 3)", "r.a + 4", "5"]
    expressions = [
        Expression(text, f"c{i}", line)
        for i, (text, line) in enumerate(zip(texts, [2, 2, 2, 3, 3], strict=True))
    ]
    functions = build_functions(expressions, {}, "shared_line_of_test.toml")
    found = [ast.unparse(function_ast(function).node.body) for function in functions]
    assert found == ["r.a + 1", "r.a + 2", "r.a + 3", "r.a + 4", "5"]


def test_the_line_is_shown_by_what_shows_source() -> None:
    build_functions([Expression("r.a > 1", "filter", 5)], {}, "shown_of_test.toml")
    linecache.checkcache("shown_of_test.toml")
    assert linecache.getline("shown_of_test.toml", 5) == "lambda r: (r.a > 1)\n"


def test_functions_reach_no_builtin_but_the_allowed() -> None:
    (function,) = build_functions([Expression("abs(r.a)", "f", 1)], {}, "builtins_of_test.toml")
    assert "open" not in function.__builtins__
    assert "__import__" not in function.__builtins__


def test_an_expression_that_was_not_checked_is_refused_when_functions_are_made() -> None:
    with pytest.raises(ExpressionError):
        build_functions([Expression("open('x')", "f", 1)], {}, "unchecked_of_test.toml")
