"""FromLargestStrategy: what it begins with, unless a smaller size is clearly faster or batches take too long."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from dataflare.control import AdaptiveBatcher, AdaptiveBatchingConfig
from dataflare.control.strategies import FoundSize
from dataflare.control.strategies.from_largest import FromLargestStrategy

LARGEST = 1 << 21

Cost = Callable[[int], float]


class Loop:
    """Batches of the size that is wanted, on a clock of their own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        config = AdaptiveBatchingConfig(initial_size=LARGEST, max_size=LARGEST, strategy=FromLargestStrategy)
        start = FoundSize(LARGEST, converged=True)
        self.batcher = AdaptiveBatcher(config, lambda: self.now_s, start=start)

    def run(self, cost: Cost, batches: int, *, noise: float = 0.05, seed: int = 1) -> FoundSize:
        draw = random.Random(seed)
        for _ in range(batches):
            rows = self.batcher.batch_size
            duration_s = cost(rows) * draw.lognormvariate(0.0, noise)
            self.now_s += duration_s
            self.batcher.record_batch(rows, duration_s)
        return self.batcher.found


def linear(fixed_s: float, row_s: float) -> Cost:
    return lambda rows: fixed_s + row_s * rows


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_talk_it_into_a_smaller_size(seed: int) -> None:
    assert Loop().run(linear(3e-4, 1e-9), 300, noise=0.15, seed=seed).rows == LARGEST


def test_where_all_sizes_are_as_fast_it_stays() -> None:
    assert Loop().run(linear(1e-6, 1e-9), 300).rows == LARGEST


def test_it_learns_what_a_batch_costs_by_itself_and_what_bounds_it() -> None:
    found = Loop().run(linear(3e-4, 1e-9), 100)
    assert found[:3] == (LARGEST, True, "max_size")
    assert found.fixed_cost_s == pytest.approx(3e-4, rel=0.2)
    assert found.row_cost_s == pytest.approx(1e-9, rel=0.1)


def test_a_smaller_size_that_is_faster_is_taken() -> None:
    def falls_out_of_the_cache(rows: int) -> float:
        return 1e-4 + rows * (1e-9 if rows < 0.75 * LARGEST else 2e-9)

    found = Loop().run(falls_out_of_the_cache, 300, noise=0.02)
    assert found.converged
    assert found.bound == "knee"
    assert LARGEST / 2 <= found.rows < 0.75 * LARGEST


def test_batches_that_take_far_too_long_are_soon_as_short_as_they_should_be() -> None:
    found = Loop().run(linear(1e-3, 1e-6), 10)  # two seconds, where 50 ms are wanted
    assert 1e-3 + 1e-6 * found.rows <= 0.15
    found = Loop().run(linear(1e-3, 1e-6), 100)
    assert found.bound == "latency"
    assert 0.02 <= 1e-3 + 1e-6 * found.rows <= 0.05
