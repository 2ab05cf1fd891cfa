"""What the decoders of instructions build on: operands as functions over lanes, and the table of decoders.

A decoder turns one instruction into an operation, a closure that reads registers of a batch, computes on arrays and
writes a register. It is called once for each instruction of a program; the closure for each step of a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.syntax import (
    Address,
    Function,
    Immediate,
    Instruction,
    Operand,
    Register,
    Symbol,
    Vector,
)
from dataflare.kernels.emulator.types import TYPES, UNSIGNED, Array, PtxType
from dataflare.kernels.errors import DeviceCodeError

__all__ = [
    "BadOperand",
    "DECODERS",
    "Decoder",
    "Layout",
    "Reader",
    "Scope",
    "Writer",
    "decode",
    "decoder",
    "types_of",
]

Reader: TypeAlias = Callable[[Batch, Lanes], Array]
Writer: TypeAlias = Callable[[Batch, Lanes, Array], None]
Decoder: TypeAlias = Callable[["Scope", Instruction], Operation]

_SPECIAL = re.compile(
    r"%(?:(?:tid|ntid|ctaid|nctaid)\.[xyz]|laneid|warpid|nwarpid|smid|lanemask_(?:eq|lt|le|gt|ge)"
    r"|clock(?:_hi|64)?|globaltimer(?:_lo|_hi)?)"
)

DECODERS: dict[str, Decoder] = {}
"""What decodes each opcode; those on floats and on predicates have ".f" and ".p" behind it."""


def decoder(*opcodes: str) -> Callable[[Decoder], Decoder]:
    """Register a function as the decoder of opcodes."""

    def register(function: Decoder) -> Decoder:
        for opcode in opcodes:
            DECODERS[opcode] = function
        return function

    return register


def types_of(instruction: Instruction) -> list[PtxType]:
    """Return the types that an instruction names, in order."""
    return [TYPES[modifier] for modifier in instruction.modifiers if modifier in TYPES]


def decode(scope: Scope, instruction: Instruction) -> Operation:
    """Return the operation of an instruction that is neither control nor needs a whole warp."""
    types = types_of(instruction)
    found = DECODERS.get(instruction.opcode)
    if types and types[0].kind in ("f", "p"):
        found = DECODERS.get(f"{instruction.opcode}.{types[0].kind}", found)
    if found is None:
        raise scope.wrong(instruction)
    return found(scope, instruction)


class BadOperand(Exception):
    """An operand that its instruction cannot have; becomes the error that names the line."""


@dataclass(frozen=True)
class Layout:
    """Where the variables of a program are: offsets in shared memory, the kernel's parameters, names in memory."""

    shared: dict[str, int]
    shared_bytes: int
    parameters: dict[str, tuple[int, int]]
    in_memory: frozenset[str]


