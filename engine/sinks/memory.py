"""CollectSink: keeps the batches of a run in memory, in order, and joins them when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from dataflare.batch import SharedDataBatch
from dataflare.kernels.errors import SchemaError
from dataflare.schema import first_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CollectSink"]


class CollectSink:
    """Keeps batches as they come; nothing is copied until `batch` joins them."""

    keeps_batches = True
    """What is written stays in memory until the sink is gone."""
    is_quick = True
    """Writing neither waits nor works: no thread is worth it."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._batches: list[SharedDataBatch] = []

    @property
    def description(self) -> str:
        """What messages call it."""
        return "collect"

    @property
    def batches(self) -> Sequence[SharedDataBatch]:
        """What was written, in order."""
        return tuple(self._batches)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches, once the run has opened the sink."""
        if self._schema is None:
            raise SchemaError("nothing was collected: the run did not start.")
        return self._schema

    def open(self, schema: pa.Schema) -> None:
        """Begin, empty."""
        self._schema = schema
        self._batches = []

    def write(self, batch: SharedDataBatch) -> None:
        """Keep a batch."""
        self._batches.append(batch)

    def commit(self) -> tuple[str, ...]:
        """Write nothing."""
        return ()

    def abort(self) -> None:
        """Let go of the batches."""
        self._batches = []

    def batch(self) -> SharedDataBatch:
        """Return everything as one contiguous batch; a single one is returned as it is."""
        if not self._batches:
            return SharedDataBatch.empty(self.schema)
        if len(self._batches) == 1:
            return self._batches[0]
        return SharedDataBatch.merge(self._batches, watermark="max")

    def table(self) -> pa.Table:
        """Return everything as a table of the chunks as they came."""
        schema = self._batches[0].schema if self._batches else self.schema
        for batch in self._batches:
            difference = first_difference(schema, batch.schema)
            if difference is not None:
                raise SchemaError(f"batches of one run differ: {difference}.")
        if not len(schema):
            rows = sum(batch.num_rows for batch in self._batches)
            return pa.table({"": pa.nulls(rows)}).select([])
        chunks = [
            pa.RecordBatch.from_arrays([column.to_arrow() for column in batch._columns], schema=schema)
            for batch in self._batches
        ]
        return pa.Table.from_batches(chunks, schema)
