"""The records of a scenario: as Python dicts, as Arrow data, and what is known of their columns."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import pyarrow as pa

Row: TypeAlias = dict[str, Any]
Kind = Literal["number", "float", "text", "flag"]

SCHEMA = pa.schema({"id": pa.int64(), "g": pa.int64(), "x": pa.float64(), "s": pa.string()})
COLUMNS: dict[str, Kind] = {"id": "number", "g": "number", "x": "float", "s": "text"}
TYPES = {"number": pa.int64(), "float": pa.float64(), "text": pa.string(), "flag": pa.bool_()}
TEXTS = ("", "s", "flare", "a text that is longer than a view", "x" * 200)


def make_rows(count: int, phase: int) -> list[Row]:
    """Return records with the numbers from 0 on; every column but ``id`` has nulls."""
    return [
        {
            "id": i,
            "g": None if (i + phase) % 7 == 0 else (i * 31 + phase) % 50,
            "x": None if (i + phase) % 5 == 0 else i / 8 - 3.0,
            "s": None if (i + phase) % 9 == 0 else TEXTS[(i * 13 + phase) % len(TEXTS)],
        }
        for i in range(count)
    ]


def schema_of(columns: dict[str, Kind]) -> pa.Schema:
    return pa.schema([pa.field(name, TYPES[kind]) for name, kind in columns.items()])


def table_of(rows: list[Row], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(rows, schema)


def comparable(rows: list[Row], *, ordered: bool) -> list[Any]:
    """Return records in a form that can be compared; in no order, if none was promised."""
    cells = [tuple(row.items()) for row in rows]
    return cells if ordered else sorted(cells, key=repr)
