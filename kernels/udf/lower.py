"""Lowers the syntax tree of a record function to the dataflow form: statements, control flow, calls.

Both sides of a branch are computed and joined by a select (if-conversion; Allen et al., 1983); loops carry their
variables and a flag that says which records are still inside. Helper functions are inlined. Types come out of the
lowering itself: loops are lowered again until the types of what they carry no longer change.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from types import FunctionType
from typing import Any

from dataflare.kernels.dtypes import BOOL
from dataflare.kernels.udf import arithmetic
from dataflare.kernels.udf.capture import resolve_name
from dataflare.kernels.udf.expressions import OPERATORS
from dataflare.kernels.udf.frame import Environment, walk
from dataflare.kernels.udf.invocations import bind
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.loops import RESULT, RETURNED, Loops
from dataflare.kernels.udf.scope import MAX_CALL_DEPTH, Scope
from dataflare.kernels.udf.source import function_ast, plain_function
from dataflare.kernels.udf.values import NULL, Constant, Group, LocalFunction, Value

__all__ = ["lower_function"]

_LIBRARIES = ("math", "numpy", "datetime", "decimal")


def lower_function(scope: Scope, fn: Any, record: Group, mask: Node | None = None) -> Value:
    """Return what ``fn`` gives for ``record``; ``mask`` says for which records it is called at all."""
    return _call_function(scope, plain_function(fn), [record], {}, mask)


def _call_function(
    scope: Scope, fn: FunctionType, args: list[Value], kwargs: dict[str, Value], mask: Node | None
) -> Value:
    source = function_ast(fn)
    if len(scope.sources) >= MAX_CALL_DEPTH:
        scope.fail(f"{source.name} calls itself, or calls go deeper than {MAX_CALL_DEPTH}", "write a loop")
    defaults: Environment = {}
    positional = [a.arg for a in (*source.node.args.posonlyargs, *source.node.args.args)]
    for name, value in zip(reversed(positional), reversed(fn.__defaults__ or ()), strict=False):
        defaults[name] = Constant(value)
    for name, value in (fn.__kwdefaults__ or {}).items():
        defaults[name] = Constant(value)

    def outer(name: str) -> Value:
        return Constant(resolve_name(fn, name))

    caller = scope.position
    environment = bind(scope, source.node, source.name, args, kwargs, defaults)
    scope.sources.append(source)
    scope.position = None
    try:
        result = _Lowering(scope, environment, outer, mask).run(source.node)
    finally:
        scope.sources.pop()
        scope.position = caller
    return result


class _Lowering(Loops):
    """One call of one function, whole."""

    def run(self, node: ast.Lambda | ast.FunctionDef) -> Value:
        """Return the value of the whole function."""
        if isinstance(node, ast.Lambda):
            return self.expression(node.body)
        if isinstance(node, ast.AsyncFunctionDef) or any(
            isinstance(n, ast.Yield | ast.YieldFrom) for n in walk(node)
        ):
            self.scope.fail("generators and coroutines cannot be compiled")
        if self.block(node.body):
            self.returns.append((self.mask, NULL))
        result = self.returns[-1][1]
        for mask, value in reversed(self.returns[:-1]):
            result = self.scope.join(mask or self.graph.true, value, result)
        return result

    def call_function(self, function: FunctionType, args: list[Value], kwargs: dict[str, Value]) -> Value:
        return _call_function(self.scope, function, args, kwargs, self.mask)

    def call_local(self, node: Any, environment: Environment, outer: Callable[[str], Value]) -> Value:
        return _Lowering(self.scope, environment, outer, self.mask).run(node)

    def block(self, statements: list[ast.stmt]) -> bool:
        """Lower statements; return whether control can reach the end."""
        for statement in statements:
            self.scope.position = statement
            method = getattr(self, f"_do_{type(statement).__name__}", None)
            if method is None:
                word = type(statement).__name__.removesuffix("Def").lower()
                self.scope.fail(f"a `{word}` statement cannot be compiled")
            if method(statement) is False:
                return False
        return True

    def _do_Pass(self, statement: ast.Pass) -> None:
        pass

    def _do_Expr(self, statement: ast.Expr) -> None:
        """Leave out what only has an effect; a device that has none refuses the program, plain Python runs it."""
        if not isinstance(statement.value, ast.Constant):
            self.scope.position = statement.value
            self.scope.note_effect()

    def _do_Assign(self, statement: ast.Assign) -> None:
        value = self.expression(statement.value)
        for target in statement.targets:
            self.assign(target, value)

    def _do_AnnAssign(self, statement: ast.AnnAssign) -> None:
        if statement.value is not None:
            self.assign(statement.target, self.expression(statement.value))

    def _do_AugAssign(self, statement: ast.AugAssign) -> None:
        if not isinstance(statement.target, ast.Name):
            self.scope.fail("records are read-only", "return a new record")
        left = self.name(statement.target.id)
        right = self.expression(statement.value)
        self.scope.position = statement
        operator = OPERATORS.get(type(statement.op)) or self.scope.fail("this operator is not available")
        self.environment[statement.target.id] = arithmetic.binary(self.scope, operator, left, right)

    def _do_FunctionDef(self, statement: ast.FunctionDef) -> None:
        self.environment[statement.name] = LocalFunction(statement, self.environment)

    def _do_Import(self, statement: ast.Import) -> None:
        for alias in statement.names:
            if alias.name not in _LIBRARIES:
                self.scope.fail(
                    f"`import {alias.name}` inside a record function is not available: only "
                    f"{', '.join(_LIBRARIES)} are",
                    "compute it in .map_batches(fn), which may use any library",
                )
            self.environment[alias.asname or alias.name] = Constant(importlib.import_module(alias.name))

    def _do_Return(self, statement: ast.Return) -> bool:
        value = NULL if statement.value is None else self.expression(statement.value)
        if self.loops:
            environment = {**self.environment, RESULT: value, RETURNED: Constant(True)}
            self.loops[-1].leave.append((self.mask or self.graph.true, environment))
        else:
            self.returns.append((self.mask, value))
        return False

    def _do_Break(self, statement: ast.Break) -> bool:
        exits = self.loops[-1]
        if exits.fell_through is not None:
            self.environment[exits.fell_through] = Constant(False)
        exits.leave.append((self.mask or self.graph.true, self.environment))
        return False

    def _do_Continue(self, statement: ast.Continue) -> bool:
        self.loops[-1].stay.append((self.mask or self.graph.true, self.environment))
        return False

    def _do_If(self, statement: ast.If) -> bool:
        condition = self.scope.truth(self.expression(statement.test))
        if condition.is_const:
            return self.block(statement.body if condition.attr else statement.orelse)
        before, mask = self.environment, self.mask
        then_mask = self.graph.both(mask, condition)
        else_mask = self.graph.both(mask, self.graph.negate(condition))
        self.environment, self.mask = dict(before), then_mask
        then_falls = self.block(statement.body)
        then_environment, then_end = self.environment, self.mask
        self.environment, self.mask = dict(before), else_mask
        else_falls = self.block(statement.orelse)
        if then_falls and else_falls:
            self.scope.position = statement
            self.environment = self.merge(condition, then_environment, self.environment)
            if then_end is then_mask and self.mask is else_mask:
                self.mask = mask
            else:
                self.mask = self.graph.op(
                    "or", BOOL, then_end or self.graph.true, self.mask or self.graph.true
                )
        elif then_falls:
            self.environment, self.mask = then_environment, then_end
        return then_falls or else_falls
