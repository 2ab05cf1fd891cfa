"""Dictionary columns in the one form that kernels read: nulls in the indices only."""

from __future__ import annotations

from dataflare.kernels.memory.column import HostColumn

__all__ = ["without_null_entries"]


def without_null_entries(column: HostColumn) -> HostColumn:
    """Return a dictionary column whose nulls are all in its indices."""
    if not column.dictionary.null_count:
        return column
    array = column.to_arrow()
    plain = array.cast(array.type.value_type)
    encoded = plain.dictionary_encode()
    return HostColumn.from_arrow(encoded.cast(array.type))
