"""Puts a program together as CUDA kernels: one that maps, or two that filter, in LLVM text.

A program that keeps every record is one kernel. Where all values have whole bytes, each thread takes a group of
records that fills 16 bytes of the widest column; where bits are written, each warp takes 32 records at a time
and a vote of its threads is a word of the bitmap. A filter is two such kernels with a sum in between
(``primitives``): the first writes who is kept as bits and counts them for each segment of rows, the second writes
the results, in order, from the place that the sums give each segment (count, scan, scatter). No order depends on
timing, so no result does.

Does not cover launching and memory (``fused``), or strings among the results, which the host puts together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from dataflare.kernels.cuda import runtime
from dataflare.kernels.cuda.reading import VECTOR_BYTES, Reader
from dataflare.kernels.cuda.target import ARGUMENT_BYTES
from dataflare.kernels.cuda.threads import WARP_THREADS, Threads, only_if, popcount
from dataflare.kernels.errors import CompileError
from dataflare.kernels.llvm import strings
from dataflare.kernels.llvm.counting import counted_loop
from dataflare.kernels.llvm.emit import Code, Emitter, lane_type
from dataflare.kernels.llvm.layout import (
    ColumnForm,
    OutputLayout,
    ProgramLayout,
    fixed_width_bytes,
    layout_of,
)
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.udf.ir import Node, StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, RecordProgram

__all__ = ["SEGMENT_ROWS", "KernelText", "ProgramKernels", "kernel_of", "table_kernel"]

SEGMENT_ROWS = 512
"""Rows of a filter that one warp works on, and one number of the sums stands for."""

_MAX_GROUP = 8
_MAX_BUSY_GROUP = 2
"""The most records of a thread that computes much: more would not fit its registers."""

_ATTRIBUTES = (
    "attributes #0 = { nounwind }\nattributes #1 = { nounwind willreturn }\n"
    "attributes #2 = { nounwind willreturn memory(none) }\n"
    "attributes #3 = { cold noinline nounwind willreturn memory(none) }\nattributes #4 = { convergent nounwind }"
)


@dataclass(frozen=True)
class KernelText:
    """The LLVM text of one kernel, its name, and how many 64-bit slots its argument block has."""

    text: str
    entry: str
    slots: int


class ProgramKernels:
    """The kernels of one variant ("dense" or "nullable") of a program.

    The argument block is that of ``layout``; for a filter two slots follow, the address of the bits that say who is
    kept (`selection_slot`) and that of the sums, one i64 a segment (`segments_slot`).
    """

    def __init__(self, program: RecordProgram, lowered: Lowered, name: str, target: Target) -> None:
        self.layout: ProgramLayout = layout_of(program, lowered)
        self.lowered = lowered
        self.name = name
        self._target = target
        self.selection_slot = self.layout.slots
        self.segments_slot = self.layout.slots + 1
        self.slots = self.layout.slots + (0 if lowered.keep is None else 2)
        if 8 * self.slots > ARGUMENT_BYTES:
            raise CompileError(
                f"a kernel takes {ARGUMENT_BYTES // 8:,} numbers and addresses, and this program has {self.slots:,}: "
                "select() fewer columns before it, or use device='cpu'."
            )
        self.writes_bits = any(out.is_bits or out.has_validity for out in self.layout.outputs)

    @property
    def group_rows(self) -> int:
        """Records that a thread of the mapping kernel works on at once."""
        if self.writes_bits or self.lowered.keep is not None:
            return 1
        widths = [out.width_bytes for out in self.layout.outputs]
        for column in self.layout.columns.values():
            if column.form is ColumnForm.FIXED:
                widths.append(fixed_width_bytes(column.type) or 1)
        nodes = list(nodes_of(node for _, node in self.lowered.roots))
        if any(node.op == "string_op" for node in nodes):
            return 1
        is_busy = any(node.op in ("call", "loop", "rem") for node in nodes)
        most = _MAX_BUSY_GROUP if is_busy else _MAX_GROUP
        return max(1, min(most, VECTOR_BYTES // max(widths, default=VECTOR_BYTES)))

    def map(self, *, aligned: bool) -> KernelText:
        """Return the kernel of a program that keeps every record."""
        return self._kernel(self.name, self.slots, _Map(self, aligned=aligned))

    def select(self) -> KernelText:
        """Return the kernel that finds which records a filter keeps."""
        return self._kernel(f"{self.name}_select", self.slots, _Select(self))

    def write(self) -> KernelText:
        """Return the kernel that writes the results of a filter."""
        return self._kernel(f"{self.name}_write", self.slots, _Write(self))

    def _kernel(self, entry: str, slots: int, body: _Body) -> KernelText:
        return KernelText(body.module(entry, slots), entry, slots)

    @property
    def target(self) -> Target:
        """The GPU that code is made for."""
        return self._target


def kernel_of(code: Code, entry: str, slots: int, target: Target) -> KernelText:
    """Return the kernel whose body is ``code``, begun in block "start"."""
    return KernelText(_module(code, _StringFunctions(), entry, slots, target), entry, slots)


def table_kernel(op: StringOp, form: ColumnForm, target: Target) -> KernelText:
    """Return the kernel that computes a string operation for each value of a dictionary.

    Its slots: rows, the four slots of the column, the address of the results.
    """
    forms = tuple(None if leaf.column is None else form for leaf in op.leaves)
    code = Code()
    code.block = "start"
    reader, threads = Reader(code, aligned=False), Threads(code)
    functions = _StringFunctions()
    name = functions.name(op, forms, nullable=False)
    rows, out = reader.slot(0), reader.pointer(5)
    slots = code.value("getelementptr i64, ptr %arguments, i64 1")
    with counted_loop(code, "row", threads.index(), rows, threads.count()) as row:
        here = code.value(f"getelementptr [{strings.result_bytes(op)} x i8], ptr {out}, i64 {row}")
        code.add(f"call void @{name}(ptr {slots}, ptr {slots}, i64 {row}, i64 1, ptr {here})")
    return KernelText(_module(code, functions, "table", 6, target), "table", 6)


# ------------------------------------------------------------------------------------------------ the bodies of kernels


class _StringFunctions:
    """The functions for operations on strings that one module needs."""

    def __init__(self) -> None:
        self._names: dict[tuple[StringOp, tuple[ColumnForm | None, ...], bool], str] = {}
        self.globals: list[str] = []
        self.texts: list[str] = []
        self.declarations: set[str] = set()

    def name(self, op: StringOp, forms: tuple[ColumnForm | None, ...], *, nullable: bool) -> str:
        """Return the name of the function for an operation on columns of these forms."""
        key = (op, forms, nullable and ColumnForm.VIEW in forms)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"string{len(self._names)}"
            text, declarations = strings.string_function(
                name, op, forms, nullable=key[2], all_ones=Reader.all_ones, aligned=True
            )
            self.texts.append(_private(text))
            self.globals += strings.string_globals(name, op)
            self.declarations.update(declarations)
        return name


def _private(function: str) -> str:
    """Return a function as one that a kernel takes in."""
    function = function.replace("define void", "define internal void", 1)
    return function.replace("#0 {", "alwaysinline nounwind {", 1)


def _module(code: Code, functions: _StringFunctions, entry: str, slots: int, target: Target) -> str:
    """Return the module with one kernel."""
    declarations = set(code.declarations) | functions.declarations
    provided = runtime.functions_for(declarations)
    head = f"define ptx_kernel void @{entry}(ptr byval([{slots} x i64]) align 8 %arguments) #0 {{\nentry:\n"
    body = (
        head
        + "\n".join(code.entry)
        + "\n  br label %start\nstart:\n"
        + "\n".join(code.lines)
        + "\n  ret void\n}"
    )
    return "\n\n".join(
        [
            f'target triple = "{target.triple}"',
            "\n".join(["@all_ones = internal addrspace(1) constant i8 -1", *functions.globals]),
            "\n".join(sorted(runtime.undefined(declarations))),
            *provided,
            *functions.texts,
            body,
            _ATTRIBUTES,
        ]
    )


class _Body:
    """What the kernels of a program have in common: reading a group, and the code under construction."""

    def __init__(self, kernels: ProgramKernels, *, aligned: bool = False) -> None:
        self.kernels = kernels
        self.layout = kernels.layout
        self.lowered = kernels.lowered
        self.code = Code()
        self.code.block = "start"
        self.reader = Reader(self.code, aligned=aligned)
        self.threads = Threads(self.code)
        self.functions = _StringFunctions()
        self.counters = [self.code.variable("i64", "counter") for _ in range(self.layout.counters)]

    def module(self, entry: str, slots: int) -> str:
        """Return the module of this kernel."""
        self.emit()
        return _module(self.code, self.functions, entry, slots, self.kernels.target)

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


class _Map(_Body):
    """Every record gives one: by groups of a thread, or by warps where bits are written."""

    def emit(self) -> None:
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


class _Filter(_Body):
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


class _Select(_Filter):
    def begin(self, place: str, number: str) -> None:
        self.code.add(f"store i64 0, ptr {place}, align 8")

    def step(self, place: str, selection: str, row: str, inside: str) -> None:
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
        total = self.code.value(f"load i64, ptr {place}, align 8")
        with self.threads.one_of():
            self.code.add(f"store i64 {total}, ptr {number}, align 8")

    def finish(self) -> None:
        self.finish_counters(range(len(self.lowered.null_drops)))


class _Write(_Filter):
    def begin(self, place: str, number: str) -> None:
        before = self.code.value(f"load i64, ptr {number}, align 8")
        self.code.add(f"store i64 {before}, ptr {place}, align 8")

    def step(self, place: str, selection: str, row: str, inside: str) -> None:
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
        self.finish_counters(range(len(self.lowered.null_drops), self.layout.counters))
