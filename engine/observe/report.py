"""RunReport: what one run did, in rows, bytes and seconds by stage, as a frozen and printable value.

Covers the figures and their text. Does not measure: the tasks of the runtime do, and export to metric systems
is not here either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import SinkError
from dataflare.observe.curves import CurvePoint, RunCurves
from dataflare.observe.sizes import format_seconds, size_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from dataflare.control.strategies import FoundSize

__all__ = ["STAGE_COLUMNS", "RunReport", "StageReport", "format_rate", "stage_cells"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """One stage of a run. Seconds are summed over its tasks, so they can exceed the wall time."""

    name: str
    kind: Literal["source", "processor", "destination"]
    tasks: int
    rows_in: int = 0
    rows_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    batches: int = 0
    read_s: float = 0.0
    kernel_s: float = 0.0
    """In compiled programs or the functions of ``map_batches``."""
    write_s: float = 0.0
    wait_s: float = 0.0
    """Without work: for input, for room downstream, or for leave to go on."""
    device_retries: int = 0
    """How often the device had no memory for a batch or a part of one, so that something else was tried."""
    batches_on_cpu: int = 0
    """Batches that the CPU computed, or a part of them, in place of the device that was asked for."""

    @property
    def busy_s(self) -> float:
        """Seconds of work."""
        return self.read_s + self.kernel_s + self.write_s


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What one run did. Figures that are not known are None, never 0."""

    run_id: str
    device: str
    runtime: str
    workers: int
    rows_in: int
    rows_out: int
    bytes_in: int
    bytes_out: int
    batches: int
    wall_s: float
    compile_s: float
    stages: tuple[StageReport, ...]
    peak_host_bytes: int
    """The most bytes of batches that were reserved at once."""
    peak_device_bytes: int | None = None
    """The most bytes that programs had of one device's memory at once, those that lay idle for the next batch included.
    None: the run had no device but the host."""
    unaccounted_bytes: int | None = None
    """Growth of the process during the run that neither reservations nor the pool explain."""
    spilled_bytes: int = 0
    """Bytes that waited on disk, because the source could not be paused and memory was full."""
    rows_dropped_null_predicate: int = 0
    """Records that a filter dropped because its condition was null."""
    dead_letters: int = 0
    lost_devices: Mapping[str, str] = field(default_factory=dict)
    """Devices that were lost while running, and why: the CPU went on in their place."""
    monitor_errors: Mapping[str, str] = field(default_factory=dict)
    """Devices whose memory could at some time not be read, and why: the reading before counted meanwhile."""
    files: tuple[str, ...] = ()
    batch_size: FoundSize | None = None
    """Rows of a batch at the end of the run, what keeps them there, and what batches and rows cost by then."""
    curves: RunCurves = field(default_factory=RunCurves, repr=False)
    """Batch size, rate, latency, credits and memory over time."""

    @property
    def batch_size_curve(self) -> tuple[CurvePoint, ...]:
        """Rows of the batches over time."""
        return self.curves.points("batch_rows")

    @property
    def credit_curve(self) -> tuple[CurvePoint, ...]:
        """Records in flight over time."""
        return self.curves.points("in_flight_rows")

    @property
    def rows_per_s(self) -> float | None:
        """Input records per second of wall time."""
        return self.rows_in / self.wall_s if self.wall_s > 0.0 else None

    @property
    def device_retries(self) -> int:
        """How often a device had no memory for a batch or a part of one, so that something else was tried."""
        return sum(stage.device_retries for stage in self.stages)

    @property
    def batches_on_cpu(self) -> int:
        """Batches that the CPU computed, or a part of them, in place of the device that was asked for."""
        return sum(stage.batches_on_cpu for stage in self.stages)

    def __str__(self) -> str:
        lines = [self.headline, self.memory_line]
        width = max([len(stage.name) for stage in self.stages], default=0)
        for stage in self.stages:
            lines.append(f"  {stage.name:<{width}}  {_rows(stage):>27}  {_times(stage)}")
        lines += [f"  {text}" for text in self.remarks]
        return "\n".join(lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.table import Table
        from rich.text import Text

        yield Text(self.headline, style="bold")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("stage", min_width=12)
        rows = [stage_cells(stage) for stage in self.stages]
        for place, title in enumerate(STAGE_COLUMNS):
            width = max([len(title), *(len(row[place]) for row in rows)])
            table.add_column(title, justify="right", no_wrap=True, min_width=width)
        for stage, row in zip(self.stages, rows, strict=True):
            table.add_row(Text(stage.name, no_wrap=True, overflow="ellipsis"), *row)
        yield table
        yield Text(self.memory_line, style="dim")
        for remark in self.remarks:
            yield Text(remark)

    def write_curves(self, path: str | Path) -> None:
        """Draw the curves into a file, replacing one that is there; its ending says what it is.

        Parameters
        ----------
        path
            Ends in ``.svg`` or ``.png`` for the picture, in ``.html`` for the page of `to_html`.

        Raises
        ------
        OptionError
            The ending is another one, the folder is not there, or matplotlib is missing
            (``pip install 'dataflare[plot]'``).
        SinkError
            The file cannot be written.
        """
        from dataflare.observe.drawing import draw_curves, picture_kind

        kind = picture_kind(path)
        if kind == "html":
            content = self.to_html().encode()
        else:
            content = draw_curves(self.curves, kind, title=self.headline)
        try:
            Path(path).write_bytes(content)
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}.") from error

    def to_html(self) -> str:
        """Return a page with the table of stages and the curves, which loads nothing from elsewhere.

        Raises
        ------
        OptionError
            matplotlib is missing (``pip install 'dataflare[plot]'``).
        """
        from dataflare.observe.drawing import draw_curves
        from dataflare.observe.html import report_page

        return report_page(self, draw_curves(self.curves, "svg").decode())

    def _repr_html_(self) -> str:
        from dataflare.observe.html import report_table

        return report_table(self)

    @property
    def headline(self) -> str:
        """Rows, seconds, rate and where it ran, in one line."""
        rate = self.rows_per_s
        speed = f", {format_rate(rate)}" if rate is not None else ""
        return (
            f"{self.rows_in:,} rows in, {self.rows_out:,} rows out in {format_seconds(self.wall_s)}{speed} "
            f"({self.device}, {self.workers} {'worker' if self.workers == 1 else 'workers'}, "
            f"compiled in {format_seconds(self.compile_s)})"
        )

    @property
    def memory_line(self) -> str:
        """Bytes moved and peaks of memory, in one line."""
        parts = [
            f"{format_bytes(self.bytes_in)} in, {format_bytes(self.bytes_out)} out",
            f"peak of batches {format_bytes(self.peak_host_bytes)}",
        ]
        if self.peak_device_bytes is not None:
            parts.append(f"on the device {format_bytes(self.peak_device_bytes)}")
        if self.unaccounted_bytes is not None:
            parts.append(f"unaccounted {format_bytes(self.unaccounted_bytes)}")
        return "memory: " + ", ".join(parts)

    @property
    def remarks(self) -> list[str]:
        """What else one should know of the run, a sentence each."""
        remarks = []
        if self.batch_size is not None:
            remarks.append(f"batch size: {size_text(self.batch_size)}")
        if self.spilled_bytes:
            remarks.append(f"{format_bytes(self.spilled_bytes)} spilled to disk: the source cannot be paused")
        if self.rows_dropped_null_predicate:
            remarks.append(f"{self.rows_dropped_null_predicate:,} rows dropped: filter condition was null")
        if self.dead_letters:
            remarks.append(f"{self.dead_letters:,} rows went to the dead-letter sink")
        remarks += [
            f"{device} was lost while running: {reason}" for device, reason in self.lost_devices.items()
        ]
        remarks += [
            f"{device} memory could not always be read, and an earlier reading counted: {reason}"
            for device, reason in self.monitor_errors.items()
        ]
        if self.device_retries:
            remarks.append(
                f"{self.device_retries:,} times {self.device} had no memory for a batch or a part of it"
            )
        if self.batches_on_cpu:
            remarks.append(f"{self.batches_on_cpu:,} batches were computed on the CPU, not on {self.device}")
        remarks += [f"wrote {path}" for path in self.files[:20]]
        if len(self.files) > 20:
            remarks.append(f"and {len(self.files) - 20:,} more files")
        return remarks


