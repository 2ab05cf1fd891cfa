"""Reports and progress as values and as text."""

from __future__ import annotations

import io
from typing import get_args

import pytest
from rich.console import Console

from dataflare.control.strategies import FoundSize
from dataflare.control.strategies.base import SizeBound
from dataflare.execute.meters import StageMeter, stage_reports
from dataflare.observe.progress import ProgressBar, ProgressEvent
from dataflare.observe.report import RunReport, StageReport, format_rate
from dataflare.observe.sizes import bound_text, format_seconds, size_text


def report(**fields: object) -> RunReport:
    values: dict[str, object] = {
        "run_id": "run-1",
        "device": "cpu",
        "runtime": "local",
        "workers": 2,
        "rows_in": 1000,
        "rows_out": 900,
        "bytes_in": 8000,
        "bytes_out": 7200,
        "batches": 4,
        "wall_s": 0.5,
        "compile_s": 0.001,
        "stages": (
            StageReport(name="read [a]", kind="source", tasks=1, rows_in=1000, rows_out=1000, read_s=0.1),
        ),
        "peak_host_bytes": 4096,
        **fields,
    }
    return RunReport(**values)  # type: ignore[arg-type]


def test_meters_of_several_tasks_add_up_by_stage() -> None:
    read, other, work = (
        StageMeter("read", "source"),
        StageMeter("read", "source"),
        StageMeter("work", "processor"),
    )
    read.rows_in, read.read_s = 10, 0.5
    other.rows_in, other.read_s = 20, 0.25
    work.kernel_s = 1.0
    source, processor = stage_reports([(2.0, [read, work]), (1.0, [other])])
    assert (source.name, source.tasks, source.rows_in, source.read_s) == ("read", 2, 30, 0.75)
    assert source.wait_s == pytest.approx(0.5 + 0.75)  # what no stage of the task spent
    assert processor.wait_s == 0.0
    assert processor.busy_s == 1.0


def test_a_report_says_what_counts_in_plain_text() -> None:
    text = str(report(rows_dropped_null_predicate=7, files=("out.parquet",), unaccounted_bytes=2048))
    assert text.splitlines()[0] == (
        "1,000 rows in, 900 rows out in 500.0 ms, 2 k rows/s (cpu, 2 workers, compiled in 1.0 ms)"
    )
    assert "peak of batches 4.0 KiB, unaccounted 2.0 KiB" in text
    assert "7 rows dropped: filter condition was null" in text
    assert "wrote out.parquet" in text
    assert "read [a]" in text


def test_many_files_are_counted_and_not_all_listed() -> None:
    text = str(report(files=tuple(f"part-{number}" for number in range(50))))
    assert "wrote part-19" in text
    assert "wrote part-20" not in text
    assert "and 30 more files" in text


def test_markup_in_names_is_text() -> None:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(report())
    assert "read [a]" in capture.get()


def test_a_run_of_no_time_has_no_rate() -> None:
    assert report(wall_s=0.0).rows_per_s is None
    assert "rows/s" not in str(report(wall_s=0.0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (3.04e-9, "3.04 ns"),
        (8.3e-4, "830 us"),
        (0.0124, "12.4 ms"),
        (3.214, "3.21 s"),
        (125.2, "2 min 5 s"),
    ],
)
def test_seconds_as_text(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (FoundSize(262_144, True, "knee", 25e-6, 3e-9), "262,144 rows (knee: 25 us a batch + 3 ns a row)"),
        (FoundSize(500, True, "latency"), "500 rows (latency)"),
        (FoundSize(500, True), "500 rows (held)"),
        (FoundSize(500, False, None, 0.0, 2e-6), "500 rows (still searching: 0 us a batch + 2 us a row)"),
    ],
)
def test_a_size_in_one_line(found: FoundSize, text: str) -> None:
    assert size_text(found) == text
    assert f"  batch size: {text}" in str(report(batch_size=found)).splitlines()


def test_every_bound_has_a_meaning() -> None:
    meanings = {bound_text(bound) for bound in get_args(SizeBound)}
    assert len(meanings) == len(get_args(SizeBound))


@pytest.mark.parametrize(
    ("rate", "text"), [(12.0, "12 rows/s"), (2500.0, "2.5 k rows/s"), (1.25e9, "1.25 G rows/s")]
)
def test_rates_as_text(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def event(**fields: object) -> ProgressEvent:
    values: dict[str, object] = {
        "run_id": "run-1",
        "status": "running",
        "rows_read": 60,
        "rows_done": 50,
        "rows_out": 40,
        "rows_total": 200,
        "batches": 3,
        "elapsed_s": 1.0,
        **fields,
    }
    return ProgressEvent(**values)  # type: ignore[arg-type]


def test_the_fraction_is_known_only_with_a_total() -> None:
    assert event().fraction == 0.25
    assert event(rows_total=None).fraction is None
    assert event(rows_total=0).fraction == 1.0


def test_the_bar_shows_rows_and_rate() -> None:
    out = io.StringIO()
    with ProgressBar(Console(file=out, force_terminal=True, width=100)) as bar:
        bar(event())
    assert "50 rows, 50 rows/s" in out.getvalue()
