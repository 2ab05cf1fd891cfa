"""The rules that are compared: DataFlare's strategies, and those of other systems as they publish them.

The latter are plugged in as a user's own strategy would be. Their constants are the published defaults; steps are in
rows, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from dataflare.control import AdaptiveBatchingConfig
from dataflare.control.strategies import FoundSize, SteadyBatch

__all__ = ["RULES", "Rule"]


class _Searching:
    """What the rules here share: a size, and a search that never ends."""

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self.config = config
        self.size = config.initial_size

    @property
    def found(self) -> FoundSize:
        """The size."""
        return FoundSize(self.size, converged=False)


class ClipperAimd(_Searching):
    """Clipper: a fixed step of rows until the latency target is exceeded, then a tenth less."""

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None, *, step: int) -> None:
        super().__init__(config, start)
        self._step = step

    def observe(self, batch: SteadyBatch) -> None:
        """Step up or down."""
        if batch.duration_s > self.config.latency_target_s:
            self.size = self.config.clamp(int(self.size * 0.9))
        else:
            self.size = self.config.clamp(self.size + self._step)


class FlinkDebloating(_Searching):
    """Flink's buffer debloating: an exponential mean of what fits the target, announced when it moved by a quarter."""

    _ALPHA = 2 / (20 + 1)

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        super().__init__(config, start)
        self._mean = float(self.size)

    def observe(self, batch: SteadyBatch) -> None:
        """Move the mean, and the size where that is far off."""
        desired = batch.rows / batch.duration_s * self.config.latency_target_s
        self._mean += self._ALPHA * (min(desired, 2.0 * self._mean) - self._mean)
        if abs(self._mean - self.size) >= 0.25 * self.size:
            self.size = self.config.clamp(round(self._mean))


class SparkPid(_Searching):
    """Spark's PIDRateEstimator with its defaults (1, 0.2, 0), the interval being the latency target."""

    def observe(self, batch: SteadyBatch) -> None:
        """Take over the last rate, less a fifth of the delay's share."""
        target_s = self.config.latency_target_s
        delay_s = max(0.0, batch.duration_s - target_s)
        share = max(0.1, 1.0 - 0.2 * delay_s / target_s)
        self.size = self.config.clamp(round(batch.rows / batch.duration_s * target_s * share))


class DaftSearch(_Searching):
    """Daft's latency-constrained search: the middle of an interval that latency moves."""

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None, *, step: int) -> None:
        super().__init__(config, start)
        self._step = step
        self._low, self._high = float(config.min_size), max(256.0, float(config.min_size))
        self.size = config.clamp(round((self._low + self._high) / 2))

    def observe(self, batch: SteadyBatch) -> None:
        """Move the interval; a tenth of the target is its tolerance."""
        size, target_s = float(self.size), self.config.latency_target_s
        if batch.duration_s > 1.1 * target_s:
            self._high = size / 2
            self._low = min(self._low, self._high)
        elif batch.duration_s < 0.9 * target_s:
            self._low = size
            self._high = max(self._high, size) + self._step
        else:
            self._low, self._high = size - self._step / 2, size + self._step / 2
        self.size = self.config.clamp(round((self._low + self._high) / 2))


@dataclass(frozen=True)
class Rule:
    """One rule, and the options that it gets beside those of the work."""

    name: str
    strategy: Any
    options: tuple[tuple[str, Any], ...] = ()

    def config(self, *, latency_target_s: float, most_rows: int) -> AdaptiveBatchingConfig:
        """Return the configuration for work with these bounds."""
        return AdaptiveBatchingConfig(
            initial_size=1024,
            max_size=most_rows,
            latency_target_ms=1000.0 * latency_target_s,
            strategy=self.strategy,
            **dict(self.options),
        )


RULES = (
    Rule("knee", "knee"),
    Rule("proportional (Rust), evaluated at once", "proportional", (("evaluation_interval", 0.0),)),
    Rule("AIMD +1,024 rows", partial(ClipperAimd, step=1024)),
    Rule("AIMD +32,768 rows", partial(ClipperAimd, step=32_768)),
    Rule("Flink's mean", FlinkDebloating),
    Rule("PID", SparkPid),
    Rule("Daft's search, step 2,048", partial(DaftSearch, step=2048)),
    Rule("Daft's search, step 65,536", partial(DaftSearch, step=65_536)),
)
