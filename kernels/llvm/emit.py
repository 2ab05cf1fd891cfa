"""Turns nodes of the dataflow form into LLVM instructions for a group of records.

One emitter serves both the vector loop (``lanes`` records in registers) and the loop over the last few records
(``lanes == 1``); functions are the same operations in both, and those of a vector library are called with whole
registers, so a result does not depend on where in a batch a record stands. Floats are never reassociated or contracted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from dataflare.kernels.dtypes import FLOAT32, FLOAT64, ValueType
from dataflare.kernels.llvm.division import divide_by_constant
from dataflare.kernels.llvm.floor_division import float_remainder, floor_division
from dataflare.kernels.llvm.loops import emit_loop
from dataflare.kernels.llvm.math.functions import FUNCTIONS
from dataflare.kernels.llvm.math.lanes import Lanes
from dataflare.kernels.llvm.target import MATH_FUNCTIONS, Target
from dataflare.kernels.udf.ir import Node

__all__ = ["Code", "Emitter", "lane_type"]

_COMPARISONS = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_SIGNED = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_UNSIGNED = {"eq": "eq", "ne": "ne", "lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}
_FLOAT_OPS = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTRINSICS = ("sqrt", "fabs", "floor", "ceil", "trunc", "rint", "copysign")


def lane_type(kind: ValueType) -> str:
    """Return the LLVM type of one value."""
    if kind.kind == "float":
        return {16: "half", 32: "float", 64: "double"}[kind.bits]
    return f"i{kind.bits}"


class Code:
    """The text of one LLVM function under construction, and the names used in it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.declarations: dict[str, None] = {}
        self.block = "entry"
        self._count = 0

    def name(self, stem: str = "v") -> str:
        """Return a fresh register name."""
        self._count += 1
        return f"%{stem}{self._count}"

    def value(self, text: str, stem: str = "v") -> str:
        """Add ``%name = text`` and return the name."""
        name = self.name(stem)
        self.lines.append(f"  {name} = {text}")
        return name

    def add(self, text: str) -> None:
        """Add an instruction without a result."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begin a basic block."""
        self.lines.append(f"{name}:")
        self.block = name

    def fresh_label(self, stem: str) -> str:
        """Return a fresh block name."""
        self._count += 1
        return f"{stem}{self._count}"

    def variable(self, type: str, stem: str, initial: str = "0") -> str:
        """Add a stack slot in the entry block; the optimiser keeps it in a register."""
        name = self.name(stem)
        self.entry.append(f"  {name} = alloca {type}, align 8")
        self.entry.append(f"  store {type} {initial}, ptr {name}, align 8")
        return name

    def declare(self, text: str) -> None:
        """Add what the module has beside the function: an external function, or one of its own with its tables."""
        self.declarations[text] = None


