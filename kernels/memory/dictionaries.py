"""Dictionary columns in the one form that kernels read: nulls in the indices only."""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.kernels.memory.column import HostColumn

__all__ = ["nulls_in_indices", "without_null_entries"]


def nulls_in_indices(columns: Sequence[HostColumn], positions: Sequence[int]) -> Sequence[HostColumn]:
    """Return columns of which those at ``positions``, all dictionaries, have their nulls in the indices only."""
    changed = {i: made for i in positions if (made := without_null_entries(columns[i])) is not columns[i]}
    return [changed.get(i, column) for i, column in enumerate(columns)] if changed else columns


def without_null_entries(column: HostColumn) -> HostColumn:
    """Return a dictionary column whose nulls are all in its indices."""
    if not column.dictionary.null_count:
        return column
    array = column.to_arrow()
    plain = array.cast(array.type.value_type)
    encoded = plain.dictionary_encode()
    return HostColumn.from_arrow(encoded.cast(array.type))
