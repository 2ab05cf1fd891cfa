"""The typed dataflow form of a record function: what every device compiles and ``explain`` prints.

A program is a graph of pure nodes over one record. There are no jumps: a branch is a ``select`` between both
sides, and a loop is one node that carries its variables and a flag that says whether the record is still inside.
Nulls are explicit: a value that may be null has a boolean node beside it. So a node can be computed for one
record (a GPU thread) or for a vector of records (a SIMD register) with the same meaning.

Nodes are hash-consed: equal computations are one node, across the stages of a chain (value numbering; Click,
"Global code motion / global value numbering", 1995).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dataflare.kernels.dtypes import BOOL, INT64, ValueType
from dataflare.kernels.udf.automata import Automaton

__all__ = ["Graph", "Loop", "Node", "StringLeaf", "StringOp", "nodes_of", "to_text"]


class Node:
    """One computation: ``op`` on ``args``, with a static ``attr``; its value has type ``type``.

    Ops: const load valid string_op param loop loop_out convert add sub mul neg div rem floordiv floormod and or xor
    not shl lshr ashr eq ne lt le gt ge select call. ``floordiv`` and ``floormod`` are of integers, as Python's, and are
    only built with a divisor that is not 0; ``rem`` is C's fmod. Shift counts are in range likewise.
    """

    __slots__ = ("args", "attr", "depth", "index", "op", "type")

    def __init__(
        self, op: str, type: ValueType, args: tuple[Node, ...], attr: Any, index: int, depth: int
    ) -> None:
        self.op = op
        self.type = type
        self.args = args
        self.attr = attr
        self.index = index
        self.depth = depth  # nesting depth of the innermost loop whose variables this node depends on

    def __repr__(self) -> str:
        return f"%{self.index}"

    @property
    def is_const(self) -> bool:
        """Whether the value is known now."""
        return self.op == "const"


@dataclass(frozen=True, slots=True)
class StringLeaf:
    """A string that an operation reads: column number ``column``, or the literal ``text``."""

    column: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class StringOp:
    """An operation on strings that gives a number: ``name`` is eq lt startswith endswith contains length find matches.

    ``matches`` says whether a string passes the test of ``automaton``.
    """

    name: str
    leaves: tuple[StringLeaf, ...]
    automaton: Automaton | None = None

    @property
    def gives_integers(self) -> bool:
        """Whether results are int64, not flags."""
        return self.name in ("length", "find")


@dataclass(slots=True, eq=False)
class Loop:
    """The body of a loop node: ``nexts`` are the new values of ``params``; ``params[0]`` says who is inside.

    The loop runs while any record is inside; ``nexts`` keep the values of the records that are not.
    """

    serial: int
    depth: int
    params: list[Node] = field(default_factory=list)
    nexts: list[Node] = field(default_factory=list)


_COMMUTATIVE = frozenset({"add", "mul", "and", "or", "xor", "eq", "ne"})


class Graph:
    """Makes nodes, each once, folding what is constant."""

    def __init__(self) -> None:
        self._nodes: dict[Hashable, Node] = {}
        self._count = 0
        self._loops = 0
        self.true = self.const(BOOL, True)
        self.false = self.const(BOOL, False)

    def _make(
        self, op: str, type: ValueType, args: tuple[Node, ...], attr: Any, key: Hashable, depth: int
    ) -> Node:
        full_key = (op, type, tuple(a.index for a in args), key)
        node = self._nodes.get(full_key)
        if node is None:
            node = Node(op, type, args, attr, self._count, depth)
            self._count += 1
            self._nodes[full_key] = node
        return node

    def const(self, type: ValueType, value: Any) -> Node:
        """Return a constant; integers are reduced to the type's range, floats rounded to its precision."""
        if type.kind == "float":
            value = float(value)
            if type.bits == 32:
                value = _round_float32(value)
            return self._make("const", type, (), value, struct.pack("<d", value), 0)
        if type.kind == "bool":
            value = bool(value)
        else:
            value = _wrap(int(value), type)
        return self._make("const", type, (), value, value, 0)

    def load(self, column: int, type: ValueType) -> Node:
        """Return the value of a column; undefined where it is null."""
        return self._make("load", type, (), column, column, 0)

    def valid(self, column: int) -> Node:
        """Return whether a column has a value here."""
        return self._make("valid", BOOL, (), column, column, 0)

    def string_op(self, op: StringOp) -> Node:
        """Return the result of an operation on strings; of a null string it is undefined."""
        return self._make("string_op", INT64 if op.gives_integers else BOOL, (), op, op, 0)

    def new_loop(self, depth: int) -> Loop:
        """Begin a loop whose variables live at nesting depth ``depth`` (1 for an outermost loop)."""
        self._loops += 1
        return Loop(self._loops, depth)

    def param(self, loop: Loop, type: ValueType) -> Node:
        """Add a carried variable to a loop and return it."""
        node = self._make("param", type, (), len(loop.params), (loop.serial, len(loop.params)), loop.depth)
        loop.params.append(node)
        return node

    def loop(self, loop: Loop, initial: Iterable[Node]) -> list[Node]:
        """Close a loop that starts with ``initial`` and return the values of its variables after it."""
        inits = tuple(initial)
        depth = max((n.depth for n in (*inits, *_outer_nodes(loop))), default=0)
        node = self._make("loop", BOOL, inits, loop, loop.serial, depth)
        return [self._make("loop_out", p.type, (node,), i, i, depth) for i, p in enumerate(loop.params)]

    def op(self, op: str, type: ValueType, *args: Node, attr: str | None = None) -> Node:
        """Return ``op`` of ``args``, simplified where that cannot change the result."""
        simple = self._simplify(op, type, args)
        if simple is not None:
            return simple
        if op in _COMMUTATIVE and args[0].index > args[1].index:
            args = (args[1], args[0])
        return self._make(op, type, args, attr, attr, max((a.depth for a in args), default=0))

    def select(self, condition: Node, then: Node, otherwise: Node) -> Node:
        """Return ``then`` where ``condition`` holds, else ``otherwise``."""
        return self.op("select", then.type, condition, then, otherwise)

    def both(self, a: Node | None, b: Node | None) -> Node | None:
        """Return the conjunction of two flags, where None stands for true."""
        if a is None or b is None:
            return b if a is None else a
        return self.op("and", BOOL, a, b)

    def negate(self, a: Node) -> Node:
        """Return the negation of a flag."""
        return self.op("not", BOOL, a)

    def _simplify(self, op: str, type: ValueType, args: tuple[Node, ...]) -> Node | None:
        if op == "select":
            condition, then, otherwise = args
            if condition.is_const:
                return then if condition.attr else otherwise
            if then is otherwise:
                return then
            if type.kind == "bool":
                if then is self.true:
                    return self.op("or", BOOL, condition, otherwise)
                if otherwise is self.false:
                    return self.op("and", BOOL, condition, then)
                if then is self.false:
                    return self.op("and", BOOL, self.negate(condition), otherwise)
                if otherwise is self.true:
                    return self.op("or", BOOL, self.negate(condition), then)
            return None
        if type.kind == "bool" and op in ("and", "or"):
            return self._simplify_flags(op, *args)
        if op == "not" and type.kind == "bool":
            if args[0].is_const:
                return self.const(BOOL, not args[0].attr)
            if args[0].op == "not":
                return args[0].args[0]
        if op == "convert" and args[0].type == type:
            return args[0]
        if all(a.is_const for a in args) and args:
            return self._fold(op, type, [a.attr for a in args], args)
        return None

    def _simplify_flags(self, op: str, a: Node, b: Node) -> Node | None:
        neutral, absorbing = (self.true, self.false) if op == "and" else (self.false, self.true)
        if a is neutral or a is b:
            return b
        if b is neutral:
            return a
        if a is absorbing or b is absorbing:
            return absorbing
        if (a.op == "not" and a.args[0] is b) or (b.op == "not" and b.args[0] is a):
            return absorbing
        return None

    def _fold(self, op: str, type: ValueType, values: list[Any], args: tuple[Node, ...]) -> Node | None:
        if op == "convert":
            source = args[0].type
            if type.kind == "float" and source.kind in ("int", "uint", "bool", "float"):
                return self.const(type, values[0])
            if type.kind != "float" and source.kind != "float":
                return self.const(type, values[0])
            return None
        if args[0].type.kind == "float" and args[0].type.bits != 64:
            return None  # float32 constants fold in the generated code, where rounding is the machine's
        if op in _COMPARE:
            return self.const(BOOL, _COMPARE[op](*values))
        if op in _ARITHMETIC and type.kind != "bool":
            return self.const(type, _ARITHMETIC[op](*values))
        return None


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "floordiv": lambda a, b: a // b,
    "floormod": lambda a, b: a % b,
}


