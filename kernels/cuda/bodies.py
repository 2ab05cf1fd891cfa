"""The bodies of kernels that run a program: reading a group of records, writing its results, and the map.

Does not cover filters: their two bodies are in ``filtering``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from dataflare.kernels.cuda.kernel_text import StringFunctions, module_of
from dataflare.kernels.cuda.reading import Reader
from dataflare.kernels.cuda.threads import WARP_THREADS, Threads, only_if, popcount
from dataflare.kernels.llvm import strings
from dataflare.kernels.llvm.counting import counted_loop
from dataflare.kernels.llvm.emit import Code, Emitter, lane_type
from dataflare.kernels.llvm.layout import ColumnForm, OutputLayout
from dataflare.kernels.udf.ir import Node, StringOp

if TYPE_CHECKING:
    from dataflare.kernels.cuda.codegen import ProgramKernels

__all__ = ["Body", "MapBody"]


class Body:
    """What the kernels of a program have in common: reading a group, and the code under construction."""

    def __init__(self, kernels: ProgramKernels, *, aligned: bool = False) -> None:
        self.kernels = kernels
        self.layout = kernels.layout
        self.lowered = kernels.lowered
        self.code = Code()
        self.code.block = "start"
        self.reader = Reader(self.code, aligned=aligned)
        self.threads = Threads(self.code)
        self.functions = StringFunctions()
        self.counters = [self.code.variable("i64", "counter") for _ in range(self.layout.counters)]

    def module(self, entry: str, slots: int) -> str:
        """Return the module of this kernel."""
        self.emit()
        return module_of(self.code, self.functions, entry, slots, self.kernels.target)

    def emit(self) -> None:
        """Emit the body."""
        raise NotImplementedError

    def emitter(self, lanes: int, row: str) -> Emitter:
        """Return an emitter for the records from ``row`` on."""

        def load(emitter: Emitter, node: Node) -> str:
            if node.op == "string_op":
                return self._string(node.attr, row)
            column = self.layout.columns[node.attr]
            if node.op == "valid":
                return self._bits(emitter, column.validity, row)
            if column.form is ColumnForm.BITS:
                return self._bits(emitter, column.data, row)
            if pa.types.is_decimal128(column.type):
                return self.reader.decimal(emitter, column, row)
            return self.reader.fixed(emitter, column, lane_type(node.type), row)

        return Emitter(self.code, self.kernels.target, lanes, load)

    def _bits(self, emitter: Emitter, slot: int, row: str) -> str:
        """Read a group of bits; groups of more than one are a power of two, and in one or two bytes."""
        if emitter.lanes == 1:
            return self.reader.bit(slot, row)
        code, vector = self.code, emitter.type_of("i1")
        result = "poison"
        for lane in range(emitter.lanes):
            here = code.value(f"add i64 {row}, {lane}")
            result = code.value(
                f"insertelement {vector} {result}, i1 {self.reader.bit(slot, here)}, i64 {lane}"
            )
        return result

    def _string(self, op: StringOp, row: str) -> str:
        """Return the result of a string operation for one record."""
        code = self.code
        columns = [None if x.column is None else self.layout.columns[x.column] for x in op.leaves]
        only = next(c for c in columns if c is not None)
        width = "i64" if strings.result_bytes(op) == 8 else "i8"
        if only.form is ColumnForm.DICTIONARY:
            index_type = f"i{only.type.index_type.bit_width}"
            address = code.value(
                f"getelementptr {index_type}, ptr {self.reader.pointer(only.data)}, i64 {row}"
            )
            entry = code.value(
                f"load {index_type}, ptr {address}, align {only.type.index_type.bit_width // 8}"
            )
            if index_type != "i64":
                extend = "zext" if pa.types.is_unsigned_integer(only.type.index_type) else "sext"
                entry = code.value(f"{extend} {index_type} {entry} to i64")
            if self.kernels.name == "nullable":  # an index under a null may be anything
                entry = code.value(f"select i1 {self.reader.bit(only.validity, row)}, i64 {entry}, i64 0")
            table = self.reader.pointer(only.data + 1 + only.tables.index(op))
            result = code.value(f"getelementptr {width}, ptr {table}, i64 {entry}")
        else:
            forms = tuple(None if c is None else c.form for c in columns)
            name = self.functions.name(op, forms, nullable=self.kernels.name == "nullable")
            slots = [
                code.value(f"getelementptr i64, ptr %arguments, i64 {0 if c is None else c.slot}")
                for c in (*columns, None)[:2]
            ]
            result = code.name("result")
            code.entry.append(f"  {result} = alloca {width}, align 8")
            code.add(f"call void @{name}(ptr {slots[0]}, ptr {slots[1]}, i64 {row}, i64 1, ptr {result})")
        value = code.value(f"load {width}, ptr {result}, align {strings.result_bytes(op)}")
        return value if width == "i64" else code.value(f"trunc i8 {value} to i1")

    # ------------------------------------------------------------------------- what is written

    def value(self, emitter: Emitter, out: OutputLayout, row: str) -> tuple[str, str]:
        """Return a result as it is stored, and its element type."""
        code = self.code
        element = f"i{out.width_bytes * 8}"
        if out.output.carried is not None:
            column = self.layout.columns[out.output.carried]
            if out.is_bits:
                return self._bits(emitter, column.data, row), "i1"
            return self.reader.fixed(emitter, column, element, row), element
        node = out.output.node
        assert node is not None
        value = emitter.emit(node)
        if out.is_bits:
            return value, "i1"
        if out.width_bytes == 16:
            wide = f"sext {emitter.type_of('i64')} {value} to {emitter.type_of('i128')}"
            return code.value(wide), "i128"
        return value, lane_type(node.type)

    def valid(self, emitter: Emitter, out: OutputLayout, row: str) -> str:
        """Return whether a nullable result has a value."""
        if out.output.carried is not None:
            return self.reader.bit(self.layout.columns[out.output.carried].validity, row)
        assert out.output.valid is not None
        return emitter.emit(out.output.valid)

    def store(self, emitter: Emitter, out: OutputLayout, value: str, element: str, place: str) -> None:
        """Store a group of whole values from record ``place`` of the result on."""
        address = self.code.value(
            f"getelementptr {element}, ptr {self.reader.pointer(out.slot)}, i64 {place}"
        )
        align = self.reader.alignment(emitter.lanes, out.width_bytes)
        self.code.add(f"store {emitter.type_of(element)} {value}, ptr {address}, align {align}")

    def write_record(self, row: str, place: str) -> list[str]:
        """Write the whole values of a record at ``place``; return its bits."""
        emitter = self.emitter(1, row)
        found = []
        for out in self.layout.outputs:
            value, element = self.value(emitter, out, row)
            if out.is_bits:
                found.append(value)
            else:
                self.store(emitter, out, value, element, place)
            if out.has_validity:
                found.append(self.valid(emitter, out, row))
        return found

    def flags(self, emit: Callable[[], list[str]], inside: str) -> list[str]:
        """Run what ``emit`` emits where ``inside`` is set; return the flags it gives, false elsewhere."""
        code = self.code
        before = code.block
        with only_if(code, inside):
            found = emit()
            last = code.block
        return [code.value(f"phi i1 [ false, %{before} ], [ {flag}, %{last} ]") for flag in found]

    def count(self, counter: int, word: str) -> None:
        """Add the bits of a word (i32) to a counter of this warp."""
        code, name = self.code, self.counters[counter]
        number = code.value(f"zext i32 {popcount(code, word)} to i64")
        old = code.value(f"load i64, ptr {name}, align 8")
        code.add(f"store i64 {code.value(f'add i64 {old}, {number}')}, ptr {name}, align 8")

    def finish_counters(self, counters: range) -> None:
        """Add the counters of this warp to those of the run; sums of integers are the same in any order."""
        if not counters:
            return
        code, base = self.code, self.reader.pointer(1)
        with self.threads.one_of():
            for number in counters:
                value = code.value(f"load i64, ptr {self.counters[number]}, align 8")
                address = code.value(f"getelementptr i64, ptr {base}, i64 {number}")
                code.value(f"atomicrmw add ptr {address}, i64 {value} monotonic, align 8")

    def warps(self) -> tuple[str, str]:
        """Return the number of this warp in the grid and how many there are."""
        code = self.code
        number = code.value(f"lshr i64 {self.threads.index()}, 5")
        return number, code.value(f"lshr i64 {self.threads.count()}, 5")


class MapBody(Body):
    """Every record gives one: by groups of a thread, or by warps where bits are written."""

    def emit(self) -> None:
        """Emit the body."""
        if self.kernels.writes_bits:
            self._by_warps()
        else:
            self._by_groups(self.kernels.group_rows)

    def _by_groups(self, lanes: int) -> None:
        code, threads = self.code, self.threads
        rows = self.reader.slot(0)
        thread, count = threads.index(), threads.count()
        first, step = code.value(f"mul i64 {thread}, {lanes}"), code.value(f"mul i64 {count}, {lanes}")
        whole = code.value(f"and i64 {rows}, {-lanes}")
        with counted_loop(code, "group", first, whole, step) as row:
            self._group(lanes, row)
        if lanes > 1:
            rest = code.value(f"add i64 {whole}, {thread}")
            with counted_loop(code, "rest", rest, rows, count) as row:
                self._group(1, row)

    def _group(self, lanes: int, row: str) -> None:
        emitter = self.emitter(lanes, row)
        values = [self.value(emitter, out, row) for out in self.layout.outputs]
        for out, (value, element) in zip(self.layout.outputs, values, strict=True):
            self.store(emitter, out, value, element, row)

    def _by_warps(self) -> None:
        code = self.code
        rows = self.reader.slot(0)
        words = code.value(f"lshr i64 {code.value(f'add i64 {rows}, {WARP_THREADS - 1}')}, 5")
        warp, warps = self.warps()
        with counted_loop(code, "word", warp, words, warps) as word:
            start = code.value(f"mul i64 {word}, {WARP_THREADS}")
            row = code.value(f"add i64 {start}, {self.threads.lane()}")
            inside = code.value(f"icmp ult i64 {row}, {rows}")
            flags = iter(self.flags(lambda: self.write_record(row, row), inside))
            for out in self.layout.outputs:
                if out.is_bits:
                    self._store_word(out.slot, word, self.threads.ballot(next(flags)))
                if out.has_validity:
                    assert out.counter is not None
                    valid = self.threads.ballot(next(flags))
                    self._store_word(out.slot + 1, word, valid)
                    self.count(out.counter, valid)
        self.finish_counters(range(self.layout.counters))

    def _store_word(self, slot: int, word: str, bits: str) -> None:
        with self.threads.one_of():
            address = self.code.value(f"getelementptr i32, ptr {self.reader.pointer(slot)}, i64 {word}")
            self.code.add(f"store i32 {bits}, ptr {address}, align 4")