class Emitter:
    """Emits nodes for ``lanes`` records; each node once, in the block where it is first needed."""

    def __init__(
        self,
        code: Code,
        target: Target,
        lanes: int,
        load: Callable[[Emitter, Node], str],
    ) -> None:
        self.code = code
        self.target = target
        self.lanes = lanes
        self._load = load
        self._values: dict[int, str] = {}
        self._divisions: dict[tuple[int, int], tuple[str, str]] = {}

    # ------------------------------------------------------------------------------------- types

    def type_of(self, element: str) -> str:
        """Return the LLVM type of a group of ``element``."""
        return element if self.lanes == 1 else f"<{self.lanes} x {element}>"

    def node_type(self, node: Node) -> str:
        """Return the LLVM type of a node's value in this group."""
        return self.type_of(lane_type(node.type))

    @staticmethod
    def element_of(node: Node) -> str:
        """Return the LLVM type of a node's value for one record."""
        return lane_type(node.type)

    def constant(self, kind: ValueType, value: object) -> str:
        """Return a constant as an LLVM literal."""
        if kind.kind == "float":
            text = "0x" + struct.pack(">d", value).hex().upper()
            if kind.bits == 16:
                text = "0xH" + struct.pack(">e", value).hex().upper()
        elif kind.kind == "bool":
            text = "true" if value else "false"
        else:
            text = str(value)
        return text if self.lanes == 1 else f"splat ({lane_type(kind)} {text})"

    def splat(self, element: str, text: str) -> str:
        """Return a literal of ``element`` in every lane."""
        return text if self.lanes == 1 else f"splat ({element} {text})"

    def spread(self, value: str, element: str) -> str:
        """Return one value in every lane."""
        if self.lanes == 1:
            return value
        return self._spread(value, element, self.lanes)

    # ------------------------------------------------------------------------------------- nodes

    def narrowed(self, lanes: int) -> Emitter:
        """Return an emitter into the same code for fewer lanes; it knows no values yet."""
        return Emitter(self.code, self.target, lanes, self._load)

    def define(self, node: Node, value: str) -> None:
        """Take ``value`` as the value of a node from here on."""
        self._values[node.index] = value

    def emit(self, node: Node) -> str:
        """Return the name of a node's value, computing it here if it is new."""
        if node.is_const:
            return self.constant(node.type, node.attr)
        known = self._values.get(node.index)
        if known is not None:
            return known
        for pending in self._missing(node):
            if pending.index not in self._values:
                self._values[pending.index] = self._instruction(pending)
        return self._values[node.index]

    def _missing(self, node: Node) -> list[Node]:
        """Return what must be computed for ``node``, in order; iterative, since chains can be long."""
        order: list[Node] = []
        seen: set[int] = set()
        stack: list[tuple[Node, bool]] = [(node, False)]
        while stack:
            current, ready = stack.pop()
            if ready:
                order.append(current)
                continue
            if current.is_const or current.index in self._values or current.index in seen:
                continue
            seen.add(current.index)
            stack.append((current, True))
            call = self._narrow_call(current)
            needed = current.args if call is None else tuple(a.args[0] for a in call.args)
            stack.extend((argument, False) for argument in reversed(needed))
        return order

    def _instruction(self, node: Node) -> str:
        if node.op in ("load", "valid", "string_op"):
            return self._load(self, node)
        if node.op == "loop":
            values = emit_loop(self, node)
            for parameter, value in zip(node.attr.params, values, strict=True):
                self.define(parameter, value)
            return values[0]
        if node.op == "loop_out":
            return self._values[node.args[0].attr.params[node.attr].index]
        if node.op == "call":
            return self._call(node)
        if (call := self._narrow_call(node)) is not None:
            return self._narrow_math(call.attr, [self.emit(a.args[0]) for a in call.args])
        args = [self.emit(a) for a in node.args]
        kind, text = node.type, self.node_type(node)
        if node.op == "convert":
            return self._convert(node, args[0])
        if node.op == "select":
            flags = self.type_of("i1")
            return self.code.value(f"select {flags} {args[0]}, {text} {args[1]}, {text} {args[2]}")
        if node.op in _COMPARISONS:
            operand = node.args[0].type
            vector = self.node_type(node.args[0])
            if operand.kind == "float":
                return self.code.value(f"fcmp {_COMPARISONS[node.op]} {vector} {args[0]}, {args[1]}")
            table = _UNSIGNED if operand.kind in ("uint", "bool") else _SIGNED
            return self.code.value(f"icmp {table[node.op]} {vector} {args[0]}, {args[1]}")
        if node.op == "not":
            ones = self.splat("i1", "true") if kind.kind == "bool" else self.splat(lane_type(kind), "-1")
            return self.code.value(f"xor {text} {args[0]}, {ones}")
        if node.op == "neg":
            if kind.kind == "float":
                return self.code.value(f"fneg {text} {args[0]}")
            return self.code.value(f"sub {text} {self.splat(lane_type(kind), '0')}, {args[0]}")
        if node.op in ("floordiv", "floormod"):
            return self._floor_division(node, *args)
        if node.op == "rem":
            return float_remainder(self, node, *args)
        if node.op == "div" and kind == FLOAT64 and node.args[1].is_const:
            quotient = divide_by_constant(self, args[0], node.args[1].attr)
            if quotient is not None:
                return quotient
        op = _FLOAT_OPS[node.op] if kind.kind == "float" else node.op
        return self.code.value(f"{op} {text} {args[0]}, {args[1]}")

    def _floor_division(self, node: Node, x: str, y: str) -> str:
        """Return the quotient or the remainder; the other one comes with it, and is kept."""
        key = (node.args[0].index, node.args[1].index)
        if key not in self._divisions:
            self._divisions[key] = floor_division(self, node, x, y)
        return self._divisions[key][node.op == "floormod"]

    def _convert(self, node: Node, value: str) -> str:
        source, target = node.args[0].type, node.type
        a, b = lane_type(source), lane_type(target)
        vector_a, vector_b = self.type_of(a), self.type_of(b)
        if source.kind == "float":
            if target.kind == "float":
                if a == b:
                    return value
                op = "fpext" if target.bits > source.bits else "fptrunc"
            elif target.bits == 64 and self.lanes > 1 and not self.target.converts_int64:
                return self._float64_to_int64(value)
            else:
                op = "fptosi"
        elif target.kind == "float":
            if source.kind not in ("uint", "bool") and source.bits == 64 and target.bits == 64:
                return self.int64_to_float64(value)
            op = "uitofp" if source.kind in ("uint", "bool") else "sitofp"
        elif a == b:
            return value
        elif target.bits < source.bits:
            op = "trunc"
        else:
            op = "zext" if source.kind in ("uint", "bool") else "sext"
        return self.code.value(f"{op} {vector_a} {value} to {vector_b}")

    def int64_to_float64(self, value: str) -> str:
        """Convert int64 to float64 with one rounding, also where the CPU has no such vector instruction.

        Without it, the high and low halves become exact floats by writing them into the mantissas of 2**84 and
        2**52; their difference from the constants is exact and the last addition rounds once (as compilers do for
        AVX2).
        """
        code, ints, floats = self.code, self.type_of("i64"), self.type_of("double")
        if self.lanes == 1 or self.target.converts_int64:
            return code.value(f"sitofp {ints} {value} to {floats}")
        low = code.value(f"and {ints} {value}, {self.splat('i64', '4294967295')}")
        low = code.value(f"or {ints} {low}, {self.splat('i64', str(0x4330000000000000))}")
        low = code.value(f"bitcast {ints} {low} to {floats}")
        high = code.value(f"lshr {ints} {value}, {self.splat('i64', '32')}")
        high = code.value(f"xor {ints} {high}, {self.splat('i64', str(0x4530000080000000))}")
        high = code.value(f"bitcast {ints} {high} to {floats}")
        offset = self.constant(FLOAT64, 2.0**84 + 2.0**63 + 2.0**52)
        high = code.value(f"fsub {floats} {high}, {offset}")
        return code.value(f"fadd {floats} {high}, {low}")

    def _float64_to_int64(self, value: str) -> str:
        """Convert whole floats that fit, in halves that are read from the mantissas of 1.5 * 2**52 and 2**52."""
        code, ints, floats = self.code, self.type_of("i64"), self.type_of("double")
        scaled = code.value(f"fmul {floats} {value}, {self.constant(FLOAT64, 2.0**-32)}")
        high = self.intrinsic("floor", "double", scaled)
        taken = code.value(f"fmul {floats} {high}, {self.constant(FLOAT64, 2.0**32)}")
        low = code.value(f"fsub {floats} {value}, {taken}")
        high = code.value(f"fadd {floats} {high}, {self.constant(FLOAT64, 1.5 * 2.0**52)}")
        high = code.value(f"bitcast {floats} {high} to {ints}")
        high = code.value(f"shl {ints} {high}, {self.splat('i64', '32')}")
        low = code.value(f"fadd {floats} {low}, {self.constant(FLOAT64, 2.0**52)}")
        low = code.value(f"bitcast {floats} {low} to {ints}")
        low = code.value(f"and {ints} {low}, {self.splat('i64', '4294967295')}")
        return code.value(f"or {ints} {high}, {low}")

    # -------------------------------------------------------------------------------------- math

    def _call(self, node: Node) -> str:
        args = [self.emit(a) for a in node.args]
        element = lane_type(node.type)
        if node.attr in _INTRINSICS:
            return self.intrinsic(node.attr, element, *args)
        if self.target.own_math and node.attr in FUNCTIONS:
            return self._own_math(node.attr, element, args)
        symbol = self.target.vector_math.get(node.attr)
        if symbol is None:
            return self._scalar_calls(node, args)
        return self._vector_calls(symbol, "double", args)

    def intrinsic(self, name: str, element: str, *args: str) -> str:
        """Return the result of an LLVM intrinsic that is an instruction for a whole group."""
        vector = self.type_of(element)
        width = "" if self.lanes == 1 else f"v{self.lanes}"
        symbol = f"llvm.{name}.{width}{ {'half': 'f16', 'float': 'f32', 'double': 'f64'}[element] }"
        self.code.declare(f"declare {vector} @{symbol}({', '.join([vector] * len(args))})")
        return self.code.value(f"call {vector} @{symbol}({', '.join(f'{vector} {a}' for a in args)})")

    def _narrow_call(self, node: Node) -> Node | None:
        """Return the call whose result a node rounds to float32, if its arguments are float32 and there is a function.

        Of what is computed in float64 for it only the rounding would be left: half as many lanes fit a register.
        """
        if node.op != "convert" or node.type != FLOAT32 or node.args[0].op != "call":
            return None
        call = node.args[0]
        if call.attr not in self.target.vector_math32 and not (
            self.target.own_math and call.attr in FUNCTIONS
        ):
            return None
        from_float32 = all(a.op == "convert" and a.args[0].type == FLOAT32 for a in call.args)
        return call if from_float32 and call.type == FLOAT64 else None

    def _narrow_math(self, name: str, args: list[str]) -> str:
        """Return a function of float32, computed in float32."""
        if self.target.own_math and name in FUNCTIONS:
            return self._own_math(name, "float", args)
        return self._vector_calls(self.target.vector_math32[name], "float", args)

    def _own_math(self, name: str, element: str, args: list[str]) -> str:
        """Return a function of `kernels.llvm.math`: code in place, or a call of it for one record of a CPU's loop.

        The last few records of a batch are not worth compiling the same code for each of them and each variant.
        """
        if self.lanes > 1 or self.target.inlines_math:
            return FUNCTIONS[name](Lanes(self, element), *args)
        code = Code()
        parameters = ("%x", "%y")[: len(args)]
        result = FUNCTIONS[name](Lanes(Emitter(code, self.target, 1, self._load), element), *parameters)
        for text in code.declarations:
            self.code.declare(text)
        listed = ", ".join(f"{element} {parameter}" for parameter in parameters)
        head = f"define internal {element} @{name}_{element}({listed}) noinline nounwind willreturn memory(none) {{"
        lines = (head, "entry:", *code.entry, *code.lines, f"  ret {element} {result}", "}")
        self.code.declare("\n".join(lines))
        passed = ", ".join(f"{element} {arg}" for arg in args)
        return self.code.value(f"call {element} @{name}_{element}({passed})")

    def _vector_calls(self, symbol: str, element: str, args: list[str]) -> str:
        code = self.code
        width = self.target.register_bytes // (8 if element == "double" else 4)
        register = f"<{width} x {element}>"
        code.declare(f"declare {register} @{symbol}({', '.join([register] * len(args))}) #2")
        if self.lanes == 1:
            pieces = [self._spread(a, element, width) for a in args]
            result = code.value(f"call {register} @{symbol}({', '.join(f'{register} {p}' for p in pieces)})")
            return code.value(f"extractelement {register} {result}, i64 0")
        parts = []
        for start in range(0, self.lanes, width):
            pieces = [self.part(a, element, start, width) for a in args]
            parts.append(
                code.value(f"call {register} @{symbol}({', '.join(f'{register} {p}' for p in pieces)})")
            )
        return self.concatenate(parts, element, width)

    def _spread(self, value: str, element: str, width: int) -> str:
        register = f"<{width} x {element}>"
        first = self.code.value(f"insertelement {register} poison, {element} {value}, i64 0")
        return self.code.value(
            f"shufflevector {register} {first}, {register} poison, <{width} x i32> zeroinitializer"
        )

    def part(self, value: str, element: str, start: int, width: int) -> str:
        """Return ``width`` lanes of a value from lane ``start``."""
        if width == self.lanes:
            return value
        lanes = ", ".join(f"i32 {i}" for i in range(start, start + width))
        vector = self.type_of(element)
        return self.code.value(f"shufflevector {vector} {value}, {vector} poison, <{width} x i32> <{lanes}>")

    def concatenate(self, parts: list[str], element: str, width: int) -> str:
        """Return groups of ``width`` lanes as one group, in order."""
        while len(parts) > 1:
            lanes = ", ".join(f"i32 {i}" for i in range(2 * width))
            parts = [
                self.code.value(
                    f"shufflevector <{width} x {element}> {a}, <{width} x {element}> {b}, <{2 * width} x i32> <{lanes}>"
                )
                for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
            width *= 2
        return parts[0]

    def _scalar_calls(self, node: Node, args: list[str]) -> str:
        name, _ = MATH_FUNCTIONS[node.attr]
        return self.one_by_one(name, "double", *args)

    def one_by_one(self, symbol: str, element: str, *args: str) -> str:
        """Return the result of a function on single values of ``element``, called for each lane."""
        code = self.code
        code.declare(f"declare {element} @{symbol}({', '.join([element] * len(args))}) #2")
        if self.lanes == 1:
            return code.value(f"call {element} @{symbol}({', '.join(f'{element} {a}' for a in args)})")
        vector = self.type_of(element)
        result = "poison"
        for lane in range(self.lanes):
            values = [code.value(f"extractelement {vector} {a}, i64 {lane}") for a in args]
            one = code.value(f"call {element} @{symbol}({', '.join(f'{element} {v}' for v in values)})")
            result = code.value(f"insertelement {vector} {result}, {element} {one}, i64 {lane}")
        return result

    def any(self, flags: str) -> str:
        """Return whether any lane of a group of flags is set, as one i1."""
        if self.lanes == 1:
            return flags
        bits = self.code.value(f"bitcast <{self.lanes} x i1> {flags} to i{self.lanes}")
        return self.code.value(f"icmp ne i{self.lanes} {bits}, 0")
