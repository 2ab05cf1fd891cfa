"""What a device offers the code generator: instruction set, vector width, vector math functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["MATH_FUNCTIONS", "Target"]

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
    """A device as the code generator sees it; equal targets give equal code.

    ``has_compress`` says that lanes of 32 and 64 bits can be moved to the front of a register under a mask,
    ``has_short_compress`` the same of 8 and 16 bits. ``divides_integers`` says that integers are divided best as
    they are; elsewhere vectors of them are divided as floats. ``remainder`` names a function to call for C's fmod of
    float64 where LLVM's own instruction is not exact. ``inlines_math`` keeps the code of functions in
    place, also where one record is worked on at a time. ``vector_math`` names the vector function of each
    mathematical function on float64, ``vector_math32`` on float32; ``exact`` leaves all of them to the C library.
    """

    triple: str
    cpu: str
    features: str
    register_bytes: int
    has_permute: bool
    has_bit_extract: bool
    converts_int64: bool
    has_compress: bool = False
    has_short_compress: bool = False
    has_fma: bool = False
    divides_integers: bool = False
    remainder: str | None = None
    inlines_math: bool = False
    vector_math: Mapping[str, str] = field(default_factory=dict)
    vector_math32: Mapping[str, str] = field(default_factory=dict)
    exact: bool = False

    @property
    def lanes(self) -> int:
        """Records of a group: two registers of float64, and whole bytes of a bitmap."""
        return max(8, self.register_bytes // 4)

    @property
    def own_math(self) -> bool:
        """Whether functions are computed by code of ``kernels.llvm.math``, which needs a fused multiply-add."""
        return self.has_fma and not self.exact

    def has_vector_code(self, function: str) -> bool:
        """Return whether one of `MATH_FUNCTIONS` is computed for many records at once."""
        return self.own_math or function in self.vector_math

    @property
    def exact_math(self) -> Target:
        """The same CPU with mathematical functions called one record at a time, in the C library."""
        return replace(self, vector_math={}, vector_math32={}, exact=True)
