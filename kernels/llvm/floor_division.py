"""Floor division and remainder for whole vectors, though no instruction set divides vectors of 64-bit integers.

Integers below 2**51 divide exactly as float64, by a quotient that is kept away from the integers by more than it is
rounded. A group that holds a larger one is divided one by one, by a branch that is hardly ever taken; where the types
or constants bound the values, it is left out. Any int64 is divided by a large constant, whose quotient is put right
where it is off by one. The remainder of floats is that of C's fmod, by a fused multiply-add that is exact below a
quotient of 2**52. Division of floats by constants is in ``division``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.kernels.dtypes import FLOAT64
from dataflare.kernels.udf.ir import Node

if TYPE_CHECKING:
    from dataflare.kernels.llvm.emit import Emitter

__all__ = ["float_remainder", "floor_division", "magnitude_bits"]

_EXACT_BITS = 51
"""Integers of up to so many bits are exact as float64, with half added too, and rounding moves no quotient too far."""

_LARGE_DIVISOR = 2**13
"""From this constant on, the quotient of any int64 is below 2**50, and its error below one."""

_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = 0x4338000000000000
_MAX_DEPTH = 8


def magnitude_bits(node: Node, depth: int = _MAX_DEPTH) -> int:
    """Return how many bits the absolute value of an integer takes at most, as far as it is plain to see."""
    if node.is_const:
        return int(abs(node.attr)).bit_length()
    if node.type.kind == "bool" or depth == 0:
        return node.type.bits
    return min(
        node.type.bits, _operation_bits(node, [a for a in node.args if a.type.kind != "float"], depth - 1)
    )


def _operation_bits(node: Node, args: list[Node], depth: int) -> int:
    """Return a bound for the result of an operation, which may be more bits than its type has: then it wraps."""
    unsigned, unknown = node.type.kind == "uint", node.type.bits

    def bits(argument: Node) -> int:
        return magnitude_bits(argument, depth)

    if node.op == "convert" and args and (args[0].type.kind != "int" or not unsigned):
        return bits(args[0])
    if node.op == "mul":
        return bits(args[0]) + bits(args[1])
    if node.op == "add" or (node.op == "sub" and not unsigned):
        return max(map(bits, args)) + 1
    if node.op == "select":
        return max(map(bits, args[1:]))
    if node.op == "neg" and not unsigned:
        return bits(args[0])
    if node.op == "and":
        return min((bits(a) for a in args if a.is_const and a.attr >= 0), default=unknown)
    if node.op == "floormod":
        return bits(args[1])
    if node.op == "floordiv" and args[1].is_const:  # down to the next integer: one more than the quotient
        return max(1, bits(args[0]) - bits(args[1]) + 2)
    if args and args[-1].is_const and (node.op == "ashr" or (node.op == "lshr" and unsigned)):
        return max(1, bits(args[0]) - int(args[1].attr) + 1)
    return unknown


def floor_division(emitter: Emitter, node: Node, x: str, y: str) -> tuple[str, str]:
    """Return the quotient, rounded down, and the remainder of integers; the divisor is never zero."""
    dividend, divisor = node.args
    signed = node.type.kind != "uint"
    if emitter.lanes == 1 or emitter.target.divides_integers:
        return _one_by_one(emitter, x, y, signed=signed)
    known_x, known_y = (magnitude_bits(n) < _EXACT_BITS for n in (dividend, divisor))
    if divisor.is_const and known_y and divisor.attr >= _LARGE_DIVISOR and signed and not known_x:
        return _by_large_constant(emitter, x, divisor.attr)
    unchecked = [value for value, known in ((x, known_x), (y, known_y)) if not known]
    constant = float(divisor.attr) if divisor.is_const and known_y else None
    if not unchecked:
        return _as_floats(emitter, x, y, constant)
    code, ints = emitter.code, emitter.type_of("i64")
    over = [_high_bits(emitter, value, signed=signed) for value in unchecked]
    high = over[0] if len(over) == 1 else code.value(f"or {ints} {over[0]}, {over[1]}")
    large = emitter.any(code.value(f"icmp ne {ints} {high}, {emitter.splat('i64', '0')}"))
    slow, fast, done = (code.fresh_label(stem) for stem in ("large", "small", "divided"))
    code.add(f"br i1 {large}, label %{slow}, label %{fast}")
    code.label(slow)
    slow_values = _one_by_one(emitter, x, y, signed=signed)
    code.add(f"br label %{done}")
    code.label(fast)
    fast_values = _as_floats(emitter, x, y, constant)
    code.add(f"br label %{done}")
    code.label(done)
    quotient, remainder = (
        code.value(f"phi {ints} [ {a}, %{slow} ], [ {b}, %{fast} ]")
        for a, b in zip(slow_values, fast_values, strict=True)
    )
    return quotient, remainder


def _high_bits(emitter: Emitter, value: str, *, signed: bool) -> str:
    """Return what is zero for values that are exact as float64."""
    code, ints = emitter.code, emitter.type_of("i64")
    if signed:
        value = code.value(f"add {ints} {value}, {emitter.splat('i64', str(2**_EXACT_BITS))}")
    return code.value(f"lshr {ints} {value}, {emitter.splat('i64', str(_EXACT_BITS + signed))}")


def _one_by_one(emitter: Emitter, x: str, y: str, *, signed: bool) -> tuple[str, str]:
    """Divide by the CPU's instruction for one number; -2**63 // -1 would trap, and wraps here."""
    code, ints, flags = emitter.code, emitter.type_of("i64"), emitter.type_of("i1")
    if not signed:
        return code.value(f"udiv {ints} {x}, {y}"), code.value(f"urem {ints} {x}, {y}")
    zero, one = emitter.splat("i64", "0"), emitter.splat("i64", "1")
    minus_one = code.value(f"icmp eq {ints} {y}, {emitter.splat('i64', '-1')}")
    divisor = code.value(f"select {flags} {minus_one}, {ints} {one}, {ints} {y}")
    quotient = code.value(f"sdiv {ints} {x}, {divisor}")
    product = code.value(f"mul {ints} {quotient}, {divisor}")
    rest = code.value(f"sub {ints} {x}, {product}")
    mixed = code.value(f"xor {ints} {rest}, {divisor}")
    differs = code.value(f"icmp slt {ints} {mixed}, {zero}")
    inexact = code.value(f"icmp ne {ints} {rest}, {zero}")
    adjust = code.value(f"and {flags} {inexact}, {differs}")
    lower = code.value(f"sub {ints} {quotient}, {one}")
    quotient = code.value(f"select {flags} {adjust}, {ints} {lower}, {ints} {quotient}")
    raised = code.value(f"add {ints} {rest}, {divisor}")
    rest = code.value(f"select {flags} {adjust}, {ints} {raised}, {ints} {rest}")
    negated = code.value(f"sub {ints} {zero}, {x}")
    return code.value(f"select {flags} {minus_one}, {ints} {negated}, {ints} {quotient}"), rest


