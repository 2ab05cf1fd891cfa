"""The bodies of the two kernels of a filter: who is kept, and the results of those in order.

Each warp works on segments of `SEGMENT_ROWS`, 32 records a step. Between the two kernels the counts of the segments
are added up (``primitives``).
"""

from __future__ import annotations

from dataflare.kernels.cuda.bodies import Body
from dataflare.kernels.cuda.threads import WARP_THREADS, only_if, popcount
from dataflare.kernels.llvm.counting import counted_loop

__all__ = ["SEGMENT_ROWS", "SelectBody", "WriteBody"]

SEGMENT_ROWS = 512
"""Rows of a filter that one warp works on, and one number of the sums stands for."""


class _FilterBody(Body):
    """A loop over the segments of a filter, a warp for each, and over the 32 records of a step."""

    def emit(self) -> None:
        code = self.code
        rows = self.reader.slot(0)
        size = SEGMENT_ROWS.bit_length() - 1
        segments = code.value(f"lshr i64 {code.value(f'add i64 {rows}, {SEGMENT_ROWS - 1}')}, {size}")
        warp, warps = self.warps()
        code.declare("declare i64 @llvm.umin.i64(i64, i64)")
        place = code.variable("i64", "place")
        with counted_loop(code, "segment", warp, segments, warps) as segment:
            first = code.value(f"shl i64 {segment}, {size}")
            full = code.value(f"add i64 {first}, {SEGMENT_ROWS}")
            end = code.value(f"call i64 @llvm.umin.i64(i64 {full}, i64 {rows})")
            number = code.value(
                f"getelementptr i64, ptr {self.reader.pointer(self.kernels.segments_slot)}, i64 {segment}"
            )
            self.begin(place, number)
            with counted_loop(code, "step", first, end, str(WARP_THREADS)) as start:
                row = code.value(f"add i64 {start}, {self.threads.lane()}")
                inside = code.value(f"icmp ult i64 {row}, {rows}")
                word = code.value(f"lshr i64 {start}, 5")
                selection = code.value(
                    f"getelementptr i32, ptr {self.reader.pointer(self.kernels.selection_slot)}, i64 {word}"
                )
                self.step(place, selection, row, inside)
            self.end(place, number)
        self.finish()

    def advance(self, place: str, word: str) -> None:
        """Move the place by the bits of a word."""
        code = self.code
        old = code.value(f"load i64, ptr {place}, align 8")
        kept = code.value(f"zext i32 {popcount(code, word)} to i64")
        code.add(f"store i64 {code.value(f'add i64 {old}, {kept}')}, ptr {place}, align 8")

    def begin(self, place: str, number: str) -> None:
        """Emit what comes before the steps of a segment; ``number`` is the address of its number."""
        raise NotImplementedError

    def step(self, place: str, selection: str, row: str, inside: str) -> None:
        """Emit one step; ``selection`` is the address of its word of bits."""
        raise NotImplementedError

    def end(self, place: str, number: str) -> None:
        """Emit what comes after the steps of a segment."""

    def finish(self) -> None:
        """Emit what comes after all segments."""


class SelectBody(_FilterBody):
    """Writes who is kept as bits, and how many of each segment."""

    def begin(self, place: str, number: str) -> None:
        """Begin to count at nothing."""
        self.code.add(f"store i64 0, ptr {place}, align 8")

    def step(self, place: str, selection: str, row: str, inside: str) -> None:
        """Ask the condition, and write and count who is kept."""
        code = self.code

        def flags() -> list[str]:
            emitter = self.emitter(1, row)
            assert self.lowered.keep is not None
            return [emitter.emit(node) for node in (self.lowered.keep, *self.lowered.null_drops)]

        keep, *drops = self.flags(flags, inside)
        kept = self.threads.ballot(keep)
        for counter, drop in enumerate(drops):
            self.count(counter, self.threads.ballot(drop))
        with self.threads.one_of():
            code.add(f"store i32 {kept}, ptr {selection}, align 4")
        self.advance(place, kept)

    def end(self, place: str, number: str) -> None:
        """Write how many of the segment are kept."""
        total = self.code.value(f"load i64, ptr {place}, align 8")
        with self.threads.one_of():
            self.code.add(f"store i64 {total}, ptr {number}, align 8")

    def finish(self) -> None:
        """Count those that were dropped for a null."""
        self.finish_counters(range(len(self.lowered.null_drops)))


class WriteBody(_FilterBody):
    """Writes the results of those that are kept, from the place that the sums give each segment."""

    def begin(self, place: str, number: str) -> None:
        """Begin where the sums say."""
        before = self.code.value(f"load i64, ptr {number}, align 8")
        self.code.add(f"store i64 {before}, ptr {place}, align 8")

    def step(self, place: str, selection: str, row: str, inside: str) -> None:
        """Write the records of a step that are kept."""
        code = self.code
        word = code.value(f"load i32, ptr {selection}, align 4")
        lane = self.threads.special("laneid")
        kept = code.value(f"trunc i32 {code.value(f'lshr i32 {word}, {lane}')} to i1")
        rank = self.threads.before_me(word)
        start = code.value(f"load i64, ptr {place}, align 8")
        mine = code.value(f"add i64 {start}, {code.value(f'zext i32 {rank} to i64')}")
        flags = iter(self.flags(lambda: self.write_record(row, mine), kept))
        for out in self.layout.outputs:
            if out.is_bits:
                self._append(out.slot, next(flags), rank, start)
            if out.has_validity:
                assert out.counter is not None
                valid = next(flags)
                self._append(out.slot + 1, valid, rank, start)
                self.count(out.counter, self.threads.ballot(valid))
        self.advance(place, word)

    def _append(self, slot: int, flag: str, rank: str, start: str) -> None:
        """Set the bits of the kept records of a step in a bitmap that was all zeros, from record ``start`` on."""
        code = self.code
        bit = code.value(f"shl i32 {code.value(f'zext i1 {flag} to i32')}, {rank}")
        packed = self.threads.or_of_all(bit)
        wide = code.value(f"zext i32 {packed} to i64")
        shift = code.value(f"and i64 {start}, 31")
        wide = code.value(f"shl i64 {wide}, {shift}")
        word = code.value(f"lshr i64 {start}, 5")
        address = code.value(f"getelementptr i32, ptr {self.reader.pointer(slot)}, i64 {word}")
        with self.threads.one_of():
            for position in range(2):
                part = wide if position == 0 else code.value(f"lshr i64 {wide}, 32")
                part = code.value(f"trunc i64 {part} to i32")
                some = code.value(f"icmp ne i32 {part}, 0")
                with only_if(code, some):
                    here = code.value(f"getelementptr i32, ptr {address}, i64 {position}")
                    code.value(f"atomicrmw or ptr {here}, i32 {part} monotonic, align 4")

    def finish(self) -> None:
        """Count the values of results that may be null."""
        self.finish_counters(range(len(self.lowered.null_drops), self.layout.counters))
