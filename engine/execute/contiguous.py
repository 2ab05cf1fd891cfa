"""ContiguousOutput: one block that all tasks write their part of the result into; nothing is joined later.

Covers row-preserving programs whose computed columns have a fixed width, over a source of known length.
Anything else goes through the sink batch by batch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataflare.kernels.backend import CompiledProgram
    from dataflare.kernels.memory.column import HostColumn

__all__ = ["ContiguousOutput"]


class ContiguousOutput:
    """The result of a whole run, filled in by several tasks at offsets that are multiples of 64 rows."""

    ALIGNMENT_ROWS = 64

    def __init__(self, compiled: CompiledProgram, num_rows: int) -> None:
        self._compiled = compiled
        self.schema = compiled.program.output_schema
        self._block = compiled.allocate(num_rows)
        self._lock = threading.Lock()
        self._written_rows = 0
        self._total_rows: int | None = None
        self._delivered = False

    def write(self, columns: Sequence[HostColumn], num_rows: int, row_offset: int) -> None:
        """Compute one batch into its place."""
        self._compiled.run_into(columns, num_rows, self._block, row_offset)

    def note_written(self, num_rows: int) -> bool:
        """Count rows as written; True, once, to the task that completed the result."""
        with self._lock:
            self._written_rows += num_rows
            return self._completed()

    def note_end(self, total_rows: int) -> bool:
        """Take note of how many rows there are in all; True, once, to the task that completed the result."""
        with self._lock:
            self._total_rows = total_rows
            return self._completed()

    def columns(self) -> tuple[tuple[HostColumn, ...], int]:
        """Return the finished columns and their length, once; the memory is theirs from then on."""
        rows = self._written_rows
        columns = self._block.columns(rows)
        del self._block
        return columns, rows

    def _completed(self) -> bool:
        if self._delivered or self._total_rows is None or self._written_rows < self._total_rows:
            return False
        self._delivered = True
        return True
