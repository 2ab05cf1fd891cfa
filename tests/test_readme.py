"""The README keeps its word: its example runs and prints what it says, its names and files exist."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

import dataflare as flare

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def printed() -> tuple[str, dict[str, object]]:
    """Run the example from the root of the repository, under a name that the compiler can read it by."""
    example = blocks("python")[0]
    filename = "example.py"
    linecache.cache[filename] = (len(example), None, example.splitlines(keepends=True), filename)
    namespace: dict[str, object] = {"__name__": "example"}
    output = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(output):
        exec(compile(example, filename, "exec"), namespace)
        explained = str(namespace["delayed"].explain())  # type: ignore[attr-defined]
    return output.getvalue(), {**namespace, "explained": explained}


def test_the_example_prints_what_the_readme_says(printed: tuple[str, dict[str, object]]) -> None:
    assert printed[0] == blocks("text")[0]


def test_the_example_is_twenty_lines() -> None:
    lines = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_the_explanation_is_the_one_shown(printed: tuple[str, dict[str, object]]) -> None:
    # How many records at once, the decoder, the tasks, memory and earlier runs depend on the machine.
    def same_everywhere(text: str) -> str:
        text = re.sub(r"^(tasks|batch size|memory) .*\n( .*\n)*", r"\1\n", text, flags=re.MULTILINE)
        return re.sub(r"\d+ records at once|decoded by \w+.*", "…", text).strip()

    assert same_everywhere(str(printed[1]["explained"])) == same_everywhere(blocks("text")[1])


def test_every_function_and_method_named_in_the_table_of_pipelines_exists() -> None:
    table = README.split("## Pipelines")[1].split("\nA pipeline is lazy")[0]
    names = re.findall(r"`(\w+)(?:\([\w, =]*\))?`", table)
    assert len(names) > 20
    for name in names:
        assert hasattr(flare, name) or hasattr(flare.Pipeline, name), name


def test_every_run_option_named_exists() -> None:
    sentence = README.split("Every call that runs")[1].split("Files appear")[0]
    options = flare.RunOptions.__dataclass_fields__
    for name in re.findall(r"`([a-z_]+)`", sentence):
        assert name in options, name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
