"""Every function of the corpus compiles and gives what plain Python gives, or is refused with a good reason.

The corpus is ``tests/corpus``: functions as people write them. Which of them are vectorised is part of what is
tested, function by function, and so is the page that shows it.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from chains.running import assert_as_on_cpu

from dataflare.kernels.errors import CompileError
from dataflare.kernels.llvm.target import MATH_FUNCTIONS
from dataflare.kernels.udf.ir import nodes_of
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.testing import assert_batches_equal

ROOT = Path(__file__).resolve().parents[2]


def corpus(module: str) -> ModuleType:
    """Import a module of the corpus, which is no installed package and on no path."""
    package = sys.modules.setdefault("corpus", ModuleType("corpus"))
    package.__path__ = [str(ROOT / "tests" / "corpus")]
    return importlib.import_module(f"corpus.{module}")


outcome = corpus("outcome")
batch_for = corpus("data").batch_for
ENTRIES = outcome.entries()


def is_approximate(program: RecordProgram) -> bool:
    """Return whether a program calls functions that devices may round differently."""
    nodes = nodes_of(node for _, node in program.nullable.roots)
    return any(node.op == "call" and node.attr in MATH_FUNCTIONS for node in nodes)


def assert_close(actual: pa.RecordBatch, expected: pa.RecordBatch) -> None:
    """Assert equality but for the last digits of floats, which later steps of a function may have made larger."""
    assert actual.schema == expected.schema
    for name in expected.schema.names:
        for row, (x, y) in enumerate(zip(actual[name].to_pylist(), expected[name].to_pylist(), strict=True)):
            if isinstance(x, float) and isinstance(y, float):
                tolerance = 1e-4 if pa.types.is_float32(expected.schema.field(name).type) else 1e-9
                same = math.isclose(x, y, rel_tol=tolerance, abs_tol=tolerance) or (x != x and y != y)
            else:
                same = x == y
            assert same, f"column {name!r}, row {row}: {x!r} and {y!r}"


def test_there_are_enough_functions_and_no_two_of_one_name() -> None:
    assert len(ENTRIES) >= 300
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES if not e.refused])
def test_it_gives_what_plain_python_gives(entry: Any, compiled_device: str, run_on: Any) -> None:
    batch = batch_for(entry)
    stages = [outcome.stage_of(entry)]
    for part in (batch, batch.slice(7, 1)):
        made, expected = run_on(compiled_device, stages, part), run_on("python", stages, part)
        compare = (
            assert_close if is_approximate(build_program(stages, batch.schema)) else assert_batches_equal
        )
        compare(made.batch, expected.batch)
        assert made.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
        if compiled_device != "cpu":
            assert_as_on_cpu(made, stages, part)


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES])
def test_the_outcome_is_the_expected_one(entry: Any) -> None:
    found = outcome.outcome_of(entry)
    if entry.refused:
        assert found.kind == "refused"
    else:
        assert (found.kind, found.detail) == (
            "record by record" if entry.single else "vectorised",
            entry.single,
        )


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES if e.refused])
def test_a_refusal_names_place_reason_and_way_out(entry: Any) -> None:
    with pytest.raises(CompileError, match=f"(?i){entry.refused}") as caught:
        build_program([outcome.stage_of(entry)], batch_for(entry).schema)
    message = str(caught.value)
    assert re.match(rf".*{entry.theme}\.py:\d+: cannot compile ", message)
    assert "^" in message
    assert "\nWay out: " in message


def test_nine_of_ten_are_vectorised() -> None:
    vectorised = sum(outcome.outcome_of(entry).kind == "vectorised" for entry in ENTRIES)
    assert vectorised >= 0.9 * len(ENTRIES)


def test_the_page_shows_what_is_so() -> None:
    shown = (ROOT / "examples" / "functions.md").read_text(encoding="utf-8")
    assert shown == outcome.table(ENTRIES), "make it anew: PYTHONPATH=build/typing:tests python -m corpus"
    assert f"[{len(ENTRIES)} functions" in (ROOT / "README.md").read_text(encoding="utf-8")
