"""The syntax tree that is found is that of the very function, whatever stands beside it."""

from __future__ import annotations

import ast
import linecache
import subprocess
import sys
from types import FunctionType
from typing import Any

import pytest

from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.source import describe_function, function_ast


def text_of(fn: Any) -> str:
    return ast.unparse(function_ast(fn).node)


def test_lambdas_on_one_line_are_told_apart() -> None:
    pair = [lambda r: r.a + 1, lambda r: r.a + 2]
    assert text_of(pair[0]) == "lambda r: r.a + 1"
    assert text_of(pair[1]) == "lambda r: r.a + 2"


def test_a_lambda_inside_a_lambda_is_not_mistaken_for_it() -> None:
    outer = lambda k: lambda r: r.a * k  # noqa: E731
    assert text_of(outer(2)) == "lambda r: r.a * k"
    assert text_of(outer) == "lambda k: lambda r: r.a * k"


def test_a_lambda_over_several_lines() -> None:
    fn = lambda r: (  # noqa: E731
        r.a + 1
    )
    assert text_of(fn) == "lambda r: r.a + 1"


def test_a_decorated_function_is_found_at_its_definition() -> None:
    def keep(function: FunctionType) -> FunctionType:
        return function

    @keep
    def double(r: Any) -> Any:
        return r.a * 2

    source = function_ast(double)
    assert source.name == "double"
    assert isinstance(source.node, ast.FunctionDef)


def test_the_line_is_that_of_the_file() -> None:
    fn = lambda r: r.a  # noqa: E731
    source = function_ast(fn)
    assert "fn = lambda r: r.a" in source.line_text(source.first_line)
    assert describe_function(fn) == f"lambda ({__file__}:{source.first_line})"


def test_text_without_a_file_is_refused_with_the_way_out() -> None:
    namespace: dict[str, Any] = {}
    exec("f = lambda r: r.a", namespace)
    with pytest.raises(CompileError, match="Define the function in a file or a notebook cell"):
        function_ast(namespace["f"])


def test_text_registered_with_linecache_is_enough() -> None:
    name = "<made for this test>"
    text = "f = lambda r: r.made\n"
    linecache.cache[name] = (len(text), None, [text], name)
    namespace: dict[str, Any] = {}
    exec(compile(text, name, "exec"), namespace)
    assert text_of(namespace["f"]) == "lambda r: r.made"


def test_a_program_given_on_the_command_line_is_found() -> None:
    program = (
        "from dataflare.kernels.udf.source import function_ast; import ast; "
        "print(ast.unparse(function_ast(lambda r: r.x > 1).node))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "lambda r: r.x > 1"


def test_a_changed_file_is_noticed(tmp_path: Any) -> None:
    path = tmp_path / "changing.py"
    path.write_text("f = lambda r: r.a\n")
    namespace: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    path.write_text("something_else = 1\n")
    with pytest.raises(CompileError, match="the file changed after it was imported"):
        function_ast(namespace["f"])


@pytest.mark.parametrize("not_a_function", [abs, 3, "r.a > 1"])
def test_what_is_not_a_python_function_is_refused(not_a_function: Any) -> None:
    with pytest.raises(CompileError, match="not a Python function of one record"):
        function_ast(not_a_function)


def test_a_parser_that_another_thread_has_confused_is_asked_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "confused.py"
    path.write_text("f = lambda r: r.confused\n")
    namespace: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    parse, calls = ast.parse, []

    def confused(text: str) -> ast.Module:
        calls.append(text)
        if len(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=90, after=65)")
        return parse(text)

    monkeypatch.setattr(ast, "parse", confused)
    found = function_ast(namespace["f"])
    monkeypatch.undo()
    assert ast.unparse(found.node) == "lambda r: r.confused"
    assert len(calls) == 3
