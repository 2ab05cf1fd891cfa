"""BackpressureController: each mode by example, waiting without polling, admission, and a state machine."""

from __future__ import annotations

import heapq
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
        clock.now_s += 0.1
        made.report_processing("t", made.request_credits("t", 10), 0.1)
    clock.now_s += 0.05
    assert 100 <= made.available_credits("t") <= 200  # 100 records/s, a quarter more, one second of it


def test_a_window_that_stalled_consumers_left_small_is_large_again_within_a_second() -> None:
    clock = ManualClock()
    made = controller(clock)

    def consume(seconds: float, records: int) -> int:
        granted = made.request_credits("t", records)
        clock.now_s += seconds
        made.report_processing("t", granted, seconds)
        return granted

    for _ in range(100):
        consume(0.01, 1000)
    assert made.available_credits("t") == 10_000
    consume(10.0, 1000)
    assert made.available_credits("t") < 1000
    recovered_s = clock.now_s + 1.0
    while clock.now_s < recovered_s:
        records = max(1, min(1000, made.available_credits("t")))
        consume(records / 100_000, records)
    assert made.available_credits("t") == 10_000


def test_the_window_grows_until_all_who_work_at_once_are_busy() -> None:
    # 32 consumers of 1,000 records a second each: a second's work of one would keep one or two of them busy.
    clock = ManualClock()
    made = controller(clock, initial_credits=1000, max_credits=1_000_000)
    at_work: list[tuple[float, int]] = []
    busiest = 0
    while clock.now_s < 60.0:
        while len(at_work) < 32 and (granted := made.request_credits("t", 1000)):
            heapq.heappush(at_work, (clock.now_s + granted / 1000, granted))
        busiest = max(busiest, len(at_work))
        clock.now_s, records = heapq.heappop(at_work)
        made.report_processing("t", records, records / 1000)
    assert busiest == 32
    assert made.processing_rate("t") == pytest.approx(1000)
    assert made.available_credits("t") < 2 * 32_000  # and no further


@pytest.mark.parametrize("mode", [CreditMode.DYNAMIC, CreditMode.ADAPTIVE])
def test_without_a_queue_target_the_window_does_not_follow_the_rate(mode: CreditMode) -> None:
    clock = ManualClock()
    made = controller(clock, mode=mode, initial_credits=10_000, queue_target=None)
    made.report_processing("t", made.request_credits("t", 10), 100.0)
    clock.now_s = 100.0
    assert made.available_credits("t") == 10_000


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


def test_the_window_is_whole_again_when_pressure_has_fallen_though_nothing_was_reported() -> None:
    made = controller(ManualClock(), mode=CreditMode.ADAPTIVE, initial_credits=5000)
    made.update_memory_pressure(1.0)
    assert made.available_credits("t") == 100
    made.update_memory_pressure(0.2)
    assert made.available_credits("t") == 5000


def test_pressure_scales_down_what_the_caller_would_use_and_not_only_what_it_might() -> None:
    config = CreditConfig(
        mode=CreditMode.ADAPTIVE, initial_credits=1 << 50, max_credits=1 << 50, memory_threshold=0.5
    )
    made = BackpressureController(config, ManualClock())
    made.register_task("t")

    def rows_on_their_way() -> int:
        admissions = []
        while (admission := made.admit("t", 10_000, 1.0, least_rows=100, window_rows=80_000)) is not None:
            admissions.append(admission)
            if len(admissions) == 8:
                break
        rows = sum(admission.rows for admission in admissions)
        for admission in admissions:
            admission.settle(0.1)
        return rows

    assert rows_on_their_way() == 80_000
    made.update_memory_pressure(0.75)
    assert rows_on_their_way() == pytest.approx(40_000, abs=100)
    made.update_memory_pressure(1.0)
    assert rows_on_their_way() == 100
    made.update_memory_pressure(0.3)
    assert rows_on_their_way() == 80_000


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
    made: BackpressureController, clock: TellingClock, n: int, timeout: float | None = None
) -> tuple[threading.Thread, list[int]]:
    granted: list[int] = []
    clock.was_read.clear()
    thread = threading.Thread(target=lambda: granted.append(made.acquire("t", n, timeout)), daemon=True)
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


