"""Integer arithmetic: sums, products, quotients, carries, minima; on 16 to 64 bits and on packed halves."""

from __future__ import annotations

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.checks import Fault, first_lane
from dataflare.kernels.emulator.decoding import Scope, decoder, types_of
from dataflare.kernels.emulator.syntax import Instruction
from dataflare.kernels.emulator.types import TYPES, UNSIGNED, Array, PtxType

__all__: list[str] = []


@decoder("add", "sub")
def _sum(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "cc sat")
    of_type = types_of(instruction)[0]
    if "cc" in instruction.modifiers:
        return _carrying(scope, instruction, takes_carry=False)
    adds = instruction.opcode == "add"
    if "sat" in instruction.modifiers:
        limits = np.iinfo(np.int32)

        def saturated(a: Array, b: Array) -> Array:
            wide_b = b.astype(np.int64)
            return np.clip(a.astype(np.int64) + (wide_b if adds else -wide_b), limits.min, limits.max).astype(
                np.int32
            )

        return scope.binary(instruction, saturated, of_type)
    return scope.binary(instruction, np.add if adds else np.subtract, of_type)


@decoder("addc", "subc")
def _sum_with_carry(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "cc")
    return _carrying(scope, instruction, takes_carry=True)


def _carrying(scope: Scope, instruction: Instruction, *, takes_carry: bool) -> Operation:
    """Decode a sum or difference that takes or gives the carry (for differences the borrow)."""
    of_type = TYPES[f"u{types_of(instruction)[0].bits}"]
    write = scope.target(instruction.operands[0], of_type)
    first, second = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
    adds = instruction.opcode.startswith("add")
    gives_carry = "cc" in instruction.modifiers

    def run(batch: Batch, lanes: Lanes) -> None:
        a, b = first(batch, lanes), second(batch, lanes)
        carry = _carry_in(batch, lanes, of_type) if takes_carry else of_type.dtype.type(0)
        partial = a + b if adds else a - b
        result = partial + carry if adds else partial - carry
        if gives_carry:
            if adds:
                out = (partial < a) | (result < partial)
            else:
                out = (a < b) | (partial < carry)
            _set_carry(batch, lanes, out)
        write(batch, lanes, result)

    return run


def _carry_in(batch: Batch, lanes: Lanes, of_type: PtxType) -> Array:
    carry = batch.carry
    if lanes is not None and carry.ndim:
        carry = carry[lanes]
    return carry.astype(of_type.dtype)


def _set_carry(batch: Batch, lanes: Lanes, carry: Array) -> None:
    if lanes is None:
        batch.carry = np.asarray(carry)
        return
    if batch.carry.ndim == 0:
        batch.carry = np.full(batch.count, batch.carry)
    batch.carry[lanes] = carry


@decoder("mul", "mad")
def _product(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "lo hi wide cc")
    of_type = types_of(instruction)[0]
    adds = instruction.opcode == "mad"
    if "cc" in instruction.modifiers:
        return _multiply_carrying(scope, instruction, takes_carry=False)
    if "wide" in instruction.modifiers:
        wide = TYPES[f"{of_type.kind}{2 * of_type.bits}"]
        write = scope.target(instruction.operands[0], wide)
        first, second = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
        added = scope.source(instruction.operands[3], wide) if adds else None
        dtype = wide.dtype

        def run(batch: Batch, lanes: Lanes) -> None:
            result = first(batch, lanes).astype(dtype) * second(batch, lanes).astype(dtype)
            write(batch, lanes, result if added is None else result + added(batch, lanes))

        return run
    if "hi" in instruction.modifiers:
        if adds:
            return scope.ternary(instruction, lambda a, b, c: _high_product(a, b, of_type) + c, of_type)
        return scope.binary(instruction, lambda a, b: _high_product(a, b, of_type), of_type)
    if adds:
        return scope.ternary(instruction, lambda a, b, c: a * b + c, of_type)
    return scope.binary(instruction, np.multiply, of_type)


@decoder("madc")
def _product_with_carry(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "lo hi cc")
    return _multiply_carrying(scope, instruction, takes_carry=True)


