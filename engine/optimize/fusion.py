"""Joins neighbouring record stages into programs, and drops the columns that nobody reads.

A program is everything between two breakers (a limit that could not move, a `map_batches`, the ends): one
loop, no intermediate column. Programs are built from the last to the first, since what one reads decides what
the one before it must write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import SelectStage
from dataflare.optimize.linear import LinearStep, RecordPart
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep, PhysicalStep

__all__ = ["FusedSteps", "fuse"]


@dataclass(frozen=True)
class FusedSteps:
    """The physical steps, and the source columns that they need (None: all of them)."""

    steps: tuple[PhysicalStep, ...]
    source_columns: tuple[str, ...] | None


def fuse(steps: Sequence[LinearStep], *, count_only: bool = False) -> FusedSteps:
    """Return the physical steps for `steps`; `count_only` when the end of the plan takes no column."""
    fused: list[PhysicalStep] = []
    needed: tuple[str, ...] | None = () if count_only else None
    for group in reversed(_groups(steps)):
        if isinstance(group, LimitStep):
            fused.append(group)
        elif isinstance(group, MapBatchesStep):
            fused.append(group)
            needed = None  # what a user's function reads is not known
        else:
            program = _program(group, needed)
            needed = program.required_columns
            if not (program.row_preserving and not program.output_schema.names):
                fused.append(ComputeStep(program))  # else: counting what it gives is counting what it gets
    return FusedSteps(tuple(reversed(fused)), needed)


def _groups(
    steps: Sequence[LinearStep],
) -> list[tuple[RecordPart, ...] | MapBatchesStep | LimitStep]:
    groups: list[tuple[RecordPart, ...] | MapBatchesStep | LimitStep] = []
    for is_record, run in groupby(steps, key=lambda step: isinstance(step, RecordPart)):
        if is_record:
            groups.append(tuple(step for step in run if isinstance(step, RecordPart)))
        else:
            groups.extend(step for step in run if not isinstance(step, RecordPart))
    return groups


def _program(group: tuple[RecordPart, ...], needed: tuple[str, ...] | None) -> RecordProgram:
    stages = [part.stage for part in group]
    if needed is not None:
        stages.append(SelectStage(tuple((name, name) for name in needed)))
    return build_program(tuple(stages), group[0].input_schema)
