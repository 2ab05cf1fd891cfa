"""Loops for Parquet's hybrid of repeated values and packed bits: dictionary indices and definition levels.

Covers any bit width from 0 to 32, resumable at any value; and levels of width 1, which become a validity bitmap.
Nothing outside a stream is read, whatever it says: its last groups of 8 values, for which vectors would read too
far, are unpacked from a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dataflare.kernels.cpu.routine import Operand, Routine, Variable
from dataflare.kernels.llvm.target import Target

__all__ = ["NO_RESULT", "TILE_ROWS", "HybridStream", "StreamOf", "hybrid_globals", "hybrid_routines"]

TILE_ROWS = 1024
"""Indices that are unpacked at once, into memory that stays in the first cache."""

NO_RESULT = -1
"""What the functions here return for damaged data."""

_VECTOR_WIDTH = 25  # with up to 7 bits before it, a wider value does not fit the 32-bit lane it is shifted in
_GROUP = 8
_MOST_GROUPS = 1 << 31
_BITS_AT_ONCE = 32  # with up to 7 before them they are one store
_TAIL_BYTES = 80  # a group of the widest values, and as far again as one may be read beyond its start


@dataclass(frozen=True)
class HybridStream:
    """The state of a stream, as variables in memory."""

    position: Variable
    """Address of the next run; in a run of packed bits, of the group in which the next value is."""
    end: Variable
    width: Variable
    left: Variable
    """Values left of the current run."""
    packed: Variable
    """1 in a run of packed bits, 0 in a repeated value."""
    value: Variable
    """The repeated value; of packed bits how many values of the current group are done."""

    def saved(self) -> list[tuple[Variable, Operand]]:
        """Return where the stream is, for `restore`."""
        return [(each, each.now) for each in (self.position, self.left, self.packed, self.value)]

    @staticmethod
    def restore(saved: list[tuple[Variable, Operand]]) -> None:
        """Go back to where the stream was."""
        for variable, value in saved:
            variable.set(value)


StreamOf = Callable[[Routine], HybridStream]
"""Gives a stream's state in a function."""