def test_those_who_wait_are_served_in_turn_and_a_large_request_is_not_overtaken() -> None:
    clock = TellingClock()
    made = controller(clock, initial_credits=500)
    assert made.acquire("t", 500) == 500
    large, granted_large = acquire_on_a_thread(made, clock, 400)
    small, granted_small = acquire_on_a_thread(made, clock, 50)
    made.report_processing("t", 100, 0.01)
    assert made.available_credits("t") == 0  # what is there belongs to those who came first
    assert made.request_credits("t", 10) == 0
    assert made.acquire("t", 10, timeout=0.0) == 0
    assert made.admit("t", 10, 1.0) is None
    made.report_processing("t", 300, 0.01)
    large.join(30)
    assert (granted_large, granted_small) == ([400], [])
    made.report_processing("t", 50, 0.01)
    small.join(30)
    assert granted_small == [50]
    assert made.snapshot().tasks["t"].in_flight == 500


def test_whoever_gives_up_waiting_leaves_its_turn_to_the_next() -> None:
    clock = TellingClock()
    made = controller(clock, initial_credits=500, max_credits=500)
    made.request_credits("t", 500)
    first, granted_first = acquire_on_a_thread(made, clock, 400, timeout=3600.0)
    second, granted_second = acquire_on_a_thread(made, clock, 20)
    third, granted_third = acquire_on_a_thread(made, clock, 30)
    clock.now_s = 3600.0
    made.report_processing("t", 100, 0.01)
    first.join(30)
    assert (granted_first, granted_second) == ([100], [])  # the time was over, and it took what was there
    made.report_processing("t", 50, 0.01)
    second.join(30)
    third.join(30)
    assert (granted_second, granted_third) == ([20], [30])


def test_a_task_cannot_take_the_credits_of_another() -> None:
    made = controller(ManualClock(), initial_credits=500)
    made.register_task("quiet")
    for _ in range(100):
        made.request_credits("t", 10_000)
    assert made.acquire("quiet", 500, timeout=0.0) == 500


def test_a_waiter_is_served_before_time_when_pressure_falls() -> None:
    clock = TellingClock()
    made = controller(clock, mode=CreditMode.ADAPTIVE, initial_credits=1000)
    made.request_credits("t", 600)
    made.update_memory_pressure(1.0)
    thread, granted = acquire_on_a_thread(made, clock, 400)
    made.update_memory_pressure(0.1)
    thread.join(30)
    assert granted == [400]


def test_a_waiter_sees_the_window_grow_though_nobody_reports() -> None:
    made = BackpressureController(CreditConfig(refill_rate=1e6, refill_interval=0.0, queue_target=None))
    made.register_task("t")
    made.request_credits("t", 1000)  # a consumer that begins only when it has 2,000
    assert made.acquire("t", 1000, timeout=30) == 1000


def test_a_waiter_counts_on_the_rate_of_the_latest_report() -> None:
    clock = ManualClock()
    made = controller(clock)
    made.request_credits("t", 1000)
    assert made.seconds_until_credits("t", 500) is None
    clock.now_s = 0.01  # sooner than the window is looked at again
    made.report_processing("t", 100, 0.001)
    assert made.seconds_until_credits("t", 500) == pytest.approx(0.05)


def test_no_wait_is_longer_than_a_thread_can_wait() -> None:
    made = controller(
        TellingClock(),
        mode=CreditMode.FIXED,
        initial_credits=1,
        min_credits=1,
        max_credits=9,
        refill_rate=1e-300,
    )
    assert made.request_credits("t", 1) == 1
    assert made.seconds_until_credits("t", 9) == 86_400.0
    clock = TellingClock()
    made = controller(clock, initial_credits=100, max_credits=100)
    made.request_credits("t", 100)
    thread, granted = acquire_on_a_thread(made, clock, 50, timeout=1e12)
    made.report_processing("t", 50, 0.1)
    thread.join(30)
    assert granted == [50]


def test_credits_that_were_not_used_come_back() -> None:
    made = controller(ManualClock(), initial_credits=500)
    assert made.request_credits("t", 500) == 500
    made.return_credits("t", 200)
    assert made.available_credits("t") == 200
    made.return_credits("t", 10_000)  # more than there are in flight: nothing is made out of nothing
    assert made.available_credits("t") == 500
    assert made.processing_rate("t") is None


def test_time_brings_nothing_to_a_full_bucket() -> None:
    # A source that waits for bytes must not believe that a rate limit will bring them.
    made = controller(
        ManualClock(), mode=CreditMode.FIXED, initial_credits=100, min_credits=1, max_credits=100
    )
    assert made.seconds_until_credits("t", 1000) is None
    made.request_credits("t", 100)
    assert made.seconds_until_credits("t", 1000) == pytest.approx(0.5)


