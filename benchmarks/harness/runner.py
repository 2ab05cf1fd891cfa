"""Time contenders against each other in one process, round-robin.

Covers: interleaving, waiting for quiet cores, cold and warm times apart, garbage collection under control,
sample statistics. Does not cover: what is timed (``benchmarks.contenders``), peak memory and cold processes
(``harness.processes``).

A ratio between two engines means something only when both ran in the same process within the same minutes:
on a shared machine the memory bandwidth drifts by a factor of two over an hour. So every round runs every
contender once, each round starts with another contender, and the bandwidth probes take part like any other
contender.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

__all__ = ["Contender", "Measurement", "QuietCores", "measure", "quantile"]

Role = Literal["dataflare", "peer", "hand-written", "probe"]

#: A contender whose run is shorter than this runs once untimed before each timed run, so that its allocator
#: and its sleeping threads are as warm as in a loop of its own. The same for everyone.
PRIMED_BELOW_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do the work.

    ``run`` does the whole work and returns its result, fresh: whatever a user would hold in the end.
    ``rows`` is how many records one run works on; a slow contender may take fewer than the others, and its
    rate is compared. ``route`` groups contenders of one kind, such as "compiled function" and "per record".
    ``moved_bytes`` is what must cross the memory bus at least (probes, and workloads with a known floor).
    """

    name: str
    run: Callable[[], Any]
    rows: int
    role: Role = "peer"
    route: str = ""
    note: str = ""
    moved_bytes: float | None = None
    to_arrow: Callable[[Any], Any] | None = None


@dataclass(kw_only=True)
class Measurement:
    """The samples of one contender. ``cold_s`` is the first run in this process, not among ``samples_s``."""

    contender: Contender
    cold_s: float = 0.0
    samples_s: list[float] = field(default_factory=list)
    busy_percent: list[float] = field(default_factory=list)

    @property
    def median_s(self) -> float:
        return statistics.median(self.samples_s)

    @property
    def min_s(self) -> float:
        return min(self.samples_s)

    @property
    def records_per_s(self) -> float:
        return self.contender.rows / self.median_s

    @property
    def bytes_per_s(self) -> float | None:
        moved = self.contender.moved_bytes
        return None if moved is None else moved / self.median_s

    def as_json(self) -> dict[str, Any]:
        c = self.contender
        return {
            "name": c.name,
            "role": c.role,
            "route": c.route,
            "note": c.note,
            "rows": c.rows,
            "cold_s": self.cold_s,
            "median_s": self.median_s,
            "min_s": self.min_s,
            "max_s": max(self.samples_s),
            "samples_s": self.samples_s,
            "records_per_s": self.records_per_s,
            "moved_bytes": c.moved_bytes,
            "bytes_per_s": self.bytes_per_s,
            "busy_percent_mean": statistics.fmean(self.busy_percent) if self.busy_percent else None,
        }


class QuietCores:
    """Wait until other processes leave the cores alone, but never longer than a budget for the whole run.

    Load averages lag by a minute, so this looks at the use of all cores over a short nap in which this
    process itself does nothing.
    """

    def __init__(
        self, *, budget_s: float = 60.0, threshold_percent: float = 10.0, nap_s: float = 0.05
    ) -> None:
        self.budget_s = budget_s
        self.threshold_percent = threshold_percent
        self.nap_s = nap_s
        self.waited_s = 0.0

    def wait(self) -> float:
        """Return the percentage of all cores that others used just before, after waiting for less of it."""
        while True:
            busy = psutil.cpu_percent(interval=self.nap_s)
            if busy <= self.threshold_percent or self.waited_s >= self.budget_s:
                return busy
            self.waited_s += self.nap_s


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def measure(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    quiet: QuietCores,
    seconds_each: float = 20.0,
    check: Callable[[Contender, Any], None] | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> list[Measurement]:
    """Run every contender once cold and checked, then ``rounds`` times interleaved.

    ``check`` gets the first result and raises when it is wrong: nothing is timed that was not right. A
    contender that would take more than ``seconds_each`` for all rounds sits some rounds out, but runs in at
    least three.
    """
    measurements = []
    for contender in contenders:
        progress(f"{contender.name}: first run")
        with _no_collection():
            cold_s, result = _timed(contender.run)
        if check is not None:
            check(contender, result)
        del result
        measurements.append(Measurement(contender=contender, cold_s=cold_s))
    turns = {id(m): _turns(m.cold_s, rounds, seconds_each) for m in measurements}
    for index in range(rounds):
        first = index % len(measurements)
        for m in measurements[first:] + measurements[:first]:
            if index not in turns[id(m)]:
                continue
            progress(f"round {index + 1} of {rounds}: {m.contender.name}")
            m.busy_percent.append(quiet.wait())
            with _no_collection():
                if (m.samples_s or [m.cold_s])[-1] < PRIMED_BELOW_S:
                    m.contender.run()
                elapsed_s, result = _timed(m.contender.run)
            del result  # freed outside the clock: what a user holds is not the engine's to free
            m.samples_s.append(elapsed_s)
    return measurements


def _turns(cold_s: float, rounds: int, seconds_each: float) -> frozenset[int]:
    affordable = max(min(3, rounds), int(seconds_each / max(cold_s, 1e-9)))
    if affordable >= rounds:
        return frozenset(range(rounds))
    return frozenset(round(i * (rounds - 1) / max(affordable - 1, 1)) for i in range(affordable))


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the ``q`` quantile by linear interpolation, ``q`` between 0 and 1."""
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
