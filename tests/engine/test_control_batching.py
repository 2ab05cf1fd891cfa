"""AdaptiveBatcher and its strategies: on cost curves, with a clock that the test moves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pytest

import dataflare
from dataflare.control import AdaptiveBatcher, AdaptiveBatchingConfig
from dataflare.control.strategies import FoundSize, SteadyBatch
from dataflare.kernels.errors import OptionError

Cost = Callable[[int], float]


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def drive(batcher: AdaptiveBatcher, clock: ManualClock, cost: Cost, batches: int, seed: int = 0) -> list[int]:
    """Run batches of the size that the batcher wants; return the sizes."""
    noise = random.Random(seed)
    sizes = []
    for _ in range(batches):
        rows = batcher.batch_size
        duration_s = cost(rows) * noise.lognormvariate(0.0, 0.02)
        clock.now_s += duration_s
        sizes.append(rows)
        batcher.record_batch(rows, duration_s)
    return sizes


def cheap_map(rows: int) -> float:
    return 25e-6 + 2e-9 * rows


def cache_cliff(rows: int) -> float:
    return 25e-6 + 3e-9 * min(rows, 131_072) + 5e-9 * max(0, rows - 131_072)


def model(rows: int) -> float:
    return 4e-3 + 20e-6 * rows


def best_rate(cost: Cost, config: AdaptiveBatchingConfig) -> float:
    sizes = [round(config.min_size * math.sqrt(2) ** step) for step in range(60)]
    feasible = [
        size for size in sizes if size <= config.max_size and cost(size) <= config.latency_target_ms / 1000
    ]
    return max(size / cost(size) for size in feasible)


def rate(sizes: list[int], cost: Cost) -> float:
    return sum(sizes) / sum(cost(size) for size in sizes)


@pytest.mark.parametrize("cost", [cheap_map, cache_cliff, model])
def test_knee_is_within_a_tenth_of_the_best_size_after_thirty_batches_and_stays_there(cost: Cost) -> None:
    clock = ManualClock()
    config = AdaptiveBatchingConfig()
    batcher = AdaptiveBatcher(config, clock)
    sizes = drive(batcher, clock, cost, 400)
    best = best_rate(cost, config)
    assert rate(sizes[30:60], cost) >= 0.90 * best
    steady = sizes[100:]
    assert rate(steady, cost) >= 0.93 * best
    assert sum(cost(size) > 0.050 for size in steady) <= 0.02 * len(steady)


def test_knee_holds_a_small_size_where_large_ones_are_not_faster() -> None:
    clock = ManualClock()
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(), clock)
    sizes = drive(batcher, clock, lambda rows: 1e-6 + 1e-6 * rows, 100)
    assert max(sizes) <= 4000


def test_slow_start_doubles_while_the_rate_improves_and_goes_faster_where_rows_cost_nothing() -> None:
    clock = ManualClock()
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(), clock)
    assert drive(batcher, clock, lambda rows: 1e-3, 4) == [1000, 2000, 8000, 32000]


def test_slow_start_stops_short_of_the_latency_target() -> None:
    clock = ManualClock()
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(latency_target_ms=10), clock)
    sizes = drive(batcher, clock, lambda rows: 5e-3 + 1e-7 * rows, 200)
    assert max(sizes) * 1e-7 + 5e-3 <= 0.010 * 1.1


def test_three_batches_over_the_latency_target_shrink_the_size_and_two_do_not() -> None:
    clock = ManualClock()
    config = AdaptiveBatchingConfig(initial_size=10_000, latency_target_ms=50)
    batcher = AdaptiveBatcher(config, clock, start=FoundSize(10_000, converged=True))
    for _ in range(2):
        batcher.record_batch(10_000, 0.060)
        assert batcher.batch_size == 10_000
    batcher.record_batch(10_000, 0.060)
    assert batcher.batch_size == 7_000
    for _ in range(3):
        batcher.record_batch(10_000, 0.060)  # was under way when the size was cut
    assert batcher.batch_size == 7_000


def test_a_found_size_is_where_the_next_batcher_starts() -> None:
    clock = ManualClock()
    first = AdaptiveBatcher(AdaptiveBatchingConfig(), clock)
    drive(first, clock, cheap_map, 60)
    found = first.found
    assert found.converged
    second = AdaptiveBatcher(AdaptiveBatchingConfig(), clock, start=found)
    sizes = drive(second, clock, cheap_map, 20)
    assert set(sizes) == {found.rows}


def test_batches_that_are_not_steady_are_counted_but_teach_nothing() -> None:
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(), ManualClock())
    batcher.record_batch(1000, 0.001, steady=False)
    assert batcher.batch_size == 1000
    assert batcher.metrics.batch_count == 1


def test_the_memory_bound_caps_the_size_even_below_the_minimum_and_can_be_lifted() -> None:
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(initial_size=1000, min_size=500))
    batcher.bound(64)
    assert batcher.batch_size == 64
    batcher.bound(None)
    assert batcher.batch_size == 1000


def test_proportional_goes_a_fifth_of_the_way_to_a_ratio_capped_at_two() -> None:
    clock = ManualClock()
    config = AdaptiveBatchingConfig(
        strategy="proportional",
        latency_target_ms=50,
        evaluation_interval=timedelta(seconds=1),
        stability_threshold=2,
    )
    batcher = AdaptiveBatcher(config, clock)
    batcher.record_batch(1000, 0.010)
    clock.now_s = 1.0
    batcher.record_batch(1000, 0.010)  # ratio 5, capped at 2: a fifth of the way from 1000 to 2000
    assert batcher.batch_size == 1200


def test_proportional_waits_for_the_interval_and_for_enough_batches() -> None:
    clock = ManualClock()
    config = AdaptiveBatchingConfig(strategy="proportional", evaluation_interval=5.0, stability_threshold=3)
    batcher = AdaptiveBatcher(config, clock)
    batcher.record_batch(1000, 0.010)
    clock.now_s = 10.0
    batcher.record_batch(1000, 0.010)
    assert batcher.batch_size == 1000
    batcher.record_batch(1000, 0.010)
    assert batcher.batch_size == 1200


def test_proportional_does_not_grow_beyond_a_throughput_that_is_enough() -> None:
    clock = ManualClock()
    config = AdaptiveBatchingConfig(
        strategy="proportional", throughput_target=50_000.0, evaluation_interval=0.0, stability_threshold=1
    )
    batcher = AdaptiveBatcher(config, clock)
    batcher.record_batch(1000, 0.010)  # 100,000 rows/s: twice what is asked for
    assert batcher.batch_size == 900


def test_aimd_steps_up_by_the_initial_size_and_down_by_a_tenth() -> None:
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(strategy="aimd", initial_size=500), ManualClock())
    batcher.record_batch(500, 0.001)
    assert batcher.batch_size == 1000
    batcher.record_batch(1000, 0.060)
    assert batcher.batch_size == 900


def test_fixed_never_moves() -> None:
    batcher = AdaptiveBatcher(AdaptiveBatchingConfig(strategy="fixed", initial_size=777))
    for duration_s in (1e-6, 10.0, 10.0, 10.0):
        batcher.record_batch(777, duration_s)
    assert batcher.batch_size == 777


class Halving:
    """A strategy of a user's: half as many rows after each batch."""

    def __init__(self, config: AdaptiveBatchingConfig, start: FoundSize | None = None) -> None:
        self.size: float = config.initial_size if start is None else start.rows
        self.seen: list[SteadyBatch] = []

    @property
    def found(self) -> FoundSize:
        return FoundSize(round(self.size), converged=False)

    def observe(self, batch: SteadyBatch) -> None:
        self.seen.append(batch)
        self.size /= 2


