"""What all tests share: the devices, a way to run steps on one, and the Hypothesis profiles.

``HYPOTHESIS_PROFILE=ci`` draws a thousand examples where ``dev``, the default, draws fewer; both always
draw the same ones. ``explore`` draws new ones each time.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dev", max_examples=50, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=1000)
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
    if name == "cpu" and importlib.util.find_spec("dataflare.kernels.backend") is None:
        pytest.skip("the CPU backend is not here")
    return name


@pytest.fixture(scope="session")
def run_on() -> RunOn:
    """Return ``run(device, stages, batch)``: the outcome of a chain of steps on one device."""
    return _run


def _run(device: str, stages: Sequence[object], batch: pa.RecordBatch) -> Outcome:
    from dataflare.kernels.memory.column import HostColumn
    from dataflare.kernels.reference.fused import compile_reference
    from dataflare.kernels.udf.program import build_program

    program = build_program(stages, batch.schema)
    if device == "python":
        compiled = compile_reference(
            stages, batch.schema, program.output_schema, program.required_columns, program=program
        )
    else:
        from dataflare.kernels.backend import compile_program

        compiled = compile_program(program, device=device)
    columns = [HostColumn.from_arrow(batch.column(name)) for name in program.required_columns]
    result = compiled.run(columns, batch.num_rows)
    arrays = [column.to_arrow() for column in result.columns]
    for array in arrays:
        array.validate(full=True)
        assert len(array) == result.num_rows
    if arrays:
        made = pa.RecordBatch.from_arrays(arrays, schema=program.output_schema)
    else:
        made = pa.RecordBatch.from_struct_array(pa.array([{}] * result.num_rows, pa.struct([])))
    return Outcome(made, result.rows_dropped_null_predicate)
