"""Loops for the values of Parquet pages: plain ones, entries of a dictionary, and places for nulls.

Covers what is stored in 4 or 8 bytes or as big-endian numbers of a fixed length, and results of 1, 2, 4, 8 and 16
bytes. Each kind of value has a number, which the state of a column holds. Sizes are checked by the caller, indices
by `highest`.
"""

from __future__ import annotations

from dataflare.kernels.cpu.routine import Operand, Routine, counted_loop

__all__ = [
    "BIG_ENDIAN",
    "COPIED_PLAINS",
    "GATHERS",
    "PLAINS",
    "RESULT_BYTES",
    "call_gather",
    "call_plain",
    "call_spread",
    "value_routines",
]

BIG_ENDIAN = 0
"""What stands for the bytes of a plain value where the column says how many they are."""

PLAINS: tuple[tuple[int, int], ...] = (
    (4, 4), (8, 8), (4, 1), (4, 2), (4, 16), (8, 16), (BIG_ENDIAN, 8), (BIG_ENDIAN, 16),
)  # fmt: skip
"""Bytes of a plain value and of the result."""

COPIED_PLAINS = 2
"""How many of `PLAINS`, the first ones, come out as they are stored."""

GATHERS: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (4, 16), (8, 16))
"""Bytes of a dictionary's entry and of the result."""

RESULT_BYTES = (1, 2, 4, 8, 16)


def value_routines() -> list[str]:
    """Return all loops."""
    return [
        _HIGHEST,
        *(_gather(entry, result) for entry, result in GATHERS),
        *(_plain(stored, result) for stored, result in PLAINS if stored != result and stored != BIG_ENDIAN),
        *(_big_endian(result) for stored, result in PLAINS if stored == BIG_ENDIAN),
        *(_spread(result) for result in RESULT_BYTES),
    ]


def call_plain(
    f: Routine, kind: Operand, source: Operand, count: Operand, out: Operand, stored: Operand
) -> None:
    """Convert `count` plain values of `stored` bytes each, by the number of their kind."""
    for number, (stored_bytes, result_bytes) in enumerate(PLAINS):
        with f.when(kind.equals(number)):
            if stored_bytes == result_bytes:
                f.copy(out, source, count * stored_bytes)
            elif stored_bytes == BIG_ENDIAN:
                f.call(f"big_endian_{result_bytes}", source, count, out, stored)
            else:
                f.call(f"plain_{stored_bytes}_{result_bytes}", f.pointer(source), count, f.pointer(out))


def call_gather(
    f: Routine, kind: Operand, indices: Operand, count: Operand, dictionary: Operand, out: Operand
) -> None:
    """Look `count` indices up, by the number of the kind."""
    for number, (entry_bytes, result_bytes) in enumerate(GATHERS):
        with f.when(kind.equals(number)):
            f.call(
                f"gather_{entry_bytes}_{result_bytes}",
                f.pointer(indices),
                count,
                f.pointer(dictionary),
                f.pointer(out),
            )


def call_spread(
    f: Routine, result: Operand, out: Operand, valid: Operand, count: Operand, bitmap: Operand, at: Operand
) -> None:
    """Move the first `valid` results of `result` bytes to the places of the ones of the bitmap; others get zero."""
    for result_bytes in RESULT_BYTES:
        with f.when(result.equals(result_bytes)):
            f.call(f"spread_{result_bytes}", f.pointer(out), valid, count, f.pointer(bitmap), at)


_HIGHEST = """\
declare i32 @llvm.umax.i32(i32, i32)

define internal i64 @highest(ptr noalias %indices, i64 %count) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %most = phi i32 [ 0, %entry ], [ %most.next, %loop ]
  %from = getelementptr i32, ptr %indices, i64 %i
  %index = load i32, ptr %from, align 4
  %most.next = call i32 @llvm.umax.i32(i32 %most, i32 %index)
  %i.next = add nuw i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  %wide = zext i32 %most.next to i64
  ret i64 %wide
}"""


def _gather(entry_bytes: int, result_bytes: int) -> str:
    entry, result = f"i{8 * entry_bytes}", f"i{8 * result_bytes}"
    convert = f"sext {entry} %entry.v to {result}" if entry != result else f"add {result} %entry.v, 0"
    return counted_loop(
        f"gather_{entry_bytes}_{result_bytes}"
        "(ptr noalias %indices, i64 %count, ptr noalias %dictionary, ptr noalias %out)",
        "",
        f"""\
  %index.p = getelementptr i32, ptr %indices, i64 %i
  %index.n = load i32, ptr %index.p, align 4
  %index = zext i32 %index.n to i64
  %entry.p = getelementptr {entry}, ptr %dictionary, i64 %index
  %entry.v = load {entry}, ptr %entry.p, align 1
  %result = {convert}
  %to = getelementptr {result}, ptr %out, i64 %i
  store {result} %result, ptr %to, align 1""",
    )


