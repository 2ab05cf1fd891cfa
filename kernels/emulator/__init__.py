"""Runs PTX on the CPU, with every check that a GPU does not make: the device "cuda:emulated".

Covers
    The PTX that LLVM's NVPTX backend writes for sm_75 to sm_120: integers of 8 to 64 bits with carries, floats of 16
    (both kinds) to 64 bits with one rounding, packed pairs, conversions with saturation, vectors of up to eight
    elements, all state spaces and generic addresses, tables with initialisers, device functions, divergence, named
    barriers, exchanges of a warp, and atomics.

Finds
    Accesses out of bounds, after free, misaligned, of uninitialised memory; races in shared and (on demand) global
    memory; stores of different values to one address; divergent barriers, barriers after an exit, wrong masks,
    absent lanes, deadlock, live-lock, integer division by zero, and launches that a device refuses. Each error names
    kernel, line, thread and address. A seed draws the order of blocks, warps and atomic operations.

Limits
    Memory is sequentially consistent, so that a missing fence is not found. Approximate functions (``ex2.approx``
    and others) are computed exactly and differ from a device in the last bits. Clocks stand still. Not covered:
    textures, surfaces, tensor cores, asynchronous copies, clusters, calls through pointers, recursion.

`parse` makes a module of text, `launch` runs one of its kernels in a `DeviceMemory`.
"""

from __future__ import annotations
