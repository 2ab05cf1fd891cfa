"""Whole-number division and remainders in vectors: exact for every value, on CPUs with and without fast conversions."""

from __future__ import annotations

import dataclasses
import math
import platform
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.running import compiled_for

from dataflare.kernels.cpu.codegen import generate
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.cuda.emulated import default_emulator
from dataflare.kernels.dtypes import INT64, UINT64, ValueType
from dataflare.kernels.llvm.floor_division import magnitude_bits
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.ir import Graph
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import MapStage

ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
EDGES = sorted(
    {
        s * (2**p + d)
        for p in (0, 1, 2, 13, 31, 32, 49, 50, 51, 52, 53, 62, 63)
        for d in (-1, 0, 1)
        for s in (1, -1)
    }
)
SIGNED = [e for e in EDGES if -(2**63) <= e < 2**63]
UNSIGNED = [e for e in EDGES if e >= 0] + [2**64 - 1, 2**64 - 2]
CONSTANTS = (
    3,
    7,
    10,
    1000,
    8191,
    8192,
    8193,
    86_400,
    10**9,
    86_400 * 10**9,
    2**50 + 1,
    2**51 + 1,
    2**63 - 1,
    -1,
    -7,
)


@pytest.fixture(params=["host", "plain", "cuda:emulated"])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "cuda:emulated":
        return default_emulator().target
    if request.param == "host":
        return host_target()
    features = ",".join(f for f in host_target().features.split(",") if not f.startswith(("+avx512", "+fma")))
    return dataclasses.replace(host_target(), converts_int64=False, has_fma=False, features=features)


def run(fn: Callable[[Any], Any], batch: pa.RecordBatch, target: Target) -> dict[str, list[Any]]:
    program = build_program([MapStage(fn)], batch.schema)
    columns = [HostColumn.from_arrow(batch.column(name)) for name in program.required_columns]
    result = compiled_for(program, target).run(columns, len(batch))
    names = program.output_schema.names
    return {name: column.to_arrow().to_pylist() for name, column in zip(names, result.columns, strict=True)}


def values(kind: pa.DataType, *, largest: int | None = None) -> list[int]:
    chance = random.Random(str(kind))
    signed = pa.types.is_signed_integer(kind)
    edges = [e for e in (SIGNED if signed else UNSIGNED) if largest is None or abs(e) <= largest]
    drawn = [
        int(chance.choice((1, -1) if signed else (1,)) * 2 ** chance.uniform(0, 62.9)) for _ in range(200)
    ]
    return edges + [d for d in drawn if largest is None or abs(d) <= largest]


