"""Bytes of a record, estimated from its schema: what is known before the first batch was read.

Measured sizes replace the estimate as soon as there are any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["row_bytes"]

_VARIABLE_BYTES = 32.0  # a short text with its offset: a guess that the first batch corrects


def row_bytes(schema: pa.Schema) -> float:
    """Return the estimated bytes of one record of this schema, validity bits included."""
    return sum(_type_bytes(field.type) + (0.125 if field.nullable else 0.0) for field in schema)


def _type_bytes(kind: pa.DataType) -> float:
    try:
        return kind.bit_width / 8.0
    except ValueError:
        return _VARIABLE_BYTES
