"""Curve: a series over time that stays bounded however long a run is.

Covers recording and thinning. Does not draw.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

__all__ = ["Curve", "CurvePoint"]


class CurvePoint(NamedTuple):
    """One value at one moment of a run."""

    at_s: float
    """Seconds since the run started."""
    value: float


class Curve:
    """At most ``capacity`` points: when full, every second one goes, and half as many are taken from then on.

    Thread-safe.
    """

    __slots__ = ("_capacity", "_lock", "_points", "_seen", "_stride")

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = max(2, capacity)
        self._lock = threading.Lock()
        self._points: list[CurvePoint] = []
        self._stride = 1
        self._seen = 0

    def add(self, at_s: float, value: float) -> bool:
        """Add a point, if it is one of those that are kept; tell whether it is."""
        with self._lock:
            place = self._seen
            self._seen += 1
            if place % self._stride == 0 and len(self._points) >= self._capacity:
                del self._points[1::2]
                self._stride *= 2
            kept = place % self._stride == 0
            if kept:
                self._points.append(CurvePoint(at_s, value))
            return kept

    def points(self) -> tuple[CurvePoint, ...]:
        """Return the kept points, oldest first."""
        with self._lock:
            return tuple(self._points)
