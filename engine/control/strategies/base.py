"""What a strategy for the batch size is: the events it gets, and what it tells about its search.

Covers the protocol that built-in and users' strategies follow. No strategy reads a clock: each batch comes with
its time.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeAlias

from dataflare.control.costs import SizeCost

__all__ = ["FoundSize", "SizeBound", "SizeStrategy", "SteadyBatch"]

SizeBound: TypeAlias = Literal["knee", "latency", "memory", "max_size", "min_size", "source", "strategy"]
"""What keeps a size from being another one.

"knee": a larger batch is hardly faster. "latency": a larger one would take longer than the target. "memory": no
more fits. "max_size", "min_size": the configuration. "source": it has no larger batches. "strategy": a rule that
does not say why.
"""


class FoundSize(NamedTuple):
    """Where a search for the batch size is, and why there."""

    rows: int
    converged: bool
    """Whether the size is held, and only probed from time to time."""
    bound: SizeBound | None = None
    """What keeps it from being another size; None while that is not known."""
    fixed_cost_s: float | None = None
    """Seconds that a batch costs however few rows it has; None while that is not known."""
    row_cost_s: float | None = None
    """Seconds that a row costs on top; None while that is not known."""
    measured: tuple[SizeCost, ...] = ()
    """What batches took, by size: with it another run goes on where this one was."""


class SteadyBatch(NamedTuple):
    """A batch that says something about its size: nothing was compiled in it, and it did not wait for records."""

    rows: int
    asked_rows: int
    """What the source was asked for: it may have had fewer at hand."""
    duration_s: float
    at_s: float
    """When it was recorded, on the clock of the batcher."""


class SizeStrategy(Protocol):
    """Events in, a batch size out: what `AdaptiveBatchingConfig` takes as ``strategy``, by its class.

    A strategy is made for each run, with the configuration and what was found earlier for the same work, or None. It
    is called by one thread at a time; sizes beyond ``min_size`` and ``max_size`` are brought into them.

    Examples
    --------
    >>> import dataflare as flare
    >>> class AFifthOfTheTarget:
    ...     def __init__(self, config, start=None):
    ...         self.config = config
    ...         self.size = config.initial_size
    ...     def observe(self, batch):
    ...         self.size = 0.2 * self.config.latency_target_s * batch.rows / batch.duration_s
    ...     @property
    ...     def found(self):
    ...         return flare.FoundSize(round(self.size), converged=False)
    >>> batcher = flare.AdaptiveBatcher(flare.AdaptiveBatchingConfig(strategy=AFifthOfTheTarget))
    >>> batcher.record_batch(1000, 0.001)
    >>> batcher.batch_size
    10000
    """

    @property
    def size(self) -> float:
        """The rows that the next batch should have; rounded."""

    @property
    def found(self) -> FoundSize:
        """Where the search is."""

    def observe(self, batch: SteadyBatch) -> None:
        """Learn from one batch."""
