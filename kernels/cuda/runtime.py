"""What the C library is to code on the CPU: the few functions that kernels call, in LLVM text.

``fmod`` is the long division of integers, eleven bits of quotient at a time, and exact as C's; ``memcmp`` and
``memmem`` go byte by byte, since strings begin anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dataflare.kernels.errors import CompileError

__all__ = ["functions_for", "undefined"]

_FMOD = """\
define internal double @fmod(double %x, double %y) alwaysinline nounwind {
entry:
  %xb = bitcast double %x to i64
  %yb = bitcast double %y to i64
  %sign = and i64 %xb, -9223372036854775808
  %ax = and i64 %xb, 9223372036854775807
  %ay = and i64 %yb, 9223372036854775807
  %x.special = icmp uge i64 %ax, 9218868437227405312
  %y.nan = icmp ugt i64 %ay, 9218868437227405312
  %y.zero = icmp eq i64 %ay, 0
  %bad.1 = or i1 %x.special, %y.nan
  %bad = or i1 %bad.1, %y.zero
  br i1 %bad, label %nothing, label %numbers
nothing:
  ret double 0x7FF8000000000000
numbers:
  %less = icmp ult i64 %ax, %ay
  br i1 %less, label %same, label %divide
same:
  ret double %x
divide:
  %xe.0 = lshr i64 %ax, 52
  %ye.0 = lshr i64 %ay, 52
  %xf = and i64 %ax, 4503599627370495
  %yf = and i64 %ay, 4503599627370495
  %x.normal = icmp ne i64 %xe.0, 0
  %y.normal = icmp ne i64 %ye.0, 0
  %xm.n = or i64 %xf, 4503599627370496
  %ym.n = or i64 %yf, 4503599627370496
  %xm = select i1 %x.normal, i64 %xm.n, i64 %xf
  %ym = select i1 %y.normal, i64 %ym.n, i64 %yf
  %xe = select i1 %x.normal, i64 %xe.0, i64 1
  %ye = select i1 %y.normal, i64 %ye.0, i64 1
  %steps = sub i64 %xe, %ye
  %first = urem i64 %xm, %ym
  br label %head
head:
  %rest = phi i64 [ %first, %divide ], [ %next, %body ]
  %left = phi i64 [ %steps, %divide ], [ %left.1, %body ]
  %more = icmp ne i64 %left, 0
  br i1 %more, label %body, label %done
body:
  %some = icmp ult i64 %left, 11
  %shift = select i1 %some, i64 %left, i64 11
  %wide = shl i64 %rest, %shift
  %next = urem i64 %wide, %ym
  %left.1 = sub i64 %left, %shift
  br label %head
done:
  %zero = icmp eq i64 %rest, 0
  br i1 %zero, label %whole, label %pack
whole:
  %whole.d = bitcast i64 %sign to double
  ret double %whole.d
pack:
  %zeros = call i64 @llvm.ctlz.i64(i64 %rest, i1 true)
  %up = sub i64 %zeros, 11
  %room = sub i64 %ye, 1
  %fits = icmp ult i64 %up, %ye
  %by = select i1 %fits, i64 %up, i64 %room
  %moved = shl i64 %rest, %by
  %e.n = sub i64 %ye, %by
  %top = lshr i64 %moved, 52
  %e.less = sub i64 %e.n, 1
  %e.bits = shl i64 %e.less, 52
  %with = add i64 %moved, %e.bits
  %is.normal = icmp ne i64 %top, 0
  %magnitude = select i1 %is.normal, i64 %with, i64 %moved
  %bits = or i64 %magnitude, %sign
  %result = bitcast i64 %bits to double
  ret double %result
}"""

_MEMCMP = """\
define internal i32 @memcmp(ptr %a, ptr %b, i64 %size) alwaysinline nounwind {
entry:
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %i.1, %body ]
  %more = icmp ult i64 %i, %size
  br i1 %more, label %body, label %equal
body:
  %a.p = getelementptr i8, ptr %a, i64 %i
  %b.p = getelementptr i8, ptr %b, i64 %i
  %a.v = load i8, ptr %a.p, align 1
  %b.v = load i8, ptr %b.p, align 1
  %i.1 = add i64 %i, 1
  %same = icmp eq i8 %a.v, %b.v
  br i1 %same, label %head, label %differ
differ:
  %a.w = zext i8 %a.v to i32
  %b.w = zext i8 %b.v to i32
  %difference = sub i32 %a.w, %b.w
  ret i32 %difference
equal:
  ret i32 0
}"""

_MEMMEM = """\
define internal ptr @memmem(ptr %a, i64 %a.size, ptr %b, i64 %b.size) alwaysinline nounwind {
entry:
  %fits = icmp uge i64 %a.size, %b.size
  %last = sub i64 %a.size, %b.size
  br i1 %fits, label %head, label %nowhere
head:
  %start = phi i64 [ 0, %entry ], [ %start.1, %other ]
  %here = getelementptr i8, ptr %a, i64 %start
  br label %compare
compare:
  %i = phi i64 [ 0, %head ], [ %i.1, %equal ]
  %more = icmp ult i64 %i, %b.size
  br i1 %more, label %bytes, label %found
bytes:
  %a.p = getelementptr i8, ptr %here, i64 %i
  %b.p = getelementptr i8, ptr %b, i64 %i
  %a.v = load i8, ptr %a.p, align 1
  %b.v = load i8, ptr %b.p, align 1
  %same = icmp eq i8 %a.v, %b.v
  br i1 %same, label %equal, label %other
equal:
  %i.1 = add i64 %i, 1
  br label %compare
other:
  %start.1 = add i64 %start, 1
  %again = icmp ule i64 %start.1, %last
  br i1 %again, label %head, label %nowhere
found:
  ret ptr %here
nowhere:
  ret ptr null
}"""

_FUNCTIONS = {"fmod": _FMOD, "memcmp": _MEMCMP, "memmem": _MEMMEM}
_NAME = re.compile(r"@([\w.]+)\(")


def _called(declaration: str) -> str:
    """Return the name in a declaration, or in the definition of a function that comes with its tables."""
    match = _NAME.search(declaration)
    assert match is not None
    return match[1]


def functions_for(declarations: Iterable[str]) -> list[str]:
    """Return the definitions of the functions that are declared and are here."""
    called = {_called(d) for d in declarations if d.startswith("declare")}
    return [_FUNCTIONS[name] for name in sorted(called & _FUNCTIONS.keys())]


def undefined(declarations: Iterable[str]) -> set[str]:
    """Return the declarations that remain, which are LLVM's own, and the functions that came with them.

    Raises
    ------
    CompileError
        If a function of the C library is called that kernels have no counterpart of.
    """
    rest = {d for d in declarations if not (d.startswith("declare") and _called(d) in _FUNCTIONS)}
    external = [_called(d) for d in rest if d.startswith("declare")]
    missing = sorted(name for name in external if not name.startswith("llvm."))
    if missing:
        raise CompileError(
            f"{', '.join(missing)} cannot be computed on CUDA in this version: use device='cpu' for this function."
        )
    if any("@fmod(" in d for d in declarations):
        rest.add("declare i64 @llvm.ctlz.i64(i64, i1)")
    return rest
