"""Exchanges of a warp against their definitions lane by lane, and atomics under several schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

Run = Callable[..., Any]
LANES = st.lists(st.integers(0, 2**32 - 1), min_size=32, max_size=32)
FULL = "0xffffffff"


def words(values: list[int]) -> tuple[str, Any]:
    return "b32", np.array(values, np.uint32)


def shuffled(mode: str, values: list[int], by: int, width: int) -> tuple[list[int], list[bool]]:
    """What CUDA's __shfl_*_sync gives for segments of a width, and whether the source lay in the segment."""
    results, inside = [], []
    for lane in range(32):
        start = lane // width * width
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": start + by % width}[mode]
        lies_in = {"up": source >= start, "idx": True}.get(mode, source < start + width)
        results.append(values[source if lies_in else lane])
        inside.append(lies_in)
    return results, inside


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@given(values=LANES, by=st.integers(0, 31), log_width=st.integers(0, 5))
def test_shfl(mode: str, run_instruction: Run, values: list[int], by: int, log_width: int) -> None:
    width = 1 << log_width
    control = (32 - width) << 8 | (0 if mode == "up" else 31)
    want, inside = shuffled(mode, values, by, width)
    code = f"shfl.sync.{mode}.b32 {{}}, %a0, {by}, {control}, {FULL};"
    assert list(run_instruction(code.format("%r"), [words(values)], "b32", np.uint32)) == want
    code = code.format("%t0|%p0") + " selp.b32 %r, 1, 0, %p0;"
    assert list(run_instruction(code, [words(values)], "b32", np.uint32)) == inside


@given(flags=st.lists(st.booleans(), min_size=32, max_size=32))
def test_vote(run_instruction: Run, flags: list[bool]) -> None:
    operand = ("pred", np.array(flags, np.uint8))
    got = run_instruction(f"vote.sync.ballot.b32 %r, %a0, {FULL};", [operand], "b32", np.uint32)
    assert list(got) == [sum(flag << lane for lane, flag in enumerate(flags))] * 32
    for mode, want in (("any", any(flags)), ("all", all(flags)), ("uni", len(set(flags)) == 1)):
        got = run_instruction(f"vote.sync.{mode}.pred %r, %a0, {FULL};", [operand], "pred", np.bool_)
        assert list(got) == [want] * 32


@pytest.mark.parametrize("flag", [False, True])
def test_votes_of_one_mind(run_instruction: Run, flag: bool) -> None:
    operand = ("pred", np.full(32, flag, np.uint8))
    for mode, want in (("any", flag), ("all", flag), ("uni", True)):
        got = run_instruction(f"vote.sync.{mode}.pred %r, %a0, {FULL};", [operand], "pred", np.bool_)
        assert list(got) == [want] * 32


@given(values=st.lists(st.integers(0, 5), min_size=32, max_size=32))
def test_match(run_instruction: Run, values: list[int]) -> None:
    got = run_instruction(f"match.any.sync.b32 %r, %a0, {FULL};", [words(values)], "b32", np.uint32)
    assert list(got) == [
        sum((other == value) << lane for lane, other in enumerate(values)) for value in values
    ]
    same = len(set(values)) == 1
    got = run_instruction(f"match.all.sync.b32 %r|%p0, %a0, {FULL};", [words(values)], "b32", np.uint32)
    assert list(got) == [0xFFFFFFFF if same else 0] * 32


@given(values=LANES)
def test_redux(run_instruction: Run, values: list[int]) -> None:
    signed = [value - 2**32 if value >> 31 else value for value in values]
    wanted = {"add.u32": sum(values), "min.s32": min(signed), "max.u32": max(values)}
    for name, want in wanted.items():
        got = run_instruction(f"redux.sync.{name} %r, %a0, {FULL};", [words(values)], "b32", np.uint32)
        assert list(got) == [want & 0xFFFFFFFF] * 32
    # Two groups of a warp at once, each with its own mask.
    code = "setp.lt.u32 %p0, %i, 16; selp.b32 %t0, 0xffff, 0xffff0000, %p0; redux.sync.xor.b32 %r, %a0, %t0;"
    halves = [int(np.bitwise_xor.reduce(np.array(half, np.uint32))) for half in (values[:16], values[16:])]
    assert (
        list(run_instruction(code, [words(values)], "b32", np.uint32)) == [halves[0]] * 16 + [halves[1]] * 16
    )


def test_elect_and_activemask(run_instruction: Run) -> None:
    zeros = words([0] * 32)
    code = "setp.ge.u32 %p0, %i, 8; mov.u32 %r, 0; {} @%p0 activemask.b32 %r;"
    assert list(run_instruction(code.format(""), [zeros], "b32", np.uint32)) == [0] * 8 + [0xFFFFFF00] * 24
    code = "elect.sync %t0|%p0, 0xffffffff; selp.b32 %t1, 100, 0, %p0; add.u32 %r, %t0, %t1;"
    assert list(run_instruction(code, [zeros], "b32", np.uint32)) == [100] + [0] * 31


# ------------------------------------------------------------------------------------------------------- atomics

