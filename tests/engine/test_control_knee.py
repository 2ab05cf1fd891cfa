"""KneeStrategy: what it notices, what it is not misled by, and what it says about the size it holds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from dataflare.control import AdaptiveBatcher, AdaptiveBatchingConfig
from dataflare.control.costs import SizeCost
from dataflare.control.strategies import FoundSize

Cost = Callable[[int], float]


class Loop:
    """Batches of the size that is wanted, as the source has them, on a clock of their own."""

    def __init__(self, start: FoundSize | None = None, **options: object) -> None:
        self.now_s = 0.0
        config = AdaptiveBatchingConfig(**options)  # type: ignore[arg-type]
        self.batcher = AdaptiveBatcher(config, lambda: self.now_s, start=start)

    def run(
        self, cost: Cost, batches: int, *, noise: float = 0.05, seed: int = 1, most: int = 1 << 40
    ) -> list[int]:
        draw = random.Random(seed)
        sizes = []
        for _ in range(batches):
            asked = self.batcher.batch_size
            rows = min(asked, most)
            duration_s = cost(rows) * draw.lognormvariate(0.0, noise)
            self.now_s += duration_s
            self.batcher.record_batch(rows, duration_s, asked_rows=asked)
            sizes.append(asked)
        return sizes


def linear(fixed_s: float, row_s: float) -> Cost:
    return lambda rows: fixed_s + row_s * rows


@pytest.mark.parametrize("seed", range(5))
def test_the_knee_is_where_the_fixed_cost_is_two_percent(seed: int) -> None:
    loop = Loop()
    loop.run(linear(1e-4, 1e-8), 120, seed=seed)
    found = loop.batcher.found
    assert found.converged
    assert found.bound == "knee"
    assert found.fixed_cost_s == pytest.approx(1e-4, rel=0.25)
    assert found.row_cost_s == pytest.approx(1e-8, rel=0.1)
    assert 1e-8 * found.rows / (1e-4 + 1e-8 * found.rows) == pytest.approx(0.98, abs=0.02)


def test_while_it_searches_it_names_no_bound() -> None:
    loop = Loop()
    loop.run(linear(1e-3, 1e-8), 2)
    found = loop.batcher.found
    assert not found.converged
    assert found.bound is None


def test_the_latency_target_bounds_a_size_that_would_still_be_slow() -> None:
    loop = Loop(latency_target_ms=10)
    sizes = loop.run(linear(4e-3, 2e-6), 60, noise=0.0)
    found = loop.batcher.found
    assert found.bound == "latency"
    assert 4e-3 + 2e-6 * found.rows == pytest.approx(0.8 * 10e-3, rel=0.02)
    assert all(4e-3 + 2e-6 * rows <= 10e-3 for rows in sizes)


def test_the_largest_size_of_the_configuration_is_named() -> None:
    loop = Loop(max_size=5000)
    loop.run(linear(1e-3, 1e-9), 60)
    assert loop.batcher.found[:3] == (5000, True, "max_size")


def test_the_smallest_size_of_the_configuration_is_named() -> None:
    loop = Loop(initial_size=50_000, min_size=50_000)
    loop.run(linear(1e-6, 1e-8), 200, noise=0.01)
    assert loop.batcher.found[:3] == (50_000, True, "min_size")


def test_a_source_that_has_no_larger_batches_is_asked_for_no_more() -> None:
    loop = Loop()
    sizes = loop.run(linear(1e-3, 1e-9), 60, most=6000)
    found = loop.batcher.found
    assert found.converged
    assert found.bound == "source"
    assert max(sizes) <= 32_000
    assert found.rows <= 2 * 6000


def test_memory_is_named_when_it_allows_less() -> None:
    loop = Loop()
    loop.run(linear(1e-4, 1e-8), 120)
    loop.batcher.bound(500)
    assert loop.batcher.found[:3] == (500, True, "memory")
    loop.batcher.bound(None)
    assert loop.batcher.found.bound == "knee"


def test_dearer_rows_are_noticed_and_answered() -> None:
    loop = Loop(latency_target_ms=50)
    loop.run(linear(1e-3, 1e-7), 100)
    before = loop.batcher.found
    loop.run(linear(1e-3, 2e-5), 100, seed=2)
    after = loop.batcher.found
    assert 1e-3 + 2e-5 * after.rows <= 50e-3
    assert after.rows < before.rows / 10
    assert after.row_cost_s == pytest.approx(2e-5, rel=0.2)


def test_a_fixed_cost_that_grows_makes_batches_grow() -> None:
    loop = Loop()
    loop.run(linear(25e-6, 3e-9), 100)
    before = loop.batcher.found.rows
    sizes = loop.run(linear(500e-6, 3e-9), 60, seed=2)
    rate = sum(sizes[30:]) / sum(500e-6 + 3e-9 * rows for rows in sizes[30:])
    assert loop.batcher.found.rows > 5 * before
    assert rate >= 0.9 / 3e-9


def test_one_batch_that_was_interrupted_changes_nothing() -> None:
    loop = Loop(latency_target_ms=1000)
    loop.run(linear(1e-4, 1e-8), 120)
    held = loop.batcher.found.rows
    for _ in range(20):
        loop.run(linear(1e-2, 1e-8), 1)
        loop.run(linear(1e-4, 1e-8), 2)
    assert loop.batcher.found.rows == pytest.approx(held, rel=0.5)


def test_the_next_search_goes_on_where_this_one_was() -> None:
    first = Loop()
    first.run(linear(1e-3, 1e-9), 6, noise=0.0)
    half_way = first.batcher.found
    assert not half_way.converged
    second = Loop(start=half_way)
    sizes = second.run(linear(1e-3, 1e-9), 60, noise=0.0)
    assert sizes[0] == half_way.rows
    assert second.batcher.found.fixed_cost_s == pytest.approx(1e-3, rel=0.01)


def test_many_short_runs_do_not_grow_a_size_that_gains_nothing() -> None:
    found: FoundSize | None = None
    for seed in range(40):
        loop = Loop(start=found)
        loop.run(linear(1e-6, 1e-6), 4, seed=seed)
        found = loop.batcher.found
    assert found is not None
    assert found.rows <= 16_000


def test_a_start_that_is_no_longer_right_is_noticed() -> None:
    start = FoundSize(2000, True, "knee", 1e-6, 1e-8, (SizeCost(2000, 2000, 1.05e-8, 10),))
    loop = Loop(start=start)
    loop.run(linear(1e-3, 1e-8), 60)
    assert loop.batcher.found.rows > 50_000


def test_batches_that_were_asked_for_earlier_do_not_end_a_probe() -> None:
    loop = Loop(initial_size=1000)
    for _ in range(50):
        loop.now_s += 1e-3
        loop.batcher.record_batch(100, 1e-3)
    assert loop.batcher.batch_size == 1000


def test_a_duration_that_no_clock_can_measure_teaches_nothing() -> None:
    loop = Loop()
    for duration_s in (0.0, 5e-324):
        loop.batcher.record_batch(1000, duration_s)
    loop.batcher.record_batch(0, 1.0)
    assert loop.batcher.found == FoundSize(1000, False)
