"""How a batch size is found: the strategies of the AdaptiveBatcher, each events in, a size out.

Covers "knee" (the default), "proportional" (the rule of the Rust system), "aimd" and "fixed". Does not cover
the memory bound, locking and metrics: ``batching`` adds those. No strategy reads a clock; the batcher hands
in the time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig

__all__ = [
    "STRATEGIES",
    "AimdStrategy",
    "FixedStrategy",
    "FoundSize",
    "KneeStrategy",
    "ProportionalStrategy",
    "SizeStrategy",
]


class FoundSize(NamedTuple):
    """Where a search for the batch size is."""

    rows: int
    converged: bool
    """Whether the size is held, and only probed from time to time."""


class SizeStrategy(Protocol):
    """Events in, a batch size out. Called under the batcher's lock."""

    size: int
    """The rows that the next batch should have."""

    @property
    def converged(self) -> bool:
        """Whether the search is over, but for probes."""

    def observe(self, rows: int, duration_s: float, now_s: float) -> None:
        """Learn from one steady batch: full (not the tail of a source) and without compilation in it."""


class FixedStrategy:
    """Always ``initial_size``."""

    converged = True

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self.size = config.initial_size if start is None else config.clamp(start.rows)

    def observe(self, rows: int, duration_s: float, now_s: float) -> None:
        """Learn nothing."""


class ProportionalStrategy:
    """The rule of the Rust system: size times the ratio to the targets, smoothed.

    Every ``evaluation_interval``, once ``stability_threshold`` batches were seen, the ratio
    ``min(latency target / latency, throughput target / throughput)`` (the second only when a throughput
    target is set) is capped at 1/2 and 2, and the size goes the fraction ``adaptation_rate`` of the way.
    """

    converged = False

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)
        self._since_s: float | None = None
        self._batches = 0
        self._rows = 0
        self._busy_s = 0.0

    def observe(self, rows: int, duration_s: float, now_s: float) -> None:
        """Count the batch, and evaluate when the interval is over."""
        config = self._config
        if self._since_s is None:
            self._since_s = now_s
        self._batches += 1
        self._rows += rows
        self._busy_s += duration_s
        due = (
            now_s - self._since_s >= config.evaluation_interval_s
            and self._batches >= config.stability_threshold
        )
        if not due or self._busy_s <= 0.0:
            return
        ratio = config.latency_target_s / (self._busy_s / self._batches)
        if config.throughput_target is not None and self._rows:
            ratio = min(ratio, config.throughput_target / (self._rows / self._busy_s))
        goal = self.size * min(max(ratio, 0.5), 2.0)
        self.size = config.clamp(round(self.size + config.adaptation_rate * (goal - self.size)))
        self._since_s, self._batches, self._rows, self._busy_s = now_s, 0, 0, 0.0


class AimdStrategy:
    """Below the latency target plus ``initial_size``, above it minus half of ``adaptation_rate``."""

    converged = False

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)

    def observe(self, rows: int, duration_s: float, now_s: float) -> None:
        """Step up or down; batches of another size than the current one say nothing about it."""
        config = self._config
        if duration_s > config.latency_target_s:
            self.size = config.clamp(math.floor(self.size * (1.0 - config.adaptation_rate / 2.0)))
        elif rows >= self.size:
            self.size = config.clamp(self.size + config.initial_size)


