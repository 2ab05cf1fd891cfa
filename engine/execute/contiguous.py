"""ContiguousOutput: one result that all tasks write their part of; nothing is joined later.

Covers programs over data in memory whose code can place what it keeps, see `CompiledProgram.share`. Anything else
goes through the sink batch by batch.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dataflare.kernels.backend import InputBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dataflare.batch import SharedDataBatch
    from dataflare.kernels.backend import CompiledProgram, ProgramResult, SharedRun, SharedWorker
    from dataflare.kernels.memory.column import HostColumn

__all__ = ["ContiguousOutput"]


class ContiguousOutput:
    """The result of a whole run, filled in by several tasks at once."""

    def __init__(self, shared: SharedRun) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._done_rows = 0
        self._delivered = False

    @classmethod
    def over(
        cls,
        compiled: CompiledProgram,
        batches: Sequence[SharedDataBatch],
        columns: Callable[[SharedDataBatch], Sequence[HostColumn]],
    ) -> ContiguousOutput | None:
        """Return the output of a program over ``batches``, or None where its parts cannot be placed."""
        blocks = [InputBlock(tuple(columns(batch)), batch.num_rows) for batch in batches]
        shared = compiled.share(blocks)
        return None if shared is None else cls(shared)

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the result if every record is kept."""
        return self._shared.capacity_bytes

    def worker(self) -> SharedWorker:
        """Return what one task computes with."""
        return self._shared.worker()

    def note_done(self, rows: int) -> bool:
        """Count input records as done; True, once, to the task that completed the result."""
        with self._lock:
            self._done_rows += rows
            if self._delivered or self._done_rows < self._shared.num_rows:
                return False
            self._delivered = True
            return True

    def result(self) -> ProgramResult:
        """Return the finished result, once."""
        return self._shared.result()
