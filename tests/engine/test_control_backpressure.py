"""BackpressureController: each mode by example, waiting without polling, admission, and a state machine."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dataflare.control import (
    BackpressureController,
    CreditConfig,
    CreditMode,
    MemoryBudget,
    MemoryReading,
)
from dataflare.kernels.errors import OptionError


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def controller(clock: ManualClock, **fields: object) -> BackpressureController:
    made = BackpressureController(CreditConfig(**fields), clock)  # type: ignore[arg-type]
    made.register_task("t")
    return made


def test_requests_get_what_there_is_and_never_wait() -> None:
    made = controller(ManualClock(), initial_credits=500)
    assert made.request_credits("t", 300) == 300
    assert made.request_credits("t", 300) == 200
    assert made.request_credits("t", 300) == 0
    assert made.available_credits("t") == 0


def test_fixed_refills_by_time_up_to_its_capacity_and_ignores_reports() -> None:
    clock = ManualClock()
    made = controller(
        clock, mode=CreditMode.FIXED, initial_credits=100, min_credits=1, max_credits=150, refill_rate=10.0
    )
    assert made.request_credits("t", 100) == 100
    made.report_processing("t", 100, 0.5)
    assert made.available_credits("t") == 0
    clock.now_s = 3.0
    assert made.available_credits("t") == 30
    clock.now_s = 1000.0
    assert made.available_credits("t") == 150


def test_the_refill_rate_is_not_bounded_by_the_credit_bounds() -> None:
    clock = ManualClock()
    made = controller(
        clock, mode=CreditMode.FIXED, initial_credits=1000, min_credits=1, max_credits=1000, refill_rate=1e6
    )
    granted = 0
    for step in range(1, 2001):
        clock.now_s = step * 0.0005
        granted += made.request_credits("t", 1000)
    assert granted >= 0.99e6  # a million a second through a bucket of a thousand


def test_dynamic_credits_come_back_when_the_consumer_has_consumed() -> None:
    made = controller(ManualClock(), initial_credits=1000)
    assert made.request_credits("t", 1000) == 1000
    made.report_processing("t", 400, timedelta(milliseconds=4))
    assert made.available_credits("t") == 400
    assert made.processing_rate("t") == pytest.approx(100_000.0)


def test_dynamic_grows_with_a_fast_consumer_and_shrinks_with_a_slow_one() -> None:
    clock = ManualClock()
    made = controller(clock)
    for _ in range(20):
        clock.now_s += 0.05
        made.report_processing("t", made.request_credits("t", 10_000), 0.001)
    assert made.available_credits("t") == 10_000
    for _ in range(40):
        clock.now_s += 0.05
        made.report_processing("t", made.request_credits("t", 10), 0.1)
    clock.now_s += 0.05
    assert 100 <= made.available_credits("t") <= 200  # 100 records/s, a quarter more, one second of it


def test_a_stalled_consumer_stops_its_producer_in_dynamic_mode() -> None:
    clock = ManualClock()
    made = controller(clock)
    granted = 0
    for _ in range(100_000):
        clock.now_s += 1.0
        granted += made.request_credits("t", 1000)
    assert granted <= 10_000


def test_adaptive_shrinks_above_the_threshold_down_to_the_minimum() -> None:
    clock = ManualClock()
    made = controller(clock, mode=CreditMode.ADAPTIVE, initial_credits=10_000, memory_threshold=0.5)
    made.update_memory_pressure(0.5)
    assert made.available_credits("t") == 10_000
    made.update_memory_pressure(0.75)
    assert made.available_credits("t") == 5050
    made.update_memory_pressure(1.0)
    assert made.available_credits("t") == 100
    assert made.request_credits("t", 1000) == 100


def test_the_highest_pressure_counts_and_falls_with_hysteresis() -> None:
    made = controller(ManualClock(), mode=CreditMode.ADAPTIVE, initial_credits=10_000, memory_threshold=0.5)
    assert made.memory_pressure is None
    made.update_memory_pressure(0.2)
    made.update_memory_pressure(0.75, device="cuda:0")
    assert made.memory_pressure == 0.75
    assert made.available_credits("t") == 5050
    made.update_memory_pressure(0.72, device="cuda:0")
    assert made.available_credits("t") == 5050  # a small fall changes nothing
    assert made.memory_pressure == 0.72


def test_only_adaptive_heeds_memory_pressure() -> None:
    made = controller(ManualClock(), mode=CreditMode.DYNAMIC)
    made.update_memory_pressure(1.0)
    assert made.available_credits("t") == 1000


class TellingClock(ManualClock):
    """Tells when it is read: the reader holds the controller's lock until it waits, so nobody can be too early."""

    def __init__(self) -> None:
        super().__init__()
        self.was_read = threading.Event()

    def __call__(self) -> float:
        self.was_read.set()
        return self.now_s


