"""What the CPU offers the code generator: instruction set, vector width, vector math functions.

Vector math is glibc's libmvec (at most 4 ULP by its manual), found by asking the dynamic linker; functions that
it lacks, and machines without it, use the scalar functions of libm, one record at a time.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = ["MATH_FUNCTIONS", "Target", "host_target"]

MATH_FUNCTIONS: Mapping[str, tuple[str, int]] = {
    # name in the dataflow form: (name in libm, number of arguments)
    **{
        name: (name, 1)
        for name in (
            "acos acosh asin asinh atan atanh cbrt cos cosh erf erfc exp exp2 expm1 lgamma log log10 log1p log2 "
            "sin sinh tan tanh"
        ).split()
    },
    "gamma": ("tgamma", 1),
    "atan2": ("atan2", 2),
    "hypot": ("hypot", 2),
    "pow": ("pow", 2),
}


@dataclass(frozen=True)
class Target:
    """A CPU as the code generator sees it; equal targets give equal code."""

    triple: str
    cpu: str
    features: str
    register_bytes: int
    has_permute: bool
    has_bit_extract: bool
    converts_int64: bool
    vector_math: Mapping[str, str] = field(default_factory=dict)
    vector_math_lanes: int = 0

    @property
    def lanes(self) -> int:
        """Records worked on at once: two registers of float64, and whole bytes of a bitmap."""
        return max(8, self.register_bytes // 4)


@lru_cache(maxsize=1)
def host_target() -> Target:
    """Return this machine."""
    import llvmlite.binding as llvm

    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features()
    names = {name for name, present in features.items() if present}
    if platform.machine().lower() in ("x86_64", "amd64"):
        register_bytes, letter = (
            (64, "e") if "avx512f" in names else (32, "d") if "avx2" in names else (16, "b")
        )
        if register_bytes == 64:  # half the width keeps the clock up and the permutations short
            register_bytes, letter = 32, "d"
        lanes = register_bytes // 8
    else:
        register_bytes, letter, lanes = 16, "n", 2
    return Target(
        triple=triple,
        cpu=llvm.get_host_cpu_name(),
        features=features.flatten(),
        register_bytes=register_bytes,
        has_permute="avx2" in names,
        has_bit_extract="bmi2" in names,
        converts_int64="avx512dq" in names or "neon" in names,
        vector_math=_vector_math(letter, lanes),
        vector_math_lanes=lanes,
    )


def _vector_math(letter: str, lanes: int) -> dict[str, str]:
    """Return the vector function of each mathematical function that libmvec has for this instruction set."""
    try:
        library = ctypes.CDLL("libmvec.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:  # not glibc, or too old
        return {}
    found = {}
    for name, (c_name, arity) in MATH_FUNCTIONS.items():
        symbol = f"_ZGV{letter}N{lanes}{'v' * arity}_{c_name}"
        if hasattr(library, symbol):
            found[name] = symbol
    return found
