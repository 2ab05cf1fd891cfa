"""FromLargestStrategy: the size to begin with, unless a smaller one is clearly faster or the latency target demands it.

Covers where a size is held. Probes, and the answer to changes and to batches that take too long, are those of
``knee``.
"""

from __future__ import annotations

import math

from dataflare.control.strategies.base import SizeBound
from dataflare.control.strategies.knee import KneeStrategy

__all__ = ["FromLargestStrategy"]


class FromLargestStrategy(KneeStrategy):
    """Hold the largest size that is about as fast as any: within 5 % of the best one measured, or half the noise.

    For data that is in memory already, where nobody waits for a batch, and none takes memory until it is consumed: a
    smaller size gains nothing there, and one that seems as fast by the noise of some batches would lose.
    """

    def _knee(self) -> tuple[int, SizeBound]:
        costs = self._costs
        _, least_s = self._fastest()
        about_s = least_s * math.exp(0.5 * costs.noise) / self.TOLERANCE
        largest = max(size for size in costs if costs.row_s(size) <= about_s)
        rows = costs.asked_rows(largest)
        line = costs.fit(largest)
        if self._stop == "latency" and line is not None:
            rows = self._most_rows(rows, line)
        bound: SizeBound = "knee" if largest < max(costs) else self._stop
        return self._config.clamp(rows), bound

    def _probe(self, size: int, at_s: float) -> None:
        if len(self._costs) == 1:
            # A far smaller size, which costs little time, tells what a batch costs by itself.
            self._begin_again(size)
        else:
            super()._probe(size, at_s)