def acquire_on_a_thread(
    made: BackpressureController, clock: TellingClock, n: int
) -> tuple[threading.Thread, list[int]]:
    granted: list[int] = []
    clock.was_read.clear()
    thread = threading.Thread(target=lambda: granted.append(made.acquire("t", n)))
    thread.start()
    assert clock.was_read.wait(30)
    return thread, granted


def test_acquire_wakes_when_reports_bring_enough_credits() -> None:
    clock = TellingClock()
    made = controller(clock, initial_credits=500)
    assert made.acquire("t", 500) == 500
    thread, granted = acquire_on_a_thread(made, clock, 200)
    made.report_processing("t", 100, 0.01)
    assert granted == []
    made.report_processing("t", 100, 0.01)
    thread.join(30)
    assert granted == [200]


def test_acquire_under_pressure_gets_the_minimum() -> None:
    clock = TellingClock()
    made = controller(clock, mode=CreditMode.ADAPTIVE, initial_credits=1000)
    made.update_memory_pressure(1.0)
    assert made.acquire("t", 100) == 100
    thread, granted = acquire_on_a_thread(made, clock, 50)
    made.report_processing("t", 100, 0.01)
    thread.join(30)
    assert granted == [50]


def test_acquire_of_more_than_a_task_can_hold_gets_the_most_it_can() -> None:
    made = controller(ManualClock(), initial_credits=500)
    assert made.acquire("t", 10_000) == 500


def test_acquire_grants_what_there_is_when_the_time_is_over() -> None:
    made = controller(ManualClock(), initial_credits=100)
    made.request_credits("t", 60)
    assert made.acquire("t", 80, timeout=0.0) == 40
    assert made.acquire("t", 80, timeout=timedelta(0)) == 0


def test_acquire_in_fixed_mode_waits_until_time_has_refilled_the_bucket() -> None:
    config = CreditConfig(
        mode=CreditMode.FIXED, initial_credits=100, max_credits=100, refill_rate=1e6, refill_interval=0.0
    )
    made = BackpressureController(config)
    made.register_task("t")
    assert made.acquire("t", 100) == 100
    assert made.acquire("t", 100, timeout=30) == 100


def test_acquire_returns_nothing_when_its_task_is_unregistered() -> None:
    clock = TellingClock()
    made = controller(clock, initial_credits=100)
    made.request_credits("t", 100)
    thread, granted = acquire_on_a_thread(made, clock, 50)
    made.unregister_task("t")
    thread.join(30)
    assert granted == [0]


def test_an_unknown_task_is_named_with_a_suggestion() -> None:
    made = BackpressureController()
    made.register_task("parse")
    with pytest.raises(OptionError, match=r"'prase' is not registered.*Did you mean 'parse'"):
        made.request_credits("prase", 1)


def test_registering_twice_keeps_the_credits() -> None:
    made = controller(ManualClock(), initial_credits=100)
    made.request_credits("t", 60)
    made.register_task("t")
    assert made.available_credits("t") == 40


def test_admission_takes_credits_and_bytes_and_gives_both_back() -> None:
    budget = MemoryBudget(10_000)
    made = BackpressureController(CreditConfig(initial_credits=1000), ManualClock(), budget=budget)
    made.register_task("t")
    admission = made.admit("t", 600, 10.0)
    assert admission is not None
    assert admission.rows == 600
    assert budget.reserved_bytes == 6000
    admission.shrink(500)
    assert made.available_credits("t") == 500
    assert budget.reserved_bytes == 5000
    admission.settle(0.01)
    admission.settle(0.01)
    assert budget.reserved_bytes == 0
    assert made.snapshot().tasks["t"].processed_total == 500
    assert made.available_credits("t") == 1000


def test_admission_halves_the_batch_until_its_bytes_fit() -> None:
    budget = MemoryBudget(3000)
    made = BackpressureController(CreditConfig(initial_credits=1000), ManualClock(), budget=budget)
    made.register_task("t")
    admission = made.admit("t", 1000, 10.0, least_rows=100)
    assert admission is not None
    assert admission.rows == 250
    assert made.available_credits("t") == 750
    assert made.admit("t", 1000, 10.0, least_rows=100) is None
    assert made.available_credits("t") == 750
    admission.cancel()
    assert budget.reserved_bytes == 0
    assert made.available_credits("t") == 1000
    assert made.processing_rate("t") is None


def test_admission_waits_for_a_worthwhile_number_of_credits() -> None:
    clock = ManualClock()
    made = controller(
        clock, mode=CreditMode.FIXED, initial_credits=100, min_credits=50, max_credits=100, refill_rate=10.0
    )
    assert made.admit("t", 100, 1.0, least_rows=50) is not None
    clock.now_s = 1.0
    assert made.admit("t", 100, 1.0, least_rows=50) is None
    assert made.seconds_until_credits("t", 100) == pytest.approx(9.0)
    clock.now_s = 10.0
    admission = made.admit("t", 100, 1.0, least_rows=50)
    assert admission is not None
    assert admission.rows == 100


