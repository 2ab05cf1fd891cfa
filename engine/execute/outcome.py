"""Outcome: how a run ended, as a runtime hands it to the engine.

Covers the states of a workflow and the counts of its tasks. The report that users get is made of it in
``run``.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dataflare.observe.report import StageReport

__all__ = ["Outcome", "WorkflowState", "WorkflowStatus"]


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
