"""Loops for text and bytes of Parquet pages: plain values and dictionaries, as Arrow's views or as lengths.

A plain value is its length in 4 bytes and its bytes, which is how a view of up to 12 bytes looks, too: it is loaded
as one, and what comes after the value is masked away. Longer values are copied to the *heap*, the memory for the
texts of one batch. A dictionary's entries are views of its page. Lengths become offsets when a batch is complete;
null rows have the length 0.

Sizes on pages are checked here, the heap's room by the caller. Everything that texts are read from or copied to may
be touched `REACH_BYTES` beyond its end, but for the pages of plain values.
"""

from __future__ import annotations

from functools import partial

from dataflare.kernels.cpu.parquet_state import ColumnState, Status
from dataflare.kernels.cpu.routine import Operand, Routine, counted_loop

__all__ = ["LENGTHS", "LONGEST_INLINE_BYTES", "NO_TEXT", "REACH_BYTES", "VIEWS", "text_routines"]

NO_TEXT, VIEWS, LENGTHS = range(3)
"""What values come out as: numbers; views of 16 bytes; or lengths of 4 bytes, and the texts one after the other."""

LONGEST_INLINE_BYTES = 12
"""Of a text that is in its view."""

REACH_BYTES = 32
"""What is copied at once."""

_VIEW_BYTES = 16
_LENGTH_BITS = (1 << 32) - 1
_NOT_ASCII = 0x80808080_80808080
_MASKS = "view_masks"


def text_routines() -> list[str]:
    """Return all functions, and their table."""
    return [
        _mask_table(),
        _JOINED_BITS,
        _entries(),
        _plain_bytes(),
        _plain("plain_views", as_views=True),
        _plain("plain_lengths", as_views=False),
        _ENTRY_BYTES,
        _gather_views(),
        _gather_lengths(),
        _offsets(),
    ]


def _mask_table() -> str:
    """Return the bits that belong to the view of a text of each length; the last row is for long ones."""
    halves = []
    for length in range(LONGEST_INLINE_BYTES + 1):
        used = (1 << 8 * (4 + length)) - 1
        halves += [used & (1 << 64) - 1, used >> 64]
    halves += [(1 << 64) - 1, 0]
    listed = ", ".join(f"i64 {half}" for half in halves)
    return f"@{_MASKS} = private unnamed_addr constant [{len(halves)} x i64] [{listed}], align 16"


_JOINED_BITS = """\
define internal i64 @joined_bits(ptr noalias %bytes, i64 %count) nounwind {
entry:
  %some = icmp ne i64 %count, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %bits = phi i8 [ 0, %entry ], [ %bits.next, %loop ]
  %from = getelementptr i8, ptr %bytes, i64 %i
  %byte = load i8, ptr %from, align 1
  %bits.next = or i8 %bits, %byte
  %i.next = add nuw i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  %all = phi i8 [ 0, %entry ], [ %bits.next, %loop ]
  %wide = zext i8 %all to i64
  ret i64 %wide
}"""


def _halves(f: Routine, source: Operand, length: Operand) -> tuple[Operand, Operand]:
    """Return the halves of the view of a plain text, from its length on; of a long one, the second has to be made."""
    masks = f.table(_MASKS) + (length.least(LONGEST_INLINE_BYTES + 1) << 4)
    return f.load(source, 64) & f.load(masks, 64), f.load(source + 8, 64) & f.load(masks + 8, 64)


