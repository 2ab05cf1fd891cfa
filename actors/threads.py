"""ThreadPool: threads kept for a moment after use, since starting one costs more than a short run may.

Covers starting, parking, placing and ending threads. Each runs one function at a time, for as long as it takes: unlike
an executor there is no queue, so nothing that is started waits for a thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["ThreadPool"]

_PARKED_NAME: Final = "dataflare-parked"


class ThreadPool:
    """Daemon threads, at most ``keep`` of them parked, each for at most ``idle_s`` seconds."""

    def __init__(self, keep: int = 32, idle_s: float = 5.0) -> None:
        self._keep = keep
        self._idle_s = idle_s
        self._state = threading.Condition()
        self._parked: list[_Worker] = []
        self._busy = 0

    @property
    def busy(self) -> int:
        """Threads that run a function."""
        return self._busy

    @property
    def parked(self) -> int:
        """Threads that wait for one."""
        return len(self._parked)

    def run(self, work: Callable[[], None], name: str, core: int | None = None) -> None:
        """Run ``work`` on a thread of its own, which bears ``name`` meanwhile.

        Threads with different numbers for ``core`` begin on different cores, as far as there are any. Left to
        itself, Linux wakes two threads on the same core when the waker still occupies the other one, and moves one
        over only at the next balancing: 2 to 6 ms, half of a short run.
        """
        with self._state:
            self._busy += 1
            worker = self._parked.pop() if self._parked else None  # the last one: its caches are warm
        if worker is None:
            worker = _Worker(self)
            try:
                worker.start()
            except RuntimeError:  # the system has no more threads
                self._note_idle()
                raise
        if core is not None:
            worker.place(core)
        worker.jobs.put((work, name))

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until no thread runs a function; False after ``timeout_s``."""
        return self.wait_until_busy_at_most(0, timeout_s)

    def wait_until_busy_at_most(self, threads: int, timeout_s: float | None = None) -> bool:
        """Wait until at most so many threads run a function; False after ``timeout_s``."""
        with self._state:
            return self._state.wait_for(lambda: self._busy <= threads, timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """End the parked threads, and wait for them."""
        with self._state:
            parked, self._parked = self._parked, []
        for worker in parked:
            worker.jobs.put(None)
        for worker in parked:
            worker.join(timeout_s)

    def _note_idle(self) -> None:
        with self._state:
            self._busy -= 1
            self._state.notify_all()

    def _park(self, worker: _Worker) -> bool:
        with self._state:
            self._note_idle()
            if len(self._parked) >= self._keep:
                return False
            self._parked.append(worker)
            return True

    def _leave(self, worker: _Worker) -> bool:
        """Take an idle worker out; False when it has been given work in this very moment."""
        with self._state:
            if worker in self._parked:
                self._parked.remove(worker)
                return True
            return False


class _Worker(threading.Thread):
    def __init__(self, pool: ThreadPool) -> None:
        super().__init__(name=_PARKED_NAME, daemon=True)
        self.jobs: queue.SimpleQueue[tuple[Callable[[], None], str] | None] = queue.SimpleQueue()
        self._pool = pool
        self._cores: set[int] | None = None

    def place(self, core: int) -> None:
        """Have the thread, which waits, wake on a certain core; it is free to move from then on."""
        if not hasattr(os, "sched_setaffinity") or self.native_id is None:
            return
        with contextlib.suppress(OSError):  # a sandbox may forbid it, and nothing depends on it
            cores = os.sched_getaffinity(self.native_id)
            if len(cores) > 1:
                self._cores = cores
                os.sched_setaffinity(self.native_id, {sorted(cores)[core % len(cores)]})

    def _free(self) -> None:
        if self._cores is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self._cores)
            self._cores = None

    def run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=self._pool._idle_s)
            except queue.Empty:
                if self._pool._leave(self):
                    return
                job = self.jobs.get()
            if job is None:
                return
            self._free()
            work, self.name = job
            try:
                work()
            except BaseException as error:  # shown as any thread's would be; the thread itself lives on
                threading.excepthook(
                    threading.ExceptHookArgs((type(error), error, error.__traceback__, self))
                )
            del work, job  # a parked thread keeps nothing of its last run alive
            self.name = _PARKED_NAME
            if not self._pool._park(self):
                return
