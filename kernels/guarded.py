"""Runs compiled programs on guarded copies of their input, where the memory of a process is to be guarded.

What guarded memory is, and how to ask for it, is in `dataflare.kernels.memory.guarded`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from dataflare.kernels.backend import CompiledProgram, InputBlock, ProgramResult, SharedRun
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.guarded import Placement, guarded_column

__all__ = ["GuardedProgram"]


class GuardedProgram:
    """A compiled program that reads guarded copies of the columns it is given."""

    def __init__(self, compiled: CompiledProgram, placement: Placement) -> None:
        self._compiled = compiled
        self._placement: Placement = placement
        self._serial = itertools.count()

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over a copy of one batch."""
        return self._compiled.run(self._guarded(columns), num_rows)

    def share(self, blocks: Sequence[InputBlock]) -> SharedRun | None:
        """Return a run over copies of ``blocks``; None where the program does not allow one."""
        return self._compiled.share(
            [InputBlock(tuple(self._guarded(block.columns)), block.num_rows) for block in blocks]
        )

    def _guarded(self, columns: Sequence[HostColumn]) -> list[HostColumn]:
        at_end = self._placement == "end"
        if self._placement == "alternate":
            at_end = next(self._serial) % 2 == 0
        return [guarded_column(column, at_end=at_end) for column in columns]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compiled, name)
