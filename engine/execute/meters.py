"""StageMeter: what one task counts and times while it runs one stage.

Plain mutable counters that one task owns and hands over when it ends. The frozen view of a whole stage is
`dataflare.observe.report.StageReport`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from dataflare.observe.report import StageReport

__all__ = ["StageMeter", "stage_reports"]


class StageMeter:
    """Counts of one stage in one task. Not locked: its task owns it."""

    __slots__ = (
        "batches",
        "batches_on_cpu",
        "bytes_in",
        "bytes_out",
        "device_retries",
        "kernel_s",
        "kind",
        "name",
        "read_s",
        "rows_dropped_null_predicate",
        "rows_in",
        "rows_out",
        "write_s",
    )

    def __init__(self, name: str, kind: Literal["source", "processor", "destination"]) -> None:
        self.name = name
        self.kind = kind
        self.rows_in = 0
        self.rows_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.batches = 0
        self.read_s = 0.0
        self.kernel_s = 0.0
        self.write_s = 0.0
        self.rows_dropped_null_predicate = 0
        self.device_retries = 0
        self.batches_on_cpu = 0

    def counts(self) -> tuple[int, ...]:
        """Return what was counted so far, to be gone back to; times stay."""
        return tuple(getattr(self, name) for name in _COUNTS)

    def go_back(self, counts: tuple[int, ...]) -> None:
        """Forget what was counted since: a batch begins again."""
        for name, count in zip(_COUNTS, counts, strict=True):
            setattr(self, name, count)


_COUNTS = ("batches", "rows_in", "rows_out", "bytes_in", "bytes_out", "rows_dropped_null_predicate")


def stage_reports(tasks: Iterable[tuple[float, list[StageMeter]]]) -> tuple[StageReport, ...]:
    """Add the meters of all tasks up by stage, in the order in which the stages first appear.

    Parameters
    ----------
    tasks
        For each task the seconds it lived, and its meters. What a task did not spend in any of its stages it
        waited; a task of several stages (they run in one loop) books the wait on its first.
    """
    merged: dict[str, StageReport] = {}
    for lifetime_s, meters in tasks:
        busy_s = sum(meter.read_s + meter.kernel_s + meter.write_s for meter in meters)
        wait_s = max(0.0, lifetime_s - busy_s)
        for meter in meters:
            before = merged.get(meter.name)
            if before is None:
                before = StageReport(name=meter.name, kind=meter.kind, tasks=0)
            merged[meter.name] = StageReport(
                name=meter.name,
                kind=meter.kind,
                tasks=before.tasks + 1,
                rows_in=before.rows_in + meter.rows_in,
                rows_out=before.rows_out + meter.rows_out,
                bytes_in=before.bytes_in + meter.bytes_in,
                bytes_out=before.bytes_out + meter.bytes_out,
                batches=before.batches + meter.batches,
                read_s=before.read_s + meter.read_s,
                kernel_s=before.kernel_s + meter.kernel_s,
                write_s=before.write_s + meter.write_s,
                wait_s=before.wait_s + wait_s,
                device_retries=before.device_retries + meter.device_retries,
                batches_on_cpu=before.batches_on_cpu + meter.batches_on_cpu,
            )
            wait_s = 0.0
    return tuple(merged.values())
