"""Give a column memory of its own where what it keeps alive is far more than its rows.

What a filter leaves of a batch lies in blocks for the whole batch, and text views point into all the text that was
decoded with them. Who holds on to such a column, until a file's row group is full for instance, holds all of that.
Does not cover shipping (`dataflare.kernels.memory.trimming`): there is nothing gained by narrowing shared buffers.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dataflare.kernels.memory.column import HostColumn

__all__ = ["compacted"]

_BEARABLE_WASTE = 1.25
_LEAST_WASTE_BYTES = 1 << 16  # of one column: below this, copying costs more than the memory is worth


def compacted(column: HostColumn) -> HostColumn:
    """Return the column itself, or a copy of its rows where it keeps alive much more memory than they take."""
    if column.held_bytes <= _BEARABLE_WASTE * column.nbytes + _LEAST_WASTE_BYTES:
        return column
    return HostColumn.from_arrow(_copied(column.to_arrow()))


def _copied(array: pa.Array[Any]) -> pa.Array[Any]:
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string()).cast(array.type)
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary()).cast(array.type)
    try:
        return pa.concat_arrays([array])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return array