def _multiply_carrying(scope: Scope, instruction: Instruction, *, takes_carry: bool) -> Operation:
    declared = types_of(instruction)[0]
    of_type = TYPES[f"u{declared.bits}"]
    write = scope.target(instruction.operands[0], of_type)
    first, second = (scope.source(operand, declared) for operand in instruction.operands[1:3])
    third = scope.source(instruction.operands[3], of_type)
    takes_high = "hi" in instruction.modifiers
    gives_carry = "cc" in instruction.modifiers

    def run(batch: Batch, lanes: Lanes) -> None:
        a, b, c = first(batch, lanes), second(batch, lanes), third(batch, lanes)
        product = declared.bits_of(_high_product(a, b, declared) if takes_high else a * b)
        carry = _carry_in(batch, lanes, of_type) if takes_carry else of_type.dtype.type(0)
        partial = product + c
        result = partial + carry
        if gives_carry:
            _set_carry(batch, lanes, (partial < product) | (result < partial))
        write(batch, lanes, result)

    return run


def _high_product(a: Array, b: Array, of_type: PtxType) -> Array:
    """Return the upper half of the product at twice the width."""
    if of_type.bits < 64:
        wide = np.dtype(f"{'i' if of_type.kind == 's' else 'u'}{of_type.size_bytes * 2}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(of_type.bits)).astype(of_type.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    low, shift = np.uint64(0xFFFF_FFFF), np.uint64(32)
    x_low, x_high, y_low, y_high = x & low, x >> shift, y & low, y >> shift
    middle = x_high * y_low + (x_low * y_low >> shift)
    other = x_low * y_high + (middle & low)
    high = x_high * y_high + (middle >> shift) + (other >> shift)
    if of_type.kind == "s":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(of_type.dtype)


@decoder("mul24", "mad24")
def _product_of_24_bits(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "lo")
    of_type = types_of(instruction)[0]
    shift = of_type.dtype.type(8)

    def product(a: Array, b: Array) -> Array:
        return (a << shift >> shift) * (b << shift >> shift)

    if instruction.opcode == "mul24":
        return scope.binary(instruction, product, of_type)
    return scope.ternary(instruction, lambda a, b, c: product(a, b) + c, of_type)


@decoder("div", "rem")
def _quotient(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    write = scope.target(instruction.operands[0], of_type)
    first, second = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
    is_signed = of_type.kind == "s"
    wants_quotient = instruction.opcode == "div"

    def run(batch: Batch, lanes: Lanes) -> None:
        a, b = first(batch, lanes), second(batch, lanes)
        is_zero = b == 0
        if is_zero.any():
            raise Fault(
                "division by zero", "integer division by zero is undefined", first_lane(is_zero, lanes)
            )
        if not wants_quotient:
            write(batch, lanes, np.fmod(a, b))
            return
        result = a // b
        if is_signed:  # NumPy rounds down, PTX toward zero
            result = result + ((result < 0) & (result * b != a)).astype(of_type.dtype)
        write(batch, lanes, result)

    return run


@decoder("neg")
def _negated(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    return scope.unary(instruction, np.negative, types_of(instruction)[0])


@decoder("abs")
def _magnitude(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    return scope.unary(instruction, np.abs, types_of(instruction)[0])


@decoder("min", "max")
def _extreme(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "relu")
    of_type = types_of(instruction)[0]
    choose = np.minimum if instruction.opcode == "min" else np.maximum
    if "relu" in instruction.modifiers:
        return scope.binary(
            instruction, lambda a, b: np.maximum(choose(a, b), of_type.dtype.type(0)), of_type
        )
    return scope.binary(instruction, choose, of_type)


@decoder("sad")
def _sum_of_differences(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    unsigned = UNSIGNED[of_type.size_bytes]

    def run(a: Array, b: Array, c: Array) -> Array:
        difference = np.where(a < b, b.view(unsigned) - a.view(unsigned), a.view(unsigned) - b.view(unsigned))
        return c + difference.view(of_type.dtype)

    return scope.ternary(instruction, run, of_type)
