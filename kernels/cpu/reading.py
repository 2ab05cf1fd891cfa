"""How generated code reads the columns of a batch: values, bits, and what it asks for ahead of time.

``Reader`` belongs to one function: it reads a group of records or a single one from the columns that the slots of its
argument block point to; of a dictionary column what a table of results holds for its entries. Strings are read in
``strings``.
"""

from __future__ import annotations

import pyarrow as pa

from dataflare.kernels.llvm.arguments import Arguments
from dataflare.kernels.llvm.emit import Code, Emitter
from dataflare.kernels.llvm.layout import ColumnLayout, fixed_width_bytes

__all__ = ["PREFETCH_BYTES", "Reader"]

PREFETCH_BYTES = 2048
"""How far ahead of a group columns are asked for; on Xeon Scalable (AVX-512), 10 M rows, 2 threads: W2 at 81 % without
and at 1, 2, 3, 4 KiB: 16.6, 14.3, 15.1, 14.7, 15.3 ms; W3: 18.7, 14.7, 14.4, 13.6, 14.4 ms. One thread, 4 M rows: the
fare of W4 without and at 2 KiB: 5.9, 5.3 ns a row."""
_LINE_BYTES = 64


class Reader(Arguments):
    """Reads columns in one function of generated code.

    ``is_busy`` says that there is enough work between two reads to ask ahead for columns; ``ahead`` is how far, in
    bytes, as an LLVM value.
    """

    def __init__(self, code: Code, *, is_busy: bool) -> None:
        super().__init__(code)
        self.ahead = str(PREFETCH_BYTES)
        self._is_busy = is_busy

    def fixed(self, emitter: Emitter, column: ColumnLayout, element: str, row: str) -> str:
        """Read a group of values of one width, as ``element``."""
        code = self.code
        address = code.value(f"getelementptr {element}, ptr {self.pointer(column.data)}, i64 {row}")
        self._prefetch(address, emitter.lanes * (fixed_width_bytes(column.type) or 0))
        return code.value(f"load {emitter.type_of(element)}, ptr {address}, align 1")

    def _prefetch(self, address: str, group_bytes: int) -> None:
        """Ask for what comes later, where the work between two reads leaves a CPU too little room to run ahead."""
        if not self._is_busy or group_bytes < _LINE_BYTES // 2:
            return
        code = self.code
        code.declare("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        later = code.value(f"getelementptr i8, ptr {address}, i64 {self.ahead}")
        for line in range(0, group_bytes, _LINE_BYTES):
            here = code.value(f"getelementptr i8, ptr {later}, i64 {line}")
            code.add(f"call void @llvm.prefetch.p0(ptr {here}, i32 0, i32 3, i32 1)")

    def decimal(self, emitter: Emitter, column: ColumnLayout, row: str) -> str:
        """Read the low halves of 128-bit decimals, which hold all of 18 digits."""
        code, lanes = self.code, emitter.lanes
        address = code.value(f"getelementptr i128, ptr {self.pointer(column.data)}, i64 {row}")
        if lanes == 1:
            return code.value(f"load i64, ptr {address}, align 1")
        self._prefetch(address, 16 * lanes)
        pairs = code.value(f"load <{2 * lanes} x i64>, ptr {address}, align 1")
        even = ", ".join(f"i32 {2 * lane}" for lane in range(lanes))
        return code.value(
            f"shufflevector <{2 * lanes} x i64> {pairs}, <{2 * lanes} x i64> poison, <{lanes} x i32> <{even}>"
        )

    def bits(self, emitter: Emitter, slot: int, row: str) -> str:
        """Read a group of bits from the bitmap at ``slot``, which may begin inside a byte; absent: all ones."""
        if emitter.lanes == 1:
            return self.bit(slot, row)
        code, lanes = self.code, emitter.lanes
        byte = code.value(f"lshr i64 {row}, 3")
        present = code.value(f"icmp ne i64 {self.slot(slot)}, 0")
        address = code.value(f"getelementptr i8, ptr {self.pointer(slot)}, i64 {byte}")
        address = code.value(f"select i1 {present}, ptr {address}, ptr @all_set")
        wide = code.value(f"load i{2 * lanes}, ptr {address}, align 1")
        shift = self.slot(slot + 1)
        if 2 * lanes < 64:
            shift = code.value(f"trunc i64 {shift} to i{2 * lanes}")
        wide = code.value(f"lshr i{2 * lanes} {wide}, {shift}")
        narrow = code.value(f"trunc i{2 * lanes} {wide} to i{lanes}")
        return code.value(f"bitcast i{lanes} {narrow} to <{lanes} x i1>")

    def looked_up(
        self, emitter: Emitter, column: ColumnLayout, table: int, bits: int, row: str, *, nullable: bool
    ) -> str:
        """Return what the table at slot ``table`` holds for the dictionary entries of a group of records.

        ``bits`` is 1 for a table of flags, 32 to a word, so that those of a thousand entries are two cache lines, and
        64 for one of integers. An index under a null may be anything and is taken as 0. (Two threads, 10 M rows, a
        `startswith` on 1,000 entries that keeps a tenth: 6.9 ms, where results were put in tiles one by one 11.3 ms.)
        """
        code = self.code
        index = column.type.index_type
        element = f"i{index.bit_width}"
        entries = self.fixed(emitter, column, element, row)
        # Places in an array are signed: an entry of 32 unsigned bits may not be one, the number of its word is.
        is_place = bits == 1 or pa.types.is_signed_integer(index)
        wide = "i32" if index.bit_width < 32 or (index.bit_width == 32 and is_place) else "i64"
        kind = emitter.type_of(wide)
        if element != wide:  # indices are never negative
            entries = code.value(f"zext {emitter.type_of(element)} {entries} to {kind}")
        if nullable:
            valid = self.bits(emitter, column.validity, row)
            flags = emitter.type_of("i1")
            entries = code.value(
                f"select {flags} {valid}, {kind} {entries}, {kind} {emitter.splat(wide, '0')}"
            )
        if bits == 64:
            return self._gathered(emitter, table, "i64", wide, entries)
        places = code.value(f"lshr {kind} {entries}, {emitter.splat(wide, '5')}")
        words, word = self._gathered(emitter, table, "i32", wide, places), emitter.type_of("i32")
        if wide != "i32":
            entries = code.value(f"trunc {kind} {entries} to {word}")
        shift = code.value(f"and {word} {entries}, {emitter.splat('i32', '31')}")
        words = code.value(f"lshr {word} {words}, {shift}")
        return code.value(f"trunc {word} {words} to {emitter.type_of('i1')}")

    def _gathered(self, emitter: Emitter, slot: int, element: str, index: str, places: str) -> str:
        """Return the elements at ``places`` of the array at ``slot``; CPUs without gathers load them one by one."""
        code, lanes, vector = self.code, emitter.lanes, emitter.type_of(element)
        pointers = emitter.type_of("ptr")
        addresses = code.value(
            f"getelementptr {element}, ptr {self.pointer(slot)}, {emitter.type_of(index)} {places}"
        )
        alignment = int(element[1:]) // 8
        if lanes == 1:
            return code.value(f"load {element}, ptr {addresses}, align {alignment}")
        gather = f"@llvm.masked.gather.v{lanes}{element}.v{lanes}p0"
        code.declare(f"declare {vector} {gather}({pointers}, i32, <{lanes} x i1>, {vector})")
        return code.value(
            f"call {vector} {gather}({pointers} {addresses}, i32 {alignment}, <{lanes} x i1> splat (i1 true), "
            f"{vector} poison)"
        )
