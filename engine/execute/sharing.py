"""What batches take that share memory with others, such as one dictionary or the texts that views point to.

Covers the bytes of batches that are read, and of those that are kept to the end. Setting them aside is done in a
`dataflare.control.MemoryBudget`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.kernels.memory.column import HostColumn

__all__ = ["KeptMemory", "ReadMemory"]


class ReadMemory:
    """Tells the records of each batch from the dictionaries that they share with those before. For one reader."""

    def __init__(self) -> None:
        # The last one of each column: as long as it is held, its address is its own.
        self._dictionaries: dict[int, HostColumn] = {}

    def sizes(self, batch: SharedDataBatch) -> tuple[int, int]:
        """Return the bytes of a batch without its dictionaries, and those of dictionaries that are new."""
        if batch._backend is not None:  # nothing of it lies in host memory
            return batch.nbytes, 0
        dictionary_bytes = new_bytes = 0
        for number, column in enumerate(batch._columns):
            if not pa.types.is_dictionary(column.type):
                continue
            dictionary, known = column.dictionary, self._dictionaries.get(number)
            dictionary_bytes += dictionary.nbytes
            if known is None or not _has_all(known, dictionary):
                self._dictionaries[number] = dictionary
                new_bytes += dictionary.nbytes
        return batch.nbytes - dictionary_bytes, new_bytes


def _has_all(known: HostColumn, dictionary: HostColumn) -> bool:
    """Tell whether a dictionary is the known one, or a part of it."""
    return (
        bool(known.addresses)
        and known.addresses == dictionary.addresses
        and known.offset <= dictionary.offset
        and dictionary.offset + dictionary.length <= known.offset + known.length
    )


class KeptMemory:
    """Counts what each further batch adds. All batches stay, so that an address means the same memory."""

    def __init__(self) -> None:
        # Bytes counted, and all that lie there as far as any batch knows: some have only a part of a buffer.
        self._counted: dict[tuple[int, ...], tuple[int, int]] = {}

    def added_bytes(self, batch: SharedDataBatch) -> int:
        """Return the bytes that one more batch in host memory takes, beside those before."""
        total_bytes = 0
        for column in batch._columns:
            total_bytes += column.own_bytes
            for place, (nbytes, size_bytes) in column.shared_bytes().items():
                counted_bytes, most_bytes = self._counted.get(place, (0, 0))
                most_bytes = max(most_bytes, size_bytes)
                now_bytes = min(most_bytes, counted_bytes + nbytes)
                self._counted[place] = now_bytes, most_bytes
                total_bytes += now_bytes - counted_bytes
        return total_bytes
