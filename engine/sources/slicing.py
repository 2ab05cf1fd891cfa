"""Cuts decoded blocks into batches of the size that is asked for; nothing is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from dataflare.batch import SharedDataBatch
from dataflare.kernels.memory.column import HostColumn

__all__ = ["cut_batch", "cut_rows", "slice_record_batch", "slice_table"]


def cut_rows(num_rows: int, batch_rows: Callable[[], int]) -> Iterator[tuple[int, int]]:
    """Yield ``(start, length)`` of each batch of a block, asking for the size before each.

    The rest of the block is shared out evenly, so that no batch is tiny: 113 rows in batches of at most 100
    are 57 and 56. No batch is longer than what was asked for.
    """
    start = 0
    while start < num_rows:
        most = max(1, batch_rows())
        left = num_rows - start
        pieces = -(-left // most)
        length = -(-left // pieces)
        yield start, length
        start += length


def cut_batch(batch: SharedDataBatch, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
    """Yield the rows of a batch, shared and not copied."""
    for start, length in cut_rows(batch.num_rows, batch_rows):
        yield batch if length == batch.num_rows else batch.slice(start, start + length)


def slice_record_batch(
    schema: pa.Schema, block: pa.RecordBatch, batch_rows: Callable[[], int]
) -> Iterator[SharedDataBatch]:
    """Yield the rows of `block`, whose columns have the types of `schema` in its order."""
    columns = [HostColumn.from_arrow(column) for column in block.columns]
    num_rows = block.num_rows
    for start, length in cut_rows(num_rows, batch_rows):
        whole = length == num_rows
        cut = columns if whole else [column.slice(start, length) for column in columns]
        yield SharedDataBatch._from_columns(schema, cut, length)


def slice_table(
    schema: pa.Schema, table: pa.Table, batch_rows: Callable[[], int]
) -> Iterator[SharedDataBatch]:
    """Yield the rows of a table, chunk by chunk; a table without columns still has its rows."""
    if not table.num_columns:
        for _, length in cut_rows(table.num_rows, batch_rows):
            yield SharedDataBatch._from_columns(schema, (), length)
        return
    for block in table.to_batches():
        yield from slice_record_batch(schema, block, batch_rows)
