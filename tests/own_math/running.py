"""Runs one function of kernels/llvm/math over arrays, for any number of lanes and CPU, and measures its errors."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from mpmath import mp

from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.target import host_target, level_target
from dataflare.kernels.llvm.emit import Code, Emitter
from dataflare.kernels.llvm.math.functions import FUNCTIONS
from dataflare.kernels.llvm.math.lanes import Lanes
from dataflare.kernels.llvm.target import MATH_FUNCTIONS

__all__ = ["TYPES", "assert_same_bits_everywhere", "compiled", "units_off", "worst_error"]

TYPES: Mapping[str, Any] = {"double": np.float64, "float": np.float32}
_ON_X86 = platform.machine().lower() in ("x86_64", "amd64")


def _loop_text(name: str, element: str, emitter: Emitter) -> str:
    """Return ``f(x, y, out, n)`` for n that the lanes divide."""
    code, kind, size = emitter.code, emitter.type_of(element), TYPES[element]().itemsize
    code.add("br label %loop")
    code.label("loop")
    code.add("%i = phi i64 [ 0, %entry ], [ %next, %latch ]")
    arguments = []
    for pointer in ("%x", "%y")[: MATH_FUNCTIONS[name][1]]:
        place = code.value(f"getelementptr {element}, ptr {pointer}, i64 %i")
        arguments.append(code.value(f"load {kind}, ptr {place}, align {size}"))
    result = FUNCTIONS[name](Lanes(emitter, element), *arguments)
    place = code.value(f"getelementptr {element}, ptr %out, i64 %i")
    code.add(f"store {kind} {result}, ptr {place}, align {size}")
    code.add("br label %latch")
    code.label("latch")
    code.add(f"%next = add i64 %i, {emitter.lanes}")
    code.add("%more = icmp ult i64 %next, %n")
    code.add("br i1 %more, label %loop, label %done")
    code.label("done")
    code.add("ret void")
    head = "define void @f(ptr noalias %x, ptr noalias %y, ptr noalias %out, i64 %n) {\nentry:"
    attributes = "attributes #3 = { cold noinline nounwind willreturn memory(none) }"
    return "\n".join([*code.declarations, head, *code.entry, *code.lines, "}", attributes, ""])


def _no_load(*_: Any) -> str:
    raise AssertionError("no node is loaded here")


@cache
def compiled(name: str, element: str, lanes: int, level: str = "host") -> Callable[..., np.ndarray]:
    """Return a function of arrays, for this CPU or a level of x86-64 that it has."""
    target = host_target() if level == "host" else level_target(level)
    text = _loop_text(name, element, Emitter(Code(), target, lanes, _no_load))
    loaded = jit.load_object(jit.assemble(text, target))
    call = loaded.function("f", ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64))

    def run(*arguments: Any) -> np.ndarray:
        count = len(arguments[0])
        filled = [np.append(a, np.ones(-count % lanes)).astype(TYPES[element]) for a in arguments]
        out = np.empty_like(filled[0])
        call(filled[0].ctypes.data, filled[-1].ctypes.data, out.ctypes.data, len(out))
        run.loaded = loaded  # type: ignore[attr-defined]  # keeps the code in memory
        return out[:count]

    return run


def units_off(got: float, value: Any, element: str) -> float:
    """Return how far a result is off, in units of the last place of the right value; inf counts as the next number."""
    digits, lowest, highest = (53, -1074, 1024) if element == "double" else (24, -149, 128)
    _, exponent = mp.frexp(abs(value))
    unit = mp.mpf(2) ** (min(max(exponent - digits, lowest), highest - digits) if value else lowest)
    limit = mp.mpf(2) ** highest
    if math.isinf(got):
        return 0.0 if value * got > 0 and abs(value) >= limit - unit else math.inf
    return float(abs(mp.mpf(got) - (min(max(value, -limit), limit))) / unit)


def worst_error(
    name: str, element: str, arguments: Sequence[np.ndarray], right: Callable[..., Any], *, bits: int
) -> tuple[float, str, int]:
    """Return the largest error in units of the last place, the call that has it, and how many were compared.

    ``right`` returns the value, which it computes with ``bits`` bits, or None where the function has none.
    """
    results = compiled(name, element, 16)(*arguments)
    worst, compared = (0.0, ""), 0
    with mp.workprec(bits):
        for *values, got in zip(*arguments, results, strict=True):
            if not all(map(math.isfinite, values)):
                continue
            value = right(*(mp.mpf(float(v)) for v in values))
            if value is None or mp.isinf(value):
                continue
            compared += 1
            off = units_off(float(got), value, element)
            worst = max(worst, (off, f"{name}{tuple(map(float, values))} = {float(got)!r}"))
    return *worst, compared


def _bits(values: np.ndarray) -> list[int]:
    """Return the bits of results; NaN counts as one value."""
    plain = np.where(np.isnan(values), math.nan, values).astype(values.dtype)
    return plain.view(f"u{values.dtype.itemsize}").tolist()


def assert_same_bits_everywhere(name: str, element: str, arguments: Sequence[np.ndarray]) -> None:
    """Assert that results are those of one lane in any lane, among other values, on CPUs of every level."""
    ends = [0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 5e-324, 1e-310, -1e-45]
    ends = np.array(ends).astype(TYPES[element])
    arguments = [np.concatenate([a, np.roll(ends, 3 * i)]) for i, a in enumerate(arguments)]
    alone = _bits(compiled(name, element, 1)(*arguments))
    order = np.random.default_rng(1).permutation(len(alone))
    mixed = [a[order] for a in arguments]
    kinds = [(8, "host"), (16, "host")]
    if _ON_X86:
        kinds += [(8, "x86-64-v3"), (16, "x86-64-v4"), (1, "x86-64-v3"), (8, "x86-64")]
    for lanes, level in kinds:
        if level != "host" and level_target(level).register_bytes > host_target().register_bytes:
            continue  # this CPU cannot run it
        got = _bits(compiled(name, element, lanes, level)(*mixed))
        assert got == [alone[i] for i in order], (lanes, level)
