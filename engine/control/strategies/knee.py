"""KneeStrategy: the smallest batch that is about as fast as any."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

from dataflare.control.costs import CostCurve, LinearCost, size_class
from dataflare.control.strategies.base import FoundSize, SizeBound, SteadyBatch

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig

__all__ = ["KneeStrategy"]


class _Phase(enum.Enum):
    CLIMB = enum.auto()  # larger and larger, until that is no longer faster
    CHECK = enum.auto()  # a smaller size that should be nearly as fast
    HOLD = enum.auto()
    PROBE = enum.auto()  # a neighbour of the size that is held


class KneeStrategy:
    CLOSE = 0.97
    GAIN = 1.03
    CLEAR = 1.15
    LATENCY_SHARE = 0.8
    MISS_FACTOR = 0.7
    DRIFT = 1.25
    SAMPLES = 3
    RECENT = 5
    PROBE_AFTER_BATCHES = 25

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)
        self._costs = CostCurve(max(self.RECENT, config.stability_threshold))
        self._phase = _Phase.CLIMB
        self._bound: SizeBound | None = None
        self._steps: list[int] = []  # classes of this climb, ascending
        self._held = self.size
        self._reference_row_s: float | None = None
        self._known: LinearCost | None = None
        self._misses = 0
        self._batches = 0
        self._next_probe = 0
        self._next_probe_s = -math.inf
        self._probe_up = True
        self._since = 0  # batches of the size that is tried now
        if start is not None and start.converged:
            self._phase = _Phase.HOLD
            self._bound = start.bound
            self._next_probe = self.PROBE_AFTER_BATCHES
            if start.expected_s is not None:
                self._known = LinearCost(start.fixed_cost_s, start.row_cost_s)
                self._reference_row_s = start.expected_s / start.rows

    @property
    def found(self) -> FoundSize:
        cost = self._costs.fit() or self._known
        held = self._phase in (_Phase.HOLD, _Phase.PROBE)
        rows = self._held if held else self.size
        fixed_s, row_s = cost if cost is not None else (None, None)
        return FoundSize(rows, held, self._bound if held else None, fixed_s, row_s)

    def observe(self, batch: SteadyBatch) -> None:
        if batch.rows <= 0 or batch.duration_s <= 0.0:
            return
        self._batches += 1
        size = size_class(batch.asked_rows)
        self._costs.add(size, batch.rows, batch.duration_s)
        if batch.duration_s > self._config.latency_target_s:
            self._misses += 1
            if self._misses >= 2 and self._cut(batch.asked_rows):
                return
        else:
            self._misses = 0
        if batch.asked_rows != self.size:
            return  # asked for before the size changed
        self._since += 1
        if self._phase is _Phase.CLIMB:
            self._climb(size)
        elif self._phase is _Phase.CHECK:
            self._check(size)
        elif self._phase is _Phase.PROBE:
            self._judge(size, batch.at_s)
        else:
            self._watch(size, batch.at_s)

    def _try(self, phase: _Phase, rows: int) -> None:
        self._phase = phase
        self.size = rows
        self._since = 0

    def _climb(self, size: int) -> None:
        costs = self._costs
        row_s = costs.row_s(size, self._since)
        factor = 2.0
        below = [step for step in self._steps if step < size]
        if below:
            best = costs.best(below)
            gain = costs.row_s(best) / row_s
            if gain < self.CLEAR and self._since < self.SAMPLES:
                return
            if gain < self.GAIN:
                self._bound = "knee"
                self._settle()
                return
            last = below[-1]
            # Four times as many rows where a batch takes hardly longer for more rows.
            ratio = costs.rows(size) / costs.rows(last)
            if (
                ratio > 1.2
                and (row_s * costs.rows(size)) / (costs.row_s(last) * costs.rows(last)) < 0.6 * ratio
            ):
                factor = 4.0
        self._steps.append(size)
        room = self.LATENCY_SHARE * self._config.latency_target_s / (row_s * self.size)
        wanted = self._config.clamp(math.floor(self.size * min(factor, room)))
        if size_class(wanted) <= size:
            self._bound = "max_size" if wanted >= self._config.max_size else "latency"
            self._settle()
        else:
            self._try(_Phase.CLIMB, wanted)

    def _settle(self) -> None:
        """Go to the knee: where the line through what was measured says that the rate is nearly the best."""
        costs = self._costs
        best = costs.best(self._steps)
        cost = costs.fit(best)
        best_rows = self._rows_of(best)
        if cost is None:
            self._hold(best_rows)
            return
        least = self._rows_of(min(self._steps)) / 2.0
        knee = cost.rows_for_share(self.CLOSE, best_rows)
        rows = self._config.clamp(round(min(max(knee, least), best_rows)))
        if size_class(rows) >= best:
            self._hold(best_rows)
        elif size_class(rows) in self._steps and costs.count(size_class(rows)) >= self.SAMPLES:
            self._hold(rows)
        else:
            self._best = best
            self._try(_Phase.CHECK, rows)

    def _rows_of(self, size: int) -> int:
        return self._config.clamp(round(2.0 ** (size / 2.0)))

    def _check(self, size: int) -> None:
        if self._since < self.SAMPLES:
            return
        costs = self._costs
        if costs.row_s(self._best) >= (self.CLOSE - 0.02) * costs.row_s(size, self._since):
            if size < min(self._steps):
                self._steps.insert(0, size)
                self._settle()
            else:
                self._hold(self.size)
            return
        larger = self._config.clamp(math.ceil(self.size * math.sqrt(2.0)))
        if size_class(larger) >= self._best:
            self._hold(self._rows_of(self._best))
        else:
            self._try(_Phase.CHECK, larger)

    def _hold(self, rows: int) -> None:
        self._held = rows
        self._reference_row_s = None
        self._next_probe = self._batches + self.PROBE_AFTER_BATCHES
        self._try(_Phase.HOLD, rows)
        self._costs.keep([*self._steps, size_class(rows)])

    def _watch(self, size: int, now_s: float) -> None:
        if self._since < self.RECENT:
            return
        costs = self._costs
        row_s = costs.row_s(size, self.RECENT)
        if self._reference_row_s is None:
            self._reference_row_s = row_s
        spread = costs.spread(size)
        change = abs(math.log(row_s / self._reference_row_s))
        if change > max(math.log(self.DRIFT), 3.0 * spread):
            self._search_again(size)
        elif self._batches >= self._next_probe and now_s >= self._next_probe_s:
            self._probe(size, row_s)

    def _search_again(self, size: int) -> None:
        self._costs.keep([size])
        self._steps = []
        self._since = self.RECENT
        self._phase = _Phase.CLIMB
        self._climb(size)

    def _probe(self, size: int, row_s: float) -> None:
        config = self._config
        self._costs.scale(row_s / self._reference_row_s, but=size)
        self._reference_row_s = row_s
        up, self._probe_up = self._probe_up, not self._probe_up
        rows = config.clamp(round(self._held * (math.sqrt(2.0) if up else math.sqrt(0.5))))
        if rows * row_s > self.LATENCY_SHARE * config.latency_target_s or size_class(rows) == size:
            self._next_probe = self._batches + self.PROBE_AFTER_BATCHES
            return
        self._costs.forget(size_class(rows))
        self._try(_Phase.PROBE, rows)

    def _judge(self, size: int, now_s: float) -> None:
        if self._since < self.SAMPLES:
            return
        costs = self._costs
        held = size_class(self._held)
        gain = costs.row_s(held) / costs.row_s(size)
        self._next_probe_s = now_s + self._config.evaluation_interval_s
        if size > held and gain >= self.GAIN:
            self._steps = [step for step in [*self._steps, held] if step < size and step in costs]
            self._phase = _Phase.CLIMB
            self._climb(size)
        elif size < held and costs.row_s(costs.best()) >= self.CLOSE * costs.row_s(size):
            self._hold(self.size)
        else:
            reference = self._reference_row_s
            self._hold(self._held)
            self._reference_row_s = reference

    def _cut(self, asked_rows: int) -> bool:
        rows = self._config.clamp(math.floor(asked_rows * self.MISS_FACTOR))
        if rows >= self.size:
            return False
        self._misses = 0
        self._bound = "latency"
        self._steps = [step for step in self._steps if step < size_class(asked_rows)]
        self._hold(rows)
        return True
