"""The contract of a sink: how a run hands over its batches and makes them visible, all or nothing.

Covers the `BatchSink` protocol. The sinks themselves are the other modules of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch

__all__ = ["BatchSink"]


@runtime_checkable
class BatchSink(Protocol):
    """Takes the batches of one run.

    A run calls `open` once, `write` for each batch, then either `commit` or `abort`, all from one thread at a
    time. A sink serves one run; build another for the next.

    A sink that gathers batches has two more members: ``buffer_bytes``, what it holds at most, and
    ``bound_buffer(nbytes)``, by which a run gives it its share of the memory limit before `open`.
    """

    @property
    def description(self) -> str:
        """What is written and where, on one line, for `explain` and error messages."""

    def open(self, schema: pa.Schema) -> None:
        """Get ready for batches of `schema`.

        Called before the source is read, so that an output that cannot be written fails before any work is
        done.

        Raises
        ------
        OutputExistsError
            The output is there already and `overwrite` was not asked for.
        SinkError
            The place cannot be written to.
        SchemaError
            The format cannot hold a column's type.
        """

    def write(self, batch: SharedDataBatch) -> None:
        """Take one batch.

        It may hold on to the batch's memory for a while, such as until a row group is full, within tens of
        MiB; a sink that keeps all of them has the attribute `keeps_batches`.

        Raises
        ------
        DataError
            The format cannot hold a value, such as a time beyond its range.
        SinkError
            It cannot be written, for instance because the disk is full; nothing is visible, call `abort`.
        """

    def commit(self) -> tuple[str, ...]:
        """Make everything visible, at once where the file system can, and return the paths written.

        A run without a single batch commits too: an empty file with the schema.

        Raises
        ------
        SinkError
            It failed; what had become visible is taken back as far as possible, call `abort`.
        """

    def abort(self) -> None:
        """Drop everything and leave no trace. Never raises, may be called at any time and more than once.

        After `commit` it does nothing.
        """
