"""CostCurve: what batches of each size took, and the straight line through it.

Covers the latest batches of each size class, their medians, and the fit ``seconds = fixed + row * rows``. Decides
nothing: strategies do.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from statistics import median
from typing import NamedTuple

__all__ = ["CostCurve", "LinearCost", "SizeCost", "size_class"]


def size_class(rows: int) -> int:
    """Return the class of a size: half an octave wide, so that neighbours differ by a factor of 1.4."""
    return round(2.0 * math.log2(rows)) if rows > 0 else 0


class SizeCost(NamedTuple):
    """What batches of one size took, for another run."""

    asked_rows: int
    rows: int
    """What the source had of them."""
    row_s: float
    """Median seconds a row."""
    batches: int


class LinearCost(NamedTuple):
    """What a batch costs: ``fixed_s`` however small it is, and ``row_s`` for each row."""

    fixed_s: float
    row_s: float

    def seconds_a_row(self, rows: float) -> float:
        """Return the seconds that a row costs in a batch of ``rows``."""
        return self.fixed_s / rows + self.row_s

    def rows_at(self, seconds_a_row: float) -> float:
        """Return the rows from which on a row costs at most so many seconds; infinity if it never does."""
        spare_s = seconds_a_row - self.row_s
        return self.fixed_s / spare_s if spare_s > 0.0 else math.inf


class _SizeCosts:
    __slots__ = ("asked_rows", "latest_row_s", "rows")

    def __init__(self, most: int) -> None:
        self.latest_row_s: deque[float] = deque(maxlen=most)
        self.asked_rows = self.rows = 0


class CostCurve:
    """Seconds a row by the class of the size that was asked for, of the latest batches of each class.

    Parameters
    ----------
    most
        Batches that are kept of each class.
    measured
        What another run measured.
    """

    FITS = 4
    TOLERANCE = 0.1
    SMOOTHING = 0.15
    MOST_APART = 0.5

    def __init__(self, most: int, measured: Iterable[SizeCost] = ()) -> None:
        self._most = most
        self._classes: dict[int, _SizeCosts] = {}
        for known in measured:
            costs = self._classes[size_class(known.asked_rows)] = _SizeCosts(most)
            costs.latest_row_s.extend([known.row_s] * min(known.batches, most))
            costs.asked_rows, costs.rows = known.asked_rows, known.rows
        self.noise = 0.0
        """How far two batches of the same size in a row lie apart, as the standard deviation of their logarithms."""

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, size: int) -> bool:
        return size in self._classes

    def add(self, asked_rows: int, rows: int, duration_s: float) -> int:
        """Add a batch, and return its class. It may have fewer rows than asked for, if the source had fewer."""
        size = size_class(asked_rows)
        costs = self._classes.get(size)
        if costs is None:
            costs = self._classes[size] = _SizeCosts(self._most)
        row_s = duration_s / rows
        if costs.latest_row_s:
            apart = min(abs(math.log(row_s / costs.latest_row_s[-1])), self.MOST_APART)
            self.noise += self.SMOOTHING * (apart / 1.13 - self.noise)
        costs.latest_row_s.append(row_s)
        costs.asked_rows = asked_rows
        costs.rows = rows
        return size

    @property
    def measured(self) -> tuple[SizeCost, ...]:
        """All that is known, by size."""
        return tuple(
            SizeCost(costs.asked_rows, costs.rows, median(costs.latest_row_s), len(costs.latest_row_s))
            for _, costs in sorted(self._classes.items())
        )

    def count(self, size: int) -> int:
        """Return how many batches are kept of a class."""
        return len(self._classes[size].latest_row_s) if size in self._classes else 0

    def row_s(self, size: int, latest: int | None = None) -> float:
        """Return the median seconds a row of a class, of its ``latest`` batches or of all that are kept."""
        kept = self._classes[size].latest_row_s
        return median(kept) if latest is None else median(list(kept)[-latest:])

    def rows(self, size: int) -> int:
        """Return the rows that the last batch of a class had."""
        return self._classes[size].rows

    def asked_rows(self, size: int) -> int:
        """Return the rows that were asked for in the last batch of a class."""
        return self._classes[size].asked_rows

    def least_row_s(self, sizes: Iterable[int]) -> float:
        """Return the seconds a row of the fastest of these classes."""
        return min(map(self.row_s, sizes))

    def shift(self, size: int, latest: int) -> float:
        """Return the factor between the ``latest`` batches of a class and those before, at least 1."""
        kept = list(self._classes[size].latest_row_s)
        if len(kept) <= latest:
            return 1.0
        ratio = median(kept[-latest:]) / median(kept[:-latest])
        return max(ratio, 1.0 / ratio)

    def scale(self, factor: float, but: int) -> None:
        """Multiply the seconds of all classes but one: the machine became slower or faster since they were measured."""
        for size, costs in self._classes.items():
            if size != but:
                costs.latest_row_s = deque((s * factor for s in costs.latest_row_s), maxlen=self._most)

    def keep(self, sizes: Iterable[int], latest: int | None = None) -> None:
        """Forget all classes but ``sizes``, and of those all but the ``latest`` batches."""
        kept = {size: self._classes[size] for size in sizes if size in self._classes}
        if latest is not None:
            for costs in kept.values():
                costs.latest_row_s = deque(list(costs.latest_row_s)[-latest:], maxlen=self._most)
        self._classes = kept

    def fit(self, up_to: int | None = None) -> LinearCost | None:
        """Return the line through the medians of the classes ``up_to`` one; None while there are less than two.

        Errors count relative to the time, since noise does, and a class counts by its batches. Classes far off the
        line, such as those where one batch was interrupted, count less.
        """
        points = []
        for size, costs in self._classes.items():
            if up_to is None or size <= up_to:
                row_s = median(costs.latest_row_s)
                points.append((1.0 / (row_s * costs.rows), 1.0 / row_s, float(len(costs.latest_row_s))))
        if len(points) < 2:
            return None
        cost = _line(points)
        for _ in range(self.FITS):
            if cost is None:
                break
            weighted = []
            for f, r, count in points:
                error = abs(cost.fixed_s * f + cost.row_s * r - 1.0)
                weighted.append((f, r, count / max(1.0, error / self.TOLERANCE) ** 2))
            cost = _line(weighted) or cost
        return cost


def _line(points: list[tuple[float, float, float]]) -> LinearCost | None:
    """Return the least squares of ``1 = fixed * f + row * r`` over ``(f, r, weight)``, neither below 0."""
    ff = fr = rr = f_sum = r_sum = 0.0
    for f, r, weight in points:
        ff += weight * f * f
        fr += weight * f * r
        rr += weight * r * r
        f_sum += weight * f
        r_sum += weight * r
    determinant = ff * rr - fr * fr
    if determinant <= 1e-9 * ff * rr:  # all batches had about the same size
        return None
    fixed_s = (f_sum * rr - r_sum * fr) / determinant
    row_s = (r_sum * ff - f_sum * fr) / determinant
    if fixed_s < 0.0:
        return LinearCost(0.0, r_sum / rr)
    if row_s < 0.0:
        return LinearCost(f_sum / ff, 0.0)
    return LinearCost(fixed_s, row_s)
