"""The CPUs that code is generated for: this machine, or a level of the x86-64 ABI.

With a fused multiply-add, mathematical functions are code of ``kernels.llvm.math``. Without it they are those of
glibc's libmvec (at most 4 ULP by its manual), found by asking the dynamic linker; what it lacks, and machines
without it, use the scalar functions of libm, one record at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import lru_cache

from dataflare.kernels.llvm.target import MATH_FUNCTIONS, Target

__all__ = ["host_target", "level_target"]

_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
"""The instructions that every CPU with AVX-512 has but the Xeon Phi; without all of them 32-byte registers are used."""


#: What the levels of the x86-64 ABI add up to, as far as the code generator asks.
_LEVELS: Mapping[str, frozenset[str]] = {
    "x86-64": frozenset(),
    "x86-64-v3": frozenset({"avx2", "bmi2", "fma"}),
    "x86-64-v4": frozenset({"avx2", "bmi2", "fma", *_AVX512}),
}


@lru_cache(maxsize=1)
def host_target() -> Target:
    """Return this machine."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features()
    names = frozenset(name for name, present in features.items() if present)
    return _target(triple, llvm.get_host_cpu_name(), features.flatten(), names)


def level_target(level: str) -> Target:
    """Return a CPU with what a level of the x86-64 ABI has ("x86-64", "x86-64-v3" or "x86-64-v4") and no more."""
    return _target("x86_64-unknown-linux-gnu", level, "", _LEVELS[level])


def _target(triple: str, cpu: str, features: str, names: frozenset[str]) -> Target:
    if triple.startswith("x86_64"):
        wide = names >= _AVX512
        register_bytes, letter = (64, "e") if wide else (32, "d") if "avx2" in names else (16, "b")
    else:
        wide, register_bytes, letter = False, 16, "n"
    lanes = register_bytes // 8
    return Target(
        triple=triple,
        cpu=cpu,
        features=features,
        register_bytes=register_bytes,
        has_permute="avx2" in names,
        has_bit_extract="bmi2" in names,
        converts_int64=wide or letter == "n",
        has_compress=wide,
        has_short_compress=wide and "avx512vbmi2" in names,
        has_fma="fma" in names or letter == "n",
        vector_math=_vector_math(letter, lanes, ""),
        vector_math32=_vector_math(letter, 2 * lanes, "f"),
    )


def _vector_math(letter: str, lanes: int, suffix: str) -> dict[str, str]:
    """Return the vector function of each mathematical function that libmvec has for this instruction set.

    ``suffix`` is that of the C functions of the type: none for float64, "f" for float32.
    """
    try:
        library = ctypes.CDLL("libmvec.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:  # not glibc, or too old
        return {}
    found = {}
    for name, (c_name, arity) in MATH_FUNCTIONS.items():
        symbol = f"_ZGV{letter}N{lanes}{'v' * arity}_{c_name}{suffix}"
        if hasattr(library, symbol):
            found[name] = symbol
    return found
