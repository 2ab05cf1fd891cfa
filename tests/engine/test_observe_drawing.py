"""Pictures and pages of a run: what they show, that they are the same each time, and what is refused."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dataflare.kernels.errors import OptionError, SinkError
from dataflare.observe.curves import RunCurves
from dataflare.observe.drawing import draw_curves, picture_kind
from dataflare.observe.report import RunReport, StageReport

CURVES = RunCurves(
    at_s=(0.5, 1.0, 2.5),
    batches=(1, 1, 4),
    batch_rows=(1000.0, 2000.0, 4000.0),
    batch_bytes=(80_000.0, 160_000.0, 320_000.0),
    rows_per_s=(2e6, 3e6, 2.5e6),
    latency_s=(0.002, 0.004, 0.006),
    longest_latency_s=(0.002, 0.004, 0.02),
    in_flight_rows=(1000, 3000, 8000),
    reserved_bytes=(1 << 20, 3 << 20, 5 << 20),
    memory_pressure={"host": (None, 0.4, 0.5), "cuda:0": (0.1, 0.2, 0.3)},
    memory_limit_bytes=8 << 20,
    latency_target_s=0.05,
    pressure_threshold=0.7,
)
REPORT = RunReport(
    run_id="run-1",
    device="cpu",
    runtime="local",
    workers=2,
    rows_in=11_000,
    rows_out=900,
    bytes_in=8000,
    bytes_out=7200,
    batches=6,
    wall_s=2.5,
    compile_s=0.001,
    stages=(StageReport(name="read <a&b>", kind="source", tasks=1, rows_in=11_000, rows_out=11_000),),
    peak_host_bytes=4096,
    files=("out<1>.parquet",),
    curves=CURVES,
)


def texts(svg: bytes) -> list[str]:
    return ["".join(found.itertext()) for found in ElementTree.fromstring(svg).iter() if "text" in found.tag]


@pytest.fixture(scope="module")
def picture() -> bytes:
    return draw_curves(CURVES, "svg", title="a run")


def test_the_picture_names_each_curve_its_unit_and_its_bounds(picture: bytes) -> None:
    shown = texts(picture)
    for text in (
        "a run",
        "Rate",
        "M rows/s",
        "Batch size",
        "KiB, at 80 bytes a row",
        "Work on a batch",
        "target 50 ms",
        "Memory reserved for batches",
        "limit 8 MiB",
        "Credits in flight",
        "k rows",
        "Memory pressure",
        "host",
        "cuda:0",
        "time since the start, s",
    ):
        assert text in shown


def test_bounds_that_do_not_hold_are_not_drawn() -> None:
    free = replace(CURVES, memory_limit_bytes=None, latency_target_s=None, pressure_threshold=None)
    shown = " ".join(texts(draw_curves(free, "svg")))
    for text in ("limit", "target", "fewer credits"):
        assert text not in shown


def test_the_picture_is_the_same_each_time_and_has_no_date(picture: bytes) -> None:
    assert picture == draw_curves(CURVES, "svg", title="a run")
    assert not re.search(rb"20\d\d-\d\d-\d\d", picture)


@pytest.mark.parametrize(
    "curves",
    [
        RunCurves(memory_limit_bytes=1000, latency_target_s=0.05, memory_pressure={"host": ()}),
        RunCurves(
            at_s=(0.5,),
            batches=(1,),
            batch_rows=(1.0,),
            batch_bytes=(0.0,),
            rows_per_s=(2.0,),
            latency_s=(0.0,),
            longest_latency_s=(0.0,),
            in_flight_rows=(0,),
            reserved_bytes=(0,),
            memory_pressure={"host": (None,)},
        ),
    ],
)
def test_what_is_not_known_leaves_its_panel_empty(curves: RunCurves) -> None:
    shown = texts(draw_curves(curves, "svg"))
    assert "Batch size" in shown
    assert "time since the start, ms" in shown
    assert "not read: the run was over before" in shown


@pytest.mark.parametrize(("name", "begins"), [("run.svg", b"<?xml"), ("run.PNG", b"\x89PNG")])
def test_the_ending_says_what_is_written(tmp_path: Path, name: str, begins: bytes) -> None:
    (tmp_path / name).write_text("of an earlier run")
    REPORT.write_curves(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_the_page_has_the_table_and_the_picture_and_loads_nothing(tmp_path: Path) -> None:
    REPORT.write_curves(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "read &lt;a&amp;b&gt;" in page
    assert "wrote out&lt;1&gt;.parquet" in page
    assert "<td>11,000</td>" in page
    assert "Batch size" in page
    assert "<?xml" not in page
    assert not re.search(r"(src|href)=.?(http|//)|url\((?!#)|@import", page)


def test_a_notebook_shows_the_table_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    shown = REPORT._repr_html_()
    assert "11,000 rows in, 900 rows out" in shown
    assert "read &lt;a&amp;b&gt;" in shown
    assert "<svg" not in shown


def test_a_wrong_ending_names_the_right_ones() -> None:
    with pytest.raises(
        OptionError, match=r"ends in \.svg, \.png, \.html, not to 'run\.pgn'\. Did you mean 'png'"
    ):
        picture_kind("run.pgn")
    with pytest.raises(OptionError, match=r"not to 'run'"):
        picture_kind("run")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no folder .*nowhere"):
        REPORT.write_curves(tmp_path / "nowhere" / "run.svg")


def test_a_file_that_cannot_be_written_is_a_sink_error(tmp_path: Path) -> None:
    (tmp_path / "run.svg").mkdir()
    with pytest.raises(SinkError, match="run.svg cannot be written: Is a directory"):
        REPORT.write_curves(tmp_path / "run.svg")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'dataflare\[plot\]'"):
        picture_kind("run.svg")
    with pytest.raises(OptionError, match=r"pip install 'dataflare\[plot\]'"):
        draw_curves(CURVES, "png")
