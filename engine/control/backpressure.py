"""BackpressureController: the one authority that admits: records by credits, batches by credits and bytes.

Covers locking, waiting, memory pressure and admission. The arithmetic of one task's credits is in
``credits``, that of bytes in ``budget``; what a batch holds while it exists is in ``admission``. It reads no clock or
monitor but those handed in.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dataflare.control.admission import Admission
from dataflare.control.budget import MemoryBudget
from dataflare.control.checks import require_integer, require_number
from dataflare.control.clock import Clock, Duration, to_seconds
from dataflare.control.credits import CreditAccount, CreditConfig, CreditMode, open_account
from dataflare.control.monitors import MemoryMonitor, MemoryReading
from dataflare.kernels.errors import OptionError, nearest

__all__ = ["BackpressureController", "BackpressureSnapshot", "TaskCredits"]


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


class _Task:
    """The account of one task, and those who wait for its credits, first come first served."""

    __slots__ = ("account", "waiting")

    def __init__(self, account: CreditAccount) -> None:
        self.account = account
        self.waiting: deque[threading.Condition] = deque()

    def wake_first(self) -> None:
        if self.waiting:
            self.waiting[0].notify()


class BackpressureController:
    """Grants credits (records) to registered tasks. Thread-safe.

    Each task has a window, or a bucket, of its own, so none can take another's. Those who wait for credits of
    the same task are served in the order in which they came: while one waits, nobody else gets any, so a large
    request does not starve behind small ones. Whatever concerns one task is O(1); news that concern all (memory
    pressure, a lost device) wake one waiter a task.

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
        self._tasks: dict[str, _Task] = {}
        self._pressure: dict[str, float] = {}
        self._monitor_errors: dict[str, str] = {}
        self._lost: dict[str, str] = {}
        self._acting_pressure = 0.0
        self._share = 1.0

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
            if task_id not in self._tasks:
                self._tasks[task_id] = _Task(open_account(self._config, self._clock()))

    def unregister_task(self, task_id: str) -> None:
        """Forget a task; those waiting for its credits get 0."""
        with self._lock:
            task = self._task(task_id)
            del self._tasks[task_id]
            for turn in task.waiting:
                turn.notify()

    def request_credits(self, task_id: str, n: int) -> int:
        """Grant up to ``n`` credits, as many as there are; 0 when there are none, or others wait. Never blocks."""
        return self._request(task_id, n, None)

    def acquire(self, task_id: str, n: int, timeout: Duration | None = None) -> int:
        """Wait until ``n`` credits are there and grant them; of more than a task can hold, it gets the most.

        After ``timeout`` (seconds or timedelta) it grants what there is, which may be 0; 0 also when the task
        is unregistered meanwhile or a device is lost. Waits, in turn with others who wait for the same task, on a
        condition that reports, pressure changes and the refill wake.
        """
        require_integer("BackpressureController", "n", n, 0)
        deadline_s = None if timeout is None else self._clock() + to_seconds(timeout, "timeout")
        with self._lock:
            task = self._task(task_id)
            turn: threading.Condition | None = None
            try:
                while not self._lost and self._tasks.get(task_id) is task:
                    now_s = self._clock()
                    over = deadline_s is not None and now_s >= deadline_s
                    wait_s = None if deadline_s is None else deadline_s - now_s
                    if not task.waiting or task.waiting[0] is turn:
                        account = task.account
                        available = account.available(now_s, self._share)
                        if over or available >= min(n, account.window(self._share)):
                            granted = min(n, available)
                            account.take(granted)
                            return granted
                        refill_s = account.seconds_until(n, self._share)
                        if refill_s is not None:
                            wait_s = refill_s if wait_s is None else min(wait_s, refill_s)
                    elif over:
                        return 0
                    if turn is None:
                        turn = threading.Condition(self._lock)
                        task.waiting.append(turn)
                    turn.wait(None if wait_s is None else min(wait_s, CreditAccount.LONGEST_WAIT_S))
                return 0
            finally:
                if turn is not None:
                    task.waiting.remove(turn)
                    task.wake_first()

    def return_credits(self, task_id: str, n: int) -> None:
        """Give back ``n`` credits that were granted and not used: there were fewer records than asked for."""
        require_integer("BackpressureController", "n", n, 0)
        with self._lock:
            task = self._task(task_id)
            task.account.give_back(n)
            task.wake_first()

    def report_processing(self, task_id: str, records: int, duration: Duration) -> None:
        """Tell that a consumer has processed ``records`` in ``duration``: their credits come back."""
        duration_s = to_seconds(duration)
        if type(records) is not int or records < 0:
            require_integer("BackpressureController", "records", records, 0)
        with self._lock:
            task = self._task(task_id)
            task.account.report(records, duration_s, self._clock())
            if task.waiting:
                task.wake_first()

    def update_memory_pressure(self, p: float, device: str = "host") -> None:
        """Tell how full the memory of ``device`` is, from 0 to 1."""
        require_number("BackpressureController", "memory pressure", p, 0.0, 1.0)
        with self._lock:
            self._pressure[device] = p
            highest = max(self._pressure.values())
            # Rising pressure acts at once, falling pressure only when it has fallen clearly.
            if highest > self._acting_pressure or highest < self._acting_pressure - self.HYSTERESIS:
                self._act_on(highest)

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
            self._act_on(max(self._pressure.values(), default=0.0))

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
            return sum(task.account.in_flight for task in self._tasks.values())

    def available_credits(self, task_id: str) -> int:
        """Return the credits that a request would get now."""
        with self._lock:
            task = self._task(task_id)
            if task.waiting or self._lost:
                return 0
            return task.account.available(self._clock(), self._share)

    def processing_rate(self, task_id: str) -> float | None:
        """Return the records per second of processing, smoothed over reports; None before the first."""
        with self._lock:
            return self._task(task_id).account.rate

    def admit(
        self,
        task_id: str,
        rows: int,
        bytes_per_row: float,
        *,
        least_rows: int = 1,
        window_rows: int | None = None,
    ) -> Admission | None:
        """Admit one batch of up to ``rows`` records, or None. Never blocks.

        Both kinds of leave come from here: credits for the records, and a reservation of
        ``rows × bytes_per_row`` in the budget. When the bytes do not fit, fewer rows are tried, halving down
        to ``least_rows``; the task's own guarantee in the budget is what makes that smallest batch always fit
        when the task has nothing in flight. Fewer credits than ``least_rows`` are not worth a batch, unless
        the configuration's minimum is lower. ``window_rows`` is what the caller would have on its way without
        memory pressure, should that be less than the credits: ADAPTIVE then scales down from there.
        """
        granted = self._request(task_id, rows, window_rows)
        if granted < min(rows, least_rows, self._config.min_credits):
            if granted:
                self.return_credits(task_id, granted)
            return None
        budget = self._budget
        if budget is None:
            return Admission(self, task_id, granted, None)
        wanted = granted
        while True:
            reservation = budget.reserve(task_id, math.ceil(wanted * bytes_per_row))
            if reservation is not None:
                if wanted < granted:
                    self.return_credits(task_id, granted - wanted)
                return Admission(self, task_id, wanted, reservation)
            if wanted <= least_rows:
                self.return_credits(task_id, granted)
                return None
            wanted = max(least_rows, wanted // 2)

    def seconds_until_credits(self, task_id: str, n: int) -> float | None:
        """Return the seconds until time alone brings ``n`` credits, or the most the task can hold.

        None when time brings none: they are there, only a report or a fall of pressure can bring them, or a device
        is lost.
        """
        with self._lock:
            account = self._task(task_id).account
            account.available(self._clock(), self._share)
            return None if self._lost else account.seconds_until(n, self._share)

    def snapshot(self) -> BackpressureSnapshot:
        """Return the state of all tasks at one moment."""
        with self._lock:
            now_s = self._clock()
            tasks = {
                task_id: TaskCredits(
                    available=task.account.available(now_s, self._share),
                    in_flight=task.account.in_flight,
                    allowance=task.account.window(self._share),
                    granted_total=task.account.granted_total,
                    processed_total=task.account.processed_total,
                    processing_rate=task.account.rate,
                )
                for task_id, task in self._tasks.items()
            }
            return BackpressureSnapshot(
                mode=self._config.mode,
                memory_pressure=max(self._pressure.values(), default=None),
                pressure_by_device=MappingProxyType(dict(self._pressure)),
                monitor_errors=MappingProxyType(dict(self._monitor_errors)),
                lost_devices=MappingProxyType(dict(self._lost)),
                tasks=MappingProxyType(tasks),
            )

    def _request(self, task_id: str, n: int, window_rows: int | None) -> int:
        if type(n) is not int or n < 0:
            require_integer("BackpressureController", "n", n, 0)
        with self._lock:
            task = self._tasks.get(task_id)
            if task is None:
                task = self._task(task_id)
            if task.waiting or self._lost:
                return 0
            account = task.account
            granted = account.available(self._clock(), self._share, window_rows)
            if granted > n:
                granted = n
            if granted:
                account.take(granted)
            return granted

    def _act_on(self, pressure: float) -> None:
        """Scale the windows to this pressure: whole up to the threshold, then down to the minimum."""
        self._acting_pressure = pressure
        threshold = self._config.memory_threshold
        scales = self._config.mode is CreditMode.ADAPTIVE and threshold < pressure
        self._share = (1.0 - pressure) / (1.0 - threshold) if scales else 1.0
        self._wake_all()

    def _note_lost(self, device: str, reading: MemoryReading) -> None:
        with self._lock:
            if reading.lost and any(monitor.device == device for monitor in self._monitors):
                self._lost[device] = reading.error or "no reason is known"
                self._wake_all()
            else:
                self._lost.pop(device, None)

    def _wake_all(self) -> None:
        for task in self._tasks.values():
            task.wake_first()

    def _task(self, task_id: str) -> _Task:
        try:
            return self._tasks[task_id]
        except KeyError:
            hint = nearest(task_id, self._tasks)
            raise OptionError(
                f"task {task_id!r} is not registered; call register_task first. {hint}".rstrip()
            ) from None
