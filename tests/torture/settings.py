"""The options of a scenario's run: limits, batch sizes, credits, workers, devices, progress callbacks."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

from torture.world import InjectedError, World

from dataflare.control import AdaptiveBatchingConfig, CreditConfig, CreditMode
from dataflare.observe.progress import ProgressEvent

DROUGHT_RATE = 1e-12
"""Credits a second with which a run comes to a stand for good."""
LIMITS_BYTES = (1, 300, 3_000, 10_000, 30_000, 100_000, 1_000_000, 50_000_000)
Watching = Literal["nobody", "counts", "fails first", "fails last"]


@dataclass(frozen=True)
class Settings:
    """The options of a run."""

    workers: int | None
    memory_limit: int | None
    batching: AdaptiveBatchingConfig | None
    credits: CreditConfig | None
    ordered: bool
    device: str
    watching: Watching

    @property
    def in_drought(self) -> bool:
        """Whether credits may never come."""
        return self.credits is not None and self.credits.refill_rate == DROUGHT_RATE

    def options(self, world: World, events: list[ProgressEvent]) -> dict[str, Any]:
        """Return the keyword arguments of the call that runs."""
        options: dict[str, Any] = {
            "workers": self.workers,
            "memory_limit": self.memory_limit,
            "batching": self.batching,
            "backpressure": self.credits,
            "ordered": self.ordered,
            "device": self.device,
        }
        if self.watching != "nobody":
            options["progress"] = lambda event: self._watch(event, world, events)
        return options

    def _watch(self, event: ProgressEvent, world: World, events: list[ProgressEvent]) -> None:
        events.append(event)
        ended = event.status in ("completed", "failed", "stopped")
        if (self.watching == "fails first" and len(events) == 1) or (self.watching == "fails last" and ended):
            world.fail(InjectedError("on purpose: the progress callback"))


def random_settings(dice: random.Random, *, drought: bool) -> Settings:
    return Settings(
        workers=dice.choice((None, 1, 2, 3, 4)),
        memory_limit=dice.choice(LIMITS_BYTES) if dice.random() < 0.45 else None,
        batching=_random_batching(dice) if dice.random() < 0.6 else None,
        credits=_random_credits(dice, drought=drought) if drought or dice.random() < 0.4 else None,
        ordered=dice.random() < 0.75,
        device=dice.choices(("cpu", "auto", "python", "cuda:emulated"), (70, 10, 12, 8))[0],
        watching=dice.choices(("nobody", "counts", "fails first", "fails last"), (70, 20, 4, 6))[0],
    )


def _random_batching(dice: random.Random) -> AdaptiveBatchingConfig:
    initial = dice.choice((1, 7, 50, 333))
    return AdaptiveBatchingConfig(
        initial_size=initial,
        min_size=dice.choice((1, initial)),
        max_size=dice.choice((initial, 500, 100_000)),
        strategy=dice.choice(("knee", "proportional", "aimd", "fixed")),
        latency_target_ms=dice.choice((0.01, 1.0, 50.0)),
        evaluation_interval=dice.choice((0.0, 0.01)),
        stability_threshold=dice.choice((1, 10)),
    )


def _random_credits(dice: random.Random, *, drought: bool) -> CreditConfig:
    mode = CreditMode.FIXED if drought else dice.choice(list(CreditMode))
    least = dice.choice((1, 1, 20))
    most = dice.choice((least, 100, 10_000))
    return CreditConfig(
        mode=mode,
        min_credits=least,
        max_credits=max(least, most),
        initial_credits=dice.choice((least, max(least, most))),
        refill_rate=DROUGHT_RATE if drought else dice.choice((2e4, 1e6)),
        refill_interval=dice.choice((0.0, 0.001, 0.01)),
        memory_threshold=dice.choice((0.01, 0.7, 1.0)),
    )
