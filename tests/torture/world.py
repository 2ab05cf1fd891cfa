"""World: what the parts of one scenario share. Who waits for whom, what was raised on purpose, and when it is over.

Covers pace (slow, bursty), spots where something happens on purpose, and the threads that let go again. Nothing sleeps
for more than a few milliseconds; what gets stuck is let go when the run is over, which somebody else sees to.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dataflare.actors.cluster import ClusterActor
from dataflare.actors.local_runtime import LocalRuntime
from dataflare.kernels.errors import ReadError, SinkError

if TYPE_CHECKING:
    from dataflare.execute.prepare import PreparedRun

PATIENCE_S = 300.0
"""How long what is stuck waits to be let go; the watchdog comes first."""

CANCEL_REASON = "a thread of the scenario had enough"


class InjectedError(Exception):
    """What a scenario raises on purpose, and no part of the engine knows."""


class InjectedExit(BaseException):
    """The same, and no `Exception`."""


Pace = Literal["steady", "slow", "bursty"]
Action = Literal[
    "raise", "exit", "clear", "stall", "cancel", "interrupt", "stuck+cancel", "stuck+interrupt", "stuck"
]
RAISING: tuple[Action, ...] = ("raise", "exit", "clear")


@dataclass(frozen=True)
class Spot:
    """A place where something happens on purpose: once, when it is reached for the first time.

    A step and a sink are reached by the record with the number ``at``, a source by its item of that number.
    """

    where: str
    at: int
    action: Action

    def __str__(self) -> str:
        return f"{self.action} in {self.where} at {self.at}"


class World:
    """One scenario while it runs. Thread-safe."""

    def __init__(self, spots: Sequence[Spot], paces: dict[str, Pace]) -> None:
        self.over = threading.Event()
        self.raised: list[BaseException] = []
        self.items_read = 0
        self.seen: list[dict[str, Any]] = []
        """Records that a consumer or a function of the sink was given."""
        self.sources_open = 0
        self.cancelled = False
        self.interrupted = False
        self.prepared: list[PreparedRun] = []
        self.refused = False
        self._spots = spots
        self._paces = paces
        self._lock = threading.Lock()
        self._reached: set[Spot] = set()
        self._calls: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    def reached(self, spot: Spot) -> bool:
        return spot in self._reached

    def pass_by(self, where: str, numbers: Sequence[int]) -> None:
        """Go through a place with the records or the item of these numbers, at the pace of the place."""
        self._keep_pace(where)
        for spot in self._spots:
            if spot.where == where and spot.at in numbers:
                with self._lock:
                    first = spot not in self._reached
                    self._reached.add(spot)
                if first:
                    self._act(spot)

    def fail(self, error: BaseException) -> None:
        """Raise an error on purpose."""
        self.raised.append(error)
        raise error

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Do something on another thread, a moment later or when all is over, whichever is first."""

        def wait_and_do() -> None:
            self.over.wait(seconds)
            do()

        thread = threading.Thread(target=wait_and_do, name="torture-controller")
        self._threads.append(thread)
        thread.start()

    def cancel_run(self) -> None:
        """Cancel the run, as another thread of the user's might."""
        if not self.over.is_set() and self.prepared:
            self.cancelled = True
            run_id = self.prepared[-1].run_id
            LocalRuntime.shared().cluster.post(ClusterActor.stop_workflow, run_id, CANCEL_REASON)

    def interrupt_run(self) -> None:
        """Press Ctrl-C."""
        if not self.over.is_set():
            self.interrupted = True
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

    def end(self) -> None:
        """Let go of everything that is stuck, and wait for the threads made here."""
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _keep_pace(self, where: str) -> None:
        pace = self._paces.get(where, "steady")
        with self._lock:
            call = self._calls[where] = self._calls.get(where, 0) + 1
        if pace == "slow":
            self.over.wait(0.001)
        elif pace == "bursty" and call % 6 == 0:
            self.over.wait(0.004)

    def _act(self, spot: Spot) -> None:
        match spot.action:
            case "raise":
                self.fail(InjectedError(f"on purpose: {spot}"))
            case "exit":
                self.fail(InjectedExit(f"on purpose: {spot}"))
            case "clear":
                kind = ReadError if spot.where == "source" else SinkError
                self.fail(kind(f"on purpose: {spot}"))
            case "stall":
                released = threading.Event()
                self.after(0.005, released.set)
                assert released.wait(PATIENCE_S)
            case "cancel":
                self.after(0.0, self.cancel_run)
            case "interrupt":
                self.interrupt_run()
            case "stuck+cancel":
                self.after(0.002, self.cancel_run)
                self._get_stuck()
            case "stuck+interrupt":
                self.interrupt_run()
                self._get_stuck()
            case "stuck":
                self._get_stuck()

    def _get_stuck(self) -> None:
        assert self.over.wait(PATIENCE_S), "nothing ended the run"
