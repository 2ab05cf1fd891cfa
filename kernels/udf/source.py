"""Finds the syntax tree of a Python function: the exact lambda or ``def`` that a code object came from.

A lambda is told from its neighbours on the same line by the columns that its instructions carry (PEP 657), so
``filter(lambda r: r.a > 1).map(lambda r: {"b": r.a})`` needs no guessing. Functions without source text (typed
into the plain interactive prompt before Python 3.13, or made by ``exec`` without ``linecache``) are refused.
"""

from __future__ import annotations

import ast
import linecache
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from dataflare.kernels.errors import CompileError

__all__ = ["FunctionSource", "describe_function", "function_ast", "plain_function"]

FunctionNode = ast.Lambda | ast.FunctionDef
_MAX_FOUND = 4096
_MOST_ATTEMPTS = 20
_parsing = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class FunctionSource:
    """The syntax tree of one function and where it stands; line numbers in ``node`` are the file's."""

    node: FunctionNode
    filename: str
    first_line: int
    name: str

    def line_text(self, line: int) -> str:
        """Return the text of one line of the file (1-based), without its line end."""
        return linecache.getline(self.filename, line).rstrip("\n")


_found: dict[
    CodeType, FunctionSource
] = {}  # a code object's source is that of its definition, whatever comes later


def plain_function(fn: Any) -> FunctionType:
    """Return the plain Python function behind ``fn``: itself, or what a Numba dispatcher wraps.

    Raises
    ------
    CompileError
        If ``fn`` is not a function written in Python.
    """
    inner = getattr(fn, "py_func", fn)  # numba.njit and numba.vectorize keep the function there
    if isinstance(inner, FunctionType):
        return inner
    kind = "a builtin" if callable(fn) and not hasattr(fn, "__code__") else f"a {type(fn).__name__}"
    raise CompileError(
        f"{fn!r} is {kind}, not a Python function of one record. Wrap it: lambda r: ..., or use map_batches."
    )


def describe_function(fn: Any) -> str:
    """Return ``name (file:line)`` for messages and plans."""
    function = plain_function(fn)
    code = function.__code__
    name = "lambda" if function.__name__ == "<lambda>" else function.__name__
    return f"{name} ({code.co_filename}:{code.co_firstlineno})"


def function_ast(fn: Any) -> FunctionSource:
    """Return the syntax tree of a function.

    Raises
    ------
    CompileError
        If there is no source text, or it has changed since the function was defined.
    """
    function = plain_function(fn)
    code = function.__code__
    known = _found.get(code)
    if known is not None:
        return known
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        lines = _command_text(code)
    if not lines:
        raise CompileError(
            f"the source of {describe_function(fn)} is not available, so it cannot be compiled. "
            "Define the function in a file or a notebook cell."
        )
    source = _find(code, "".join(lines))
    if source is None:
        raise CompileError(
            f"{describe_function(fn)} is not in the file as it is now: the file changed after it was "
            "imported. Reload the module or restart Python."
        )
    if len(_found) >= _MAX_FOUND:
        _found.clear()
    _found[code] = source
    return source


def _command_text(code: CodeType) -> list[str]:
    """Return the program text of ``python -c text``, which linecache knows only from Python 3.13 on."""
    arguments = sys.orig_argv
    if code.co_filename != "<string>" or "-c" not in arguments[:-1]:
        return []
    return arguments[arguments.index("-c") + 1].splitlines(keepends=True)


def _find(code: CodeType, text: str) -> FunctionSource | None:
    try:
        tree = _parse(text)
    except SyntaxError:
        return None
    matches = [node for node in _functions(tree) if _matches(node, code)]
    if not matches:
        return None
    node = min(matches, key=_extent)
    return FunctionSource(node, code.co_filename, code.co_firstlineno, code.co_name)


@lru_cache(maxsize=32)
def _parse(text: str) -> ast.Module:
    """Return the tree of a file.

    CPython 3.11 counts the depth of trees for all threads together, and gives up where two of them make one at the
    same time (python/cpython#106905). Threads of ours wait for each other; those of others end soon.
    """
    with _parsing:
        for _ in range(_MOST_ATTEMPTS - 1):
            try:
                return ast.parse(text)
            except SystemError:
                continue
        return ast.parse(text)


def _functions(tree: ast.AST) -> Iterator[FunctionNode]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda | ast.FunctionDef):
            yield node


def _extent(node: FunctionNode) -> tuple[int, int]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return (node.end_lineno - node.lineno, node.end_col_offset - node.col_offset)


def _matches(node: FunctionNode, code: CodeType) -> bool:
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    if tuple(names) != code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return False
    if isinstance(node, ast.FunctionDef):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return node.name == code.co_name and first == code.co_firstlineno
    if code.co_name != "<lambda>" or node.lineno != code.co_firstlineno:
        return False
    body = node.body
    assert body.end_lineno is not None and body.end_col_offset is not None
    start, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    for line, end_line, column, end_column in code.co_positions():
        if line is None or end_line is None or column is None or end_column is None:
            continue
        if (line, column) == (end_line, end_column) or (column == 0 and end_column == 0):
            continue  # prologue instructions carry an empty range
        if not (start <= (line, column) and (end_line, end_column) <= end):
            return False
    return True
