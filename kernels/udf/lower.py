"""Lowers the syntax tree of a record function to the dataflow form: statements, control flow, calls.

Both sides of a branch are computed and joined by a select (if-conversion; Allen et al., 1983); loops carry their
variables and a flag that says which records are still inside. Helper functions are inlined. Types come out of the
lowering itself: loops are lowered again until the types of what they carry no longer change.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from dataflare.kernels.dtypes import BOOL
from dataflare.kernels.errors import ColumnNotFoundError, nearest
from dataflare.kernels.udf import arithmetic, calls, comparison, temporal
from dataflare.kernels.udf.capture import resolve_name
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.scope import DEFAULT_WAY_OUT, Scope
from dataflare.kernels.udf.source import FunctionSource, function_ast, plain_function
from dataflare.kernels.udf.values import (
    NULL,
    Constant,
    Group,
    JoinError,
    LocalFunction,
    Scalar,
    Shape,
    Text,
    Unbound,
    UnboundShape,
    Value,
    describe,
    flatten,
    merge_shapes,
    shape_of,
    unflatten,
)

__all__ = ["lower_function"]

_MAX_CALL_DEPTH = 32
_MAX_UNROLLED = 256
_OPERATORS: dict[type[ast.operator], str] = {
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
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_RETURNED = "$returned"
_RESULT = "$result"
_LIBRARIES = ("math", "numpy", "datetime", "decimal")

Environment = dict[str, Value]


@dataclass(slots=True)
class _LoopExits:
    """Where records leave one round of a loop: who they are, and the variables they leave with."""

    stay: list[tuple[Node, Environment]] = field(default_factory=list)
    leave: list[tuple[Node, Environment]] = field(default_factory=list)


def lower_function(scope: Scope, fn: Any, record: Group, mask: Node | None = None) -> Value:
    """Return what ``fn`` gives for ``record``; ``mask`` says for which records it is called at all."""
    return _call_function(scope, plain_function(fn), [record], {}, mask)


def _call_function(
    scope: Scope, fn: FunctionType, args: list[Value], kwargs: dict[str, Value], mask: Node | None
) -> Value:
    source = function_ast(fn)
    if len(scope.sources) >= _MAX_CALL_DEPTH:
        scope.fail(f"{source.name} calls itself, or calls go deeper than {_MAX_CALL_DEPTH}", "write a loop")
    defaults: Environment = {}
    positional = [a.arg for a in (*source.node.args.posonlyargs, *source.node.args.args)]
    for name, value in zip(reversed(positional), reversed(fn.__defaults__ or ()), strict=False):
        defaults[name] = Constant(value)
    for name, value in (fn.__kwdefaults__ or {}).items():
        defaults[name] = Constant(value)

    def outer(name: str) -> Value:
        return Constant(resolve_name(fn, name))

    caller = scope.position
    environment = _bind(scope, source.node, source.name, args, kwargs, defaults)
    scope.sources.append(source)
    scope.position = None
    try:
        result = _Lowering(scope, environment, outer, mask).run(source.node)
    finally:
        scope.sources.pop()
        scope.position = caller
    return result


def _bind(
    scope: Scope,
    node: ast.Lambda | ast.FunctionDef,
    name: str,
    args: list[Value],
    kwargs: dict[str, Value],
    defaults: Environment,
) -> Environment:
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


class _Lowering:
    """Lowers one call of one function."""

    def __init__(
        self, scope: Scope, environment: Environment, outer: Callable[[str], Value], mask: Node | None
    ) -> None:
        self.scope = scope
        self.graph = scope.graph
        self.environment = environment
        self.outer = outer
        self.mask = mask
        self.loops: list[_LoopExits] = []
        self.returns: list[tuple[Node | None, Value]] = []

    def run(self, node: ast.Lambda | ast.FunctionDef) -> Value:
        """Return the value of the whole function."""
        if isinstance(node, ast.Lambda):
            return self.expression(node.body)
        if isinstance(node, ast.AsyncFunctionDef) or any(
            isinstance(n, ast.Yield | ast.YieldFrom) for n in _walk(node)
        ):
            self.scope.fail("generators and coroutines cannot be compiled")
        if self.block(node.body):
            self.returns.append((self.mask, NULL))
        result = self.returns[-1][1]
        for mask, value in reversed(self.returns[:-1]):
            result = self.scope.join(mask or self.graph.true, value, result)
        return result

    # ----------------------------------------------------------------------------------- statements

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
        if not isinstance(statement.value, ast.Constant):
            self.scope.position = statement.value
            self.scope.fail(
                "a record function has no effects: the value of this expression is dropped",
                'to print or step through it, run with device="python"; else remove it',
            )

    def _do_Assign(self, statement: ast.Assign) -> None:
        value = self.expression(statement.value)
        for target in statement.targets:
            self._assign(target, value)

    def _do_AnnAssign(self, statement: ast.AnnAssign) -> None:
        if statement.value is not None:
            self._assign(statement.target, self.expression(statement.value))

    def _do_AugAssign(self, statement: ast.AugAssign) -> None:
        if not isinstance(statement.target, ast.Name):
            self.scope.fail("records are read-only", "return a new record")
        left = self._name(statement.target.id)
        right = self.expression(statement.value)
        self.scope.position = statement
        operator = _OPERATORS.get(type(statement.op)) or self.scope.fail("this operator is not available")
        self.environment[statement.target.id] = arithmetic.binary(self.scope, operator, left, right)

    def _assign(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self.environment[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            items = self._iterate(value, target)
            if any(isinstance(t, ast.Starred) for t in target.elts) or len(items) != len(target.elts):
                self.scope.fail(f"{len(items)} values are unpacked into {len(target.elts)} names", "")
            for element, item in zip(target.elts, items, strict=True):
                self._assign(element, item)
        else:
            self.scope.position = target
            self.scope.fail(
                "records and collections are read-only here", "return a new record, use local variables"
            )

    def _do_FunctionDef(self, statement: ast.FunctionDef) -> None:
        self.environment[statement.name] = LocalFunction(statement, self.environment)

    def _do_Import(self, statement: ast.Import) -> None:
        for alias in statement.names:
            if alias.name not in _LIBRARIES:
                self.scope.fail(f"import {alias.name} inside a record function", "import it outside")
            self.environment[alias.asname or alias.name] = Constant(importlib.import_module(alias.name))

    def _do_Return(self, statement: ast.Return) -> bool:
        value = NULL if statement.value is None else self.expression(statement.value)
        if self.loops:
            environment = {**self.environment, _RESULT: value, _RETURNED: Constant(True)}
            self.loops[-1].leave.append((self.mask or self.graph.true, environment))
        else:
            self.returns.append((self.mask, value))
        return False

    def _do_Break(self, statement: ast.Break) -> bool:
        self.loops[-1].leave.append((self.mask or self.graph.true, self.environment))
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
            self.environment = self._merge(condition, then_environment, self.environment)
            if then_end is then_mask and self.mask is else_mask:
                self.mask = mask
            else:
                self.mask = self.graph.op(
                    "or", BOOL, then_end or self.graph.true, self.mask or self.graph.true
                )
        elif then_falls:
            self.environment, self.mask = then_environment, then_end
        return then_falls or else_falls

    def _merge(self, condition: Node, then: Environment, otherwise: Environment) -> Environment:
        merged: Environment = {}
        for name in dict.fromkeys((*then, *otherwise)):
            a, b = then.get(name, Unbound()), otherwise.get(name, Unbound())
            if isinstance(a, Unbound) or isinstance(b, Unbound):
                merged[name] = Unbound()
                continue
            if a is b:
                merged[name] = a
                continue
            try:
                merged[name] = self.scope.join(condition, a, b)
            except TypeError:
                if name not in self._names_read_later:
                    merged[name] = Unbound()
                    continue
                raise
        return merged

    @property
    def _names_read_later(self) -> set[str]:
        """All names that the function reads anywhere: a join that nobody reads may be impossible."""
        node = self.scope.sources[-1].node
        return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}

    # ---------------------------------------------------------------------------------------- loops

    def _do_While(self, statement: ast.While) -> bool:
        if statement.orelse:
            self.scope.fail("`while ... else` cannot be compiled", "set a flag before `break`")
        first = self.expression(statement.test)
        if isinstance(first, Constant) and not first.value:
            return True
        endless = isinstance(first, Constant) and isinstance(statement.test, ast.Constant)

        def enter() -> Node:
            return self.scope.truth(self.expression(statement.test))

        return self._loop(statement, (), enter, lambda environment: environment, runs_once=endless)

    def _do_For(self, statement: ast.For) -> bool:
        if statement.orelse:
            self.scope.fail("`for ... else` cannot be compiled", "set a flag before `break`")
        call = statement.iter
        if isinstance(call, ast.Call) and self._is_range(call):
            return self._for_range(statement, [self.expression(a) for a in call.args])
        items = self._iterate(self.expression(statement.iter), statement.iter)
        if len(items) > _MAX_UNROLLED:
            self.scope.fail(f"a loop over {len(items)} constants is too long to unroll", "use range()")
        return self._unrolled(statement, items)

    def _is_range(self, call: ast.Call) -> bool:
        if not isinstance(call.func, ast.Name):
            return False
        value = self._name(call.func.id)
        return isinstance(value, Constant) and value.value is range and not call.keywords

    def _unrolled(self, statement: ast.For, items: tuple[Value, ...]) -> bool:
        """Lower a loop over constants round by round; `break` and `continue` become masks."""
        entry = self.mask
        leave: list[tuple[Node, Environment]] = []
        for item in items:
            exits = _LoopExits()
            self.loops.append(exits)
            self._assign(statement.target, item)
            if self.block(statement.body):
                exits.stay.append((self.mask or self.graph.true, self.environment))
            self.loops.pop()
            leave += exits.leave
            if not exits.stay:
                break
            self.mask, self.environment = self._gather(statement, exits.stay)
        else:
            leave.append((self.mask or self.graph.true, self.environment))
        if len(leave) == 1 and not any(_RETURNED in environment for _, environment in leave):
            self.mask, self.environment = leave[0][0], leave[0][1]
            if self.mask is self.graph.true:
                self.mask = None
            return True
        for _, environment in leave:
            environment.setdefault(_RETURNED, Constant(False))
        mask, self.environment = self._gather(statement, leave)
        self.mask = entry if mask is self.graph.true else mask
        return self._after_returns()

    def _gather(self, statement: ast.stmt, exits: list[tuple[Node, Environment]]) -> tuple[Node, Environment]:
        """Join the environments of several places that control comes from."""
        self.scope.position = statement
        mask, environment = exits[-1]
        for other_mask, other in reversed(exits[:-1]):
            result = environment.get(_RESULT, other.get(_RESULT))
            environment = self._merge(
                other_mask,
                other if _RESULT in other or result is None else {**other, _RESULT: result},
                environment if _RESULT in environment or result is None else {**environment, _RESULT: result},
            )
            mask = self.graph.op("or", BOOL, other_mask, mask)
        return mask, environment

    def _for_range(self, statement: ast.For, arguments: list[Value]) -> bool:
        if not 1 <= len(arguments) <= 3:
            self.scope.fail("range() takes one to three integers", "")
        start, stop = (Constant(0), arguments[0]) if len(arguments) == 1 else (arguments[0], arguments[1])
        step = arguments[2] if len(arguments) == 3 else Constant(1)
        if not isinstance(step, Constant) or not isinstance(step.value, int) or step.value == 0:
            self.scope.fail("the step of range() must be a constant integer, not 0")
        for bound in (start, stop):
            operand = self.scope.operand(bound)
            if not isinstance(operand, Scalar) or not operand.type.is_integer:
                self.scope.fail(f"range() needs integers and got {describe(bound)}", "use int(...)")
        counter = f"$counter{statement.lineno}_{statement.col_offset}"
        self.environment[counter] = start
        known = isinstance(start, Constant) and isinstance(stop, Constant)
        rounds = len(range(start.value, stop.value, step.value)) if known else 0  # type: ignore[union-attr]
        if known and rounds == 0:
            return True
        order = "<" if step.value > 0 else ">"

        def enter() -> Node:
            value = self.environment[counter]
            inside = self.scope.truth(comparison.compare(self.scope, order, value, stop))
            self._assign(statement.target, value)
            return inside

        def advance(environment: Environment) -> Environment:
            return {**environment, counter: arithmetic.binary(self.scope, "+", environment[counter], step)}

        falls = self._loop(statement, (counter,), enter, advance, runs_once=rounds > 0)
        self.environment.pop(counter, None)
        return falls

    def _loop(
        self,
        statement: ast.While | ast.For,
        counters: tuple[str, ...],
        enter: Callable[[], Node],
        advance: Callable[[Environment], Environment],
        *,
        runs_once: bool,
    ) -> bool:
        before, entry_mask = self.environment, self.mask
        returns = any(isinstance(n, ast.Return) for n in _walk(statement))
        if returns:
            before = {_RETURNED: Constant(False), **before}
        assigned = [
            n for n in _assigned_names(statement) if n not in before or not isinstance(before[n], Unbound)
        ]
        names = list(dict.fromkeys([*counters, *assigned, *((_RETURNED, _RESULT) if returns else ())]))
        shapes: dict[str, Shape] = {
            n: shape_of(self.graph, before[n]) if n in before else UnboundShape() for n in names
        }
        self.scope.depth += 1
        try:
            for _ in range(16):
                loop = self.graph.new_loop(self.scope.depth)
                inside = self.graph.param(loop, BOOL)
                start = dict(before)
                for name in names:
                    if name in before:
                        start[name] = self._parameters(loop, shapes[name])
                    else:
                        start[name] = Unbound()
                        self._parameters(loop, shapes[name])
                exits = self._round(statement, enter, advance, start, inside)
                merged = {
                    name: self._carried_shape(shapes[name], name, exits, name in before) for name in names
                }
                if merged == shapes:
                    break
                shapes = merged
            else:
                self.scope.position = statement
                self.scope.fail("the types of the variables in this loop do not settle", "give them one type")
        finally:
            self.scope.depth -= 1
        loop.nexts = [self._any(exits.stay)]
        offset = 1
        for name in names:
            width = len(flatten(self.graph, Unbound(), shapes[name]))
            nodes = list(loop.params[offset : offset + width])
            for mask, environment in (*exits.stay, *exits.leave):
                if isinstance(environment.get(name, Unbound()), Unbound):
                    continue
                new = flatten(self.graph, environment[name], shapes[name])
                nodes = [self.graph.select(mask, a, b) for a, b in zip(new, nodes, strict=True)]
            loop.nexts += nodes
            offset += width
        initial = [entry_mask or self.graph.true]
        for name in names:
            initial += flatten(self.graph, before.get(name, Unbound()), shapes[name])
        results = self.graph.loop(loop, initial)
        after = dict(before)
        offset = 1
        for name in names:
            value, offset = unflatten(shapes[name], results, offset)
            bound = name in before or (runs_once and self._always_bound(name, exits)) or name == _RESULT
            after[name] = value if bound else Unbound()
        self.environment, self.mask = after, entry_mask
        return self._after_returns() if returns else True

    def _round(
        self,
        statement: ast.While | ast.For,
        enter: Callable[[], Node],
        advance: Callable[[Environment], Environment],
        start: Environment,
        inside: Node,
    ) -> _LoopExits:
        """Lower one round of a loop and return where records go from it."""
        exits = _LoopExits()
        self.environment, self.mask = start, inside
        self.scope.position = statement
        entering = enter()
        self.mask = self.graph.both(inside, None if entering is self.graph.true else entering)
        self.loops.append(exits)
        if self.block(statement.body):
            exits.stay.append((self.mask or self.graph.true, self.environment))
        self.loops.pop()
        exits.stay = [(mask, advance(environment)) for mask, environment in exits.stay]
        return exits

    def _parameters(self, loop: Any, shape: Shape) -> Value:
        kinds = [node.type for node in flatten(self.graph, Unbound(), shape)]
        return unflatten(shape, [self.graph.param(loop, kind) for kind in kinds])[0]

    def _carried_shape(self, shape: Shape, name: str, exits: _LoopExits, bound_before: bool) -> Shape:
        for _, environment in (*exits.stay, *exits.leave):
            value = environment.get(name, Unbound())
            if isinstance(value, Unbound):
                if bound_before:
                    return UnboundShape()
                continue
            other = shape_of(self.graph, value)
            try:
                shape = other if isinstance(shape, UnboundShape) else merge_shapes(shape, other)
            except JoinError as error:
                self.scope.fail(f"in this loop {name!r} changes its type: {error}", "give it one type")
        return shape

    def _always_bound(self, name: str, exits: _LoopExits) -> bool:
        places = (*exits.stay, *exits.leave)
        return all(not isinstance(environment.get(name, Unbound()), Unbound) for _, environment in places)

    def _any(self, exits: list[tuple[Node, Environment]]) -> Node:
        result = self.graph.false
        for mask, _ in exits:
            result = self.graph.op("or", BOOL, result, mask)
        return result

    def _after_returns(self) -> bool:
        """Split off the records that returned inside a loop; return whether any may go on."""
        flag = self.scope.truth(self.environment.pop(_RETURNED, Constant(False)))
        if flag is self.graph.false:
            return True
        value = self.environment.pop(_RESULT)
        if self.loops:
            self.environment[_RETURNED] = Constant(False)  # the records that go on have not returned
        here = self.graph.both(self.mask, flag) or self.graph.true
        if self.loops:
            environment = {**self.environment, _RESULT: value, _RETURNED: Constant(True)}
            self.loops[-1].leave.append((here, environment))
        else:
            self.returns.append((here, value))
        if flag is self.graph.true:
            return False
        self.mask = self.graph.both(self.mask, self.graph.negate(flag))
        return True

    # ---------------------------------------------------------------------------------- expressions

    def expression(self, node: ast.expr) -> Value:
        """Return the value of an expression."""
        previous = self.scope.position
        self.scope.position = node
        method = getattr(self, f"_of_{type(node).__name__}", None)
        if method is None:
            self.scope.fail(f"this kind of expression ({type(node).__name__}) cannot be compiled")
        value: Value = method(node)
        self.scope.position = previous
        return value

    def _of_Constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, complex | bytes) or node.value is ...:
            self.scope.fail(f"a {type(node.value).__name__} constant cannot be used here")
        return Constant(node.value)

    def _of_Name(self, node: ast.Name) -> Value:
        return self._name(node.id)

    def _name(self, name: str) -> Value:
        value = self.environment.get(name)
        if value is None:
            try:
                value = self.outer(name)
            except KeyError:
                self.scope.fail(
                    f"the name {name!r} is not defined", nearest(name, self.environment) or "define it"
                )
        if isinstance(value, Unbound):
            self.scope.fail(
                f"the variable {name!r} has no value, or values of two types, on some path to this line",
                "assign it before the branch or loop",
            )
        return value

    def _of_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self.expression(node.value)
        self._assign(node.target, value)
        return value

    def _of_Attribute(self, node: ast.Attribute) -> Value:
        owner = self.expression(node.value)
        self.scope.position = node
        name = node.attr
        if isinstance(owner, Group) and owner.names is not None:
            return self._field(owner, name)
        if isinstance(owner, Scalar) and name in temporal.FIELDS.get(owner.type.kind, ()):
            return temporal.field(self.scope, owner, name)
        if owner == NULL:
            return NULL
        if isinstance(owner, Constant):
            if isinstance(owner.value, type(None)) or not hasattr(owner.value, name):
                self.scope.fail(f"{owner.value!r} has no attribute {name!r}", "")
            return Constant(getattr(owner.value, name))
        known = (
            ", ".join("." + f for f in temporal.FIELDS.get(getattr(owner, "type", BOOL).kind, ()))
            if isinstance(owner, Scalar)
            else ""
        )
        self.scope.fail(
            f"{describe(owner)} has no attribute {name!r} here" + (f"; there are {known}" if known else "")
        )

    def _field(self, record: Group, name: str) -> Value:
        value = record.get(name)
        assert record.names is not None
        if value is None:
            message = ColumnNotFoundError.for_name(name, record.names).args[0]
            raise ColumnNotFoundError(self.scope.message(message.rstrip("."), ""))
        if record.is_input and name in self.scope.schema.names:
            self.scope.columns_touched[name] = str(self.scope.schema.field(name).type)
        return value

    def _of_Subscript(self, node: ast.Subscript) -> Value:
        owner = self.expression(node.value)
        if isinstance(node.slice, ast.Slice):
            self.scope.fail("slices cannot be compiled yet")
        index = self.expression(node.slice)
        self.scope.position = node
        if isinstance(owner, Group) and owner.names is not None and isinstance(index, Constant):
            if isinstance(index.value, str):
                return self._field(owner, index.value)
            self.scope.fail(f"a record is indexed by a column name, not {index.value!r}", "write r['column']")
        if isinstance(owner, Group) and isinstance(index, Constant) and isinstance(index.value, int):
            if -len(owner.items) <= index.value < len(owner.items):
                return owner.items[index.value]
            self.scope.fail(f"the tuple has {len(owner.items)} items, and item {index.value} is read", "")
        if isinstance(owner, Constant) and isinstance(index, Constant):
            try:
                return Constant(owner.value[index.value])
            except Exception as error:
                self.scope.fail(f"{type(error).__name__}: {error}", "")
        if isinstance(owner, Constant) and isinstance(owner.value, dict | tuple | list):
            return self._look_up(owner.value, index)
        self.scope.fail(f"{describe(owner)} cannot be indexed here")

    def _look_up(self, table: Any, index: Value) -> Value:
        """Read a constant dict or list by a value of the record: a chain of comparisons; null if it is not there."""
        pairs = list(table.items()) if isinstance(table, dict) else list(enumerate(table))
        if len(pairs) > _MAX_UNROLLED:
            self.scope.fail(f"a table of {len(pairs)} entries is too long to look up here", "use map_batches")
        result: Value = NULL
        for key, value in reversed(pairs):
            equal = comparison.contains(self.scope, index, Constant((key,)))
            result = self.scope.join(self.scope.truth(equal), Constant(value), result)
        return result

    def _of_BinOp(self, node: ast.BinOp) -> Value:
        left, right = self.expression(node.left), self.expression(node.right)
        self.scope.position = node
        operator = _OPERATORS.get(type(node.op)) or self.scope.fail("this operator cannot be compiled")
        return arithmetic.binary(self.scope, operator, left, right)

    def _of_UnaryOp(self, node: ast.UnaryOp) -> Value:
        value = self.expression(node.operand)
        self.scope.position = node
        if not isinstance(node.op, ast.Not):
            symbol = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}[type(node.op)]
            return arithmetic.unary(self.scope, symbol, value)
        if value == NULL:
            return NULL
        if isinstance(value, Constant):
            return Constant(not value.value)
        operand = self.scope.operand(value)
        bare = (
            Text(operand.sources, operand.code)
            if isinstance(operand, Text)
            else Scalar(operand.type, operand.node)
        )
        return Scalar(BOOL, self.graph.negate(self.scope.truth(bare)), operand.valid)

    def _of_BoolOp(self, node: ast.BoolOp) -> Value:
        conjunction = isinstance(node.op, ast.And)
        result = self.expression(node.values[0])
        mask = self.mask
        for operand_node in node.values[1:]:
            if (
                isinstance(result, Constant)
                and result.value is not None
                and bool(result.value) != conjunction
            ):
                break
            decided = self.scope.truth(result)
            self.mask = self.graph.both(mask, decided if conjunction else self.graph.negate(decided))
            right = self.expression(operand_node)
            self.scope.position = node
            result = self._boolean(result, right, conjunction=conjunction)
        self.mask = mask
        return result

    def _boolean(self, left: Value, right: Value, *, conjunction: bool) -> Value:
        flags = [self._flag(v) for v in (left, right)]
        a, b = flags
        if a is not None and b is not None and (left != NULL or right != NULL):
            return self.scope.kleene(a, b, conjunction=conjunction)
        if isinstance(left, Constant):
            return right if bool(left.value) == conjunction else left
        truth = self.scope.truth(left)
        return self.scope.join(truth, right, left) if conjunction else self.scope.join(truth, left, right)

    def _flag(self, value: Value) -> Scalar | None:
        """Return a value as a flag if it is a boolean or None."""
        if value == NULL:
            return Scalar(BOOL, self.graph.false, self.graph.false)
        if isinstance(value, Constant) and isinstance(value.value, bool):
            return Scalar(BOOL, self.graph.const(BOOL, value.value))
        return value if isinstance(value, Scalar) and value.type.kind == "bool" else None

    def _of_Compare(self, node: ast.Compare) -> Value:
        left = self.expression(node.left)
        result: Value | None = None
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.expression(right_node)
            self.scope.position = node
            part = self._compare(operator, left, right)
            result = part if result is None else self._boolean(result, part, conjunction=True)
            left = right
        assert result is not None
        return result

    def _compare(self, operator: ast.cmpop, left: Value, right: Value) -> Value:
        if isinstance(operator, ast.Is | ast.IsNot):
            value = comparison.identity(self.scope, left, right)
        elif isinstance(operator, ast.In | ast.NotIn):
            value = comparison.contains(self.scope, left, right)
        else:
            return comparison.compare(self.scope, _COMPARISONS[type(operator)], left, right)
        if isinstance(operator, ast.Is | ast.In):
            return value
        if isinstance(value, Constant):
            return Constant(None if value.value is None else not value.value)
        assert isinstance(value, Scalar)
        return Scalar(BOOL, self.graph.negate(value.node), value.valid)

    def _of_IfExp(self, node: ast.IfExp) -> Value:
        condition = self.scope.truth(self.expression(node.test))
        if condition.is_const:
            return self.expression(node.body if condition.attr else node.orelse)
        mask = self.mask
        self.mask = self.graph.both(mask, condition)
        then = self.expression(node.body)
        self.mask = self.graph.both(mask, self.graph.negate(condition))
        otherwise = self.expression(node.orelse)
        self.mask = mask
        self.scope.position = node
        return self.scope.join(condition, then, otherwise)

    def _of_Tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Value:
        items = tuple(self.expression(e) for e in node.elts)
        if all(isinstance(i, Constant) for i in items):
            return Constant(tuple(i.value for i in items if isinstance(i, Constant)))
        return Group(items)

    _of_List = _of_Tuple
    _of_Set = _of_Tuple

    def _of_Dict(self, node: ast.Dict) -> Value:
        fields: dict[str, Value] = {}
        for key, value_node in zip(node.keys, node.values, strict=True):
            value = self.expression(value_node)
            if key is None:
                if isinstance(value, Group) and value.names is not None:
                    fields.update(zip(value.names, value.items, strict=True))
                elif isinstance(value, Constant) and isinstance(value.value, dict):
                    fields.update((k, Constant(v)) for k, v in value.value.items())
                else:
                    self.scope.fail(f"** needs a record and got {describe(value)}", "")
                continue
            name = self.expression(key)
            if not isinstance(name, Constant) or not isinstance(name.value, str):
                self.scope.position = key
                self.scope.fail("the column names of a record must be constant strings", "")
            fields[name.value] = value
        return Group(tuple(fields.values()), tuple(fields))

    def _of_Lambda(self, node: ast.Lambda) -> Value:
        return LocalFunction(node, self.environment)

    def _of_GeneratorExp(self, node: ast.GeneratorExp | ast.ListComp) -> Value:
        if len(node.generators) != 1 or node.generators[0].ifs or node.generators[0].is_async:
            self.scope.fail("only `expression for name in constants` can be compiled")
        generator = node.generators[0]
        if isinstance(generator.iter, ast.Call) and self._is_range(generator.iter):
            bounds = [self.expression(a) for a in generator.iter.args]
            if not all(isinstance(b, Constant) for b in bounds):
                self.scope.fail("the range of a generator must be constant", "write a for loop")
            items: tuple[Value, ...] = tuple(
                Constant(i) for i in range(*(b.value for b in bounds if isinstance(b, Constant)))
            )
        else:
            items = self._iterate(self.expression(generator.iter), generator.iter)
        if len(items) > _MAX_UNROLLED:
            self.scope.fail(f"a generator over {len(items)} values is too long to unroll", "write a for loop")
        outer = self.environment
        results: list[Value] = []
        for item in items:
            self.environment = dict(outer)
            self._assign(generator.target, item)
            results.append(self.expression(node.elt))
        self.environment = outer
        return Group(tuple(results))

    _of_ListComp = _of_GeneratorExp

    def _of_JoinedStr(self, node: ast.JoinedStr) -> Value:
        self.scope.fail("f-strings cannot be compiled: record functions do not build new strings")

    def _iterate(self, value: Value, node: ast.AST) -> tuple[Value, ...]:
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

    # ----------------------------------------------------------------------------------------- calls

    def _of_Call(self, node: ast.Call) -> Value:
        if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
            self.scope.fail(
                "calls with *args or **kwargs cannot be compiled", "pass the arguments one by one"
            )
        if isinstance(node.func, ast.Attribute):
            owner = self.expression(node.func.value)
            is_library = isinstance(owner, Constant) and isinstance(owner.value, ModuleType | type)
            if (
                not is_library
                and not isinstance(owner, Group)
                and not self._holds_function(owner, node.func.attr)
            ):
                args = [self.expression(a) for a in node.args]
                self.scope.position = node
                if node.keywords:
                    self.scope.fail("methods take no keyword arguments here", "")
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
            return _call_function(scope, inner, args, kwargs, self.mask)
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
        if len(scope.sources) >= _MAX_CALL_DEPTH:
            scope.fail(f"calls go deeper than {_MAX_CALL_DEPTH}", "write a loop")
        name = "the inner lambda" if isinstance(node, ast.Lambda) else node.name
        spec = node.args
        positional = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        defaults: Environment = {}
        for parameter, default in zip(reversed(positional), reversed(spec.defaults), strict=False):
            defaults[parameter] = self.expression(default)
        for argument, default_node in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            if default_node is not None:
                defaults[argument.arg] = self.expression(default_node)
        bound = _bind(scope, node, name, args, kwargs, defaults)
        source = scope.sources[-1]
        scope.sources.append(FunctionSource(node, source.filename, node.lineno, name))
        position = scope.position
        enclosing = function.environment
        outer = self.outer

        def look_up(variable: str) -> Value:
            return enclosing[variable] if variable in enclosing else outer(variable)

        try:
            return _Lowering(scope, bound, look_up, self.mask).run(node)
        finally:
            scope.sources.pop()
            scope.position = position


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a statement without entering functions defined in it."""
    pending = list(ast.iter_child_nodes(node))
    while pending:
        current = pending.pop()
        yield current
        if not isinstance(current, ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef):
            pending.extend(ast.iter_child_nodes(current))


def _assigned_names(statement: ast.stmt) -> list[str]:
    """Return the names that a loop assigns, in a stable order."""
    names = {
        node.id for node in _walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names |= {node.name for node in _walk(statement) if isinstance(node, ast.FunctionDef)}
    return sorted(names)
