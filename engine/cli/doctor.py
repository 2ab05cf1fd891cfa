"""``dataflare doctor``: what this machine offers, one line each, and what to install for more.

Covers Python, packages, the CPU, memory limits, the compile cache, one small program on the CPU, the chain from the
driver to CuPy, and NVML. Nothing is changed, no context is made on a GPU. Exit codes: 0 the CPU path works (that is
a container's health check); 1 it does not, or what ``--require`` names is not usable.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from dataflare.control.gpu_memory import MemoryProbe
    from dataflare.kernels.devices.detection import CudaDetection
    from dataflare.kernels.devices.surroundings import Surroundings
    from dataflare.kernels.llvm.target import Target

__all__ = ["Finding", "examine", "run_doctor"]

State = Literal["ok", "note", "missing", "failed", "skipped"]
_PACKAGES = ("llvmlite", "numba", "numpy", "polars", "psutil", "pyarrow", "pykka", "rich")
_COLOURS = {"ok": "green", "note": "cyan", "missing": "yellow", "failed": "red", "skipped": "dim"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    group: str
    """"python", "packages", "cpu", "memory", "gpu" or "nvml"."""
    name: str
    state: State
    detail: str
    way_out: str = ""
    is_needed: bool = False
    """Without it nothing runs on the CPU either."""


@dataclass(frozen=True, slots=True)
class Examination:
    """All that was found."""

    findings: tuple[Finding, ...]
    cuda: CudaDetection

    @property
    def cpu_problem(self) -> str | None:
        """Why nothing can be computed on the CPU, or None."""
        problems = [
            f"{f.name}: {f.detail}" for f in self.findings if f.is_needed and f.state in ("missing", "failed")
        ]
        return "; ".join(problems) or None


def run_doctor(*, as_json: bool, require: str | None) -> int:
    """Print what was found and return the exit code.

    Parameters
    ----------
    as_json
        Print one JSON document instead of lines.
    require
        "cuda" asks for a usable GPU; None for the CPU alone.
    """
    found = examine()
    problem = found.cpu_problem
    if problem is None and require == "cuda" and not found.cuda.usable:
        problem = f"no GPU can be used: {found.cuda.reason}. {found.cuda.way_out}"
    if as_json:
        print(json.dumps(_document(found, problem), indent=2))
    else:
        _print(found)
        if problem is not None:
            print(f"dataflare: {problem}", file=sys.stderr)
    return 0 if problem is None else 1


def examine(surroundings: Surroundings | None = None) -> Examination:
    """Look at everything; never raises for what it looks at.

    Parameters
    ----------
    surroundings
        What GPU detection looks at; this machine by default.
    """
    from dataflare.kernels.devices.detection import detect_cuda

    cuda = detect_cuda(surroundings, thorough=True)
    findings = [*_python(), *_packages(), *_cpu(), *_memory(), *_gpu(cuda), *_nvml(cuda)]
    return Examination(tuple(findings), cuda)


def _python() -> Iterator[Finding]:
    version = f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
    yield Finding("python", "Python", "ok", version)


def _packages() -> Iterator[Finding]:
    from dataflare import __version__

    yield Finding("packages", "dataflare", "ok", __version__)
    for name in _PACKAGES:
        try:
            yield Finding("packages", name, "ok", importlib.metadata.version(name), is_needed=True)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(
                "packages", name, "missing", "is not installed", f"pip install {name}", is_needed=True
            )


def _cpu() -> Iterator[Finding]:
    try:
        from dataflare.execute.prepare import usable_cores
        from dataflare.kernels.cpu.target import host_target
        from dataflare.kernels.llvm.target import MATH_FUNCTIONS

        target = host_target()
        bits = 8 * target.register_bytes
        yield Finding(
            "cpu", "CPU", "ok", f"{target.cpu}, {platform.machine()}, {usable_cores()} cores to use"
        )
        detail = f"{bits}-bit registers, {target.lanes} records at once, {_level(target)}"
        yield Finding("cpu", "SIMD", "ok", detail)
        found = len(target.vector_math)
        if target.own_math:
            yield Finding("cpu", "functions", "ok", "exp and its kind in vector code of DataFlare's own")
        elif found:
            detail = f"{found} of {len(MATH_FUNCTIONS)} functions for vectors"
            yield Finding("cpu", "libmvec", "ok", detail)
        else:
            yield Finding(
                "cpu",
                "libmvec",
                "missing",
                "functions such as exp run record by record",
                "Use an image with glibc 2.35 or newer.",
            )
        yield Finding("cpu", "a program", "ok", _run_a_program(), is_needed=True)
    except Exception as error:  # a library may be broken in any way
        yield Finding("cpu", "a program", "failed", f"{type(error).__name__}: {error}", is_needed=True)


def _level(target: Target) -> str:
    """Name the level of the x86-64 ABI whose instructions the code may use."""
    if not target.triple.startswith("x86_64"):
        return "Advanced SIMD" if target.triple.startswith(("aarch64", "arm64")) else "portable code"
    if target.has_compress:
        return "x86-64-v4"
    return "x86-64-v3" if target.has_permute and target.has_bit_extract and target.has_fma else "x86-64"


def _run_a_program() -> str:
    """Compile and run a small program, and check its answer."""
    from dataflare.batch import SharedDataBatch

    batch = SharedDataBatch.from_pydict({"x": [1.0, 2.0, 3.0]})
    answer = batch.filter(lambda r: r.x > 1.0).map(lambda r: {"y": r.x * 2.0}).to_pylist()
    if answer != [{"y": 4.0}, {"y": 6.0}]:
        message = f"computed {answer!r}"
        raise ArithmeticError(message)
    return "compiled, run, right"


def _memory() -> Iterator[Finding]:
    from dataflare.control.budget import format_bytes
    from dataflare.control.monitors import HostMemoryMonitor
    from dataflare.kernels.cpu.cache import cache_directory

    reading = HostMemoryMonitor().read()
    if reading.used_bytes is None or reading.limit_bytes is None:
        yield Finding("memory", "memory limit", "failed", reading.error or "cannot be read")
    else:
        used = f"{format_bytes(reading.used_bytes)} of {format_bytes(reading.limit_bytes)} used"
        yield Finding("memory", "memory limit", "ok", f"{used}, by {reading.source}")
    try:
        folder = cache_directory()
    except RuntimeError as error:  # a user without a home, as in some containers
        yield Finding("memory", "compile cache", "note", str(error), "Set DATAFLARE_CACHE_DIR.")
        return
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    if os.access(nearest, os.W_OK):
        yield Finding("memory", "compile cache", "ok", str(folder))
    else:
        yield Finding(
            "memory",
            "compile cache",
            "note",
            f"{folder} cannot be written: every process compiles for itself",
            "Set DATAFLARE_CACHE_DIR to a folder that can.",
        )


def _gpu(cuda: CudaDetection) -> Iterator[Finding]:
    for step in cuda.steps:
        yield Finding("gpu", step.name, step.state, step.detail, step.way_out)
    yield Finding(
        "gpu", "CUDA toolkit", "note", "not needed: llvmlite makes the PTX, and the driver compiles it"
    )
    if cuda.usable:
        yield Finding("gpu", "device 'cuda'", "ok", cuda.reason)
    else:
        yield Finding("gpu", "device 'cuda'", "missing", f"cannot be used: {cuda.reason}", cuda.way_out)


def _nvml(cuda: CudaDetection) -> Iterator[Finding]:
    from dataflare.control.nvml import NvmlMemoryProbe

    try:
        version = importlib.metadata.version("nvidia-ml-py")
    except importlib.metadata.PackageNotFoundError:
        way_out = "pip install 'dataflare[cuda13]', or 'dataflare[cuda12]'."
        yield Finding("nvml", "nvidia-ml-py", "missing", "GPU memory cannot be watched", way_out)
        return
    yield Finding("nvml", "nvidia-ml-py", "ok", version)
    if not cuda.devices:
        yield Finding("nvml", "NVML", "skipped", "not asked, since no GPU was found")
    for device in cuda.devices:
        probe = NvmlMemoryProbe(device)
        yield _watched(f"{device.label} memory", probe)
        probe.close()


def _watched(name: str, probe: MemoryProbe) -> Finding:
    from dataflare.control.budget import format_bytes

    try:
        total, free = probe.read()
    except Exception as error:  # a driver may fail in any way
        return Finding("nvml", name, "note", f"{error}; the CUDA runtime is asked instead")
    return Finding("nvml", name, "ok", f"{format_bytes(free)} of {format_bytes(total)} free")


def _document(found: Examination, problem: str | None) -> dict[str, object]:
    return {
        "ok": problem is None,
        "problem": problem,
        "cpu": {"usable": found.cpu_problem is None},
        "cuda": asdict(found.cuda),
        "findings": [asdict(finding) for finding in found.findings],
    }


def _print(found: Examination) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in found.findings)
    group = ""
    for finding in found.findings:
        if finding.group != group:
            group = finding.group
            console.print(Text(group, style="bold"))
        line = Text(f"  {finding.name:{width}}  ")
        line.append(f"{finding.state:7}", style=_COLOURS[finding.state])
        line.append(f"  {finding.detail}")
        if finding.way_out:
            line.append(f". {finding.way_out}" if not finding.detail.endswith(".") else f" {finding.way_out}")
        console.print(line)
