"""Integer and bit instructions against their definitions on Python's integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

Run = Callable[..., Any]
WORDS = st.lists(
    st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**31, 2**32 - 1])), min_size=3, max_size=3
)
ROWS = st.lists(WORDS, min_size=1, max_size=40)
M32 = 2**32 - 1


def signed(value: int, bits: int = 32) -> int:
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value


def truncated_quotient(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def columns(rows: list[list[int]], kind: str = "b32", dtype: Any = np.uint32) -> list[tuple[str, Any]]:
    return [(kind, np.array(column, dtype)) for column in zip(*rows, strict=True)]


def bfe(a: int, b: int, c: int, *, is_signed: bool, bits: int = 32) -> int:
    """The definition in the PTX manual, bit by bit."""
    position, length = b & 255, c & 255
    if length == 0 or not is_signed:
        sign = 0
    else:
        sign = a >> min(position + length - 1, bits - 1) & 1
    result = 0
    for index in range(bits):
        bit = a >> (position + index) & 1 if index < length and position + index < bits else sign
        result |= bit << index
    return result


def bfi(a: int, b: int, c: int, d: int) -> int:
    position, length = c & 255, d & 255
    for index in range(length):
        if position + index < 32:
            b = b & ~(1 << (position + index)) | (a >> index & 1) << (position + index)
    return b & M32


def prmt(a: int, b: int, c: int) -> int:
    source = (b << 32 | a).to_bytes(8, "little")
    result = 0
    for index in range(4):
        control = c >> 4 * index & 15
        byte = source[control & 7]
        result |= ((0xFF if byte & 128 else 0) if control & 8 else byte) << 8 * index
    return result


THREE: dict[str, Callable[[int, int, int], int]] = {
    "mad.lo.u32": lambda a, b, c: a * b + c,
    "mad.hi.u32": lambda a, b, c: (a * b >> 32) + c,
    "mad.hi.s32": lambda a, b, c: (signed(a) * signed(b) >> 32) + c,
    "sad.u32": lambda a, b, c: c + abs(a - b),
    "sad.s32": lambda a, b, c: c + abs(signed(a) - signed(b)),
    "shf.l.wrap.b32": lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32,
    "shf.r.wrap.b32": lambda a, b, c: (b << 32 | a) >> (c & 31),
    "shf.l.clamp.b32": lambda a, b, c: ((b << 32 | a) << min(c, 32)) >> 32,
    "shf.r.clamp.b32": lambda a, b, c: (b << 32 | a) >> min(c, 32),
    "bfe.u32": lambda a, b, c: bfe(a, b, c, is_signed=False),
    "bfe.s32": lambda a, b, c: bfe(a, b, c, is_signed=True),
    "prmt.b32": prmt,
    "mad24.lo.u32": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c,
}
TWO: dict[str, Callable[[int, int], int]] = {
    "add.u32": lambda a, b: a + b,
    "sub.s32": lambda a, b: a - b,
    "add.sat.s32": lambda a, b: max(-(2**31), min(2**31 - 1, signed(a) + signed(b))),
    "sub.sat.s32": lambda a, b: max(-(2**31), min(2**31 - 1, signed(a) - signed(b))),
    "mul.lo.s32": lambda a, b: a * b,
    "mul.hi.u32": lambda a, b: a * b >> 32,
    "mul.hi.s32": lambda a, b: signed(a) * signed(b) >> 32,
    "min.s32": lambda a, b: min(signed(a), signed(b)),
    "max.u32": max,
    "shl.b32": lambda a, b: a << b if b < 32 else 0,
    "shr.u32": lambda a, b: a >> b if b < 32 else 0,
    "shr.s32": lambda a, b: signed(a) >> min(b, 31),
    "bmsk.clamp.b32": lambda a, b: ((1 << min(b, 32)) - 1) << min(a, 32),
    "bmsk.wrap.b32": lambda a, b: ((1 << (b & 31)) - 1) << (a & 31),
}
ONE: dict[str, Callable[[int], int]] = {
    "neg.s32": lambda a: -a,
    "abs.s32": lambda a: abs(signed(a)),
    "not.b32": lambda a: ~a,
    "cnot.b32": lambda a: int(a == 0),
    "popc.b32": lambda a: a.bit_count(),
    "clz.b32": lambda a: 32 - a.bit_length(),
    "brev.b32": lambda a: int(f"{a:032b}"[::-1], 2),
    "bfind.u32": lambda a: a.bit_length() - 1,
    "bfind.s32": lambda a: (~a & M32 if a >> 31 else a).bit_length() - 1,
    "bfind.shiftamt.u32": lambda a: 32 - a.bit_length() if a else -1,
}


@pytest.mark.parametrize("name", THREE)
@given(rows=ROWS)
def test_three_operands(name: str, run_instruction: Run, rows: list[list[int]]) -> None:
    got = run_instruction(f"{name} %r, %a0, %a1, %a2;", columns(rows), "b32", np.uint32)
    assert list(got) == [THREE[name](*row) & M32 for row in rows]


@pytest.mark.parametrize("name", TWO)
@given(rows=ROWS, small=st.lists(st.integers(0, 40), min_size=40, max_size=40))
def test_two_operands(name: str, run_instruction: Run, rows: list[list[int]], small: list[int]) -> None:
    rows = [row[:2] for row in rows] + [[row[0], count] for row, count in zip(rows, small, strict=False)]
    got = run_instruction(f"{name} %r, %a0, %a1;", columns(rows), "b32", np.uint32)
    assert list(got) == [TWO[name](*row) & M32 for row in rows]


@pytest.mark.parametrize("name", ONE)
@given(rows=ROWS)
def test_one_operand(name: str, run_instruction: Run, rows: list[list[int]]) -> None:
    got = run_instruction(f"{name} %r, %a0;", columns([row[:1] for row in rows]), "b32", np.uint32)
    assert list(got) == [ONE[name](row[0]) & M32 for row in rows]


@given(rows=ROWS, places=st.lists(st.integers(0, 40), min_size=80, max_size=80))
def test_bfi(run_instruction: Run, rows: list[list[int]], places: list[int]) -> None:
    rows = [[*row[:2], places[2 * n], places[2 * n + 1]] for n, row in enumerate(rows)]
    got = run_instruction("bfi.b32 %r, %a0, %a1, %a2, %a3;", columns(rows), "b32", np.uint32)
    assert list(got) == [bfi(*row) for row in rows]


@given(rows=ROWS, table=st.integers(0, 255))
def test_lop3(run_instruction: Run, rows: list[list[int]], table: int) -> None:
    got = run_instruction(f"lop3.b32 %r, %a0, %a1, %a2, {table};", columns(rows), "b32", np.uint32)
    want = [
        sum((table >> ((a >> n & 1) << 2 | (b >> n & 1) << 1 | c >> n & 1) & 1) << n for n in range(32))
        for a, b, c in rows
    ]
    assert list(got) == want


@pytest.mark.parametrize(("kind", "sign"), [("s", True), ("u", False)])
@given(rows=ROWS)
def test_quotients_round_toward_zero(
    kind: str, sign: bool, run_instruction: Run, rows: list[list[int]]
) -> None:
    rows = [row[:2] for row in rows if row[1] and not (sign and row[1] == M32)] or [[7, 2]]
    value = signed if sign else int
    for name in ("div", "rem"):
        got = run_instruction(f"{name}.{kind}32 %r, %a0, %a1;", columns(rows), "b32", np.uint32)
        quotients = [truncated_quotient(value(a), value(b)) for a, b in rows]
        want = (
            quotients
            if name == "div"
            else [value(a) - q * value(b) for q, (a, b) in zip(quotients, rows, strict=True)]
        )
        assert list(got) == [one & M32 for one in want]


@given(rows=st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2), min_size=1, max_size=20))
def test_sums_of_128_bits_by_carries(run_instruction: Run, rows: list[list[int]]) -> None:
    declared = ".reg .b64 %lo, %hi, %c;"
    for first, second, sign in (("add.cc.u64", "addc.u64", 1), ("sub.cc.u64", "subc.u64", -1)):
        code = f"{declared} {first} %lo, %a0, %a1; {second} %hi, %a1, %a0; mov.b64 %r, %hi;"
        got = run_instruction(code, columns(rows, "b64", np.uint64), "b64", np.uint64)
        want = [((b << 64 | a) + sign * (a << 64 | b)) >> 64 & (2**64 - 1) for a, b in rows]
        assert list(got) == want


@given(rows=st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_products_of_128_bits_by_carries(run_instruction: Run, rows: list[list[int]]) -> None:
    code = ".reg .b64 %lo; mad.lo.cc.u64 %lo, %a0, %a1, %a2; madc.hi.u64 %r, %a0, %a1, 5;"
    got = run_instruction(code, columns(rows, "b64", np.uint64), "b64", np.uint64)
    assert list(got) == [(a * b + c + (5 << 64)) >> 64 & (2**64 - 1) for a, b, c in rows]


@given(rows=ROWS)
def test_packed_halves(run_instruction: Run, rows: list[list[int]]) -> None:
    rows = [row[:2] for row in rows]
    a, b = (np.array(column, np.uint32).view(np.int16) for column in zip(*rows, strict=True))
    for name, want in (
        ("add.s16x2", a + b),
        ("min.s16x2", np.minimum(a, b)),
        ("max.s16x2", np.maximum(a, b)),
    ):
        got = run_instruction(f"{name} %r, %a0, %a1;", columns(rows), "b32", np.uint32)
        assert list(got.view(np.int16)) == list(want)


@pytest.mark.parametrize(("bits", "kind"), [(16, "s"), (16, "u"), (32, "s"), (32, "u")])
@given(rows=ROWS)
def test_wide_products(bits: int, kind: str, run_instruction: Run, rows: list[list[int]]) -> None:
    small = [[value & (2**bits - 1) for value in row[:2]] for row in rows]
    dtype = f"u{bits // 8}"
    got = run_instruction(
        f"mul.wide.{kind}{bits} %r, %a0, %a1;",
        columns(small, f"b{bits}", dtype),
        f"b{2 * bits}",
        f"u{bits // 4}",
    )
    value = (lambda x: signed(x, bits)) if kind == "s" else int
    assert [int(one) for one in got] == [value(a) * value(b) & (2 ** (2 * bits) - 1) for a, b in small]
