"""Curves: batch size, rate, latency, credits and memory of a run over time, bounded however long the run is.

Covers recording, and the frozen value that reports carry. Does not draw (``drawing``), and reads no clock.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.control.monitors import MemoryReading

__all__ = ["CurvePoint", "CurveRecorder", "RunCurves", "WatchedMemory"]

_LEAST_WIDTH_S = 2.0**-20
"""No two batches of one task fall into so short a time: short runs keep a point for each batch."""
_KEPT_SHARE = 0.75
"""Of the capacity, what may be left after thinning: it pays only when much goes."""
_RATE_BATCHES = 8
"""A rate rests on that many batches, since a few are done at almost the same time where several tasks work."""
_RATE_SHARE = 0.04
"""Of the time of the run, what is long enough for a rate, however few batches there were."""


class CurvePoint(NamedTuple):
    """One value at one moment of a run."""

    at_s: float
    """Seconds since the run started."""
    value: float


class WatchedMemory(Protocol):
    """A memory monitor that remembers its latest reading."""

    @property
    def device(self) -> str:
        """Name under which pressure is reported."""

    @property
    def last(self) -> MemoryReading:
        """The latest reading, without reading again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurves:
    """A run over time: tuples of equal length, one value a point, and the bounds that controllers worked to.

    A point stands for the batches that were consumed since the point before it: one batch at the start of a run,
    more the longer it lasts. Values that are not known are None.

    Examples
    --------
    >>> curves = RunCurves(at_s=(0.5, 1.0), batches=(1, 1), batch_rows=(1000.0, 2000.0))
    >>> len(curves), curves.points("batch_rows")[1]
    (2, CurvePoint(at_s=1.0, value=2000.0))
    """

    at_s: tuple[float, ...] = ()
    """Seconds since the run started, at the latest batch of the point."""
    batches: tuple[int, ...] = ()
    """Batches that the point stands for."""
    batch_rows: tuple[float, ...] = ()
    """Input records a batch, on average."""
    batch_bytes: tuple[float, ...] = ()
    """Bytes of these records as they were read, on average."""
    rows_per_s: tuple[float, ...] = ()
    """Input records per second, over the latest eight batches or a twenty-fifth of the run, whichever is shorter; and
    since the point before, where that is longer."""
    latency_s: tuple[float, ...] = ()
    """Seconds of work on a batch, from reading to writing, on average."""
    longest_latency_s: tuple[float, ...] = ()
    in_flight_rows: tuple[int, ...] = ()
    """Credits in flight, the most: records that were admitted and not yet consumed."""
    reserved_bytes: tuple[int, ...] = ()
    """Bytes of batches that were reserved, the most that was seen."""
    memory_pressure: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By device ("host", "cuda:0"), from 0 to 1, the highest that was seen; None before its monitor had read."""
    memory_limit_bytes: int | None = None
    latency_target_s: float | None = None
    """What the batch size was bounded by; None for sizes that are fixed."""
    pressure_threshold: float | None = None
    """The memory pressure from which credits are held back; None where it has no effect."""

    def __len__(self) -> int:
        return len(self.at_s)

    def points(self, name: str) -> tuple[CurvePoint, ...]:
        """Return one of the curves as pairs of time and value."""
        return tuple(map(CurvePoint, self.at_s, getattr(self, name)))

    def to_arrow(self) -> pa.Table:
        """Return all curves as a table: a row a point, a column a curve, ``memory_pressure_<device>`` among them."""
        import pyarrow as pa

        columns = {name: pa.array(getattr(self, name), kind) for name, kind in _ARROW_TYPES.items()}
        for device, pressure in self.memory_pressure.items():
            columns[f"memory_pressure_{device}"] = pa.array(pressure, "double")
        return pa.table(columns)


_ARROW_TYPES = {
    "at_s": "double",
    "batches": "int64",
    "batch_rows": "double",
    "batch_bytes": "double",
    "rows_per_s": "double",
    "latency_s": "double",
    "longest_latency_s": "double",
    "in_flight_rows": "int64",
    "reserved_bytes": "int64",
}


class CurveRecorder:
    """Collects the curves of one run in at most ``capacity`` points. Thread-safe.

    Batches that end within one stretch of time share a point. The stretch is short at first, and doubles whenever
    there are too many points: sums stay exact, and peaks stay.

    Parameters
    ----------
    memories
        Whose pressure is recorded. It is looked up once a point.
    """

    __slots__ = (
        "_capacity",
        "_lock",
        "_memories",
        "_points",
        "_pressures",
        "_readings",
        "_width_s",
        "monitor_errors",
    )

    def __init__(self, memories: Sequence[WatchedMemory] = (), capacity: int = 256) -> None:
        self._memories = tuple(memories)
        self._readings: list[MemoryReading | None] = [None] * len(self._memories)
        self._pressures: list[float | None] = [None] * len(self._memories)
        self._capacity = max(2, capacity)
        self._lock = threading.Lock()
        self._points: list[_Point] = []
        self._width_s = _LEAST_WIDTH_S
        self.monitor_errors: dict[str, str] = {}
        """Devices whose memory could at some point not be read, and why."""

    def note_batch(
        self,
        at_s: float,
        rows: int,
        nbytes: float,
        latency_s: float,
        *,
        in_flight_rows: int,
        reserved_bytes: int,
    ) -> None:
        """Record a batch that was consumed ``at_s`` seconds after the start, and what was in flight just before."""
        with self._lock:
            point = self._point(at_s)
            if at_s > point.at_s:
                point.at_s = at_s
            point.batches += 1
            point.rows += rows
            point.nbytes += nbytes
            point.latency_s += latency_s
            if latency_s > point.longest_s:
                point.longest_s = latency_s
            if in_flight_rows > point.in_flight_rows:
                point.in_flight_rows = in_flight_rows
            if reserved_bytes > point.reserved_bytes:
                point.reserved_bytes = reserved_bytes

    def curves(
        self,
        *,
        memory_limit_bytes: int | None = None,
        latency_target_s: float | None = None,
        pressure_threshold: float | None = None,
    ) -> RunCurves:
        """Return what was recorded until now, with the bounds that hold for it."""
        with self._lock:
            points = list(self._points)
            return RunCurves(
                at_s=tuple(point.at_s for point in points),
                batches=tuple(point.batches for point in points),
                batch_rows=tuple(point.rows / point.batches for point in points),
                batch_bytes=tuple(point.nbytes / point.batches for point in points),
                rows_per_s=_rates(points),
                latency_s=tuple(point.latency_s / point.batches for point in points),
                longest_latency_s=tuple(point.longest_s for point in points),
                in_flight_rows=tuple(point.in_flight_rows for point in points),
                reserved_bytes=tuple(point.reserved_bytes for point in points),
                memory_pressure={
                    watched.device: tuple(point.pressures[number] for point in points)
                    for number, watched in enumerate(self._memories)
                },
                memory_limit_bytes=memory_limit_bytes,
                latency_target_s=latency_target_s,
                pressure_threshold=pressure_threshold,
            )

    def _point(self, at_s: float) -> _Point:
        points = self._points
        place = int(at_s / self._width_s)
        if points and place <= points[-1].place:  # below it: a thread that comes late
            return points[-1]
        if len(points) >= self._capacity:
            self._thin()
            return self._point(at_s)
        for number, watched in enumerate(self._memories):
            if watched.last is not self._readings[number]:  # which is seldom: monitors are read now and then
                self._look_at(number)
        point = _Point(place, self._pressures)
        points.append(point)
        return point

    def _look_at(self, number: int) -> None:
        watched = self._memories[number]
        reading = self._readings[number] = watched.last
        self._pressures = [*self._pressures[:number], reading.pressure, *self._pressures[number + 1 :]]
        if reading.error is not None:
            self.monitor_errors[watched.device] = reading.error

    def _thin(self) -> None:
        while len(self._points) > self._capacity * _KEPT_SHARE:
            self._width_s *= 2.0
            kept: list[_Point] = []
            for point in self._points:
                point.place //= 2
                if kept and kept[-1].place == point.place:
                    kept[-1].add(point)
                else:
                    kept.append(point)
            self._points = kept


class _Point:
    """The batches that were consumed within one stretch of time."""

    __slots__ = (
        "at_s",
        "batches",
        "in_flight_rows",
        "latency_s",
        "longest_s",
        "nbytes",
        "place",
        "pressures",
        "reserved_bytes",
        "rows",
    )

    def __init__(self, place: int, pressures: list[float | None]) -> None:
        self.place = place
        self.pressures = pressures
        self.at_s = 0.0
        self.batches = 0
        self.rows = 0
        self.nbytes = 0.0
        self.latency_s = 0.0
        self.longest_s = 0.0
        self.in_flight_rows = 0
        self.reserved_bytes = 0

    def add(self, later: _Point) -> None:
        """Take over the batches of the next point."""
        self.at_s = later.at_s
        self.batches += later.batches
        self.rows += later.rows
        self.nbytes += later.nbytes
        self.latency_s += later.latency_s
        self.longest_s = max(self.longest_s, later.longest_s)
        self.in_flight_rows = max(self.in_flight_rows, later.in_flight_rows)
        self.reserved_bytes = max(self.reserved_bytes, later.reserved_bytes)
        self.pressures = [
            early if late is None else late if early is None else max(early, late)
            for early, late in zip(self.pressures, later.pressures, strict=True)
        ]


def _rates(points: Sequence[_Point]) -> tuple[float, ...]:
    """Return the records per second of each point, over as many points before it as make that a rate."""
    if not points:
        return ()
    long_enough_s = _RATE_SHARE * points[-1].at_s
    ends_s = [0.0, *(point.at_s for point in points)]  # a point goes from the end of the one before it
    rates = []
    first, rows, batches = 0, 0, 0  # of the points from `first` to this one
    for number, point in enumerate(points):
        rows += point.rows
        batches += point.batches
        while first < number and (
            batches - points[first].batches >= _RATE_BATCHES
            or point.at_s - ends_s[first + 1] >= long_enough_s
        ):
            rows -= points[first].rows
            batches -= points[first].batches
            first += 1
        rates.append(rows / max(point.at_s - ends_s[first], _LEAST_WIDTH_S))
    return tuple(rates)
