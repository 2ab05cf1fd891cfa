"""The steps that a record program is fused from, as a pipeline or a batch hands them over.

A stage says what the user asked for and nothing about types: ``program.build_program`` gives it a schema.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["FilterStage", "MapStage", "RecordFunction", "SelectStage", "Stage", "WithColumnsStage"]

RecordFunction = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class FilterStage:
    """Keep the records for which ``fn`` is true."""

    fn: RecordFunction


@dataclass(frozen=True, slots=True)
class MapStage:
    """Replace each record by the one that ``fn`` returns."""

    fn: RecordFunction


@dataclass(frozen=True, slots=True)
class WithColumnsStage:
    """Keep each record and add or replace columns.

    Either ``fn`` returns a record of the new columns, or ``named`` holds (column, function of one value) pairs;
    every function sees the record as it came in.
    """

    fn: RecordFunction | None = None
    named: tuple[tuple[str, RecordFunction], ...] = ()


@dataclass(frozen=True, slots=True)
class SelectStage:
    """Keep columns, in order, under new names: ``(output name, input name)`` pairs."""

    columns: tuple[tuple[str, str], ...]


Stage = FilterStage | MapStage | WithColumnsStage | SelectStage
