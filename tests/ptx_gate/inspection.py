"""What must hold of the PTX of every kernel, and of what the assembler makes of it.

Registers are judged in `gate`, which knows how many there were before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ptx_gate.programs import GateKernel

from dataflare.kernels.cuda.assembler import Assembled

_LOCAL = re.compile(r"\.local\b|__local_depot")
_FUSED = re.compile(r"\b(?:fma|mad)\.\S*f(?:16|32|64)\b")
_FREE = re.compile(r"\b(?:add|sub|mul)(?:\.ftz|\.sat)*\.f(?:32|64)\b")
_INEXACT = re.compile(r"\b\w+\.(?:approx|full|ftz)\S*")
_FLOAT64 = re.compile(r"\.f64\b")
_VECTOR_LOAD, _VECTOR_STORE = (
    re.compile(rf"\b{op}\.global\S*(?:\.v2\.[a-z]64|\.v4\.[a-z]32|\.b128)\b") for op in ("ld", "st")
)


def faults_of_ptx(kernel: GateKernel, ptx: str) -> Iterator[str]:
    """Yield what is wrong with the PTX of a kernel."""
    if _LOCAL.search(ptx):
        yield "keeps values in local memory"
    if not kernel.of.may_fuse and (found := _FUSED.search(ptx)):
        yield f"fuses a multiplication with an addition: {found[0]}"
    if found := _FREE.search(ptx):
        yield f"lets the assembler fuse: {found[0]} does not say how it rounds"
    if found := _INEXACT.search(ptx):
        yield f"is not exact: {found[0]}"
    if kernel.of.float32 and _FLOAT64.search(ptx):
        yield "computes in float64, and the program in float32"
    for what, pattern, expected in (
        ("loads", _VECTOR_LOAD, kernel.vector_loads),
        ("stores", _VECTOR_STORE, kernel.vector_stores),
    ):
        if (count := len(pattern.findall(ptx))) < expected:
            yield f"has {count} {what} of 16 bytes, and its columns have room for {expected}"


def faults_of_code(assembled: Assembled) -> Iterator[str]:
    """Yield what is wrong with the machine code of a kernel."""
    if assembled.spill_bytes:
        yield f"spills {assembled.spill_bytes} bytes"
    if assembled.stack_bytes:
        yield f"has a stack of {assembled.stack_bytes} bytes"
