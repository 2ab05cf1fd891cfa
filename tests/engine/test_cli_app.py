"""The command line as a shell sees it: output, exit codes, messages, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataflare
from dataflare.cli import main

ROOT = Path(__file__).resolve().parents[2]

JOB = """
[source]
path = "numbers.parquet"
[constants]
least = 2
[[steps]]
filter = "r.n >= least"
[sink]
path = "out.parquet"
[run]
device = "python"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with numbers.parquet and job.toml in it."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"n": [1, 2, 3]}), "numbers.parquet")
    Path("job.toml").write_text(JOB)
    return tmp_path


def written() -> list[int]:
    return pq.read_table("out.parquet")["n"].to_pylist()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"dataflare {dataflare.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["rum"], ["run"], ["run", "job.toml", "--no-such"]])
def test_a_wrong_command_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: dataflare" in capsys.readouterr().err


def test_a_job_runs_and_prints_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml"]) == 0
    assert written() == [2, 3]
    shown = capsys.readouterr()
    assert "3 rows in, 2 rows out" in shown.out
    assert shown.err == ""


def test_quiet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_curves_are_drawn_after_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--curves", "run.html", "-q"]) == 0
    assert written() == [2, 3]
    assert "3 rows in, 2 rows out" in Path("run.html").read_text()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--curves", "run.jpg"], "a file that ends in .svg, .png, .html"),
        (["--curves", "nowhere/run.svg"], "there is no folder"),
        (["--curves", "run.svg", "--explain"], "leave one of them out"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused_before_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["run", "job.toml", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out.parquet").exists()


def test_settings(folder: Path) -> None:
    assert main(["run", "job.toml", "--set", "constants.least=3", "--set", "run.workers=1", "-q"]) == 0
    assert written() == [3]


def test_a_setting_given_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--set", "run.workers=1", "--set", "run.workers=2"]) == 2
    assert capsys.readouterr().err == "dataflare: --set run.workers is given twice.\n"


def test_explain_runs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--explain"]) == 0
    shown = capsys.readouterr().out
    assert "numbers.parquet" in shown
    assert "out.parquet" in shown
    assert not Path("out.parquet").exists()


def test_options_of_the_command_line_win(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--device", "cpu", "--workers", "1", "--memory-limit", "64MB"]) == 0
    assert "(cpu, 1 worker" in capsys.readouterr().out


def test_a_bad_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--device", "gpu"]) == 2
    assert "dataflare: There is no device 'gpu'." in capsys.readouterr().err


def test_an_output_that_exists_is_kept_until_overwrite(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.parquet").write_text("mine")
    assert main(["run", "job.toml"]) == 2
    assert "out.parquet" in capsys.readouterr().err
    assert Path("out.parquet").read_text() == "mine"
    assert main(["run", "job.toml", "--overwrite", "-q"]) == 0
    assert written() == [2, 3]


def test_bad_data_is_a_failed_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.csv").write_text("n\n1\n2,3\n")
    code = main(["run", "job.toml", "--set", "source.path=bad.csv"])
    shown = capsys.readouterr().err
    assert code == 1, shown
    assert "bad.csv" in shown
    assert "Traceback" not in shown
    assert not Path("out.parquet").exists()


def test_the_traceback_is_there_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "job.toml", "--set", "run.workers=0", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["job.yaml", "job"])
def test_a_job_of_another_kind(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", name]) == 2
    assert "a job is a .toml or a .py file" in capsys.readouterr().err


PYTHON_JOB = """
import dataflare as flare
def build(*, least: int = 2, output: str = "out.parquet", overwrite: bool = False):
    numbers = flare.read_parquet("numbers.parquet")
    return numbers.filter(lambda r: r.n >= least).write_parquet(output, overwrite=overwrite)
"""


def run_python(text: str, *arguments: str) -> int:
    Path("job.py").write_text(text)
    return main(["run", "job.py", "--device", "python", *arguments])


def test_a_python_job_with_settings(folder: Path) -> None:
    assert run_python(PYTHON_JOB, "--set", "least=3") == 0
    assert written() == [3]
    assert run_python(PYTHON_JOB, "--overwrite") == 0
    assert written() == [2, 3]


def test_a_python_job_with_a_pipeline(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PYTHON_JOB.replace("build(", "make(") + "pipeline = make(least=1)\n"
    assert run_python(text) == 0
    assert written() == [1, 2, 3]
    assert run_python(text, "--set", "least=3") == 2
    assert "only a module-level `pipeline`" in capsys.readouterr().err


def test_a_python_job_may_import_its_neighbours(folder: Path) -> None:
    Path("neighbour_of_job.py").write_text("LEAST = 3\n")
    text = "from neighbour_of_job import LEAST\n" + PYTHON_JOB.replace("= 2", "= LEAST")
    assert run_python(text) == 0
    assert written() == [3]
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("x = 1\n", (), "a job has a module-level `pipeline`, or a function build(**settings)"),
        ("pipeline = 3\n", (), "job.py: `pipeline` is a int, not a dataflare pipeline."),
        ("def build():\n    return None\n", (), "what build() returned is a NoneType"),
        (PYTHON_JOB, ("--set", "leest=3"), "build() has no setting 'leest'. Did you mean 'least'?"),
        ("def build(a):\n    return a\n", (), "build() needs a; give it with --set a=value."),
        (PYTHON_JOB.replace("r.n", "r.m"), (), "job.py"),
    ],
)
def test_a_wrong_python_job(
    folder: Path, text: str, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_python(text, *arguments) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert "Traceback" not in shown


def test_a_python_job_that_raises_shows_its_own_frames_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_python("def build():\n    return {}['key']\n") == 2
    shown = capsys.readouterr().err
    assert "job.py failed before it had built its pipeline." in shown
    assert 'job.py", line 2, in build' in shown
    assert "KeyError: 'key'" in shown
    assert "job_module.py" not in shown


def test_a_python_job_with_a_syntax_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_python("def build(:\n") == 2
    shown = capsys.readouterr().err
    assert "SyntaxError" in shown
    assert "job.py" in shown


def test_a_function_of_batches_that_fails_shows_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
import pyarrow as pa
import dataflare as flare
def boom(batch):
    raise LookupError("no such model")
pipeline = flare.read_parquet("numbers.parquet").map_batches(boom, pa.schema({"n": pa.int64()}))
pipeline = pipeline.write_parquet("out.parquet")
"""
    assert run_python(text) == 1
    shown = capsys.readouterr().err
    assert "LookupError: no such model" in shown
    assert 'job.py:5: raise LookupError("no such model")' in shown
    assert not Path("out.parquet").exists()


def test_a_job_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "jobb.toml"]) == 2
    assert "Did you mean 'job.toml'?" in capsys.readouterr().err


SIGNALLED_JOB = """
import itertools, os, signal
import pyarrow as pa
import dataflare as flare

def endless():
    for number in itertools.count():
        if number == 3:
            os.kill(os.getpid(), signal.{name})
        yield pa.record_batch({{"n": [number]}})

pipeline = flare.from_batches(endless(), pa.schema({{"n": pa.int64()}})).write_parquet("out.parquet")
"""


@pytest.mark.parametrize(
    ("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_a_signal_stops_the_run_and_leaves_no_file(folder: Path, name: str, code: int, word: str) -> None:
    Path("job.py").write_text(SIGNALLED_JOB.format(name=name))
    before = sorted(folder.iterdir())
    paths = [str(ROOT / part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "dataflare", "run", "job.py", "--device", "python"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == code, finished.stderr
    assert f"dataflare: {word}" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert sorted(folder.iterdir()) == before


def test_the_handler_of_sigterm_is_put_back(folder: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["run", "job.toml", "-q"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
