"""Conversions: cvt between integers and floats of all widths, with rounding and saturation, and packing of halves.

Floats become integers with saturation. NaN becomes 0, but the highest bit alone where the float has 64 bits or the
integer has, as NVIDIA's own assembler folds it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.decoding import Scope, decoder, types_of
from dataflare.kernels.emulator.floats import canonical, flushed, saturated
from dataflare.kernels.emulator.rounding import DIRECTIONS, direction
from dataflare.kernels.emulator.syntax import Instruction
from dataflare.kernels.emulator.types import TYPES, UNSIGNED, Array, PtxType

__all__: list[str] = []

_TO_INTEGER: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}
_Conversion = Callable[[Array], Array]


@decoder("cvt", "cvt.f")
def _converted(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "rni rzi rmi rpi rn rz rm rp ftz sat relu")
    to_type, from_type = types_of(instruction)
    if to_type.is_packed:
        return _packed(scope, instruction, to_type, from_type)
    convert = _conversion(instruction, to_type, from_type)
    write = scope.target(instruction.operands[0], to_type)
    read = scope.source(instruction.operands[1], from_type)
    flushes = "ftz" in instruction.modifiers
    flushes_before = flushes and from_type.dtype == np.float32 and not from_type.is_bfloat
    flushes_after = flushes and to_type.dtype == np.float32 and not to_type.is_bfloat
    clamps = "relu" in instruction.modifiers

    def run(batch: Batch, lanes: Lanes) -> None:
        values = read(batch, lanes)
        result = convert(flushed(values) if flushes_before else values)
        if flushes_after:
            result = flushed(result)
        if clamps:
            result = np.where(result > 0, result, result.dtype.type(0))
        write(batch, lanes, result)

    return run


def _conversion(instruction: Instruction, to_type: PtxType, from_type: PtxType) -> _Conversion:
    modifiers = instruction.modifiers
    integral = [_TO_INTEGER[modifier] for modifier in modifiers if modifier in _TO_INTEGER]
    modes = [modifier for modifier in modifiers if modifier in DIRECTIONS]
    mode = modes[0] if modes else None
    saturates = "sat" in modifiers
    if from_type.is_float and not to_type.is_float:
        return _to_integer(integral[0] if integral else np.trunc, to_type, from_type)
    if to_type.is_float:
        # bfloat16 is rounded when it is written, so that it is given all the bits there are.
        dtype = from_type.dtype if to_type.is_bfloat and from_type.is_float else to_type.dtype
        if to_type.is_bfloat and not from_type.is_float:
            dtype = np.dtype(np.float64)

        def convert(values: Array) -> Array:
            if integral:
                values = integral[0](values)
            with direction(mode):
                result = values.astype(dtype)
            if from_type.is_float:
                result = canonical(result, to_type)
            if to_type.is_bfloat and mode == "rz":
                result = _cut(result)
            return saturated(result) if saturates else result

        return convert
    if saturates:
        return lambda values: _clipped(values, to_type)
    if to_type.size_bytes <= from_type.size_bytes and to_type.size_bytes == from_type.size_bytes:
        return lambda values: values.astype(to_type.dtype, copy=True)
    return lambda values: values.astype(to_type.dtype)


def _cut(values: Array) -> Array:
    """Drop the bits of float32 that bfloat16 lacks."""
    singles = np.asarray(values).astype(np.float32)
    return np.where(
        np.isnan(singles), singles, (singles.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    )


def _to_integer(integral: _Conversion, to_type: PtxType, from_type: PtxType) -> _Conversion:
    dtype = to_type.dtype
    limits = np.iinfo(dtype)
    # The first float beyond the range on either side: exact powers of two, or one less for unsigned.
    above = float(2 ** (to_type.bits - (to_type.kind == "s")))
    below = float(limits.min)
    is_wide = from_type.bits == 64 or to_type.bits == 64
    missing = UNSIGNED[to_type.size_bytes].type(1 << (to_type.bits - 1) if is_wide else 0).view(dtype)

    def convert(values: Array) -> Array:
        whole = np.asarray(integral(values.astype(np.float64)))
        fits = (whole < above) & (whole >= below)
        if fits.all():
            return whole.astype(dtype)
        result = np.where(fits, whole, 0).astype(dtype)
        result = np.where(whole >= above, dtype.type(limits.max), result)
        result = np.where(whole < below, dtype.type(limits.min), result)
        return np.where(np.isnan(whole), missing, result)

    return convert


def _clipped(values: Array, to_type: PtxType) -> Array:
    limits = np.iinfo(to_type.dtype)
    given = np.iinfo(values.dtype)
    low, high = max(limits.min, given.min), min(limits.max, given.max)
    return np.clip(values, values.dtype.type(low), values.dtype.type(high)).astype(to_type.dtype)


def _packed(scope: Scope, instruction: Instruction, to_type: PtxType, from_type: PtxType) -> Operation:
    """Decode ``cvt.rn.f16x2.f32 d, a, b``: a becomes the upper half, b the lower."""
    half = TYPES["bf16" if to_type.is_bfloat else "f16"]
    convert = _conversion(instruction, half, from_type)
    write = scope.target(instruction.operands[0], TYPES["b32"])
    upper, lower = (scope.source(operand, from_type) for operand in instruction.operands[1:3])

    def run(batch: Batch, lanes: Lanes) -> None:
        high, low = (
            half.bits_of(np.asarray(convert(read(batch, lanes)))).astype(np.uint32) for read in (upper, lower)
        )
        write(batch, lanes, high << np.uint32(16) | low)

    return run
