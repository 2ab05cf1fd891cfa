"""The three folders keep their direction: actors → engine → kernels, proved on the syntax trees.

Covers every import statement anywhere in a module, also inside functions and under TYPE_CHECKING: a layer
that is imported late is still a layer. The one exception is the TYPE_CHECKING block of the facade, which
names what it exports for type checkers only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_OF_FOLDER = {"engine": "dataflare", "kernels": "dataflare.kernels", "actors": "dataflare.actors"}
MODULES = sorted(path for folder in PACKAGE_OF_FOLDER for path in (ROOT / folder).rglob("*.py"))
FACADE = ROOT / "engine" / "__init__.py"
HEAVY = {
    "cupy",
    "duckdb",
    "llvmlite",
    "numba",
    "numpy",
    "pandas",
    "polars",
    "psutil",
    "pyarrow",
    "pykka",
    "ray",
    "rich",
}


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(tree: ast.AST, *, skip_type_checking: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything imported; `from a import b` yields a and a.b."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if skip_type_checking and is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def is_allowed(name: str, folder: str) -> bool:
    if name.startswith(".") or name.partition(".")[0] in PACKAGE_OF_FOLDER:
        return False  # relative, or by the name of the folder
    if not within(name, "dataflare"):
        return True
    if folder == "kernels":
        return within(name, "dataflare.kernels")
    if folder == "engine":
        return not within(name, "dataflare.actors")
    return True


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_go_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text())
    folder = path.relative_to(ROOT).parts[0]
    wrong = [
        f"{identify(path)}:{line} imports {name}"
        for line, name in imported_modules(tree, skip_type_checking=path == FACADE)
        if not is_allowed(name, folder)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("statement", "folder"),
    [
        ("from dataflare.actors.cluster import ClusterActor", "engine"),
        ("import dataflare.actors", "engine"),
        ("from dataflare import actors", "engine"),
        ("from dataflare.batch import SharedDataBatch", "kernels"),
        ("import dataflare", "kernels"),
        ("from dataflare import kernels", "kernels"),
        ("import kernels.errors", "kernels"),
        ("from engine import batch", "actors"),
        ("from .errors import PlanError", "kernels"),
        ("def late():\n    import dataflare.actors.task", "engine"),
        ("if TYPE_CHECKING:\n    import dataflare.actors.task", "engine"),
    ],
)
def test_a_wrong_import_is_found(statement: str, folder: str) -> None:
    assert not all(is_allowed(name, folder) for _, name in imported_modules(ast.parse(statement)))


@pytest.mark.parametrize(
    ("statement", "folder"),
    [
        ("from dataflare.kernels.errors import PlanError", "engine"),
        ("from dataflare.batch import SharedDataBatch", "actors"),
        ("from dataflare.kernels.errors import PlanError", "kernels"),
        ("import enginelike, kernelspec", "kernels"),
    ],
)
def test_a_right_import_is_not(statement: str, folder: str) -> None:
    assert all(is_allowed(name, folder) for _, name in imported_modules(ast.parse(statement)))


def test_the_facade_imports_nothing_at_module_level() -> None:
    names = {
        name.partition(".")[0]
        for statement in ast.parse(FACADE.read_text()).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for _, name in imported_modules(statement)
    }
    assert names == {"__future__", "typing"}


@pytest.mark.parametrize(
    "module", ["engine/cli/__init__.py", "engine/__main__.py", "kernels/errors.py", "engine/options.py"]
)
def test_what_every_command_loads_imports_no_heavy_library_eagerly(module: str) -> None:
    names = {
        name.partition(".")[0]
        for statement in ast.parse((ROOT / module).read_text()).body
        if not is_type_checking(statement) and isinstance(statement, ast.Import | ast.ImportFrom)
        for _, name in imported_modules(statement)
    }
    assert not names & HEAVY


def test_the_packages_themselves_import_nothing() -> None:
    for folder in ("kernels", "actors"):
        tree = ast.parse((ROOT / folder / "__init__.py").read_text())
        assert [name for _, name in imported_modules(tree) if not name.startswith("__future__")] == []