def _entries() -> str:
    """Build ``text_entries(state, end)``: the dictionary's page, up to `end`, becomes views of it."""
    f = Routine("text_entries", ("state", "end"))
    state = ColumnState(f)
    start = state.dictionary_text.now
    end = f["end"]
    position, out, left = f.variable(start), f.variable(state.dictionary), f.variable(state.page_rows)
    longest, bits = f.variable(0), f.variable(0)
    with f.loop(lambda: left.differs(0)):
        f.finish_when(end - position < 4, Status.VALUES)
        length, text = f.load(position, 32), position + 4
        f.finish_when(length > end - text, Status.VALUES)
        first, second = _halves(f, position.now, length)
        is_long = length > LONGEST_INLINE_BYTES
        f.store(out, first, 64)
        f.store(out + 8, f.chosen(is_long, (text - start) << 32, second), 64)
        bits.set(bits | (first >> 32) | second)
        with f.when(is_long):
            bits.set(bits | f.call("joined_bits", f.pointer(text), length))
        with f.when(length > longest):
            longest.set(length)
        position.set(text + length)
        out.advance(_VIEW_BYTES)
        left.advance(-1)
    state.dictionary_longest.set(longest)
    state.dictionary_not_ascii.set(bits & _NOT_ASCII)
    return f.build()


def _plain_bytes() -> str:
    """Build ``plain_bytes(state, count)``: the bytes of the next `count` texts of the page, or of all that it has.

    Of damaged ones it may be anything up to those of the page.
    """
    f = Routine("plain_bytes", ("state", "count"))
    state = ColumnState(f)
    position, end = f.variable(state.values_position), state.values_end.now
    left, total = f.variable(f["count"]), f.variable(0)
    with f.loop(lambda: left.differs(0) & (end - position >= 4)):
        length = f.load(position, 32).least(end - position - 4)
        total.advance(length)
        position.set(position + 4 + length)
        left.advance(-1)
    f.finish(total)
    return f.build()


def _plain(name: str, *, as_views: bool) -> str:
    """Build ``name(state, count, out)``: the next `count` values of the page, each with its length before it."""
    f = Routine(name, ("state", "count", "out"))
    state = ColumnState(f)
    position, end = f.variable(state.values_position), state.values_end.now
    heap, number, before = state.heap.now, state.heap_number.now, state.heap_used.now
    used, bits = f.variable(before), f.variable(0)
    out, left = f.variable(f["out"]), f.variable(f["count"])
    last = f.stack(_VIEW_BYTES)
    with f.loop(lambda: left.differs(0)):
        f.finish_when(end - position < 4, Status.VALUES)
        length, text = f.load(position, 32), position + 4
        f.finish_when(length > end - text, Status.VALUES)
        if as_views:
            source = f.variable(position)
            with f.when(end - position < _VIEW_BYTES):
                f.fill(last, 0, _VIEW_BYTES)
                f.copy(last, position, end - position)
                source.set(last)
            first, second = _halves(f, source.now, length)
            is_long = length > LONGEST_INLINE_BYTES
            f.store(out, first, 64)
            f.store(out + 8, f.chosen(is_long, number | (used << 32), second), 64)
            bits.set(bits | (first >> 32) | second)
            with f.when(is_long):
                _copy_text(f, heap + used, text, length, end)
                used.advance(length)
            out.advance(_VIEW_BYTES)
        else:
            f.store(out, length, 32)
            _copy_text(f, heap + used, text, length, end)
            used.advance(length)
            out.advance(4)
        position.set(text + length)
        left.advance(-1)
    bits.set(bits | f.call("joined_bits", f.pointer(heap + before), used - before))
    state.not_ascii.set(state.not_ascii | (bits & _NOT_ASCII))
    state.heap_used.set(used)
    state.values_position.set(position)
    return f.build()


def _copy_text(f: Routine, target: Operand, source: Operand, length: Operand, end: Operand) -> None:
    """Copy a text of a page that ends at `end`."""
    reaches = end - source >= length + REACH_BYTES
    with f.when(reaches):
        done = f.variable(0)
        with f.loop(lambda: done < length):
            f.move(target + done, source + done, REACH_BYTES)
            done.advance(REACH_BYTES)
    with f.when(f.opposite(reaches)):
        f.copy(target, source, length)


