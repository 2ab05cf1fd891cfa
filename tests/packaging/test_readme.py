"""What README.md shows is what happens: its Python runs, and prints the text that follows it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PYTHON_THEN_TEXT = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(("code", "output"), PYTHON_THEN_TEXT)
def test_the_example_prints_what_the_readme_says(
    code: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    example = tmp_path / "example.py"
    example.write_text(code)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out == output


def test_there_is_an_example() -> None:
    assert PYTHON_THEN_TEXT


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(re.findall(r"\bexamples/\w+\.\w+", README))
    assert named >= {"examples/flights.toml"}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
