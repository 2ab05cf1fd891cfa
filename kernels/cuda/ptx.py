"""Makes PTX of LLVM text, by LLVM's NVPTX backend: no CUDA toolkit and no driver is needed.

Additions and multiplications are never contracted: they come out as ``add.rn`` and ``mul.rn``, which the assembler
of the driver does not fuse either. What is made is kept on disk as machine code of the CPU is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from dataflare.kernels.cpu import cache
from dataflare.kernels.cuda.kernel_text import KernelText
from dataflare.kernels.llvm.optimise import LLVM_LOCK, binding, optimised
from dataflare.kernels.llvm.target import Target

__all__ = ["KernelImage", "image_of"]

_VERSION = 1


@dataclass(frozen=True)
class KernelImage:
    """A kernel that a device can load: PTX, the name of its entry, and the 64-bit slots of its argument block."""

    ptx: str
    entry: str
    slots: int
    architecture: str
    from_disk: bool = False
    """Whether it was in the cache on disk."""


def image_of(kernel: KernelText, target: Target) -> KernelImage:
    """Compile a kernel, or load it from the cache."""
    key = _cache_key(kernel.text, target)
    data = cache.load(key)
    from_disk = data is not None
    if data is None:
        data = _compile(kernel.text, target).encode()
        cache.save(key, data)
    return KernelImage(data.decode(), kernel.entry, kernel.slots, target.cpu, from_disk)


def _compile(text: str, target: Target) -> str:
    with LLVM_LOCK:
        machine = _machine(target)
        return str(machine.emit_assembly(optimised(text, machine)))


def _machine(target: Target) -> Any:
    llvm = binding()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3
    )


def _cache_key(text: str, target: Target) -> str:
    import llvmlite

    parts = ("ptx", str(_VERSION), llvmlite.__version__, target.cpu, target.features, text)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