class FakeMonitor:
    device = "host"

    def __init__(self) -> None:
        self.reading = MemoryReading(30, 100, "fake", 0.0)

    def read(self) -> MemoryReading:
        return self.reading


def test_a_monitor_that_fails_keeps_its_last_value_and_says_so() -> None:
    monitor = FakeMonitor()
    made = BackpressureController(CreditConfig(), ManualClock(), [monitor])
    made.poll_monitors()
    assert made.memory_pressure == 0.3
    monitor.reading = MemoryReading(30, 100, "fake", 0.0, stale=True, error="NVML went away")
    made.poll_monitors()
    assert made.memory_pressure == 0.3
    assert dict(made.snapshot().monitor_errors) == {"host": "NVML went away"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"mode": "fixed"}, "CreditConfig.mode must be one of CreditMode.FIXED"),
        ({"min_credits": 0}, "CreditConfig.min_credits must be >= 1"),
        ({"max_credits": 10}, "CreditConfig.max_credits must be >= 100"),
        ({"initial_credits": 10}, "CreditConfig.initial_credits must be from 100 to 10000"),
        ({"refill_rate": 0}, "CreditConfig.refill_rate must be > 0"),
        ({"refill_interval": -1}, "CreditConfig.refill_interval"),
        ({"memory_threshold": 1.1}, "CreditConfig.memory_threshold must be > 0 and <= 1"),
    ],
)
def test_a_bad_field_is_named_with_its_range(fields: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        CreditConfig(**fields)  # type: ignore[arg-type]
    assert text in str(caught.value)


class CreditMachine(RuleBasedStateMachine):
    """Any history keeps: 0 <= granted <= asked, conservation, bounds, and no task refused for ever."""

    MODE = CreditMode.ADAPTIVE

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.config = CreditConfig(
            mode=self.MODE, initial_credits=200, min_credits=50, max_credits=1000, refill_rate=100.0
        )
        self.made = BackpressureController(self.config, self.clock)
        self.in_flight = {"a": 0, "b": 0}
        self.granted = {"a": 0, "b": 0}
        self.asked_since_empty = 0
        for task in self.in_flight:
            self.made.register_task(task)

    @rule(task=st.sampled_from("ab"), n=st.integers(0, 3000))
    def request(self, task: str, n: int) -> None:
        available = self.made.available_credits(task)
        granted = self.made.request_credits(task, n)
        assert granted == min(n, available)
        self.in_flight[task] += granted
        self.granted[task] += granted

    @rule(task=st.sampled_from("ab"), share=st.floats(0.0, 1.0), duration_s=st.floats(1e-6, 10.0))
    def report(self, task: str, share: float, duration_s: float) -> None:
        records = int(self.in_flight[task] * share)
        self.made.report_processing(task, records, duration_s)
        self.in_flight[task] -= records

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(pressure=st.floats(0.0, 1.0), device=st.sampled_from(["host", "cuda:0"]))
    def pressure_changes(self, pressure: float, device: str) -> None:
        self.made.update_memory_pressure(pressure, device)

    @invariant()
    def counts_are_conserved(self) -> None:
        for task, credits_ in self.made.snapshot().tasks.items():
            assert credits_.in_flight == self.in_flight[task]
            assert credits_.granted_total == self.granted[task]
            assert credits_.granted_total == credits_.in_flight + credits_.processed_total
            assert credits_.available >= 0
        assert self.made.in_flight == sum(self.in_flight.values())

    @invariant()
    def the_window_stays_in_its_bounds(self) -> None:
        if self.MODE is CreditMode.FIXED:
            return
        for credits_ in self.made.snapshot().tasks.values():
            assert self.config.min_credits <= credits_.allowance <= self.config.max_credits
            assert credits_.available == max(0, credits_.allowance - credits_.in_flight)

    @precondition(lambda self: self.MODE is not CreditMode.FIXED)
    @rule(task=st.sampled_from("ab"))
    def a_task_with_nothing_in_flight_is_never_refused(self, task: str) -> None:
        self.made.report_processing(task, self.in_flight[task], 0.1)
        self.in_flight[task] = 0
        assert self.made.available_credits(task) >= self.config.min_credits


class FixedCreditMachine(CreditMachine):
    MODE = CreditMode.FIXED

    @rule(task=st.sampled_from("ab"))
    def time_brings_credits_without_reports(self, task: str) -> None:
        self.clock.now_s += self.config.max_credits / self.config.refill_rate
        assert self.made.available_credits(task) == self.config.max_credits


class DynamicCreditMachine(CreditMachine):
    MODE = CreditMode.DYNAMIC


TestAdaptiveCredits = CreditMachine.TestCase
TestFixedCredits = FixedCreditMachine.TestCase
TestDynamicCredits = DynamicCreditMachine.TestCase
