"""LLVM code that runs an automaton over the code points of a string in UTF-8.

A code point is looked up in two steps, the block of 64 that it is in and its class there, and the class moves the
automaton. States are the places of their rows in the table of moves. It ends early where no state can be left.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.kernels.llvm.emit import Code
from dataflare.kernels.udf.automata import BLOCK, Automaton

__all__ = ["automaton_globals", "emit_automaton"]


def automaton_globals(name: str, automaton: Automaton) -> list[str]:
    """Return the tables of an automaton as constants that begin with ``name``."""
    rows = [state * automaton.num_classes for state in automaton.moves]
    return [
        _array(f"@{name}.blocks", "i16", automaton.blocks),
        _array(f"@{name}.classes", "i8", automaton.classes),
        _array(f"@{name}.moves", "i16", rows),
        _array(f"@{name}.accepting", "i8", automaton.accepting),
    ]


def _array(name: str, element: str, values: Sequence[int]) -> str:
    listed = ", ".join(f"{element} {int(value)}" for value in values)
    return f"{name} = private unnamed_addr constant [{len(values)} x {element}] [{listed}], align 16"


def emit_automaton(code: Code, name: str, automaton: Automaton, text: str, size: str) -> str:
    """Return whether the string of ``size`` bytes at ``text`` passes the test, as an i1."""
    code.declare("declare i64 @llvm.umin.i64(i64, i64)")
    before = code.block
    head, long, step, done = (code.fresh_label(stem) for stem in ("character", "long", "step", "matched"))
    place, following, state, now = (code.name(stem) for stem in ("place", "place", "state", "state"))
    some = code.value(f"icmp ugt i64 {size}, 0")
    code.add(f"br i1 {some}, label %{head}, label %{done}")
    code.label(head)
    code.add(f"{place} = phi i64 [ 0, %{before} ], [ {following}, %{step} ]")
    code.add(f"{state} = phi i64 [ 0, %{before} ], [ {now}, %{step} ]")
    lead = _entry(code, text, "i8", place)
    is_ascii = code.value(f"icmp ult i64 {lead}, 128")
    code.add(f"br i1 {is_ascii}, label %{step}, label %{long}")
    code.label(long)
    point, bytes_ = _long_code_point(code, text, size, place, lead)
    code.add(f"br label %{step}")
    code.label(step)
    point = code.value(f"phi i64 [ {lead}, %{head} ], [ {point}, %{long} ]")
    bytes_ = code.value(f"phi i64 [ 1, %{head} ], [ {bytes_}, %{long} ]")
    cell = code.value(f"add i64 {state}, {_class_of(code, name, automaton, point)}")
    code.add(f"{now} = add i64 {_entry(code, f'@{name}.moves', 'i16', cell)}, 0")
    code.add(f"{following} = add i64 {place}, {bytes_}")
    inside = code.value(f"icmp ult i64 {following}, {size}")
    undecided = code.value(f"icmp ult i64 {now}, {automaton.first_final * automaton.num_classes}")
    more = code.value(f"and i1 {inside}, {undecided}")
    code.add(f"br i1 {more}, label %{head}, label %{done}")
    code.label(done)
    last = code.value(f"phi i64 [ 0, %{before} ], [ {now}, %{step} ]")
    number = code.value(f"udiv i64 {last}, {automaton.num_classes}")
    accepting = _entry(code, f"@{name}.accepting", "i8", number)
    return code.value(f"trunc i64 {accepting} to i1")


def _entry(code: Code, table: str, element: str, place: str) -> str:
    address = code.value(f"getelementptr {element}, ptr {table}, i64 {place}")
    loaded = code.value(f"load {element}, ptr {address}, align {int(element[1:]) // 8}")
    return code.value(f"zext {element} {loaded} to i64")


def _long_code_point(code: Code, text: str, size: str, place: str, lead: str) -> tuple[str, str]:
    """Return a code point of two to four bytes and how many they are; what is under a null may be cut short."""
    end = code.value(f"sub i64 {size}, 1")
    bits = []
    for distance in (1, 2, 3):
        here = code.value(f"add i64 {place}, {distance}")
        here = code.value(f"call i64 @llvm.umin.i64(i64 {here}, i64 {end})")
        bits.append(code.value(f"and i64 {_entry(code, text, 'i8', here)}, 63"))
    point, count = "", ""
    for number, (least, mask) in enumerate(((0xC0, 31), (0xE0, 15), (0xF0, 7))):
        longer = code.value(f"and i64 {lead}, {mask}")
        for bit in bits[: number + 1]:
            longer = code.value(f"shl i64 {longer}, 6")
            longer = code.value(f"or i64 {longer}, {bit}")
        if not point:
            point, count = longer, "2"
            continue
        has_more = code.value(f"icmp uge i64 {lead}, {least}")
        point = code.value(f"select i1 {has_more}, i64 {longer}, i64 {point}")
        count = code.value(f"select i1 {has_more}, i64 {number + 2}, i64 {count}")
    return point, count


def _class_of(code: Code, name: str, automaton: Automaton, point: str) -> str:
    block = code.value(f"udiv i64 {point}, {BLOCK}")
    known = code.value(f"icmp ult i64 {block}, {len(automaton.blocks)}")
    block = code.value(f"select i1 {known}, i64 {block}, i64 0")
    part = _entry(code, f"@{name}.blocks", "i16", block)
    start = code.value(f"mul i64 {part}, {BLOCK}")
    within = code.value(f"urem i64 {point}, {BLOCK}")
    found = _entry(code, f"@{name}.classes", "i8", code.value(f"add i64 {start}, {within}"))
    return code.value(f"select i1 {known}, i64 {found}, i64 0")