def test_a_user_s_strategy_decides_within_the_bounds() -> None:
    clock = ManualClock()
    config = AdaptiveBatchingConfig(initial_size=1000, min_size=300, strategy=Halving)
    batcher = AdaptiveBatcher(config, clock)
    clock.now_s = 2.5
    batcher.record_batch(900, 0.1, asked_rows=1000)
    assert batcher.batch_size == 500
    assert batcher.found == FoundSize(500, False)
    batcher.record_batch(500, 0.1)
    batcher.record_batch(9, 0.1, steady=False)
    assert batcher.batch_size == 300
    strategy = batcher._strategy
    assert isinstance(strategy, Halving)
    assert strategy.seen == [SteadyBatch(900, 1000, 0.1, 2.5), SteadyBatch(500, 500, 0.1, 2.5)]
    batcher.reset()
    assert batcher.batch_size == 1000


def test_two_runs_never_share_the_state_of_a_strategy() -> None:
    config = AdaptiveBatchingConfig(strategy=Halving)
    first, second = AdaptiveBatcher(config), AdaptiveBatcher(config)
    first.record_batch(1000, 0.1)
    assert (first.batch_size, second.batch_size) == (500, 1000)


def test_a_user_s_strategy_steers_a_run() -> None:
    sizes: list[int] = []
    numbers = dataflare.from_batches([pa.record_batch({"x": list(range(60_000))})])
    batching = AdaptiveBatchingConfig(initial_size=1600, strategy=Halving)
    numbers.write(lambda batch: sizes.append(batch.num_rows)).run(batching=batching, workers=1)
    assert sum(sizes) == 60_000
    assert sizes[0] == 1600
    assert set(sizes[1:]) <= {1600, 800, 400, 200, 100, *sizes[-1:]}
    assert 100 in sizes


