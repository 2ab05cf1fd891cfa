"""Loops and divisions by constants in machine code, for every kind of CPU that this machine can stand in for.

The right result is that of the function itself, called with one record after the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.running import compiled_for
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.codegen import generate
from dataflare.kernels.cpu.target import level_target
from dataflare.kernels.llvm.division import reciprocal
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage

ROWS = 1003  # not a multiple of any vector


def results(program: RecordProgram, batch: pa.RecordBatch, target: Target) -> dict[str, list[Any]]:
    columns = [HostColumn.from_arrow(batch.column(name)) for name in program.required_columns]
    result = compiled_for(program, target).run(columns, len(batch))
    names = program.output_schema.names
    return {n: c.to_arrow().to_pylist() for n, c in zip(names, result.columns, strict=True)}


def assert_same_as_python(fn: Callable[[Any], Any], batch: pa.RecordBatch, target: Target) -> None:
    right = [fn(SimpleNamespace(**record)) for record in batch.to_pylist()]
    got = results(build_program([MapStage(fn)], batch.schema), batch, target)
    for name, values in got.items():
        np.testing.assert_array_equal(values, [record[name] for record in right], err_msg=name)


# --------------------------------------------------------------------------------------------------------- loops


def collatz(r: Any) -> Any:
    n, steps = r.n, 0
    while n > 1 and steps < 100:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return {"n": n, "steps": steps}


def cube_root(r: Any) -> Any:
    x, rounds = r.x, 0
    while rounds < 30 and abs(x * x * x - r.x * r.n) > 1e-9 * r.n:
        x = (2.0 * x + r.x * r.n / (x * x)) / 3.0
        rounds += 1
    return {"x": x, "rounds": rounds}


def same_number_of_rounds(r: Any) -> Any:
    total = 0.0
    for i in range(2, 20, 3):
        total = total * 0.5 + r.x * i
    return {"total": total, "last": i}


def only_some_enter(r: Any) -> Any:
    total, k = 0, 5
    if r.n > 3000:
        while k < 12:
            total += r.n % k
            k += 1
    return {"total": total, "k": k}


def left_by_break(r: Any) -> Any:
    found = -1
    for i in range(25):
        if r.n % (i + 3) == 0:
            found = i
            break
    return {"found": found}


def continued(r: Any) -> Any:
    total, i = 0, 0
    while i < 9:
        i += 1
        if (r.n + i) % 2:
            continue
        total += i * r.n
    return {"total": total, "i": i}


def nested(r: Any) -> Any:
    total = 0
    for i in range(4):
        k = r.n
        while k > 10 * i:
            k = k // 3
            total += 1
    return {"total": total}


def counted_down_in_32_bits(r: Any) -> Any:
    value, left = r.f, 6
    while left > 0 and value < 50:
        value = value + value
        left -= 1
    return {"value": value, "left": left}


def two_counters(r: Any) -> Any:
    i, j = 0, 10
    while i < j and r.n > i * j:
        i += 1
        j += -1
    return {"i": i, "j": j}


def until_the_lanes_differ(r: Any) -> Any:
    n = 0
    while True:
        n += 1
        if n >= r.n % 7:
            break
    return {"n": n}


LOOPS = [
    collatz, cube_root, same_number_of_rounds, only_some_enter, left_by_break, continued, nested,
    counted_down_in_32_bits, two_counters, until_the_lanes_differ,
]  # fmt: skip


@pytest.mark.parametrize("fn", LOOPS, ids=lambda fn: fn.__name__)
def test_a_loop_gives_what_python_gives(fn: Callable[[Any], Any], target: Target) -> None:
    rng = np.random.default_rng(1)
    batch = pa.record_batch(
        {
            "n": pa.array(rng.integers(1, 10_000, ROWS)),
            "x": pa.array(rng.uniform(1, 100, ROWS)),
            "f": pa.array(rng.integers(1, 60, ROWS).astype(np.float32)),
        }
    )
    assert_same_as_python(fn, batch, target)


def test_a_condition_that_all_records_share_is_no_vector() -> None:
    """Of ``steps < 100`` no lane knows anything: the code compares a scalar and keeps 32 lanes in four masks."""
    target = level_target("x86-64-v4")
    program = build_program([MapStage(collatz)], pa.schema([pa.field("n", pa.int64(), nullable=False)]))
    text = jit.assembly(generate(program, target).text, target)
    loop = next(block for block in re.split(r"^\.LBB\w+:", text, flags=re.M) if "vpsraq" in block)
    assert len(re.findall(r"vpcmpgtq\s+%zmm\d+, %zmm\d+, %k\d+ \{%k\d+\}", loop)) == 4
    assert "kortestb" in loop
    assert "vpmullq" not in loop


# -------------------------------------------------------------------------------------------- division by constants


def multiply_add(a: float, b: float, c: float) -> float:
    return float(Fraction(a) * Fraction(b) + Fraction(c))


divisors = st.one_of(
    st.integers(3, 10_000).map(float),
    st.integers(1, 10**6).map(lambda n: n / 1000),
    st.floats(1e-30, 1e30),
)


@given(divisor=divisors, negative=st.booleans(), x=st.floats(-1e100, 1e100))
def test_a_reciprocal_in_two_parts_divides_exactly(divisor: float, negative: bool, x: float) -> None:
    divisor = -divisor if negative else divisor
    pair = reciprocal(divisor)
    if pair is None:
        return
    scaled = int(math.frexp(abs(divisor))[0] * 2**53)
    hard = [x]
    if scaled % 2:  # quotients as near to the middle between two floats as any
        nearest = pow(2**54, -1, scaled)
        hard += [float(n * nearest % scaled) for n in (1, -1, 3, -3)]
    for dividend in hard:
        if abs(dividend) > 1e-200:
            assert multiply_add(dividend, pair[0], dividend * pair[1]) == dividend / divisor


@pytest.mark.parametrize("divisor", [0.0, 1.0, -4.0, 0.25, math.inf, math.nan, 1e-300, 1e300])
def test_no_reciprocal_where_it_is_not_exact_or_not_needed(divisor: float) -> None:
    assert reciprocal(divisor) is None


def test_most_divisors_have_a_reciprocal() -> None:
    assert all(reciprocal(d) for d in (3.0, 5.0, 7.0, 10.0, 60.0, 100.0, 3600.0, 1e6, 0.1, 1.08, math.pi))


DIVIDENDS = [
    0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, -5e-324, 2.2e-308, 1.8e308, -1.8e308, 2.0**700, 2.0**-700,
    2.0**701, 2.0**-701, 1.0, -1.0, 3.0, 10.0,
]  # fmt: skip


def test_division_by_a_constant_is_that_of_the_divider(target: Target) -> None:
    rng = np.random.default_rng(2)
    random = rng.uniform(-1, 1, ROWS) * 10.0 ** rng.integers(-300, 300, ROWS)
    values = np.concatenate([random, np.repeat(DIVIDENDS, 16), rng.permutation(np.repeat(DIVIDENDS, 5))])
    batch = pa.record_batch({"x": pa.array(values)})
    stage = MapStage(
        lambda r: {
            "a": r.x / 3.0,
            "b": r.x / -7.0,
            "c": r.x / 0.1,
            "d": r.x / 100,
            "e": r.x / -60,
            "f": r.x / 1.08,
        }
    )
    got = results(build_program([stage], batch.schema), batch, target)
    for name, divisor in zip("abcdef", (3.0, -7.0, 0.1, 100.0, -60.0, 1.08), strict=True):
        with np.errstate(over="ignore", under="ignore"):
            right = values / divisor
        np.testing.assert_array_equal(got[name], right)
        signs = np.signbit(np.array(got[name], float))
        np.testing.assert_array_equal(signs[~np.isnan(values)], np.signbit(right)[~np.isnan(values)])


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_division_by_a_constant_multiplies(level: str) -> None:
    target = level_target(level)
    program = build_program([MapStage(lambda r: {"y": r.x / 3.0})], pa.schema([("x", pa.float64())]))
    text = jit.assembly(generate(program, target).text, target)
    assert re.search(r"vfmadd\d+pd\s", text)


# ------------------------------------------------------------------------------------------- filters and their groups


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_groups_without_a_kept_record_are_left_out(share: float, target: Target) -> None:
    rng = np.random.default_rng(3)
    u = rng.random(ROWS)
    batch = pa.record_batch({"u": u, "n": rng.integers(1, 1000, ROWS), "x": rng.uniform(1, 9, ROWS)})
    stages: list[Stage] = [FilterStage(lambda r: r.u < share), MapStage(collatz)]
    got = results(build_program(stages, batch.schema), batch, target)
    right = [
        collatz(SimpleNamespace(n=n)) for n, v in zip(batch["n"].to_pylist(), u, strict=True) if v < share
    ]
    assert [{"n": n, "steps": s} for n, s in zip(got["n"], got["steps"], strict=True)] == right
