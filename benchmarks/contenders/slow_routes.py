"""The two routes that a Python function can take through an engine, and how many rows the slow one gets."""

from __future__ import annotations

__all__ = ["COMPILED", "PER_RECORD", "PER_RECORD_ROWS", "per_record_rows"]

COMPILED = "compiled function"
PER_RECORD = "per record"
PER_RECORD_ROWS = 200_000


def per_record_rows(rows: int) -> int:
    """Return how many of ``rows`` a per-record route works on: rates are compared, not times."""
    return min(rows, PER_RECORD_ROWS)
