"""Lowers calls: of library functions, methods, helpers (inlined), local functions, and named tuples."""

from __future__ import annotations

import ast
from types import FunctionType, ModuleType
from typing import Any

from dataflare.kernels.udf import calls, sequences
from dataflare.kernels.udf.expressions import Expressions
from dataflare.kernels.udf.frame import Environment
from dataflare.kernels.udf.scope import DEFAULT_WAY_OUT, MAX_CALL_DEPTH, Scope
from dataflare.kernels.udf.source import FunctionSource
from dataflare.kernels.udf.values import Constant, Group, LocalFunction, Value, describe

__all__ = ["Invocations", "bind"]


def bind(
    scope: Scope,
    node: ast.Lambda | ast.FunctionDef,
    name: str,
    args: list[Value],
    kwargs: dict[str, Value],
    defaults: Environment,
) -> Environment:
    """Return the variables that a call gives a function's parameters."""
    spec = node.args
    if spec.vararg or spec.kwarg:
        scope.fail(f"{name} takes *args or **kwargs", "name its parameters")
    positional = [a.arg for a in (*spec.posonlyargs, *spec.args)]
    if len(args) > len(positional):
        scope.fail(f"{name} takes {len(positional)} arguments and got {len(args)}", "")
    environment: Environment = dict(zip(positional, args, strict=False))
    for key, value in kwargs.items():
        if key in environment or key not in (*positional, *(a.arg for a in spec.kwonlyargs)):
            scope.fail(f"{name} has no free parameter called {key}", "")
        environment[key] = value
    for parameter in (*positional, *(a.arg for a in spec.kwonlyargs)):
        if parameter not in environment:
            if parameter not in defaults:
                scope.fail(
                    f"{name} is called without its argument {parameter}", "give the parameter a default"
                )
            environment[parameter] = defaults[parameter]
    return environment


class Invocations(Expressions):
    """Expressions and calls."""

    def _of_Call(self, node: ast.Call) -> Value:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            self.scope.fail(
                "calls with *args or **kwargs cannot be compiled", "pass the arguments one by one"
            )
        if isinstance(node.func, ast.Attribute):
            owner = self.expression(node.func.value)
            is_library = isinstance(owner, Constant) and isinstance(owner.value, ModuleType | type)
            is_table = node.func.attr == "get" and sequences.constant_table(owner) is not None
            if (
                not is_library
                and (is_table or not isinstance(owner, Group))
                and not self._holds_function(owner, node.func.attr)
            ):
                args = [self.expression(a) for a in node.args]
                self.scope.position = node
                if node.keywords:
                    self.scope.fail(f"the method .{node.func.attr}() with keyword arguments is not available")
                return calls.call_method(self.scope, owner, node.func.attr, args)
        function = self.expression(node.func)
        args = [self.expression(a) for a in node.args]
        kwargs = {k.arg: self.expression(k.value) for k in node.keywords if k.arg is not None}
        self.scope.position = node
        return self._call(function, args, kwargs)

    def _holds_function(self, owner: Value, name: str) -> bool:
        if not isinstance(owner, Constant) or isinstance(
            owner.value, str | int | float | dict | tuple | list
        ):
            return False
        return isinstance(getattr(owner.value, name, None), FunctionType) and not isinstance(
            owner.value, type
        )

    def _call(self, function: Value, args: list[Value], kwargs: dict[str, Value]) -> Value:
        scope = self.scope
        if isinstance(function, LocalFunction):
            return self._call_local(function, args, kwargs)
        if not isinstance(function, Constant):
            scope.fail(f"{describe(function)} is not a function", "")
        target = function.value
        known = calls.call_object(scope, target, args, kwargs)
        if known is not None:
            return known
        if target is dict:
            return (
                Group(tuple(kwargs.values()), tuple(kwargs))
                if not args
                else scope.fail("write dict(name=value)")
            )
        if isinstance(target, type) and issubclass(target, tuple) and hasattr(target, "_fields"):
            return self._named_tuple(target, args, kwargs)
        if target is print:
            scope.fail("print() cannot be compiled", 'run with device="python" to print, or remove it')
        inner = getattr(target, "py_func", target)
        if isinstance(inner, FunctionType):
            return self.call_function(inner, args, kwargs)
        name = getattr(target, "__qualname__", None) or repr(target)
        module = getattr(target, "__module__", None)
        if module not in (None, "builtins"):
            name = f"{module}.{name}"
        scope.fail(f"the function {name} is not available in record functions", DEFAULT_WAY_OUT)

    def _named_tuple(self, target: Any, args: list[Value], kwargs: dict[str, Value]) -> Value:
        fields: dict[str, Value] = dict(zip(target._fields, args, strict=False))
        fields.update(kwargs)
        for name, default in target._field_defaults.items():
            fields.setdefault(name, Constant(default))
        missing = [name for name in target._fields if name not in fields]
        if missing or len(fields) != len(target._fields) or len(args) > len(target._fields):
            self.scope.fail(
                f"{target.__name__} has the fields {', '.join(target._fields)}", "give each a value"
            )
        return Group(tuple(fields[name] for name in target._fields), tuple(target._fields))

    def _call_local(self, function: LocalFunction, args: list[Value], kwargs: dict[str, Value]) -> Value:
        scope = self.scope
        node = function.node
        if len(scope.sources) >= MAX_CALL_DEPTH:
            scope.fail(f"calls go deeper than {MAX_CALL_DEPTH}", "write a loop")
        name = "the inner lambda" if isinstance(node, ast.Lambda) else node.name
        spec = node.args
        positional = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        defaults: Environment = {}
        for parameter, default in zip(reversed(positional), reversed(spec.defaults), strict=False):
            defaults[parameter] = self.expression(default)
        for argument, default_node in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            if default_node is not None:
                defaults[argument.arg] = self.expression(default_node)
        bound = bind(scope, node, name, args, kwargs, defaults)
        source = scope.sources[-1]
        scope.sources.append(FunctionSource(node, source.filename, node.lineno, name))
        position = scope.position
        enclosing = function.environment
        outer = self.outer

        def look_up(variable: str) -> Value:
            return enclosing[variable] if variable in enclosing else outer(variable)

        try:
            return self.call_local(node, bound, look_up)
        finally:
            scope.sources.pop()
            scope.position = position
