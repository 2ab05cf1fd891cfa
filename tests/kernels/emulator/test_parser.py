"""PTX text: what a module tells, literals, scopes, and messages for what is not covered."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.emulator.parser import parse
from dataflare.kernels.emulator.program import program_of
from dataflare.kernels.errors import DeviceCodeError

Run = Callable[..., Any]
HEAD = ".version 8.0\n.target sm_80, debug\n.address_size 64\n"
TEXT = (
    HEAD
    + """
/* a comment
   of two lines */
.file 1 "a.cu"
.extern .func nothing(.param .b32 nothing_param_0);
.shared .align 16 .b8 first[20];
.visible .entry work(
	.param .u64 .ptr .global .align 16 work_param_0,
	.param .u8 work_param_1,
	.param .align 8 .b8 work_param_2[12],
	.param .f32 work_param_3
)
.maxntid 128, 2
.minnctapersm 1
{
	.reg .pred %p<3>;
	.reg .b32 	%r<5>, %extra;
	.reg .b64 	%rd<2>;
	.shared .align 4 .b8 second[8];
	.loc 1 3 0 // line
	ret;
}
.entry other() { ret; }
.section .debug_abbrev
{
.b8 1
}
"""
)


def test_what_a_module_tells() -> None:
    module = parse(TEXT)
    assert (module.version, module.target) == ("8.0", "sm_80")
    assert list(module.entries) == ["work", "other"]
    work = module.entries["work"]
    layout = [
        (one.name[-1], one.offset_bytes, one.size_bytes, one.alignment_bytes) for one in work.parameters
    ]
    assert layout == [("0", 0, 8, 8), ("1", 8, 1, 1), ("2", 16, 12, 8), ("3", 28, 4, 4)]
    assert work.parameter_bytes == 32
    assert work.register_counts == {"pred": 3, "b32": 6, "b64": 2}
    assert work.block_limit == (128, 2)
    assert module.shared_bytes == 28
    assert parse(TEXT) is module


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("add.s32 %r0, %r1", 7, "';' is expected"),
        ("bra.uni ;\n ?", 7, "is not expected here"),
        (".reg .b32 %r<x>;", 6, "a literal is expected"),
        (".reg .b32 %r<0f3F800000>;", 6, "an integer is expected"),
        ("@%nope ret;", 6, "%nope is not declared"),
        (".weird x;", 6, "the directive is not covered"),
        (".local .align 4 .b7 x;", 6, "a type is expected"),
        ("ld.global.u32 %r0, [{%r0}];", 6, "the address is not covered"),
    ],
)
def test_text_that_is_not_ptx(body: str, line: int, words: str) -> None:
    with pytest.raises(DeviceCodeError, match=f"PTX line {line}: .*{words}"):
        parse(f"{HEAD}.entry k()\n{{\n{body}\n}}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "a declaration is expected"),
        (".address_size 32", "only addresses of 64 bits"),
        (".entry k(.param .u77 x) { }", "a type is expected"),
        (".entry k() {", "the text ends"),
    ],
)
def test_declarations_that_are_not(text: str, words: str) -> None:
    with pytest.raises(DeviceCodeError, match=words):
        parse(text)


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("frob.b32 %r4, %r5;", "frob.b32 is not covered"),
        ("tex.1d.v4.f32.s32 {%r4, %r4, %r4, %r4}, [%rd0, {%r5}];", "PTX line 19: ']' is expected"),
        ("add.wild.u32 %r4, %r5, %r6;", "has the modifier .wild, which is not covered"),
        ("add.u32 %r4, %r5;", "has operands or modifiers that do not fit it"),
        ("add.u32 %rs0, %r5, %r6;", "PTX line 19: add.u32 writes %rs0, a .b16, too small for .u32"),
        ("add.u32 %q0, %r5, %r6;", "PTX line 19: add.u32 writes %q0, a .pred, where .u32 is expected"),
        ("add.u32 %r4, %q5, %r6;", "PTX line 19: add.u32 reads %q5, a .pred, where .u32 is expected"),
        ("add.u32 5, %r5, %r6;", "PTX line 19: add.u32 has a result that is no register"),
        ("vote.sync.ballot.b32 %r4, %r5, 1;", "PTX line 19: .* reads %r5, a .b32, where .pred is expected"),
        ("bar.sync {%r4, %r5};", "PTX line 19: bar.sync has a vector in place of a single operand"),
        ("shfl.down.b32 %r4, %r5, 1, 31;", "without .sync is not covered"),
        ("mov.u64 %rd0, nowhere;", "PTX line 19: mov.u64 names nowhere, which is not declared"),
        ("mov.u32 %r4, %tid.w;", "PTX line 19: mov.u32 names %tid.w, which is not declared"),
        ("brx.idx %r4, NOWHERE;", "names no branch targets"),
        ("st.param.b32 [k_param_0], %r4;", "stores to a parameter of the kernel"),
        ("atom.global.frob.b32 %r4, [%rd0], 1;", "is not covered"),
    ],
)
def test_instructions_that_are_not_covered_name_their_line(
    instruction: str, words: str, kernel: Callable[..., str]
) -> None:
    text = kernel(f" {instruction}")
    with pytest.raises(DeviceCodeError, match=words):
        program_of(parse(text), "k")


def test_a_kernel_that_is_not_there() -> None:
    with pytest.raises(DeviceCodeError, match="no kernel 'nope'; it has work, other"):
        program_of(parse(TEXT), "nope")


@given(value=st.integers(-(2**63), 2**64 - 1))
def test_integer_literals(run_instruction: Run, value: int) -> None:
    zero = ("b64", np.zeros(1, np.uint64))
    for text in (
        f"{value}",
        f"{'-' if value < 0 else ''}{abs(value):#x}",
        f"{abs(value):#x}U" if value >= 0 else "0",
    ):
        got = run_instruction(f"mov.b64 %r, {text};", [zero], "b64", np.uint64)
        assert int(got[0]) == (0 if text == "0" else value % 2**64)


@given(value=st.floats(width=32, allow_nan=False))
def test_float_literals(run_instruction: Run, value: float) -> None:
    zero = ("b64", np.zeros(1, np.uint64))
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    wide = struct.unpack("<Q", struct.pack("<d", value))[0]
    assert int(run_instruction(f"mov.b32 %r, 0f{bits:08X};", [zero], "b32", np.uint32)[0]) == bits
    assert int(run_instruction(f"mov.f64 %r, 0d{wide:016x};", [zero], "b64", np.uint64)[0]) == wide
    if abs(value) < 1e30:
        got = run_instruction(f"add.rn.f32 %r, {value!r}, 0.0;", [zero], "f32", np.float32)
        assert float(got[0]) == value


def test_inner_scopes_have_registers_of_their_own(run_instruction: Run) -> None:
    code = """{ .reg .b32 %x; mov.u32 %x, 1; { .reg .b32 %x; mov.u32 %x, 2; add.u32 %t0, %x, 0; }
 add.u32 %t1, %x, 10; } { .reg .b64 %x; mov.u64 %x, 0x100000000; shr.u64 %x, %x, 32; cvt.u32.u64 %t2, %x; }
 mad.lo.u32 %t1, %t2, 100, %t1; mad.lo.u32 %r, %t0, 1000, %t1;"""
    assert run_instruction(code, [("b32", np.zeros(1, np.uint32))], "b32", np.uint32)[0] == 2111


def test_registers_never_share_what_they_hold(run_instruction: Run) -> None:
    code = """mov.b32 %t0, %a0; mov.b32 %t1, %t0; cvta.global.u64 %base, %base; setp.lt.u32 %p0, %i, 2;
 @%p0 add.u32 %t1, %t1, 100; sub.u32 %r, %t1, %t0;"""
    assert list(run_instruction(code, [("b32", np.arange(4, dtype=np.uint32))], "b32", np.uint32)) == [
        100,
        100,
        0,
        0,
    ]


def test_vectors_are_packed_and_unpacked(run_instruction: Run) -> None:
    code = """.reg .b16 %h<4>; .reg .b32 %lo, %hi; mov.b64 {%lo, %hi}, %a0; mov.b64 {%h0, %h1, %h2, %h3}, %a0;
 mov.b32 %t0, {%h3, %h0}; mov.b64 %r, {%t0, %lo};"""
    value = 0x1122_3344_5566_7788
    got = run_instruction(code, [("b64", np.array([value], np.uint64))], "b64", np.uint64)
    assert int(got[0]) == 0x5566_7788_7788_1122


def test_importing_the_parser_loads_no_compiler() -> None:
    code = "import sys, dataflare.kernels.emulator.launch; print(sorted({'numba', 'llvmlite'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
