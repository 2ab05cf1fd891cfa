"""Do two schemas agree, and where not: the comparison behind every message about schemas.

Names, order and types count; metadata and the promise that a field has no nulls do not, because neither
changes how a column is read. Does not cover casting: columns that differ in type are never converted unasked.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from dataflare.kernels.errors import ColumnNotFoundError, SchemaError, nearest

__all__ = ["column_index", "first_difference", "merged_schema", "require_unique_names"]


def first_difference(expected: pa.Schema, found: pa.Schema) -> str | None:
    """Say in words where ``found`` departs from ``expected``; None where they agree."""
    if expected is found or expected.equals(found):
        return None
    expected_names, found_names = expected.names, found.names
    for name in expected_names:
        if name not in found_names:
            extra = [other for other in found_names if other not in expected_names]
            return f"column {name!r} is missing. {nearest(name, extra)}".rstrip()
    for name in found_names:
        if name not in expected_names:
            return f"column {name!r} of type {found.field(name).type} is not expected."
    for position, name in enumerate(expected_names):
        if found_names[position] != name:
            return (
                f"column {position + 1} is {found_names[position]!r} where {name!r} is expected: "
                "the same columns in another order."
            )
        if expected.field(position).type != found.field(position).type:
            return (
                f"column {name!r} is {found.field(position).type} "
                f"where {expected.field(position).type} is expected."
            )
    return None


def merged_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the first of schemas that agree, with each field nullable that is so in any of them."""
    merged = schemas[0]
    for other in schemas[1:]:
        if not merged.equals(other):
            for position, field in enumerate(other):
                if field.nullable and not merged.field(position).nullable:
                    merged = merged.set(position, merged.field(position).with_nullable(True))
    return merged


def require_unique_names(schema: pa.Schema) -> None:
    """Raise `SchemaError` where two columns share a name, since ``r.name`` could not tell them apart."""
    names = schema.names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SchemaError(
            f"column {twice!r} appears {names.count(twice)} times: names must be unique. "
            "Rename the columns first, with pyarrow's rename_columns for instance."
        )


def column_index(schema: pa.Schema, name: str, context: str) -> int:
    """Return the position of a column, or raise `ColumnNotFoundError` with the nearest names."""
    position = schema.get_field_index(name)
    if position < 0:
        raise ColumnNotFoundError.for_name(name, schema.names, context)
    return position
