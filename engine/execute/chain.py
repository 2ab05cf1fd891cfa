"""Chain: the steps that one task applies to each batch, with their meters.

Covers compiled programs, functions of ``map_batches`` and limits. One chain belongs to one task; what chains
of several tasks share (compiled programs, the schema that a first batch fixed) is made before. Steps that keep
batches on a device are in `dataflare.execute.device_chain`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from dataflare.execute.meters import StageMeter
from dataflare.kernels.errors import SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch
    from dataflare.execute.handover import Handover
    from dataflare.kernels.backend import CompiledProgram, ProgramResult
    from dataflare.kernels.cuda.placed import PlacedResult
    from dataflare.kernels.memory.column import HostColumn

__all__ = ["Chain", "ComputeStage", "LimitStage", "MapBatchesStage", "SchemaLatch", "Stage"]


class Stage(Protocol):
    """One step, in one task."""

    @property
    def name(self) -> str:
        """What the step is called in reports and errors."""

    @property
    def meter(self) -> StageMeter:
        """What it counted."""

    def process(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Return what becomes of the batch, or None when nothing does."""


def _ignore(device: str, reason: str) -> None:
    """Do nothing about a device that is lost."""


class ComputeStage:
    """A compiled record program.

    Parameters
    ----------
    on_device_lost
        Called with the device and the reason after each batch that the CPU computed because a device was lost.
    """

    def __init__(
        self, name: str, compiled: CompiledProgram, on_device_lost: Callable[[str, str], None] = _ignore
    ) -> None:
        from dataflare.batch import SharedDataBatch

        self.name = name
        self.meter = StageMeter(name, "processor")
        self.compiled = compiled
        self._on_device_lost = on_device_lost
        self._schema = compiled.program.output_schema
        self._required = compiled.program.required_columns
        self._from_columns = SharedDataBatch._from_columns
        self._places_schema: pa.Schema | None = None
        self._places: tuple[int, ...] = ()

    def columns(self, batch: SharedDataBatch) -> list[HostColumn]:
        """Return the columns that the program reads, in its order and in host memory."""
        columns = batch._columns
        return [columns[place] for place in self.places(batch)]

    def places(self, batch: SharedDataBatch) -> tuple[int, ...]:
        """Return which columns of a batch the program reads, in its order."""
        schema = batch.schema
        if schema is not self._places_schema:
            names = list(schema.names)
            self._places = tuple(names.index(name) for name in self._required)
            self._places_schema = schema
        return self._places

    def process(self, batch: SharedDataBatch) -> SharedDataBatch:
        """Run the program on the batch."""
        rows = batch.num_rows
        columns = self.columns(batch)
        began_s = perf_counter()
        result = self.compiled.run(columns, rows)
        self.count(rows, result, perf_counter() - began_s)
        return self._from_columns(
            self._schema,
            result.columns,
            result.num_rows,
            watermark=batch.watermark,
            metadata=batch.metadata,
        )

    def count(self, rows: int, result: ProgramResult | PlacedResult, took_s: float) -> None:
        """Count a batch."""
        meter = self.meter
        meter.kernel_s += took_s
        meter.batches += 1
        meter.rows_in += rows
        meter.rows_out += result.num_rows
        meter.rows_dropped_null_predicate += result.rows_dropped_null_predicate
        if result.device_retries or result.on_cpu:
            meter.device_retries += result.device_retries
            meter.batches_on_cpu += result.on_cpu
            if result.lost_device is not None:
                self._on_device_lost(*result.lost_device)


class SchemaLatch:
    """The schema of a step that was not given one: the first batch of any task decides."""

    def __init__(self, schema: pa.Schema | None) -> None:
        self._lock = threading.Lock()
        self._schema = schema
        self._given = schema is not None

    def check(self, step: str, schema: pa.Schema) -> None:
        """Fix the schema, or raise a ``SchemaError`` when this one differs from it."""
        with self._lock:
            if self._schema is None:
                self._schema = schema
            expected = self._schema
        if expected.equals(schema):
            return
        source = "the schema given for it" if self._given else "the schema of the first batch it returned"
        raise SchemaError(
            f"{step} returned a batch that differs from {source}: {_difference(expected, schema)}. "
            "Return the same columns with the same types from every call."
        )


class MapBatchesStage:
    """A user's function of whole batches; a class is built once, here."""

    def __init__(self, name: str, fn: Callable[[Any], Any], latch: SchemaLatch, handover: Handover) -> None:
        self.name = name
        self.meter = StageMeter(name, "processor")
        self._fn = handover.built(fn)
        self._latch = latch
        self._handover = handover

    def process(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Call the function; an empty batch (all its records were filtered out) is not worth a call."""
        if batch.num_rows == 0:
            return None
        meter = self.meter
        began_s = perf_counter()
        result = self.call(batch)
        meter.kernel_s += perf_counter() - began_s
        self._latch.check(self.name, result.schema)
        meter.batches += 1
        meter.rows_in += batch.num_rows
        meter.rows_out += result.num_rows
        if batch.watermark is not None and result.watermark is None:
            result = result.with_watermark(batch.watermark)
        return result

    def call(self, batch: SharedDataBatch) -> SharedDataBatch:
        """Return what the function makes of a batch in host memory."""
        return self._handover.call(self._fn, batch.to_host())


class LimitStage:
    """Lets the first records pass. Sees the stream in order, in one task."""

    def __init__(self, rows: int) -> None:
        self.name = f"limit {rows:,}"
        self.meter = StageMeter(self.name, "processor")
        self.remaining_rows = rows

    def process(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Return the batch, its head, or None when the limit was reached before."""
        batch = batch.to_host()  # before anything counts: what is on a device may be lost
        meter = self.meter
        meter.batches += 1
        meter.rows_in += batch.num_rows
        if self.remaining_rows <= 0:
            return None
        if batch.num_rows > self.remaining_rows:
            batch = batch.slice(0, self.remaining_rows)
        self.remaining_rows -= batch.num_rows
        meter.rows_out += batch.num_rows
        return batch


class Chain:
    """Steps in a row, in one task."""

    __slots__ = ("_limits", "current", "stages")

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.current = ""
        """Name of the step that ran last: the one that failed, after an exception."""
        self._limits = tuple(stage for stage in stages if isinstance(stage, LimitStage))

    @property
    def exhausted(self) -> bool:
        """Whether a limit has let all its records pass: nothing more can come out."""
        return any(limit.remaining_rows <= 0 for limit in self._limits)

    def process(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Send a batch through all steps; what comes out lies in host memory."""
        passed: SharedDataBatch | None = batch
        for stage in self.stages:
            self.current = stage.name
            if passed is None:
                return None
            passed = stage.process(passed)
        return passed if passed is None else passed.to_host()


def _difference(expected: pa.Schema, got: pa.Schema) -> str:
    missing = [name for name in expected.names if name not in got.names]
    extra = [name for name in got.names if name not in expected.names]
    parts = []
    if missing:
        parts.append(f"missing {', '.join(missing)}")
    if extra:
        parts.append(f"unexpected {', '.join(extra)}")
    for name in expected.names:
        if name in got.names and expected.field(name).type != got.field(name).type:
            parts.append(f"{name} is {got.field(name).type}, not {expected.field(name).type}")
    if not parts:
        parts.append(f"columns in the order {', '.join(got.names)}, not {', '.join(expected.names)}")
    return "; ".join(parts)
