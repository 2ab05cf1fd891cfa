"""Credits: how many records a task may have on their way. The configuration, and the arithmetic of one task.

Covers the three modes without locks, waiting and the reading of memory; ``backpressure`` adds those. No clock is
read here.
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import timedelta

from dataflare.control.checks import require_integer, require_number
from dataflare.control.clock import to_seconds
from dataflare.kernels.errors import OptionError

__all__ = ["BucketAccount", "CreditAccount", "CreditConfig", "CreditMode", "WindowAccount", "open_account"]


class CreditMode(enum.Enum):
    """Where credits come from."""

    FIXED = "fixed"
    """A bucket that time refills at ``refill_rate``: a plain rate limit that needs no reports."""
    DYNAMIC = "dynamic"
    """A window of records in flight that follows the measured processing rate; reports bring credits back."""
    ADAPTIVE = "adaptive"
    """As dynamic, and memory pressure scales the window down, as far as ``min_credits``."""


@dataclass(frozen=True, slots=True)
class CreditConfig:
    """How many records a task may have on their way.

    Parameters
    ----------
    mode
        FIXED, DYNAMIC or ADAPTIVE; see `CreditMode`.
    initial_credits
        Credits of a task when it registers.
    min_credits, max_credits
        Bounds of the credits a task may hold (FIXED: the bucket's capacity is ``max_credits``) or have in
        flight. They do not bound the rate.
    refill_rate
        Credits per second: FIXED, the refill; otherwise the slowest at which the window grows.
    refill_interval
        Seconds, or a timedelta: the least time between two re-evaluations of the window, and between two
        wake-ups of a task that waits for time to refill its bucket.
    memory_threshold
        Memory pressure (0 to 1) above which ADAPTIVE scales the window down; at 1 it is ``min_credits``.
    queue_target
        Seconds of work, or a timedelta, that the window of DYNAMIC and ADAPTIVE holds at the measured rate; with
        a quarter on top, so that it can grow. None: it does not follow the rate, and grows to ``max_credits``.

    Raises
    ------
    OptionError
        A field is out of range; the message names the field and the range.
    """

    mode: CreditMode = CreditMode.DYNAMIC
    initial_credits: int = 1000
    min_credits: int = 100
    max_credits: int = 10000
    refill_rate: float = 200.0
    refill_interval: float | timedelta = 0.05
    memory_threshold: float = 0.7
    queue_target: float | timedelta | None = 1.0
    refill_interval_s: float = field(init=False, repr=False, compare=False)
    queue_target_s: float | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        owner = "CreditConfig"
        mode: object = self.mode
        if not isinstance(mode, CreditMode):
            names = ", ".join(f"CreditMode.{mode.name}" for mode in CreditMode)
            raise OptionError(f"{owner}.mode must be one of {names}, got {self.mode!r}.")
        require_integer(owner, "min_credits", self.min_credits, 1)
        require_integer(owner, "max_credits", self.max_credits, self.min_credits)
        require_integer(owner, "initial_credits", self.initial_credits, self.min_credits, self.max_credits)
        require_number(owner, "refill_rate", self.refill_rate, 0.0, open_low=True)
        require_number(owner, "memory_threshold", self.memory_threshold, 0.0, 1.0, open_low=True)
        interval_s = to_seconds(self.refill_interval, f"{owner}.refill_interval")
        object.__setattr__(self, "refill_interval_s", interval_s)
        target = self.queue_target
        target_s = None if target is None else to_seconds(target, f"{owner}.queue_target")
        object.__setattr__(self, "queue_target_s", target_s)


class CreditAccount(ABC):
    """The credits of one task: what it was granted, what came back, and the rate that the reports tell.

    ``share`` is everywhere the part of the window that memory pressure leaves, from 0 to 1, and ``most`` the
    records that the task would have on their way without pressure, if that is known to be less than its window.
    """

    __slots__ = (
        "_busy_s",
        "_elapsed_s",
        "_rate_duration_s",
        "_rate_records",
        "_reported_s",
        "granted_total",
        "in_flight",
        "processed_total",
        "rate",
    )

    LONGEST_WAIT_S = 86_400.0  # more than threads can be told to wait is possible at a tiny refill rate
    SMOOTHING = 0.2
    PARALLEL_MEMORY_S = 3.0

    def __init__(self, now_s: float) -> None:
        self.in_flight = 0
        self.granted_total = 0
        self.processed_total = 0
        self.rate: float | None = None
        """Records per second of processing by one consumer."""
        self._rate_records = 0.0
        self._rate_duration_s = 0.0
        self._busy_s = 0.0
        self._elapsed_s = 0.0
        self._reported_s = now_s

    @property
    def parallelism(self) -> float:
        """How many consumers worked at once of late, at least 1."""
        return self._busy_s / self._elapsed_s if self._busy_s > self._elapsed_s > 0.0 else 1.0

    @abstractmethod
    def available(self, now_s: float, share: float, most: int | None = None) -> int:
        """Return the credits that can be granted now."""

    @abstractmethod
    def window(self, share: float, most: int | None = None) -> int:
        """Return the most credits that the task can hold as things are; at least 1."""

    @abstractmethod
    def seconds_until(self, n: int, share: float) -> float | None:
        """Return the seconds until time alone brings ``n`` credits, or the most the task can hold.

        None when time brings none: they are there, or only reports and falling pressure can bring them.
        """

    def take(self, granted: int) -> None:
        """Book a grant."""
        self.granted_total += granted
        self.in_flight += granted

    def give_back(self, unused: int) -> None:
        """Undo as much of a grant as was not used; no more than is in flight."""
        returned = min(unused, self.in_flight)
        self.granted_total -= returned
        self.in_flight -= returned

    def report(self, records: int, duration_s: float, now_s: float) -> None:
        """Book consumed records, and learn the processing rate from them."""
        self.processed_total += records
        left = self.in_flight - records
        self.in_flight = left if left > 0 else 0
        if records > 0 and duration_s > 0.0:
            # Records and seconds are smoothed apart: a mean of rates would take long to notice a slow consumer.
            fade = 1.0 - self.SMOOTHING
            self._rate_records = fade * self._rate_records + records
            self._rate_duration_s = fade * self._rate_duration_s + duration_s
            self.rate = self._rate_records / self._rate_duration_s
            # By time and not by report: the fewer consumers, the fewer reports, and a window that follows chance.
            elapsed_s = now_s - self._reported_s
            self._reported_s = now_s
            fade = math.exp(-elapsed_s / self.PARALLEL_MEMORY_S)
            self._busy_s = fade * self._busy_s + duration_s
            self._elapsed_s = fade * self._elapsed_s + elapsed_s


class BucketAccount(CreditAccount):
    """FIXED: time fills a bucket of ``max_credits`` at ``refill_rate``, whatever is reported."""

    __slots__ = ("_capacity", "_least_wait_s", "_refill_rate", "_refilled_s", "bucket")

    ROUNDING = 1e-6

    def __init__(self, config: CreditConfig, now_s: float) -> None:
        super().__init__(now_s)
        self._capacity = config.max_credits
        self._refill_rate = config.refill_rate
        self._least_wait_s = config.refill_interval_s
        self._refilled_s = now_s
        self.bucket = float(config.initial_credits)

    def available(self, now_s: float, share: float, most: int | None = None) -> int:
        """Return what is in the bucket; a sum of times that falls short by rounding alone counts as whole."""
        elapsed_s = now_s - self._refilled_s
        if elapsed_s > 0.0:
            filled = self.bucket + elapsed_s * self._refill_rate
            self.bucket = filled if filled < self._capacity else float(self._capacity)
            self._refilled_s = now_s
        return int(self.bucket + self.ROUNDING)

    def window(self, share: float, most: int | None = None) -> int:
        """Return the capacity of the bucket."""
        return self._capacity

    def seconds_until(self, n: int, share: float) -> float | None:
        """Return how long the bucket takes to fill so far."""
        missing = min(n, self._capacity) - self.bucket
        if missing <= 0.0:
            return None
        return min(max(self._least_wait_s, missing / self._refill_rate), self.LONGEST_WAIT_S)

    def take(self, granted: int) -> None:
        """Book a grant."""
        super().take(granted)
        self.bucket -= granted

    def give_back(self, unused: int) -> None:
        """Undo a grant that was not used."""
        before = self.in_flight
        super().give_back(unused)
        self.bucket = min(self.bucket + before - self.in_flight, float(self._capacity))


class WindowAccount(CreditAccount):
    """DYNAMIC and ADAPTIVE: a grant puts credits in flight, a report takes them out, and a window bounds them.

    ``available == max(0, window - in_flight)``, so a task with nothing in flight always has credits, and a
    consumer that stands still stops its producer. The window is as many records as are processed in
    ``queue_target`` by all who work at once. It falls to that at once, and grows as fast as records are processed,
    but at least by ``refill_rate``.
    """

    __slots__ = (
        "_config",
        "_due_s",
        "_evaluated_s",
        "allowance",
    )

    HEADROOM = 1.25

    def __init__(self, config: CreditConfig, now_s: float) -> None:
        super().__init__(now_s)
        self._config = config
        self._evaluated_s = now_s
        self._due_s = now_s + config.refill_interval_s
        self.allowance = float(config.initial_credits)
        """The window as the rate allows it, before memory pressure."""

    def available(self, now_s: float, share: float, most: int | None = None) -> int:
        """Return what the window leaves beside what is in flight."""
        if now_s >= self._due_s:
            self._evaluate(now_s)
        window = int(self.allowance) if share >= 1.0 else self.window(share, most)
        left = window - self.in_flight
        return left if left > 0 else 0

    def window(self, share: float, most: int | None = None) -> int:
        """Return the window that the rate and memory pressure allow together."""
        if share >= 1.0:
            return int(self.allowance)
        full = self.allowance if most is None else min(self.allowance, float(most))
        least = self._config.min_credits
        return least + int(share * max(0.0, full - least))

    def seconds_until(self, n: int, share: float) -> float | None:
        """Return how long the window takes to grow so far."""
        window = self.window(share)
        missing = min(n, window) + self.in_flight - window
        if missing <= 0 or share <= 0.0:
            return None
        target, growth_rate = self._aim()  # of now: since the last evaluation there may have been reports
        if self.allowance + missing / share > target:
            return None
        wait_s = max(self._config.refill_interval_s, missing / share / growth_rate)
        return min(wait_s, self.LONGEST_WAIT_S)

    def _evaluate(self, now_s: float) -> None:
        target, growth_rate = self._aim()
        self.allowance = min(target, self.allowance + (now_s - self._evaluated_s) * growth_rate)
        self._evaluated_s = now_s
        self._due_s = now_s + self._config.refill_interval_s

    def _aim(self) -> tuple[float, float]:
        """Return what the window goes to, and by how much a second."""
        config = self._config
        most = float(config.max_credits)
        rate = self.rate * self.parallelism if self.rate is not None else None
        growth_rate = config.refill_rate if rate is None else max(config.refill_rate, self.HEADROOM * rate)
        if config.queue_target_s is None:
            return most, growth_rate
        if rate is None:
            return float(config.initial_credits), growth_rate
        target = self.HEADROOM * config.queue_target_s * rate
        return min(max(target, float(config.min_credits)), most), growth_rate


def open_account(config: CreditConfig, now_s: float) -> CreditAccount:
    """Return the account of a new task."""
    return (BucketAccount if config.mode is CreditMode.FIXED else WindowAccount)(config, now_s)