_ENTRY_BYTES = """\
define internal i64 @entry_bytes(ptr noalias %indices, i64 %count, ptr noalias %dictionary) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %total = phi i64 [ 1, %entry ], [ %total.next, %loop ]
  %index.p = getelementptr i32, ptr %indices, i64 %i
  %index.n = load i32, ptr %index.p, align 4
  %index = zext i32 %index.n to i64
  %length.p = getelementptr [4 x i32], ptr %dictionary, i64 %index, i64 0
  %length.n = load i32, ptr %length.p, align 8
  %length = zext i32 %length.n to i64
  %total.next = add i64 %total, %length
  %i.next = add nuw i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  ret i64 %total.next
}"""
"""Bytes of the entries that at least one index stands for, and one more: even empty ones want a heap."""


def _gather_views() -> str:
    """Build ``gather_views(indices, count, dictionary, out, number)``: entries, as views of that buffer."""
    return counted_loop(
        "gather_views(ptr noalias %indices, i64 %count, ptr noalias %dictionary, ptr noalias %out, i64 %number)",
        "",
        f"""\
  %index.p = getelementptr i32, ptr %indices, i64 %i
  %index.n = load i32, ptr %index.p, align 4
  %index = zext i32 %index.n to i64
  %first.p = getelementptr [2 x i64], ptr %dictionary, i64 %index, i64 0
  %second.p = getelementptr [2 x i64], ptr %dictionary, i64 %index, i64 1
  %first = load i64, ptr %first.p, align 8
  %second = load i64, ptr %second.p, align 8
  %length = and i64 %first, {_LENGTH_BITS}
  %is.long = icmp ugt i64 %length, {LONGEST_INLINE_BYTES}
  %numbered = or i64 %second, %number
  %result = select i1 %is.long, i64 %numbered, i64 %second
  %first.to = getelementptr [2 x i64], ptr %out, i64 %i, i64 0
  %second.to = getelementptr [2 x i64], ptr %out, i64 %i, i64 1
  store i64 %first, ptr %first.to, align 8
  store i64 %result, ptr %second.to, align 8""",
    )


def _gather_lengths() -> str:
    """Build ``gather_lengths(state, indices, count, out)``: lengths of entries, whose texts go to the heap."""
    f = Routine("gather_lengths", ("state", "indices", "count", "out"))
    state = ColumnState(f)
    dictionary, texts = state.dictionary.now, state.dictionary_text.now
    index, out, left = f.variable(f["indices"]), f.variable(f["out"]), f.variable(f["count"])
    place = f.variable(state.heap + state.heap_used)
    start = place.now
    with f.loop(lambda: left.differs(0)):
        entry = dictionary + (f.load(index, 32) << 4)
        length = f.load(entry, 32)
        is_long = length > LONGEST_INLINE_BYTES
        source = f.chosen(is_long, texts + f.load(entry + 12, 32), entry + 4)
        f.store(out, length, 32)
        f.move(place, source, _VIEW_BYTES)
        with f.when(length > _VIEW_BYTES):
            done = f.variable(_VIEW_BYTES)
            with f.loop(lambda: done < length):
                f.move(place + done, source + done, REACH_BYTES)
                done.advance(REACH_BYTES)
        place.advance(length)
        index.advance(4)
        out.advance(4)
        left.advance(-1)
    state.heap_used.advance(place - start)
    return f.build()


def _offsets() -> str:
    """Build ``text_offsets(lengths, count, out, width)``: `count` lengths of 4 bytes become one offset more.

    Offsets have `width` bytes, 4 or 8. The lengths may lie in the memory of the offsets, at its end.
    """
    f = Routine("text_offsets", ("lengths", "count", "out", "width"), exported=True)
    for width in (4, 8):
        with f.when(f["width"].equals(width)):
            length, out, left, total = (
                f.variable(value) for value in (f["lengths"], f["out"], f["count"], 0)
            )
            f.store(out, 0, 8 * width)
            with f.loop(partial(left.differs, 0)):
                total.advance(f.load(length, 32))
                length.advance(4)
                out.advance(width)
                f.store(out, total, 8 * width)
                left.advance(-1)
    return f.build()
