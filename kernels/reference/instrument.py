"""Rewrites a user's function so that each operation in it means what ``semantics`` says.

The syntax tree of the function is copied; operators, conditions, calls, attributes and items become calls
of one `Operations` object, and the copy is compiled under the user's file name with the user's line
numbers: tracebacks, ``print`` and ``pdb`` show the user's file. Functions that it calls are rewritten
likewise. Globals, closure cells and defaults are read when the function is rewritten; what changes later
is not seen.
"""

from __future__ import annotations

import ast
import copy
import datetime
import decimal
import enum
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from dataflare.kernels.errors import CompileError
from dataflare.kernels.reference import semantics
from dataflare.kernels.reference.record import Record, cells_of, value_of
from dataflare.kernels.reference.values import family, lift
from dataflare.kernels.udf.capture import captured_names, resolve_name
from dataflare.kernels.udf.source import FunctionNode, describe_function, function_ast, plain_function

__all__ = ["instrument"]

_OPERATIONS = "__dataflare__"
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
}
_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~", ast.Not: "not"}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_LITERAL_NODES = (ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)
# Called as they are: they build or show, and compute nothing.
_NATIVE = frozenset({breakpoint, print, dict, enumerate, frozenset, list, reversed, set, tuple, zip})
_LIBRARY_CLASSES = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    decimal.Decimal,
    enum.Enum,
)