def _round_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:  # beyond float32: infinity, as a cast gives
        return float("inf") if value > 0 else float("-inf")


def _wrap(value: int, type: ValueType) -> int:
    value &= (1 << type.bits) - 1
    if type.kind != "uint" and value >> (type.bits - 1):
        value -= 1 << type.bits
    return value


def _outer_nodes(loop: Loop) -> list[Node]:
    """Return the nodes of enclosing loops that a loop's body reads, found through its results."""
    found: list[Node] = []
    seen: set[int] = set()
    pending = list(loop.nexts)
    while pending:
        node = pending.pop()
        if node.index in seen:
            continue
        seen.add(node.index)
        if node.depth < loop.depth:
            found.append(node)
            continue
        pending.extend(node.args)
        if node.op == "loop":
            pending.extend(node.attr.nexts)
    return found


def nodes_of(roots: Iterable[Node]) -> Iterator[Node]:
    """Yield every node that the roots need, bodies of loops included, each once."""
    seen: set[int] = set()
    pending = list(roots)[::-1]
    while pending:
        node = pending.pop()
        if node.index in seen:
            continue
        seen.add(node.index)
        yield node
        if node.op == "loop":
            pending.extend(node.attr.nexts)
        pending.extend(reversed(node.args))


def to_text(roots: Iterable[tuple[str, Node]], column_names: tuple[str, ...] = ()) -> str:
    """Return a listing of everything that the named roots need, one node a line, in the order of computation."""
    lines: list[str] = []
    names: dict[int, str] = {}

    def name(node: Node) -> str:
        if node.is_const:
            return repr(node.attr)
        return names[node.index]

    def column(number: int) -> str:
        return column_names[number] if number < len(column_names) else f"#{number}"

    def emit(node: Node, indent: str) -> None:
        if node.is_const or node.index in names:
            return
        for argument in node.args:
            emit(argument, indent)
        if node.op == "loop":
            names[node.index] = f"loop{node.index}"
            initial = ", ".join(
                f"%{p.index} = {name(a)}" for p, a in zip(node.attr.params, node.args, strict=True)
            )
            lines.append(f"{indent}loop{node.index}: while any {node.attr.params[0]!r} from {initial}")
            for parameter in node.attr.params:
                names[parameter.index] = f"%{parameter.index}"
            for following in node.attr.nexts:
                emit(following, indent + "  ")
            nexts = ", ".join(
                f"%{p.index} <- {name(n)}" for p, n in zip(node.attr.params, node.attr.nexts, strict=True)
            )
            lines.append(f"{indent}  next {nexts}")
            return
        names[node.index] = f"%{node.index}"
        arguments = ", ".join(name(a) for a in node.args)
        if node.op in ("load", "valid"):
            arguments = column(node.attr)
        elif node.op == "string_op":
            leaves = [repr(x.text) if x.column is None else column(x.column) for x in node.attr.leaves]
            name_of_op = node.attr.name if node.attr.automaton is None else node.attr.automaton.shown
            arguments = f"{name_of_op} " + ", ".join(leaves)
        elif node.op == "loop_out":
            arguments += f".{node.attr}"
        elif node.attr is not None:
            arguments = f"{node.attr}({arguments})"
        lines.append(f"{indent}%{node.index}: {node.type} = {node.op} {arguments}")

    for _, root in roots:
        emit(root, "")
    lines.extend(f"{label} = {name(root)}" for label, root in roots)
    return "\n".join(lines)
