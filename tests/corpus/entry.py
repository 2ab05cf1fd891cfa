"""One function of the corpus: what it is, the columns it reads, how it is used, and what must come of it.

``use`` is the decorator that the modules of this folder put on their functions. Data for the columns is in ``data``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeVar

import pyarrow as pa

__all__ = ["ENTRIES", "Column", "Entry", "use"]

TYPES: dict[str, pa.DataType] = {
    "i8": pa.int8(),
    "i16": pa.int16(),
    "i32": pa.int32(),
    "i64": pa.int64(),
    "u8": pa.uint8(),
    "u16": pa.uint16(),
    "u32": pa.uint32(),
    "u64": pa.uint64(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "bool": pa.bool_(),
    "s": pa.string(),
    "ls": pa.large_string(),
    "sv": pa.string_view(),
    "d": pa.dictionary(pa.int32(), pa.string()),
    "date": pa.date32(),
    "ts": pa.timestamp("us"),
    "tsm": pa.timestamp("ms"),
    "tsn": pa.timestamp("ns"),
    "tsz": pa.timestamp("us", "UTC"),
    "time": pa.time64("us"),
    "dur": pa.duration("s"),
    "dec": pa.decimal128(9, 2),
    "dec0": pa.decimal128(5, 0),
    "list": pa.list_(pa.float64()),
    "struct": pa.struct([("x", pa.float64()), ("y", pa.float64())]),
}
_COLUMN = re.compile(r"(\w+):(\w+)(?:\[([^,\]]+),([^\]]+)\])?(?:\{([^}]*)\})?$")
Fn = TypeVar("Fn", bound=Callable[..., Any])


@dataclass(frozen=True)
class Column:
    """A column: its type and what its values are like: between ``low`` and ``high``, or some of ``choices``.

    Without either, the values are all that the type can hold.
    """

    name: str
    type: pa.DataType
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A record function and how it is used.

    Attributes
    ----------
    step
        ``filter``, ``map`` or ``with_columns`` (which stores it as the column ``result``).
    single
        What of it runs record by record, as `explain()` says it; empty if nothing does.
    refused
        What the reason of the `CompileError` must say; empty if it compiles.
    """

    name: str
    theme: str
    step: str
    columns: tuple[Column, ...]
    function: FunctionType
    single: str
    refused: str


ENTRIES: list[Entry] = []


def use(
    step: str, columns: str, name: str | None = None, *, single: str = "", refused: str = ""
) -> Callable[[Fn], Fn]:
    """Add a function to the corpus.

    Parameters
    ----------
    columns
        ``name:type`` of each column that there is, with ``[low,high]`` or ``{one|other}`` where the function is meant
        for such values only.
    name
        What a lambda is called.
    """
    parsed = tuple(_column(text) for text in re.split(r" (?=\w+:\w)", columns))

    def add(function: Fn) -> Fn:
        assert isinstance(function, FunctionType)
        theme = function.__module__.rpartition(".")[2]
        ENTRIES.append(Entry(name or function.__name__, theme, step, parsed, function, single, refused))
        return function

    return add


def _column(text: str) -> Column:
    match = _COLUMN.match(text)
    assert match is not None, text
    name, kind, low, high, choices = match.groups()
    return Column(
        name,
        TYPES[kind],
        None if low is None else float(low),
        None if high is None else float(high),
        tuple(choices.split("|")) if choices is not None else (),
    )