def instrument(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``fn`` rewritten to the semantics that every device shares.

    Raises
    ------
    CompileError
        If ``fn`` has no source text, or contains what no record function may.
    """
    return Operations().rewritten(plain_function(fn))


class Operations:
    """What rewritten code calls; one object for a function and all the functions that it calls."""

    binary = staticmethod(lambda symbol, a, b: semantics.BINARY_OPERATORS[symbol](a, b))
    unary = staticmethod(lambda symbol, a: semantics.UNARY_OPERATORS[symbol](a))
    compare = staticmethod(semantics.compare_chain)
    condition = staticmethod(semantics.condition)
    decides_and = staticmethod(semantics.decides_and)
    decides_or = staticmethod(semantics.decides_or)
    both = staticmethod(semantics.both)
    either = staticmethod(semantics.either)
    and_lazily = staticmethod(semantics.and_lazily)
    or_lazily = staticmethod(semantics.or_lazily)
    slice = slice

    def __init__(self) -> None:
        self._rewritten: dict[FunctionType, FunctionType] = {}

    @staticmethod
    def attribute(owner: Any, name: str) -> Any:
        """Return ``x.name``."""
        return getattr(owner, name) if isinstance(owner, Record) else semantics.attribute(owner, name)

    @staticmethod
    def element(owner: Any, index: Any) -> Any:
        """Return ``x[index]``."""
        return owner[index] if isinstance(owner, Record) else value_of(semantics.element(owner, index))

    @staticmethod
    def unpacked(owner: Any) -> Mapping[str, Any]:
        """Return what ``{**x}`` unpacks."""
        cells: Mapping[str, Any] = cells_of(owner) if isinstance(owner, Record) else owner
        return cells

    def method(self, owner: Any, name: str) -> Callable[..., Any]:
        """Return what ``x.name(...)`` calls."""
        if owner is None:
            return lambda *arguments, **named: None
        lifted = lift(owner)
        if family(lifted) in ("str", "time", "float") and not isinstance(owner, type):
            if name not in semantics.METHODS:
                raise CompileError(
                    f"the method {name}() has no meaning in a record function; use map_batches."
                )
            return partial(semantics.METHODS[name], lifted)
        found = getattr(owner, name)
        if isinstance(owner, ModuleType):
            return self.target(found)
        if isinstance(owner, Mapping) and name == "get":
            return partial(semantics.get, owner)
        if isinstance(owner, type | Mapping) or isinstance(found, FunctionType):
            return self.target(found) if isinstance(found, FunctionType) else found
        raise CompileError(f"{owner!r}.{name}() has no meaning in a record function; use map_batches.")

    def target(self, function: Any) -> Callable[..., Any]:
        """Return what a call of ``function`` calls: its definition, or the rewritten function."""
        if isinstance(function, partial):
            return partial(self.target(function.func), *function.args, **function.keywords)
        try:
            definition = semantics.FUNCTIONS.get(function)
        except TypeError:  # not hashable, so not a function that has a definition
            definition = None
        if definition is not None:
            return definition
        if isinstance(getattr(function, "py_func", function), FunctionType):
            return self.rewritten(plain_function(function))
        if _is_constructor(function) or function in _NATIVE:
            return function  # type: ignore[no-any-return]
        name = getattr(function, "__name__", repr(function))
        raise CompileError(f"{name}() has no meaning in a record function; use map_batches.")

    def rewritten(self, function: FunctionType) -> FunctionType:
        """Return the rewritten form of a Python function, made once."""
        if function.__globals__.get(_OPERATIONS) is self:
            return function
        if function not in self._rewritten:
            self._rewritten[function] = self._rewrite(function)
        return self._rewritten[function]

    def _rewrite(self, function: FunctionType) -> FunctionType:
        source = function_ast(function)
        node = copy.deepcopy(source.node)
        namespace = {**function.__globals__, **_cells(function), _OPERATIONS: self}
        rewriter = _Rewriter(describe_function(function))
        made = _compile(rewriter.function(node), source.filename, namespace)
        made.__defaults__ = _frozen(function.__defaults__)
        made.__kwdefaults__ = _frozen(function.__kwdefaults__)
        self._rewritten[function] = made  # before its callees, which may call it
        for name in (*captured_names(function.__code__)[0], *function.__code__.co_freevars):
            if name in namespace:
                namespace[name] = self._captured(resolve_name(function, name))
        return made

    def _captured(self, value: Any) -> Any:
        """Return a captured value as it is now; functions in their rewritten form."""
        if isinstance(value, FunctionType):
            return self.rewritten(value)
        return _frozen(value)


def _cells(function: FunctionType) -> dict[str, Any]:
    cells = {}
    for name in function.__code__.co_freevars:
        try:
            cells[name] = resolve_name(function, name)
        except KeyError:  # not bound yet
            continue
    return cells


def _frozen(value: Any) -> Any:
    return copy.deepcopy(value) if isinstance(value, list | dict | set | tuple | np.ndarray) else value


def _is_constructor(function: Any) -> bool:
    if not isinstance(function, type):
        return False
    return issubclass(function, _LIBRARY_CLASSES) or (
        issubclass(function, tuple) and hasattr(function, "_fields")
    )


def _compile(node: FunctionNode, filename: str, namespace: dict[str, Any]) -> FunctionType:
    if isinstance(node, ast.Lambda):
        tree = ast.fix_missing_locations(ast.Expression(node))
        made = eval(compile(tree, filename, "eval", dont_inherit=True), namespace)
    else:
        module = ast.fix_missing_locations(ast.Module([node], []))
        defined: dict[str, Any] = {}
        exec(compile(module, filename, "exec", dont_inherit=True), namespace, defined)
        made = defined[node.name]
    assert isinstance(made, FunctionType)
    return made


class _Rewriter(ast.NodeTransformer):
    """Turns operations into calls of `Operations`; everything made stands where the original stood.

    Arithmetic of literals, such as ``2**64 - 1``, stays what Python makes of it.
    """

    def __init__(self, described: str) -> None:
        self._described = described
        self._temporaries = 0
        self._in_iterable = False

    def function(self, node: FunctionNode) -> FunctionNode:
        """Rewrite the function itself: it gets its defaults later, its decorators have been applied."""
        node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
        node.args.kw_defaults = [None if d is None else ast.Constant(None) for d in node.args.kw_defaults]
        rewritten = self.visit(node)
        assert isinstance(rewritten, ast.Lambda | ast.FunctionDef)
        return rewritten

    def _call(self, at: ast.expr, operation: str, *arguments: ast.expr) -> ast.Call:
        name = ast.copy_location(ast.Name(_OPERATIONS, ast.Load()), at)
        attribute = ast.copy_location(ast.Attribute(name, operation, ast.Load()), at)
        return ast.copy_location(ast.Call(attribute, list(arguments), []), at)

    def _text(self, at: ast.expr, text: str) -> ast.Constant:
        return ast.copy_location(ast.Constant(text), at)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Leave out decorators and annotations: they were, or mean, nothing here."""
        node.decorator_list = []
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Leave out the annotation."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Rewrite ``x: int = v`` as ``x = v``; the annotation of a local is not evaluated."""
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Rewrite ``a + b``."""
        if type(node.op) not in _BINARY:
            raise self._refusal(node, "@ has no meaning in a record function")
        if _is_literal(node):
            return node
        symbol = self._text(node, _BINARY[type(node.op)])
        return self._call(node, "binary", symbol, self.visit(node.left), self.visit(node.right))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """Rewrite ``x += e`` as ``x = x + e``."""
        if not isinstance(node.target, ast.Name):
            raise self._refusal(node, "only a local variable can be assigned to")
        left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
        value = ast.copy_location(ast.BinOp(left, node.op, node.value), node.target)
        return ast.copy_location(ast.Assign([node.target], self.visit(value)), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Rewrite ``-a``, ``not a``; a sign before a number belongs to the number."""
        if isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return node
        return self._call(node, "unary", self._text(node, _UNARY[type(node.op)]), self.visit(node.operand))

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Rewrite ``a < b <= c``."""
        operands = [node.left, *node.comparators]
        for operation, (a, b) in zip(node.ops, pairwise(operands), strict=True):
            if isinstance(operation, ast.Eq | ast.NotEq) and (_is_none(a) or _is_none(b)):
                better = "is None" if isinstance(operation, ast.Eq) else "is not None"
                raise self._refusal(
                    node, f"comparing with None gives null for every record; write `{better}`"
                )
        symbols = ast.Tuple([self._text(node, _COMPARE[type(op)]) for op in node.ops], ast.Load())
        return self._call(
            node, "compare", ast.copy_location(symbols, node), *(self.visit(operand) for operand in operands)
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Rewrite ``a and b`` as ``t if decides_and(t := a) else both(t, b)``, and ``or`` likewise."""
        is_and = isinstance(node.op, ast.And)
        if self._in_iterable:  # of a comprehension, where Python allows no assignment
            return self._lazily(node, "and_lazily" if is_and else "or_lazily")
        decides, join = ("decides_and", "both") if is_and else ("decides_or", "either")
        result: ast.expr = self.visit(node.values[0])
        for value in node.values[1:]:
            self._temporaries += 1
            name = f"__dataflare_{self._temporaries}__"
            store = ast.copy_location(ast.Name(name, ast.Store()), node)
            load = ast.copy_location(ast.Name(name, ast.Load()), node)
            test = self._call(node, decides, ast.copy_location(ast.NamedExpr(store, result), node))
            result = ast.copy_location(
                ast.IfExp(test, load, self._call(node, join, load, self.visit(value))), node
            )
        return result

    def _lazily(self, node: ast.BoolOp, operation: str) -> ast.expr:
        result: ast.expr = self.visit(node.values[0])
        for value in node.values[1:]:
            nothing = ast.arguments([], [], None, [], [], None, [])
            later = ast.copy_location(ast.Lambda(nothing, self.visit(value)), node)
            result = self._call(node, operation, result, later)
        return result

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Rewrite ``for x in c if d`` of a comprehension; its conditions are conditions like all others."""
        before, self._in_iterable = self._in_iterable, True
        node.iter = self.visit(node.iter)
        self._in_iterable = before
        node.ifs = [self._call(test, "condition", self.visit(test)) for test in node.ifs]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """Rewrite ``a if c else b``."""
        node.test = self._call(node.test, "condition", self.visit(node.test))
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        """Rewrite ``if c:``."""
        return self._with_condition(node)

    def visit_While(self, node: ast.While) -> ast.AST:
        """Rewrite ``while c:``."""
        return self._with_condition(node)

    def _with_condition(self, node: ast.If | ast.While) -> ast.AST:
        test = node.test
        rewritten = self.generic_visit(node)
        assert isinstance(rewritten, ast.If | ast.While)
        rewritten.test = self._call(test, "condition", rewritten.test)
        return rewritten

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Rewrite ``f(x)`` and ``x.f(y)``."""
        if isinstance(node.func, ast.Attribute):
            name = self._text(node.func, node.func.attr)
            function = self._call(node.func, "method", self.visit(node.func.value), name)
        else:
            function = self._call(node.func, "target", self.visit(node.func))
        arguments = [self.visit(argument) for argument in node.args]
        keywords = [ast.keyword(k.arg, self.visit(k.value)) for k in node.keywords]
        return ast.copy_location(ast.Call(function, arguments, keywords), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Rewrite ``x.name``."""
        if not isinstance(node.ctx, ast.Load):
            raise self._refusal(node, "only a local variable can be assigned to")
        return self._call(node, "attribute", self.visit(node.value), self._text(node, node.attr))

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Rewrite ``x[i]`` and ``x[a:b]``."""
        if not isinstance(node.ctx, ast.Load):
            raise self._refusal(node, "only a local variable can be assigned to")
        index: ast.expr = self.visit(node.slice)
        if isinstance(index, ast.Slice):
            bounds = [bound or self._none(node) for bound in (index.lower, index.upper, index.step)]
            index = self._call(node, "slice", *bounds)
        return self._call(node, "element", self.visit(node.value), index)

    def _none(self, at: ast.expr) -> ast.expr:
        return ast.copy_location(ast.Constant(None), at)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        """Rewrite ``{**r, "k": v}``: what is unpacked may be a record."""
        node.values = [
            self._call(value, "unpacked", self.visit(value)) if key is None else self.visit(value)
            for key, value in zip(node.keys, node.values, strict=True)
        ]
        node.keys = [None if key is None else self.visit(key) for key in node.keys]
        return node

    def _refusal(self, node: ast.expr | ast.stmt, reason: str) -> CompileError:
        return CompileError(f"{self._described}, line {node.lineno}: {reason}.")


def _is_literal(node: ast.expr) -> bool:
    """Return whether an expression is arithmetic of literals that Python can do: then Python's result holds."""
    if not all(isinstance(n, _LITERAL_NODES) for n in ast.walk(node)):
        return False
    try:
        eval(compile(ast.Expression(node), "<literal>", "eval"))
    except (ArithmeticError, ValueError):
        return False
    return True


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
