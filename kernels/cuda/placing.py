"""Where the results of a program lie in a block: the same places on the device and in host memory.

They come without gaps to speak of for the number of rows that there are, so that one copy brings all of them: bitmaps
first, which a filter needs as zeros, then values. Each begins at a multiple of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.kernels.llvm.layout import OutputLayout

__all__ = ["ResultPlaces"]


class ResultPlaces:
    """The places of the results of one variant of a program, for any number of rows."""

    def __init__(self, outputs: Sequence[OutputLayout]) -> None:
        self._bitmaps = 0
        self._row_bytes = 0
        # Of each result: whether it is bits, its bitmap or the bytes a row of those before it, its validity or None.
        self._results: list[tuple[bool, int, int | None]] = []
        for out in outputs:
            if out.is_bits:
                before = self._next_bitmap()
            else:
                before = self._row_bytes
                self._row_bytes += out.width_bytes
            self._results.append((out.is_bits, before, self._next_bitmap() if out.has_validity else None))

    def _next_bitmap(self) -> int:
        self._bitmaps += 1
        return self._bitmaps - 1

    def bitmap_bytes(self, rows: int) -> int:
        """Return the bytes of all bitmaps, which come first."""
        return self._bitmaps * _bitmap_bytes(rows)

    def nbytes(self, rows: int) -> int:
        """Return the bytes of all results."""
        return self.bitmap_bytes(rows) + self._row_bytes * _whole(rows)

    def slots(self, rows: int, start: int) -> list[int]:
        """Return where the values and the validity of each result are, in turn; 0 for no validity.

        Parameters
        ----------
        start
            What places count from: the address of the first bitmap.
        """
        each, whole = _bitmap_bytes(rows), _whole(rows)
        values = start + self._bitmaps * each
        slots: list[int] = []
        for is_bits, before, validity in self._results:
            slots += (
                start + before * each if is_bits else values + before * whole,
                0 if validity is None else start + validity * each,
            )
        return slots


def _bitmap_bytes(rows: int) -> int:
    return (rows + 511) >> 9 << 6


def _whole(rows: int) -> int:
    """Return rows up to a number whose values of any width take a multiple of 64 bytes."""
    return (rows + 63) & -64
