"""The record that a function gets on the device ``"python"``: columns as attributes and as items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataflare.kernels.errors import ColumnNotFoundError, CompileError
from dataflare.kernels.reference.columns import Carried

__all__ = ["Record", "cells_of", "value_of"]


def value_of(cell: Any) -> Any:
    """Return the value of a cell, which may have been carried through unread."""
    return cell.value if isinstance(cell, Carried) else cell


class Record:
    """One row: ``r.x`` and ``r["x"]`` are values, ``{**r}`` is all of them. Column names win over methods."""

    __slots__ = ("_cells",)

    def __init__(self, cells: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_cells", cells)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        cells = cells_of(self)
        if name not in cells:
            raise ColumnNotFoundError.for_name(name, cells)
        return value_of(cells[name])

    def __setattr__(self, name: str, value: Any) -> None:
        raise CompileError(f"a record is read-only; return {{**r, {name!r}: ...}} instead.")

    def __iter__(self) -> Iterator[str]:
        return iter(cells_of(self))

    def __repr__(self) -> str:
        return (
            "Record(" + ", ".join(f"{name}={value_of(cell)!r}" for name, cell in cells_of(self).items()) + ")"
        )


def cells_of(record: Record) -> Mapping[str, Any]:
    """Return the cells of a record, without reading those that were carried through."""
    cells: Mapping[str, Any] = object.__getattribute__(record, "_cells")
    return cells
