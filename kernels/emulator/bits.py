"""Bits: logic, shifts, counts, fields, permutation of bytes, three-input logic.

A shift by the width or more gives 0, or the sign for arithmetic shifts; amounts are unsigned.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.decoding import Scope, decoder, types_of
from dataflare.kernels.emulator.syntax import Immediate, Instruction
from dataflare.kernels.emulator.types import TYPES, UNSIGNED, Array

__all__: list[str] = []

_WORD = TYPES["b32"]


@decoder("and", "or", "xor", "and.p", "or.p", "xor.p")
def _logic(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    compute = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[instruction.opcode]
    return scope.binary(instruction, compute, types_of(instruction)[0])


@decoder("not", "not.p")
def _complement(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    return scope.unary(instruction, np.invert, types_of(instruction)[0])


@decoder("cnot")
def _logical_complement(scope: Scope, instruction: Instruction) -> Operation:
    of_type = types_of(instruction)[0]
    return scope.unary(instruction, lambda a: (a == 0).astype(of_type.dtype), of_type)


@decoder("lop3")
def _three_input_logic(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    table = instruction.operands[4]
    if not isinstance(table, Immediate):
        raise scope.wrong(instruction, "needs a literal table")

    def compute(a: Array, b: Array, c: Array) -> Array:
        terms = [
            (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
            for row in range(8)
            if table.value >> row & 1
        ]
        return reduce(np.bitwise_or, terms, np.zeros_like(a & b & c))

    return scope.ternary(instruction, compute, _WORD)


@decoder("shl", "shr")
def _shift(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    write = scope.target(instruction.operands[0], of_type)
    value, amount = (
        scope.source(instruction.operands[1], of_type),
        scope.source(instruction.operands[2], _WORD),
    )
    width, dtype = of_type.bits, of_type.dtype
    shift = np.left_shift if instruction.opcode == "shl" else np.right_shift
    keeps_sign = instruction.opcode == "shr" and of_type.kind == "s"

    def run(batch: Batch, lanes: Lanes) -> None:
        a, by = value(batch, lanes), amount(batch, lanes)
        if keeps_sign:
            write(batch, lanes, shift(a, np.minimum(by, width - 1).astype(dtype)))
            return
        beyond = by >= width
        if not beyond.any():
            write(batch, lanes, shift(a, by.astype(dtype)))
            return
        write(batch, lanes, np.where(beyond, dtype.type(0), shift(a, np.where(beyond, 0, by).astype(dtype))))

    return run


@decoder("shf")
def _funnel_shift(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "l r wrap clamp")
    shifts_left, wraps = "l" in instruction.modifiers, "wrap" in instruction.modifiers

    def compute(low: Array, high: Array, amount: Array) -> Array:
        by = (amount & np.uint32(31) if wraps else np.minimum(amount, np.uint32(32))).astype(np.uint64)
        both = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
        return ((both << by) >> np.uint64(32) if shifts_left else both >> by).astype(np.uint32)

    return scope.ternary(instruction, compute, _WORD)


@decoder("popc")
def _population(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    return scope.unary(instruction, lambda a: np.bitwise_count(a).astype(np.uint32), of_type, _WORD)


@decoder("clz")
def _leading_zeros(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    return scope.unary(instruction, lambda a: leading_zeros(a, of_type.bits), of_type, _WORD)


def leading_zeros(values: Array, width: int) -> Array:
    """Return how many bits above the highest one of unsigned integers are zero; `width` for 0."""
    filled = values
    for step in (1, 2, 4, 8, 16, 32):
        if step < width:
            filled = filled | (filled >> filled.dtype.type(step))
    return (np.uint32(width) - np.bitwise_count(filled)).astype(np.uint32)


@decoder("bfind")
def _highest_bit(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "shiftamt")
    of_type = types_of(instruction)[0]
    width, unsigned = of_type.bits, UNSIGNED[of_type.size_bytes]
    wants_shift = "shiftamt" in instruction.modifiers

    def compute(a: Array) -> Array:
        bits = np.where(a < 0, ~a, a).astype(of_type.dtype).view(unsigned) if of_type.kind == "s" else a
        zeros = leading_zeros(bits, width)
        found = zeros if wants_shift else np.uint32(width - 1) - zeros
        return np.where(zeros == width, np.uint32(0xFFFF_FFFF), found).astype(np.uint32)

    return scope.unary(instruction, compute, of_type, _WORD)


@decoder("brev")
def _reversed(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]

    def compute(a: Array) -> Array:
        for step, pattern in ((1, 0x55), (2, 0x33), (4, 0x0F)):
            mask = of_type.dtype.type(int.from_bytes(bytes([pattern]) * of_type.size_bytes, "little"))
            by = of_type.dtype.type(step)
            a = (a & mask) << by | (a >> by) & mask
        return a.byteswap()

    return scope.unary(instruction, compute, of_type)


@decoder("bfe")
def _extracted(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    write = scope.target(instruction.operands[0], of_type)
    value = scope.source(instruction.operands[1], of_type)
    position, length = (scope.source(operand, _WORD) for operand in instruction.operands[2:4])
    dtype, width, is_signed = of_type.dtype, of_type.bits, of_type.kind == "s"

    def run(batch: Batch, lanes: Lanes) -> None:
        a = value(batch, lanes)
        start = (position(batch, lanes) & np.uint32(255)).astype(np.int64)
        size = (length(batch, lanes) & np.uint32(255)).astype(np.int64)
        # Shift the field's top to the top of the word, then down; bits above the word repeat the sign, or are zero.
        end = np.minimum(start + size, width)
        up = (width - end).astype(dtype)
        held = np.maximum(end - start, 0)
        down = np.clip(width - held, 0, width - 1).astype(dtype)
        field = (a << up) >> down
        if is_signed:
            sign = a >> dtype.type(width - 1)
            field = np.where(held == 0, np.where(size == 0, dtype.type(0), sign), field)
        else:
            field = np.where(held == 0, dtype.type(0), field)
        write(batch, lanes, field.astype(dtype))

    return run


@decoder("bfi")
def _inserted(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    write = scope.target(instruction.operands[0], of_type)
    field, into = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
    position, length = (scope.source(operand, _WORD) for operand in instruction.operands[3:5])
    dtype, width = of_type.dtype, of_type.bits

    def run(batch: Batch, lanes: Lanes) -> None:
        start = position(batch, lanes) & np.uint32(255)
        size = length(batch, lanes) & np.uint32(255)
        by = np.minimum(start, width - 1).astype(dtype)
        one, ones = dtype.type(1), ~dtype.type(0)
        low = np.where(size >= width, ones, (one << np.minimum(size, width - 1).astype(dtype)) - one)
        mask = np.where(start >= width, dtype.type(0), low.astype(dtype) << by).astype(dtype)
        write(batch, lanes, (into(batch, lanes) & ~mask) | ((field(batch, lanes) << by) & mask))

    return run


@decoder("bmsk")
def _mask(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "clamp wrap")
    wraps = "wrap" in instruction.modifiers

    def compute(start: Array, size: Array) -> Array:
        if wraps:
            start, size = start & np.uint32(31), size & np.uint32(31)
        first = np.minimum(start, np.uint32(32)).astype(np.uint64)
        count = np.minimum(size, np.uint32(32)).astype(np.uint64)
        return (((np.uint64(1) << count) - np.uint64(1)) << first).astype(np.uint32)

    return scope.binary(instruction, compute, _WORD)


@decoder("prmt")
def _permuted(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    if instruction.modifiers != ("b32",):
        raise scope.wrong(instruction)

    def compute(a: Array, b: Array, selector: Array) -> Array:
        both = b.astype(np.uint64) << np.uint64(32) | a.astype(np.uint64)
        result: Array = np.uint32(0)
        for byte in range(4):
            control = selector >> np.uint32(4 * byte) & np.uint32(15)
            picked = both >> ((control & np.uint32(7)).astype(np.uint64) * np.uint64(8)) & np.uint64(255)
            sign = np.where(picked & np.uint64(128), np.uint64(255), np.uint64(0))
            chosen = np.where(control & np.uint32(8), sign, picked).astype(np.uint32)
            result = result | (chosen << np.uint32(8 * byte))
        return np.asarray(result)

    return scope.ternary(instruction, compute, _WORD)
