"""The types of PTX instructions, as arrays over lanes.

A register is an array of unsigned integers of its width (of bools for a predicate), or one scalar where all lanes
have the same value. A type views such an array as what an instruction computes with, and the result back as bits.
bfloat16 computes in float32; packed types (f16x2, s16x2, f32x2, ...) have one more axis, of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["TYPES", "UNSIGNED", "Array", "PtxType", "unsigned_of"]

Array: TypeAlias = Any
"""An array over lanes, or a NumPy scalar where all lanes have one value; both have the same methods and operators,
which the types of NumPy cannot say."""

UNSIGNED: dict[int, np.dtype[Any]] = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
"""The unsigned integers by their size in bytes."""

_BOOL = np.dtype(np.bool_)


@dataclass(frozen=True, eq=False)
class PtxType:
    """A type as instructions name it.

    Attributes
    ----------
    size_bytes
        Of a value, both halves of a packed type together.
    kind
        "u", "s", "f" or "p" (predicate); untyped bits count as "u".
    dtype
        What NumPy computes with.
    """

    name: str
    size_bytes: int
    kind: str
    dtype: np.dtype[Any]
    is_packed: bool = False
    is_bfloat: bool = False

    @property
    def bits(self) -> int:
        """The width of one element in bits."""
        return self.size_bytes * (4 if self.is_packed else 8)

    @property
    def is_float(self) -> bool:
        """Whether values are floats."""
        return self.kind == "f"

    def view(self, bits: Array) -> Array:
        """Return the unsigned integers of a register as values; mostly without a copy."""
        if self.is_packed:
            halves = np.asarray(bits)[..., np.newaxis].view(UNSIGNED[self.size_bytes // 2])
            return widen(halves) if self.is_bfloat else halves.view(self.dtype)
        if self.is_bfloat:
            return widen(bits)
        return bits if bits.dtype == self.dtype else bits.view(self.dtype)

    def bits_of(self, values: Array) -> Array:
        """Return values as the unsigned integers of a register."""
        if self.is_packed:
            halves = narrow(values) if self.is_bfloat else np.ascontiguousarray(values, self.dtype)
            return halves.view(UNSIGNED[self.size_bytes])[..., 0]
        if self.is_bfloat:
            return narrow(values)
        if self.kind == "p":
            return values
        return values if values.dtype.kind == "u" else values.view(UNSIGNED[self.size_bytes])


def widen(bits: Array) -> Array:
    """Return the float32 that bfloat16 bits mean."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(values: Array) -> Array:
    """Return the bits of the bfloat16 nearest to each float32 or float64; ties go to even."""
    singles = values if values.dtype == np.float32 else _to_odd(values)
    bits = singles.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    high = np.where(np.isnan(singles), np.uint32(0x7FFF0000), rounded) >> np.uint32(16)
    return high.astype(np.uint16)


def _to_odd(values: Array) -> Array:
    """Round float64 to float32 so that a second rounding, to fewer bits, comes out as if it were the only one."""
    nearest = values.astype(np.float32)
    error = values - nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    away = (error != 0) & ((bits & np.uint32(1)) == 0) & np.isfinite(nearest)
    toward = np.where(error > 0, np.float32(np.inf), np.float32(-np.inf))
    return np.where(away, np.nextafter(nearest, toward), nearest).astype(np.float32)


def _types() -> dict[str, PtxType]:
    found = {"pred": PtxType("pred", 1, "p", _BOOL)}
    for size in (1, 2, 4, 8):
        for letter, kind in (("u", "u"), ("b", "u"), ("s", "s")):
            dtype = np.dtype(f"{'i' if kind == 's' else 'u'}{size}")
            found[f"{letter}{8 * size}"] = PtxType(f"{letter}{8 * size}", size, kind, dtype)
    for size in (2, 4, 8):
        found[f"f{8 * size}"] = PtxType(f"f{8 * size}", size, "f", np.dtype(f"f{size}"))
    single = np.dtype(np.float32)
    found["bf16"] = PtxType("bf16", 2, "f", single, is_bfloat=True)
    found["bf16x2"] = PtxType("bf16x2", 4, "f", single, is_packed=True, is_bfloat=True)
    found["f16x2"] = PtxType("f16x2", 4, "f", np.dtype(np.float16), is_packed=True)
    found["f32x2"] = PtxType("f32x2", 8, "f", single, is_packed=True)
    found["s16x2"] = PtxType("s16x2", 4, "s", np.dtype(np.int16), is_packed=True)
    found["u16x2"] = PtxType("u16x2", 4, "u", np.dtype(np.uint16), is_packed=True)
    return found


TYPES: dict[str, PtxType] = _types()
"""The types by name, without the dot."""


def unsigned_of(type_name: str) -> PtxType:
    """Return the type of the same width that is plain bits."""
    found = TYPES[type_name]
    return found if found.kind == "p" else TYPES[f"b{8 * found.size_bytes}"]
