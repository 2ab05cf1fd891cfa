"""The gate finds each fault that it is there to find, in PTX, in machine code and in the registers that are kept.

Not covered: the whole list of programs, which ``.ci/ptx_gate`` assembles.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ptx_gate.gate import ARCHITECTURES, CAPS, Judged, in_units, judge, register_faults
from ptx_gate.inspection import faults_of_code, faults_of_ptx
from ptx_gate.programs import PROGRAMS, GateKernel, all_kernels, kernels_of

from dataflare.kernels.cuda import assembler
from dataflare.kernels.cuda.assembler import Assembled, assemble, machine_instructions, tool_path
from dataflare.kernels.cuda.ptx import image_of
from dataflare.kernels.cuda.target import cuda_target
from dataflare.kernels.errors import CompileError
from dataflare.kernels.llvm.math.functions import FUNCTIONS

TARGET = cuda_target((8, 0))

STACK_PTX = """\
.version 7.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p) {
    .local .align 8 .b8 depot[64];
    .reg .b64 %r<8>;
    ld.param.u64 %r0, [p];
    ld.global.u64 %r1, [%r0];
    and.b64 %r1, %r1, 56;
    mov.u64 %r2, depot;
    add.u64 %r3, %r2, %r1;
    st.local.u64 [%r3], %r0;
    ld.global.u64 %r4, [%r0+8];
    and.b64 %r4, %r4, 56;
    add.u64 %r5, %r2, %r4;
    ld.local.u64 %r6, [%r5];
    st.global.u64 [%r0], %r6;
    ret;
}
"""


def kernel_of(program: str, name: str) -> GateKernel:
    gate = next(gate for gate in PROGRAMS if gate.name == program)
    return next(kernel for kernel in kernels_of(gate, TARGET) if kernel.name == f"{program}.{name}")


def ptx_of(kernel: GateKernel) -> str:
    return image_of(kernel.text, kernel.target).ptx


@pytest.mark.parametrize(
    ("program", "wrong", "fault"),
    [
        ("sum_f32", "\n.local .b8 __local_depot0[8];", "local memory"),
        ("sum_f32", "\nfma.rn.f32 %r1, %r2, %r3, %r4;", "fuses a multiplication"),
        ("sum_f64", "\nmul.f64 %rd1, %rd2, %rd3;", "lets the assembler fuse"),
        ("sum_f32", "\ndiv.full.f32 %r1, %r2, %r3;", "not exact"),
        ("sum_f32", "\nadd.rn.ftz.f32 %r1, %r2, %r3;", "not exact"),
        ("sum_f32", "\ncvt.f64.f32 %rd1, %r1;", "float64"),
    ],
)
def test_each_fault_of_ptx_is_found(program: str, wrong: str, fault: str) -> None:
    kernel = kernel_of(program, "dense.map")
    ptx = ptx_of(kernel)
    assert not list(faults_of_ptx(kernel, ptx))
    found = list(faults_of_ptx(kernel, ptx + wrong))
    assert len(found) == 1
    assert fault in found[0]


def test_functions_of_math_may_fuse() -> None:
    kernel = kernel_of("math.exp_f64", "dense.map")
    assert "fma.rn.f64" in ptx_of(kernel)
    assert not list(faults_of_ptx(kernel, ptx_of(kernel)))
    assert list(faults_of_ptx(replace(kernel, of=replace(kernel.of, may_fuse=False)), ptx_of(kernel)))


@pytest.mark.parametrize("program", ["sum_f32", "sum_f64", "add_i64"])
def test_columns_move_in_vectors_of_16_bytes(program: str) -> None:
    kernel = kernel_of(program, "dense.map")
    assert (kernel.vector_loads, kernel.vector_stores) == (2, 1)
    unaligned = ptx_of(kernel_of(program, "dense.map_unaligned"))
    found = list(faults_of_ptx(kernel, unaligned))
    assert [fault.split(",")[0] for fault in found] == ["has 0 loads of 16 bytes", "has 0 stores of 16 bytes"]


def test_each_fault_of_machine_code_is_found() -> None:
    assert not list(faults_of_code(Assembled(40, 0, 0, b"")))
    assert list(faults_of_code(Assembled(40, 0, 8, b""))) == ["spills 8 bytes"]
    assert list(faults_of_code(Assembled(40, 16, 0, b""))) == ["has a stack of 16 bytes"]


def test_a_kernel_that_takes_more_registers_or_is_new_is_found() -> None:
    judged = [
        Judged("known", "sm_80", (), 41),
        Judged("new", "sm_80", (), 10),
        Judged("ptx", "sm_80", (), None),
    ]
    found = list(register_faults(judged, {"known": 40}))
    assert found[0] == "known for sm_80: takes 41 registers, its cap is 40"
    assert found[1].startswith("new: no cap")
    assert len(found) == 2
    assert in_units(33) == in_units(40) == 40


def test_a_kernel_that_llvm_refuses_is_found() -> None:
    kernel = kernel_of("sum_f32", "dense.map")
    text = kernel.text
    broken = replace(kernel, text=replace(text, text=text.text.replace("ret void", "ret i32 0")))
    (fault,) = judge(broken, None).faults
    assert fault.startswith("is not made:")


def test_every_kernel_has_a_cap_and_every_function_a_kernel() -> None:
    caps = json.loads(CAPS.read_text(encoding="utf-8"))["registers"]
    names = {kernel.name for kernel in all_kernels(TARGET)}
    assert caps.keys() == names
    assert {f"math.{function}_f64.dense.map" for function in FUNCTIONS} <= names


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_kernels_that_read_and_write_in_each_way_are_faultless(architecture: tuple[int, int]) -> None:
    programs = ["sum_f32", "decimals", "flags", "string_order", "collatz", "filter_wide"]
    target = cuda_target(architecture)
    for gate in PROGRAMS:
        if gate.name in programs:
            programs.remove(gate.name)
            for kernel in kernels_of(gate, target):
                assert not judge(kernel, None).faults
    assert not programs


def test_without_the_packages_assembling_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembler, "tool_path", lambda name: None)
    assert assembler.assembler_version() is None
    with pytest.raises(CompileError, match=r"ptxas is not installed: pip install 'dataflare\[ptx\]'"):
        assemble("", "sm_80")
    with pytest.raises(CompileError, match="nvdisasm is not installed"):
        machine_instructions(b"")


@pytest.mark.skipif(tool_path("ptxas") is None, reason="NVIDIA's assembler is not installed (the extra ptx)")
class TestAssembler:
    def test_registers_stack_and_instructions_are_told(self) -> None:
        made = assemble(ptx_of(kernel_of("sum_f32", "dense.map")), "sm_80")
        assert 10 <= made.registers <= 40
        assert (made.stack_bytes, made.spill_bytes) == (0, 0)
        if tool_path("nvdisasm") is not None:
            instructions = machine_instructions(made.cubin)
            assert instructions["LDG.E.128"] == 2
            assert instructions["STG.E.128"] == 1
            assert instructions["EXIT"] >= 1
            assert "NOP" not in instructions

    def test_a_stack_is_seen(self) -> None:
        assert assemble(STACK_PTX, "sm_80").stack_bytes >= 64

    def test_what_is_not_ptx_is_refused(self) -> None:
        with pytest.raises(CompileError, match="ptxas failed"):
            assemble(".version 7.0\n.target sm_80\n.address_size 64\nnonsense", "sm_80")