def _as_floats(emitter: Emitter, x: str, y: str, constant: float | None) -> tuple[str, str]:
    """Divide integers below 2**51 as float64, by the reciprocal if the divisor is a positive constant.

    Half is added to the dividend (taken off it, if the divisor is negative): so the exact quotient is at least half
    over the divisor away from the integers that it lies between, and the error of one or two roundings is less.
    """
    code, floats = emitter.code, emitter.type_of("double")
    a = _small_to_float(emitter, x)
    half = emitter.constant(FLOAT64, 0.5)
    if constant is not None and constant > 0:
        b = emitter.constant(FLOAT64, constant)
        between = code.value(f"fadd {floats} {a}, {half}")
        ratio = code.value(f"fmul {floats} {between}, {emitter.constant(FLOAT64, 1.0 / constant)}")
    else:
        b = _small_to_float(emitter, y)
        between = code.value(f"fadd {floats} {a}, {emitter.intrinsic('copysign', 'double', half, b)}")
        ratio = code.value(f"fdiv {floats} {between}, {b}")
    quotient = emitter.intrinsic("floor", "double", ratio)
    rest = code.value(f"fsub {floats} {a}, {code.value(f'fmul {floats} {quotient}, {b}')}")
    return _small_to_int(emitter, quotient), _small_to_int(emitter, rest)


def _by_large_constant(emitter: Emitter, x: str, divisor: int) -> tuple[str, str]:
    """Divide any int64: the float64 of it is off by 512 at most, which a large divisor makes less than one."""
    code, ints, floats, flags = (
        emitter.code, emitter.type_of("i64"), emitter.type_of("double"), emitter.type_of("i1")
    )  # fmt: skip
    zero, one, d = (emitter.splat("i64", str(number)) for number in (0, 1, divisor))
    ratio = code.value(
        f"fmul {floats} {emitter.int64_to_float64(x)}, {emitter.constant(FLOAT64, 1.0 / divisor)}"
    )
    quotient = _small_to_int(emitter, emitter.intrinsic("floor", "double", ratio))
    rest = code.value(f"sub {ints} {x}, {code.value(f'mul {ints} {quotient}, {d}')}")
    too_high = code.value(f"icmp slt {ints} {rest}, {zero}")
    too_low = code.value(f"icmp sge {ints} {rest}, {d}")
    for wrong, op, opposite in ((too_high, "sub", "add"), (too_low, "add", "sub")):
        moved = code.value(f"{op} {ints} {quotient}, {one}")
        quotient = code.value(f"select {flags} {wrong}, {ints} {moved}, {ints} {quotient}")
        moved = code.value(f"{opposite} {ints} {rest}, {d}")
        rest = code.value(f"select {flags} {wrong}, {ints} {moved}, {ints} {rest}")
    return quotient, rest


