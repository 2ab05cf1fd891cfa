"""Brings the arguments of sine, cosine and tangent near zero: what is left beside multiples of half or quarter turns.

Up to a limit by the multiple of pi in three parts (Cody and Waite, "Software Manual for the Elementary Functions",
1980), where a fused multiply-add makes the first product exact. Beyond it by as many bits of 2/pi as the argument
needs, in integers (Payne and Hanek, "Radian reduction for trigonometric functions", 1983): a branch that a group takes
if one of its lanes is so large, and whose results only those lanes take. Not covered: what is made of the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.kernels.llvm.math.lanes import Lanes

__all__ = ["reduced"]

_PI: Mapping[str, tuple[float, float, float]] = {
    "double": (3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33),
    "float": (3.141592502593994, 1.5099580252808664e-07, -3.4302490200117637e-15),
}
"""Pi as the sum of three floats of each width; the second is positive, which keeps the sign of -0.0."""

_LARGE: Mapping[str, float] = {"double": 2.0**30, "float": 2.0**15}
"""From here on in absolute value the multiple of pi cannot be told from the product with its reciprocal."""

_TO_WHOLE: Mapping[str, float] = {"double": 1.5 * 2.0**52, "float": 1.5 * 2.0**23}
"""What leaves the nearest integer in the lowest bits of a sum."""

_TWO_OVER_PI = (
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e006492eea09d1921c"
    "fe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f49c845f8bbdf9283b1ff897ffde05980f"
    "ef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d08"
    "56033046fc7b6bab"
)
"""The digits of 2/pi behind the point, in base 16, as many as the largest float64 needs."""

_NEEDED = (
    "declare i64 @llvm.fshl.i64(i64, i64, i64)",
    "declare i64 @llvm.ctlz.i64(i64, i1)",
    "declare double @llvm.fma.f64(double, double, double)",
)


def reduced(lanes: Lanes, x: str, *, quarter: bool = False, shifted: bool = False) -> tuple[str, str, str]:
    """Return floats ``(r, low)`` with x = n turns + r + low, and integers with the last bit of n as their sign.

    A turn is pi, or pi/2 with ``quarter``. With ``shifted``, x + pi/2 is reduced instead. The sum of r and low is
    right to more bits than a float has; r alone is within half a turn and a trifle, and -0.0 for -0.0.
    """
    high, middle, end = (part / 2 if quarter else part for part in _PI[lanes.element])
    to_whole = lanes.const(_TO_WHOLE[lanes.element])
    if shifted:
        turns = lanes.fma(x, lanes.const(1 / high), lanes.const(0.5))
        turns = lanes.add(turns, to_whole)
        n = lanes.sub(lanes.sub(turns, to_whole), lanes.const(0.5))
    else:
        turns = lanes.fma(x, lanes.const(1 / high), to_whole)
        n = lanes.sub(turns, to_whole)
    first = lanes.fma(n, lanes.const(-high), x)  # exact, since it is of the size of a turn
    product = lanes.mul(n, lanes.const(middle))
    second = lanes.sub(first, product)
    excess = lanes.add(lanes.sub(second, first), product)  # exact, also where nearly nothing is left
    excess = lanes.add(excess, lanes.fma(n, lanes.const(middle), lanes.neg(product)))
    excess = lanes.fma(n, lanes.const(end), excess)
    r = lanes.sub(second, excess)
    low = lanes.sub(lanes.sub(second, r), excess)
    parity = lanes.integer_op("shl", lanes.to_bits(turns), lanes.whole(lanes.bits - 1))
    return _or_large(lanes, x, (r, low, parity), quarter=quarter, shifted=shifted)


def _or_large(
    lanes: Lanes, x: str, usual: tuple[str, str, str], *, quarter: bool, shifted: bool
) -> tuple[str, str, str]:
    """Return ``usual``, but for large arguments what `_large` makes of them; infinity has become NaN in ``usual``."""
    code, emitter = lanes.code, lanes.emitter
    size = lanes.call("fabs", x)
    large = lanes.compare("gt", size, lanes.const(_LARGE[lanes.element]))
    before, slow, done = code.block, code.fresh_label("large"), code.fresh_label("reduced")
    code.add(f"br i1 {emitter.any(large)}, label %{slow}, label %{done}")
    code.label(slow)
    large = lanes.flag("and", large, lanes.compare("lt", size, lanes.const(float("inf"))))
    safe = lanes.select(large, x, lanes.const(2 * _LARGE[lanes.element]))
    r, low, parity = _large(lanes, safe, quarter=quarter, shifted=shifted)
    chosen = (
        lanes.select(large, r, usual[0]),
        lanes.select(large, low, usual[1]),
        lanes.select_whole(large, parity, usual[2]),
    )
    end = code.block
    code.add(f"br label %{done}")
    code.label(done)
    types = (lanes.floats, lanes.floats, lanes.integers)
    r, low, parity = (
        code.value(f"phi {kind} [ {a}, %{before} ], [ {b}, %{end} ]")
        for kind, a, b in zip(types, usual, chosen, strict=True)
    )
    return r, low, parity


def _large(lanes: Lanes, x: str, *, quarter: bool, shifted: bool) -> tuple[str, str, str]:
    """Reduce large arguments lane after lane: they are rare, and integers of 64 bits are multiplied best alone."""
    code, emitter = lanes.code, lanes.emitter
    doubles, words = emitter.type_of("double"), emitter.type_of("i64")
    narrow = lanes.element != "double"
    if narrow:
        x = code.value(f"fpext {lanes.floats} {x} to {doubles}")
    arguments, high, low = (code.variable(doubles, stem, "zeroinitializer") for stem in ("x", "r", "low"))
    parity = code.variable(words, "parity", "zeroinitializer")
    for text in (*_NEEDED, _large_function()):
        code.declare(text)
    code.add(f"store {doubles} {x}, ptr {arguments}, align 8")
    before, each, end = code.block, code.fresh_label("lane"), code.fresh_label("lanes")
    index, following = code.name("i"), code.name("i")
    code.add(f"br label %{each}")
    code.label(each)
    code.add(f"{index} = phi i64 [ 0, %{before} ], [ {following}, %{each} ]")
    value = code.value(f"load double, ptr {_at(lanes, 'double', arguments, index)}, align 8")
    parts = code.value(
        f"call {{ double, double, i64 }} @reduce_large(double {value}, i64 {2**62 * shifted}, i64 {int(quarter)})"
    )
    for number, (kind, place) in enumerate((("double", high), ("double", low), ("i64", parity))):
        part = code.value(f"extractvalue {{ double, double, i64 }} {parts}, {number}")
        code.add(f"store {kind} {part}, ptr {_at(lanes, kind, place, index)}, align 8")
    code.add(f"{following} = add i64 {index}, 1")
    more = code.value(f"icmp ult i64 {following}, {emitter.lanes}")
    code.add(f"br i1 {more}, label %{each}, label %{end}")
    code.label(end)
    r, rest = (code.value(f"load {doubles}, ptr {place}, align 8") for place in (high, low))
    odd = code.value(f"load {words}, ptr {parity}, align 8")
    if not narrow:
        return r, rest, odd
    rounded = code.value(f"fptrunc {doubles} {r} to {lanes.floats}")
    back = code.value(f"fpext {lanes.floats} {rounded} to {doubles}")
    rest = code.value(f"fadd {doubles} {code.value(f'fsub {doubles} {r}, {back}')}, {rest}")
    rest = code.value(f"fptrunc {doubles} {rest} to {lanes.floats}")
    odd = code.value(f"lshr {words} {odd}, {emitter.splat('i64', '32')}")
    return rounded, rest, code.value(f"trunc {words} {odd} to {lanes.integers}")


def _at(lanes: Lanes, kind: str, place: str, index: str) -> str:
    return lanes.code.value(f"getelementptr inbounds {kind}, ptr {place}, i64 {index}")


def _large_function() -> str:
    """Return the LLVM function that reduces one finite float64 from 2**15 on.

    Let x be m * 2**e with m of 53 bits. Of 2/pi, 192 bits are taken: those before them make multiples of four quarter
    turns, those behind them less than 2**-126 of one. No float64 is nearer than 2**-62 quarter turns to a
    multiple of them (Muller, "Elementary Functions", chapter 11), so that enough bits are left for a float and more.
    """
    words = [0, *(int(_TWO_OVER_PI[i : i + 16], 16) for i in range(0, len(_TWO_OVER_PI), 16))]
    table = ", ".join(f"i64 {word}" for word in words)
    pi, pi_low, _ = _PI["double"]
    high, low, tail = (
        f"0x{_bits(value):016X}" for value in (pi * 2.0**-53, pi_low * 2.0**-53, pi * 2.0**-117)
    )
    return f"""\
