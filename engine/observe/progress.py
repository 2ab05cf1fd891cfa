"""Progress of a run while it goes: the event that callbacks get, and the bar that ``progress=True`` shows.

Covers the display on a terminal. When events come is the workflow's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dataflare.observe.report import format_rate

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar", "ProgressEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """How far a run is."""

    run_id: str
    status: str
    """As `WorkflowActor.status` names it."""
    rows_read: int
    rows_done: int
    """Input records whose results the sink has taken."""
    rows_out: int
    rows_total: int | None
    """Input records in all, None when the source does not know."""
    batches: int
    elapsed_s: float

    @property
    def fraction(self) -> float | None:
        """Share of the input that is done, from 0 to 1; None when the total is unknown."""
        if self.rows_total is None:
            return None
        return min(1.0, self.rows_done / self.rows_total) if self.rows_total else 1.0


class ProgressBar:
    """A bar on the terminal that follows progress events: use it as a context manager and as the callback."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rows]}"),
            TimeElapsedColumn(),
            console=console if console is not None else RichConsole(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("running", total=None, rows="")

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        speed = f", {format_rate(event.rows_done / event.elapsed_s)}" if event.elapsed_s > 0.0 else ""
        self._progress.update(
            self._task,
            description=event.status,
            total=event.rows_total,
            completed=event.rows_done,
            rows=f"{event.rows_done:,} rows{speed}",
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
