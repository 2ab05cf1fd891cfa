"""FixedStrategy: the size that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dataflare.control.strategies.base import FoundSize, SteadyBatch

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig

__all__ = ["FixedStrategy"]


class FixedStrategy:
    """Always ``initial_size``."""

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self.size = config.initial_size if start is None else config.clamp(start.rows)

    @property
    def found(self) -> FoundSize:
        """The size."""
        return FoundSize(self.size, converged=True, bound="strategy")

    def observe(self, batch: SteadyBatch) -> None:
        """Learn nothing."""
