"""Runs a chain of filter, map, with_columns and select on the device ``"python"``, row by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dataflare.kernels.backend import ProgramResult
from dataflare.kernels.errors import ColumnNotFoundError, SchemaError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.reference.columns import Carried, InputColumn, column_of
from dataflare.kernels.reference.instrument import instrument
from dataflare.kernels.reference.logic import condition
from dataflare.kernels.reference.record import Record, cells_of
from dataflare.kernels.reference.values import lift
from dataflare.kernels.udf.source import describe_function
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, Stage, WithColumnsStage

__all__ = ["ReferenceProgram", "compile_reference"]

Cells = dict[str, Any]
_DROPPED_NULL = object()
_Step = Callable[[Cells], Any]
"""Turns the cells of one row into those of the next step; None drops the row."""


class ReferenceProgram:
    """A chain of steps that runs in plain Python; safe to run from several threads."""

    device = "python"
    cache = "compiled"

    def __init__(
        self,
        steps: Sequence[_Step],
        output_schema: pa.Schema,
        required_columns: tuple[str, ...],
        unused_columns: tuple[str, ...],
        compile_s: float,
        program: Any,
    ) -> None:
        self._steps = tuple(steps)
        self._output_schema = output_schema
        self._required_columns = required_columns
        # A function runs whole here, also the part whose result a later step leaves out: what that part reads
        # was not loaded, and null is as good as any value, since nothing of it is kept.
        self._unused = dict.fromkeys(unused_columns)
        self.compile_s = compile_s
        self.program = program

    def share(self, blocks: Sequence[Any]) -> None:
        """Return None: the interpreter runs one thread at a time."""

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run every row; ``columns`` are in the order of the required columns."""
        inputs = [
            InputColumn(name, column.to_arrow())
            for name, column in zip(self._required_columns, columns, strict=True)
        ]
        kept: list[Cells] = []
        dropped_null = 0
        with np.errstate(all="ignore"):
            for row in range(num_rows):
                cells = self._row(
                    {**self._unused, **{column.name: Carried(column, row) for column in inputs}}
                )
                if cells is _DROPPED_NULL:
                    dropped_null += 1
                elif cells is not None:
                    kept.append(cells)
            outputs = tuple(
                HostColumn.from_arrow(column_of([cells[field.name] for cells in kept], field.type))
                for field in self._output_schema
            )
        return ProgramResult(outputs, len(kept), dropped_null)

    def _row(self, cells: Any) -> Any:
        for step in self._steps:
            cells = step(cells)
            if cells is None or cells is _DROPPED_NULL:
                break
        return cells


def compile_reference(
    program_stages: Sequence[Stage],
    input_schema: pa.Schema,
    output_schema: pa.Schema,
    required_columns: Sequence[str],
    *,
    program: Any = None,
) -> ReferenceProgram:
    """Make the plain Python form of a chain of steps.

    Parameters
    ----------
    program_stages
        The steps in order.
    input_schema
        Schema of the batches; names columns in errors.
    output_schema
        Schema of the results, as the compiler found it.
    required_columns
        Names of the columns that `ReferenceProgram.run` will be given, in order.
    program
        What the result shows as its ``program``.

    Raises
    ------
    CompileError
        If a function has no source text or contains what no record function may.
    """
    started = time.perf_counter()
    steps = [_step(stage) for stage in program_stages]
    names = tuple(required_columns)
    for name in names:
        if name not in input_schema.names:
            raise ColumnNotFoundError.for_name(name, input_schema.names)
    unused = tuple(name for name in input_schema.names if name not in names)
    return ReferenceProgram(steps, output_schema, names, unused, time.perf_counter() - started, program)


def _step(stage: Stage) -> _Step:
    if isinstance(stage, FilterStage):
        return _filter(instrument(stage.fn))
    if isinstance(stage, MapStage):
        return _map(instrument(stage.fn), describe_function(stage.fn))
    if isinstance(stage, WithColumnsStage):
        return _with_columns(stage)
    assert isinstance(stage, SelectStage)
    return _select(stage)


def _filter(predicate: Callable[..., Any]) -> _Step:
    def step(cells: Cells) -> Any:
        outcome = predicate(Record(cells))
        if outcome is None:
            return _DROPPED_NULL
        return cells if condition(outcome) else None

    return step


def _map(function: Callable[..., Any], described: str) -> _Step:
    return lambda cells: _cells_of_result(function(Record(cells)), described)


def _with_columns(stage: WithColumnsStage) -> _Step:
    whole = None if stage.fn is None else instrument(stage.fn)
    described = "" if stage.fn is None else describe_function(stage.fn)
    named = [(name, instrument(fn)) for name, fn in stage.named]

    def step(cells: Cells) -> Cells:
        record = Record(cells)
        added = {} if whole is None else _cells_of_result(whole(record), described)
        return {**cells, **added, **{name: _stored(function(record)) for name, function in named}}

    return step


def _select(stage: SelectStage) -> _Step:
    def step(cells: Cells) -> Cells:
        for _, name in stage.columns:
            if name not in cells:
                raise ColumnNotFoundError.for_name(name, cells)
        return {output: cells[name] for output, name in stage.columns}

    return step


def _cells_of_result(result: Any, described: str) -> Cells:
    """Return the record that a function gave as cells of the next step."""
    if isinstance(result, Record):
        return dict(cells_of(result))
    if isinstance(result, tuple) and hasattr(result, "_asdict"):
        result = result._asdict()
    if not isinstance(result, Mapping):
        raise SchemaError(
            f"{described} must return a dict or a NamedTuple, the new record; it returned {result!r}."
        )
    return {name: _stored(value) for name, value in result.items()}


def _stored(value: Any) -> Any:
    """Give a weak number the type that a column of it has."""
    if type(value) is int:
        return np.uint64(value) if 2**63 <= value < 2**64 else np.int64((value + 2**63) % 2**64 - 2**63)
    return np.float64(value) if type(value) is float else lift(value)
