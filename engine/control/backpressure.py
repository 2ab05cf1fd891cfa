"""BackpressureController: the one authority that admits: records by credits, batches by credits and bytes.

Covers locking, waiting, memory pressure and admission. The arithmetic of one task's credits is in
``credits``, that of bytes in ``budget``. It reads no clock or monitor but those handed in.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dataflare.control.budget import MemoryBudget, Reservation
from dataflare.control.checks import require_integer, require_number
from dataflare.control.clock import Clock, Duration, to_seconds
from dataflare.control.credits import CreditAccount, CreditConfig, CreditMode
from dataflare.control.monitors import MemoryMonitor, MemoryReading
from dataflare.kernels.errors import OptionError, nearest

__all__ = ["Admission", "BackpressureController", "BackpressureSnapshot", "TaskCredits"]


@dataclass(frozen=True, slots=True)
class TaskCredits:
    """The credits of one task at one moment, in records."""

    available: int
    in_flight: int
    """Granted and not yet reported as processed."""
    allowance: int
    """The most that may be in flight (DYNAMIC, ADAPTIVE), or the bucket's capacity (FIXED)."""
    granted_total: int
    processed_total: int
    processing_rate: float | None
    """Records per second of processing, smoothed; None before the first report."""


@dataclass(frozen=True, slots=True)
class BackpressureSnapshot:
    """A `BackpressureController` at one moment."""

    mode: CreditMode
    memory_pressure: float | None
    pressure_by_device: Mapping[str, float]
    monitor_errors: Mapping[str, str]
    """Devices whose monitor could not read: the last value counts, and this says why."""
    lost_devices: Mapping[str, str]
    """Devices that are gone, and why: nothing is admitted until `BackpressureController.forget_device`."""
    tasks: Mapping[str, TaskCredits]


class Admission:
    """Leave for one batch to exist: credits for its records and a reservation for its bytes.

    Call `settle` when the batch has been consumed, or `cancel` when it was never read.
    """

    __slots__ = ("_controller", "asked_rows", "reservation", "rows", "task_id")

    def __init__(
        self, controller: BackpressureController, task_id: str, rows: int, reservation: Reservation | None
    ) -> None:
        self._controller: BackpressureController | None = controller
        self.task_id = task_id
        self.rows = rows
        """Records granted; at most what was asked for."""
        self.asked_rows = rows
        """Records granted at first: what the source may be asked for, while it may have fewer."""
        self.reservation = reservation

    def settle(self, duration_s: float) -> None:
        """Bring credits and bytes back: the records were consumed, which took ``duration_s``. Once."""
        controller, self._controller = self._controller, None
        if controller is not None:
            if self.reservation is not None:
                self.reservation.release()
            controller.report_processing(self.task_id, self.rows, duration_s)

    def cancel(self) -> None:
        """Bring credits and bytes back: the records were never read, and nothing is learned. Once."""
        self.shrink(0)
        self._controller = None
        if self.reservation is not None:
            self.reservation.release()

    def shrink(self, rows: int) -> None:
        """Give back the credits beyond ``rows``: the source had fewer."""
        unused = self.rows - rows
        if self._controller is not None and unused > 0:
            if self.reservation is not None and rows:
                self.reservation.resize(math.ceil(self.reservation.nbytes * (rows / self.rows)))
            self.rows = rows
            self._controller._give_back(self.task_id, unused)


