"""Puts a program together as LLVM text: the loops over a batch, what each group reads, computes and writes.

Two functions come out, ``dense`` for batches without nulls and ``nullable`` for the others, both
``i64 (ptr arguments)``: they return how many records they wrote. Rows are worked in vector groups, the last few
one by one; where strings are compared, in tiles whose string results stay in L1. Results for the entries of a
dictionary come from a table and need no tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from dataflare.kernels.cpu import store, text_groups
from dataflare.kernels.cpu.reading import PREFETCH_BYTES, Reader
from dataflare.kernels.llvm import strings
from dataflare.kernels.llvm.counting import counted_loop
from dataflare.kernels.llvm.emit import Code, Emitter, lane_type
from dataflare.kernels.llvm.layout import (
    ColumnForm,
    ColumnLayout,
    OutputLayout,
    ProgramLayout,
    layout_of,
    string_form,
    string_ops,
)
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.udf.ir import Node, StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, RecordProgram

__all__ = ["Generated", "generate", "group_lanes"]

TILE_ROWS = 1024
SELECTION_BLOCK_ROWS = 2048
"""Rows after which a filter looks again how many records it keeps."""
FEW_OF = 32
"""A filter that keeps less than one record in so many branches over groups without any."""
MOST_STREAMED_CALLS = 2
"""A program that calls more functions for a record is bound by arithmetic, wherever its results go."""
STREAMING_NAME = "streaming"


@dataclass(frozen=True)
class Generated:
    """The LLVM text of a program, the layouts of its variants, and the names of its string functions."""

    text: str
    dense: ProgramLayout
    nullable: ProgramLayout
    dictionary_functions: dict[StringOp, str]
    has_streaming: bool


def generate(program: RecordProgram, target: Target) -> Generated:
    """Return the LLVM module of a program for a target."""
    module = _Module(target)
    dense = layout_of(program, program.dense)
    nullable = layout_of(program, program.nullable)
    bodies = [_Function(module, program, program.dense, dense, "dense").build()]
    streaming = _streams(program, dense)
    if streaming:
        bodies.append(_Function(module, program, program.dense, dense, STREAMING_NAME).build())
    bodies.append(_Function(module, program, program.nullable, nullable, "nullable").build())
    dictionary_functions = module.dictionary_functions(nullable, dense)
    text = "\n\n".join(
        [
            f'target triple = "{target.triple}"',
            "\n".join(
                [
                    *module.globals,
                    *store.permutation_tables(),
                    "@all_ones = private constant i8 -1",
                    "@all_set = private constant i64 -1",
                ]
            ),
            "\n".join(sorted(module.declarations)),
            *module.functions,
            *bodies,
            "attributes #0 = { nounwind }\nattributes #1 = { nounwind willreturn }\n"
            "attributes #2 = { nounwind willreturn memory(none) }\n"
            "attributes #3 = { cold noinline nounwind willreturn memory(none) }\n!0 = !{i32 1}",
        ]
    )
    return Generated(text, dense, nullable, dictionary_functions, streaming)


def _streams(program: RecordProgram, layout: ProgramLayout) -> bool:
    """Return whether results past the caches are worth a variant of their own.

    A program that computes much waits for no memory, and its variants take long to compile.
    """
    calls = [
        node for node in nodes_of(node for _, node in program.dense.roots) if node.op in ("call", "loop")
    ]
    computes_much = len(calls) > MOST_STREAMED_CALLS or any(node.op == "loop" for node in calls)
    return (
        program.row_preserving and not computes_much and any(o.width_bytes in (4, 8) for o in layout.outputs)
    )


def group_lanes(lowered: Lowered, target: Target) -> int:
    """Return how many records the code works on at once.

    Twice as many as fill two registers where there is a loop or a call: the rounds of a loop depend on each other and
    functions are long chains, so two more registers fill the wait (one thread: W4 from 12.7 to 10.2 ns a row with
    AVX-512 and from 20.2 to 16.9 with AVX2, its part before the loop from 5.4 to 4.7 and from 7.9 to 6.9). A filter
    that computes little reads one cache line of each column at a time (W2 at 81, 49, 9 %, two threads with AVX-512:
    from 13.9, 12.8, 10.6 to 13.3, 11.7, 10.0 ms for 10 M rows).
    """
    if _has_calls(lowered):
        return 2 * target.lanes
    return min(target.lanes, 8) if _is_cheap_filter(lowered) else target.lanes


def _has_calls(lowered: Lowered) -> bool:
    """Return whether there are functions or loops to run for a record."""
    return any(node.op in ("call", "loop") for node in nodes_of(node for _, node in lowered.roots))


def _is_cheap_filter(lowered: Lowered) -> bool:
    """Whether a program moves records rather than compute."""
    return lowered.keep is not None and not _has_calls(lowered)


class _Module:
    """What the functions of one program share: string functions, constants, declarations."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.globals: list[str] = []
        self.functions: list[str] = []
        self.declarations: set[str] = set()
        self._names: dict[tuple[StringOp, tuple[ColumnForm | None, ...], bool], str] = {}

    def string_function(self, op: StringOp, forms: tuple[ColumnForm | None, ...], *, nullable: bool) -> str:
        """Return the name of the function for a string operation, adding it if it is new."""
        nullable = nullable and ColumnForm.VIEW in forms
        key = (op, forms, nullable)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"string{len(self._names)}"
            one = f"{name}_one" if text_groups.takes_groups(op, forms) else name
            made = [strings.string_function(one, op, forms, nullable=nullable)]
            self.globals += strings.string_globals(one, op)
            if one is not name:
                assert forms[0] is not None
                made.append(text_groups.grouped_function(name, one, op, forms[0]))
            for text, declarations in made:
                self.functions.append(text)
                self.declarations.update(declarations)
        return name

    def dictionary_functions(self, *layouts: ProgramLayout) -> dict[StringOp, str]:
        """Return the functions that fill the result tables of dictionary columns."""
        found = {}
        for layout in layouts:
            for column in layout.columns.values():
                for op in column.tables:
                    form = string_form(column.type.value_type)
                    forms = tuple(None if leaf.column is None else form for leaf in op.leaves)
                    found[op] = self.string_function(op, forms, nullable=False)
        return found


