"""Checks that the files of one source have the same columns, as far as they are used."""

from __future__ import annotations

import pyarrow as pa

from dataflare.kernels.errors import SchemaMismatchError, nearest

__all__ = ["check_agreement", "same_family"]


def check_agreement(
    shown: str, found: pa.Schema, first_shown: str, expected: pa.Schema, *, every_column: bool
) -> None:
    """Check a later file's schema against what the first file's promised.

    Parameters
    ----------
    shown, found
        The later file and its schema; the order of its columns does not matter.
    first_shown, expected
        The first file and the columns that are used, with their types.
    every_column
        Whether all columns of the first file are used: then a further one in the later file would be lost.

    Raises
    ------
    SchemaMismatchError
        A column is missing, has another type, or would be lost.
    """
    for field in expected:
        position = found.get_field_index(field.name)
        if position < 0:
            hint = nearest(field.name, found.names)
            raise SchemaMismatchError(
                f"{shown}: has no column {field.name!r}, which {first_shown} has as {field.type}. {hint} "
                "All files of one source need the same columns.".replace("  ", " ")
            )
        other = found.field(position).type
        if other != field.type and not same_family(other, field.type):
            raise SchemaMismatchError(
                f"{shown}: column {field.name!r} is {other}, but {field.type} in {first_shown}. "
                "All files of one source need the same types; read them separately and cast, or write them anew."
            )
    if every_column:
        extra = [name for name in found.names if expected.get_field_index(name) < 0]
        if extra:
            raise SchemaMismatchError(
                f"{shown}: has the column {extra[0]!r} ({found.field(extra[0]).type}), which {first_shown} has not. "
                "All files of one source need the same columns; select the common ones to leave it out."
            )


def same_family(one: pa.DataType, other: pa.DataType) -> bool:
    """Whether two types hold the same values and differ only in how Arrow lays out text or bytes."""
    types = pa.types

    def is_text(kind: pa.DataType) -> bool:
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    def is_bytes(kind: pa.DataType) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)

    return (is_text(one) and is_text(other)) or (is_bytes(one) and is_bytes(other))
