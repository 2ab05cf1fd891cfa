"""Credits: how many records a task may have on their way. The configuration, and the arithmetic of one task.

Covers the three modes without locks or waiting; ``backpressure`` adds those. No clock is read here.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from datetime import timedelta

from dataflare.control.checks import require_integer, require_number
from dataflare.control.clock import to_seconds
from dataflare.kernels.errors import OptionError

__all__ = ["CreditAccount", "CreditConfig", "CreditMode"]


class CreditMode(enum.Enum):
    """Where credits come from."""

    FIXED = "fixed"
    """A bucket that time refills at ``refill_rate``: a plain rate limit that needs no reports."""
    DYNAMIC = "dynamic"
    """A window of records in flight that follows the measured processing rate; reports bring credits back."""
    ADAPTIVE = "adaptive"
    """As dynamic, and the window shrinks with memory pressure."""


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
        Memory pressure (0 to 1) above which ADAPTIVE shrinks the window.

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
    refill_interval_s: float = field(init=False, repr=False, compare=False)

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


class CreditAccount:
    """The credits of one task.

    DYNAMIC and ADAPTIVE keep ``available == max(0, allowance - in_flight)``: a grant puts credits in flight,
    a report takes them out, and the allowance follows the processing rate within [min_credits, max_credits].
    So a task with nothing in flight always has credits, and a consumer that stands still stops its producer.
    """

    __slots__ = (
        "_config",
        "_refilled_s",
        "allowance",
        "bucket",
        "granted_total",
        "in_flight",
        "processed_total",
        "rate",
        "_rate_duration_s",
        "_rate_records",
    )

    HEADROOM = 1.25
    QUEUED_WORK_S = 1.0  # the window holds this much work, at the measured rate with headroom
    SMOOTHING = 0.2

    def __init__(self, config: CreditConfig, now_s: float) -> None:
        self._config = config
        self._refilled_s = now_s
        self.allowance = float(config.initial_credits)
        self.bucket = float(config.initial_credits)
        self.in_flight = 0
        self.granted_total = 0
        self.processed_total = 0
        self.rate: float | None = None
        self._rate_records = 0.0
        self._rate_duration_s = 0.0

    def available(self, now_s: float, ceiling: float) -> int:
        """Return the credits that can be granted now; ``ceiling`` is the allowance that pressure permits."""
        self._advance(now_s, ceiling)
        if self._config.mode is CreditMode.FIXED:
            return math.floor(self.bucket)
        return max(0, math.floor(self.allowance) - self.in_flight)

    def most_at_once(self) -> int:
        """Return the most credits that the task can hold at the present allowance."""
        return (
            self._config.max_credits if self._config.mode is CreditMode.FIXED else math.floor(self.allowance)
        )

    def take(self, granted: int) -> None:
        """Book a grant."""
        self.granted_total += granted
        self.in_flight += granted
        self.bucket -= granted

    def give_back(self, unused: int) -> None:
        """Undo a grant that was not used."""
        returned = min(unused, self.in_flight)
        self.granted_total -= returned
        self.in_flight -= returned
        self.bucket = min(self.bucket + returned, float(self._config.max_credits))

    def report(self, records: int, duration_s: float) -> None:
        """Book consumed records, and learn the processing rate from them."""
        self.processed_total += records
        self.in_flight = max(0, self.in_flight - records)
        if records > 0 and duration_s > 0.0:
            # Records and seconds are smoothed apart: a mean of rates would take long to notice a slow consumer.
            fade = 1.0 - self.SMOOTHING
            self._rate_records = fade * self._rate_records + records
            self._rate_duration_s = fade * self._rate_duration_s + duration_s
            self.rate = self._rate_records / self._rate_duration_s

    def seconds_until(self, wanted: int) -> float | None:
        """Return the seconds until time alone brings ``wanted`` credits; None when it never does."""
        config = self._config
        if config.mode is CreditMode.FIXED:
            return max(config.refill_interval_s, (wanted - self.bucket) / config.refill_rate)
        return None

    def _advance(self, now_s: float, ceiling: float) -> None:
        config = self._config
        elapsed_s = now_s - self._refilled_s
        if config.mode is CreditMode.FIXED:
            if elapsed_s > 0.0:
                self.bucket = min(float(config.max_credits), self.bucket + elapsed_s * config.refill_rate)
                self._refilled_s = now_s
            return
        if elapsed_s >= config.refill_interval_s:
            self._refilled_s = now_s
            if self.rate is not None:
                target = max(config.min_credits, self.HEADROOM * self.QUEUED_WORK_S * self.rate)
                growth = elapsed_s * max(config.refill_rate, self.HEADROOM * self.rate)
                self.allowance = min(target, self.allowance + growth, float(config.max_credits))
        self.allowance = max(float(config.min_credits), min(self.allowance, ceiling))
