"""Control flow: lanes that go different ways, loops with breaks, calls, tables of branches, waiting for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dataflare.kernels.emulator.parser import parse
from dataflare.kernels.emulator.program import program_of
from dataflare.kernels.errors import DeviceCodeError

SCHEDULES: list[dict[str, Any]] = [{}, {"seed": 1}, {"seed": 2, "warp_schedule": True}]
TARGETS = ("sm_75", "sm_90", "sm_120")
HEAD = """
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
define internal i32 @number() alwaysinline {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %d = call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
  %m = mul i32 %b, %d
  %g = add i32 %m, %t
  ret i32 %g
}
"""
#: sum over i < n of the steps of an inner loop that breaks at a value of its own, with another break outside
NESTED = (
    HEAD
    + """
define ptx_kernel void @k(ptr addrspace(1) %out, i32 %n) {
entry:
  %g = call i32 @number()
  br label %outer
outer:
  %i = phi i32 [ 0, %entry ], [ %i1, %next ]
  %sum = phi i32 [ 0, %entry ], [ %sum2, %next ]
  %more = icmp ult i32 %i, %n
  br i1 %more, label %inner, label %done
inner:
  %j = phi i32 [ 0, %outer ], [ %j1, %step ]
  %s = phi i32 [ %sum, %outer ], [ %s1, %step ]
  %gi = mul i32 %g, %i
  %limit = and i32 %gi, 7
  %stop = icmp uge i32 %j, %limit
  br i1 %stop, label %next, label %step
step:
  %ij = xor i32 %i, %j
  %s1 = add i32 %s, %ij
  %j1 = add i32 %j, 1
  br label %inner
next:
  %sum2 = phi i32 [ %s, %inner ]
  %i1 = add i32 %i, 1
  %big = icmp ugt i32 %sum2, 100
  br i1 %big, label %done, label %outer
done:
  %r = phi i32 [ %sum, %outer ], [ %sum2, %next ]
  %z = zext i32 %g to i64
  %p = getelementptr i32, ptr addrspace(1) %out, i64 %z
  store i32 %r, ptr addrspace(1) %p
  ret void
}
"""
)


def nested(g: int, n: int) -> int:
    total = 0
    for i in range(n):
        for j in range(g * i & 7):
            total += i ^ j
        if total > 100:
            break
    return total


@pytest.mark.parametrize("cpu", TARGETS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_nested_loops_with_breaks(
    cpu: str, schedule: dict[str, Any], compile_ir: Callable[..., str], device: Any
) -> None:
    out = device.memory.alloc(4 * 150)
    device.run(compile_ir(NESTED, cpu), [out, 12], block=50, grid=3, **schedule)
    assert list(device.get(out, np.uint32, 150)) == [nested(g, 12) for g in range(150)]


SWITCH = (
    HEAD
    + """
define ptx_kernel void @k(ptr addrspace(1) %out) {
entry:
  %g = call i32 @number()
  %m = urem i32 %g, 7
  switch i32 %m, label %other [ i32 0, label %a  i32 1, label %b  i32 2, label %c  i32 3, label %d  i32 4, label %e ]
a:
  %ra = add i32 %g, 100
  br label %done
b:
  %rb = mul i32 %g, 3
  br label %done
c:
  %rc = xor i32 %g, 255
  br label %done
d:
  %rd = sub i32 0, %g
  br label %done
e:
  %re = shl i32 %g, 4
  br label %done
other:
  br label %done
done:
  %r = phi i32 [ %ra, %a ], [ %rb, %b ], [ %rc, %c ], [ %rd, %d ], [ %re, %e ], [ 9, %other ]
  %z = zext i32 %g to i64
  %p = getelementptr i32, ptr addrspace(1) %out, i64 %z
  store i32 %r, ptr addrspace(1) %p
  ret void
}
"""
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_table_of_branches(schedule: dict[str, Any], compile_ir: Callable[..., str], device: Any) -> None:
    text = compile_ir(SWITCH)
    assert "brx.idx" in text
    out = device.memory.alloc(4 * 70)
    device.run(text, [out], block=70, **schedule)
    ways = [
        lambda g: g + 100,
        lambda g: g * 3,
        lambda g: g ^ 255,
        lambda g: -g,
        lambda g: g << 4,
        lambda g: 9,
        lambda g: 9,
    ]
    assert list(device.get(out, np.uint32, 70)) == [ways[g % 7](g) & (2**32 - 1) for g in range(70)]


CALLS = (
    HEAD
    + """