def _small_to_float(emitter: Emitter, value: str) -> str:
    """Convert integers below 2**51: added to the bits of 1.5 * 2**52 they are in its mantissa."""
    code, ints, floats = emitter.code, emitter.type_of("i64"), emitter.type_of("double")
    if emitter.target.converts_int64:
        return code.value(f"sitofp {ints} {value} to {floats}")
    shifted = code.value(f"add {ints} {value}, {emitter.splat('i64', str(_MAGIC_BITS))}")
    shifted = code.value(f"bitcast {ints} {shifted} to {floats}")
    return code.value(f"fsub {floats} {shifted}, {emitter.constant(FLOAT64, _MAGIC)}")


def _small_to_int(emitter: Emitter, value: str) -> str:
    """Convert whole floats up to 2**51 to integers, the same way back."""
    code, ints, floats = emitter.code, emitter.type_of("i64"), emitter.type_of("double")
    if emitter.target.converts_int64:
        return code.value(f"fptosi {floats} {value} to {ints}")
    shifted = code.value(f"fadd {floats} {value}, {emitter.constant(FLOAT64, _MAGIC)}")
    shifted = code.value(f"bitcast {floats} {shifted} to {ints}")
    return code.value(f"sub {ints} {shifted}, {emitter.splat('i64', str(_MAGIC_BITS))}")


def float_remainder(emitter: Emitter, node: Node, x: str, y: str) -> str:
    """Return C's fmod, which is exact: one by one, or in vectors where the CPU has a fused multiply-add."""
    code, vector = emitter.code, emitter.node_type(node)
    called_for = emitter.target.remainder
    if called_for is None and (emitter.lanes == 1 or not emitter.target.has_fma):
        return code.value(f"frem {vector} {x}, {y}")
    floats, flags = emitter.type_of("double"), emitter.type_of("i1")
    if node.type.bits != 64:  # the remainder of float32 is exact as float32 too
        x, y = (code.value(f"fpext {vector} {value} to {floats}") for value in (x, y))
    quotient = emitter.intrinsic("trunc", "double", code.value(f"fdiv {floats} {x}, {y}"))
    size = emitter.intrinsic("fabs", "double", quotient)
    large = emitter.any(code.value(f"fcmp oge {floats} {size}, {emitter.constant(FLOAT64, 2.0**52)}"))
    slow, fast, done = (code.fresh_label(stem) for stem in ("large", "small", "divided"))
    code.add(f"br i1 {large}, label %{slow}, label %{fast}")
    code.label(slow)
    if called_for is None:
        called = code.value(f"frem {floats} {x}, {y}")
    else:
        called = emitter.one_by_one(called_for, "double", x, y)
    code.add(f"br label %{done}")
    code.label(fast)
    rest = emitter.intrinsic("fma", "double", code.value(f"fneg {floats} {quotient}"), y, x)
    size_x, size_y = (emitter.intrinsic("fabs", "double", value) for value in (x, y))
    within = code.value(f"fcmp olt {floats} {size_x}, {size_y}")  # by infinity, too
    rest = code.value(f"select {flags} {within}, {floats} {x}, {floats} {rest}")
    sign = emitter.intrinsic("copysign", "double", emitter.constant(FLOAT64, 1.0), x)
    signs = code.value(f"fmul {floats} {sign}, {rest}")
    overshot = code.value(f"fcmp olt {floats} {signs}, {emitter.constant(FLOAT64, 0.0)}")
    step = emitter.intrinsic("copysign", "double", y, x)
    raised = code.value(f"fadd {floats} {rest}, {step}")
    rest = code.value(f"select {flags} {overshot}, {floats} {raised}, {floats} {rest}")
    rest = emitter.intrinsic("copysign", "double", rest, x)
    code.add(f"br label %{done}")
    code.label(done)
    result = code.value(f"phi {floats} [ {called}, %{slow} ], [ {rest}, %{fast} ]")
    return result if node.type.bits == 64 else code.value(f"fptrunc {floats} {result} to {vector}")