def _plain(stored_bytes: int, result_bytes: int) -> str:
    stored, result = f"i{8 * stored_bytes}", f"i{8 * result_bytes}"
    convert = "trunc" if result_bytes < stored_bytes else "sext"
    return counted_loop(
        f"plain_{stored_bytes}_{result_bytes}(ptr noalias %source, i64 %count, ptr noalias %out)",
        "",
        f"""\
  %from = getelementptr {stored}, ptr %source, i64 %i
  %value = load {stored}, ptr %from, align 1
  %result = {convert} {stored} %value to {result}
  %to = getelementptr {result}, ptr %out, i64 %i
  store {result} %result, ptr %to, align 1""",
    )


def _big_endian(result_bytes: int) -> str:
    """Build the loop for values of up to `result_bytes` bytes: one load each, but bytes for the last ones.

    A value of fewer bytes than a load is at the load's low addresses; swapped, it is at the top of the number.
    """
    f = Routine(f"big_endian_{result_bytes}", ("source", "count", "out", "stored"))
    stored, count, source = f["stored"], f["count"], f["source"]
    total = stored * count
    fast = f.variable(0)
    with f.when(total >= result_bytes):
        fast.set(((total - result_bytes) // stored + 1).least(count))
    shift = (result_bytes - stored) << 3
    name = f"swap_{result_bytes}"
    f.call(name, f.pointer(source), fast, f.pointer(f["out"]), stored, shift)
    last = f.stack(16)
    with f.loop(lambda: fast < count):
        f.copy(last, source + fast * stored, stored)
        f.call(name, f.pointer(last), 1, f.pointer(f["out"] + fast * result_bytes), stored, shift)
        fast.advance(1)
    kind = f"i{8 * result_bytes}"
    widened = "%shift" if result_bytes == 8 else "%shift.w"
    before = "" if result_bytes == 8 else f"  %shift.w = zext i64 %shift to {kind}\n"
    swap = counted_loop(
        f"{name}(ptr noalias %source, i64 %count, ptr noalias %out, i64 %stored, i64 %shift)",
        before,
        f"""\
  %offset = mul i64 %i, %stored
  %from = getelementptr i8, ptr %source, i64 %offset
  %word = load {kind}, ptr %from, align 1
  %swapped = call {kind} @llvm.bswap.{kind}({kind} %word)
  %result = ashr {kind} %swapped, {widened}
  %to = getelementptr {kind}, ptr %out, i64 %i
  store {kind} %result, ptr %to, align 1""",
    )
    return f"declare {kind} @llvm.bswap.{kind}({kind})\n\n{swap}\n\n{f.build()}"


def _spread(result_bytes: int) -> str:
    """Build the loop from the last place to the first, which stops where only values are left."""
    kind = f"i{8 * result_bytes}"
    arguments = "ptr noalias %out, i64 %valid, i64 %count, ptr noalias %bitmap, i64 %at"
    return f"""\
define internal i64 @spread_{result_bytes}({arguments}) nounwind {{
entry:
  br label %loop
loop:
  %i = phi i64 [ %count, %entry ], [ %here, %step ]
  %left = phi i64 [ %valid, %entry ], [ %from, %step ]
  %settled = icmp eq i64 %left, %i
  br i1 %settled, label %done, label %step
step:
  %here = sub i64 %i, 1
  %row = add i64 %at, %here
  %byte = lshr i64 %row, 3
  %bits.p = getelementptr i8, ptr %bitmap, i64 %byte
  %bits = load i8, ptr %bits.p, align 1
  %wide = zext i8 %bits to i64
  %shift = and i64 %row, 7
  %moved = lshr i64 %wide, %shift
  %bit = and i64 %moved, 1
  %from = sub i64 %left, %bit
  %from.p = getelementptr {kind}, ptr %out, i64 %from
  %value = load {kind}, ptr %from.p, align 1
  %is = icmp ne i64 %bit, 0
  %result = select i1 %is, {kind} %value, {kind} 0
  %to = getelementptr {kind}, ptr %out, i64 %here
  store {kind} %result, ptr %to, align 1
  br label %loop
done:
  ret i64 0
}}"""
