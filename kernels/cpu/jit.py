"""Makes LLVM text runnable: optimise, assemble to an object, load the object into the process.

Assembling and loading are apart, so that a cached object is loaded without running the compiler.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.llvm.optimise import LLVM_LOCK, binding, optimised
from dataflare.kernels.llvm.target import Target

__all__ = ["LoadedObject", "assemble", "assembly", "load_object"]


@lru_cache(maxsize=1)
def _initialised() -> Any:
    """Return llvmlite's binding, ready to run code in this process."""
    llvm = binding()
    # The last one converts float16 on CPUs without instructions for that (of GCC 12 or later).
    for library in ("libmvec.so.1", "libm.so.6", "libgcc_s.so.1"):
        try:
            llvm.load_library_permanently(library)
        except RuntimeError:  # another C library; the functions are then in the process already, or not used
            continue
    return llvm


def _machine(target: Target) -> Any:
    llvm = _initialised()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="default", codemodel="jitdefault", jit=True
    )


def assemble(text: str, target: Target) -> bytes:
    """Return the object file of an LLVM module."""
    with LLVM_LOCK:
        machine = _machine(target)
        return bytes(machine.emit_object(optimised(text, machine)))


def assembly(text: str, target: Target) -> str:
    """Return the assembly of an LLVM module, for people and for tests that look for vector instructions."""
    with LLVM_LOCK:
        machine = _machine(target)
        return str(machine.emit_assembly(optimised(text, machine)))


class LoadedObject:
    """Machine code in this process; it stays as long as this object lives."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def address(self, name: str) -> int:
        """Return where an exported function is."""
        address: int = self._engine.get_function_address(name)
        if not address:
            raise KeyError(name)
        return address

    def function(self, name: str, prototype: Any) -> Any:
        """Return an exported function as a ctypes callable that releases the interpreter lock."""
        return prototype(self.address(name))


def load_object(data: bytes) -> LoadedObject:
    """Load an object file that `assemble` made for this machine."""
    with LLVM_LOCK:
        llvm = _initialised()
        empty = llvm.parse_assembly("")
        engine = llvm.create_mcjit_compiler(empty, _machine(host_target()))
        engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        engine.finalize_object()
        return LoadedObject(engine)


KERNEL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)
STRING_KERNEL = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)