ATOMICS: dict[str, Callable[[int, int], int]] = {
    "add.u32": lambda old, value: old + value,
    "min.s32": lambda old, value: min(old, value, key=lambda x: x - 2**32 if x >> 31 else x),
    "max.u32": max,
    "and.b32": lambda old, value: old & value,
    "or.b32": lambda old, value: old | value,
    "xor.b32": lambda old, value: old ^ value,
    "inc.u32": lambda old, value: 0 if old >= value else old + 1,
    "dec.u32": lambda old, value: value if old == 0 or old > value else old - 1,
    "exch.b32": lambda old, value: value,
}


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("space", ["global", "shared", "generic"])
@pytest.mark.parametrize("name", ATOMICS)
def test_each_atomic_is_some_order_of_turns(
    name: str, space: str, seed: int | None, kernel: Callable[..., str], device: Any
) -> None:
    """The old values that threads got must be those of one order of turns, which is found by following them."""
    where = {"global": "%p0", "shared": "%r6", "generic": "%rd3"}[space]
    kind = "" if space == "generic" else f".{space}"
    text = kernel(
        f""" mul.wide.u32 %rd0, %i, 4;
 add.u64 %rd1, %p1, %rd0;
 add.u64 %rd2, %p2, %rd0;
 ld.global.u32 %r4, [%rd1];
 mov.u32 %r6, cell;
 mov.u64 %rd3, cell;
 cvta.shared.u64 %rd3, %rd3;
 setp.eq.u32 %q0, %w, 0;
 @%q0 st.shared.u32 [%r6], 5;
 bar.sync 0;
 atom{kind}.{name} %r5, [{where}], %r4;
 st.global.u32 [%rd2], %r5;""",
        "cell values old",
        declarations=".shared .align 4 .b32 cell;",
    )
    random = np.random.default_rng(6)
    values = random.integers(0, 7 if name.startswith(("inc", "dec")) else 2**32, 40).astype(np.uint32)
    cell, given_at, old_at = (
        device.put(np.array([5], np.uint32)),
        device.put(values),
        device.memory.alloc(160),
    )
    device.run(text, [cell, given_at, old_at], block=40, seed=seed)
    old = list(device.get(old_at, np.uint32, 40))
    turn = ATOMICS[name]
    if seed is None:
        state = 5
        for value, found in zip(values, old, strict=True):
            assert found == state
            state = turn(int(state), int(value)) & 0xFFFFFFFF
    else:
        assert 5 in old
        if name in (
            "add.u32",
            "xor.b32",
            "exch.b32",
        ):  # each turn changes the value, so that they form one chain
            chain = {
                int(found): turn(int(found), int(value)) & 0xFFFFFFFF
                for value, found in zip(values, old, strict=True)
            }
            state = 5
            for _ in range(40):
                state = chain.pop(state)
    if space == "global":
        last = int(device.get(cell, np.uint32, 1)[0])
        if name in ("add.u32", "xor.b32", "min.s32", "max.u32", "and.b32", "or.b32"):
            want = 5
            for value in values:
                want = turn(want, int(value)) & 0xFFFFFFFF
            assert last == want


@pytest.mark.parametrize("seed", [None, 1])
def test_sums_of_floats_depend_on_the_order_and_no_more(
    seed: int | None, kernel: Callable[..., str], device: Any
) -> None:
    text = kernel(
        """ mul.wide.u32 %rd0, %i, 4;
 add.u64 %rd0, %p1, %rd0;
 ld.global.f32 %f0, [%rd0];
 red.global.add.f32 [%p0], %f0;""",
        "sum values",
    )
    values = np.random.default_rng(1).normal(0, 1, 20_480).astype(np.float32)
    total, given_at = device.put(np.zeros(1, np.float32)), device.put(values)
    statistics = device.run(text, [total, given_at], block=128, grid=160, seed=seed)
    got = device.get(total, np.float32, 1)[0]
    in_order = np.add.accumulate(values)[-1]
    assert (got == in_order) == (seed is None)
    assert abs(got - values.sum(dtype=np.float64)) < 1e-2
    assert statistics.atomics == len(values)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_table_filled_by_compare_and_swap(
    seed: int | None, kernel: Callable[..., str], device: Any
) -> None:
    """Threads with the same key find the same slot, whoever comes first; counts are those of the keys."""
    text = kernel(
        """ mul.wide.u32 %rd0, %i, 8;
 add.u64 %rd0, %p1, %rd0;
 ld.global.u64 %rd1, [%rd0];
 cvt.u32.u64 %r4, %rd1;
 mul.lo.u32 %r4, %r4, 0x9E3779B1;
 shr.u32 %r4, %r4, 26;
PROBE:
 mul.wide.u32 %rd2, %r4, 16;
 add.u64 %rd2, %p0, %rd2;
 atom.global.cas.b64 %rd3, [%rd2], 0, %rd1;
 setp.eq.u64 %q0, %rd3, 0;
 setp.eq.u64 %q1, %rd3, %rd1;
 or.pred %q0, %q0, %q1;
 @%q0 bra FOUND;
 add.u32 %r4, %r4, 1;
 and.b32 %r4, %r4, 63;
 bra PROBE;
FOUND:
 red.global.add.u64 [%rd2+8], 1;""",
        "table keys",
    )
    keys = np.random.default_rng(2).integers(1, 50, 4000).astype(np.uint64)
    table = device.put(np.zeros(128, np.uint64))
    device.run(text, [table, device.put(keys)], block=200, grid=20, seed=seed)
    rows = device.get(table, np.uint64, 128).reshape(64, 2)
    found = {int(key): int(count) for key, count in rows if key}
    assert found == dict(
        zip(*(column.tolist() for column in np.unique(keys, return_counts=True)), strict=True)
    )
