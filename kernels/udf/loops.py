"""Lowers loops: masked rounds of a vector of records, until none is inside; loops over constants are unrolled."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from dataflare.kernels.dtypes import BOOL
from dataflare.kernels.udf import arithmetic, comparison
from dataflare.kernels.udf.frame import MAX_UNROLLED, Environment, LoopExits, walk
from dataflare.kernels.udf.invocations import Invocations
from dataflare.kernels.udf.ir import Node
from dataflare.kernels.udf.values import (
    Constant,
    JoinError,
    Scalar,
    Shape,
    Unbound,
    UnboundShape,
    Value,
    describe,
    flatten,
    merge_shapes,
    shape_of,
    unflatten,
)

__all__ = ["RESULT", "RETURNED", "Loops"]

_MAX_INDEXED_ROUNDS = 16
"""Longest loop over ``range`` that is unrolled because it counts through tables: each look-up becomes a constant."""

_LEFT = "$left_"
"""Before the name of a variable: its value for the records that left a loop by `break`, where others have none."""

RETURNED = "$returned"
RESULT = "$result"


class Loops(Invocations):
    """Expressions, calls and loops."""

    def _do_While(self, statement: ast.While) -> bool:
        first = self.expression(statement.test)
        if isinstance(first, Constant) and not first.value:
            return self.block(statement.orelse)
        endless = isinstance(first, Constant) and isinstance(statement.test, ast.Constant)

        def enter() -> Node:
            return self.scope.truth(self.expression(statement.test))

        flag = self._begin_else(statement)
        falls = self._loop(
            statement, (), enter, lambda environment: environment, flag=flag, runs_once=endless
        )
        return falls and self._else(statement, flag)

    def _do_For(self, statement: ast.For) -> bool:
        call = statement.iter
        if isinstance(call, ast.Call) and self.is_range(call):
            return self._for_range(statement, [self.expression(a) for a in call.args])
        items = self.iterate(self.expression(statement.iter), statement.iter)
        if len(items) > MAX_UNROLLED:
            self.scope.fail(f"a loop over {len(items)} constants is too long to unroll", "use range()")
        return self._unrolled(statement, items)

    def _unrolled(self, statement: ast.For, items: tuple[Value, ...]) -> bool:
        """Lower a loop over constants round by round; `break` and `continue` become masks."""
        entry = self.mask
        flag = self._begin_else(statement)
        leave: list[tuple[Node, Environment]] = []
        for item in items:
            exits = LoopExits(flag)
            self.loops.append(exits)
            self.assign(statement.target, item)
            if self.block(statement.body):
                exits.stay.append((self.mask or self.graph.true, self.environment))
            self.loops.pop()
            leave += exits.leave
            if not exits.stay:
                break
            self.mask, self.environment = self._gather(statement, exits.stay)
        else:
            leave.append((self.mask or self.graph.true, self.environment))
        if len(leave) == 1 and not any(RETURNED in environment for _, environment in leave):
            self.mask, self.environment = leave[0][0], leave[0][1]
            if self.mask is self.graph.true:
                self.mask = None
            return self._else(statement, flag)
        for _, environment in leave:
            environment.setdefault(RETURNED, Constant(False))
        mask, self.environment = self._gather(statement, leave)
        broken = [place for place in leave if place[1].get(flag or "") == Constant(False)]
        for name, value in self._gather(statement, broken)[1].items() if broken else ():
            if isinstance(self.environment.get(name), Unbound) and not isinstance(value, Unbound):
                self.environment[_LEFT + name] = value
        self.mask = entry if mask is self.graph.true else mask
        return self._after_returns() and self._else(statement, flag)

    def _begin_else(self, statement: ast.While | ast.For) -> str | None:
        """Begin to note who leaves a loop by `break`, if it has an `else`; return the name of the variable."""
        if not statement.orelse:
            return None
        name = f"$fell_through{statement.lineno}_{statement.col_offset}"
        self.environment[name] = Constant(True)
        return name

    def _else(self, statement: ast.While | ast.For, flag: str | None) -> bool:
        """Lower the `else` of a loop for the records that met no `break`; return whether any go on.

        Variables that only the others have a value of, they keep.
        """
        if flag is None:
            return True
        kept = [name.removeprefix(_LEFT) for name in self.environment if name.startswith(_LEFT)]
        choice = ast.If(
            ast.Name(flag, ast.Load()),
            statement.orelse,
            [ast.Assign([ast.Name(name, ast.Store())], ast.Name(_LEFT + name, ast.Load())) for name in kept],
        )
        falls = self.block([ast.fix_missing_locations(ast.copy_location(choice, statement.orelse[0]))])
        for name in (flag, *(_LEFT + name for name in kept)):
            self.environment.pop(name, None)
        return falls

    def _gather(self, statement: ast.stmt, exits: list[tuple[Node, Environment]]) -> tuple[Node, Environment]:
        """Join the environments of several places that control comes from."""
        self.scope.position = statement
        mask, environment = exits[-1]
        for other_mask, other in reversed(exits[:-1]):
            environment = self.merge(other_mask, other, environment)
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
            return self.block(statement.orelse)
        if 0 < rounds <= _MAX_INDEXED_ROUNDS and _counts_through_tables(statement):
            del self.environment[counter]
            bounds = [c.value for c in (start, stop, step) if isinstance(c, Constant)]
            return self._unrolled(statement, tuple(Constant(i) for i in range(*bounds)))
        order = "<" if step.value > 0 else ">"

        def enter() -> Node:
            value = self.environment[counter]
            inside = self.scope.truth(comparison.compare(self.scope, order, value, stop))
            self.assign(statement.target, value)
            return inside

        def advance(environment: Environment) -> Environment:
            return {**environment, counter: arithmetic.binary(self.scope, "+", environment[counter], step)}

        flag = self._begin_else(statement)
        falls = self._loop(statement, (counter,), enter, advance, flag=flag, runs_once=rounds > 0)
        self.environment.pop(counter, None)
        return falls and self._else(statement, flag)

    def _loop(
        self,
        statement: ast.While | ast.For,
        counters: tuple[str, ...],
        enter: Callable[[], Node],
        advance: Callable[[Environment], Environment],
        *,
        flag: str | None,
        runs_once: bool,
    ) -> bool:
        unbound = {n: v for n, v in self.environment.items() if isinstance(v, Unbound)}
        before = {n: v for n, v in self.environment.items() if n not in unbound}
        entry_mask = self.mask
        returns = any(isinstance(n, ast.Return) for n in walk(statement))
        if returns:
            before = {RETURNED: Constant(False), **before}
        assigned = _assigned_names(statement)
        hidden = [*((flag,) if flag else ()), *((RETURNED, RESULT) if returns else ())]
        names = list(dict.fromkeys([*counters, *assigned, *hidden]))
        shapes: dict[str, Shape] = {
            n: shape_of(self.graph, before[n]) if n in before else UnboundShape() for n in names
        }
        self.scope.depth += 1
        try:
            for _ in range(16):
                loop = self.graph.new_loop(self.scope.depth)
                inside = self.graph.param(loop, BOOL)
                start = {**unbound, **before}
                for name in names:
                    if name in before:
                        start[name] = self._parameters(loop, shapes[name])
                    else:
                        start[name] = Unbound()
                        self._parameters(loop, shapes[name])
                exits = self._round(statement, enter, advance, start, inside, flag)
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
        after = {**unbound, **before}
        offset = 1
        for name in names:
            value, offset = unflatten(shapes[name], results, offset)
            bound = name in before or (runs_once and self._always_bound(name, exits)) or name == RESULT
            after[name] = value if bound else Unbound()
            if flag and not bound and exits.leave and self._always_bound(name, LoopExits(leave=exits.leave)):
                after[_LEFT + name] = value
        self.environment, self.mask = after, entry_mask
        return self._after_returns() if returns else True

    def _round(
        self,
        statement: ast.While | ast.For,
        enter: Callable[[], Node],
        advance: Callable[[Environment], Environment],
        start: Environment,
        inside: Node,
        flag: str | None,
    ) -> LoopExits:
        """Lower one round of a loop and return where records go from it."""
        exits = LoopExits(flag)
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

    def _carried_shape(self, shape: Shape, name: str, exits: LoopExits, bound_before: bool) -> Shape:
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

    def _always_bound(self, name: str, exits: LoopExits) -> bool:
        places = (*exits.stay, *exits.leave)
        return all(not isinstance(environment.get(name, Unbound()), Unbound) for _, environment in places)

    def _any(self, exits: list[tuple[Node, Environment]]) -> Node:
        result = self.graph.false
        for mask, _ in exits:
            result = self.graph.op("or", BOOL, result, mask)
        return result

    def _after_returns(self) -> bool:
        """Split off the records that returned inside a loop; return whether any may go on."""
        flag = self.scope.truth(self.environment.pop(RETURNED, Constant(False)))
        if self.loops:
            self.environment[RETURNED] = Constant(False)  # the records that go on have not returned
        if flag is self.graph.false:
            return True
        value = self.environment.pop(RESULT, Unbound())
        if isinstance(value, Unbound):  # every return is unreachable
            return True
        here = self.graph.both(self.mask, flag) or self.graph.true
        if self.loops:
            environment = {**self.environment, RESULT: value, RETURNED: Constant(True)}
            self.loops[-1].leave.append((here, environment))
        else:
            self.returns.append((here, value))
        if flag is self.graph.true:
            return False
        self.mask = self.graph.both(self.mask, self.graph.negate(flag))
        return True

    def merge(self, condition: Node, then: Environment, otherwise: Environment) -> Environment:
        """Return the variables after a branch: each a choice between those of its two sides."""
        merged: Environment = {}
        for name in dict.fromkeys((*then, *otherwise)):
            a, b = then.get(name, Unbound()), otherwise.get(name, Unbound())
            if name == RETURNED:  # not set means that no record has returned
                a, b = (Constant(False) if isinstance(v, Unbound) else v for v in (a, b))
            elif name == RESULT and (isinstance(a, Unbound) or isinstance(b, Unbound)):
                merged[name] = b if isinstance(a, Unbound) else a  # of the others nobody reads it
                continue
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


def _counts_through_tables(statement: ast.For) -> bool:
    """Return whether an innermost loop reads collections at its counter."""
    nodes = list(walk(statement))
    if not isinstance(statement.target, ast.Name) or any(isinstance(n, ast.For | ast.While) for n in nodes):
        return False
    indices = [n.slice for n in nodes if isinstance(n, ast.Subscript)]
    names = [n.id for index in indices for n in ast.walk(index) if isinstance(n, ast.Name)]
    return statement.target.id in names


def _assigned_names(statement: ast.stmt) -> list[str]:
    """Return the names that a loop assigns, in a stable order."""
    names = {
        node.id for node in walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names |= {node.name for node in walk(statement) if isinstance(node, ast.FunctionDef)}
    return sorted(names)
