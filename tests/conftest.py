"""What all tests share: the devices, a way to run steps on one, and the Hypothesis profiles.

``HYPOTHESIS_PROFILE=ci`` draws more examples than ``dev``, the default: a thousand random chains. Both
always draw the same ones; ``explore`` draws new ones each time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from dataflare.kernels.backend import CompiledProgram, InputBlock, compile_program
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import Stage
from dataflare.testing import assert_batches_equal

settings.register_profile(
    "dev", max_examples=20, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=200)
settings.register_profile("explore", parent=settings.get_profile("ci"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a chain of steps made of one batch."""

    batch: pa.RecordBatch
    rows_dropped_null_predicate: int


RunOn = Callable[..., Outcome]


@pytest.fixture(scope="session", params=["python", "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that computes the same answers; a test that asks for it runs on all of them."""
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=["cpu"])
def compiled_device(request: pytest.FixtureRequest) -> str:
    """Each device that is held against the reference."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def run_on() -> RunOn:
    """Return ``run(device, stages, batch)``: the outcome of a chain of steps on one device."""
    return _run


def _run(device: str, stages: Sequence[Stage], batch: pa.RecordBatch) -> Outcome:
    program = build_program(stages, batch.schema)
    compiled = compile_program(program, device=device)
    columns = [HostColumn.from_arrow(batch.column(name)) for name in program.required_columns]
    result = compiled.run(columns, batch.num_rows)
    made = _batch(program.output_schema, result.columns, result.num_rows)
    _check_shared(compiled, columns, batch.num_rows, made, result.rows_dropped_null_predicate)
    return Outcome(made, result.rows_dropped_null_predicate)


def _check_shared(
    compiled: CompiledProgram,
    columns: Sequence[HostColumn],
    num_rows: int,
    made: pa.RecordBatch,
    dropped: int,
) -> None:
    """Run the same rows in two blocks that two workers share, where the program allows it: the same result."""
    cut = min(64, num_rows)
    pieces = [(0, cut), (cut, num_rows - cut)] if num_rows > cut else [(0, cut)]
    blocks = [InputBlock(tuple(c.slice(first, rows) for c in columns), rows) for first, rows in pieces]
    shared = compiled.share(blocks)
    if shared is None or not num_rows:
        return
    workers = [shared.worker(), shared.worker()]
    while sum([worker.work(1)[0] for worker in workers]):
        pass
    result = shared.result()
    assert_batches_equal(_batch(made.schema, result.columns, result.num_rows), made)
    assert result.rows_dropped_null_predicate == dropped


def _batch(schema: pa.Schema, columns: Sequence[HostColumn], num_rows: int) -> pa.RecordBatch:
    arrays = [column.to_arrow() for column in columns]
    for array in arrays:
        array.validate(full=True)
        assert len(array) == num_rows
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * num_rows, pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


CompileC = Callable[..., Path]


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> CompileC:
    """Return ``compile(name, *flags)``: a library of its own, made of ``tests/fakes/name.c``."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the fake driver libraries")

    def compile_library(name: str, *flags: str) -> Path:
        library = tmp_path_factory.mktemp(name) / f"lib{name}.so"
        source = Path(__file__).parent / "fakes" / f"{name}.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-w", *flags, "-o", library, source], check=True)
        return library

    return compile_library
