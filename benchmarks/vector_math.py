"""Math functions for hand-written Numba kernels that LLVM may replace by glibc's vector versions (libmvec).

Each call carries ``vector-function-abi-variant`` and the vector declarations are kept alive in
``llvm.compiler.used``; that is all LLVM's loop vectoriser needs. Where there is no libmvec (macOS, musl),
the plain ``math`` functions stand in and ``VECTORISED`` is False: the kernels stay right and lose their
speed.
"""

from __future__ import annotations

import math
import platform
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

__all__ = ["VECTORISED", "asin", "cos", "log1p", "sin"]

#: Letters of the vector ABI, the processor feature that each needs, and its doubles a vector. LLVM takes any variant
#: that it is told of without asking the processor, so only the usable ones may be named.
_FEATURES = {"e": ("avx512f", 8), "d": ("avx2", 4), "b": ("sse2", 2)}
_LANES = {
    letter: width
    for letter, (feature, width) in _FEATURES.items()
    if llvm.get_host_cpu_features().get(feature)
}
_NAMES = ("log1p", "sin", "cos", "asin")
_PURE = ("nounwind", "readnone")


class _AnyAttribute(ir.instructions.CallInstrAttributes):
    """Call attributes without llvmlite's list of known names, which lacks the one needed here."""

    def add(self, name: str) -> None:
        set.add(self, name)


def _variant(lane: str, name: str) -> str:
    return f"_ZGV{lane}N{_LANES[lane]}v_{name}"


def _declare_vector_functions(module: Any) -> None:
    if "llvm.compiler.used" in module.globals:
        return
    functions = []
    for name in _NAMES:
        for lane, width in _LANES.items():
            vector = ir.VectorType(ir.DoubleType(), width)
            function = ir.Function(module, ir.FunctionType(vector, [vector]), _variant(lane, name))
            for attribute in _PURE:
                function.attributes.add(attribute)
            functions.append(function)
    pointer = ir.IntType(8).as_pointer()
    array = ir.ArrayType(pointer, len(functions))
    used = ir.GlobalVariable(module, array, "llvm.compiler.used")
    used.linkage = "appending"
    used.section = "llvm.metadata"
    used.initializer = ir.Constant(array, [function.bitcast(pointer) for function in functions])


def _tagged(name: str) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        module, double = builder.module, ir.DoubleType()
        _declare_vector_functions(module)
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(double, [double]), name)
        call = builder.call(function, arguments)
        call.attributes = _AnyAttribute()
        variants = ",".join(_variant(lane, name) for lane in _LANES)
        for attribute in (*_PURE, f'"vector-function-abi-variant"="{variants}"'):
            call.attributes.add(attribute)
        return call

    @intrinsic
    def function(typing_context, x):  # type: ignore[no-untyped-def]
        return types.float64(types.float64), generate

    return function


def _load_libmvec() -> bool:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    try:
        llvm.load_library_permanently("libmvec.so.1")
    except RuntimeError:
        return False
    return True


#: Whether the functions below have vector versions on this machine.
VECTORISED = _load_libmvec()

if VECTORISED:
    log1p, sin, cos, asin = (_tagged(name) for name in _NAMES)
else:
    log1p, sin, cos, asin = (njit(inline="always")(getattr(math, name)) for name in _NAMES)
