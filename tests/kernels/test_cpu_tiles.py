"""Threads that share a run: one result, in order, whatever thread took which tile."""

from __future__ import annotations

import platform
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dataflare.kernels.backend import InputBlock, ProgramResult
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.fused import CpuProgram, compile_cpu
from dataflare.kernels.cpu.tiles import driver_text
from dataflare.kernels.errors import SchemaError
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage, WithColumnsStage

ROWS = 300_017


def table(rows: int = ROWS, *, nulls: bool = False) -> pa.Table:
    rng = np.random.default_rng(11)
    mask = rng.random(rows) < 0.2 if nulls else None
    return pa.table(
        {
            "x": pa.array(rng.random(rows), mask=mask),
            "n": pa.array(np.arange(rows, dtype=np.int32)),
            "small": pa.array(rng.integers(-100, 100, rows).astype(np.int16)),
            "text": pa.array(np.char.mod("%d", rng.integers(0, 30, rows))).dictionary_encode(),
            "flag": pa.array(rng.random(rows) < 0.5),
        }
    )


def blocks_of(code: CpuProgram, data: pa.Table, ends: Sequence[int]) -> list[InputBlock]:
    blocks = []
    for start, end in zip((0, *ends), ends, strict=False):
        part = data.slice(start, end - start).combine_chunks()
        columns = [HostColumn.from_arrow(part[name].chunk(0)) for name in code.program.required_columns]
        blocks.append(InputBlock(tuple(columns), end - start))
    return blocks


def share(code: CpuProgram, blocks: list[InputBlock], threads: int, most_rows: int) -> ProgramResult:
    shared = code.share(blocks)
    assert shared is not None
    taken: list[int] = []
    begin = threading.Barrier(threads)

    def work() -> None:
        worker = shared.worker()
        begin.wait()
        while (rows := worker.work(most_rows)[0]) != 0:
            taken.append(rows)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert sum(taken) == sum(block.num_rows for block in blocks)
    return shared.result()