define internal i64 @mix(i32 %x, double %y, {i8, i64} %pair) noinline {
  %a = extractvalue {i8, i64} %pair, 0
  %b = extractvalue {i8, i64} %pair, 1
  %w = sext i8 %a to i64
  %t = fptosi double %y to i64
  %s = add i64 %w, %t
  %u = mul i64 %s, %b
  %odd = trunc i32 %x to i1
  br i1 %odd, label %yes, label %no
yes:
  ret i64 %u
no:
  %n = call i64 @negated(i64 %u)
  ret i64 %n
}
define internal i64 @negated(i64 %x) noinline {
  %r = sub i64 0, %x
  ret i64 %r
}
define ptx_kernel void @k(ptr addrspace(1) %out) {
  %g = call i32 @number()
  %n = trunc i32 %g to i8
  %f = uitofp i32 %g to double
  %z = zext i32 %g to i64
  %p0 = insertvalue {i8, i64} undef, i8 %n, 0
  %p1 = insertvalue {i8, i64} %p0, i64 %z, 1
  %r = call i64 @mix(i32 %g, double %f, {i8, i64} %p1)
  %q = call i64 @negated(i64 %r)
  %p = getelementptr i64, ptr addrspace(1) %out, i64 %z
  store i64 %q, ptr addrspace(1) %p
  ret void
}
"""
)


@pytest.mark.parametrize("cpu", TARGETS)
def test_device_functions(cpu: str, compile_ir: Callable[..., str], device: Any) -> None:
    text = compile_ir(CALLS, cpu)
    assert text.count("call.uni") + text.count("call (") >= 3 or "callseq" in text
    out = device.memory.alloc(8 * 200)
    device.run(text, [out], block=100, grid=2)
    values = [(int(np.int8(np.uint8(g))) + g) * g * (-1 if g % 2 else 1) for g in range(200)]
    assert list(device.get(out, np.int64, 200)) == values


def test_a_barrier_inside_a_device_function(kernel: Callable[..., str], device: Any) -> None:
    function = """.func wait(.param .b32 wait_param_0)
{
 .reg .b32 %r<2>;
 .reg .pred %p<2>;
 ld.param.b32 %r0, [wait_param_0];
 bar.sync 0;
 setp.eq.u32 %p0, %r0, 0;
 @%p0 ret;
 bar.sync 0;
 ret;
}"""
    call = " { .param .b32 param0;\n st.param.b32 [param0], %r2;\n call.uni wait, (param0); }\n"
    text = kernel(f" mov.u32 %r2, 0;\n{call} mov.u32 %r2, 1;\n{call}", functions=function)
    assert device.run(text, [0], block=96).barriers == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("call.uni again;", "recursion is not covered"),
        ("call.uni nowhere;", "which the module does not define"),
        ("call.uni other, (%r1);", "passes 1 values for 0"),
        ("call.uni %r1;", "through a pointer"),
    ],
)
def test_calls_that_are_not_covered(kernel: Callable[..., str], call: str, words: str) -> None:
    functions = ".func again() { call.uni again; ret; }\n.func other() { ret; }"
    text = kernel(" " + call, functions=functions)
    with pytest.raises(DeviceCodeError, match=words):
        program_of(parse(text), "k")


def test_lanes_of_a_warp_may_wait_for_each_other(kernel: Callable[..., str], device: Any) -> None:
    text = kernel(
        """AGAIN:
 atom.global.cas.b32 %r4, [%p0], 0, 1;
 setp.ne.u32 %q0, %r4, 0;
 @%q0 bra AGAIN;
 ld.relaxed.gpu.global.u32 %r5, [%p0+4];
 add.u32 %r5, %r5, 1;
 st.relaxed.gpu.global.u32 [%p0+4], %r5;
 atom.global.exch.b32 %r4, [%p0], 0;"""
    )
    for schedule in SCHEDULES:
        lock = device.put(np.zeros(2, np.uint32))
        device.run(text, [lock], block=40, **schedule)
        assert list(device.get(lock, np.uint32, 2)) == [0, 40]


@pytest.mark.parametrize("seed", [None, 3, 4])
def test_blocks_may_wait_for_each_other(kernel: Callable[..., str], device: Any, seed: int | None) -> None:
    """Block n waits until n-1 is through, as a scan in one pass does."""
    text = kernel(
        """WAIT:
 ld.acquire.gpu.global.u32 %r4, [%p0];
 setp.ne.u32 %q0, %r4, %r0;
 @%q0 bra WAIT;
 bar.sync 0;
 setp.ne.u32 %q1, %w, 0;
 @%q1 bra END;
 add.u32 %r5, %r4, 1;
 st.release.gpu.global.u32 [%p0], %r5;
