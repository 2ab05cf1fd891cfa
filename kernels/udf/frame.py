"""The state of lowering one call of one function, shared by expressions, calls, loops and statements.

``lower`` puts the parts together; each part only knows this frame.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import Constant, Group, Value, describe

__all__ = ["MAX_UNROLLED", "Environment", "Frame", "LoopExits", "walk"]

MAX_UNROLLED = 256
"""Longest constant collection that is unrolled or looked up by comparisons."""

Environment = dict[str, Value]


@dataclass(slots=True)
class LoopExits:
    """Where records leave one round of a loop: who they are, and the variables they leave with.

    ``fell_through`` names the variable that says who has not met a `break`, if the loop has an `else`.
    """

    fell_through: str | None = None
    stay: list[tuple[Node, Environment]] = field(default_factory=list)
    leave: list[tuple[Node, Environment]] = field(default_factory=list)


class Frame:
    """One call of one function: its variables, the records it runs for, and where it may be left.

    ``mask`` says for which records control is here, None for all.
    """

    def __init__(
        self, scope: Scope, environment: Environment, outer: Callable[[str], Value], mask: Node | None
    ) -> None:
        self.scope = scope
        self.graph = scope.graph
        self.environment = environment
        self.outer = outer
        self.mask = mask
        self.loops: list[LoopExits] = []
        self.returns: list[tuple[Node | None, Value]] = []

    def block(self, statements: list[ast.stmt]) -> bool:
        """Lower statements; return whether control can reach the end."""
        raise NotImplementedError

    def expression(self, node: ast.expr) -> Value:
        """Return the value of an expression."""
        raise NotImplementedError

    def call_function(self, function: FunctionType, args: list[Value], kwargs: dict[str, Value]) -> Value:
        """Return the result of a helper function, inlined."""
        raise NotImplementedError

    def call_local(self, node: Any, environment: Environment, outer: Callable[[str], Value]) -> Value:
        """Return the result of a function defined inside this one, with its parameters bound."""
        raise NotImplementedError

    def assign(self, target: ast.expr, value: Value) -> None:
        """Bind a name, or the names of a tuple, to a value."""
        if isinstance(target, ast.Name):
            self.environment[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            items = self.iterate(value, target)
            if any(isinstance(t, ast.Starred) for t in target.elts) or len(items) != len(target.elts):
                self.scope.fail(f"{len(items)} values are unpacked into {len(target.elts)} names", "")
            for element, item in zip(target.elts, items, strict=True):
                self.assign(element, item)
        else:
            self.scope.position = target
            self.scope.fail(
                "records and collections are read-only here", "return a new record, use local variables"
            )

    def iterate(self, value: Value, node: ast.AST) -> tuple[Value, ...]:
        """Return the items of a collection whose length is known now."""
        if isinstance(value, Group) and value.names is None:
            return value.items
        if isinstance(value, Constant) and isinstance(
            value.value, tuple | list | range | set | frozenset | dict
        ):
            return tuple(Constant(item) for item in value.value)
        self.scope.position = node
        self.scope.fail(
            f"{describe(value)} cannot be iterated over", "iterate over range() or a tuple of constants"
        )


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a statement without entering functions defined in it."""
    pending = list(ast.iter_child_nodes(node))
    while pending:
        current = pending.pop()
        yield current
        if not isinstance(current, ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(current))
