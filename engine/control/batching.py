"""AdaptiveBatcher: finds the batch size of one task by itself.

Covers the configuration, the bounds and thread safety. The strategies are in ``strategies``, the measurements
in ``metrics``, sizes kept between runs in ``remembered``.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from dataflare.control.checks import require_integer, require_number
from dataflare.control.clock import Clock, Duration, to_seconds
from dataflare.control.metrics import BatchingMetrics
from dataflare.control.strategies import STRATEGIES, FoundSize, MakeStrategy, SizeStrategy, SteadyBatch
from dataflare.kernels.errors import OptionError, nearest

__all__ = ["MOST_ROWS", "AdaptiveBatcher", "AdaptiveBatchingConfig"]

MOST_ROWS = 4_194_304
"""The default of `AdaptiveBatchingConfig.max_size`."""


@dataclass(frozen=True, slots=True)
class AdaptiveBatchingConfig:
    """How the batch size is found; every field has a default that needs no thought.

    Parameters
    ----------
    initial_size
        Rows of the first batches.
    min_size, max_size
        Bounds of the size, in rows.
    throughput_target
        Rows per second that are enough ("proportional" only); None for as many as possible.
    latency_target_ms
        Milliseconds that one batch may take.
    adaptation_rate
        Share of the way to a new size that "proportional" goes at once; twice the decrease of "aimd". In (0,
        1].
    evaluation_interval
        Seconds, or a timedelta, between two evaluations ("proportional") or two probes ("knee").
    stability_threshold
        Batches that an evaluation must rest on ("proportional"), or that count of each size ("knee").
    strategy
        "knee", "proportional" (the Rust rule), "aimd" or "fixed"; or a class of your own, see `SizeStrategy`, which
        is called with this configuration and what was found earlier, or None.

    Raises
    ------
    OptionError
        A field is out of range; the message names the field and the range.
    """

    initial_size: int = 1000
    min_size: int = 100
    max_size: int = MOST_ROWS
    throughput_target: float | None = None
    latency_target_ms: float = 50.0
    adaptation_rate: float = 0.2
    evaluation_interval: float | timedelta = 5.0
    stability_threshold: int = 10
    strategy: Literal["knee", "proportional", "aimd", "fixed"] | MakeStrategy = "knee"
    evaluation_interval_s: float = field(init=False, repr=False, compare=False)
    latency_target_s: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        owner = "AdaptiveBatchingConfig"
        require_integer(owner, "min_size", self.min_size, 1)
        require_integer(owner, "max_size", self.max_size, self.min_size)
        require_integer(owner, "initial_size", self.initial_size, self.min_size, self.max_size)
        if self.throughput_target is not None:
            require_number(owner, "throughput_target", self.throughput_target, 0.0, open_low=True)
        require_number(owner, "latency_target_ms", self.latency_target_ms, 0.0, open_low=True)
        require_number(owner, "adaptation_rate", self.adaptation_rate, 0.0, 1.0, open_low=True)
        require_integer(owner, "stability_threshold", self.stability_threshold, 1)
        if not callable(self.strategy) and self.strategy not in STRATEGIES:
            hint = nearest(str(self.strategy), STRATEGIES)
            known = ", ".join(repr(name) for name in sorted(STRATEGIES))
            raise OptionError(
                f"{owner}.strategy must be one of {known} or a class that follows SizeStrategy, got "
                f"{self.strategy!r}. {hint}".rstrip()
            )
        interval_s = to_seconds(self.evaluation_interval, f"{owner}.evaluation_interval")
        object.__setattr__(self, "evaluation_interval_s", interval_s)
        object.__setattr__(self, "latency_target_s", self.latency_target_ms / 1000.0)

    def make_strategy(self, start: FoundSize | None) -> SizeStrategy:
        """Return a new strategy of this configuration, that goes on from ``start``."""
        make = STRATEGIES[self.strategy] if isinstance(self.strategy, str) else self.strategy
        strategy = make(self, start)
        missing = [name for name in ("size", "found", "observe") if not hasattr(strategy, name)]
        if missing:
            raise OptionError(
                f"AdaptiveBatchingConfig.strategy made {strategy!r}, which has no {' and no '.join(missing)}: see "
                "dataflare.control.strategies.SizeStrategy."
            )
        return strategy

    def clamp(self, rows: int) -> int:
        """Return ``rows`` brought into [min_size, max_size]."""
        return min(max(rows, self.min_size), self.max_size)


class AdaptiveBatcher:
    """Tells how many rows the next batch should have, and learns from what batches took. Thread-safe.

    Parameters
    ----------
    config
        Bounds, targets and strategy.
    clock
        Monotonic clock in seconds.
    start
        What was `found` earlier for the same work; the search goes on from there.

    Examples
    --------
    >>> batcher = AdaptiveBatcher(AdaptiveBatchingConfig(initial_size=1000))
    >>> batcher.batch_size
    1000
    >>> batcher.record_batch(1000, 0.001)
    >>> batcher.batch_size
    2000
    """

    __slots__ = ("_bound_rows", "_clock", "_config", "_lock", "_metrics", "_size", "_start", "_strategy")

    def __init__(
        self,
        config: AdaptiveBatchingConfig | None = None,
        clock: Clock = time.monotonic,
        *,
        start: FoundSize | None = None,
    ) -> None:
        self._config = config if config is not None else AdaptiveBatchingConfig()
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics = BatchingMetrics(clock=clock)
        self._bound_rows: int | None = None
        self._start = start
        self._size = 0
        self._strategy = self._config.make_strategy(self._start)
        self._apply()

    @property
    def config(self) -> AdaptiveBatchingConfig:
        """The configuration it was made with."""
        return self._config

    @property
    def batch_size(self) -> int:
        """Rows that the next batch should have."""
        return self._size

    @property
    def metrics(self) -> BatchingMetrics:
        """Figures of all recorded batches, unsteady ones included."""
        return self._metrics

    def record_batch(
        self, rows: int, duration: Duration, *, steady: bool = True, asked_rows: int | None = None
    ) -> None:
        """Record a batch of ``rows`` records that took ``duration`` (seconds or timedelta).

        Parameters
        ----------
        steady
            False keeps the batch out of the search: it compiled something, or waited for records.
        asked_rows
            The rows that were asked for, where the source had fewer at hand; by default as many as there were.
        """
        duration_s = to_seconds(duration)
        self._metrics.record_batch(rows, duration_s)
        if not steady:
            return
        batch = SteadyBatch(rows, rows if asked_rows is None else asked_rows, duration_s, self._clock())
        with self._lock:
            self._strategy.observe(batch)
            self._apply()

    def bound(self, rows: int | None) -> None:
        """Set the most rows that memory allows now, even below ``min_size``; None lifts the bound."""
        if rows is not None:
            require_integer("AdaptiveBatcher", "bound", rows, 1)
        with self._lock:
            self._bound_rows = rows
            self._apply()

    @property
    def found(self) -> FoundSize:
        """Where the search is, what keeps it there, and what batches cost: the start of the next run's batcher."""
        with self._lock:
            found = self._strategy.found
            if self._bound_rows is not None and self._bound_rows < found.rows:
                found = found._replace(rows=self._bound_rows, bound="memory")
            return found

    def reset(self) -> None:
        """Forget what was learned and measured; the bound stays."""
        with self._lock:
            self._metrics.reset()
            self._strategy = self._config.make_strategy(self._start)
            self._apply()

    def _apply(self) -> None:
        size = self._config.clamp(round(self._strategy.size))
        self._size = size if self._bound_rows is None else min(size, self._bound_rows)
