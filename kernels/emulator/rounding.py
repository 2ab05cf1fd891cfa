"""Floating-point results with one rounding in a given direction: fused multiply-add, and the modes rz, rm and rp.

The fused operations are compiled loops, since NumPy has none; they are compiled at first use. Directions are set in
the floating-point unit around NumPy's own operations, which honour it.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import numpy as np

from dataflare.kernels.emulator.types import Array, PtxType

__all__ = ["DIRECTIONS", "direction", "fused_multiply_add"]

_X86: Final = {"rm": 0x400, "rp": 0x800, "rz": 0xC00}
_ARM: Final = {"rp": 0x400000, "rm": 0x800000, "rz": 0xC00000}
DIRECTIONS: Final = _ARM if platform.machine() == "aarch64" else _X86
"""The rounding modes that are not to nearest, as the C library numbers them."""

_LOOP = """\
define void @fma_{name}(ptr noalias %a, ptr noalias %b, ptr noalias %c, ptr noalias %out, i64 %count) {{
entry:
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %pa = getelementptr inbounds {type}, ptr %a, i64 %i
  %pb = getelementptr inbounds {type}, ptr %b, i64 %i
  %pc = getelementptr inbounds {type}, ptr %c, i64 %i
  %po = getelementptr inbounds {type}, ptr %out, i64 %i
  %x = load {type}, ptr %pa, align {size}
  %y = load {type}, ptr %pb, align {size}
  %z = load {type}, ptr %pc, align {size}
  %r = call {type} @llvm.fma.{name}({type} %x, {type} %y, {type} %z)
  store {type} %r, ptr %po, align {size}
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
declare {type} @llvm.fma.{name}({type}, {type}, {type})
"""


@lru_cache(maxsize=1)
def _loops() -> tuple[Any, dict[str, Any]]:
    """Return the compiled loops, by NumPy's names of the types, and what keeps them in memory."""
    from dataflare.kernels.cpu.jit import assemble, load_object
    from dataflare.kernels.cpu.target import host_target

    text = "\n".join(
        _LOOP.format(name=name, type=llvm_type, size=size)
        for name, llvm_type, size in (("f32", "float", 4), ("f64", "double", 8))
    )
    loaded = load_object(assemble(text, host_target()))
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
    functions = {"float32": "fma_f32", "float64": "fma_f64"}
    return loaded, {dtype: loaded.function(name, prototype) for dtype, name in functions.items()}


@lru_cache(maxsize=1)
def _set_direction() -> Any:
    library = ctypes.CDLL(None)
    return library.fesetround


@contextmanager
def direction(mode: str | None) -> Iterator[None]:
    """Round toward zero ("rz"), down ("rm") or up ("rp") within the block; None keeps to nearest."""
    if mode is None:
        yield
        return
    set_direction = _set_direction()
    set_direction(DIRECTIONS[mode])
    try:
        yield
    finally:
        set_direction(0)


def fused_multiply_add(a: Array, b: Array, c: Array, of_type: PtxType) -> Array:
    """Return ``a * b + c`` with one rounding."""
    if of_type.dtype == np.float16 or of_type.is_bfloat:
        # The product of two halves is exact in float64, and 53 bits are more than twice 11 and 2, so that
        # rounding the sum twice gives what rounding it once gives.
        wide = a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)
        return wide if of_type.is_bfloat else np.asarray(wide).astype(np.float16)
    _, functions = _loops()
    first, second, third = np.broadcast_arrays(a, b, c)
    operands = [np.ascontiguousarray(operand, of_type.dtype) for operand in (first, second, third)]
    result = np.empty(first.shape, of_type.dtype)
    functions[of_type.dtype.name](
        *(operand.ctypes.data for operand in operands), result.ctypes.data, result.size
    )
    return result
