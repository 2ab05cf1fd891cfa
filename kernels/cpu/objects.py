"""Gets machine code for LLVM text: out of the cache on disk where it is, else compiled and put there."""

from __future__ import annotations

import hashlib

from dataflare.kernels.cpu import cache, jit
from dataflare.kernels.llvm.target import Target

__all__ = ["CODE_VERSION", "load_or_compile"]

CODE_VERSION = 1


def load_or_compile(text: str, target: Target) -> tuple[jit.LoadedObject, str]:
    """Return a module as machine code, and ``"disk"`` or ``"compiled"``."""
    key = _cache_key(text, target)
    data = cache.load(key)
    if data is not None:
        loaded = _load(data)
        if loaded is not None:
            return loaded, "disk"
    data = jit.assemble(text, target)
    loaded = jit.load_object(data)
    cache.save(key, data)
    return loaded, "compiled"


def _load(data: bytes) -> jit.LoadedObject | None:
    try:
        return jit.load_object(data)
    except RuntimeError:  # an object that this LLVM cannot load is compiled anew
        return None


def _cache_key(text: str, target: Target) -> str:
    import llvmlite

    parts = (str(CODE_VERSION), llvmlite.__version__, target.cpu, target.features, text)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