class KneeStrategy:
    """Find the smallest size that is about as fast as any: the knee of the rate curve.

    Slow start doubles the size while rows/s improve by 3 % or more and a doubled batch would stay inside the
    latency target; a stop is confirmed by a second batch. Then the smallest size within 5 % of the best rate
    is held, and its neighbours (a half octave up and down) are probed in turn, rarely: at most once in 25
    batches and once in ``evaluation_interval``. Two batches over the latency target in a row shrink the size
    to 0.7 at once.
    """

    GAIN = 1.03
    CLOSE = 0.95
    MISS_FACTOR = 0.7
    SAMPLES = 5
    PROBE_AFTER_BATCHES = 25
    PROBE_SAMPLES = 2
    FRESH_BATCHES = 400

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)
        self._growing = start is None or not start.converged
        self._held = self.size
        self._rates: dict[int, deque[float]] = {}
        self._seen: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._batches = 0
        self._misses = 0
        self._next_probe = self.PROBE_AFTER_BATCHES
        self._next_probe_s: float | None = None
        self._probe_up = True

    @property
    def converged(self) -> bool:
        """Whether slow start is over."""
        return not self._growing

    def observe(self, rows: int, duration_s: float, now_s: float) -> None:
        """Learn the rate of this size, and decide the next one."""
        if duration_s <= 0.0 or rows <= 0:
            return
        config = self._config
        self._batches += 1
        bucket = _half_octave(rows)
        samples = self._rates.get(bucket)
        if samples is None or self._batches - self._seen[bucket] > self.FRESH_BATCHES:
            samples = self._rates[bucket] = deque(maxlen=self.SAMPLES)
        samples.append(rows / duration_s)
        self._seen[bucket] = self._batches
        self._sizes[bucket] = rows
        if duration_s > config.latency_target_s:
            self._miss(rows)
            return
        self._misses = 0
        if bucket != _half_octave(self.size):
            return  # a batch that was under way when the size changed
        if self._growing:
            self._grow(samples, bucket, duration_s)
        elif self.size != self._held:
            if len(samples) >= self.PROBE_SAMPLES:
                self._hold_best()
                self._schedule(now_s)
        elif self._batches >= self._next_probe and (
            self._next_probe_s is None or now_s >= self._next_probe_s
        ):
            self._probe(duration_s)

    def _grow(self, samples: deque[float], bucket: int, duration_s: float) -> None:
        config = self._config
        smaller = [median(rates) for other, rates in self._rates.items() if other < bucket]
        improved = not smaller or median(samples) >= self.GAIN * max(smaller)
        bounded = 2.0 * duration_s > config.latency_target_s or self.size >= config.max_size
        if improved and not bounded:
            self.size = config.clamp(self.size * 2)
        elif bounded or len(samples) >= self.PROBE_SAMPLES:  # a stop for want of speed needs a second batch
            self._growing = False
            self._hold_best()
            self._next_probe = self._batches + self.PROBE_AFTER_BATCHES

    def _hold_best(self) -> None:
        fresh = {
            bucket: median(rates)
            for bucket, rates in self._rates.items()
            if self._batches - self._seen[bucket] <= self.FRESH_BATCHES
        }
        good_enough = self.CLOSE * max(fresh.values())
        knee = min(bucket for bucket, rate in fresh.items() if rate >= good_enough)
        if knee != _half_octave(self._held):
            self._held = self._config.clamp(self._sizes[knee])
        self.size = self._held

    def _schedule(self, now_s: float) -> None:
        self._next_probe = self._batches + self.PROBE_AFTER_BATCHES
        self._next_probe_s = now_s + self._config.evaluation_interval_s

    def _probe(self, duration_s: float) -> None:
        config = self._config
        up = config.clamp(math.ceil(self._held * math.sqrt(2.0)))
        down = config.clamp(math.floor(self._held / math.sqrt(2.0)))
        if duration_s * math.sqrt(2.0) > config.latency_target_s:
            up = self._held
        candidate = up if self._probe_up else down
        self._probe_up = not self._probe_up
        if _half_octave(candidate) == _half_octave(self._held):
            self._next_probe = self._batches + self.PROBE_AFTER_BATCHES
            return
        self._rates.pop(_half_octave(candidate), None)  # a probe is judged by what it measures now
        self.size = candidate

    def _miss(self, rows: int) -> None:
        self._misses += 1
        smaller = self._config.clamp(math.floor(rows * self.MISS_FACTOR))
        if self._misses < 2 or smaller >= self.size:  # one outlier, or a batch from before the last cut
            return
        self._misses = 0
        self._growing = False
        too_slow = _half_octave(rows)
        for bucket in [bucket for bucket in self._rates if bucket >= too_slow]:
            del self._rates[bucket]
        self.size = self._held = smaller
        self._next_probe = self._batches + self.PROBE_AFTER_BATCHES


def _half_octave(rows: int) -> int:
    return round(2.0 * math.log2(rows)) if rows > 0 else 0


STRATEGIES: dict[str, Callable[[AdaptiveBatchingConfig, FoundSize | None], SizeStrategy]] = {
    "aimd": AimdStrategy,
    "fixed": FixedStrategy,
    "knee": KneeStrategy,
    "proportional": ProportionalStrategy,
}
"""Strategies by name."""