@pytest.mark.parametrize("n", [-1, 2.5, True, "3"])
def test_a_number_of_records_that_is_none_is_refused(n: int) -> None:
    made = controller(ManualClock())
    for call in (made.request_credits, made.return_credits, made.acquire):
        with pytest.raises(OptionError, match=r"BackpressureController\.n must be"):
            call("t", n)
    with pytest.raises(OptionError, match=r"BackpressureController\.records must be"):
        made.report_processing("t", n, 0.1)


@pytest.mark.parametrize("mode", list(CreditMode))
def test_threads_that_hammer_one_task_keep_its_credits_together(mode: CreditMode) -> None:
    config = CreditConfig(
        mode=mode,
        initial_credits=1000,
        min_credits=10,
        max_credits=1000,
        refill_rate=1e7,
        refill_interval=0.0,
    )
    made = BackpressureController(config)
    made.register_task("t")
    used = [0] * 8

    def hammer(number: int) -> None:
        for turn in range(200):
            asked = 1 + (turn * 37 + number * 101) % 1500
            granted = made.request_credits("t", asked) if turn % 3 else made.acquire("t", asked)
            assert 0 <= granted <= asked
            unused = granted // 4
            made.return_credits("t", unused)
            made.report_processing("t", granted - unused, 1e-5)
            used[number] += granted - unused
            made.update_memory_pressure((turn % 10) / 10)

    threads = [threading.Thread(target=hammer, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    after = made.snapshot().tasks["t"]
    assert (after.in_flight, after.granted_total, after.processed_total) == (0, sum(used), sum(used))
    assert min(used) > 0


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
        self.returned = {"a": 0, "b": 0}
        self.processed = {"a": 0, "b": 0}
        self.pressure: dict[str, float] = {}
        for task in self.in_flight:
            self.made.register_task(task)

    @rule(task=st.sampled_from("ab"), n=st.integers(0, 3000))
    def request(self, task: str, n: int) -> None:
        available = self.made.available_credits(task)
        granted = self.made.request_credits(task, n)
        assert granted == min(n, available)
        self.in_flight[task] += granted
        self.granted[task] += granted

    @rule(task=st.sampled_from("ab"), n=st.integers(0, 3000))
    def acquire_without_waiting(self, task: str, n: int) -> None:
        available = self.made.available_credits(task)
        granted = self.made.acquire(task, n, timeout=0.0)
        assert granted == min(n, available)
        self.in_flight[task] += granted
        self.granted[task] += granted

    @rule(task=st.sampled_from("ab"), share=st.floats(0.0, 1.0), duration_s=st.floats(1e-6, 10.0))
    def report(self, task: str, share: float, duration_s: float) -> None:
        records = int(self.in_flight[task] * share)
        self.made.report_processing(task, records, duration_s)
        self.in_flight[task] -= records
        self.processed[task] += records

    @rule(task=st.sampled_from("ab"), share=st.floats(0.0, 1.0))
    def give_back(self, task: str, share: float) -> None:
        unused = int(self.in_flight[task] * share)
        self.made.return_credits(task, unused)
        self.in_flight[task] -= unused
        self.returned[task] += unused

    @rule(task=st.sampled_from("ab"))
    def begin_anew(self, task: str) -> None:
        self.made.unregister_task(task)
        self.made.register_task(task)
        for count in (self.in_flight, self.granted, self.returned, self.processed):
            count[task] = 0

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(pressure=st.floats(0.0, 1.0), device=st.sampled_from(["host", "cuda:0"]))
    def pressure_changes(self, pressure: float, device: str) -> None:
        acted_before = self.made._acting_pressure
        self.made.update_memory_pressure(pressure, device)
        self.pressure[device] = pressure
        highest = max(self.pressure.values())
        fell_clearly = highest < acted_before - self.made.HYSTERESIS
        assert self.made._acting_pressure == (
            highest if highest > acted_before or fell_clearly else acted_before
        )

    @invariant()
    def counts_are_conserved(self) -> None:
        for task, credits_ in self.made.snapshot().tasks.items():
            assert credits_.in_flight == self.in_flight[task]
            assert credits_.processed_total == self.processed[task]
            assert self.granted[task] == credits_.granted_total + self.returned[task]
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

    @invariant()
    def memory_pressure_is_the_highest_of_all_devices(self) -> None:
        assert self.made.memory_pressure == max(self.pressure.values(), default=None)

    @precondition(lambda self: self.MODE is not CreditMode.FIXED)
    @rule(task=st.sampled_from("ab"))
    def a_task_with_nothing_in_flight_is_never_refused(self, task: str) -> None:
        self.report(task, 1.0, 0.1)
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
