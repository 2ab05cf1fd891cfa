"""What lowering an expression needs at hand: the graph, the place in the user's file, and a few conversions.

``Scope.fail`` is the one place where a user's function is refused: it writes the message with file, line, the
text of the line with a marker under the expression, the columns with their types, the reason and the way out.
"""

from __future__ import annotations

import ast
from typing import NoReturn

import pyarrow as pa

from dataflare.kernels.dtypes import BOOL, FLOAT32, FLOAT64, INT64, WEAK_FLOAT, ValueType
from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.ir import Graph, Node
from dataflare.kernels.udf.source import FunctionSource
from dataflare.kernels.udf.values import (
    Constant,
    Derived,
    Group,
    JoinError,
    Opaque,
    Scalar,
    Text,
    Value,
    choose,
    constant_scalar,
    convert,
    describe,
)

__all__ = ["DEFAULT_WAY_OUT", "MAX_CALL_DEPTH", "Scope"]

MAX_CALL_DEPTH = 32

DEFAULT_WAY_OUT = (
    "rewrite this part with what record functions have (see the README), or do it in .map_batches(fn), "
    "which gets whole Arrow batches and may use any library"
)


class Scope:
    """The state shared by all functions of one program while they are lowered."""

    def __init__(self, schema: pa.Schema) -> None:
        self.graph = Graph()
        self.schema = schema
        self.columns_touched: dict[str, str] = {}
        self.effects: list[str] = []
        self.depth = 0
        self.sources: list[FunctionSource] = []
        self.position: ast.AST | None = None

    # ---------------------------------------------------------------------------------------- errors

    def fail(self, reason: str, way_out: str = DEFAULT_WAY_OUT) -> NoReturn:
        """Refuse the user's function at the current place."""
        raise CompileError(self.message(reason, way_out))

    def note_effect(self) -> None:
        """Keep the error for an expression that is there for its effect, such as print()."""
        self.effects.append(
            self.message(
                "a compiled function has no effects, and the value of this expression is dropped",
                'to print or step through it, run with device="python"; else remove it',
            )
        )

    def message(self, reason: str, way_out: str) -> str:
        """Return the text of an error at the current place in the user's file."""
        lines: list[str] = []
        if self.sources:
            source = self.sources[-1]
            line = getattr(self.position, "lineno", source.first_line)
            lines.append(f"{source.filename}:{line}: cannot compile {_name(source)}")
            text = source.line_text(line)
            if text:
                number = f"{line:>5} | "
                lines.append(number + text)
                start = getattr(self.position, "col_offset", None)
                if start is not None:
                    same_line = getattr(self.position, "end_lineno", line) == line
                    end = getattr(self.position, "end_col_offset", len(text)) if same_line else len(text)
                    encoded = text.encode()
                    lead, width = len(encoded[:start].decode()), len(encoded[start:end].decode())
                    lines.append(" " * (len(number) + lead) + "^" * max(1, width))
            for caller in self.sources[-2::-1]:
                lines.append(f"      called from {_name(caller)} ({caller.filename}:{caller.first_line})")
        lines.append(reason[:1].upper() + reason[1:] + ".")
        if self.columns_touched:
            typed = ", ".join(f"{name}: {kind}" for name, kind in self.columns_touched.items())
            lines.append(f"Columns used: {typed}.")
        if way_out:
            lines.append("Way out: " + way_out + ".")
        return "\n".join(lines)

    # ------------------------------------------------------------------------------------ conversions

    def operand(self, value: Value) -> Scalar | Text:
        """Return a value as something to compute with."""
        if isinstance(value, Constant):
            try:
                scalar = constant_scalar(self.graph, value.value)
            except JoinError as error:
                self.fail(str(error))
            if scalar is not None:
                return scalar
        if isinstance(value, Scalar | Text):
            return value
        if isinstance(value, Derived):
            self.fail(
                f"{describe(value)} can only be tested here: record functions do not build new strings",
                "compare it with constants, or do it in .map_batches(fn)",
            )
        if isinstance(value, Opaque):
            self.fail(
                f"column type {value.type_name} cannot be used inside a record function, only passed on",
                "use .map_batches(fn) for it",
            )
        if isinstance(value, Group) and value.is_input:
            self.fail("the record itself is not a value here", "name a column: r.column or r['column']")
        self.fail(f"{describe(value)} is not a value that can be computed with")

    def operands(self, left: Value, right: Value) -> tuple[Scalar | Text, Scalar | Text]:
        """Return two values that meet; beside a float, a literal from 2**63 on is a float literal, as smaller ones."""
        a, b = self.operand(left), self.operand(right)
        return self._beside(left, a, b), self._beside(right, b, a)

    def _beside(self, value: Value, operand: Scalar | Text, other: Scalar | Text) -> Scalar | Text:
        is_large = isinstance(value, Constant) and type(value.value) is int and value.value >= 2**63
        if (
            is_large
            and isinstance(other, Scalar)
            and other.type.kind == "float"
            and isinstance(operand, Scalar)
        ):
            return Scalar(WEAK_FLOAT, self.graph.const(WEAK_FLOAT, float(operand.node.attr)))
        return operand

    def number(self, value: Value, what: str) -> Scalar:
        """Return a value as a number (bool counts), or refuse it as the argument of ``what``."""
        operand = self.operand(value)
        if isinstance(operand, Scalar) and operand.type.is_number:
            return operand
        way_out = "convert with float(...) first" if _is_decimal(operand) else DEFAULT_WAY_OUT
        self.fail(f"{what} needs a number and got {describe(operand)}", way_out)

    def cast(self, value: Scalar, kind: ValueType) -> Node:
        """Return the node of ``value`` as ``kind``."""
        return convert(self.graph, value.node, value.type, kind)

    def join(self, condition: Node, then: Value, otherwise: Value) -> Value:
        """Return ``then`` where ``condition`` holds, else ``otherwise``; refuse what has no common type."""
        try:
            return choose(self.graph, condition, then, otherwise)
        except JoinError as error:
            self.fail(str(error), "give both paths the same type")

    def truth(self, value: Value) -> Node:
        """Return whether a value counts as true; null is false."""
        graph = self.graph
        if isinstance(value, Constant):
            return graph.const(BOOL, bool(value.value))
        if isinstance(value, Group) and not value.is_input and value.names is None:
            return graph.const(BOOL, bool(value.items))
        if isinstance(value, Derived):
            from dataflare.kernels.udf import derived

            some = derived.test(self, value, ("at_least", 1))
            return graph.both(some.node, some.valid) or graph.true
        operand = self.operand(value)
        if isinstance(operand, Scalar) and operand.holds is not None:
            return operand.holds
        if isinstance(operand, Text):
            from dataflare.kernels.udf import text

            node = graph.op("ne", BOOL, text.length(self, operand).node, graph.const(INT64, 0))
        elif operand.type.kind == "bool":
            node = operand.node
        elif operand.type.kind in ("date", "time", "timestamp"):
            node = graph.true  # as Python: every date is true
        else:
            node = graph.op("ne", BOOL, operand.node, graph.const(operand.type, 0))
        return graph.both(node, operand.valid) or graph.true

    def kleene(self, a: Scalar, b: Scalar, *, conjunction: bool) -> Scalar:
        """Return ``a and b`` or ``a or b`` of two flags in three-valued logic (Kleene, as SQL and Arrow have it)."""
        graph = self.graph
        op = "and" if conjunction else "or"
        node = graph.op(op, BOOL, a.node, b.node)
        if a.valid is None and b.valid is None:
            return Scalar(BOOL, node)
        holds = graph.op(op, BOOL, self.truth(a), self.truth(b))
        decides = (lambda x: graph.negate(x.node)) if conjunction else (lambda x: x.node)
        valid_a, valid_b = a.valid or graph.true, b.valid or graph.true
        known = graph.op("and", BOOL, valid_a, valid_b)
        by_a = graph.op("and", BOOL, valid_a, decides(a))
        by_b = graph.op("and", BOOL, valid_b, decides(b))
        valid = graph.op("or", BOOL, known, graph.op("or", BOOL, by_a, by_b))
        if conjunction:  # a null side counts as true, so that a false other side decides
            node = graph.op(
                "and",
                BOOL,
                graph.op("or", BOOL, a.node, graph.negate(valid_a)),
                graph.op("or", BOOL, b.node, graph.negate(valid_b)),
            )
        else:
            node = graph.op(
                "or", BOOL, graph.op("and", BOOL, a.node, valid_a), graph.op("and", BOOL, b.node, valid_b)
            )
        return Scalar(BOOL, node, None if valid is graph.true else valid, holds)

    def math_call(self, name: str, kind: ValueType, *args: Node) -> Node:
        """Return a call of a mathematical function; float32 goes through float64 and is rounded once."""
        if kind.bits == 64 or name in ("sqrt", "fabs", "floor", "ceil", "trunc", "rint", "copysign"):
            return self.graph.op("call", kind, *args, attr=name)
        wide = [self.graph.op("convert", FLOAT64, a) for a in args]
        return self.graph.op("convert", FLOAT32, self.graph.op("call", FLOAT64, *wide, attr=name))

    def is_null(self, value: Value) -> Value:
        """Return whether a value is null, known now where possible."""
        if isinstance(value, Constant):
            return Constant(value.value is None)
        valid = getattr(value, "valid", None)
        if valid is None:
            return Constant(False)
        return Scalar(BOOL, self.graph.negate(valid))


def _is_decimal(value: Scalar | Text) -> bool:
    return isinstance(value, Scalar) and value.type.kind == "decimal"


def _name(source: FunctionSource) -> str:
    return "this lambda" if source.name == "<lambda>" else f"the function {source.name}"
