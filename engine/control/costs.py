"""CostCurve: what batches of each size took, and the straight line through it.

Covers the latest batches of each size class, their medians, and the fit ``seconds = fixed + row * rows``. Decides
nothing: strategies do.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

__all__ = ["CostCurve", "LinearCost", "size_class"]


def size_class(rows: int) -> int:
    """Return the class of a size: half an octave wide, so that neighbours differ by a factor of about 1.4."""
    return round(2.0 * math.log2(rows)) if rows > 0 else 0


class LinearCost(NamedTuple):
    """What a batch costs: ``fixed_s`` however small it is, and ``row_s`` for each row."""

    fixed_s: float
    row_s: float

    def rows_for_share(self, share: float, of_rows: float) -> float:
        """Return the rows from which on the rate is ``share`` of the rate of a batch of ``of_rows``."""
        goal = share * of_rows / (self.fixed_s + self.row_s * of_rows)
        return goal * self.fixed_s / (1.0 - goal * self.row_s)


class _SizeCosts:
    __slots__ = ("latest", "rows")

    def __init__(self, most: int) -> None:
        self.latest: deque[float] = deque(maxlen=most)  # seconds a row
        self.rows = 0.0


class CostCurve:
    """Seconds a row by size class, of the latest ``most`` batches of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._classes: dict[int, _SizeCosts] = {}

    def __contains__(self, size: int) -> bool:
        return size in self._classes

    def add(self, size: int, rows: int, duration_s: float) -> None:
        """Add a batch to a size class; ``rows`` may be fewer than those of the class, if the source had fewer."""
        costs = self._classes.get(size)
        if costs is None:
            costs = self._classes[size] = _SizeCosts(self._most)
        costs.latest.append(duration_s / rows)
        costs.rows = float(rows)

    def count(self, size: int) -> int:
        """Return how many batches are kept of a class."""
        return len(self._classes[size].latest) if size in self._classes else 0

    def row_s(self, size: int, latest: int | None = None) -> float:
        """Return the median seconds a row of a class, of its ``latest`` batches or all that are kept."""
        kept = self._classes[size].latest
        return median(kept) if latest is None else median(list(kept)[-latest:])

    def spread(self, size: int) -> float:
        """Return how far batches of one size lie apart: the median deviation from the median, over the median."""
        kept = self._classes[size].latest
        middle = median(kept)
        return median(abs(row_s - middle) for row_s in kept) / middle

    def rows(self, size: int) -> float:
        """Return the rows that the last batch of a class had."""
        return self._classes[size].rows

    def best(self, sizes: Iterable[int] | None = None) -> int:
        """Return the class with the least seconds a row, of ``sizes`` or of all; the smaller of equals."""
        return min(sorted(self._classes if sizes is None else sizes), key=self.row_s)

    def scale(self, factor: float, but: int) -> None:
        """Multiply all classes' seconds by ``factor`` but those of class ``but``: the machine became slower or faster."""
        for size, costs in self._classes.items():
            if size != but:
                costs.latest = deque((row_s * factor for row_s in costs.latest), maxlen=self._most)

    def forget(self, size: int) -> None:
        """Forget what is known of a class."""
        self._classes.pop(size, None)

    def keep(self, sizes: Iterable[int]) -> None:
        """Forget all classes but ``sizes``."""
        kept = set(sizes)
        self._classes = {size: costs for size, costs in self._classes.items() if size in kept}

    def fit(self, up_to: int | None = None) -> LinearCost | None:
        """Return the line through the medians of the classes ``up_to`` one; None while there are less than two.

        Errors count relative to the time, since noise does; a class counts by its batches.
        """
        points = []
        for size, costs in self._classes.items():
            if up_to is None or size <= up_to:
                points.append((costs.rows, median(costs.latest) * costs.rows, len(costs.latest)))
        if len({rows for rows, _, _ in points}) < 2:
            return None
        # Weighted least squares of 1 = fixed / t + row * n / t.
        ff = sum(count / t**2 for _, t, count in points)
        fr = sum(count * n / t**2 for n, t, count in points)
        rr = sum(count * (n / t) ** 2 for n, t, count in points)
        f = sum(count / t for _, t, count in points)
        r = sum(count * n / t for n, t, count in points)
        fixed, row = (f * rr - r * fr), (r * ff - f * fr)
        determinant = ff * rr - fr * fr
        if determinant <= 0.0:
            return None
        fixed, row = fixed / determinant, row / determinant
        if fixed < 0.0:
            fixed, row = 0.0, r / rr
        elif row < 0.0:
            fixed, row = f / ff, 0.0
        return LinearCost(fixed, row)
