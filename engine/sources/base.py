"""The contract of a source: what the planner may ask before a run, and how a run reads.

Covers two protocols, `BatchSource` and `SourcePartition`, and the shape of a pushed-down predicate. The
sources themselves are the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch

__all__ = ["BatchSource", "Predicate", "SourcePartition"]


class Predicate(Protocol):
    """A comparison that every wanted record passes: `column op value`.

    `dataflare.kernels.udf.program.SimplePredicate` is one. A source may only use it to leave records out that
    certainly fail it; the filter it came from still runs.
    """

    @property
    def column(self) -> str:
        """Name of a column of the source."""

    @property
    def op(self) -> str:
        """One of ``== != < <= > >= in is_null is_valid``."""

    @property
    def value(self) -> Any:
        """A Python value, a collection of them for ``in``, None for the last two."""


@runtime_checkable
class SourcePartition(Protocol):
    """A part of a source that can be read by itself, in any order relative to the others.

    Partitions are values: cheap, immutable and safe to hand to another thread. They hold no open file; `read`
    opens what it needs and closes it when its iterator ends, is closed or is garbage.
    """

    @property
    def description(self) -> str:
        """What it is, for people: a path with a range of row groups or rows."""

    @property
    def num_rows(self) -> int | None:
        """Records that `read` will deliver in all; None when only reading tells."""

    @property
    def size_bytes(self) -> int | None:
        """Bytes in memory of all its records, as estimated; None when unknown."""

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Read the partition from its first record, in order.

        Parameters
        ----------
        batch_rows
            Asked immediately before each batch is cut, on the thread that iterates: the most records that
            this batch may have, at least 1. Where data arrives in blocks, such as row groups, a batch never
            crosses the end of a block, and the rest of a block is cut into batches of even size rather than
            leaving a tiny last one.

        Yields
        ------
        SharedDataBatch
            Never empty, with exactly the source's schema. In-memory data is not copied.

        Raises
        ------
        ReadError
            The data cannot be read; the message names the path and the place.
        SchemaMismatchError
            The file's schema differs from the first file's.

        Notes
        -----
        Threading: one iterator belongs to one thread at a time; several partitions, or the same one twice,
        may be read at the same time from different threads. Between two batches the iterator holds at most
        one block (for Parquet: 24 MiB of decoded records or less, or one stretch of a larger row group), and
        reads nothing ahead by itself: reading ahead is the runtime's business.
        """


@runtime_checkable
class BatchSource(Protocol):
    """Anything records come from. Immutable; made before the run, safe to share between threads.

    A source whose readers hold much beside their batches has two more members, and is given its share of the memory
    limit through them: ``reading_bytes``, what one reader holds at most, and ``with_blocks(block_bytes)``, which
    returns the source read in blocks of about so many bytes, where those are smaller than its own. One that reads
    something as a whole, however small its blocks are, such as one long record or one batch of a file, and knows only
    while reading how large it is, has ``with_reading_bound(most_bytes)``: then its readers refuse what takes more. It
    may have ``reading_detail`` too, the words for a refusal before anything is read. One that cannot be paused has
    ``with_waiting(waiting_bytes, space)``: the memory and the disk for batches that come too early.
    """

    @property
    def schema(self) -> pa.Schema:
        """Schema of every batch, after the projection; known before anything runs."""

    @property
    def description(self) -> str:
        """What is read and how, on one line, for `explain` and error messages."""

    @property
    def num_rows(self) -> int | None:
        """Records in all partitions together; None when only reading tells."""

    @property
    def size_bytes(self) -> int | None:
        """Bytes in memory of all records, as estimated; None when unknown."""

    def with_projection(self, names: Sequence[str]) -> BatchSource:
        """Return the source with only these columns, in this order; with none, batches only have rows.

        Raises
        ------
        ColumnNotFoundError
            A name is not a column of this source.
        """

    def with_predicates(self, predicates: Sequence[Predicate]) -> BatchSource:
        """Return the source without some of the records that fail any of `predicates`, beside earlier ones.

        Conservative: whatever cannot be decided stays in. The columns need not be in the projection. A
        predicate that the source cannot use, for whatever reason, changes nothing and raises nothing.
        """

    def partitions(self) -> Sequence[SourcePartition]:
        """Return the parts in the order of the data, the same each time.

        Reading them one after the other gives every record once. May be empty.
        """
