"""String operations on dictionary columns: looked up for every type of index, wherever the column begins."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from chains.running import compiled_for

from dataflare.kernels.backend import CompiledProgram
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.codegen import generate
from dataflare.kernels.cpu.target import level_target
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage

ROWS = 1003  # not a multiple of any vector
INDEX_TYPES = [
    pa.int8(),
    pa.uint8(),
    pa.int16(),
    pa.uint16(),
    pa.int32(),
    pa.uint32(),
    pa.int64(),
    pa.uint64(),
]


def compiled(stages: list[Stage], schema: pa.Schema, target: Target) -> CompiledProgram:
    return compiled_for(build_program(stages, schema), target)


def run(program: CompiledProgram, batch: pa.RecordBatch) -> list[dict[str, object]]:
    columns = [HostColumn.from_arrow(batch.column(name)) for name in program.program.required_columns]
    result = program.run(columns, len(batch))
    schema = program.program.output_schema
    return pa.table([c.to_arrow() for c in result.columns], schema=schema).to_pylist()


def dictionary(kind: pa.DataType, *, nulls: bool) -> tuple[pa.DictionaryArray, list[str | None]]:
    """Return a column and its texts; the index under a null is the largest that its type has."""
    entries = min(1000, 2 ** (kind.bit_width - 1))
    random = np.random.default_rng(entries)
    indices = random.integers(0, entries, ROWS).astype(kind.to_pandas_dtype())
    valid = random.random(ROWS) >= (0.3 if nulls else 0)
    names = [f"{'é' * (i % 3)}{i:x}" for i in range(entries)]
    texts = [names[i] if there else None for i, there in zip(indices, valid, strict=True)]
    indices[~valid] = np.iinfo(indices.dtype).max
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes()) if nulls else None
    array = pa.Array.from_buffers(kind, ROWS, [bitmap, pa.py_buffer(indices.tobytes())])
    return pa.DictionaryArray.from_arrays(array, pa.array(names), safe=False), texts


@pytest.mark.parametrize("kind", INDEX_TYPES, ids=str)
def test_every_type_of_index(kind: pa.DataType, target: Target) -> None:
    schema = pa.schema([("s", pa.dictionary(kind, pa.string())), ("n", pa.int64())])
    flags_and_lengths = compiled(
        [MapStage(lambda r: {"a": r.s.startswith("é1"), "n": len(r.s)})], schema, target
    )
    selected = compiled([FilterStage(lambda r: r.s < "1"), MapStage(lambda r: {"n": r.n})], schema, target)
    for nulls, start in itertools.product((False, True), (0, 1, 13)):
        column, texts = dictionary(kind, nulls=nulls)
        batch = pa.record_batch([column, pa.array(range(ROWS))], schema=schema).slice(start)
        assert run(flags_and_lengths, batch) == [
            {"a": None if t is None else t.startswith("é1"), "n": None if t is None else len(t)}
            for t in texts[start:]
        ]
        expected = [n for n, t in enumerate(texts) if n >= start and t is not None and t < "1"]
        assert run(selected, batch) == [{"n": n} for n in expected]


def test_beside_plain_strings(target: Target) -> None:
    """One column is looked up, the other one is worked on in tiles of the same loop."""
    column, texts = dictionary(pa.int16(), nulls=True)
    batch = pa.record_batch({"s": column, "t": pa.array([f"{i % 7}" for i in range(ROWS)])}).slice(5)
    program = compiled([MapStage(lambda r: {"x": r.s.endswith("f") or r.t == "3"})], batch.schema, target)
    ends = [None if t is None else t.endswith("f") for t in texts]
    assert run(program, batch) == [{"x": True if n % 7 == 3 else ends[n]} for n in range(5, ROWS)]


def test_a_group_is_looked_up_at_once() -> None:
    schema = pa.schema([("s", pa.dictionary(pa.int32(), pa.string())), ("x", pa.float64())])
    stages = [FilterStage(lambda r: r.s == "a"), MapStage(lambda r: {"x": r.x})]
    target = level_target("x86-64-v4")
    assert "vpgatherdd" in jit.assembly(generate(build_program(stages, schema), target).text, target)
