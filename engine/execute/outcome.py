"""Outcome: how a run ended, as a runtime hands it to the engine.

Covers the states of a workflow, the counts of its tasks, and how the caller's thread waits for them. The report that
users get is made of it in ``run``.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dataflare.observe.report import StageReport

__all__ = ["Outcome", "WorkflowState", "WorkflowStatus", "wait_interruptibly"]

_LOOK_UP_S: Final = 0.5


class WorkflowState(enum.Enum):
    """created → initialized → running ⇄ paused → completed | failed | stopped."""

    CREATED = "created"
    INITIALIZED = "initialized"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def ended(self) -> bool:
        """Whether nothing can happen any more."""
        return self in (WorkflowState.COMPLETED, WorkflowState.FAILED, WorkflowState.STOPPED)


class WorkflowStatus(NamedTuple):
    """The state of a workflow and, when it failed or was stopped, why."""

    state: WorkflowState
    reason: str | None = None

    def __str__(self) -> str:
        return self.state.value if self.reason is None else f"{self.state.value} ({self.reason})"


class Outcome(NamedTuple):
    """How a workflow ended."""

    status: WorkflowStatus
    error: BaseException | None
    files: tuple[str, ...]
    stages: tuple[StageReport, ...]
    rows_in: int
    rows_out: int
    batches: int
    rows_dropped_null_predicate: int


def wait_interruptibly(changed: threading.Condition, done: Callable[[], object]) -> None:
    """Wait for ``done``, on the thread that Ctrl-C interrupts; the condition must be held.

    A signal that comes just before Python's lock begins to wait is seen only when that wait is over, which may be
    never: so the wait is over now and then.
    """
    while not changed.wait_for(done, _LOOK_UP_S):
        pass
