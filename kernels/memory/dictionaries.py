"""Dictionary columns in the one form that kernels read, and what programs remember of dictionaries.

Nulls of that form are in the indices only: a dictionary with null entries, which Arrow allows, is exchanged for one
without. Results of operations on the values are computed by the programs themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from dataflare.kernels.memory.column import HostColumn

__all__ = ["DictionaryCache", "Entries", "nulls_in_indices", "without_null_entries"]

_T = TypeVar("_T")


class Entries(NamedTuple):
    """Where each entry of a dictionary is among those that are not null, and these."""

    places: pa.Array[Any]
    values: pa.Array[Any]


@dataclass(slots=True)
class _Made(Generic[_T]):
    """What was computed of a dictionary, and when somebody asked for it last."""

    dictionary: HostColumn
    result: _T
    last_use: int


class DictionaryCache(Generic[_T]):
    """What was computed of dictionaries, for those that were asked for last. Thread-safe.

    A dictionary is known by its memory, which is held as long as it is remembered: batches that share one find it,
    whichever objects bring it.

    Parameters
    ----------
    most
        How many results are kept; then that which nobody asked for longest goes.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._made: dict[Hashable, _Made[_T]] = {}
        self._clock = 0
        self._lock = threading.Lock()

    def find(self, what: Hashable, dictionary: HostColumn) -> _T | None:
        """Return what was kept under ``what`` for a dictionary, or None."""
        key = (what, dictionary.addresses, dictionary.offset, dictionary.length)
        with self._lock:
            known = self._made.get(key)
            if known is None:
                return None
            known.last_use = self._clock = self._clock + 1
            return known.result

    def keep(self, what: Hashable, dictionary: HostColumn, made: _T) -> None:
        """Remember what was computed for a dictionary."""
        key = (what, dictionary.addresses, dictionary.offset, dictionary.length)
        with self._lock:
            self._clock += 1
            self._made[key] = _Made(dictionary, made, self._clock)
            while len(self._made) > self._most:
                del self._made[min(self._made, key=lambda each: self._made[each].last_use)]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._made.clear()


def nulls_in_indices(
    columns: Sequence[HostColumn], positions: Sequence[int], known: DictionaryCache[Entries]
) -> Sequence[HostColumn]:
    """Return columns of which those at ``positions``, all dictionaries, have their nulls in the indices only.

    ``known`` remembers the dictionaries that were exchanged, so that batches with the same one share the other, too.
    """
    changed = [i for i in positions if columns[i].dictionary.null_count]
    if not changed:
        return columns
    return [
        without_null_entries(column, known) if i in changed else column for i, column in enumerate(columns)
    ]


def without_null_entries(column: HostColumn, known: DictionaryCache[Entries] | None = None) -> HostColumn:
    """Return a dictionary column whose nulls are all in its indices."""
    dictionary = column.dictionary
    if not dictionary.null_count:
        return column
    array: Any = column.to_arrow()
    entries = None if known is None else known.find(array.type, dictionary)
    if entries is None:
        entries = _entries_of(dictionary.to_arrow(), array.type.index_type)
        if known is not None:
            known.keep(array.type, dictionary, entries)
    indices = pc.take(entries.places, array.indices)
    return HostColumn.from_arrow(
        pa.DictionaryArray.from_arrays(indices, entries.values, ordered=array.type.ordered, safe=False)
    )


def _entries_of(dictionary: pa.Array[Any], index_type: pa.DataType) -> Entries:
    there = dictionary.is_valid()
    before = pc.subtract(pc.cumulative_sum(there.cast(pa.int64())), 1)
    places = pc.if_else(there, before, pa.scalar(None, pa.int64())).cast(index_type)
    return Entries(places, dictionary.drop_null())