@two_over_pi = private constant [{len(words)} x i64] [{table}]

define internal {{ double, double, i64 }} @reduce_large(double %x, i64 %shift, i64 %doubling) #3 {{
  %bits = bitcast double %x to i64
  %sized = and i64 %bits, {2**63 - 1}
  %exponent = lshr i64 %sized, 52
  %fraction = and i64 %bits, {2**52 - 1}
  %m = or i64 %fraction, {2**52}
  %wide = zext i64 %m to i128
  %position = sub i64 %exponent, 1013
  %word = lshr i64 %position, 6
  %within = and i64 %position, 63
  %p0 = getelementptr inbounds i64, ptr @two_over_pi, i64 %word
  %p1 = getelementptr inbounds i64, ptr %p0, i64 1
  %p2 = getelementptr inbounds i64, ptr %p0, i64 2
  %p3 = getelementptr inbounds i64, ptr %p0, i64 3
  %w0 = load i64, ptr %p0
  %w1 = load i64, ptr %p1
  %w2 = load i64, ptr %p2
  %w3 = load i64, ptr %p3
  %t0 = call i64 @llvm.fshl.i64(i64 %w0, i64 %w1, i64 %within)
  %t1 = call i64 @llvm.fshl.i64(i64 %w1, i64 %w2, i64 %within)
  %t2 = call i64 @llvm.fshl.i64(i64 %w2, i64 %w3, i64 %within)
  %wide1 = zext i64 %t1 to i128
  %wide2 = zext i64 %t2 to i128
  %product1 = mul i128 %wide, %wide1
  %product2 = mul i128 %wide, %wide2
  %above1 = lshr i128 %product1, 64
  %above2 = lshr i128 %product2, 64
  %high1 = trunc i128 %above1 to i64
  %high2 = trunc i128 %above2 to i64
  %low0 = mul i64 %m, %t0
  %low1 = mul i64 %m, %t1
  %u1 = add i64 %low1, %high2
  %over = icmp ult i64 %u1, %low1
  %carry = zext i1 %over to i64
  %sum = add i64 %low0, %high1
  %u0 = add i64 %sum, %carry
  %signs = ashr i64 %bits, 63
  %flipped1 = xor i64 %u1, %signs
  %flipped0 = xor i64 %u0, %signs
  %n1 = sub i64 %flipped1, %signs
  %wraps = icmp eq i64 %n1, 0
  %borrow = select i1 %wraps, i64 %signs, i64 0
  %n0 = sub i64 %flipped0, %borrow
  %shifted = add i64 %n0, %shift
  %v0 = call i64 @llvm.fshl.i64(i64 %shifted, i64 %n1, i64 %doubling)
  %v1 = shl i64 %n1, %doubling
  %nearest = add i64 %v0, {2**62}
  %odd = and i64 %nearest, {-(2**63)}
  %f0 = call i64 @llvm.fshl.i64(i64 %v0, i64 %v1, i64 1)
  %f1 = shl i64 %v1, 1
  %sign = ashr i64 %f0, 63
  %g0 = xor i64 %f0, %sign
  %g1 = xor i64 %f1, %sign
  %a1 = sub i64 %g1, %sign
  %ends = icmp eq i64 %a1, 0
  %take = select i1 %ends, i64 %sign, i64 0
  %a0 = sub i64 %g0, %take
  %zeros = call i64 @llvm.ctlz.i64(i64 %a0, i1 false)
  %b0 = call i64 @llvm.fshl.i64(i64 %a0, i64 %a1, i64 %zeros)
  %b1 = shl i64 %a1, %zeros
  %head = lshr i64 %b0, 11
  %next = call i64 @llvm.fshl.i64(i64 %b0, i64 %b1, i64 53)
  %x0 = uitofp i64 %head to double
  %x1 = uitofp i64 %next to double
  %y = fmul double %x0, {high}
  %negative = fneg double %y
  %e0 = call double @llvm.fma.f64(double %x0, double {high}, double %negative)
  %e1 = call double @llvm.fma.f64(double %x0, double {low}, double %e0)
  %e2 = call double @llvm.fma.f64(double %x1, double {tail}, double %e1)
  %r = fadd double %y, %e2
  %gone = fsub double %y, %r
  %rest = fadd double %gone, %e2
  %down = add i64 %zeros, %doubling
  %power = sub i64 1023, %down
  %placed = shl i64 %power, 52
  %signbit = and i64 %sign, {-(2**63)}
  %scalebits = or i64 %placed, %signbit
  %scale = bitcast i64 %scalebits to double
  %result = fmul double %r, %scale
  %low = fmul double %rest, %scale
  %s0 = insertvalue {{ double, double, i64 }} poison, double %result, 0
  %s1 = insertvalue {{ double, double, i64 }} %s0, double %low, 1
  %s2 = insertvalue {{ double, double, i64 }} %s1, i64 %odd, 2
  ret {{ double, double, i64 }} %s2
}}"""


def _bits(value: float) -> int:
    return int.from_bytes(struct.pack(">d", value))
