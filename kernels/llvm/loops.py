"""Loops over a group of records: rounds until no lane is inside, registers side by side, counters as scalars.

A group is cut into registers for the time of a loop, so that masks stay in mask registers and one test serves all;
independent registers hide each other's latencies. Where a round changes only the records that stay, the test comes
before the work of the round, and integers that all records inside count alike are one scalar: conditions on them
are an ordinary branch. Other loops (a ``break`` that leaves a value, say) test at the end of each round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dataflare.kernels.udf.ir import Loop, Node, nodes_of

if TYPE_CHECKING:
    from dataflare.kernels.llvm.emit import Emitter

__all__ = ["emit_loop"]


@dataclass(frozen=True)
class _Shape:
    """What is known of a loop before it is emitted.

    ``stays_alike`` says that a round changes nothing but the records that stay. ``counters`` are positions
    of parameters that all records inside count alike, with their steps; ``uniform`` are conditions to stay
    that only depend on these.
    """

    stays_alike: bool
    counters: dict[int, int]
    uniform: tuple[Node, ...]
    always_inside: bool


def emit_loop(emitter: Emitter, node: Node) -> list[str]:
    """Emit a loop and return the values of its parameters after it.

    What the loop reads but does not change is computed before it.
    """
    loop: Loop = node.attr
    invariants = _invariants(loop)
    outside = [emitter.emit(invariant) for invariant in invariants]
    initial = [emitter.emit(argument) for argument in node.args]
    shape = _shape_of(loop, node.args)
    width = _part_lanes(emitter, loop)
    parts = []
    for start in range(0, emitter.lanes, width):
        part = emitter.narrowed(width)
        for invariant, value in zip(invariants, outside, strict=True):
            part.define(invariant, emitter.part(value, part.element_of(invariant), start, width))
        first = [
            emitter.part(value, part.element_of(argument), start, width)
            for argument, value in zip(node.args, initial, strict=True)
        ]
        parts.append(_Part(part, first))
    if shape.stays_alike:
        _emit_testing_first(emitter, loop, shape, node.args, parts)
    else:
        _emit_testing_last(emitter, loop, parts)
    return [
        emitter.concatenate([part.names[i] for part in parts], emitter.element_of(parameter), width)
        for i, parameter in enumerate(loop.params)
    ]


class _Part:
    """The lanes of one register: what they start with, and the names of the parameters in a round."""

    def __init__(self, emitter: Emitter, initial: list[str]) -> None:
        self.emitter = emitter
        self.initial = initial
        self.names = [emitter.code.name("p") for _ in initial]


# -------------------------------------------------------------------------------------------- what a loop is like


def _shape_of(loop: Loop, initial: tuple[Node, ...]) -> _Shape:
    stay = loop.nexts[0]
    if stay.is_const or not all(
        _changes_with(stay, p, n) for p, n in zip(loop.params, loop.nexts, strict=True)
    ):
        return _Shape(False, {}, (), False)
    counters = {}
    for i, (parameter, following, first) in enumerate(zip(loop.params, loop.nexts, initial, strict=True)):
        step = _step(parameter, following)
        if step is not None and first.is_const and parameter.type.is_integer:
            counters[i] = step
    scalars = {loop.params[i].index for i in counters}
    conditions = _conjuncts(stay)
    uniform = tuple(c for c in conditions if _depends_only_on(c, scalars))
    others = [c for c in conditions if c not in uniform and c is not loop.params[0]]
    return _Shape(True, counters, uniform, not others and initial[0].is_const and bool(initial[0].attr))


def _changes_with(stay: Node, parameter: Node, following: Node) -> bool:
    """Return whether a parameter keeps its value in the records that do not stay."""
    if following is stay or following is parameter:
        return True
    return following.op == "select" and following.args[0] is stay and following.args[2] is parameter


def _step(parameter: Node, following: Node) -> int | None:
    """Return what a parameter grows by in every round that its record stays, if that is a constant."""
    if following.op != "select" or following.args[1].op != "add":
        return None
    a, b = following.args[1].args
    if a.is_const:
        a, b = b, a
    return int(b.attr) if a is parameter and b.is_const else None


def _conjuncts(node: Node) -> list[Node]:
    if node.op == "and":
        return [part for argument in node.args for part in _conjuncts(argument)]
    return [node]


def _depends_only_on(node: Node, scalars: set[int]) -> bool:
    """Return whether a condition depends on counters and constants alone."""
    leaves = [n for n in nodes_of([node]) if not n.args and not n.is_const]
    return bool(leaves) and all(leaf.index in scalars for leaf in leaves)


def _part_lanes(emitter: Emitter, loop: Loop) -> int:
    """Return how many lanes of the widest values in a loop fill a register.

    A loop with another one inside stays whole, for the inner one to run its registers side by side.
    """
    body = [n for n in nodes_of(loop.nexts) if n.depth >= loop.depth]
    if emitter.lanes == 1 or any(n.op == "loop" for n in body):
        return emitter.lanes
    widest = max((n.type.bits for n in (*body, *loop.params) if n.type.kind != "bool"), default=64)
    return min(emitter.lanes, emitter.target.register_bytes * 8 // widest)


def _invariants(loop: Loop) -> list[Node]:
    """Return the nodes that a loop reads but does not change."""
    found: dict[int, Node] = {}
    seen: set[int] = set()
    pending = list(loop.nexts)
    while pending:
        node = pending.pop()
        if node.is_const or node.index in seen:
            continue
        seen.add(node.index)
        if node.depth < loop.depth:
            found[node.index] = node
            continue
        pending.extend(node.args)
        if node.op == "loop":
            pending.extend(node.attr.nexts)
    return [found[i] for i in sorted(found)]


# ------------------------------------------------------------------------------------------------------ the rounds


def _emit_testing_last(emitter: Emitter, loop: Loop, parts: list[_Part]) -> None:
    """Emit rounds that compute everything and then ask whether any record is still inside."""
    code = emitter.code
    before, head, body, after = code.block, *(code.fresh_label(s) for s in ("head", "body", "after"))
    code.add(f"br label %{head}")
    code.label(head)
    position = len(code.lines)
    for part in parts:
        for parameter, name in zip(loop.params, part.names, strict=True):
            part.emitter.define(parameter, name)
    code.add(
        f"br i1 {_any([part.emitter for part in parts], [part.names[0] for part in parts])}, "
        f"label %{body}, label %{after}"
    )
    code.label(body)
    following = [[part.emitter.emit(n) for n in loop.nexts] for part in parts]
    _close(emitter, loop, parts, following, position, before, head)
    code.label(after)


def _emit_testing_first(
    emitter: Emitter, loop: Loop, shape: _Shape, initial: tuple[Node, ...], parts: list[_Part]
) -> None:
    """Emit rounds that ask first which records stay, and end before the work when none does."""
    code = emitter.code
    before, head, after = code.block, code.fresh_label("head"), code.fresh_label("after")
    code.add(f"br label %{head}")
    code.label(head)
    position = len(code.lines)
    scalar = emitter.narrowed(1)
    scalars = {i: code.name("counter") for i in shape.counters}
    for i, name in scalars.items():
        scalar.define(loop.params[i], name)
    for condition in shape.uniform:
        inside = code.fresh_label("inside")
        code.add(f"br i1 {scalar.emit(condition)}, label %{inside}, label %{after}")
        code.label(inside)
    for part in parts:
        for i, (parameter, name) in enumerate(zip(loop.params, part.names, strict=True)):
            value = (
                part.emitter.spread(scalars[i], part.emitter.element_of(parameter)) if i in scalars else name
            )
            part.emitter.define(parameter, value)
        always = part.emitter.splat("i1", "true")
        for condition in shape.uniform:
            part.emitter.define(condition, always)
        if shape.always_inside:
            part.emitter.define(loop.params[0], always)
    stay = [part.emitter.emit(loop.nexts[0]) for part in parts]
    if not shape.always_inside:
        body = code.fresh_label("body")
        code.add(f"br i1 {_any([part.emitter for part in parts], stay)}, label %{body}, label %{after}")
        code.label(body)
    advanced = {
        i: code.value(f"add {scalar.element_of(loop.params[i])} {name}, {shape.counters[i]}")
        for i, name in scalars.items()
    }
    following = []
    for part, staying in zip(parts, stay, strict=True):
        values = []
        for i, node in enumerate(loop.nexts):
            if i in scalars:
                values.append(_counted(part, loop.params[i], i, staying, advanced[i]))
            else:
                values.append(part.emitter.emit(node))
        following.append(values)
    last = code.block
    _close(emitter, loop, parts, following, position, before, head)
    for i, name in scalars.items():
        first = f"[ {initial[i].attr}, %{before} ]"
        element = scalar.element_of(loop.params[i])
        code.lines.insert(position, f"  {name} = phi {element} {first}, [ {advanced[i]}, %{last} ]")
    code.label(after)


def _counted(part: _Part, parameter: Node, position: int, staying: str, advanced: str) -> str:
    """Return a counter of every lane after a round: records that left keep what they had."""
    emitter = part.emitter
    vector = emitter.node_type(parameter)
    count = emitter.spread(advanced, emitter.element_of(parameter))
    flags = emitter.type_of("i1")
    return emitter.code.value(f"select {flags} {staying}, {vector} {count}, {vector} {part.names[position]}")


def _close(
    emitter: Emitter,
    loop: Loop,
    parts: list[_Part],
    following: list[list[str]],
    position: int,
    before: str,
    head: str,
) -> None:
    """Go to the next round, and insert what joins the rounds at their head."""
    code = emitter.code
    last = code.block
    code.add(f"br label %{head}")
    phis = []
    for part, values in zip(parts, following, strict=True):
        for parameter, name, first, nxt in zip(loop.params, part.names, part.initial, values, strict=True):
            vector = part.emitter.node_type(parameter)
            phis.append(f"  {name} = phi {vector} [ {first}, %{before} ], [ {nxt}, %{last} ]")
    code.lines[position:position] = phis


def _any(emitters: list[Emitter], flags: list[str]) -> str:
    """Return whether any lane of any register is set, as one i1."""
    first, total = emitters[0], flags[0]
    for other in flags[1:]:
        total = first.code.value(f"or {first.type_of('i1')} {total}, {other}")
    return first.any(total)
