"""AimdStrategy: additive increase, multiplicative decrease, as in congestion control."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dataflare.control.strategies.base import FoundSize, SteadyBatch

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig

__all__ = ["AimdStrategy"]


class AimdStrategy:
    """Below the latency target plus ``initial_size``, above it minus half of ``adaptation_rate``."""

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self._config = config
        self.size = config.initial_size if start is None else config.clamp(start.rows)

    @property
    def found(self) -> FoundSize:
        """The size; this rule never ends."""
        return FoundSize(self.size, converged=False)

    def observe(self, batch: SteadyBatch) -> None:
        """Step up or down; batches that were asked for at a smaller size say nothing about this one."""
        config = self._config
        if batch.duration_s > config.latency_target_s:
            self.size = config.clamp(math.floor(self.size * (1.0 - config.adaptation_rate / 2.0)))
        elif batch.asked_rows >= self.size:
            self.size = config.clamp(self.size + config.initial_size)