STAGES: dict[str, list[Stage]] = {
    "keeps half": [
        FilterStage(lambda r: r.x > 0.5),
        MapStage(lambda r: {"n": r.n, "y": r.x * 2, "s": r.small}),
    ],
    "keeps one in a thousand": [
        FilterStage(lambda r: r.n % 1000 == 7),
        MapStage(lambda r: {"n": r.n, "x": r.x}),
    ],
    "keeps nothing": [FilterStage(lambda r: r.x > 2), MapStage(lambda r: {"n": r.n})],
    "keeps all": [FilterStage(lambda r: r.n >= 0), MapStage(lambda r: {"n": r.n})],
    "by text and flag": [FilterStage(lambda r: r.text < "2" and r.flag), MapStage(lambda r: {"n": r.n})],
    "maps": [MapStage(lambda r: {"y": r.x + r.n, "big": r.x > 0.5, "n": r.small if r.flag else None})],
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("nulls", [False, True], ids=["dense", "nulls"])
@pytest.mark.parametrize("ends", [(ROWS,), (64, 64 * 2000, ROWS)], ids=["one block", "blocks"])
def test_threads_make_the_result_that_one_call_makes(
    stages: list[Stage], nulls: bool, ends: Sequence[int]
) -> None:
    data = table(nulls=nulls)
    code = compile_cpu(build_program(stages, data.schema))
    whole = code.run(blocks_of(code, data, [ROWS])[0].columns, ROWS)
    blocks = blocks_of(code, data, ends)
    if code.share(blocks) is None:
        # A filter whose results may be null has bitmaps to write, which tiles cannot join.
        assert nulls and not code.program.row_preserving
        return
    for threads, most_rows in ((1, 1), (3, 1), (3, 70_000), (2, ROWS)):
        result = share(code, blocks, threads, most_rows)
        assert result.num_rows == whole.num_rows
        assert result.rows_dropped_null_predicate == whole.rows_dropped_null_predicate
        for mine, theirs in zip(result.columns, whole.columns, strict=True):
            mine.to_arrow().validate(full=True)
            assert mine.to_arrow().equals(theirs.to_arrow())


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
@pytest.mark.parametrize("past_line_rows", [0, 1, 2, 7])
def test_tiles_of_a_filter_begin_on_cache_lines(kind: type[np.integer[Any]], past_line_rows: int) -> None:
    width_bytes = np.dtype(kind).itemsize
    raw = np.empty(ROWS * width_bytes + 128, np.uint8)
    first = -raw.ctypes.data % 64 + past_line_rows * width_bytes
    numbers = raw[first : first + ROWS * width_bytes].view(kind)
    numbers[:] = np.random.default_rng(6).integers(-100, 100, ROWS)
    schema = pa.schema([pa.field("k", pa.from_numpy_dtype(kind))])
    code = compile_cpu(build_program([FilterStage(lambda r: r.k > 90)], schema))
    blocks = [
        InputBlock((HostColumn.from_arrow(pa.array(part)),), len(part))
        for part in (numbers[:100_000], numbers[100_000:100_000], numbers[100_000:])
    ]
    shared = code.share(blocks)
    assert shared is not None
    rows, _ = shared.worker().work(1)
    assert (numbers.ctypes.data + rows * width_bytes) % 64 == 0
    for threads in (1, 3):
        result = share(code, blocks, threads, 40_000)
        assert result.columns[0].to_arrow().to_numpy().tolist() == numbers[numbers > 90].tolist()


def test_columns_that_are_carried_along_are_those_of_the_input() -> None:
    data = table()
    code = compile_cpu(build_program([WithColumnsStage(named=(("y", lambda r: r.x * 2),))], data.schema))
    (block,) = blocks_of(code, data, [ROWS])
    result = share(code, [block], 2, 50_000)
    places = {name: place for place, name in enumerate(code.program.output_schema.names)}
    assert result.columns[places["text"]] is block.columns[list(code.program.required_columns).index("text")]
    assert np.array_equal(result.columns[places["y"]].to_arrow().to_numpy(), data["x"].to_numpy() * 2)
    assert code.share(blocks_of(code, data, (64, ROWS))) is None


def test_a_thread_that_comes_late_finds_nothing_to_do() -> None:
    data = table()
    code = compile_cpu(build_program(STAGES["keeps half"], data.schema))
    shared = code.share(blocks_of(code, data, [ROWS]))
    assert shared is not None
    assert shared.worker().work(ROWS)[0] == ROWS
    kept = shared.result().columns[0].to_arrow()
    before = kept.to_pylist()
    assert shared.worker().work(ROWS) == (0, 0)
    assert kept.to_pylist() == before


@pytest.mark.parametrize(
    "stages",
    [
        [MapStage(lambda r: {"t": r.text if r.flag else "none"})],
        [FilterStage(lambda r: r.x > 0.5)],  # all columns, the dictionary among them
        [FilterStage(lambda r: r.x > 0.5), MapStage(lambda r: {"big": r.x > 0.9})],
    ],
)
def test_what_code_cannot_place_is_not_shared(stages: list[Stage]) -> None:
    data = table(200)
    code = compile_cpu(build_program(stages, data.schema))
    assert code.share(blocks_of(code, data, [200])) is None


def test_nulls_in_a_column_declared_without_them_are_refused() -> None:
    schema = pa.schema([pa.field("x", pa.float64(), nullable=False)])
    code = compile_cpu(build_program([MapStage(lambda r: {"y": r.x})], schema))
    with pytest.raises(SchemaError, match="'x' is declared without nulls and has 1"):
        code.share([InputBlock((HostColumn.from_arrow(pa.array([1.0, None])),), 2)])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86-64 assembly")
def test_a_tile_is_copied_past_the_caches_in_whole_lines() -> None:
    from dataflare.kernels.cpu.target import host_target

    text = jit.assembly(driver_text(host_target()), host_target())
    assert "movnt" in text
    assert "pause" in text
    assert "mfence" in text or "lock" in text


def test_the_driver_compiles_for_other_machines() -> None:
    arm: Any = Target("aarch64-unknown-linux-gnu", "neoverse-n1", "", 16, False, False, True)
    text = jit.assembly(driver_text(arm), arm)
    assert "stnp" in text
    assert "yield" in text
