"""KneeStrategy: the smallest batch that is about as fast as any.

Covers the search and what makes it begin again. What batches took is kept in ``control.costs``, with the line that
tells fixed costs from those of a row.
"""

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
    ANCHOR = enum.auto()  # a far smaller size, which costs little time and tells the fixed cost
    CLIMB = enum.auto()  # larger and larger, as long as that is faster
    CHECK = enum.auto()  # the size that should be the knee
    HOLD = enum.auto()
    PROBE = enum.auto()  # a neighbour of the size that is held


class KneeStrategy:
    """Find the smallest size that is about as fast as any: the knee of the rate curve.

    1. *Climb.* Double the size (or quadruple it, where rows cost next to nothing yet) while rows/s improve by 3 % and
       the next batch would take at most 80 % of the latency target. A step that is not clear is measured three times,
       or as often as noise asks for, and the climb ends with the second step in a row that brings nothing.
    2. *Settle.* The line ``seconds = fixed + row * rows`` through the medians of all sizes up to the fastest one tells
       the smallest size within 2 % of the best rate. It is checked by five batches; sizes that turn out slower than
       the line says are not taken.
    3. *Hold.* Every 25 batches some batches of a neighbour (half an octave up and down, in turn) refresh what is known;
       after the first four times at most once in ``evaluation_interval``. The size moves when the knee is off by a
       quarter; it is searched for upwards when the larger neighbour is clearly faster.

    A cost a row that differs by more than a quarter in five batches in a row is another work or another machine:
    then the search begins anew from the size that is held, after two batches of a sixteenth of it that tell the
    fixed cost. Three batches over the latency target in a row shrink the size to 0.7 at once (two may be those of two
    tasks that one interruption hit), and three more to what meets the target by the seconds that this saved; unless
    batches that were shrunk take as long: then it is not the rows that take long, but a sink that stalls or a cost of
    each call.

    Of each size the latest ``stability_threshold`` batches count, and five at least.
    """

    LEAST_S = 1e-9
    CLOSE = 0.98
    GAIN = 1.03
    CLEAR_GAIN = 1.15
    CLEAR_LOSS = 0.9
    TOLERANCE = 0.95
    FREE_ROWS = 0.6
    LATENCY_SHARE = 0.8
    MISSES = 3
    MISS_FACTOR = 0.7
    LEAST_MISS_FACTOR = 1.0 / 16.0
    IN_VAIN = 0.9
    BELIEVED_BATCHES = 50
    DEAD_BAND = 1.25
    DRIFT = 1.25
    SAMPLES = 3
    MOST_SAMPLES = 8
    CHECKS = 5
    MOST_CHECKS = 4
    ANCHOR_SHARE = 16
    ANCHOR_SAMPLES = 2
    PROBE_AFTER_BATCHES = 25
    EARLY_PROBES = 4

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)
        measured = () if start is None else start.measured
        self._costs = CostCurve(max(self.CHECKS, config.stability_threshold), measured)
        self._phase = _Phase.CLIMB
        self._tried = 0  # batches of the size that is tried now
        below = size_class(self.size)
        self._steps = [size for size in self._costs if size < below]  # of the climb, ascending
        self._stop: SizeBound = "knee"
        self._checked = 0
        self._held = self.size
        self._bound: SizeBound | None = None
        self._row_s: float | None = None  # of the size that is held
        self._off = 0  # batches in a row that were clearly dearer, or negative: cheaper
        self._misses = 0
        self._cut_from: tuple[SteadyBatch, SizeBound] | None = None
        self._no_cut_before = 0
        self._batches = 0
        self._next_probe = 0
        self._next_probe_s = -math.inf
        self._probe_up = True
        self._probes = 0
        if start is not None and start.converged:
            self._hold(self.size, start.bound)
            if size_class(self.size) in self._costs:
                self._row_s = self._costs.row_s(size_class(self.size))
                self._probes = self.EARLY_PROBES  # an earlier run has made them

    @property
    def found(self) -> FoundSize:
        """The size that is held, with what it costs; while the search goes on, the one that is tried."""
        line = self._costs.fit(self._fastest()[0]) if len(self._costs) else None
        fixed_s, row_s = (None, None) if line is None else line
        held = self._phase in (_Phase.HOLD, _Phase.PROBE)
        rows = self._held if held or self._phase is _Phase.ANCHOR else self.size
        bound = self._bound if held else None
        return FoundSize(rows, held, bound, fixed_s, row_s, self._costs.measured)

    def observe(self, batch: SteadyBatch) -> None:
        """Learn what this size costs, and decide the next one."""
        if batch.rows <= 0 or batch.duration_s < self.LEAST_S:
            return  # no clock measures that
        self._batches += 1
        size = self._costs.add(batch.asked_rows, batch.rows, batch.duration_s)
        if batch.duration_s > self._config.latency_target_s:
            self._misses += 1
            if self._misses >= self.MISSES and self._cut(batch, size):
                return
        else:
            self._misses = 0
            self._cut_from = None
            self._no_cut_before = 0
        if size != size_class(self.size):
            return  # asked for before the size changed, or with less memory than it takes
        self._tried += 1
        if self._phase is _Phase.HOLD:
            self._watch(size, batch)
        elif self._phase is _Phase.CLIMB:
            self._climb(size)
        elif self._phase is _Phase.CHECK:
            self._check(size)
        elif self._phase is _Phase.PROBE:
            self._judge(size, batch.at_s)
        elif self._tried >= self.ANCHOR_SAMPLES:
            self._try(_Phase.CLIMB, self._held)

    @property
    def _enough(self) -> int:
        """How many batches of a size it takes to see 3 %, in this noise."""
        return min(max(self.SAMPLES, math.ceil((self._costs.noise / 0.05) ** 2)), self.MOST_SAMPLES)

    def _try(self, phase: _Phase, rows: int) -> None:
        self._phase = phase
        self.size = rows
        self._tried = 0

    def _climb(self, size: int) -> None:
        costs = self._costs
        row_s = costs.row_s(size, self._tried)
        factor = 2.0
        below = [step for step in self._steps if step < size]
        if below:
            last = below[-1]
            gain = costs.least_row_s(below) / row_s
            clear = max(self.CLEAR_GAIN, math.exp(2.0 * costs.noise))
            if gain < clear and self._tried < self._enough:
                return
            growth = costs.rows(size) / costs.rows(last)
            if growth < self.GAIN:
                self._end_climb(size, "source")
                return
            last_gain = costs.least_row_s(below[:-1]) / costs.row_s(last) if len(below) > 1 else math.inf
            if max(gain, last_gain) < self.GAIN or gain < self.CLEAR_LOSS:
                self._end_climb(size, "knee")
                return
            if row_s * growth < self.FREE_ROWS * growth * costs.row_s(last):
                factor = 4.0
        config = self._config
        room = self.LATENCY_SHARE * config.latency_target_s / (row_s * self.size)
        wanted = config.clamp(math.floor(self.size * min(factor, room)))
        if size_class(wanted) <= size:
            if self._tried < self._enough and room < factor:
                return
            self._end_climb(size, "max_size" if wanted >= config.max_size else "latency")
        else:
            self._steps.append(size)
            self._try(_Phase.CLIMB, wanted)

    def _end_climb(self, size: int, stop: SizeBound) -> None:
        self._steps.append(size)
        self._stop = stop
        self._checked = 0
        self._settle()

    def _settle(self) -> None:
        rows, bound = self._knee()
        known = self._costs.count(size_class(rows)) >= self.CHECKS
        if known or self._checked >= self.MOST_CHECKS:
            self._hold(rows, bound)
        else:
            self._checked += 1
            self._try(_Phase.CHECK, rows)

    def _check(self, size: int) -> None:
        if self._tried < self.CHECKS:
            return
        if self._changed(size):
            self._begin_again(size)
        else:
            self._settle()

    def _changed(self, size: int) -> bool:
        """Tell whether a size costs something else than the last time that it was tried."""
        return self._costs.shift(size, self._tried) > max(self.DRIFT, math.exp(3.0 * self._costs.noise))

    def _knee(self) -> tuple[int, SizeBound]:
        """Return the smallest size within 2 % of the best, by all that is known, and what keeps it there."""
        costs = self._costs
        best, least_s = self._fastest()
        rows = most_rows = costs.asked_rows(best)
        line = costs.fit(best)
        if line is not None:
            expected_s = line.seconds_a_row(costs.rows(best))
            if self.TOLERANCE <= least_s / expected_s <= 1.0 / self.TOLERANCE:
                least_s = expected_s  # the line knows more than the batches of one size
            if self._stop == "latency":
                most_rows = self._most_rows(most_rows, line)
            rows = math.ceil(min(line.rows_at(least_s / self.CLOSE), most_rows))
        rows = self._config.clamp(round(min(max(rows, self._lowest(best, least_s)), most_rows)))
        if size_class(rows) < size_class(costs.rows(best)):
            return rows, "min_size" if rows == self._config.min_size else "knee"
        return self._config.clamp(most_rows), self._stop

    def _fastest(self) -> tuple[int, float]:
        """Return the largest class that is about as fast as any, and the seconds a row of the fastest one."""
        costs = self._costs
        line = costs.fit()
        row_s = {size: costs.row_s(size) for size in costs}
        if line is not None:
            for size in row_s:
                if costs.count(size) < self.SAMPLES:  # one lucky batch is no reason
                    row_s[size] = max(row_s[size], line.seconds_a_row(costs.rows(size)))
        least_s = min(row_s.values())
        rows = max(costs.rows(size) for size in row_s if row_s[size] <= least_s / self.TOLERANCE)
        # Where the source had as many rows for several sizes, the smallest will do.
        return next(size for size in row_s if self.GAIN * costs.rows(size) >= rows), least_s

    def _lowest(self, best: int, least_s: float) -> float:
        """Return the rows below which the line is not trusted; what it says above is checked before it is held."""
        costs = self._costs
        sizes = list(costs)
        sure = next((size for size in sizes if costs.count(size) >= self.SAMPLES), sizes[0])
        lowest = max(costs.asked_rows(sizes[0]) / math.sqrt(2.0), costs.asked_rows(sure) / 4.0)
        too_slow_s = least_s * math.exp(0.5 * costs.noise) / (self.CLOSE * self.TOLERANCE)
        for size in sizes:
            if size < best and costs.count(size) >= self.CHECKS and costs.row_s(size) > too_slow_s:
                lowest = max(lowest, costs.asked_rows(size) * 2.0)
        return lowest

    def _most_rows(self, rows: int, line: LinearCost) -> int:
        """Return what the latency target allows, near a size that it has bounded."""
        most_s = self.LATENCY_SHARE * self._config.latency_target_s
        if line.row_s <= 0.0:
            return rows
        room = (most_s - line.fixed_s) / (line.row_s * rows)
        return math.floor(rows * min(max(room, math.sqrt(0.5)), math.sqrt(2.0)))

    def _hold(self, rows: int, bound: SizeBound | None) -> None:
        self._held = rows
        self._bound = bound
        self._row_s = None
        self._off = 0
        self._next_probe = self._batches + self.PROBE_AFTER_BATCHES
        self._try(_Phase.HOLD, rows)

    def _watch(self, size: int, batch: SteadyBatch) -> None:
        """Notice when rows cost something else, and when it is time to look at a neighbour."""
        if self._row_s is None:
            if self._tried >= self.CHECKS:
                self._row_s = self._costs.row_s(size, self.CHECKS)
            return
        change = batch.duration_s / (batch.rows * self._row_s)
        if change > self.DRIFT:
            self._off = max(self._off, 0) + 1
        elif change < 1.0 / self.DRIFT:
            self._off = min(self._off, 0) - 1
        else:
            self._off = 0
        if abs(self._off) >= max(self.CHECKS, self._enough):
            self._begin_again(size)
        elif self._batches >= self._next_probe and batch.at_s >= self._next_probe_s:
            self._probe(size, batch.at_s)

    def _begin_again(self, size: int) -> None:
        self._costs.keep([size], latest=self.CHECKS)
        self._held = self.size
        self._look_soon()
        self._steps = []
        anchor = self._config.clamp(self.size // self.ANCHOR_SHARE)
        if size_class(anchor) < size:
            self._try(_Phase.ANCHOR, anchor)
        else:
            self._try(_Phase.CLIMB, self.size)

    def _look_soon(self) -> None:
        """Let the next probes come early again, the larger neighbour first."""
        self._probes = 0
        self._next_probe_s = -math.inf
        self._probe_up = True

    def _probe(self, size: int, at_s: float) -> None:
        config = self._config
        row_s = self._costs.row_s(size)
        assert self._row_s is not None
        self._costs.scale(row_s / self._row_s, but=size)
        self._row_s = row_s
        up, self._probe_up = self._probe_up, not self._probe_up
        root = math.sqrt(2.0)
        rows = config.clamp(math.ceil(self._held * root) if up else math.floor(self._held / root))
        if rows * row_s > self.LATENCY_SHARE * config.latency_target_s or size_class(rows) == size:
            self._note_probe(at_s)
            self._next_probe = self._batches + self.PROBE_AFTER_BATCHES
        else:
            self._try(_Phase.PROBE, rows)

    def _judge(self, size: int, at_s: float) -> None:
        costs = self._costs
        if self._tried < self._enough and not self._is_clearly_dearer(size):
            return
        if self._changed(size):
            self._begin_again(size)
            return
        self._note_probe(at_s)
        held, row_s = size_class(self._held), self._row_s
        clear = max(self.GAIN, math.exp(costs.noise))
        if size > held and costs.row_s(held) >= clear * costs.row_s(size):
            self._steps = [step for step in costs if step < size]
            costs.keep([*self._steps, size])  # what larger ones took was before this change
            self._phase = _Phase.CLIMB
            self._climb(size)
            return
        rows, _ = self._knee()
        if 1.0 / self.DEAD_BAND <= rows / self._held <= self.DEAD_BAND:
            self._hold(self._held, self._bound)
            self._row_s = row_s
        else:
            self._checked = 0
            self._settle()

    def _miss_factor(self, batch: SteadyBatch) -> float:
        """Return by how much to shrink: a little at first, and by what that brought from then on."""
        if self._cut_from is None:
            return self.MISS_FACTOR
        larger, _ = self._cut_from
        saved_rows, saved_s = larger.asked_rows - batch.asked_rows, larger.duration_s - batch.duration_s
        if saved_rows <= 0 or saved_s <= 0.0:
            return self.MISS_FACTOR
        too_long_s = batch.duration_s - self.LATENCY_SHARE * self._config.latency_target_s
        wanted = 1.0 - too_long_s / saved_s * saved_rows / batch.asked_rows
        return min(max(wanted, self.LEAST_MISS_FACTOR), self.MISS_FACTOR)

    def _note_probe(self, at_s: float) -> None:
        self._probes += 1
        if self._probes >= self.EARLY_PROBES:
            self._next_probe_s = at_s + self._config.evaluation_interval_s

    def _is_clearly_dearer(self, size: int) -> bool:
        """Tell whether few batches of a neighbour are enough to leave it alone."""
        if self._tried < self.SAMPLES:
            return False
        clear = max(self.CLEAR_GAIN, math.exp(2.0 * self._costs.noise))
        return self._costs.row_s(size, self._tried) > clear * self._costs.row_s(size_class(self._held))

    def _cut(self, batch: SteadyBatch, size: int) -> bool:
        """Shrink after batches that took too long, or take it back where that is no use; tell whether it did.

        It does nothing about batches that were asked for before the last time.
        """
        rows = self._config.clamp(math.floor(batch.asked_rows * self._miss_factor(batch)))
        if rows >= self.size or self._batches < self._no_cut_before:
            return False
        self._misses = 0
        if self._cut_from is not None:
            larger, bound = self._cut_from
            if batch.asked_rows < larger.asked_rows and batch.duration_s > self.IN_VAIN * larger.duration_s:
                self._cut_from = None
                self._no_cut_before = self._batches + self.BELIEVED_BATCHES
                self._hold(larger.asked_rows, bound)
                return True
        self._look_soon()
        self._cut_from = batch, self._bound or self._stop
        self._costs.keep([known for known in self._costs if known < size])
        self._stop = "latency"
        if len(self._costs):
            rows = min(rows, self._knee()[0])
        self._hold(rows, "latency")
        return True
