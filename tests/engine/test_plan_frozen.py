"""Frozen functions: what a function captured stays as it was; in all else it is the function of the user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.capture import function_key
from dataflare.kernels.udf.source import function_ast
from dataflare.plan.frozen import freeze_function

RATE = 2
TABLE = [1, 2, 3]


def scaled(x):
    return x * RATE


@pytest.fixture(autouse=True)
def _restore_globals(monkeypatch):
    monkeypatch.setitem(globals(), "RATE", 2)
    monkeypatch.setitem(globals(), "TABLE", [1, 2, 3])


def test_a_global_keeps_its_value(monkeypatch):
    frozen = freeze_function(scaled)
    monkeypatch.setitem(globals(), "RATE", 5)
    assert scaled(10) == 50
    assert frozen(10) == 20


def test_a_closure_cell_keeps_its_value():
    limit = 1
    frozen = freeze_function(lambda x: x > limit)
    limit = 100
    assert frozen(50) is True


def test_a_cell_that_is_not_bound_stays_unbound():
    def outer():
        fn = freeze_function(lambda x: x + later)
        later = 1
        return fn, later

    with pytest.raises(NameError):
        outer()[0](1)


def test_helpers_are_frozen_with_the_function(monkeypatch):
    frozen = freeze_function(lambda x: scaled(x) + 1)
    monkeypatch.setitem(globals(), "RATE", 5)
    assert frozen(10) == 21


def test_a_function_that_calls_itself_calls_its_frozen_self():
    step = 1

    def countdown(n):
        return 0 if n <= 0 else step + countdown(n - step)

    frozen = freeze_function(countdown)
    step = -1
    assert frozen(3) == 3


def test_containers_are_copied(monkeypatch):
    names = {"a": [1]}
    frozen = freeze_function(lambda x: (TABLE[0], names["a"][0], len(names)))
    TABLE[0] = 100
    names["a"][0] = 100
    names["b"] = []
    assert frozen(0) == (1, 1, 1)


def test_arrays_are_copied_and_read_only():
    lookup = np.arange(3)
    frozen = freeze_function(lambda x: lookup)
    lookup[0] = 100
    assert frozen(0).tolist() == [0, 1, 2]
    assert not frozen(0).flags.writeable


def test_defaults_are_copied():
    weights = [1, 2]

    def fn(x, w=weights, *, k=weights):
        return x + w[0] + k[0]

    frozen = freeze_function(fn)
    weights[0] = 100
    assert frozen(0) == 2


@dataclass
class Settings:
    limit: int


def test_instances_of_plain_classes_are_copied():
    settings, namespace = Settings(1), SimpleNamespace(limit=1)
    frozen = freeze_function(lambda x: (settings.limit, namespace.limit))
    settings.limit = 100
    assert frozen(0)[0] == 1
    assert isinstance(freeze_function(lambda x: settings)(0), Settings)


def test_an_attribute_of_a_module_is_copied():
    module = ModuleType("settings_of_the_test")
    module.limit = 1
    frozen = freeze_function(lambda x: module.limit)
    module.limit = 100
    assert frozen(0) == 1


def test_libraries_and_classes_are_kept_as_they_are():
    frozen = freeze_function(lambda x: (math, np, Settings))
    assert frozen(0) == (math, np, Settings)


def test_the_source_and_the_identity_of_the_code_stay():
    fn = lambda x: x + RATE  # noqa: E731
    frozen = freeze_function(fn)
    assert frozen.__code__ is fn.__code__
    assert function_ast(frozen).node is function_ast(fn).node
    assert function_key(frozen) == function_key(fn)


def test_what_is_not_a_python_function_is_refused():
    with pytest.raises(CompileError, match="not a Python function of one record"):
        freeze_function(abs)


def test_a_numba_function_gives_the_function_it_wraps():
    numba = pytest.importorskip("numba")

    @numba.njit
    def fast(x):
        return x + 1

    assert freeze_function(fast).__code__ is fast.py_func.__code__
    assert freeze_function(lambda x: fast)(0) is fast
