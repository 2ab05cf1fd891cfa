"""Cost curves for the simulation: what a batch of some rows takes, and how that is spread and changes.

The figures are made up after what such work costs; `programs` measures real work. All are stationary but those whose
name says what changes, at `CHANGE_AFTER` batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CHANGE_AFTER", "CURVES", "SimulatedWork"]

CHANGE_AFTER = 300


@dataclass(frozen=True, kw_only=True)
class SimulatedWork:
    """Work whose batches take a known time, but for noise."""

    name: str
    cost_s: Callable[[int], float]
    """Expected seconds of a batch by its rows."""
    cost_after_s: Callable[[int], float] | None = None
    """The same after `CHANGE_AFTER` batches; None where nothing changes."""
    latency_target_s: float
    most_rows: int
    noise: float = 0.08
    """Standard deviation of the logarithm of what a batch takes."""
    outliers: float = 0.02
    """Share of batches that take three times as long."""

    def expected_s(self, rows: int, number: int) -> float:
        """Return the expected seconds of batch ``number``."""
        after = self.cost_after_s
        return self.cost_s(rows) if after is None or number < CHANGE_AFTER else after(rows)

    def best_rate(self, number: int) -> float:
        """Return the rows a second of the best size whose batches meet the latency target."""
        sizes = [round(100 * 1.05**step) for step in range(230)]
        times = [(rows, self.expected_s(rows, number)) for rows in sizes if rows <= self.most_rows]
        return max(rows / time_s for rows, time_s in times if time_s <= self.latency_target_s)


def _gpu(rows: int) -> float:
    return 0.3e-3 + 1.2e-9 * max(rows, 65_536)


def _cached(rows: int, fixed_s: float = 25e-6, cliff: int = 131_072) -> float:
    return fixed_s + 3e-9 * rows + 1.8e-9 * max(0, rows - cliff)


def _model(rows: int) -> float:
    return 4e-3 + 20e-6 * rows


def _linear(rows: int) -> float:
    return 2e-6 + 50e-9 * rows


def _stairs(rows: int) -> float:
    """Return the cost of a kernel that works in whole blocks of 8,192 rows."""
    return 60e-6 + 30e-6 * -(-rows // 8192)


CURVES = (
    SimulatedWork(name="gpu", cost_s=_gpu, latency_target_s=10e-3, most_rows=6_000_000),
    SimulatedWork(name="cpu, cache cliff", cost_s=_cached, latency_target_s=10e-3, most_rows=6_000_000),
    SimulatedWork(name="model", cost_s=_model, latency_target_s=100e-3, most_rows=200_000),
    SimulatedWork(name="linear", cost_s=_linear, latency_target_s=50e-3, most_rows=4_194_304),
    SimulatedWork(name="stairs", cost_s=_stairs, latency_target_s=50e-3, most_rows=4_194_304),
    SimulatedWork(
        name="cpu, noisy",
        cost_s=_cached,
        latency_target_s=10e-3,
        most_rows=6_000_000,
        noise=0.25,
        outliers=0.05,
    ),
    SimulatedWork(
        name="cpu, cliff moves in",
        cost_s=_cached,
        cost_after_s=lambda rows: _cached(rows, cliff=16_384),
        latency_target_s=10e-3,
        most_rows=6_000_000,
    ),
    SimulatedWork(
        name="cpu, fixed cost ×10",
        cost_s=_cached,
        cost_after_s=lambda rows: _cached(rows, fixed_s=250e-6, cliff=1 << 21),
        latency_target_s=10e-3,
        most_rows=6_000_000,
    ),
    SimulatedWork(
        name="model, rows ×4",
        cost_s=_model,
        cost_after_s=lambda rows: 4e-3 + 80e-6 * rows,
        latency_target_s=100e-3,
        most_rows=200_000,
    ),
    SimulatedWork(
        name="gpu, rows ×1.4",
        cost_s=_gpu,
        cost_after_s=lambda rows: 0.3e-3 + 1.7e-9 * max(rows, 65_536),
        latency_target_s=15e-3,
        most_rows=6_000_000,
    ),
)