END:"""
    )
    turn = device.put(np.zeros(1, np.uint32))
    device.run(text, [turn], block=32, grid=20, seed=seed)
    assert device.get(turn, np.uint32, 1)[0] == 20


@pytest.mark.parametrize(("operation", "want"), [("popc.u32", 8), ("and.pred", 0), ("or.pred", 1)])
def test_barriers_that_reduce(kernel: Callable[..., str], device: Any, operation: str, want: int) -> None:
    is_count = operation.startswith("popc")
    text = kernel(
        f""" setp.lt.u32 %q0, %w, 8;
 bar.red.{operation} {"%r4" if is_count else "%q1"}, 0, %q0;
 {"" if is_count else "selp.b32 %r4, 1, 0, %q1;"}
 mul.wide.u32 %rd0, %i, 4;
 add.u64 %rd0, %p0, %rd0;
 st.global.u32 [%rd0], %r4;"""
    )
    out = device.memory.alloc(4 * 96)
    device.run(text, [out], block=48, grid=2)
    assert list(device.get(out, np.uint32, 96)) == [want] * 96


def test_special_registers_in_three_dimensions(kernel: Callable[..., str], device: Any) -> None:
    names = (
        "tid.x tid.y tid.z ctaid.x ctaid.y ctaid.z ntid.x ntid.y ntid.z nctaid.x nctaid.y nctaid.z".split()
    )
    names += "laneid warpid lanemask_lt lanemask_le lanemask_eq lanemask_ge lanemask_gt".split()
    reads = "\n".join(
        f" mov.u32 %r4, %{name};\n st.global.u32 [%rd0+{4 * at}], %r4;" for at, name in enumerate(names)
    )
    text = kernel(
        f""" mov.u32 %r2, %tid.y; mov.u32 %r3, %ntid.y; mov.u32 %r5, %tid.z;
 mad.lo.u32 %r6, %r5, %r3, %r2; mad.lo.u32 %r6, %r6, %r1, %w;
 mov.u32 %r7, %ctaid.y; mov.u32 %r8, %nctaid.x; mad.lo.u32 %r7, %r7, %r8, %r0;
 mov.u32 %r8, %ntid.z; mul.lo.u32 %r8, %r8, %r3; mul.lo.u32 %r8, %r8, %r1;
 mad.lo.u32 %r6, %r7, %r8, %r6;
 mul.wide.u32 %rd0, %r6, {4 * len(names)};
 add.u64 %rd0, %p0, %rd0;
{reads}"""
    )
    block, grid = (5, 4, 3), (2, 3)
    out = device.memory.alloc(4 * len(names) * 360)
    device.run(text, [out], block=block, grid=grid, seed=5)
    rows = device.get(out, np.uint32, len(names) * 360).reshape(360, len(names))
    for number in range(360):
        group, thread = divmod(number, 60)
        lane = thread % 32
        want = [
            thread % 5,
            thread // 5 % 4,
            thread // 20,
            group % 2,
            group // 2,
            0,
            *block,
            *grid,
            1,
            lane,
            thread // 32,
        ]
        below = (1 << lane) - 1
        want += [below, below | 1 << lane, 1 << lane, (2**32 - 1) ^ below, (2**32 - 1) ^ (below | 1 << lane)]
        assert list(rows[number]) == want


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("", 0),
        (" bar.sync 0;\n bar.sync 0;", 2 * 96),
        (
            " setp.lt.u32 %q0, %w, 8;\n @%q0 add.u32 %r4, %w, 1;\n @!%q0 bra END;\nEND:\n add.u32 %r4, %w, 2;",
            4 * 96,
        ),
        (" setp.lt.u32 %q0, %w, 8;\n @!%q0 bra END;\n add.u32 %r4, %w, 2;\nEND:", 2 * 96 + 16),
        (" setp.lt.u32 %q0, %w, 8;\n @%q0 vote.sync.ballot.b32 %r4, %q0, 255;", 96 + 16),
        (" bra END;\nEND:", 96),
    ],
)
def test_instructions_are_those_of_the_text(
    kernel: Callable[..., str], device: Any, body: str, more: int
) -> None:
    assert device.run(kernel(body), [0], block=48, grid=2).instructions == 96 * 7 + more


def test_what_a_launch_moved(kernel: Callable[..., str], device: Any) -> None:
    text = kernel(
        """ mul.wide.u32 %rd0, %i, 16;
 add.u64 %rd0, %p0, %rd0;
 ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd0];
 st.global.v2.u32 [%rd0], {%r5, %r4};
 setp.lt.u32 %q0, %w, 4;
 @%q0 st.global.u16 [%rd0+8], %rs0;"""
    )
    data = device.put(np.zeros(4 * 96, np.uint32))
    statistics = device.run(text, [data], block=48, grid=2)
    assert statistics.threads == 96
    assert statistics.bytes_loaded["global"] == 96 * 16
    assert statistics.bytes_stored["global"] == 96 * 8 + 8 * 2
    assert statistics.global_bytes == 96 * 24 + 16
