"""Strings that are compared or measured eight at once give what Python's strings give, at every length and place."""

from __future__ import annotations

import ctypes
import mmap
import random
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.cpu.codegen import generate
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.cpu.text_groups import takes_groups
from dataflare.kernels.llvm.layout import ColumnForm
from dataflare.kernels.udf.ir import StringLeaf, StringOp
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import MapStage

ALPHABET = "ab\0é日😀"
TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string()))
LITERALS = (
    "",
    "a",
    "ab",
    "é",
    "aba",
    "abab",
    "ababa",
    "日本",
    "abababab",
    "😀😀a",
    "ab" * 6,
    "b" + "ab" * 7,
    "ab" * 8,
    "ab" * 9,
)


def strings(seed: int, count: int, *, longest: int, literal: str = "") -> list[str | None]:
    """Strings of which many begin with, end with or are a literal, or miss it by a little."""
    chance = random.Random(seed)
    found: list[str | None] = []
    for _ in range(count):
        drawn = "".join(chance.choice(ALPHABET) for _ in range(chance.randint(0, longest)))
        near = (
            literal,
            literal + drawn,
            drawn + literal,
            literal[:-1],
            literal[1:],
            literal[:-1] + "x",
            drawn,
        )
        found.append(None if chance.random() < 0.1 else chance.choice(near))
    return found


@pytest.fixture
def results(compiled_device: str, run_on: Any) -> Callable[[pa.Array[Any], Callable[[Any], Any]], list[Any]]:
    """Return ``results(texts, fn)``: what a function of one string gives on a device."""

    def results(texts: pa.Array[Any], fn: Callable[[Any], Any]) -> list[Any]:
        batch = pa.record_batch({"s": texts})
        return list(run_on(compiled_device, [MapStage(fn)], batch).batch.column(0).to_pylist())

    return results


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("literal", LITERALS, ids=ascii)
def test_short_literals(kind: Any, literal: str, results: Any) -> None:
    texts = strings(len(literal), 203, longest=14, literal=literal)
    array = pa.array(texts, kind.value_type if pa.types.is_dictionary(kind) else kind).cast(kind)
    for start in (0, 1, 5):
        part, expected = array.slice(start), texts[start:]
        for fn, rule in (
            (lambda r: {"x": r.s == literal}, lambda t: t == literal),
            (lambda r: {"x": r.s.startswith(literal)}, lambda t: t.startswith(literal)),
            (lambda r: {"x": r.s.endswith(literal)}, lambda t: t.endswith(literal)),
        ):
            assert results(part, fn) == [None if t is None else rule(t) for t in expected]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("longest", [0, 1, 9])
def test_lengths(kind: Any, longest: int, results: Any) -> None:
    texts = [
        *strings(longest, 100, longest=longest),
        *("plain", "", "ascii text") * 20,
        "é",
        *("x" * 11,) * 20,
    ]
    array = pa.array(texts, kind.value_type if pa.types.is_dictionary(kind) else kind).cast(kind)
    for start in (0, 3, 150):
        expected = [None if t is None else len(t) for t in texts[start:]]
        assert results(array.slice(start), lambda r: {"x": len(r.s)}) == expected


@pytest.mark.parametrize(
    "texts", [[""] * 9, ["a"] + [""] * 8, ["abc"] + [""] * 20, ["", *["é"] * 3, *[""] * 9]]
)
def test_fewer_bytes_than_a_register_reads(texts: list[str], results: Any) -> None:
    array = pa.array(texts, pa.string())
    assert results(array, lambda r: {"x": r.s == "a"}) == [t == "a" for t in texts]
    assert results(array, lambda r: {"x": r.s == "abcde"}) == [False] * len(texts)
    assert results(array, lambda r: {"x": len(r.s)}) == [len(t) for t in texts]


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page of memory")
def test_nothing_is_read_behind_the_last_string(results: Any) -> None:
    """The strings end where the memory ends: the page behind them may not be touched."""
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    texts = ["abcde", "x", "", "ab", "abcdefghij", "", "é", "abc"] * 2
    data = "".join(texts).encode()
    pages[mmap.PAGESIZE - len(data) : mmap.PAGESIZE] = data
    memory = pa.foreign_buffer(start + mmap.PAGESIZE - len(data), len(data), base=pages)
    array = pa.StringArray.from_buffers(len(texts), pa.array(texts).buffers()[1], memory)
    for known in ("x", "abc", "abcde", "abcdefghij"):
        made = results(array, lambda r, known=known: {"x": r.s == known or r.s.endswith(known)})
        assert made == [t.endswith(known) for t in texts]
    assert results(array, lambda r: {"x": len(r.s)}) == [len(t) for t in texts]


def test_what_is_done_in_groups_is_what_is_said() -> None:
    literal = StringLeaf(text="ab")
    for name, groups in (
        ("eq", True),
        ("startswith", True),
        ("endswith", True),
        ("lt", False),
        ("contains", False),
    ):
        op = StringOp(name, (StringLeaf(column=0), literal))
        assert takes_groups(op, (ColumnForm.STRING32, None)) is groups
    views = StringOp("eq", (StringLeaf(column=0), literal))
    assert takes_groups(views, (ColumnForm.VIEW, None))
    assert not takes_groups(StringOp("startswith", views.leaves), (ColumnForm.VIEW, None))
    assert not takes_groups(
        StringOp("eq", (StringLeaf(column=0), StringLeaf(column=1))), (ColumnForm.STRING32,) * 2
    )


def test_a_group_is_compared_without_a_call_for_each_string() -> None:
    program = build_program([MapStage(lambda r: {"x": r.s == "abc"})], pa.schema([("s", pa.string())]))
    text = generate(program, host_target()).text
    assert "masked.gather" in text
    assert "memcmp" in text  # the last few


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_no_rows_and_no_entries(kind: Any, results: Any) -> None:
    for texts in (pa.array([], kind), pa.nulls(9, kind)):
        expected = [None] * len(texts)
        assert results(texts, lambda r: {"x": r.s.startswith("ab")}) == expected
        assert results(texts, lambda r: {"x": len(r.s)}) == expected
