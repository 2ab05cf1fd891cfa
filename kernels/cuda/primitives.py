"""The kernel that is no program's own: the running sum over the segments of a filter.

One block sums up: each thread the part that it owns, then all parts with each other in shared memory (Kogge and
Stone, 1973), then each thread its own again. Integers only, so the order of additions does not show.
"""

from __future__ import annotations

from dataflare.kernels.cuda.kernel_text import KernelText
from dataflare.kernels.llvm.target import Target

__all__ = ["SUM_THREADS", "running_sum_kernel"]

SUM_THREADS = 1024
"""Threads of the one block."""

_TEXT = """\
target triple = "{triple}"
@parts = internal addrspace(3) global [{threads} x i64] undef, align 8
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32) #3
declare i64 @llvm.umin.i64(i64, i64)

define ptx_kernel void @running_sum(ptr byval([3 x i64]) align 8 %arguments) #0 {{
entry:
  %count = load i64, ptr %arguments, align 8
  %numbers.s = getelementptr i64, ptr %arguments, i64 1
  %numbers.i = load i64, ptr %numbers.s, align 8
  %numbers = inttoptr i64 %numbers.i to ptr addrspace(1)
  %total.s = getelementptr i64, ptr %arguments, i64 2
  %total.i = load i64, ptr %total.s, align 8
  %total = inttoptr i64 %total.i to ptr addrspace(1)
  %tid.n = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %tid = zext i32 %tid.n to i64
  %rounded = add i64 %count, {last}
  %each = lshr i64 %rounded, {shift}
  %first.0 = mul i64 %each, %tid
  %first = call i64 @llvm.umin.i64(i64 %first.0, i64 %count)
  %end.0 = add i64 %first, %each
  %end = call i64 @llvm.umin.i64(i64 %end.0, i64 %count)
  %mine = getelementptr i64, ptr addrspace(3) @parts, i64 %tid
  br label %sum
sum:
  %i = phi i64 [ %first, %entry ], [ %i.1, %sum.body ]
  %part = phi i64 [ 0, %entry ], [ %part.1, %sum.body ]
  %sum.more = icmp ult i64 %i, %end
  br i1 %sum.more, label %sum.body, label %summed
sum.body:
  %number.p = getelementptr i64, ptr addrspace(1) %numbers, i64 %i
  %number = load i64, ptr addrspace(1) %number.p, align 8
  %part.1 = add i64 %part, %number
  %i.1 = add i64 %i, 1
  br label %sum
summed:
  store i64 %part, ptr addrspace(3) %mine, align 8
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  br label %scan
scan:
  %distance = phi i64 [ 1, %summed ], [ %distance.1, %scanned ]
  %running = phi i64 [ %part, %summed ], [ %running.1, %scanned ]
  %scan.more = icmp ult i64 %distance, {threads}
  br i1 %scan.more, label %scan.read, label %write
scan.read:
  %has = icmp uge i64 %tid, %distance
  br i1 %has, label %take, label %taken
take:
  %from = sub i64 %tid, %distance
  %from.p = getelementptr i64, ptr addrspace(3) @parts, i64 %from
  %before.v = load i64, ptr addrspace(3) %from.p, align 8
  br label %taken
taken:
  %before = phi i64 [ 0, %scan.read ], [ %before.v, %take ]
  %running.1 = add i64 %running, %before
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  store i64 %running.1, ptr addrspace(3) %mine, align 8
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  br label %scanned
scanned:
  %distance.1 = shl i64 %distance, 1
  br label %scan
write:
  %last = icmp eq i64 %tid, {last}
  br i1 %last, label %write.total, label %begin
write.total:
  store i64 %running, ptr addrspace(1) %total, align 8
  br label %begin
begin:
  %start = sub i64 %running, %part
  br label %place
place:
  %k = phi i64 [ %first, %begin ], [ %k.1, %place.body ]
  %at = phi i64 [ %start, %begin ], [ %at.1, %place.body ]
  %place.more = icmp ult i64 %k, %end
  br i1 %place.more, label %place.body, label %done
place.body:
  %place.p = getelementptr i64, ptr addrspace(1) %numbers, i64 %k
  %own = load i64, ptr addrspace(1) %place.p, align 8
  store i64 %at, ptr addrspace(1) %place.p, align 8
  %at.1 = add i64 %at, %own
  %k.1 = add i64 %k, 1
  br label %place
done:
  ret void
}}
attributes #0 = {{ nounwind }}
attributes #3 = {{ convergent nounwind }}
"""


def running_sum_kernel(target: Target) -> KernelText:
    """Return the kernel that replaces each of ``n`` int64 by the sum of those before it, and writes the total.

    To be launched as one block of `SUM_THREADS` threads. Slots: n, the address of the numbers, that of the total.
    """
    text = _TEXT.format(
        triple=target.triple, threads=SUM_THREADS, last=SUM_THREADS - 1, shift=SUM_THREADS.bit_length() - 1
    )
    return KernelText(text, "running_sum", 3)