class Scope:
    """One copy of a function in a program: gives its names numbers.

    Parameters
    ----------
    function
        What is decoded.
    layout
        Of the program.
    register_sizes, slot_bytes
        Of the program; the function's own are appended.
    local_offsets
        Where its ``.local`` variables begin.
    slots
        The ``.param`` variables that the caller passes, by the names they have here.
    """

    def __init__(
        self,
        function: Function,
        layout: Layout,
        register_sizes: list[int],
        slot_bytes: list[int],
        local_offsets: dict[str, int],
        slots: dict[str, int],
    ) -> None:
        self.function = function
        self.layout = layout
        self.slots = dict(slots)
        self.local_offsets = local_offsets
        self._registers: dict[str, tuple[int, PtxType]] = {}
        for name, type_name in function.registers.items():
            if type_name not in TYPES:
                raise DeviceCodeError(
                    f"PTX line {function.line}: registers of type .{type_name} are not covered."
                )
            of_register = TYPES[type_name]
            self._registers[name] = (len(register_sizes), of_register)
            register_sizes.append(0 if of_register.kind == "p" else of_register.size_bytes)
        for name, parameter in function.params.items():
            self.slots[name] = len(slot_bytes)
            slot_bytes.append(parameter.size_bytes)

    def wrong(self, instruction: Instruction, why: str = "is not covered") -> DeviceCodeError:
        """Return the error for an instruction that cannot be decoded."""
        name = ".".join((instruction.opcode, *instruction.modifiers))
        return DeviceCodeError(f"PTX line {instruction.line}: {name} {why}.")

    def allow(self, instruction: Instruction, modifiers: str) -> None:
        """Raise an error if an instruction has a modifier that is neither a type nor one of those named."""
        allowed = modifiers.split()
        for modifier in instruction.modifiers:
            if modifier not in TYPES and modifier not in allowed:
                raise self.wrong(instruction, f"has the modifier .{modifier}, which is not covered")

    def register(self, name: str) -> tuple[int, PtxType]:
        """Return a register's number and declared type."""
        return self._registers[name]

    # ----------------------------------------------------------------------------------------------- operands

    def source(self, operand: Operand, of_type: PtxType) -> Reader:
        """Return what reads an operand as values of a type."""
        bits = self.bits(operand, of_type)
        if of_type.kind in ("u", "p") and not of_type.is_packed:
            return bits
        if isinstance(operand, Immediate):
            value = of_type.view(_immediate(operand, of_type))
            return lambda batch, lanes: value
        if of_type.is_packed or of_type.is_bfloat:
            return lambda batch, lanes: of_type.view(bits(batch, lanes))
        dtype = of_type.dtype
        return lambda batch, lanes: bits(batch, lanes).view(dtype)

    def bits(self, operand: Operand, of_type: PtxType) -> Reader:
        """Return what reads an operand as unsigned integers of a type's size."""
        if isinstance(operand, Register):
            return self._register_bits(operand, of_type)
        if isinstance(operand, Immediate):
            value = _immediate(operand, of_type)
            return lambda batch, lanes: value
        if isinstance(operand, Symbol):
            return self._symbol(operand.name, of_type)
        if isinstance(operand, Address):
            base = self.bits(operand.base, of_type)
            offset = UNSIGNED[of_type.size_bytes].type(operand.offset_bytes & ((1 << of_type.bits) - 1))
            return lambda batch, lanes: base(batch, lanes) + offset
        raise BadOperand("has a vector in place of a single operand")

    def _register_bits(self, operand: Register, of_type: PtxType) -> Reader:
        number, declared = self._registers[operand.name]
        if (declared.kind == "p") != (of_type.kind == "p"):
            raise BadOperand(f"reads {operand.name}, a .{declared.name}, where .{of_type.name} is expected")
        same_size = declared.size_bytes == of_type.size_bytes
        dtype = None if same_size else UNSIGNED[of_type.size_bytes]
        is_negated = operand.is_negated

        def read(batch: Batch, lanes: Lanes) -> Array:
            values = batch.registers[number]
            if lanes is not None and values.ndim:
                values = values[lanes]
            if dtype is not None:
                values = values.astype(dtype)
            return ~values if is_negated else values

        return read

    def _symbol(self, name: str, of_type: PtxType) -> Reader:
        dtype = UNSIGNED[of_type.size_bytes] if of_type.kind != "p" else np.dtype(np.bool_)
        if name == "WARP_SZ":
            width = dtype.type(32)
            return lambda batch, lanes: width
        if _SPECIAL.fullmatch(name):
            return _special(name, dtype)
        place = self.layout.shared.get(name)
        if place is None and name in self.local_offsets:
            place = self.local_offsets[name]
        if place is None and name in self.layout.parameters and self.function.is_entry:
            place = self.layout.parameters[name][0]
        if place is not None:
            fixed = dtype.type(place)
            return lambda batch, lanes: fixed
        if name not in self.layout.in_memory:
            raise BadOperand(f"names {name}, which is not declared")

        def read(batch: Batch, lanes: Lanes) -> Array:
            return np.uint64(batch.global_addresses[name]).astype(dtype)

        return read

    def target(self, operand: Operand, of_type: PtxType) -> Writer:
        """Return what writes values of a type to a register; a wider register is extended as the type says."""
        if isinstance(operand, Symbol) and operand.name == "_":
            return lambda batch, lanes, values: None
        if not isinstance(operand, Register):
            raise BadOperand("has a result that is no register")
        number, declared = self._registers[operand.name]
        if (declared.kind == "p") != (of_type.kind == "p"):
            raise BadOperand(f"writes {operand.name}, a .{declared.name}, where .{of_type.name} is expected")
        widen = None
        if declared.size_bytes > of_type.size_bytes:
            widen = np.dtype(f"{'i' if of_type.kind == 's' else 'u'}{declared.size_bytes}")
        elif declared.size_bytes < of_type.size_bytes:
            raise BadOperand(f"writes {operand.name}, a .{declared.name}, too small for .{of_type.name}")
        stored = np.dtype(np.bool_) if declared.kind == "p" else UNSIGNED[declared.size_bytes]
        bits_of = of_type.bits_of

        def write(batch: Batch, lanes: Lanes, values: Array) -> None:
            if widen is None:
                values = bits_of(values)
            else:
                values = values.astype(widen).view(stored)
            registers = batch.registers
            if lanes is None:
                registers[number] = values
                return
            current = registers[number]
            if current.ndim == 0:
                current = registers[number] = np.full(batch.count, current, stored)
            current[lanes] = values

        return write

    def address(self, instruction: Instruction, operand: Operand) -> Reader:
        """Return what reads the address in brackets, as unsigned integers of 64 bits."""
        if not isinstance(operand, Address):
            raise self.wrong(instruction, "needs an address")
        width = TYPES["b64"]
        if isinstance(operand.base, Register):
            declared = self._registers[operand.base.name][1]
            narrow = self.bits(operand.base, declared)
            base: Reader = narrow
            if declared.size_bytes != 8:
                base = lambda batch, lanes: narrow(batch, lanes).astype(np.uint64)  # noqa: E731
        else:
            base = self.bits(operand.base, width)
        if operand.offset_bytes == 0:
            return base
        offset = np.uint64(operand.offset_bytes & ((1 << 64) - 1))
        return lambda batch, lanes: base(batch, lanes) + offset

    def items(self, operand: Operand) -> Sequence[Operand]:
        """Return the elements of a vector operand, or the one operand."""
        return operand.items if isinstance(operand, Vector) else (operand,)

    def unary(
        self,
        instruction: Instruction,
        compute: Callable[[Array], Array],
        of_type: PtxType,
        result: PtxType | None = None,
    ) -> Operation:
        """Return an operation of one operand."""
        write = self.target(instruction.operands[0], result or of_type)
        first = self.source(instruction.operands[1], of_type)
        return lambda batch, lanes: write(batch, lanes, compute(first(batch, lanes)))

    def binary(
        self, instruction: Instruction, compute: Callable[[Array, Array], Array], of_type: PtxType
    ) -> Operation:
        """Return an operation of two operands of a type that gives the same type."""
        write = self.target(instruction.operands[0], of_type)
        first = self.source(instruction.operands[1], of_type)
        second = self.source(instruction.operands[2], of_type)
        return lambda batch, lanes: write(batch, lanes, compute(first(batch, lanes), second(batch, lanes)))

    def ternary(
        self, instruction: Instruction, compute: Callable[[Array, Array, Array], Array], of_type: PtxType
    ) -> Operation:
        """Return an operation of three operands of a type that gives the same type."""
        write = self.target(instruction.operands[0], of_type)
        first, second, third = (self.source(operand, of_type) for operand in instruction.operands[1:4])
        return lambda batch, lanes: write(
            batch, lanes, compute(first(batch, lanes), second(batch, lanes), third(batch, lanes))
        )


def _special(name: str, dtype: np.dtype[np.generic]) -> Reader:
    def read(batch: Batch, lanes: Lanes) -> Array:
        values = batch.special(name)
        if lanes is not None and values.ndim:
            values = values[lanes]
        return values.astype(dtype)

    return read


def _immediate(operand: Immediate, of_type: PtxType) -> Array:
    if of_type.kind == "p":
        return np.bool_(operand.value != 0)
    value = operand.value
    if operand.float_bytes and of_type.is_float and operand.float_bytes != of_type.size_bytes:
        given = (
            np.uint32(value).view(np.float32)
            if operand.float_bytes == 4
            else np.uint64(value).view(np.float64)
        )
        bits = of_type.bits_of(np.asarray(given, of_type.dtype))
        return np.asarray(bits)[()]
    mask = (1 << 8 * of_type.size_bytes) - 1
    return UNSIGNED[of_type.size_bytes].type(value & mask)
