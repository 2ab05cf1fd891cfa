"""Job files: what each key becomes, and what a reader sees when a key, a value or an expression is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflare.cli.job_document import parse_setting
from dataflare.cli.job_file import load_job_file
from dataflare.control import AdaptiveBatchingConfig, CreditConfig, CreditMode
from dataflare.kernels.errors import (
    ColumnNotFoundError,
    CompileError,
    DataFlareError,
    DeviceUnavailableError,
    OptionError,
    ReadError,
)

PEOPLE = pa.table(
    {
        "name": ["Ada", "Tim", None, "Eve"],
        "age": pa.array([36, 7, 50, None], pa.int32()),
        "born": pa.array([date(1990, 1, 1), date(2019, 5, 5), None, date(2000, 2, 29)]),
    }
)
HEAD = '[source]\npath = "people.parquet"\n[sink]\npath = "out.parquet"\n'

Job = Callable[..., Path]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Write a job file beside people.parquet, in a folder that is not the current one."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    pq.write_table(PEOPLE, folder / "people.parquet")

    def write(text: str) -> Path:
        path = folder / "job.toml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def run(path: Path, **settings: Any) -> list[dict[str, Any]]:
    pipeline, options = load_job_file(path, settings)
    pipeline.run(**{"device": "python", **options})
    return pq.read_table("out.parquet").to_pylist()


def message(path: Path, error: type[DataFlareError] = OptionError, **settings: Any) -> str:
    with pytest.raises(error) as caught:
        load_job_file(path, settings)
    return str(caught.value).replace(str(path), path.name)


def test_every_kind_of_step(job: Job) -> None:
    path = job(
        HEAD
        + """
        [constants]
        grown = 18
        some = ["Ada", "Tim"]
        [[steps]]
        filter = "r.age >= grown or r.name in some"
        [[steps]]
        with_columns = { months = "r.age * 12", unnamed = "r.name is None" }
        [[steps]]
        rename = { name = "who" }
        [[steps]]
        drop = ["born"]
        [[steps]]
        select = ["who", "months", "unnamed", "age"]
        [[steps]]
        limit = 2
        """
    )
    assert run(path) == [
        {"who": "Ada", "months": 432, "unnamed": False, "age": 36},
        {"who": "Tim", "months": 84, "unnamed": False, "age": 7},
    ]


def test_map_replaces_the_record_and_its_expressions_see_the_old_one(job: Job) -> None:
    path = job(
        HEAD
        + """
        [[steps]]
        [steps.map]
        age = "r.age + 1"
        before = "r.age"
        long = \'\'\'
        r.age
          * 2\'\'\'
        """
    )
    assert run(path)[:2] == [{"age": 37, "before": 36, "long": 72}, {"age": 8, "before": 7, "long": 14}]


def test_constants_may_be_dates(job: Job) -> None:
    path = job(HEAD + '[constants]\nday = 1995-01-01\n[[steps]]\nfilter = "r.born < day"')
    assert [row["name"] for row in run(path)] == ["Ada"]


def test_inputs_are_found_beside_the_job_and_outputs_appear_in_the_current_folder(job: Job) -> None:
    path = job(HEAD)
    run(path)
    assert Path("out.parquet").is_file()
    assert not (path.parent / "out.parquet").exists()


def test_a_path_of_the_command_line_is_relative_to_the_current_folder(job: Job) -> None:
    path = job(HEAD)
    pq.write_table(PEOPLE.slice(0, 1), "one.parquet")
    assert len(run(path, **{"source.path": "one.parquet"})) == 1


def test_several_inputs(job: Job) -> None:
    path = job('[source]\npath = ["people.parquet", "people.parquet"]\n[sink]\npath = "out.parquet"')
    assert len(run(path)) == 8


def test_the_format_is_told_from_the_name_or_given(job: Job) -> None:
    path = job('[source]\npath = "people.parquet"\n[sink]\npath = "out.data"\nformat = "csv"')
    pipeline, options = load_job_file(path, {})
    pipeline.run(**{"device": "python", **options})
    assert Path("out.data").read_text().splitlines()[0].replace('"', "") == "name,age,born"


def test_types_of_columns_are_named_by_text(job: Job) -> None:
    head = HEAD.replace("people.parquet", "people.csv")
    path = job(head.replace("[sink]", '[source.column_types]\nage = "float32"\n[sink]'))
    path.with_name("people.csv").write_text("name,age\nAda,36\n")
    run(path)
    assert pq.read_schema("out.parquet").field("age").type == pa.float32()
    wrong = job(head.replace("[sink]", '[source.column_types]\nage = "flot32"\n[sink]'))
    assert "job.toml:4: source.column_types.age: 'flot32' is no type" in message(wrong)


def test_overwrite_is_asked_for(job: Job) -> None:
    path = job(HEAD)
    run(path)
    with pytest.raises(FileExistsError):
        run(path)
    assert len(run(path, **{"sink.overwrite": True})) == 4
    pipeline, _ = load_job_file(path, {}, overwrite=True)
    pipeline.run(device="python")


def test_run_options(job: Job) -> None:
    path = job(
        HEAD
        + """
        [run]
        workers = 2
        memory_limit = "512MB"
        ordered = false
        [run.batching]
        max_size = 5000
        strategy = "aimd"
        [run.backpressure]
        mode = "adaptive"
        """
    )
    _, options = load_job_file(path, {"run.workers": 1})
    assert options == {
        "workers": 1,
        "memory_limit": "512MB",
        "ordered": False,
        "batching": AdaptiveBatchingConfig(max_size=5000, strategy="aimd"),
        "backpressure": CreditConfig(mode=CreditMode.ADAPTIVE),
    }


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a=1", ("a", 1)),
        ("a.b=1.5", ("a.b", 1.5)),
        ("a=true", ("a", True)),
        ("a=2013-06-01", ("a", date(2013, 6, 1))),
        ('a=["x", "y"]', ("a", ["x", "y"])),
        ("a='7'", ("a", "7")),
        ("a=out.parquet", ("a", "out.parquet")),
        ("a=x=y", ("a", "x=y")),
        ("a=", ("a", "")),
    ],
)
def test_settings_are_typed_as_toml_types_them(argument: str, expected: tuple[str, object]) -> None:
    assert parse_setting(argument) == expected


@pytest.mark.parametrize("argument", ["a", "=1", "a..b=1", ".a=1"])
def test_a_setting_without_key_or_value(argument: str) -> None:
    with pytest.raises(OptionError, match="write it as key=value"):
        parse_setting(argument)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEAD + "[[step]]\nlimit = 1",
            "job.toml:5: the job file has no key 'step'. Did you mean 'steps'?",
        ),
        (
            HEAD + '[[steps]]\nfiltr = "r.a"',
            "job.toml:6: steps[0] has no key 'filtr'. Did you mean 'filter'? "
            'Keys here: drop, filter, limit, map, rename, select, with_columns.\n  6 | filtr = "r.a"',
        ),
        (HEAD + '[[steps]]\nfilter = "r.a"\nlimit = 3', "job.toml:5: a step has one key, this one has 2"),
        (HEAD + "[[steps]]\nfilter = 3", "job.toml:6: steps[0].filter must be text, not 3."),
        (HEAD + "[[steps]]\nlimit = true", "job.toml:6: steps[0].limit must be a whole number, not True."),
        (HEAD + '[[steps]]\nselect = "a"', "job.toml:6: steps[0].select must be a list, not 'a'."),
        (HEAD + '[[steps]]\nselect = ["a", 3]', "job.toml:6: steps[0].select[1] must be text, not 3."),
        (HEAD + "[[steps]]\nwith_columns = {}", "job.toml:6: steps[0].with_columns names no column."),
        (HEAD + "[run]\nworker = 3", "job.toml:6: run has no key 'worker'. Did you mean 'workers'"),
        (HEAD + "[run]\nworkers = 0", "job.toml:6: workers must be at least 1"),
        (HEAD + '[run]\nmemory_limit = "lots"', "job.toml:6: 'lots' is not a number of bytes."),
        (HEAD + "[run.batching]\nmaxsize = 3", "run.batching has no key 'maxsize'. Did you mean 'max_size'"),
        (HEAD + "[run.batching]\nmax_size = 1", "job.toml:5: AdaptiveBatchingConfig.max_size"),
        (HEAD + '[run.backpressure]\nmode = "x"', "job.toml:6: run.backpressure.mode must be one of fixed"),
        ("run = 3\n" + HEAD, "job.toml:1: run must be a table, not 3."),
        ('[source]\npath = "people.parquet"', "job.toml: the job file has no table [sink]"),
        ('[sink]\npath = "out.parquet"', "job.toml: the job file has no table [source]"),
        ("[source]\n[sink]\npath = 'a.csv'", "job.toml:1: [source] needs a key 'path'."),
        ("[source]\npath = 3\n[sink]\npath = 'a.csv'", "source.path must be text or a list, not 3."),
        (
            "[source]\npath = 'people'\n[sink]\npath = 'a.csv'",
            "cannot be told from its name; give source.format",
        ),
        (
            "[source]\npath = 'people.parquet'\nformat = 'parket'\n[sink]\npath = 'a.csv'",
            "job.toml:3: source.format must be one of csv, ipc, json, parquet, not 'parket'. "
            "Did you mean 'parquet'?",
        ),
        (
            "[source]\npath = 'people.parquet'\n[sink]\npath = 'a.csv'\noverwrit = true",
            "job.toml:5: sink has no key 'overwrit'. Did you mean 'overwrite'?",
        ),
        (HEAD + "[constants]\nr = 3", "job.toml:6: 'r' cannot be the name of a constant."),
        (HEAD + "[constants]\nmax = 3", "'max' cannot be the name of a constant."),
        (HEAD + "[constants]\nx = { y = 1 }", "constants.x must be a number, text"),
        (
            "[source\n",
            "job.toml: this is not TOML: Expected ']' at the end of a table declaration (at line 1",
        ),
    ],
)
def test_a_wrong_key_or_value(job: Job, text: str, expected: str) -> None:
    assert expected in message(job(text))


def test_a_bad_expression_is_shown_with_a_caret(job: Job) -> None:
    text = HEAD + '[[steps]]\nfilter = "r.age > 3 and opn(r.name)" # why'
    assert message(job(text)) == (
        "job.toml:6: steps[0].filter: the function opn is not allowed here. "
        "Functions: abs, all, any, bool, float, int, len, max, min, round, sum. "
        "Also math.sqrt and the other functions of math.\n"
        '  6 | filter = "r.age > 3 and opn(r.name)" # why\n'
        "    |                         ^^^"
    )


def test_the_caret_finds_its_line_in_a_long_expression(job: Job) -> None:
    text = HEAD + '[[steps]]\nfilter = """\n  r.age > 3\n  and nothing > 1\n"""'
    assert message(job(text)).endswith("  8 |   and nothing > 1\n    |       ^^^^^^^")


def test_an_expression_with_escapes_is_shown_as_it_was_understood(job: Job) -> None:
    text = HEAD + '[[steps]]\nfilter = "r.name == \\"a\\" and x"'
    assert message(job(text)).endswith('    r.name == "a" and x\n                      ^')


def test_a_device_that_is_not_here_names_the_line(job: Job) -> None:
    assert "job.toml:6: " in message(job(HEAD + '[run]\ndevice = "cuda"'), DeviceUnavailableError)


def test_a_setting_that_is_wrong_is_named(job: Job) -> None:
    path = job(HEAD + "[[steps]]\nlimit = 3")
    assert "--set run.worker: run has no key 'worker'" in message(path, **{"run.worker": 3})
    assert "name it in [constants]" in message(path, **{"steps.0.limit": 3})


def test_a_job_file_that_is_not_there_names_its_neighbours(job: Job) -> None:
    path = job(HEAD).with_name("jop.toml")
    assert message(path) == "there is no job file jop.toml. Did you mean 'job.toml'?"
    nowhere = path.parent / "none" / "job.toml"
    assert "its folder does not exist" in message(nowhere)


def test_a_job_file_that_is_not_text(job: Job) -> None:
    path = job(HEAD)
    path.write_bytes(b"\xff\xfe\x00")
    assert "the job file job.toml cannot be read" in message(path)


def test_an_input_that_is_missing_names_the_line(job: Job) -> None:
    text = '[source]\npath = "peple.parquet"\n[sink]\npath = "out.parquet"'
    shown = message(job(text), ReadError)
    assert "job.toml:2: " in shown
    assert "Did you mean 'people.parquet'?" in shown
    shown = message(job(text), ReadError, **{"source.path": "none.parquet"})
    assert shown.startswith("--set source.path: none.parquet")


def test_an_option_of_a_reader_that_is_wrong_names_its_line(job: Job) -> None:
    text = HEAD.replace("[sink]", 'decoder = "pandas"\n[sink]')
    assert "job.toml:3: decoder must be 'auto'" in message(job(text))


def test_a_missing_column_names_the_step(job: Job) -> None:
    shown = message(job(HEAD + '[[steps]]\nselect = ["nam"]'), ColumnNotFoundError)
    assert "job.toml:6: " in shown
    assert "Did you mean 'name'?" in shown


def test_a_missing_column_in_an_expression_names_the_line(job: Job) -> None:
    shown = message(job(HEAD + '[[steps]]\n\nfilter = "r.agee > 3"'), ColumnNotFoundError)
    assert "job.toml:7" in shown
    assert "Did you mean 'age'" in shown


def test_an_expression_that_does_not_compile_shows_its_line(job: Job) -> None:
    shown = message(job(HEAD + '[[steps]]\nwith_columns = { x = "r.name * r.age" }'), CompileError)
    assert "job.toml:6" in shown
    assert "r.name * r.age" in shown
