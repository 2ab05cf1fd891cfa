"""All mathematical functions that are code of their own, by their names in the dataflow form."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dataflare.kernels.llvm.math import (
    exponential,
    hyperbolic,
    logarithms,
    powers,
    roots,
    special,
    trigonometry,
)

__all__ = ["FUNCTIONS"]

FUNCTIONS: Mapping[str, Callable[..., str]] = {
    **exponential.FUNCTIONS,
    **logarithms.FUNCTIONS,
    **powers.FUNCTIONS,
    **hyperbolic.FUNCTIONS,
    **roots.FUNCTIONS,
    **special.FUNCTIONS,
    **trigonometry.FUNCTIONS,
}
"""Each takes `Lanes` of the width to compute in and the registers of its arguments."""