class BackpressureController:
    """Grants credits (records) to registered tasks. Thread-safe; every operation is O(1).

    Parameters
    ----------
    config
        Mode and bounds of the credits.
    clock
        Monotonic clock in seconds.
    monitors
        Memory monitors that `poll_monitors` reads; pressure can also be told by `update_memory_pressure`.
    budget
        Bytes that `admit` reserves from; None counts no bytes.

    Examples
    --------
    >>> controller = BackpressureController(CreditConfig(initial_credits=500))
    >>> controller.register_task("parse")
    >>> controller.request_credits("parse", 800)
    500
    >>> controller.report_processing("parse", 500, 0.01)
    >>> controller.available_credits("parse")
    500
    """

    HYSTERESIS = 0.05

    def __init__(
        self,
        config: CreditConfig | None = None,
        clock: Clock = time.monotonic,
        monitors: Iterable[MemoryMonitor] = (),
        *,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._config = config if config is not None else CreditConfig()
        self._clock = clock
        self._monitors = tuple(monitors)
        self._budget = budget
        self._lock = threading.Lock()
        self._accounts: dict[str, CreditAccount] = {}
        self._waiting: dict[str, threading.Condition] = {}
        self._pressure: dict[str, float] = {}
        self._monitor_errors: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._acting_pressure = 0.0
        self._ceiling = float(self._config.max_credits)

    @property
    def config(self) -> CreditConfig:
        """The configuration it was made with."""
        return self._config

    @property
    def budget(self) -> MemoryBudget | None:
        """The bytes that admissions are reserved from."""
        return self._budget

    def register_task(self, task_id: str) -> None:
        """Give a task its initial credits; registering it again changes nothing."""
        with self._lock:
            if task_id not in self._accounts:
                self._accounts[task_id] = CreditAccount(self._config, self._clock())

    def unregister_task(self, task_id: str) -> None:
        """Forget a task; those waiting for its credits get 0."""
        with self._lock:
            self._account(task_id)
            del self._accounts[task_id]
            waiting = self._waiting.pop(task_id, None)
            if waiting is not None:
                waiting.notify_all()

    def request_credits(self, task_id: str, n: int) -> int:
        """Grant up to ``n`` credits, as many as there are; 0 when there are none. Never blocks."""
        if n < 0:
            require_integer("BackpressureController", "n", n, 0)
        with self._lock:
            account = self._account(task_id)
            granted = 0 if self._lost else min(n, account.available(self._clock(), self._ceiling))
            if granted:
                account.take(granted)
            return granted

    def acquire(self, task_id: str, n: int, timeout: Duration | None = None) -> int:
        """Wait until ``n`` credits are there and grant them; of more than a task can hold, it gets the most.

        After ``timeout`` (seconds or timedelta) it grants what there is, which may be 0; 0 also when the task
        is unregistered meanwhile or a device is lost. Waits on a condition that reports, pressure changes and
        the refill wake.
        """
        require_integer("BackpressureController", "n", n, 0)
        deadline_s = None if timeout is None else self._clock() + to_seconds(timeout, "timeout")
        with self._lock:
            account = self._account(task_id)
            while True:
                if self._lost:
                    return 0
                now_s = self._clock()
                available = account.available(now_s, self._ceiling)
                wanted = min(n, account.most_at_once())
                over = deadline_s is not None and now_s >= deadline_s
                if available >= wanted or over:
                    granted = min(n, available)
                    account.take(granted)
                    return granted
                waits = [account.seconds_until(wanted), None if deadline_s is None else deadline_s - now_s]
                condition = self._waiting.setdefault(task_id, threading.Condition(self._lock))
                condition.wait(min((wait for wait in waits if wait is not None), default=None))
                if self._accounts.get(task_id) is not account:
                    return 0

    def report_processing(self, task_id: str, records: int, duration: Duration) -> None:
        """Tell that a consumer has processed ``records`` in ``duration``: their credits come back."""
        duration_s = to_seconds(duration)
        if records < 0:
            require_integer("BackpressureController", "records", records, 0)
        with self._lock:
            self._account(task_id).report(records, duration_s)
            self._wake(task_id)

    def update_memory_pressure(self, p: float, device: str = "host") -> None:
        """Tell how full the memory of ``device`` is, from 0 to 1."""
        require_number("BackpressureController", "memory pressure", p, 0.0, 1.0)
        with self._lock:
            self._pressure[device] = p
            highest = max(self._pressure.values())
            # Rising pressure acts at once, falling pressure only when it has fallen clearly.
            if highest > self._acting_pressure or highest < self._acting_pressure - self.HYSTERESIS:
                self._acting_pressure = highest
                self._ceiling = self._permitted(highest)
                for task_id in self._waiting:
                    self._wake(task_id)

    def poll_monitors(self) -> None:
        """Read the monitors and take over their pressure. One that cannot read keeps its last value."""
        for monitor in self._monitors:
            reading = monitor.read()
            if reading.error is None:
                self._monitor_errors.pop(monitor.device, None)
            else:
                self._monitor_errors[monitor.device] = reading.error
            self._note_lost(monitor.device, reading)
            if reading.pressure is not None and not reading.stale:
                self.update_memory_pressure(reading.pressure, monitor.device)

    def forget_device(self, device: str) -> None:
        """Go on without a device: its pressure no longer counts, and its loss no longer stops admission.

        For whoever has moved its work elsewhere. Its monitor is not read again.
        """
        with self._lock:
            self._monitors = tuple(monitor for monitor in self._monitors if monitor.device != device)
            self._lost.pop(device, None)
            self._monitor_errors.pop(device, None)
            self._pressure.pop(device, None)
            self._acting_pressure = max(self._pressure.values(), default=0.0)
            self._ceiling = self._permitted(self._acting_pressure)
            for task_id in self._waiting:
                self._wake(task_id)

    @property
    def lost_devices(self) -> Mapping[str, str]:
        """Devices that are gone, and why. While there is one, nothing is admitted; what is inside drains."""
        with self._lock:
            return MappingProxyType(dict(self._lost))

    @property
    def memory_pressure(self) -> float | None:
        """The highest pressure of any device; None while no device has told its own."""
        with self._lock:
            return max(self._pressure.values(), default=None)

    @property
    def in_flight(self) -> int:
        """Credits of all tasks that were granted and not yet reported as processed."""
        with self._lock:
            return sum(account.in_flight for account in self._accounts.values())

    def available_credits(self, task_id: str) -> int:
        """Return the credits that a request would get now."""
        with self._lock:
            available = self._account(task_id).available(self._clock(), self._ceiling)
            return 0 if self._lost else available

    def processing_rate(self, task_id: str) -> float | None:
        """Return the records per second of processing, smoothed over reports; None before the first."""
        with self._lock:
            return self._account(task_id).rate

    def admit(
        self, task_id: str, rows: int, bytes_per_row: float, *, least_rows: int = 1
    ) -> Admission | None:
        """Admit one batch of up to ``rows`` records, or None. Never blocks.

        Both kinds of leave come from here: credits for the records, and a reservation of
        ``rows × bytes_per_row`` in the budget. When the bytes do not fit, fewer rows are tried, halving down
        to ``least_rows``; the task's own guarantee in the budget is what makes that smallest batch always fit
        when the task has nothing in flight. Fewer credits than ``least_rows`` are not worth a batch, unless
        the configuration's minimum is lower.
        """
        granted = self.request_credits(task_id, rows)
        if granted < min(rows, least_rows, self._config.min_credits):
            if granted:
                self._give_back(task_id, granted)
            return None
        budget = self._budget
        if budget is None:
            return Admission(self, task_id, granted, None)
        wanted = granted
        while True:
            reservation = budget.reserve(task_id, math.ceil(wanted * bytes_per_row))
            if reservation is not None:
                if wanted < granted:
                    self._give_back(task_id, granted - wanted)
                return Admission(self, task_id, wanted, reservation)
            if wanted <= least_rows:
                self._give_back(task_id, granted)
                return None
            wanted = max(least_rows, wanted // 2)

    def seconds_until_credits(self, task_id: str, n: int) -> float | None:
        """Return the seconds until time alone brings ``n`` credits, or the most the task can hold.

        None when only a report or a fall of pressure can, or a device is lost: then there is nothing to wait
        for but those.
        """
        with self._lock:
            account = self._account(task_id)
            account.available(self._clock(), self._ceiling)
            return None if self._lost else account.seconds_until(min(n, account.most_at_once()))

    def snapshot(self) -> BackpressureSnapshot:
        """Return the state of all tasks at one moment."""
        with self._lock:
            now_s = self._clock()
            tasks = {
                task_id: TaskCredits(
                    available=account.available(now_s, self._ceiling),
                    in_flight=account.in_flight,
                    allowance=account.most_at_once(),
                    granted_total=account.granted_total,
                    processed_total=account.processed_total,
                    processing_rate=account.rate,
                )
                for task_id, account in self._accounts.items()
            }
            return BackpressureSnapshot(
                mode=self._config.mode,
                memory_pressure=max(self._pressure.values(), default=None),
                pressure_by_device=MappingProxyType(dict(self._pressure)),
                monitor_errors=MappingProxyType(dict(self._monitor_errors)),
                lost_devices=MappingProxyType(dict(self._lost)),
                tasks=MappingProxyType(tasks),
            )

    def _note_lost(self, device: str, reading: MemoryReading) -> None:
        with self._lock:
            if reading.lost and any(monitor.device == device for monitor in self._monitors):
                self._lost[device] = reading.error or "no reason is known"
                for task_id in self._waiting:
                    self._wake(task_id)
            else:
                self._lost.pop(device, None)

    def _give_back(self, task_id: str, unused: int) -> None:
        with self._lock:
            self._account(task_id).give_back(unused)
            self._wake(task_id)

    def _account(self, task_id: str) -> CreditAccount:
        try:
            return self._accounts[task_id]
        except KeyError:
            hint = nearest(task_id, self._accounts)
            raise OptionError(
                f"task {task_id!r} is not registered; call register_task first. {hint}".rstrip()
            ) from None

    def _wake(self, task_id: str) -> None:
        waiting = self._waiting.get(task_id)
        if waiting is not None:
            waiting.notify_all()

    def _permitted(self, pressure: float) -> float:
        """Return the allowance under this pressure: all up to the threshold, then down to the minimum."""
        config = self._config
        if config.mode is not CreditMode.ADAPTIVE or pressure <= config.memory_threshold:
            return float(config.max_credits)
        if config.memory_threshold >= 1.0:
            return float(config.max_credits)
        share = (1.0 - pressure) / (1.0 - config.memory_threshold)
        return config.min_credits + share * (config.max_credits - config.min_credits)
