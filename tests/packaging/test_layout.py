"""The folders, the package list, the names of modules, and the wheel that is built from them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import files
from pathlib import Path

import pytest

import dataflare

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_OF_FOLDER = {"engine": "dataflare", "kernels": "dataflare.kernels", "actors": "dataflare.actors"}
MODULES = sorted(path for folder in PACKAGE_OF_FOLDER for path in (ROOT / folder).rglob("*.py"))
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "base_utils"}


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def package_of(folder: Path) -> str:
    first, *rest = folder.relative_to(ROOT).parts
    return ".".join([PACKAGE_OF_FOLDER[first], *rest])


def test_the_package_list_is_what_is_in_the_folders() -> None:
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted({package_of(path.parent) for path in MODULES})


def test_every_folder_with_modules_is_a_package() -> None:
    assert [identify(path.parent) for path in MODULES if not (path.parent / "__init__.py").is_file()] == []


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_every_module_says_what_it_covers(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module starts with what it covers and what not"


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert [identify(path) for path in MODULES if VAGUE_NAMES & set(path.with_suffix("").parts[-2:])] == []


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_constraints_pin_everything_and_name_no_index() -> None:
    constraints = sorted((ROOT / "constraints").glob("python-*.txt"))
    classifiers = PROJECT["project"]["classifiers"]
    supported = [c.rpartition(" ")[2] for c in classifiers if re.search(r":: 3\.\d+$", c)]
    assert [path.stem.removeprefix("python-") for path in constraints] == supported
    for path in constraints:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert [line for line in lines if not re.fullmatch(r"[a-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
        assert lines == sorted(lines)


def test_constraints_cover_every_direct_dependency() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {
        re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()
        for requirement in [
            *PROJECT["project"]["dependencies"],
            *(name for extra in extras.values() for name in extra),
        ]
    }
    for path in (ROOT / "constraints").glob("python-*.txt"):
        pinned = {line.partition("==")[0].replace("_", "-") for line in path.read_text().splitlines()}
        assert {name.replace("_", "-") for name in wanted} <= pinned, path.name


def test_the_installed_package_has_no_other_top_level_name() -> None:
    try:
        installed = files("dataflare")
    except ModuleNotFoundError:
        pytest.skip("dataflare is run from the link tree, not installed")
    top = {path.parts[0] for path in installed or [] if path.suffix == ".py" and len(path.parts) > 1}
    assert top <= {"dataflare"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel that is built from a copy of the sources, so that no build/lib is reused."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKAGE_OF_FOLDER:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(
        [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    assert wheel.name == f"dataflare-{dataflare.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_every_module_and_nothing_else(wheel_names: list[str]) -> None:
    expected = {package_of(path.parent).replace(".", "/") + "/" + path.name for path in MODULES}
    packed = {name for name in wheel_names if ".dist-info/" not in name}
    assert packed == expected | {"dataflare/py.typed"}


def test_the_wheel_carries_licence_and_command(wheel_names: list[str]) -> None:
    metadata = {name.partition(".dist-info/")[2] for name in wheel_names if ".dist-info/" in name}
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"} <= metadata