class _Function:
    """One variant of a program."""

    def __init__(
        self, module: _Module, program: RecordProgram, lowered: Lowered, layout: ProgramLayout, name: str
    ) -> None:
        self.module = module
        self.program = program
        self.lowered = lowered
        self.layout = layout
        self.name = name
        self.streaming = name == STREAMING_NAME
        self.target = module.target
        self.lanes = group_lanes(lowered, module.target)
        self.code = Code()
        self.tiled_ops = tuple(op for op in string_ops(lowered) if self._dictionary_column(op) is None)
        self.tiles: dict[StringOp, str] = {}
        self.reader = Reader(self.code, is_busy=lowered.keep is not None or _has_calls(lowered))
        self._skips = True
        self.written = self.code.variable("i64", "written")
        self.counters = [self.code.variable("i64", "counter") for _ in range(layout.counters)]

    # ----------------------------------------------------------------------------------------- the loops

    def build(self) -> str:
        """Return the text of the function."""
        code = self.code
        rows = self.reader.slot(0)
        lanes = self.lanes
        code.block = "start"
        margin = (
            lanes if self._reads_bits() else 0
        )  # bits are read in pairs of groups: stay inside the bitmap
        room = code.value(f"call i64 @llvm.usub.sat.i64(i64 {rows}, i64 {margin})")
        code.declare("declare i64 @llvm.usub.sat.i64(i64, i64)")
        vector_end = code.value(f"and i64 {room}, {-lanes}")
        if self.tiled_ops:
            self._tiled(rows, vector_end)
        else:
            if _is_cheap_filter(self.lowered):
                last = self._adaptive(vector_end)
            else:
                last = self._rows_loop("vector", lanes, "0", vector_end, "0")
            self._rows_loop("tail", 1, last, rows, "0")
        self._finish()
        body = "\n".join(code.lines)
        self.module.declarations.update(code.declarations)
        head = f"define i64 @{self.name}(ptr noalias %arguments) #0 {{\nentry:\n"
        return head + "\n".join(code.entry) + "\n  br label %start\nstart:\n" + body + "\n}"

    def _reads_bits(self) -> bool:
        return any(
            column.form is ColumnForm.BITS or self.name == "nullable"
            for column in self.layout.columns.values()
        )

    def _adaptive(self, vector_end: str) -> str:
        """Emit two loops over groups, and choose one for each block of rows by what was kept of the block before.

        For filters that compute little; where functions are called, a branch over dropped groups always pays. Here it
        saves columns that are not read, most of the memory traffic where few records are kept; where many are, it is
        mispredicted for nothing, and asking ahead for all columns is right. The first block is taken to keep few: a
        large batch comes in tiles, and reading all columns of the first block of each is the dearer mistake (a
        filter that keeps 0.1 % of 10 M rows: from 7.6 to 6.9 ms on one thread).
        """
        code = self.code
        code.declare("declare i64 @llvm.umin.i64(i64, i64)")
        before = code.block
        head, some, sparse, dense, done, after = (
            code.fresh_label(f"block_{s}") for s in ("head", "some", "sparse", "dense", "done", "end")
        )
        row, following, few, few_now = (code.name(s) for s in ("block_row", "block_row", "few", "few"))
        code.add(f"br label %{head}")
        code.label(head)
        phi = len(code.lines)
        inside = code.value(f"icmp ult i64 {row}, {vector_end}")
        code.add(f"br i1 {inside}, label %{some}, label %{after}")
        code.label(some)
        full = code.value(f"add i64 {row}, {SELECTION_BLOCK_ROWS}")
        end = code.value(f"call i64 @llvm.umin.i64(i64 {full}, i64 {vector_end})")
        written = code.value(f"load i64, ptr {self.written}, align 8")
        code.add(f"br i1 {few}, label %{sparse}, label %{dense}")
        for label, skips in ((sparse, True), (dense, False)):
            code.label(label)
            self._skips = skips
            self._rows_loop("vector", self.lanes, row, end, "0")
            code.add(f"br label %{done}")
        self._skips = True
        code.label(done)
        now = code.value(f"load i64, ptr {self.written}, align 8")
        kept = code.value(f"sub i64 {now}, {written}")
        scaled = code.value(f"mul i64 {kept}, {FEW_OF}")
        count = code.value(f"sub i64 {end}, {row}")
        code.add(f"{few_now} = icmp ult i64 {scaled}, {count}")
        code.add(f"{following} = add i64 {end}, 0")
        code.lines.insert(phi, f"  {few} = phi i1 [ true, %{before} ], [ {few_now}, %{code.block} ]")
        code.lines.insert(phi, f"  {row} = phi i64 [ 0, %{before} ], [ {following}, %{code.block} ]")
        code.add(f"br label %{head}")
        code.label(after)
        return row

    def _rows_loop(self, stem: str, lanes: int, first: str, end: str, tile: str) -> str:
        """Emit a loop over rows in groups of ``lanes``; return the row after the last group."""
        with counted_loop(self.code, stem, first, end, str(lanes)) as row:
            self._group(lanes, row, tile)
        return row

    def _tiled(self, rows: str, vector_end: str) -> None:
        """Emit a loop over tiles: the string operations of a tile first, then its groups."""
        code = self.code
        code.declare("declare i64 @llvm.umin.i64(i64, i64)")
        for op in self.tiled_ops:
            size = strings.result_bytes(op) * (TILE_ROWS + self.lanes)
            name = code.name("tile")
            code.entry.append(f"  {name} = alloca [{size} x i8], align 64")
            self.tiles[op] = name
        with counted_loop(code, "tile", "0", rows, str(TILE_ROWS)) as row:
            full = code.value(f"add i64 {row}, {TILE_ROWS}")
            end = code.value(f"call i64 @llvm.umin.i64(i64 {full}, i64 {rows})")
            count = code.value(f"sub i64 {end}, {row}")
            for op in self.tiled_ops:
                self._string_results(op, row, count)
            groups_end = code.value(f"call i64 @llvm.umin.i64(i64 {end}, i64 {vector_end})")
            last = self._rows_loop("vector", self.lanes, row, groups_end, row)
            self._rows_loop("tail", 1, last, end, row)

    def _string_results(self, op: StringOp, row: str, count: str) -> None:
        """Fill the tile of one string operation."""
        code = self.code
        columns = [
            self.layout.columns[leaf.column] if leaf.column is not None else None for leaf in op.leaves
        ]
        forms = tuple(None if c is None else c.form for c in columns)
        name = self.module.string_function(op, forms, nullable=self.name == "nullable")
        slots = []
        for column in (*columns, None)[:2]:
            slot = 0 if column is None else column.slot
            slots.append(code.value(f"getelementptr i64, ptr %arguments, i64 {slot}"))
        code.add(
            f"call void @{name}(ptr {slots[0]}, ptr {slots[1]}, i64 {row}, i64 {count}, ptr {self.tiles[op]})"
        )

    # ----------------------------------------------------------------------------------- what a group reads

    def _group(self, lanes: int, row: str, tile: str) -> None:
        def load(emitter: Emitter, node: Node) -> str:
            if node.op == "string_op":
                return self._string_result(emitter, node.attr, row, tile)
            column = self.layout.columns[node.attr]
            if node.op == "valid":
                return self.reader.bits(emitter, column.validity, row)
            if column.form is ColumnForm.BITS:
                return self.reader.bits(emitter, column.data, row)
            if pa.types.is_decimal128(column.type):
                return self.reader.decimal(emitter, column, row)
            return self.reader.fixed(emitter, column, lane_type(node.type), row)

        emitter = Emitter(self.code, self.target, lanes, load)
        if self.lowered.keep is None:
            self._write_all(emitter, row)
        else:
            self._write_kept(emitter, row)

    def _dictionary_column(self, op: StringOp) -> ColumnLayout | None:
        """Return the column whose entries an operation has been done for before the loop, None if it is not so."""
        column = next(self.layout.columns[leaf.column] for leaf in op.leaves if leaf.column is not None)
        return column if column.form is ColumnForm.DICTIONARY else None

    def _string_result(self, emitter: Emitter, op: StringOp, row: str, tile: str) -> str:
        code = self.code
        column = self._dictionary_column(op)
        if column is not None:
            table, bits = column.data + 1 + column.tables.index(op), strings.result_bits(op)
            return self.reader.looked_up(emitter, column, table, bits, row, nullable=self.name == "nullable")
        element = "i64" if strings.result_bytes(op) == 8 else "i8"
        index = code.value(f"sub i64 {row}, {tile}")
        address = code.value(f"getelementptr {element}, ptr {self.tiles[op]}, i64 {index}")
        value = code.value(f"load {emitter.type_of(element)}, ptr {address}, align 1")
        if element == "i64":
            return value
        return code.value(f"trunc {emitter.type_of('i8')} {value} to {emitter.type_of('i1')}")

    # --------------------------------------------------------------------------------- what a group writes

    def _count(self, counter: str, amount: str) -> None:
        code = self.code
        old = code.value(f"load i64, ptr {counter}, align 8")
        new = code.value(f"add i64 {old}, {amount}")
        code.add(f"store i64 {new}, ptr {counter}, align 8")

    def _write_all(self, emitter: Emitter, row: str) -> None:
        for out in self.layout.outputs:
            node = out.output.node
            assert node is not None
            value = emitter.emit(node)
            base = self.reader.pointer(out.slot)
            if out.is_bits:
                self._write_flags(emitter, value, base, row)
            elif out.width_bytes == 16:
                self._write_wide(emitter, value, base, row)
            else:
                streaming = self.streaming and emitter.lanes * out.width_bytes >= 32
                store.store_vector(emitter, value, lane_type(node.type), base, row, streaming=streaming)
            if out.output.valid is not None:
                assert out.counter is not None
                valid = emitter.emit(out.output.valid)
                if out.output.valid.is_const:
                    valid = self._materialise(emitter, valid)
                self._write_flags(emitter, valid, self.reader.pointer(out.slot + 1), row)
                self._count(self.counters[out.counter], store.popcount_flags(emitter, valid))

    def _materialise(self, emitter: Emitter, flags: str) -> str:
        """Return a constant group of flags as a register, for instructions that want one."""
        vector = emitter.type_of("i1")
        return self.code.value(f"or {vector} {flags}, {flags}")

    def _write_flags(self, emitter: Emitter, flags: str, base: str, row: str) -> None:
        if emitter.lanes > 1:
            store.store_bits(emitter, flags, base, row)
        else:
            store.append_bits(self.code, base, row, self.code.value(f"zext i1 {flags} to i64"), single=True)

    def _write_wide(self, emitter: Emitter, value: str, base: str, row: str) -> None:
        """Write decimals: 64-bit values, their sign extended to 128 bits."""
        code = self.code
        wide = code.value(f"sext {emitter.type_of('i64')} {value} to {emitter.type_of('i128')}")
        store.store_vector(emitter, wide, "i128", base, row, streaming=False)

    def _write_kept(self, emitter: Emitter, row: str) -> None:
        code = self.code
        assert self.lowered.keep is not None
        for number, node in enumerate(self.lowered.null_drops):
            flags = emitter.emit(node)
            if node.is_const:
                flags = self._materialise(emitter, flags)
            self._count(self.counters[number], store.popcount_flags(emitter, flags))
        flags = emitter.emit(self.lowered.keep)
        if self.lowered.keep.is_const:
            flags = self._materialise(emitter, flags)
        mask = store.mask_of(emitter, flags)
        if self.layout.selection is not None:
            self._write_flags(emitter, flags, self.reader.pointer(self.layout.selection), row)
        if not self._skips:
            self._write_kept_columns(emitter, mask, row)
            return
        work, skip = code.fresh_label("kept"), code.fresh_label("none")
        some = code.value(f"icmp ne i64 {mask.bits}, 0")
        code.add(f"br i1 {some}, label %{work}, label %{skip}")
        code.label(work)
        # One record kept says nothing about the groups to come, and asking for their lines costs bandwidth.
        several = code.value(f"icmp ugt i64 {mask.count}, 1")
        self.reader.ahead = code.value(f"select i1 {several}, i64 {PREFETCH_BYTES}, i64 0")
        self._write_kept_columns(emitter, mask, row)
        self.reader.ahead = str(PREFETCH_BYTES)
        code.add(f"br label %{skip}")
        code.label(skip)

    def _write_kept_columns(self, emitter: Emitter, mask: store.Mask, row: str) -> None:
        code = self.code
        position = code.value(f"load i64, ptr {self.written}, align 8")
        for out in self.layout.outputs:
            self._write_kept_column(emitter, out, mask, position, row)
        following = code.value(f"add i64 {position}, {mask.count}")
        code.add(f"store i64 {following}, ptr {self.written}, align 8")

    def _write_kept_column(
        self, emitter: Emitter, out: OutputLayout, mask: store.Mask, position: str, row: str
    ) -> None:
        code = self.code
        base = self.reader.pointer(out.slot)
        valid: str | None = None
        if out.output.carried is not None:
            column = self.layout.columns[out.output.carried]
            if out.is_bits:
                value = self.reader.bits(emitter, column.data, row)
            else:
                value = self.reader.fixed(emitter, column, f"i{out.width_bytes * 8}", row)
            if out.has_validity:
                valid = self.reader.bits(emitter, column.validity, row)
        else:
            node = out.output.node
            assert node is not None
            value = emitter.emit(node)
            element = lane_type(node.type)
            if node.is_const and out.is_bits:
                value = self._materialise(emitter, value)
            elif not out.is_bits and not element.startswith("i"):
                value = code.value(
                    f"bitcast {emitter.type_of(element)} {value} to {emitter.type_of(f'i{out.width_bytes * 8}')}"
                )
            elif out.width_bytes == 16:
                value = code.value(f"sext {emitter.type_of('i64')} {value} to {emitter.type_of('i128')}")
            if out.output.valid is not None:
                valid = emitter.emit(out.output.valid)
                if out.output.valid.is_const:
                    valid = self._materialise(emitter, valid)
        if out.is_bits:
            store.compact_bits(emitter, mask, value, base, position)
        else:
            store.compact(emitter, mask, value, f"i{out.width_bytes * 8}", base, position)
        if valid is not None:
            assert out.counter is not None
            count = store.compact_bits(emitter, mask, valid, self.reader.pointer(out.slot + 1), position)
            self._count(self.counters[out.counter], count)

    def _finish(self) -> None:
        code = self.code
        counters = self.reader.pointer(1)
        for number, counter in enumerate(self.counters):
            value = code.value(f"load i64, ptr {counter}, align 8")
            address = code.value(f"getelementptr i64, ptr {counters}, i64 {number}")
            code.add(f"store i64 {value}, ptr {address}, align 8")
        if self.lowered.keep is None:
            code.add(f"ret i64 {self.reader.slot(0)}")
        else:
            total = code.value(f"load i64, ptr {self.written}, align 8")
            code.add(f"ret i64 {total}")
