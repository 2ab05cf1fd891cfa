"""AdaptiveBatcher through random histories: sizes stay in their bounds, and whatever was, a steady cost is found."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dataflare.control import AdaptiveBatcher, AdaptiveBatchingConfig

STEADY_BATCHES = 400
WITHIN = 0.85


class BatcherMachine(RuleBasedStateMachine):
    @initialize(
        low=st.integers(1, 5000),
        span=st.integers(1, 10_000),
        place=st.floats(0.0, 1.0),
        target_ms=st.sampled_from([1.0, 10.0, 50.0, 500.0]),
        strategy=st.sampled_from(["knee", "knee", "knee", "proportional", "aimd", "fixed"]),
        threshold=st.integers(1, 20),
    )
    def begin(
        self, low: int, span: int, place: float, target_ms: float, strategy: str, threshold: int
    ) -> None:
        self.now_s = 0.0
        self.config = AdaptiveBatchingConfig(
            initial_size=low + round(place * low * (span - 1)),
            min_size=low,
            max_size=low * span,
            latency_target_ms=target_ms,
            strategy=strategy,  # type: ignore[arg-type]
            stability_threshold=threshold,
            evaluation_interval=0.5,
        )
        self.bound: int | None = None
        self.batches = 0
        self.batcher = AdaptiveBatcher(self.config, lambda: self.now_s)

    def record(self, rows: int, duration_s: float, steady: bool = True, asked: int | None = None) -> None:
        self.now_s += duration_s
        self.batches += 1
        self.batcher.record_batch(rows, duration_s, steady=steady, asked_rows=asked)

    @rule(share=st.floats(0.0, 2.0), duration_s=st.floats(0.0, 10.0), steady=st.booleans())
    def anything(self, share: float, duration_s: float, steady: bool) -> None:
        self.record(round(share * self.batcher.batch_size), duration_s, steady)

    @rule(times=st.integers(1, 60), row_s=st.floats(1e-10, 1e-4), fixed_s=st.floats(0.0, 0.1))
    def some_work(self, times: int, row_s: float, fixed_s: float) -> None:
        for _ in range(times):
            rows = self.batcher.batch_size
            self.record(rows, fixed_s + row_s * rows)

    @rule(times=st.integers(1, 30), most=st.integers(1, 100_000))
    def a_source_with_small_blocks(self, times: int, most: int) -> None:
        for _ in range(times):
            asked = self.batcher.batch_size
            rows = min(asked, most)
            self.record(rows, 1e-4 + 1e-7 * rows, asked=asked)

    @rule(rows=st.one_of(st.none(), st.integers(1, 1_000_000)))
    def memory_changes(self, rows: int | None) -> None:
        self.bound = rows
        self.batcher.bound(rows)

    @rule()
    def reset(self) -> None:
        self.batches = 0
        self.batcher.reset()

    @rule(row_s=st.floats(1e-9, 1e-5), fixed_rows=st.floats(0.0, 1e4))
    def steady_work_is_found(self, row_s: float, fixed_rows: float) -> None:
        """However it comes to it, the size is near the best that meets the target, once costs stay what they are."""
        self.memory_changes(None)
        if self.config.strategy != "knee":
            return
        fixed_s = row_s * fixed_rows
        most = self.config.latency_target_s
        if fixed_s + row_s * self.config.min_size > 0.3 * most:
            return  # no size is fast enough to have a choice
        for _ in range(STEADY_BATCHES):
            rows = self.batcher.batch_size
            self.record(rows, fixed_s + row_s * rows)
            self.now_s += 0.1  # so that probes are due
        best = min(self.config.max_size, math.floor((0.8 * most - fixed_s) / row_s))
        rate, best_rate = (rows / (fixed_s + row_s * rows) for rows in (self.batcher.found.rows, best))
        assert rate >= WITHIN * best_rate
        assert fixed_s + row_s * self.batcher.found.rows <= most

    @invariant()
    def the_size_is_within_its_bounds(self) -> None:
        if not hasattr(self, "batcher"):
            return
        size = self.batcher.batch_size
        low, high = self.config.min_size, self.config.max_size
        if self.bound is not None:
            low, high = min(low, self.bound), min(high, self.bound)
        assert low <= size <= high
        assert isinstance(size, int)

    @invariant()
    def everything_is_counted(self) -> None:
        if hasattr(self, "batcher"):
            assert self.batcher.metrics.batch_count == self.batches


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(stateful_step_count=15)
