"""Scenarios: a random pipeline, what goes wrong in it, and what plain Python says must come of it.

Covers the drawing and the expectation. Running and judging is in ``torture.running``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property

from torture.endings import FILES, Ending, random_ending
from torture.records import COLUMNS, Row, make_rows
from torture.settings import Settings, random_settings
from torture.sources import STREAMS, SourceSpec, random_source
from torture.steps import Step, random_step
from torture.world import RAISING, Action, Pace, Spot

ROW_COUNTS = (0, 1, 7, 64, 300, 300, 1000, 1000, 2500)
EMULATED_ROWS = 64
ACTIONS: tuple[Action, ...] = (
    *("raise", "raise", "exit", "clear", "stall", "stall", "cancel", "interrupt"),
    *("stuck+cancel", "stuck+interrupt"),
)


@dataclass(frozen=True)
class Scenario:
    """One random pipeline and its fate."""

    seed: int
    source: SourceSpec
    count: int
    phase: int
    steps: tuple[Step, ...]
    ending: Ending
    settings: Settings
    spots: tuple[Spot, ...]
    paces: dict[str, Pace]
    drought_ends: bool
    """Whether somebody cancels a run that may wait for credits for ever."""

    def __str__(self) -> str:
        settings = self.settings
        lines = [
            f"scenario {self.seed}: {self.count} records, {self.source}",
            *(f"  {step.text}" for step in self.steps),
            f"  {self.ending}",
            f"  {settings.device}, workers {settings.workers}, limit {settings.memory_limit}, "
            f"ordered {settings.ordered}, progress: {settings.watching}",
            *(f"  {control}" for control in (settings.batching, settings.credits) if control is not None),
            *(f"  {spot}" for spot in self.spots),
            *([f"  paces: {self.paces}"] if self.paces else []),
        ]
        return "\n".join(lines)

    @cached_property
    def stages(self) -> list[list[Row]]:
        """What goes into each step, and last what comes out."""
        return self.run_in_python(make_rows(self.count, self.phase))

    @property
    def expected(self) -> list[Row]:
        return self.stages[-1]

    @property
    def may_end_early(self) -> bool:
        """Whether some records may never be looked at, although nothing goes wrong."""
        return any(step.limit is not None for step in self.steps) or self.ending.leaving != "never"

    def run_in_python(self, rows: list[Row]) -> list[list[Row]]:
        stages = [rows]
        for step in self.steps:
            stages.append(step.on_rows(stages[-1]))
        return stages

    def rows_at(self, where: str) -> list[Row]:
        """Return the records that pass a place."""
        for step, rows in zip(self.steps, self.stages, strict=False):
            if step.place == where:
                return rows
        return self.expected

    def surely_reached(self, spot: Spot) -> bool:
        """Whether a run that ends well must have passed a spot."""
        if self.may_end_early:
            return False
        if spot.where == "source":
            return spot.at <= len(self.source.sizes)
        return any(row["id"] == spot.at for row in self.rows_at(spot.where))

    def surely_fails(self) -> str | None:
        """Say what a run cannot end well for, None where it can."""
        for spot in self.spots:
            if (spot.action in RAISING or spot.action.startswith("stuck+")) and self.surely_reached(spot):
                return str(spot)
        if self.ending.flaw in ("open", "commit"):
            return f"{self.ending.flaw} of the sink"
        if self.ending.existing == "in the way":
            return "an output that is in the way"
        if self.ending.leaving == "raise" and self.ending.leaves_after == 0:
            return "the consumer"
        if self.settings.watching == "fails first" and not self.may_not_run:
            return "the progress callback"
        if self.source.kind == "bad closer" and not self.may_end_early:
            return "closing the source"
        for step, rows in zip(self.steps, self.stages, strict=False):
            if step.late_error is not None and rows and not self.may_end_early:
                return f"{step.text}: {step.late_error}"
        return None

    @property
    def may_not_run(self) -> bool:
        """Whether a count is known without a run, or nobody asks an iterator for a batch."""
        leaves_at_once = self.ending.leaving != "never" and self.ending.leaves_after == 0
        return self.ending.kind == "count" or leaves_at_once


def random_scenario(seed: int) -> Scenario:
    """Draw the scenario of a seed."""
    dice = random.Random(f"torture {seed}")
    count = dice.choice(ROW_COUNTS)
    source = random_source(dice, count)
    steps: list[Step] = []
    columns = dict(COLUMNS)
    for number, left in enumerate(reversed(range(dice.choice((0, 1, 2, 2, 3, 3, 4, 6))))):
        steps.append(random_step(dice, columns, number, last=left == 0))
        columns = steps[-1].columns
    ending = random_ending(dice)
    drought = dice.random() < 0.03
    settings = random_settings(dice, drought=drought)
    places = _places(source, steps, ending)
    spots: list[Spot] = []
    for _ in range(dice.choices((0, 1, 2), (45, 43, 12))[0] if places else 0):
        where = dice.choice(places)
        at = dice.randint(0, len(source.sizes)) if where == "source" else dice.randrange(max(1, count))
        action = dice.choice(ACTIONS)
        if where == "sink" and ending.kind == "iterate" and action.startswith("stuck"):
            action = "stall"  # the consumer's own thread could end nothing
        spots.append(Spot(where, at, action))
    if settings.device == "cuda:emulated" and count > EMULATED_ROWS:  # it takes its time for each batch
        settings = replace(settings, device="cpu")
    if not count or source.kind == "bad closer" or any(spot.where == "source" for spot in spots):
        source = replace(
            source, gives_schema=True
        )  # else building the pipeline would already read, and maybe fail
    # By dice of its own, so that everything else of a seed stays as it was. A limit on files would hit what is spilled.
    if source.kind in STREAMS and not ending.file_limit_bytes:
        source = replace(source, pausable=random.Random(f"pausable {seed}").random() < 0.7)
    scenario = Scenario(
        seed=seed,
        source=source,
        count=count,
        phase=seed % 63,
        steps=tuple(steps),
        ending=ending,
        settings=settings,
        spots=tuple(spots),
        paces={place: dice.choice(("slow", "bursty")) for place in places if dice.random() < 0.15},
        drought_ends=drought,
    )
    stuck = _stuck_behind_a_limit(scenario)
    if stuck is not None and dice.random() < 0.5:
        scenario = replace(scenario, spots=(stuck,), source=replace(source, gives_schema=True))
    return scenario


def _places(source: SourceSpec, steps: list[Step], ending: Ending) -> list[str]:
    places = ["source"] * 2 if source.kind in STREAMS else []
    places += [step.place for step in steps if step.place is not None]
    if ending.kind not in (*FILES, "collect", "to_arrow", "count"):
        places.append("sink")
    return places


def _stuck_behind_a_limit(scenario: Scenario) -> Spot | None:
    """Return a spot where the source gets stuck once a limit has all its records: the run must end all the same."""
    if scenario.source.kind not in STREAMS or not any(step.limit for step in scenario.steps):
        return None
    if any(step.late_error for step in scenario.steps):
        return None
    rows: list[Row] = []
    for number, part in enumerate(scenario.source.parts(scenario.stages[0]), 1):
        rows = rows + part
        stages = scenario.run_in_python(rows)
        for step, before in zip(scenario.steps, stages, strict=False):
            if step.limit is not None and len(before) >= step.limit:
                return Spot("source", number, "stuck")
    return None
