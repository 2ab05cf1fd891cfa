"""RunMemory: what a run may take of memory, what it has set aside, and what its batches take.

Covers the source cut to the limit's share, bytes of a record as they are learnt, reservations of batches from being
read to being written, results that are kept, and idle memory that goes back to the system. How the limit is shared
out is in ``allotment``; who may read the next batch is decided by the controller, with the same budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflare.control.budget import MemoryBudget, Reservation, format_bytes
from dataflare.execute.allotment import Allotment, code_need, standing_needs
from dataflare.execute.feasibility import StageNeed, fits, require_feasible
from dataflare.execute.memory_use import GrowthBound
from dataflare.execute.widths import row_bytes
from dataflare.kernels.errors import MemoryLimitError
from dataflare.kernels.memory.pool import default_pool
from dataflare.sources.spill import SpillSpace

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.control.admission import Admission
    from dataflare.control.monitors import MemoryMonitor
    from dataflare.options import RunOptions
    from dataflare.plan.physical import PhysicalPlan
    from dataflare.sources.base import BatchSource

__all__ = ["RunMemory"]

_LATEST_SHARE = 0.25  # of what is known about a record's bytes comes from the last batch


class RunMemory:
    """The memory of one run. Safe to use from its tasks.

    Parameters
    ----------
    host
        Tells what is free where no limit is given.
    in_memory
        Whether the source's data is in memory already: then only results take any.
    """

    def __init__(
        self, plan: PhysicalPlan, options: RunOptions, host: MemoryMonitor, *, in_memory: bool
    ) -> None:
        self._sink = plan.sink
        self._in_memory = in_memory
        self.allotment = Allotment.of(options, host, in_memory=in_memory)
        self.spill = SpillSpace(options.spill_dir, options.spill_limit)
        self.source: BatchSource = self.allotment.spilling_source(
            self.allotment.bounded_source(plan.source), self.spill
        )
        """The source, in blocks that there is room for."""
        self.allotment.bound_sink(plan.sink)
        self._source_name, self._sink_name = plan.source.description, plan.sink.description
        rows, size_bytes = self.source.num_rows, self.source.size_bytes
        self._stored_bytes_per_row = (
            size_bytes / rows if size_bytes and rows else row_bytes(self.source.schema)
        )
        self._out_bytes_per_row = (
            row_bytes(plan.schema) if plan.schema is not None else self._stored_bytes_per_row
        )
        self._read_bytes_per_row = 0.0 if in_memory else self._stored_bytes_per_row
        self.bytes_per_row = max(1.0, self._read_bytes_per_row + self._out_bytes_per_row)
        """Estimated bytes that one input record keeps alive until the sink has taken it; batches correct it."""
        self.batch_bytes_per_row = max(1.0, self._stored_bytes_per_row + self._out_bytes_per_row)
        """Estimated bytes of one input record and its result, wherever they lie."""
        self.budget = MemoryBudget(options.memory_limit)
        limit_bytes = self.budget.limit_bytes
        # Of data in memory nothing is decoded, so that there is nothing that comes free again and again.
        self._growth = None if limit_bytes is None or in_memory else GrowthBound(limit_bytes)
        self.needs: list[StageNeed] = []
        """What is kept free from the beginning: what stages hold, and one smallest batch for each task."""
        self._standing_needs: list[StageNeed] = []
        self._standing: list[Reservation] = []
        self._batch_bytes: int | None = None

    @property
    def source_bytes_per_row(self) -> float:
        """Estimated bytes of one input record as it is read, or lies in memory."""
        return self._read_bytes_per_row or self._stored_bytes_per_row

    # -- before the run ------------------------------------------------------------------------------------------

    def has_room_for(self, tasks: int, rows: int) -> bool:
        """Whether so many tasks can work on so many records each, beside what is held to the end."""
        return fits(self._needs(tasks, rows), self.allotment.limit_bytes)

    def set_aside(
        self,
        task_names: Sequence[str],
        *,
        least_rows: int,
        programs: int,
        least_window: int,
        most_window: int,
    ) -> int:
        """Set aside what is held to the end, and one smallest batch for each task that reads.

        Returns how many batches each of them may be ahead of the sink, from `least_window` to `most_window`.

        Raises
        ------
        MemoryLimitError
            It does not fit; names the stages and the bytes.
        """
        tasks, limit_bytes = len(task_names), self.budget.limit_bytes
        self.needs = self._needs(tasks, least_rows)
        require_feasible(self.needs, limit_bytes, least_rows)
        standing = self._standing_stages(tasks)
        # They are there in any case, and refusing a run would not make them go: they count where there is room. Over
        # data in memory only the result counts.
        for need in (code_need(programs), self.allotment.kept_by_allocators(self._sink)):
            room = not self._in_memory and fits([*self.needs, need], limit_bytes)
            if room and need.tasks and need.bytes_a_task:
                self.needs.append(need)
                standing.append(need)
        self._standing_needs = standing
        self._batch_bytes, window = self.allotment.batches(standing, tasks, least_window, most_window)
        if limit_bytes is not None:
            for task in task_names:
                self.budget.guarantee(task, int(least_rows * self.bytes_per_row) + 1)
            for need in standing:  # or a result that is kept would grow into it
                self.budget.guarantee(need.stage, need.total_bytes)
        return window

    def most_rows(self) -> int | None:
        """Return how many records the memory of one batch has room for; None for no bound."""
        return None if self._batch_bytes is None else int(self._batch_bytes / self.bytes_per_row)

    def take_whole_result(self, nbytes: int, *, exact: bool) -> bool:
        """Count the result as a whole, before anything is computed; batches then take nothing any more.

        Returns False where there is no room for it and it is not ``exact``: by batches, it may turn out to be smaller.

        Raises
        ------
        MemoryLimitError
            The result does not fit the memory limit.
        """
        if exact:
            self.keep(nbytes, None)
        elif nbytes > default_pool().limit_bytes or not self.budget.reserve("result", nbytes):
            return False
        self.bytes_per_row = 0.0
        return True

    # -- the run -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Reserve what reading and the sink hold to the end; a run that never begins reserves nothing."""
        held = [self.budget.reserve(need.stage, need.total_bytes) for need in self._standing_needs]
        self._standing += [reservation for reservation in held if reservation is not None]

    def end(self) -> None:
        """Take back what was set aside."""
        while self._standing:
            self._standing.pop().release()

    def has_room_for_batch(self, task: str, rows: int) -> bool:
        """Whether a task could have a batch of so many records now."""
        reservation = self.budget.reserve(task, math.ceil(rows * self.bytes_per_row))
        if reservation is None:
            return False
        reservation.release()
        return True

    def note_read(self, admission: Admission, rows: int, nbytes: int, shared_bytes: int = 0) -> None:
        """Correct what is known about bytes by a batch that was read, beside what it shares with those after it."""
        self._read_bytes_per_row += _LATEST_SHARE * (nbytes / rows - self._read_bytes_per_row)
        self.bytes_per_row = max(1.0, self._read_bytes_per_row + self._out_bytes_per_row)
        if admission.reservation is not None:
            out_bytes = math.ceil(rows * self._out_bytes_per_row)
            admission.reservation.correct(nbytes + shared_bytes + out_bytes)

    def note_computed(self, admission: Admission, result: SharedDataBatch | None) -> None:
        """Count of a batch no more than what is left of it: its input goes as soon as there is a result."""
        reservation = admission.reservation
        if reservation is not None:
            reservation.correct(min(reservation.nbytes, 0 if result is None else result.nbytes))

    def note_written(self) -> None:
        """Have the sink's thread give back what its part of Arrow's allocator keeps, where there is too much."""
        if self._growth is not None:
            self._growth.follow()

    def keep(self, nbytes: int, admission: Admission | None) -> None:
        """Count bytes of a batch that the sink keeps until the run is over, out of what was set aside for it.

        Raises
        ------
        MemoryLimitError
            The result does not fit the memory limit.
        """
        reservation = None if admission is None else admission.reservation
        if not self.budget.keep("result", nbytes, reservation):
            raise MemoryLimitError(
                f"The result does not fit: {self._sink_name} keeps all batches in memory, and the next "
                f"{format_bytes(nbytes)} would exceed the memory limit of "
                f"{format_bytes(self.budget.limit_bytes or 0)}. Write to files, use iter_batches, or raise "
                "memory_limit."
            )

    def trim_pools(self, admission: Admission) -> None:
        """Give memory that lies idle, here or in Arrow's pool, back to the system where it would exceed the limit."""
        limit_bytes, reservation = self.allotment.limit_bytes, admission.reservation
        if limit_bytes is None or reservation is None:
            return
        # The batch takes its memory from there.
        others_bytes = self.budget.reserved_bytes - reservation.nbytes
        default_pool().trim(max(0, limit_bytes - others_bytes))
        if self._growth is not None:
            self._growth.note_batch(reservation.nbytes)

    def refuse_record(self, task: str) -> None:
        """Raise the error for a record that is never admitted, because the limit leaves too little."""
        raise MemoryLimitError(
            f"{self._source_name}: a single record takes about {format_bytes(math.ceil(self.bytes_per_row))}, "
            f"more than the memory limit of {format_bytes(self.budget.limit_bytes or 0)} leaves to {task}. "
            "Raise memory_limit."
        )

    def _standing_stages(self, tasks: int) -> list[StageNeed]:
        return standing_needs(self.source, self._source_name, self._sink, self._sink_name, tasks)

    def _needs(self, tasks: int, rows: int) -> list[StageNeed]:
        """Return what the stages need to get on at all, with batches of so many records."""
        needs = []
        if not self._in_memory:
            needs.append(StageNeed(self._source_name, tasks, rows * self._read_bytes_per_row))
        needs.append(StageNeed(f"results for {self._sink_name}", tasks, rows * self._out_bytes_per_row))
        return needs + self._standing_stages(tasks)
