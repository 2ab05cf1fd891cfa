"""One way to make a record program run on a device: ``compile_program``, and what it gives back.

Devices are chosen by name here and nowhere else below the engine; each is a module that is imported when named.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

from dataflare.kernels.errors import DeviceUnavailableError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.guarded import placement_asked_for
from dataflare.kernels.udf.program import RecordProgram

__all__ = [
    "CompiledProgram",
    "InputBlock",
    "ProgramResult",
    "SharedRun",
    "SharedWorker",
    "abandon_device",
    "compile_program",
]

_MAX_CACHED_PROGRAMS = 512


class ProgramResult(NamedTuple):
    """What a program made of one batch."""

    columns: tuple[HostColumn, ...]
    num_rows: int
    rows_dropped_null_predicate: int
    device_retries: int = 0
    """How often the device had no memory for the batch, or a part of it."""
    on_cpu: bool = False
    """Whether the CPU computed it, or a part of it, in place of the device that was asked for."""
    lost_device: tuple[str, str] | None = None
    """The device that was lost, and the reason, where that is why."""


class InputBlock(NamedTuple):
    """A stretch of input whose columns are contiguous, in the order of ``program.required_columns``."""

    columns: tuple[HostColumn, ...]
    num_rows: int


class SharedWorker(Protocol):
    """One thread's part in a `SharedRun`; used by one thread at a time."""

    def work(self, most_rows: int) -> tuple[int, int]:
        """Work on at least one and about ``most_rows`` rows; return rows in and rows kept, (0, 0) at the end."""
        ...


class SharedRun(Protocol):
    """One run over a large input that several threads share, into one contiguous result."""

    num_rows: int
    """Rows of input."""
    capacity_bytes: int
    """Bytes of the result if every row is kept."""

    def worker(self) -> SharedWorker:
        """Return what one thread works with; the first one takes the memory for the result."""
        ...

    def result(self) -> ProgramResult:
        """Return the result, once all rows are worked on; its memory is the caller's from then on."""
        ...


class CompiledProgram(Protocol):
    """A program that a device can run. Thread-safe."""

    program: RecordProgram
    device: str
    compile_s: float
    cache: str

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch; ``columns`` in the order of ``program.required_columns``."""
        ...

    def share(self, blocks: Sequence[InputBlock]) -> SharedRun | None:
        """Return a run over ``blocks`` that several threads share; None where the program does not allow one."""
        ...


_programs: OrderedDict[tuple[str, str, str], Any] = OrderedDict()
_lock = threading.Lock()


def compile_program(
    program: RecordProgram, device: str = "cpu", *, math: Literal["vector", "exact"] = "vector"
) -> CompiledProgram:
    """Compile a program for a device, or return what was compiled for it before.

    Parameters
    ----------
    math
        "vector" computes functions such as ``exp`` for many records at once, "exact" one by one in the C
        library, whose results are nearer. The device "python" is always exact, CUDA never: there a program that calls
        such functions is refused if it must be.

    Raises
    ------
    DeviceUnavailableError
        If the device is not known or not usable here.
    CompileError
        If a function does something besides giving a value, or needs what the device has not.
    """
    if device == "python":
        from dataflare.kernels.reference.fused import compile_reference

        compiled: Any = compile_reference(
            program.stages,
            program.input_schema,
            program.output_schema,
            program.required_columns,
            program=program,
        )
        return cast(CompiledProgram, compiled)
    key = (device, math, program.key)
    with _lock:
        known = _programs.get(key)
        if known is not None:
            _programs.move_to_end(key)
            return cast(CompiledProgram, known)
    fresh = _compile(program, device, exact_math=math == "exact")
    placement = placement_asked_for() if device == "cpu" else None
    if placement is not None:
        from dataflare.kernels.guarded import GuardedProgram

        fresh = GuardedProgram(fresh, placement)
    with _lock:
        _programs[key] = fresh
        while len(_programs) > _MAX_CACHED_PROGRAMS:
            _programs.popitem(last=False)
    return cast(CompiledProgram, fresh)


def abandon_device(device: str, reason: str) -> bool:
    """Run what is compiled for a device on the CPU from now on; return whether there is such a device.

    For whoever knows that a device is lost before a program has met it.
    """
    if not device.startswith("cuda"):
        return False
    from dataflare.kernels.cuda.backends import cuda_backend

    try:
        backend = cuda_backend(device)
    except DeviceUnavailableError:
        return False
    backend.lost = backend.lost or reason
    return True


def _compile(program: RecordProgram, device: str, *, exact_math: bool) -> Any:
    if device == "cpu":
        from dataflare.kernels.cpu.fused import compile_cpu

        return compile_cpu(program, exact_math=exact_math)
    if device == "cuda:emulated" or device == "cuda" or device.startswith("cuda:"):
        from dataflare.kernels.cuda.backends import cuda_backends
        from dataflare.kernels.cuda.fused import compile_cuda
        from dataflare.kernels.cuda.spread import SpreadProgram

        made = [compile_cuda(program, backend, exact_math=exact_math) for backend in cuda_backends(device)]
        return made[0] if len(made) == 1 else SpreadProgram(made)
    raise DeviceUnavailableError(
        f"there is no device {device!r}; there are 'cpu', 'cuda', 'cuda:N', 'cuda:emulated' and 'python'."
    )
