"""The public API is one sorted list: each name once, importable, documented, the same in all three places."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from pathlib import Path

import pytest

import dataflare

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in dataflare.__all__ if name != "__version__"]


def tree() -> ast.Module:
    return ast.parse((ROOT / "engine" / "__init__.py").read_text())


def test_all_is_sorted_and_names_each_once() -> None:
    assert dataflare.__all__ == sorted(dataflare.__all__)
    assert [name for name, count in Counter(dataflare.__all__).items() if count > 1] == []


def test_the_type_checking_imports_and_the_table_agree_with_all() -> None:
    imported = {
        alias.asname or alias.name: node.module
        for block in tree().body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == dataflare._MODULES
    assert sorted(dataflare._MODULES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_importable_and_documented(name: str) -> None:
    value = getattr(dataflare, name)
    assert getattr(importlib.import_module(dataflare._MODULES[name]), name) is value
    assert (value.__doc__ or "").strip(), f"{name} has no docstring"
    if isinstance(value, type):
        assert value.__module__.startswith("dataflare."), f"{name} comes from {value.__module__}"


def test_nothing_is_exported_under_two_names() -> None:
    by_identity = Counter(id(getattr(dataflare, name)) for name in NAMES)
    assert [name for name in NAMES if by_identity[id(getattr(dataflare, name))] > 1] == []


def test_dir_lists_the_api() -> None:
    assert dir(dataflare) == dataflare.__all__


def test_an_unknown_name_says_which_module_lacks_it() -> None:
    with pytest.raises(AttributeError, match="module 'dataflare' has no attribute 'Pipelin'"):
        dataflare.Pipelin  # noqa: B018
