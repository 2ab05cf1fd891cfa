"""ProportionalStrategy: the rule of the Rust system, size times the ratio to the targets, smoothed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.control.strategies.base import FoundSize, SteadyBatch

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig

__all__ = ["ProportionalStrategy"]


class ProportionalStrategy:
    """Every ``evaluation_interval``, a fraction of the way to the size that would meet the targets.

    Once ``stability_threshold`` batches were seen, the ratio ``min(latency target / latency, throughput target /
    throughput)`` (the second only when a throughput target is set) is capped at 1/2 and 2, and the size goes the
    fraction ``adaptation_rate`` of the way.
    """

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)
        self._since_s: float | None = None
        self._batches = 0
        self._rows = 0
        self._busy_s = 0.0

    @property
    def found(self) -> FoundSize:
        """The size; this rule never ends."""
        return FoundSize(self.size, converged=False)

    def observe(self, batch: SteadyBatch) -> None:
        """Count the batch, and evaluate when the interval is over."""
        config = self._config
        if self._since_s is None:
            self._since_s = batch.at_s
        self._batches += 1
        self._rows += batch.rows
        self._busy_s += batch.duration_s
        due = (
            batch.at_s - self._since_s >= config.evaluation_interval_s
            and self._batches >= config.stability_threshold
        )
        if not due or self._busy_s <= 0.0:
            return
        ratio = config.latency_target_s / (self._busy_s / self._batches)
        if config.throughput_target is not None and self._rows:
            ratio = min(ratio, config.throughput_target / (self._rows / self._busy_s))
        goal = self.size * min(max(ratio, 0.5), 2.0)
        self.size = config.clamp(round(self.size + config.adaptation_rate * (goal - self.size)))
        self._since_s, self._batches, self._rows, self._busy_s = batch.at_s, 0, 0, 0.0
