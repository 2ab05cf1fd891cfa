"""Allotment: how the memory of a run is shared out between reading, the batches on the way and the sink.

Covers which limit binds, the sizes that follow from it, and what is held from beginning to end beside batches.
Counting is done in a `dataflare.control.MemoryBudget`, and refusing what does not fit in ``feasibility``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dataflare.execute.feasibility import StageNeed

if TYPE_CHECKING:
    from dataflare.control.monitors import MemoryMonitor
    from dataflare.options import RunOptions
    from dataflare.sources.spill import SpillSpace

__all__ = ["Allotment", "BatchRoom", "code_need", "standing_needs"]

_SHARE_OF_FREE_HOST = 0.5  # the rest is for other runs, libraries, and what nobody can count
_BATCH_SHARE = 1 / 6
_BLOCK_SHARE = 1 / 8
_TEXT_BLOCK_SHARE = 1 / 16  # of which it takes several times as much to parse it
_LEAST_BLOCK_BYTES = 1 << 20
_MOST_READING_SHARE = 1 / 2  # of one task
_READING_SHARE = 1 / 4  # where it is not known before how much that takes
_SINK_SHARE = 1 / 8
_WAITING_SHARE = 1 / 4
_LEAST_SPARE_SHARE = 1 / 4  # for batches, where a run is never refused
_PROGRAM_BYTES = 1 << 20
_KEPT_BY_ALLOCATORS_BYTES = 8 << 20  # Arrow's, Polars' and the C library's, after what they held is free


class BatchRoom(NamedTuple):
    """The memory that there is for batches on the way."""

    batch_bytes: int | None
    """What one may take, input and results together; None for no bound."""
    window: int
    """Batches that each task may be ahead of the sink."""


@dataclass(frozen=True)
class Allotment:
    """The limit of one run, and what follows from it.

    Attributes
    ----------
    limit_bytes
        What the run keeps to; None where nothing is known of the machine, or nothing is read.
    is_given
        Whether the user has set it, so that a run that cannot keep to it is refused. The other limit is a share
        of the memory that is free on the host: it makes batches and buffers smaller, and refuses nothing.
    """

    limit_bytes: int | None
    is_given: bool

    @classmethod
    def of(cls, options: RunOptions, host: MemoryMonitor, *, in_memory: bool) -> Allotment:
        """Return the limit that was asked for, or else that of the host."""
        if options.memory_limit is not None:
            return cls(options.memory_limit, is_given=True)
        # Over data in memory only the result takes memory, and that is what was asked for.
        free_bytes = None if in_memory else host.read().available_bytes
        return cls(
            None if free_bytes is None else max(1, int(free_bytes * _SHARE_OF_FREE_HOST)), is_given=False
        )

    def bounded_source(self, source: Any) -> Any:
        """Return the source, where it can be read in blocks that the limit has room for, or refuse those too large."""
        if self.limit_bytes is None:
            return source
        with_blocks = getattr(source, "with_blocks", None)
        if with_blocks is not None:
            share = _TEXT_BLOCK_SHARE if hasattr(source, "with_reading_bound") else _BLOCK_SHARE
            block_bytes = max(1, int(self.limit_bytes * share))
            source = with_blocks(block_bytes)
            if self.is_given:
                # One that leaves no room for more than one task costs more than if it is cut, where it can be.
                most_bytes = int(self.limit_bytes * _MOST_READING_SHARE)
                while source.reading_bytes > most_bytes and block_bytes >= 2 * _LEAST_BLOCK_BYTES:
                    block_bytes //= 2
                    smaller = with_blocks(block_bytes)
                    source = smaller if smaller.reading_bytes <= most_bytes else source
        with_reading_bound = getattr(source, "with_reading_bound", None)
        if with_reading_bound is not None and self.is_given:
            source = with_reading_bound(max(1, int(self.limit_bytes * _READING_SHARE)))
        return source

    def spilling_source(self, source: Any, space: SpillSpace) -> Any:
        """Return the source with a share for the batches that wait, and the disk beyond, where it cannot be paused."""
        with_waiting = getattr(source, "with_waiting", None)
        if with_waiting is None:
            return source
        waiting_bytes = source.reading_bytes
        if self.limit_bytes is not None:
            share_bytes = max(1, int(self.limit_bytes * _WAITING_SHARE))
            # It is held to the end: nobody has asked for more than a usual share.
            waiting_bytes = share_bytes if self.is_given else min(waiting_bytes, share_bytes)
        return with_waiting(waiting_bytes, space)

    def bound_sink(self, sink: Any) -> None:
        """Have the sink gather no more than its share."""
        bound_buffer = getattr(sink, "bound_buffer", None)
        if self.limit_bytes is not None and bound_buffer is not None:
            bound_buffer(max(1, int(self.limit_bytes * _SINK_SHARE)))

    def kept_by_allocators(self, sink: Any) -> StageNeed:
        """Return what is left free of a limit that is given, for memory that is free again and not given back yet.

        A result that is kept in memory may have it.
        """
        kept_bytes = 0
        if self.limit_bytes is not None and self.is_given and not getattr(sink, "keeps_batches", False):
            kept_bytes = min(_KEPT_BY_ALLOCATORS_BYTES, self.limit_bytes // 8)
        return StageNeed("what allocators keep", 1, kept_bytes)

    def batches(
        self, standing: list[StageNeed], tasks: int, least_window: int, most_window: int
    ) -> BatchRoom:
        """Return what one batch may take, and how many of them each task may be ahead of the sink.

        First they become larger, then more: each costs a turn, and a block of a file that is cut costs more than a
        whole one.
        """
        limit_bytes = self.limit_bytes
        if limit_bytes is None:
            return BatchRoom(None, most_window)
        spare_bytes = limit_bytes - sum(need.total_bytes for need in standing)
        if not self.is_given:  # nothing was refused: small batches would not bring back what is held anyway
            spare_bytes = max(spare_bytes, int(limit_bytes * _LEAST_SPARE_SHARE))
        batch_bytes = max(1, min(int(limit_bytes * _BATCH_SHARE), spare_bytes // (tasks * least_window)))
        window = spare_bytes // (tasks * batch_bytes)
        return BatchRoom(batch_bytes, max(least_window, min(most_window, window)))


def standing_needs(source: Any, source_name: str, sink: Any, sink_name: str, tasks: int) -> list[StageNeed]:
    """Return what reading and the sink hold from the beginning to the end, beside the batches on the way."""
    needs = [
        StageNeed(
            f"reading {source_name}",
            tasks,
            getattr(source, "reading_bytes", 0),
            getattr(source, "reading_detail", None),
        ),
        StageNeed(f"gathering for {sink_name}", 1, getattr(sink, "buffer_bytes", 0)),
    ]
    return [need for need in needs if need.bytes_a_task]


def code_need(programs: int) -> StageNeed:
    """Return what compiled programs hold: their machine code, and what compiling them has left behind.

    Measured as growth of the private resident memory of a fresh process, for each of eight programs after the first:
    0.2 MB for a product of three numbers, 0.4 MB for tests of texts, 1.0 MB for a long function of trips with a loop;
    0.1 to 0.4 MB where the code came from the cache on disk. The compiler itself is not in it: it comes once a process
    and before the run, takes 4 MB (to load cached code) to 9 MB of private memory, and maps 55 to 80 MB of LLVM's
    library, which the system can drop at any time.
    """
    return StageNeed("compiled code", programs, _PROGRAM_BYTES)