def both(r: Any) -> Any:
    return {"q": r.a // r.b, "m": r.a % r.b}


@pytest.mark.parametrize("largest", [None, 2**51 - 1, 2**50], ids=["all", "exact as float", "smaller"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()], ids=str)
def test_any_two_integers_divide_exactly(kind: pa.DataType, largest: int | None, target: Target) -> None:
    pool = values(kind, largest=largest)
    pairs = [(a, b) for a in pool[::2] for b in pool[1::2]]
    batch = pa.record_batch(
        {"a": pa.array([a for a, _ in pairs], kind), "b": pa.array([b for _, b in pairs], kind)}
    )
    made = run(both, batch, target)
    wrapped = [
        None if b == 0 else a // b if a // b < 2**63 or kind == pa.uint64() else -(2**63) for a, b in pairs
    ]
    assert made == {"q": wrapped, "m": [None if b == 0 else a % b for a, b in pairs]}


@pytest.mark.parametrize("divisor", CONSTANTS)
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.int32()], ids=str)
def test_constants_divide_exactly(kind: Any, divisor: int, target: Target) -> None:
    if divisor < 0 and kind == pa.uint64():
        pytest.skip("refused: an unsigned number and a negative one")
    pool = [v for v in values(kind) if kind != pa.int32() or -(2**31) <= v < 2**31]
    near = [k * divisor + d for k in (-3, -1, 0, 1, 2, 10**6) for d in (-1, 0, 1)]
    low, high = (
        (0, 2**64) if kind == pa.uint64() else (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1))
    )
    pool += [v for v in near if low <= v < high]
    made = run(
        lambda r: {"q": r.a // divisor, "m": r.a % divisor},
        pa.record_batch({"a": pa.array(pool, kind)}),
        target,
    )
    quotients = [v // divisor for v in pool]
    assert made == {"q": [-(2**63) if q == 2**63 else q for q in quotients], "m": [v % divisor for v in pool]}


def test_a_division_inside_a_loop_and_its_remainder(target: Target) -> None:
    def digits(r: Any) -> Any:
        n, total = r.a, 0
        while n > 0:
            n, digit = divmod(n, 10)
            total += digit
        return {"total": total}

    pool = [v for v in values(pa.int64()) if v >= 0]
    made = run(digits, pa.record_batch({"a": pa.array(pool, pa.int64())}), target)
    assert made["total"] == [sum(map(int, str(v))) for v in pool]


FLOATS = (
    *(
        0.0,
        -0.0,
        0.5,
        1.0,
        -1.0,
        2.0,
        3.0,
        0.1,
        1e-310,
        5e-324,
        1e300,
        1.7976931348623157e308,
        360.0,
        2.0**52,
    ),
    *(math.inf, -math.inf, math.nan, math.pi, -7.25, 4503599627370497.5, 1e16),
)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32()], ids=str)
def test_the_remainder_of_floats_is_exact(kind: pa.DataType, target: Target) -> None:
    chance = np.random.default_rng(3)
    with np.errstate(over="ignore"):
        drawn = chance.standard_normal(150) * 2.0 ** chance.integers(-60, 60, 150)
        pool = np.concatenate([np.array(FLOATS), drawn, chance.integers(-1000, 1000, 30) / 8])
        pool = pool.astype(kind.to_pandas_dtype())
    a, b = np.repeat(pool, len(pool)), np.tile(pool, len(pool))
    made = run(lambda r: {"m": math.fmod(r.a, r.b)}, pa.record_batch({"a": a, "b": b}), target)
    with np.errstate(all="ignore"):
        expected = np.fmod(a, b)
    got = np.array(made["m"], kind.to_pandas_dtype())
    same = (got == expected) & (np.signbit(got) == np.signbit(expected)) | np.isnan(got) & np.isnan(expected)
    wrong = np.flatnonzero(~same)
    assert not len(wrong), (a[wrong[0]], b[wrong[0]], got[wrong[0]], expected[wrong[0]])


@pytest.mark.skipif(not ON_X86, reason="names x86 instructions")
def test_small_numbers_are_divided_without_the_instruction_for_one() -> None:
    schema = pa.schema([("a", pa.int32()), ("b", pa.int16())])
    program = build_program([MapStage(lambda r: {"q": r.a // r.b, "m": r.a % 7})], schema)
    generated = generate(program, host_target()).text
    tail = generated.count("sdiv i64")
    assert "sdiv <" not in generated
    assert tail > 0  # the last few records of a batch


def test_bounds_of_values_hold_where_they_wrap_or_change_sign() -> None:
    graph = Graph()
    small = graph.op("convert", INT64, graph.load(0, ValueType("int", 8)))
    unsigned = graph.op("convert", UINT64, small)
    assert magnitude_bits(small) == 8
    assert magnitude_bits(unsigned) == 64
    assert magnitude_bits(graph.op("sub", UINT64, graph.const(UINT64, 1), graph.const(UINT64, 2))) == 64
    assert magnitude_bits(graph.op("mul", INT64, small, graph.const(INT64, 1000))) == 18
    assert magnitude_bits(graph.op("lshr", INT64, small, graph.const(INT64, 1))) == 64
    assert magnitude_bits(graph.op("floormod", INT64, graph.load(1, INT64), graph.const(INT64, 60))) == 6
    assert magnitude_bits(graph.op("and", INT64, graph.load(1, INT64), graph.const(INT64, 255))) == 8
