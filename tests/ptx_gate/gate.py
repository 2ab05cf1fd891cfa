"""Assembles every kernel of `programs` for every architecture and judges the code: ``.ci/ptx_gate``.

Where NVIDIA's assembler is not installed (the extra ``ptx``), only the PTX is judged, and the last line says so. What
the assembler said is kept under ``build/ptx_gate``, by the PTX that it was said of. ``registers.json`` holds
the most registers that each kernel may take, in the units that a GPU gives them out in; ``--update`` writes it anew.

Exits with 1 where something is wrong, and with each kernel, architecture and reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import llvmlite
from ptx_gate.inspection import faults_of_code, faults_of_ptx
from ptx_gate.programs import GateKernel, all_kernels

from dataflare.kernels.cuda.assembler import Assembled, assemble, assembler_version
from dataflare.kernels.cuda.ptx import image_of
from dataflare.kernels.cuda.target import ComputeCapability, cuda_target
from dataflare.kernels.errors import CompileError

ARCHITECTURES: tuple[ComputeCapability, ...] = (
    (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0),
)  # fmt: skip
REGISTER_UNIT = 8
"""Registers are given to a thread in such units; a change within one changes nothing on a GPU."""
CAPS = Path(__file__).with_name("registers.json")
_KEPT = Path(__file__).resolve().parents[2] / "build" / "ptx_gate"


@dataclass(frozen=True)
class Judged:
    """One kernel for one architecture: what is wrong with it, and its registers if it was assembled."""

    kernel: str
    architecture: str
    faults: tuple[str, ...]
    registers: int | None


def judge(kernel: GateKernel, version: str | None) -> Judged:
    """Compile a kernel and judge its PTX, and its machine code if there is an assembler (of this version)."""
    architecture = kernel.target.cpu
    try:
        ptx = image_of(kernel.text, kernel.target).ptx
        faults = list(faults_of_ptx(kernel, ptx))
        registers = None
        if version is not None:
            assembled = _assembled(ptx, architecture, version)
            faults += faults_of_code(assembled)
            registers = assembled.registers
    except (CompileError, RuntimeError) as error:  # a RuntimeError is LLVM's
        return Judged(kernel.name, architecture, (f"is not made: {error}",), None)
    return Judged(kernel.name, architecture, tuple(faults), registers)


def _assembled(ptx: str, architecture: str, version: str) -> Assembled:
    """Return what the assembler says of PTX, or said of it before; without the code."""
    key = hashlib.sha256("\0".join((version, architecture, ptx)).encode()).hexdigest()
    path = _KEPT / key[:2] / key
    try:
        registers, stack_bytes, spill_bytes = map(int, path.read_text().split())
    except (OSError, ValueError):
        made = assemble(ptx, architecture)
        registers, stack_bytes, spill_bytes = made.registers, made.stack_bytes, made.spill_bytes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{registers} {stack_bytes} {spill_bytes}")
    return Assembled(registers, stack_bytes, spill_bytes, b"")


def in_units(registers: int) -> int:
    """Return registers as a GPU gives them out."""
    return -(-registers // REGISTER_UNIT) * REGISTER_UNIT


def register_faults(judged: Sequence[Judged], caps: dict[str, int]) -> Iterator[str]:
    """Yield the kernels that take more registers than is kept of them, and those of which nothing is kept."""
    for one in judged:
        if one.registers is None:
            continue
        cap = caps.get(one.kernel)
        if cap is None:
            yield f"{one.kernel}: no cap of its registers is kept; run with --update"
        elif one.registers > cap:
            yield f"{one.kernel} for {one.architecture}: takes {one.registers} registers, its cap is {cap}"


def _judge_all(architectures: Sequence[ComputeCapability], version: str | None) -> list[Judged]:
    kernels = (kernel for architecture in architectures for kernel in all_kernels(cuda_target(architecture)))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        return list(pool.map(lambda kernel: judge(kernel, version), kernels))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=".ci/ptx_gate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="keep the registers of this run as the caps")
    parser.add_argument(
        "--architecture", action="append", choices=[f"{major}.{minor}" for major, minor in ARCHITECTURES],
        help="only this one; may be repeated",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.update and options.architecture:
        parser.error("caps are kept for all architectures together")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate; return the exit status."""
    options = _parse(arguments)
    architectures = [tuple(map(int, name.split("."))) for name in options.architecture or ()] or ARCHITECTURES
    start = time.perf_counter()
    version = assembler_version()
    judged = _judge_all(architectures, version)
    wrong = [f"{one.kernel} for {one.architecture}: {fault}" for one in judged for fault in one.faults]
    conditions = {"llvmlite": llvmlite.__version__, "ptxas": version}
    if version is not None and options.update:
        _keep(judged, conditions)
    elif version is not None:
        kept = json.loads(CAPS.read_text(encoding="utf-8"))
        if kept["made_with"] != conditions:
            print(f"the caps are of {kept['made_with']}, this run is of {conditions}")
        wrong += register_faults(judged, kept["registers"])
    for line in wrong:
        print(line)
    names = len({one.kernel for one in judged})
    seconds = time.perf_counter() - start
    print(f"{names} kernels for {len(architectures)} architectures, {len(wrong)} faults, {seconds:.0f} s")
    if version is None:
        print(
            "NOT ASSEMBLED: ptxas is not installed, so only the PTX was judged, not registers, stacks and spills; "
            "pip install '.[ptx]'"
        )
    return 1 if wrong else 0


def _keep(judged: Sequence[Judged], conditions: dict[str, str | None]) -> None:
    most: dict[str, int] = defaultdict(int)
    for one in judged:
        if one.registers is not None:
            most[one.kernel] = max(most[one.kernel], in_units(one.registers))
    content = {"made_with": conditions, "registers": dict(sorted(most.items()))}
    CAPS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