def format_rate(rows_per_s: float) -> str:
    """Return a rate as a person reads it: ``850 rows/s``, ``1.25 G rows/s``."""
    for factor, unit in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if rows_per_s >= factor:
            return f"{rows_per_s / factor:.3g} {unit}rows/s"
    return f"{rows_per_s:.3g} rows/s"


STAGE_COLUMNS = ("tasks", "rows in", "rows out", "batches", "read", "kernel", "write", "wait")
"""What the table of stages shows of each, beside its name."""


def stage_cells(stage: StageReport) -> list[str]:
    """Return what stands below `STAGE_COLUMNS` for a stage."""
    seconds = (stage.read_s, stage.kernel_s, stage.write_s, stage.wait_s)
    counts = (stage.tasks, stage.rows_in, stage.rows_out, stage.batches)
    return [f"{count:,}" for count in counts] + [format_seconds(value) if value else "-" for value in seconds]


def _rows(stage: StageReport) -> str:
    return f"{stage.rows_in:,} → {stage.rows_out:,} rows"


def _times(stage: StageReport) -> str:
    named = (
        ("read", stage.read_s),
        ("kernel", stage.kernel_s),
        ("write", stage.write_s),
        ("wait", stage.wait_s),
    )
    return "  ".join(f"{name} {format_seconds(seconds)}" for name, seconds in named if seconds)
