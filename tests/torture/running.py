"""Runs one scenario and judges it: it ends right, or it is refused before it starts, or it fails as it should.

Covers the judgement. A scenario that does not end at all is for the watchdog of whoever calls this.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from torture import endings
from torture.checks import Before, settle
from torture.records import COLUMNS, Row, comparable, schema_of
from torture.scenario import Scenario
from torture.sources import open_source
from torture.steps import build
from torture.world import CANCEL_REASON, RAISING, World

from dataflare.actors import local_runtime
from dataflare.execute import prepare, run, stream
from dataflare.execute.reading import SharedReader
from dataflare.kernels.errors import (
    MemoryLimitError,
    OptionError,
    OutputExistsError,
    RunCancelledError,
    RunError,
    SchemaError,
    SinkError,
)
from dataflare.observe.progress import ProgressEvent

Fate = Literal["right", "refused", "failed as it should", "cancelled", "interrupted"]
GRACE_S = 0.1


@dataclass
class Verdict:
    """How a scenario ended, and what was wrong with that."""

    fate: Fate
    problems: list[str]


@contextlib.contextmanager
def small_thresholds() -> Iterator[None]:
    """Let a few hundred records take the ways that engine and runtime keep for many, and the end come soon."""
    with (
        mock.patch.object(local_runtime, "GRACE_S", GRACE_S),
        mock.patch.object(prepare, "_LEAST_ROWS_A_TASK", 50),
        mock.patch.object(SharedReader, "LEAST_ROWS", 128),
    ):
        yield


def judge(scenario: Scenario) -> Verdict:
    """Run a scenario, and return what became of it."""
    before = Before()
    with tempfile.TemporaryDirectory() as name, small_thresholds():
        folder = Path(name)
        (folder / "out").mkdir()
        world = World(scenario.spots, scenario.paces)
        try:
            verdict = _Trial(scenario, world, folder).verdict()
        finally:
            world.end()
        world.raised.clear()  # their tracebacks hold iterators and batches
        verdict.problems += before.left_behind(world)
    return verdict


class _Trial:
    def __init__(self, scenario: Scenario, world: World, folder: Path) -> None:
        self._scenario = scenario
        self._world = world
        self._folder = folder
        self._out = folder / "out"
        self._events: list[ProgressEvent] = []
        self._items_read_before = 0
        self.output_is_there = False
        """Whether an error came with the remark that it came too late to matter."""

    def verdict(self) -> Verdict:
        """Run the pipeline; the results and errors of the run are let go of before this returns."""
        scenario, world = self._scenario, self._world
        pipeline = open_source(scenario.source, scenario.stages[0], world, self._folder / "in")
        pipeline = build(pipeline, list(scenario.steps), world)
        self._items_read_before = world.items_read
        endings.put_old(scenario.ending, self._out)
        options = scenario.settings.options(world, self._events)
        with self._prepared_runs_noted(), _interruptible():
            try:
                result = endings.run(scenario.ending, pipeline, world, self._out, options)
            except BaseException as error:
                fate, problems = self._judge_error(error)
            else:
                fate, problems = self._judge_result(result)
        world.end()
        settle()
        problems += self._judge_seen()
        problems += self._judge_events(fate)
        problems += self._judge_folder(fate)
        return Verdict(fate, problems)

    def _judge_result(self, result: endings.Result) -> tuple[Fate, list[str]]:
        scenario = self._scenario
        problems = []
        reason = scenario.surely_fails()
        if reason is not None:
            problems.append(f"it ended well in spite of {reason}")
        if scenario.ending.kind in (*endings.FILES, "custom sink"):
            result.rows = self._written()
        if result.count is not None and result.count != len(scenario.expected):
            problems.append(f"counted {result.count}, not {len(scenario.expected)}")
        return "right", problems + self._judge_rows(result.rows)

    def _judge_rows(self, rows: list[Row] | None) -> list[str]:
        ordered, right = self._scenario.settings.ordered, self._scenario.expected
        if rows is None or comparable(rows, ordered=ordered) == comparable(right, ordered=ordered):
            return []
        return [f"gave {_shown(rows)}, not {_shown(right)}"]

    def _written(self) -> list[Row]:
        steps = self._scenario.steps
        return endings.read_back(
            self._scenario.ending, self._out, schema_of(steps[-1].columns if steps else COLUMNS)
        )

    def _judge_error(self, error: BaseException) -> tuple[Fate, list[str]]:
        scenario, world = self._scenario, self._world
        shown = f"{type(error).__name__}: {error}"
        notes = getattr(error, "__notes__", [])
        self.output_is_there = any("output is there" in note for note in notes)
        if world.refused:
            good = isinstance(error, MemoryLimitError) and scenario.settings.memory_limit is not None
            problems = [] if good else [f"was refused without a reason: {shown}"]
            if world.items_read > self._items_read_before:
                problems.append("was refused after it had begun to read")
            return "refused", problems
        if isinstance(error, KeyboardInterrupt):
            problems = [] if world.interrupted else ["was interrupted by nobody"]
            if scenario.ending.kind != "iterate" and not any("DataFlare" in note for note in notes):
                problems.append(f"an interrupt without a note of what became of the run: {notes}")
            return "interrupted", problems
        if isinstance(error, RunCancelledError):
            good = world.cancelled and CANCEL_REASON in str(error)
            return "cancelled", [] if good else [f"was cancelled by nobody: {shown}"]
        return "failed as it should", [] if self._is_due(error) else [f"failed with {shown}"]

    def _is_due(self, error: BaseException) -> bool:
        scenario, world = self._scenario, self._world
        ending = scenario.ending
        if any(error is raised for raised in world.raised):
            return True
        if isinstance(error, RunError) and any(error.__cause__ is raised for raised in world.raised):
            return True
        if (
            isinstance(error, RunError)
            and scenario.source.kind == "bad closer"
            and "even be closed" in str(error)
        ):
            return True
        if isinstance(error, RunError | SchemaError):
            return any(
                step.late_error is not None and step.late_error in str(error) for step in scenario.steps
            )
        if isinstance(error, MemoryLimitError):
            kept = ending.kind in ("collect", "to_arrow") and "result does not fit" in str(error)
            return kept or ("a single record takes" in str(error) and self._records_are_too_large())
        if isinstance(error, OutputExistsError):
            late = any(step.opaque for step in scenario.steps)  # the sink is opened with the first batch
            return ending.existing == "in the way" and (late or world.items_read == self._items_read_before)
        return isinstance(error, SinkError) and ending.file_limit_bytes is not None

    def _records_are_too_large(self) -> bool:
        """Whether the limit cannot hold a record for each task, which only reading could tell."""
        prepared, limit_bytes = self._world.prepared[-1], self._scenario.settings.memory_limit
        return limit_bytes is not None and prepared.source_tasks * prepared.memory.bytes_per_row > limit_bytes

    def _judge_seen(self) -> list[str]:
        """Judge what a consumer saw until it left, or until the run failed: the beginning, nothing twice."""
        seen, expected = self._world.seen, self._scenario.expected
        if self._scenario.settings.ordered:
            right = comparable(seen, ordered=True) == comparable(expected[: len(seen)], ordered=True)
        else:
            left = comparable(expected, ordered=False)
            right = all(_taken(left, cells) for cells in comparable(seen, ordered=False))
        return [] if right else [f"what was seen is not a part of the result: {_shown(seen)}"]

    def _judge_events(self, fate: Fate) -> list[str]:
        events, watching = self._events, self._scenario.settings.watching
        ending = self._scenario.ending
        given_up = ending.kind == "iterate" and (ending.leaving != "never" or fate != "right")
        if watching != "counts" or not events or given_up or self.output_is_there:
            return []
        due = {"right": ("completed",), "cancelled": ("stopped",), "interrupted": ("stopped",)}
        status = events[-1].status
        allowed = due.get(fate, ("failed", "stopped"))
        fails_too = self._scenario.surely_fails() is not None
        if fate == "interrupted" and (
            fails_too or any(spot.action in RAISING for spot in self._scenario.spots)
        ):
            # Ctrl-C is for the caller; meanwhile the run may have failed by itself.
            allowed = ("failed", "stopped")
        return [] if status in allowed else [f"the last progress event says {status}"]

    def _judge_folder(self, fate: Fate) -> list[str]:
        """Judge the files that are there once nobody works any more: all of the output, or nothing of it."""
        ending = self._scenario.ending
        if ending.kind not in (*endings.FILES, "custom sink"):
            return []
        left = endings.left_over(ending, self._out)
        problems = []
        if hidden := [name for name in left if Path(name).name.startswith(".")]:
            problems.append(f"temporary files are left: {hidden}")
        if self.output_is_there:
            problems += self._judge_rows(self._written())
        elif fate != "right":
            if left:
                problems.append(f"the output of a run that failed is there: {left}")
            if ending.existing != "nothing" and not endings.old_is_whole(ending, self._out):
                problems.append("what was there before is gone")
        return problems

    @contextlib.contextmanager
    def _prepared_runs_noted(self) -> Iterator[None]:
        scenario, world = self._scenario, self._world

        def noted(*args: Any, **kwargs: Any) -> prepare.PreparedRun:
            try:
                prepared = prepare.prepare_run(*args, **kwargs)
            except (MemoryLimitError, OptionError):
                world.refused = True
                raise
            world.prepared.append(prepared)
            if scenario.drought_ends:
                world.after(0.02, world.cancel_run)
            return prepared

        with mock.patch.object(run, "prepare_run", noted), mock.patch.object(stream, "prepare_run", noted):
            yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt the run, and nothing that follows it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGINT, before)


def _taken(cells: list[Any], wanted: Any) -> bool:
    """Take one out of a list; False where it is not there."""
    with contextlib.suppress(ValueError):
        cells.remove(wanted)
        return True
    return False


def _shown(rows: list[Row]) -> str:
    numbers = [row["id"] for row in rows]
    return (
        f"{len(rows)} records {rows[:1]} with the numbers {numbers[:20]}{' ...' if len(numbers) > 20 else ''}"
    )
