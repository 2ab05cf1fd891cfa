"""Floating-point arithmetic: sums, products, fused products, quotients, roots, minima, and the approximations.

Results of 32 and 16 bits that are not a number get the one pattern that devices give. The approximate functions
(ex2, lg2, sin, cos, tanh, rsqrt, and rcp, sqrt and div with .approx or .full) are computed as exactly as float64
allows; a device may be off by a few units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.decoding import Reader, Scope, decoder, types_of
from dataflare.kernels.emulator.rounding import DIRECTIONS, direction, fused_multiply_add
from dataflare.kernels.emulator.syntax import Instruction, Operand
from dataflare.kernels.emulator.types import TYPES, UNSIGNED, Array, PtxType

__all__ = ["flushed", "saturated"]

_CANONICAL: dict[int, Array] = {2: np.uint16(0x7FFF), 4: np.uint32(0x7FFFFFFF)}
_SMALLEST_NORMAL = np.float32(2.0**-126)


def flushed(values: Array) -> Array:
    """Return values with subnormal float32 replaced by zeros of their sign."""
    return np.where(np.abs(values) < _SMALLEST_NORMAL, np.copysign(np.float32(0), values), values)


def saturated(values: Array) -> Array:
    """Return values clamped to [0, 1]; NaN becomes 0."""
    clamped = np.clip(values, 0, 1)
    return np.where(np.isnan(values), values.dtype.type(0), clamped) + values.dtype.type(0)


def canonical(values: Array, of_type: PtxType) -> Array:
    """Return values with each NaN of 32 or 16 bits replaced by the one that devices give."""
    values = np.asarray(values)
    size = values.dtype.itemsize
    if size == 8 or of_type.is_bfloat:
        return values
    missing = np.isnan(values)
    if not missing.any():
        return values
    return np.where(missing, _CANONICAL[size].view(values.dtype), values)


def _operation(
    scope: Scope,
    instruction: Instruction,
    compute: Callable[..., Array],
    of_type: PtxType,
    sources: list[Reader] | None = None,
) -> Operation:
    """Return an operation with the modifiers for rounding, flushing and saturation applied around `compute`."""
    write = scope.target(instruction.operands[0], of_type)
    readers = sources or [scope.source(operand, of_type) for operand in instruction.operands[1:]]
    modes = [modifier for modifier in instruction.modifiers if modifier in DIRECTIONS]
    mode = modes[0] if modes else None
    flushes = "ftz" in instruction.modifiers and of_type.dtype == np.float32
    saturates = "sat" in instruction.modifiers
    clamps = "relu" in instruction.modifiers

    def run(batch: Batch, lanes: Lanes) -> None:
        values = [read(batch, lanes) for read in readers]
        if flushes:
            values = [flushed(value) for value in values]
        with direction(mode):
            result = canonical(compute(*values), of_type)
        if flushes:
            result = flushed(result)
        if saturates:
            result = saturated(result)
        if clamps:
            result = np.where(result > 0, result, result.dtype.type(0) * np.isnan(result))
        write(batch, lanes, result)

    return run


_ROUNDING = "rn rz rm rp ftz sat"


def _mixed_sources(scope: Scope, instruction: Instruction) -> list[Reader] | None:
    """Return the readers of ``add.rn.f32.f16`` and the like: operands of 16 bits, the last one of 32."""
    types = types_of(instruction)
    if len(types) < 2:
        return None
    result, narrow = types[0], types[1]

    def widened(operand: Operand) -> Reader:
        read = scope.source(operand, narrow)
        return lambda batch, lanes: read(batch, lanes).astype(result.dtype)

    return [
        *(widened(operand) for operand in instruction.operands[1:-1]),
        scope.source(instruction.operands[-1], result),
    ]


@decoder("add.f", "sub.f", "mul.f")
def _arithmetic(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, _ROUNDING)
    compute = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[instruction.opcode]
    return _operation(
        scope, instruction, compute, types_of(instruction)[0], _mixed_sources(scope, instruction)
    )


@decoder("fma.f", "mad.f")
def _fused(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, _ROUNDING + " relu")
    of_type = types_of(instruction)[0]
    return _operation(
        scope,
        instruction,
        lambda a, b, c: fused_multiply_add(a, b, c, of_type),
        of_type,
        _mixed_sources(scope, instruction),
    )


@decoder("div.f")
def _quotient(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, _ROUNDING + " approx full")
    return _operation(scope, instruction, np.true_divide, types_of(instruction)[0])


@decoder("rcp.f")
def _reciprocal(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, _ROUNDING + " approx")
    of_type = types_of(instruction)[0]
    one = of_type.dtype.type(1)
    if of_type.bits == 64 and "approx" in instruction.modifiers:
        return _operation(scope, instruction, lambda a: _upper_half(one / a), of_type)
    return _operation(scope, instruction, lambda a: one / a, of_type)


@decoder("rsqrt.f")
def _reciprocal_root(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "approx ftz")
    of_type = types_of(instruction)[0]
    if of_type.bits == 64:
        return _operation(scope, instruction, lambda a: _upper_half(1.0 / np.sqrt(a)), of_type)
    return _approximation(scope, instruction, lambda a: 1.0 / np.sqrt(a))


def _upper_half(values: Array) -> Array:
    """Keep the upper 32 bits of float64, all that the approximations of 64 bits give."""
    return (np.asarray(values).view(np.uint64) & np.uint64(0xFFFF_FFFF_0000_0000)).view(np.float64)


@decoder("sqrt.f")
def _root(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, _ROUNDING + " approx")
    return _operation(scope, instruction, np.sqrt, types_of(instruction)[0])


def _approximation(scope: Scope, instruction: Instruction, compute: Callable[[Array], Array]) -> Operation:
    scope.allow(instruction, "approx ftz")
    of_type = types_of(instruction)[0]
    return _operation(
        scope, instruction, lambda a: np.asarray(compute(a.astype(np.float64))).astype(of_type.dtype), of_type
    )


@decoder("ex2.f", "lg2.f", "sin.f", "cos.f", "tanh.f")
def _transcendental(scope: Scope, instruction: Instruction) -> Operation:
    functions = {"ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh}
    return _approximation(scope, instruction, functions[instruction.opcode])


def _sign_bits(scope: Scope, instruction: Instruction, change: Callable[[Array, Array], Array]) -> Operation:
    """Return an operation on the sign bits of the operand, which leaves NaN as it is."""
    of_type = types_of(instruction)[0]
    bits = TYPES[f"b{8 * of_type.size_bytes}"]
    sign = 1 << (of_type.bits - 1)
    signs = bits.dtype.type(sign | sign << of_type.bits if of_type.is_packed else sign)
    return scope.unary(instruction, lambda a: change(a, signs), bits)


@decoder("neg.f")
def _negated(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "ftz")
    if "ftz" in instruction.modifiers:
        return _operation(scope, instruction, np.negative, types_of(instruction)[0])
    return _sign_bits(scope, instruction, np.bitwise_xor)


@decoder("abs.f")
def _magnitude(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "ftz")
    if "ftz" in instruction.modifiers:
        return _operation(scope, instruction, np.abs, types_of(instruction)[0])
    return _sign_bits(scope, instruction, lambda a, signs: a & ~signs)


@decoder("copysign.f")
def _with_sign(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    return scope.binary(
        instruction, lambda a, b: np.copysign(b, a), types_of(instruction)[0]
    )  # the sign of a


@decoder("min.f", "max.f")
def _extreme(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "NaN ftz")
    of_type = types_of(instruction)[0]
    is_minimum = instruction.opcode == "min"
    if "NaN" in instruction.modifiers:
        choose: np.ufunc = np.minimum if is_minimum else np.maximum
    else:
        choose = np.fmin if is_minimum else np.fmax
    unsigned = UNSIGNED[of_type.dtype.itemsize]
    merge = np.bitwise_or if is_minimum else np.bitwise_and

    def compute(a: Array, b: Array) -> Array:  # -0.0 is less than +0.0
        chosen = choose(a, b)
        same = np.asarray(a == b)
        if not same.any():
            return chosen
        merged = merge(np.asarray(a).view(unsigned), np.asarray(b).view(unsigned)).view(of_type.dtype)
        return np.where(same, merged, chosen)

    return _operation(scope, instruction, compute, of_type)


@decoder("testp.f")
def _property(scope: Scope, instruction: Instruction) -> Operation:
    of_type = types_of(instruction)[0]
    smallest = np.finfo(of_type.dtype).smallest_normal
    tests: dict[str, Callable[[Array], Array]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= smallest),
        "subnormal": lambda a: (a != 0) & (np.abs(a) < smallest),
    }
    return scope.unary(instruction, tests[instruction.modifiers[0]], of_type, TYPES["pred"])
