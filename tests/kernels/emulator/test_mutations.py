"""A block scan with ballot compaction is right under all schedules, and each small mistake in it is found.

The mutants are what people get wrong: a barrier left out, a guard off by one, a mask without a lane, a wrong step of a
scan. A mutant is found if a check reports it or if the result differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dataflare.kernels.errors import DeviceFaultError

COMPACTION = """
 cvt.u64.u32 %rd0, %i;
 setp.lt.u64 %q0, %rd0, %p3;
 mov.f32 %f0, 0f00000000;
 mul.wide.u32 %rd1, %i, 4;
 add.u64 %rd2, %p0, %rd1;
 @%q0 ld.global.f32 %f0, [%rd2];
 setp.gt.f32 %q1, %f0, 0f3F000000;
 vote.sync.ballot.b32 %r4, %q1, 0xffffffff;
 mov.u32 %r5, %lanemask_lt;
 and.b32 %r6, %r4, %r5;
 popc.b32 %r6, %r6;
 popc.b32 %r7, %r4;
 shr.u32 %r8, %w, 5;
 mov.u32 %r9, counts;
 shl.b32 %r10, %r8, 2;
 add.u32 %r10, %r9, %r10;
 and.b32 %r11, %w, 31;
 setp.eq.u32 %q2, %r11, 0;
 @%q2 st.shared.u32 [%r10], %r7;
 bar.sync 0; // counts are written
 setp.ge.u32 %q3, %w, 32;
 @%q3 bra JOIN;
 mov.u32 %r12, 0;
 setp.lt.u32 %q4, %w, 8;
 add.u32 %r3, %r9, %w4;
 @%q4 ld.shared.u32 %r12, [%r3];
 mov.u32 %r13, %r12;
 shfl.sync.up.b32 %r14|%q5, %r13, 1, 0, 0xffffffff;
 @%q5 add.u32 %r13, %r13, %r14;
 shfl.sync.up.b32 %r14|%q5, %r13, 2, 0, 0xffffffff;
 @%q5 add.u32 %r13, %r13, %r14;
 shfl.sync.up.b32 %r14|%q5, %r13, 4, 0, 0xffffffff;
 @%q5 add.u32 %r13, %r13, %r14;
 sub.u32 %r13, %r13, %r12;
 @%q4 st.shared.u32 [%r3], %r13;
JOIN:
 bar.sync 0; // offsets are written
 ld.shared.u32 %r2, [%r10];
 add.u32 %r6, %r6, %r2;
 mul.wide.u32 %rd3, %r0, 4;
 add.u64 %rd3, %p1, %rd3;
 ld.global.u32 %r2, [%rd3];
 add.u32 %r6, %r6, %r2;
 mul.wide.u32 %rd4, %r6, 4;
 add.u64 %rd4, %p2, %rd4;
 @%q1 st.global.f32 [%rd4], %f0;
"""
BLOCK = 256
MUTANTS = [
    ("bar.sync 0; // counts are written", ""),
    ("bar.sync 0; // offsets are written", ""),
    ("JOIN:\n bar.sync 0; // offsets are written", " bar.sync 0;\nJOIN:"),
    ("setp.lt.u64 %q0", "setp.le.u64 %q0"),
    ("@%q0 ld.global", "ld.global"),
    ("ballot.b32 %r4, %q1, 0xffffffff", "ballot.b32 %r4, %q1, 0x7fffffff"),
    ("%r13, 1, 0, 0xffffffff", "%r13, 1, 0, 0xfffffffe"),
    ("lanemask_lt", "lanemask_le"),
    ("setp.gt.f32", "setp.ge.f32"),
    ("@%q2 st.shared", "st.shared"),
    ("%r11, %w, 31", "%r11, %w, 15"),
    ("setp.ge.u32 %q3, %w, 32", "setp.ge.u32 %q3, %w, 16"),
    ("setp.lt.u32 %q4, %w, 8", "setp.lt.u32 %q4, %w, 7"),
    ("setp.lt.u32 %q4, %w, 8", "setp.le.u32 %q4, %w, 8"),
    ("%r13, 2, 0", "%r13, 3, 0"),
    ("%r13, 4, 0", "%r13, 2, 0"),
    ("sub.u32 %r13, %r13, %r12", "sub.u32 %r13, %r13, 0"),
    ("@%q5 add.u32", "add.u32"),
    ("shr.u32 %r8, %w, 5", "shr.u32 %r8, %w, 6"),
    ("mul.wide.u32 %rd4, %r6, 4", "mul.wide.u32 %rd4, %r6, 2"),
    ("@%q1 st.global", "st.global"),
    ("ld.global.u32 %r2, [%rd3]", "ld.global.u32 %r2, [%rd3+4]"),
]


def compacted(device: Any, text: str, **options: Any) -> bool:
    """Return whether the kernel keeps what it should, in order."""
    count = 1000
    values = np.random.default_rng(8).random(count, np.float32)
    values[::50] = 0.5
    keep = values > 0.5
    blocks = -(-count // BLOCK)
    per_block = np.add.reduceat(keep, np.arange(0, count, BLOCK))
    offsets = np.concatenate([[0], np.cumsum(per_block)[:-1]]).astype(np.uint32)
    out = device.memory.alloc(4 * int(keep.sum()), label="kept")
    arguments = [device.put(values, "values"), device.put(offsets, "offsets"), out, count]
    device.run(text, arguments, block=BLOCK, grid=blocks, step_limit=2000, **options)
    return bool((device.get(out, np.float32, int(keep.sum())) == values[keep]).all())


def compaction(kernel: Callable[..., str], body: str) -> str:
    return kernel(body, "values offsets kept count", declarations=".shared .align 4 .b8 counts[32];")


@pytest.mark.parametrize(
    "options", [{}, {"seed": 1}, {"seed": 2, "warp_schedule": True}, {"seed": 3, "warp_schedule": True}]
)
def test_the_kernel_is_right(options: dict[str, Any], kernel: Callable[..., str], device: Any) -> None:
    assert compacted(device, compaction(kernel, COMPACTION), **options)


@pytest.mark.parametrize(("right", "wrong"), MUTANTS)
def test_a_mutant_is_found(right: str, wrong: str, kernel: Callable[..., str], device: Any) -> None:
    body = COMPACTION.replace(right, wrong)
    assert body != COMPACTION
    try:
        is_right = compacted(device, compaction(kernel, body))
    except DeviceFaultError:
        return
    assert not is_right
