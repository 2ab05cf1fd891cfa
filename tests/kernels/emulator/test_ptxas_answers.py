"""What NVIDIA's assembler makes of contested instructions on constants: it folds them, so its machine code says.

Each line holds an instruction, the bits of its operands, and the bits of the result. Found with ptxas 13.5 for sm_80.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ANSWERS = """
abs.s32 %r, %a0 | b32:0 | b32:0
abs.s32 %r, %a0 | b32:1 | b32:1
abs.s32 %r, %a0 | b32:80000000 | b32:80000000
abs.s32 %r, %a0 | b32:FF0000 | b32:FF0000
bfe.s32 %r, %a0, 16, 8 | b32:0 | b32:0
bfe.s32 %r, %a0, 16, 8 | b32:1 | b32:0
bfe.s32 %r, %a0, 16, 8 | b32:80000000 | b32:0
bfe.s32 %r, %a0, 16, 8 | b32:FF0000 | b32:FFFFFFFF
bfe.u32 %r, %a0, 28, 12 | b32:0 | b32:0
bfe.u32 %r, %a0, 28, 12 | b32:1 | b32:0
bfe.u32 %r, %a0, 28, 12 | b32:80000000 | b32:8
bfe.u32 %r, %a0, 28, 12 | b32:FF0000 | b32:0
bfi.b32 %r, 0x5, %a0, 4, 3 | b32:0 | b32:50
bfi.b32 %r, 0x5, %a0, 4, 3 | b32:1 | b32:51
bfi.b32 %r, 0x5, %a0, 4, 3 | b32:80000000 | b32:80000050
bfi.b32 %r, 0x5, %a0, 4, 3 | b32:FF0000 | b32:FF0050
brev.b32 %r, %a0 | b32:0 | b32:0
brev.b32 %r, %a0 | b32:1 | b32:80000000
brev.b32 %r, %a0 | b32:80000000 | b32:1
brev.b32 %r, %a0 | b32:FF0000 | b32:FF00
clz.b32 %r, %a0 | b32:0 | b32:20
clz.b32 %r, %a0 | b32:1 | b32:1F
clz.b32 %r, %a0 | b32:80000000 | b32:0
clz.b32 %r, %a0 | b32:FF0000 | b32:8
cvt.rmi.s32.f32 %r, %a0 | b32:4F32D05E | b32:7FFFFFFF
cvt.rmi.s32.f32 %r, %a0 | b32:7149F2CA | b32:7FFFFFFF
cvt.rmi.s32.f32 %r, %a0 | b32:7F800000 | b32:7FFFFFFF
cvt.rmi.s32.f32 %r, %a0 | b32:CF32D05E | b32:80000000
cvt.rmi.u32.f32 %r, %a0 | b32:7149F2CA | b32:FFFFFFFF
cvt.rmi.u32.f32 %r, %a0 | b32:7F800000 | b32:FFFFFFFF
cvt.rmi.u32.f32 %r, %a0 | b32:C0200000 | b32:0
cvt.rmi.u32.f32 %r, %a0 | b32:CF32D05E | b32:0
cvt.rni.s32.f32 %r, %a0 | b32:40200000 | b32:2
cvt.rni.s32.f32 %r, %a0 | b32:4F32D05E | b32:7FFFFFFF
cvt.rni.s32.f32 %r, %a0 | b32:7149F2CA | b32:7FFFFFFF
cvt.rni.s32.f32 %r, %a0 | b32:7F800000 | b32:7FFFFFFF
cvt.rni.s32.f32 %r, %a0 | b32:C0200000 | b32:FFFFFFFE
cvt.rni.s32.f32 %r, %a0 | b32:CF32D05E | b32:80000000
cvt.rni.u32.f32 %r, %a0 | b32:40200000 | b32:2
cvt.rni.u32.f32 %r, %a0 | b32:4F32D05E | b32:B2D05E00
cvt.rni.u32.f32 %r, %a0 | b32:7149F2CA | b32:FFFFFFFF
cvt.rni.u32.f32 %r, %a0 | b32:7F800000 | b32:FFFFFFFF
cvt.rni.u32.f32 %r, %a0 | b32:C0200000 | b32:0
cvt.rni.u32.f32 %r, %a0 | b32:CF32D05E | b32:0
cvt.rpi.s32.f32 %r, %a0 | b32:4F32D05E | b32:7FFFFFFF
cvt.rpi.s32.f32 %r, %a0 | b32:7149F2CA | b32:7FFFFFFF
cvt.rpi.s32.f32 %r, %a0 | b32:7F800000 | b32:7FFFFFFF
cvt.rpi.s32.f32 %r, %a0 | b32:CF32D05E | b32:80000000
cvt.rpi.u32.f32 %r, %a0 | b32:7149F2CA | b32:FFFFFFFF
cvt.rpi.u32.f32 %r, %a0 | b32:7F800000 | b32:FFFFFFFF
cvt.rpi.u32.f32 %r, %a0 | b32:C0200000 | b32:0
cvt.rpi.u32.f32 %r, %a0 | b32:CF32D05E | b32:0
cvt.rzi.s32.f32 %r, %a0 | b32:40200000 | b32:2
cvt.rzi.s32.f32 %r, %a0 | b32:4F32D05E | b32:7FFFFFFF
cvt.rzi.s32.f32 %r, %a0 | b32:7149F2CA | b32:7FFFFFFF
cvt.rzi.s32.f32 %r, %a0 | b32:7F800000 | b32:7FFFFFFF
cvt.rzi.s32.f32 %r, %a0 | b32:C0200000 | b32:FFFFFFFE
cvt.rzi.s32.f32 %r, %a0 | b32:CF32D05E | b32:80000000
cvt.rzi.s32.f64 %r, %a0 | b64:4004000000000000 | b32:2
cvt.rzi.s32.f64 %r, %a0 | b64:41E65A0BC0000000 | b32:7FFFFFFF
cvt.rzi.s32.f64 %r, %a0 | b64:46293E5939A08CEA | b32:7FFFFFFF
cvt.rzi.s32.f64 %r, %a0 | b64:7FF0000000000000 | b32:7FFFFFFF
cvt.rzi.s32.f64 %r, %a0 | b64:C004000000000000 | b32:FFFFFFFE
cvt.rzi.s32.f64 %r, %a0 | b64:C1E65A0BC0000000 | b32:80000000
cvt.rzi.s64.f32 %r, %a0 | b32:40200000 | b64:2
cvt.rzi.s64.f32 %r, %a0 | b32:4F32D05E | b64:B2D05E00
cvt.rzi.s64.f32 %r, %a0 | b32:7149F2CA | b64:7FFFFFFFFFFFFFFF
cvt.rzi.s64.f32 %r, %a0 | b32:7F800000 | b64:7FFFFFFFFFFFFFFF
cvt.rzi.s64.f32 %r, %a0 | b32:C0200000 | b64:FFFFFFFFFFFFFFFE
cvt.rzi.s64.f32 %r, %a0 | b32:CF32D05E | b64:FFFFFFFF4D2FA200
cvt.rzi.s64.f64 %r, %a0 | b64:4004000000000000 | b64:2
cvt.rzi.s64.f64 %r, %a0 | b64:41E65A0BC0000000 | b64:B2D05E00
cvt.rzi.s64.f64 %r, %a0 | b64:46293E5939A08CEA | b64:7FFFFFFFFFFFFFFF
cvt.rzi.s64.f64 %r, %a0 | b64:7FF0000000000000 | b64:7FFFFFFFFFFFFFFF
cvt.rzi.s64.f64 %r, %a0 | b64:C004000000000000 | b64:FFFFFFFFFFFFFFFE
cvt.rzi.s64.f64 %r, %a0 | b64:C1E65A0BC0000000 | b64:FFFFFFFF4D2FA200
cvt.rzi.u16.f32 %r, %a0 | b32:40200000 | b16:2
cvt.rzi.u16.f32 %r, %a0 | b32:4F32D05E | b16:FFFF
cvt.rzi.u16.f32 %r, %a0 | b32:7149F2CA | b16:FFFF
cvt.rzi.u16.f32 %r, %a0 | b32:7F800000 | b16:FFFF
cvt.rzi.u16.f32 %r, %a0 | b32:C0200000 | b16:0
cvt.rzi.u16.f32 %r, %a0 | b32:CF32D05E | b16:0
cvt.rzi.u32.f32 %r, %a0 | b32:40200000 | b32:2
cvt.rzi.u32.f32 %r, %a0 | b32:4F32D05E | b32:B2D05E00
cvt.rzi.u32.f32 %r, %a0 | b32:7149F2CA | b32:FFFFFFFF
cvt.rzi.u32.f32 %r, %a0 | b32:7F800000 | b32:FFFFFFFF
cvt.rzi.u32.f32 %r, %a0 | b32:C0200000 | b32:0
cvt.rzi.u32.f32 %r, %a0 | b32:CF32D05E | b32:0
cvt.rzi.u64.f64 %r, %a0 | b64:4004000000000000 | b64:2
cvt.rzi.u64.f64 %r, %a0 | b64:41E65A0BC0000000 | b64:B2D05E00
cvt.rzi.u64.f64 %r, %a0 | b64:46293E5939A08CEA | b64:FFFFFFFFFFFFFFFF
cvt.rzi.u64.f64 %r, %a0 | b64:7FF0000000000000 | b64:FFFFFFFFFFFFFFFF
cvt.rzi.u64.f64 %r, %a0 | b64:C004000000000000 | b64:0
cvt.rzi.u64.f64 %r, %a0 | b64:C1E65A0BC0000000 | b64:0
max.f32 %r, %a0, %a1 | b32:0 b32:80000000 | b32:0
max.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | b32:3F800000
max.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | b32:3F800000
max.f32 %r, %a0, %a1 | b32:80000000 b32:0 | b32:0
min.f32 %r, %a0, %a1 | b32:0 b32:80000000 | b32:80000000
min.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | b32:3F800000
min.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | b32:3F800000
min.f32 %r, %a0, %a1 | b32:80000000 b32:0 | b32:80000000
mul.hi.s32 %r, %a0, %a1 | b32:7FFFFFFF b32:7FFFFFFF | b32:3FFFFFFF
mul.hi.s32 %r, %a0, %a1 | b32:80000000 b32:80000000 | b32:40000000
mul.hi.s32 %r, %a0, %a1 | b32:FFFFFFF9 b32:2 | b32:FFFFFFFF
mul.hi.u32 %r, %a0, %a1 | b32:7FFFFFFF b32:7FFFFFFF | b32:3FFFFFFF
mul.hi.u32 %r, %a0, %a1 | b32:80000000 b32:80000000 | b32:40000000
mul.hi.u32 %r, %a0, %a1 | b32:FFFFFFF9 b32:2 | b32:1
mul.wide.s32 %r, %a0, %a1 | b32:7FFFFFFF b32:7FFFFFFF | b64:3FFFFFFF00000001
mul.wide.s32 %r, %a0, %a1 | b32:80000000 b32:80000000 | b64:4000000000000000
mul.wide.s32 %r, %a0, %a1 | b32:FFFFFFF9 b32:2 | b64:FFFFFFFFFFFFFFF2
popc.b32 %r, %a0 | b32:0 | b32:0
popc.b32 %r, %a0 | b32:1 | b32:1
popc.b32 %r, %a0 | b32:80000000 | b32:1
popc.b32 %r, %a0 | b32:FF0000 | b32:8
setp.eq.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:1
setp.eq.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:0
setp.eq.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:0
setp.eq.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:0
setp.eq.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:1
setp.equ.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:1
setp.equ.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:1
setp.equ.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:1
setp.equ.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:1
setp.equ.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:1
setp.geu.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:1
setp.geu.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:1
setp.geu.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:1
setp.geu.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:1
setp.geu.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:1
setp.lt.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:0
setp.lt.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:0
setp.lt.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:0
setp.lt.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:0
setp.lt.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:0
setp.ltu.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:0
setp.ltu.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:1
setp.ltu.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:1
setp.ltu.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:1
setp.ltu.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:0
setp.nan.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:0
setp.nan.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:1
setp.nan.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:1
setp.nan.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:1
setp.nan.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:0
setp.ne.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:0
setp.ne.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:0
setp.ne.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:0
setp.ne.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:0
setp.ne.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:0
setp.neu.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:0
setp.neu.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:1
setp.neu.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:1
setp.neu.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:1
setp.neu.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:0
setp.num.f32 %r, %a0, %a1 | b32:0 b32:80000000 | pred:1
setp.num.f32 %r, %a0, %a1 | b32:3F800000 b32:7FC00000 | pred:0
setp.num.f32 %r, %a0, %a1 | b32:7FC00000 b32:3F800000 | pred:0
setp.num.f32 %r, %a0, %a1 | b32:7FC00000 b32:7FC00000 | pred:0
setp.num.f32 %r, %a0, %a1 | b32:80000000 b32:0 | pred:1
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:0 | b32:9ABCDEF0
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:1 | b32:3579BDE0
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:1F | b32:91A2B3C
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:20 | b32:9ABCDEF0
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:21 | b32:3579BDE0
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:40 | b32:9ABCDEF0
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:FF | b32:91A2B3C
shf.l.wrap.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:FFFFFFFF | b32:91A2B3C
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:0 | b32:12345678
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:1 | b32:91A2B3C
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:1F | b32:3579BDE0
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:20 | b32:9ABCDEF0
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:21 | b32:9ABCDEF0
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:40 | b32:9ABCDEF0
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:FF | b32:9ABCDEF0
shf.r.clamp.b32 %r, %a0, %a1, %a2 | b32:12345678 b32:9ABCDEF0 b32:FFFFFFFF | b32:9ABCDEF0
shl.b32 %r, %a0, %a1 | b32:80000001 b32:0 | b32:80000001
shl.b32 %r, %a0, %a1 | b32:80000001 b32:1 | b32:2
shl.b32 %r, %a0, %a1 | b32:80000001 b32:1F | b32:80000000
shl.b32 %r, %a0, %a1 | b32:80000001 b32:20 | b32:0
shl.b32 %r, %a0, %a1 | b32:80000001 b32:21 | b32:0
shl.b32 %r, %a0, %a1 | b32:80000001 b32:40 | b32:0
shl.b32 %r, %a0, %a1 | b32:80000001 b32:FF | b32:0
shl.b32 %r, %a0, %a1 | b32:80000001 b32:FFFFFFFF | b32:0
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:0 | b64:8000000000000001
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:1 | b64:2
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:1F | b64:80000000
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:20 | b64:100000000
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:21 | b64:200000000
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:40 | b64:0
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:FF | b64:0
shl.b64 %r, %a0, %a1 | b64:8000000000000001 b32:FFFFFFFF | b64:0
shr.s32 %r, %a0, %a1 | b32:80000001 b32:0 | b32:80000001
shr.s32 %r, %a0, %a1 | b32:80000001 b32:1 | b32:C0000000
shr.s32 %r, %a0, %a1 | b32:80000001 b32:1F | b32:FFFFFFFF
shr.s32 %r, %a0, %a1 | b32:80000001 b32:20 | b32:FFFFFFFF
shr.s32 %r, %a0, %a1 | b32:80000001 b32:21 | b32:FFFFFFFF
shr.s32 %r, %a0, %a1 | b32:80000001 b32:40 | b32:FFFFFFFF
shr.s32 %r, %a0, %a1 | b32:80000001 b32:FF | b32:FFFFFFFF
shr.s32 %r, %a0, %a1 | b32:80000001 b32:FFFFFFFF | b32:FFFFFFFF
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:0 | b64:8000000000000001
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:1 | b64:C000000000000000
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:1F | b64:FFFFFFFF00000000
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:20 | b64:FFFFFFFF80000000
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:21 | b64:FFFFFFFFC0000000
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:40 | b64:FFFFFFFFFFFFFFFF
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:FF | b64:FFFFFFFFFFFFFFFF
shr.s64 %r, %a0, %a1 | b64:8000000000000001 b32:FFFFFFFF | b64:FFFFFFFFFFFFFFFF
shr.u32 %r, %a0, %a1 | b32:80000001 b32:0 | b32:80000001
shr.u32 %r, %a0, %a1 | b32:80000001 b32:1 | b32:40000000
shr.u32 %r, %a0, %a1 | b32:80000001 b32:1F | b32:1
shr.u32 %r, %a0, %a1 | b32:80000001 b32:20 | b32:0
shr.u32 %r, %a0, %a1 | b32:80000001 b32:21 | b32:0
shr.u32 %r, %a0, %a1 | b32:80000001 b32:40 | b32:0
shr.u32 %r, %a0, %a1 | b32:80000001 b32:FF | b32:0
shr.u32 %r, %a0, %a1 | b32:80000001 b32:FFFFFFFF | b32:0
"""


def by_instruction() -> dict[str, list[tuple[list[tuple[str, int]], str, int]]]:
    found = defaultdict(list)
    for line in ANSWERS.strip().splitlines():
        instruction, operands, result = (part.strip() for part in line.split("|"))
        given = [(kind, int(bits, 16)) for kind, bits in (operand.split(":") for operand in operands.split())]
        kind, bits = result.split(":")
        found[instruction].append((given, kind, int(bits, 16)))
    return found


def dtype_of(kind: str) -> np.dtype[Any]:
    return np.dtype(np.bool_) if kind == "pred" else np.dtype(f"u{int(kind[1:]) // 8}")


@pytest.mark.parametrize("instruction", by_instruction())
def test_an_instruction_gives_what_the_assembler_folds(
    instruction: str, run_instruction: Callable[..., Any]
) -> None:
    rows = by_instruction()[instruction]
    kinds = [kind for kind, _ in rows[0][0]]
    columns = [
        (kind, np.array([operands[at][1] for operands, _, _ in rows], dtype_of(kind)))
        for at, kind in enumerate(kinds)
    ]
    result = rows[0][1]
    got = run_instruction(f"{instruction};", columns, result, dtype_of(result))
    assert [int(value) for value in got] == [want for _, _, want in rows]
