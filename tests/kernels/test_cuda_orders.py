"""Kernels give one result on every GPU, whatever the order of their blocks, warps and atomics.

The programs together use all that kernels do in common: votes and unions of warps, running sums over segments,
counters that all blocks add to, tables of dictionaries, and memory that blocks share the words of.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.batches import random_batch
from chains.emulated import CAPABILITIES
from chains.running import assert_as_on_cpu, run_compiled

from dataflare.kernels.cuda.emulated import EmulatedBackend
from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage, WithColumnsStage

SEEDS = (None, 1, 2, 3)
FIELDS = [
    *[("a", pa.int64()), ("b", pa.int16()), ("x", pa.float64()), ("f", pa.float32()), ("p", pa.bool_())],
    *[("s", pa.string()), ("v", pa.string_view()), ("d", pa.dictionary(pa.int8(), pa.string()))],
    *[("n", pa.decimal128(9, 2)), ("t", pa.timestamp("us"))],
]


def collatz(r: Any) -> Any:
    n, steps = abs(r.b), 0
    while n > 1 and steps < 40:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return {"steps": steps}


PROGRAMS: dict[str, list[Stage]] = {
    "whole values": [MapStage(lambda r: {"y": r.x * 2.5 + r.a, "z": r.f * r.f - 1, "k": r.a % 7})],
    "bits": [MapStage(lambda r: {"q": r.a > r.b, "u": r.p or r.x > 0, "w": None if r.p else r.a})],
    "filter": [FilterStage(lambda r: r.a > 0 and r.x == r.x)],
    "filter of nulls": [
        FilterStage(lambda r: r.p),
        FilterStage(lambda r: r.b < 1000),
        MapStage(lambda r: {"b": r.b, "p": r.p, "m": r.t.month}),
    ],
    "strings": [
        WithColumnsStage(named=(("k", lambda r: len(r.s)), ("e", lambda r: r.v.endswith("b")))),
        FilterStage(lambda r: "a" in r.d or r.v < r.s),
    ],
    "loops": [MapStage(collatz)],
    "functions": [MapStage(lambda r: {"y": math.sin(r.x), "z": math.log(abs(r.f) + 1)})],
    "decimals": [MapStage(lambda r: {"n": r.n + r.n, "k": r.n > 100})],
}


def batches() -> list[pa.RecordBatch]:
    """Return batches with and without nulls, slices of larger ones, that end within segments and words."""
    dice = random.Random(4)
    rows = (3 * SEGMENT_ROWS + 77, 0, 1, 45, SEGMENT_ROWS)
    return [random_batch(dice, FIELDS, n, nulls=place % 2 == 0) for place, n in enumerate(rows)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_order_of_blocks_gives_the_result_of_the_cpu(name: str) -> None:
    stages, given = PROGRAMS[name], batches()
    program = build_program(stages, given[0].schema)
    for seed in SEEDS:
        compiled = compile_cuda(program, EmulatedBackend(seed=seed, checks=Checks(global_races=True)))
        for batch in given:
            assert_as_on_cpu(run_compiled(compiled, batch), stages, batch)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_order_of_warps_gives_the_result_of_the_cpu(name: str) -> None:
    stages, given = PROGRAMS[name], batches()
    compiled = compile_cuda(
        build_program(stages, given[0].schema), EmulatedBackend(seed=7, warp_schedule=True)
    )
    for batch in given[2:]:
        assert_as_on_cpu(run_compiled(compiled, batch), stages, batch)


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"{c[0]}.{c[1]}")
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_gpu_gives_the_result_of_the_cpu(name: str, capability: tuple[int, int]) -> None:
    stages, given = PROGRAMS[name], batches()
    compiled = compile_cuda(
        build_program(stages, given[0].schema), EmulatedBackend(capability=capability, seed=5)
    )
    assert f".target sm_{capability[0]}{capability[1]}" in compiled.assembly()
    for batch in given:
        assert_as_on_cpu(run_compiled(compiled, batch), stages, batch)


def test_a_large_batch_fills_every_block_several_times() -> None:
    backend = EmulatedBackend(seed=6)
    rows = 3 * backend.resident_blocks * 256 + 1001
    batch = pa.record_batch({"a": np.arange(rows), "x": np.arange(rows) * 0.5, "p": np.arange(rows) % 3 == 0})
    for stages in (
        [MapStage(lambda r: {"a": r.a * 3, "x": r.x + r.a})],
        [FilterStage(lambda r: r.a % 7 < 3), MapStage(lambda r: {"a": r.a, "p": r.p})],
    ):
        compiled = compile_cuda(build_program(stages, batch.schema), backend)
        assert_as_on_cpu(run_compiled(compiled, batch), stages, batch)
