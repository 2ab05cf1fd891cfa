"""Runs a chain of steps over one batch on a device: at once, and in two blocks that two workers share.

Programs can be compiled for a device by name, or for a target: a kind of CPU, or the emulated GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from dataflare.kernels.backend import CompiledProgram, InputBlock, compile_program
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.codegen import generate
from dataflare.kernels.cpu.fused import CpuProgram
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.cuda.emulated import default_emulator
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import Stage
from dataflare.testing import assert_batches_equal


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a chain of steps made of one batch."""

    batch: pa.RecordBatch
    rows_dropped_null_predicate: int


def run(device: str, stages: Sequence[Stage], batch: pa.RecordBatch) -> Outcome:
    """Compile a chain of steps for a device and run it."""
    return run_compiled(compile_program(build_program(stages, batch.schema), device=device), batch)


def compiled_for(program: RecordProgram, target: Target) -> CompiledProgram:
    """Compile a program for a kind of CPU, past the cache, or for the emulated GPU if it is its target."""
    if target == default_emulator().target:
        return compile_cuda(program, default_emulator())
    generated = generate(program, target)
    code = jit.load_object(jit.assemble(generated.text, target))
    return CpuProgram(program, generated, target, code, "compiled", 0.0)


def assert_as_on_cpu(made: Outcome, stages: Sequence[Stage], batch: pa.RecordBatch) -> None:
    """Assert that another compiled device made of a batch what the CPU makes of it, to the bit.

    A CPU without fused multiplication computes functions such as ``exp`` otherwise; nothing is asserted there.
    """
    if host_target().own_math:
        assert_batches_equal(made.batch, run("cpu", stages, batch).batch)


def run_compiled(
    compiled: CompiledProgram,
    batch: pa.RecordBatch,
    column: Callable[[pa.Array], HostColumn] = HostColumn.from_arrow,
) -> Outcome:
    """Run a compiled program over the columns that ``column`` makes of a batch."""
    program = compiled.program
    columns = [column(batch.column(name)) for name in program.required_columns]
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
