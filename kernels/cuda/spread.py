"""`SpreadProgram`: one program on several GPUs, where each thread keeps to one of them.

A batch runs on the GPU of the thread that brings it; whoever gathers the results keeps their order.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

from dataflare.kernels.backend import InputBlock, ProgramResult, SharedRun
from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.cuda.fused import CudaProgram
from dataflare.kernels.memory.column import HostColumn

__all__ = ["SpreadProgram", "backend_of_thread", "take_turn"]

_turns = itertools.count()
_of_thread = threading.local()


def take_turn() -> None:
    """Give the calling thread the GPU after the one that was given last.

    The tasks of a run take turns when they begin: threads are used again, and those of one run may have had any.
    """
    _of_thread.turn = next(_turns)


def _turn() -> int:
    """Return the number of the calling thread among those that asked: the same for all programs."""
    turn: int | None = getattr(_of_thread, "turn", None)
    if turn is None:
        turn = _of_thread.turn = next(_turns)
    return turn


def backend_of_thread(backends: Sequence[DeviceBackend]) -> DeviceBackend:
    """Return the device that batches of the calling thread go to, the one that its programs run on."""
    return backends[_turn() % len(backends)]


class SpreadProgram:
    """A program compiled for several GPUs. Threads are given to them in turn.

    Parameters
    ----------
    programs
        The same program, once for each GPU.
    """

    def __init__(self, programs: Sequence[CudaProgram]) -> None:
        self._programs = tuple(programs)
        self.program = programs[0].program
        self.device = "cuda"

    @property
    def of_devices(self) -> dict[DeviceBackend, CudaProgram]:
        """The program of each GPU."""
        return {backend: program for each in self._programs for backend, program in each.of_devices.items()}

    @property
    def compile_s(self) -> float:
        """Seconds that compiling took so far, for all GPUs."""
        return sum(program.compile_s for program in self._programs)

    @property
    def cache(self) -> str:
        """Where the kernels came from, as of one GPU."""
        return self._programs[0].cache

    def source(self) -> str:
        """Return the generated LLVM code, which is the same for all."""
        return self._programs[0].source()

    def assembly(self) -> str:
        """Return the PTX for the first GPU."""
        return self._programs[0].assembly()

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch on the calling thread's GPU."""
        return self._programs[_turn() % len(self._programs)].run(columns, num_rows)

    def share(self, blocks: Sequence[InputBlock]) -> SharedRun | None:
        """Return None, as one GPU does."""
        return None