class _Sized:
    size = 3


def test_what_makes_no_strategy_is_refused_with_what_is_missing() -> None:
    with pytest.raises(OptionError, match=r"no found and no observe.*SizeStrategy"):
        AdaptiveBatcher(AdaptiveBatchingConfig(strategy=lambda config, start: _Sized()))  # type: ignore[arg-type, return-value]


def test_an_object_that_is_a_strategy_is_refused_for_its_class() -> None:
    strategy = Halving(AdaptiveBatchingConfig())
    with pytest.raises(OptionError, match="a class that follows SizeStrategy"):
        AdaptiveBatchingConfig(strategy=strategy)  # type: ignore[arg-type]


def test_reset_forgets_sizes_and_figures() -> None:
    batcher = AdaptiveBatcher()
    batcher.record_batch(1000, 0.001)
    assert batcher.batch_size == 2000
    batcher.reset()
    assert batcher.batch_size == 1000
    assert batcher.metrics.total_records == 0
    assert batcher.metrics.throughput is None


@pytest.mark.parametrize(
    ("field", "value", "range_text"),
    [
        ("min_size", 0, ">= 1"),
        ("min_size", 2.5, "integer >= 1"),
        ("max_size", 50, ">= 100"),
        ("initial_size", 99, "from 100 to 4194304"),
        ("throughput_target", 0.0, "> 0"),
        ("latency_target_ms", -1.0, "> 0"),
        ("latency_target_ms", math.nan, "> 0"),
        ("adaptation_rate", 1.5, "> 0 and <= 1"),
        ("adaptation_rate", True, "> 0 and <= 1"),
        ("evaluation_interval", -1.0, ">= 0"),
        ("stability_threshold", 0, ">= 1"),
        ("strategy", "kne", "'aimd', 'fixed', 'knee', 'proportional'"),
    ],
)
def test_a_bad_field_is_named_with_its_range(field: str, value: object, range_text: str) -> None:
    with pytest.raises(OptionError) as caught:
        AdaptiveBatchingConfig(**{field: value})
    assert f"AdaptiveBatchingConfig.{field}" in str(caught.value)
    assert range_text in str(caught.value)


def test_a_misspelt_strategy_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match="Did you mean 'knee'"):
        AdaptiveBatchingConfig(strategy="kne")  # type: ignore[arg-type]
