"""CountSink: counts records and keeps nothing of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch

__all__ = ["CountSink"]


class CountSink:
    """A sink for `Pipeline.count`; `rows` is the count once the run has committed."""

    is_quick = True
    """Writing neither waits nor works: no thread is worth it."""

    def __init__(self) -> None:
        self.rows = 0

    @property
    def description(self) -> str:
        """What messages call it."""
        return "count"

    def open(self, schema: pa.Schema) -> None:
        """Start from zero."""
        self.rows = 0

    def write(self, batch: SharedDataBatch) -> None:
        """Count the records of a batch."""
        self.rows += batch.num_rows

    def commit(self) -> tuple[str, ...]:
        """Write nothing."""
        return ()

    def abort(self) -> None:
        """Leave nothing behind, as there is nothing."""
