"""NVIDIA's assembler and disassembler, where their packages are installed: what the driver will make of PTX.

They tell how many registers a kernel takes, whether it spills, and which machine instructions it becomes, with no GPU.
Running kernels needs neither: a driver has an assembler of its own. The packages are the extra ``ptx``.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dataflare.kernels.errors import CompileError

__all__ = ["Assembled", "assemble", "assembler_version", "machine_instructions", "tool_path"]

_PACKAGES = {"ptxas": "nvidia-cuda-nvcc", "nvdisasm": "nvidia-cuda-nvdisasm"}
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")


@dataclass(frozen=True)
class Assembled:
    """What the assembler made of one kernel: registers of a thread, bytes of its stack, bytes moved by spills.

    Stack and spills are those of the kernel or of a function that it calls, whichever has most.
    """

    registers: int
    stack_bytes: int
    spill_bytes: int
    cubin: bytes


@lru_cache(maxsize=4)
def tool_path(name: str) -> Path | None:
    """Return where ``ptxas`` or ``nvdisasm`` lies, or None if its package is not installed."""
    try:
        files = importlib.metadata.files(_PACKAGES[name]) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.parent.name == "bin" and file.name == name)
    return next((path for path in found if path.exists()), None)


def assembler_version() -> str | None:
    """Return the version of the assembler's package, or None if it is not installed."""
    return None if tool_path("ptxas") is None else importlib.metadata.version(_PACKAGES["ptxas"])


def assemble(ptx: str, architecture: str) -> Assembled:
    """Assemble PTX with one kernel for an architecture such as "sm_80".

    Raises
    ------
    CompileError
        If the assembler is not there or does not take the PTX.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx, encoding="utf-8")
        done = _run("ptxas", f"-arch={architecture}", "-v", str(source), "-o", str(target))
        said = done.stderr
        stacks = [tuple(map(int, numbers)) for numbers in _STACK.findall(said)]  # one for each function
        registers = _REGISTERS.search(said)
        if not stacks or registers is None:
            raise CompileError(f"ptxas for {architecture} does not say what a kernel needs: {said}")
        frame, stores, loads = (max(numbers) for numbers in zip(*stacks, strict=True))
        return Assembled(int(registers[1]), frame, stores + loads, target.read_bytes())


def machine_instructions(cubin: bytes) -> Counter[str]:
    """Return how often each machine instruction stands in a kernel, those that fill it up left out.

    Raises
    ------
    CompileError
        If the disassembler is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.cubin"
        source.write_bytes(cubin)
        found = Counter(_INSTRUCTION.findall(_run("nvdisasm", "-c", str(source)).stdout))
    del found["NOP"]
    return found


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = tool_path(tool)
    if path is None:
        raise CompileError(f"{tool} is not installed: pip install 'dataflare[ptx]'.")
    done = subprocess.run([str(path), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(f"{tool} failed: {(done.stderr or done.stdout).strip()}")
    return done
