"""How a batch size is found: the strategies of the AdaptiveBatcher, each events in, a size out.

Covers "knee" (the default), "proportional" (the rule of the Rust system), "aimd" and "fixed", and what a strategy
of a user's own follows. Does not cover the memory bound, locking and metrics: ``batching`` adds those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from dataflare.control.strategies.aimd import AimdStrategy
from dataflare.control.strategies.base import FoundSize, SizeBound, SizeStrategy, SteadyBatch
from dataflare.control.strategies.fixed import FixedStrategy
from dataflare.control.strategies.knee import KneeStrategy
from dataflare.control.strategies.proportional import ProportionalStrategy

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig

__all__ = ["STRATEGIES", "FoundSize", "MakeStrategy", "SizeBound", "SizeStrategy", "SteadyBatch"]

MakeStrategy: TypeAlias = "Callable[[AdaptiveBatchingConfig, FoundSize | None], SizeStrategy]"
"""A class of strategies, or anything that makes one from the configuration and what was found earlier."""

STRATEGIES: dict[str, MakeStrategy] = {
    "aimd": AimdStrategy,
    "fixed": FixedStrategy,
    "knee": KneeStrategy,
    "proportional": ProportionalStrategy,
}
"""Strategies by name."""
