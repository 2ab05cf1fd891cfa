"""Counts the instructions that a compiled function executes, by letting the processor step through it.

With the trap flag set, an x86-64 processor raises SIGTRAP after every instruction, and the handler counts. That
needs no hardware counter (virtual machines and containers rarely have one), no right and no tool, gives the same
number every time, and sees every instruction set that the processor has, AVX-512 included. Functions that are
called, such as those of libmvec, are counted too; each repetition of a ``rep movsb`` and its kind counts as one.

Does not cover: time, and long runs. A step takes microseconds, 16 of them in a virtual machine inside another one.
"""

from __future__ import annotations

import ctypes
import platform
import signal
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.target import host_target

__all__ = ["CountedObject", "count_instructions", "why_unavailable"]

# In LLVM, for Python's own handler notes that a signal came, not how often. The flag is 0x100, and the kernel takes it
# back while the handler runs; of this code the few instructions around the call are counted.
_TEXT = """
@steps = internal global i64 0

declare i64 @llvm.x86.flags.read.u64()
declare void @llvm.x86.flags.write.u64(i64)

define void @count_step(i32 %signal) {
  %before = load volatile i64, ptr @steps
  %after = add i64 %before, 1
  store volatile i64 %after, ptr @steps
  ret void
}

define i64 @stepped(ptr %function, ptr %argument, ptr %steps_taken) {
  store volatile i64 0, ptr @steps
  %flags = call i64 @llvm.x86.flags.read.u64()
  %stepping = or i64 %flags, 256
  call void @llvm.x86.flags.write.u64(i64 %stepping)
  %result = call i64 %function(ptr %argument)
  call void @llvm.x86.flags.write.u64(i64 %flags)
  %taken = load volatile i64, ptr @steps
  store i64 %taken, ptr %steps_taken
  ret i64 %result
}

define i64 @nothing(ptr %argument) {
  ret i64 0
}
"""
_STEPPED = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64))


@lru_cache(maxsize=1)
def _stepper() -> jit.LoadedObject:
    return jit.load_object(jit.assemble(_TEXT, host_target()))


def count_instructions(address: int, argument: bytes) -> tuple[int, int]:
    """Call the function at ``address`` with a pointer to ``argument``; return what it returned, and its instructions.

    A few instructions around the call are counted too, the same number for every function.
    """
    stepper = _stepper()
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes = ctypes.c_int, ctypes.c_void_p
    set_handler.restype = ctypes.c_void_p
    taken = ctypes.c_int64()
    previous = set_handler(signal.SIGTRAP, stepper.address("count_step"))
    try:
        result = stepper.function("stepped", _STEPPED)(address, argument, ctypes.byref(taken))
    finally:
        set_handler(signal.SIGTRAP, previous)
    return result, taken.value


def why_unavailable() -> str | None:
    """Return why instructions cannot be counted here, or None where they can."""
    if platform.system() != "Linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return f"only Linux on x86-64 can step through code, not {platform.system()} on {platform.machine()}"
    _, instructions = count_instructions(_stepper().address("nothing"), b"")
    return None if instructions else "this machine does not raise SIGTRAP after each instruction"


@dataclass
class CountedObject:
    """Loaded machine code for a ``CpuProgram``; ``instructions`` is what its last call executed."""

    loaded: jit.LoadedObject
    instructions: int = 0

    def address(self, name: str) -> int:
        """Return where an exported function is."""
        return self.loaded.address(name)

    def function(self, name: str, prototype: Any) -> Any:
        """Return an exported kernel as a callable that counts; ``prototype`` is always that of a kernel."""
        address = self.address(name)

        def counted(arguments: bytes) -> int:
            result, self.instructions = count_instructions(address, arguments)
            return result

        return counted