def hybrid_globals(target: Target) -> list[str]:
    """Return the tables of the vector loop: for each width which bytes each lane takes, and how far it shifts."""
    if not target.has_permute:
        return []
    orders, shifts = [], []
    for width in range(_VECTOR_WIDTH + 1):
        order, shift = [], []
        for lane in range(_GROUP):
            # Lanes 4 to 7 are taken from a second load, which starts at the byte of lane 4.
            bit = lane * width - (0 if lane < 4 else 8 * (width >> 1))
            order += [bit // 8 + byte for byte in range(4)]
            shift.append(bit % 8)
        orders.append("<32 x i8> <" + ", ".join(f"i8 {byte}" for byte in order) + ">")
        shifts.append("<8 x i32> <" + ", ".join(f"i32 {bits}" for bits in shift) + ">")
    count = _VECTOR_WIDTH + 1
    return [
        f"@unpack_orders = private unnamed_addr constant [{count} x <32 x i8>] [{', '.join(orders)}], align 32",
        f"@unpack_shifts = private unnamed_addr constant [{count} x <8 x i32>] [{', '.join(shifts)}], align 32",
    ]


def hybrid_routines(target: Target, values: StreamOf, levels: StreamOf) -> list[str]:
    """Return the functions ``indices`` and ``levels`` and what they call.

    Parameters
    ----------
    values, levels
        The streams that the two take from.
    """
    return [
        *([_UNPACK_VECTORS] if target.has_permute else []),
        _UNPACK_ONE_BY_ONE,
        _REPEAT,
        _varint(),
        _unpack(vectors=target.has_permute),
        _next_run("next_run_of_values", values),
        _indices(values),
        _next_run("next_run_of_levels", levels),
        _put_bits(),
        _levels(levels),
    ]


def _varint() -> str:
    """Build ``varint(address of the position, end)``; a damaged number moves the position beyond any end."""
    f = Routine("varint", ("place", "end"))
    position, shift, number = f.variable(f.load(f["place"], 64)), f.variable(), f.variable()
    with f.loop(lambda: (position < f["end"]) & (shift < 64)):
        byte = f.load(position, 8)
        position.advance(1)
        number.set(number | ((byte & 127) << shift))
        shift.advance(7)
        with f.when(byte < 128):
            f.store(f["place"], position, 64)
            f.finish(number)
    f.store(f["place"], -1, 64)
    return f.build()


def _unpack(*, vectors: bool) -> str:
    """Build ``unpack(source, end, width, groups, out)``: 8 indices of 32 bits a group, zeros after the end.

    All groups begin before the end, unless they take no bytes.
    """
    f = Routine("unpack", ("source", "end", "width", "groups", "out"))
    width = f["width"]
    with f.when(width.equals(0)):
        f.fill(f["out"], 0, f["groups"] * 32)
        f.finish(0)
    narrow = width <= (_VECTOR_WIDTH if vectors else 0)
    reach = f.chosen(narrow, (width >> 1) + 16, width + 8)  # how far a group is read from its start on
    available = f["end"] - f["source"]
    fast = f.variable(0)
    with f.when(available >= reach):
        fast.set(((available - reach) // width + 1).least(f["groups"]))

    def run(source: Operand, groups: Operand, out: Operand) -> None:
        if vectors:
            with f.when(narrow):
                f.call("unpack_vectors", f.pointer(source), groups, width, f.pointer(out))
        with f.when(width > (_VECTOR_WIDTH if vectors else 0)):
            f.call("unpack_one_by_one", f.pointer(source), groups, width, f.pointer(out))

    run(f["source"], fast, f["out"])
    left = f["groups"] - fast
    with f.when(left.differs(0)):
        rest = f["source"] + fast * width
        copy = f.stack(2 * _TAIL_BYTES)
        f.fill(copy, 0, 2 * _TAIL_BYTES)
        f.copy(copy, rest, (f["end"] - rest).least(_TAIL_BYTES))
        run(copy, left, f["out"] + fast * 32)
    return f.build()


def _next_run(name: str, stream_of: StreamOf) -> str:
    """Build ``name(state)``, which goes to a stream's next run; 0, or `NO_RESULT` where there is none."""
    f = Routine(name, ("state",))
    stream = stream_of(f)
    position, end, width = stream.position, stream.end, stream.width
    with f.when(stream.value.differs(0) & stream.packed.differs(0)):  # the last group was not used up
        position.set((position + width).least(end))
    header = f.call("varint", f.address_of(position), end)
    f.finish_when(position > end, NO_RESULT)
    stream.packed.set(header & 1)
    stream.value.set(0)
    with f.when((header & 1).differs(0)):
        count = f.variable((header >> 1).least(_MOST_GROUPS) * _GROUP)
        with f.when(width.differs(0)):  # some writers do not fill the last group
            count.set(count.least(((end - position) << 3) // width))
        stream.left.set(count)
        f.finish(0)
    stream.left.set(header >> 1)
    shift = f.variable()
    with f.loop(lambda: shift < width):
        f.finish_when(position >= end, NO_RESULT)
        stream.value.set(stream.value | (f.load(position, 8) << shift))
        position.advance(1)
        shift.advance(8)
    return f.build()


def _indices(stream_of: StreamOf) -> str:
    """Build ``indices(state, count, out)``: the next `count` values, 32 bits each; 0 or `NO_RESULT`.

    Up to 7 values after `count` may be written.
    """
    f = Routine("indices", ("state", "count", "out"))
    stream = stream_of(f)
    position, end, width = stream.position, stream.end, stream.width
    left, place = f.variable(f["count"]), f.variable(f["out"])
    group = f.stack(4 * _GROUP)
    with f.loop(lambda: left.differs(0)) as again:
        with f.when(stream.left.equals(0)):
            f.finish_when(f.call("next_run_of_values", f["state"]).differs(0), NO_RESULT)
            f.go_on(again)
        take = f.variable(stream.left.least(left))
        with f.when(stream.packed.equals(0)):
            f.call("repeat", f.pointer(place), take, stream.value)
        with f.when(stream.packed.differs(0)):
            done = stream.value.now
            with f.when(done.equals(0)):
                f.call("unpack", position, end, width, (take + 7) >> 3, place)
            with f.when(done.differs(0)):  # the rest of a group
                take.set(take.least(_GROUP - done))
                f.call("unpack", position, end, width, 1, group)
                f.copy(place, group + (done << 2), take << 2)
            passed = done + take
            position.advance((passed >> 3) * width)
            stream.value.set(passed & 7)
        stream.left.advance(0 - take)
        left.advance(0 - take)
        place.advance(take << 2)
    return f.build()


def _put_bits() -> str:
    """Build ``put_bits(source, end, bit, same, bitmap, at, count)``; returns how many ones were put.

    The bits come from bit `bit` of `source` on, or where `source` is 0 are those of `same`, which is 0 or -1.
    Bits of the bitmap before `at` stay, up to 8 bytes after the last one may be written.
    """
    f = Routine("put_bits", ("source", "end", "bit", "same", "bitmap", "at", "count"))
    end = f["end"]
    bit, at, left, ones = f.variable(f["bit"]), f.variable(f["at"]), f.variable(f["count"]), f.variable()
    with f.loop(lambda: left.differs(0)):
        count = left.least(_BITS_AT_ONCE)
        bits = f.variable(f["same"])
        with f.when(f["source"].differs(0)):
            place = f["source"] + (bit >> 3)
            with f.when(end - place >= 8):
                bits.set(f.load(place, 64))
            with f.when(end - place < 8):
                tail, byte = f.variable(0), f.variable(0)
                with f.loop(lambda: byte < (end - place)):
                    tail.set(tail | (f.load(place + byte, 8) << (byte << 3)))
                    byte.advance(1)
                bits.set(tail)
            bits.set(bits >> (bit & 7))
        bits.set(bits & ((f.constant(1) << count) - 1))
        ones.advance(f.bits_set(bits))
        target, shift = f["bitmap"] + (at >> 3), at & 7
        before = f.load(target, 8) & ((f.constant(1) << shift) - 1)
        f.store(target, before | (bits << shift), 64)
        bit.advance(count)
        at.advance(count)
        left.advance(0 - count)
    f.finish(ones)
    return f.build()


def _levels(stream_of: StreamOf) -> str:
    """Build ``levels(state, count, bitmap, at)``: the next levels as bits of the bitmap.

    Returns how many are 1, or `NO_RESULT`.
    """
    f = Routine("levels", ("state", "count", "bitmap", "at"))
    stream = stream_of(f)
    left, at, ones = f.variable(f["count"]), f.variable(f["at"]), f.variable()
    with f.loop(lambda: left.differs(0)) as again:
        with f.when(stream.left.equals(0)):
            f.finish_when(f.call("next_run_of_levels", f["state"]).differs(0), NO_RESULT)
            f.go_on(again)
        take = stream.left.least(left)
        packed = stream.packed.differs(0)
        f.finish_when((stream.value > 1) & stream.packed.equals(0), NO_RESULT)
        source = f.chosen(packed, stream.position, 0)
        ones.advance(
            f.call("put_bits", source, stream.end, stream.value, 0 - stream.value, f["bitmap"], at, take)
        )
        with f.when(packed):
            passed = stream.value + take
            stream.position.advance(passed >> 3)
            stream.value.set(passed & 7)
        stream.left.advance(0 - take)
        left.advance(0 - take)
        at.advance(take)
    f.finish(ones)
    return f.build()


_UNPACK_VECTORS = """\
declare <32 x i8> @llvm.x86.avx2.pshuf.b(<32 x i8>, <32 x i8>)

define internal i64 @unpack_vectors(ptr noalias %source, i64 %groups, i64 %width, ptr noalias %out) nounwind {
entry:
  %order.p = getelementptr <32 x i8>, ptr @unpack_orders, i64 %width
  %order = load <32 x i8>, ptr %order.p, align 32
  %shift.p = getelementptr <8 x i32>, ptr @unpack_shifts, i64 %width
  %shift = load <8 x i32>, ptr %shift.p, align 32
  %half = lshr i64 %width, 1
  %narrow = trunc i64 %width to i32
  %power = shl i32 1, %narrow
  %below = sub i32 %power, 1
  %first = insertelement <8 x i32> poison, i32 %below, i64 0
  %mask = shufflevector <8 x i32> %first, <8 x i32> poison, <8 x i32> zeroinitializer
  %some = icmp ne i64 %groups, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %from = phi ptr [ %source, %entry ], [ %from.next, %loop ]
  %low = load <16 x i8>, ptr %from, align 1
  %high.p = getelementptr i8, ptr %from, i64 %half
  %high = load <16 x i8>, ptr %high.p, align 1
  %both = shufflevector <16 x i8> %low, <16 x i8> %high, <32 x i32> <BOTH>
  %bytes = call <32 x i8> @llvm.x86.avx2.pshuf.b(<32 x i8> %both, <32 x i8> %order)
  %lanes = bitcast <32 x i8> %bytes to <8 x i32>
  %moved = lshr <8 x i32> %lanes, %shift
  %values = and <8 x i32> %moved, %mask
  %to = getelementptr <8 x i32>, ptr %out, i64 %i
  store <8 x i32> %values, ptr %to, align 1
  %from.next = getelementptr i8, ptr %from, i64 %width
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %groups
  br i1 %more, label %loop, label %done
done:
  ret i64 0
}""".replace("BOTH", ", ".join(f"i32 {byte}" for byte in range(32)))

_UNPACK_ONE_BY_ONE = """\
define internal i64 @unpack_one_by_one(ptr noalias %source, i64 %groups, i64 %width, ptr noalias %out) nounwind {
entry:
  %count = shl i64 %groups, 3
  %power = shl i64 1, %width
  %mask = sub i64 %power, 1
  %some = icmp ne i64 %count, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %bit = phi i64 [ 0, %entry ], [ %bit.next, %loop ]
  %byte = lshr i64 %bit, 3
  %from = getelementptr i8, ptr %source, i64 %byte
  %word = load i64, ptr %from, align 1
  %shift = and i64 %bit, 7
  %moved = lshr i64 %word, %shift
  %value = and i64 %moved, %mask
  %narrow = trunc i64 %value to i32
  %to = getelementptr i32, ptr %out, i64 %i
  store i32 %narrow, ptr %to, align 1
  %bit.next = add i64 %bit, %width
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  ret i64 0
}"""

_REPEAT = """\
define internal i64 @repeat(ptr noalias %out, i64 %count, i64 %value) nounwind {
entry:
  %narrow = trunc i64 %value to i32
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %to = getelementptr i32, ptr %out, i64 %i
  store i32 %narrow, ptr %to, align 1
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  ret i64 0
}"""
