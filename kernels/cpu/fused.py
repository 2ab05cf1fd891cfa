"""Runs a compiled program over the columns of a batch: fills the argument block, calls the code, wraps results.

The path taken for every batch is written for calls of a few microseconds: everything that follows from types
alone is decided when the program is compiled.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from dataflare.kernels.backend import InputBlock, ProgramResult
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.codegen import STREAMING_NAME, Generated, generate
from dataflare.kernels.cpu.objects import load_or_compile
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.cpu.tiles import STREAMING_MIN_BYTES, TiledRun, can_tile
from dataflare.kernels.errors import CompileError, SchemaError
from dataflare.kernels.llvm.layout import (
    ColumnForm,
    ColumnLayout,
    ProgramLayout,
    fixed_width_bytes,
)
from dataflare.kernels.llvm.results import ResultColumns, Selection, Written
from dataflare.kernels.llvm.strings import result_bits, result_bytes
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.dictionaries import DictionaryCache, Entries, nulls_in_indices
from dataflare.kernels.memory.pool import HostBlock, default_pool
from dataflare.kernels.udf.ir import StringOp
from dataflare.kernels.udf.program import Lowered, RecordProgram

__all__ = ["CpuProgram", "compile_cpu"]

SMALL_ROWS = 16_384
"""Up to this many records the results share one block of memory."""

Filler = Callable[[HostColumn, list[int], list[object]], None]


def compile_cpu(program: RecordProgram, *, exact_math: bool = False) -> CpuProgram:
    """Compile a program for this machine, or load it from the cache; ``exact_math`` leaves out vector math.

    Raises
    ------
    CompileError
        If a function does something besides giving a value, such as printing.
    """
    if program.effects:
        raise CompileError(program.effects[0])
    start = time.perf_counter()
    target = host_target().exact_math if exact_math else host_target()
    generated = generate(program, target)
    loaded, source = load_or_compile(generated.text, target)
    return CpuProgram(program, generated, target, loaded, source, time.perf_counter() - start)


class CpuProgram:
    """A program as machine code. Thread-safe: it keeps no state between batches but its dictionary tables."""

    device = "cpu"

    def __init__(
        self,
        program: RecordProgram,
        generated: Generated,
        target: Target,
        loaded: jit.LoadedObject,
        source: str,
        compile_s: float,
    ) -> None:
        self.program = program
        self.cache = source
        self.compile_s = compile_s
        self._generated = generated
        self._target = target
        self._loaded = loaded
        self._dense = _Variant(self, program.dense, generated.dense, "dense")
        self._nullable = _Variant(self, program.nullable, generated.nullable, "nullable")
        self._streaming = (
            _Variant(self, program.dense, generated.dense, STREAMING_NAME)
            if generated.has_streaming
            else self._dense
        )
        self._dictionaries = program.read_dictionaries
        self._may_be_null = tuple(program.input_schema.field(number).nullable for number in program.columns)
        widths = [out.width_bytes for out in generated.dense.outputs]
        self._row_bytes = sum(widths)
        self._exchanged: DictionaryCache[Entries] = DictionaryCache()
        self._dictionary_results: DictionaryCache[HostBlock] = DictionaryCache()

    def source(self) -> str:
        """Return the generated LLVM code."""
        return self._generated.text

    def assembly(self) -> str:
        """Return the machine code as assembly."""
        return jit.assembly(self._generated.text, self._target)

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch; ``columns`` in the order of ``program.required_columns``.

        Raises
        ------
        SchemaError
            If a column that the schema declares without nulls has some.
        """
        if self._dictionaries:
            columns = nulls_in_indices(columns, self._dictionaries, self._exchanged)
        return self._variant(columns, num_rows).run(columns, num_rows)

    def _variant(self, columns: Sequence[HostColumn], num_rows: int) -> _Variant:
        for column in columns:
            if column.null_count:
                self._require_declared(columns)
                return self._nullable
        return self._streaming if self._row_bytes * num_rows >= STREAMING_MIN_BYTES else self._dense

    def _require_declared(self, columns: Sequence[HostColumn]) -> None:
        for name, column, may in zip(self.program.required_columns, columns, self._may_be_null, strict=True):
            if column.null_count and not may:
                raise SchemaError(
                    f"column {name!r} is declared without nulls and has {column.null_count} here; declare the field "
                    "nullable."
                )

    # ------------------------------------------------------------------------- one result for many batches

    def share(self, blocks: Sequence[InputBlock]) -> TiledRun | None:
        """Return a run over ``blocks`` that several threads share, with one result; None where that cannot be.

        Raises
        ------
        SchemaError
            If a column that the schema declares without nulls has some.
        """
        if self._dictionaries:
            blocks = [
                InputBlock(
                    tuple(nulls_in_indices(block.columns, self._dictionaries, self._exchanged)),
                    block.num_rows,
                )
                for block in blocks
            ]
        nullable = any(column.null_count for block in blocks for column in block.columns)
        if nullable:
            for block in blocks:
                self._require_declared(block.columns)
            variant = self._nullable
        else:
            rows = sum(block.num_rows for block in blocks)
            streams = self._row_bytes * rows >= STREAMING_MIN_BYTES and _aligned(blocks)
            variant = self._streaming if streams else self._dense
        return variant.share(blocks)

    # --------------------------------------------------------------------------------- dictionary columns

    def dictionary_function(self, op: StringOp) -> str:
        """Return the name of the function that computes a string operation for the values of a dictionary."""
        return self._generated.dictionary_functions[op]

    def dictionary_table(self, name: str, op: StringOp, dictionary: HostColumn) -> HostBlock:
        """Return the results of a string operation for each distinct value, computed once per dictionary.

        ``name`` is that of its function, by which it is known: some operations take microseconds to be hashed.
        """
        known = self._dictionary_results.find(name, dictionary)
        if known is not None:
            return known
        rows = dictionary.length
        block = default_pool().acquire(max(1, rows) * result_bytes(op))
        ctypes.memset(block.address, 0, max(1, rows) * result_bytes(op))  # entry 0 is read under nulls
        slots: list[int] = []
        keep: list[object] = []
        _string_slots(dictionary, slots, keep)
        arguments = struct.pack(f"<{len(slots)}q", *map(_signed, slots))
        buffer = ctypes.create_string_buffer(arguments, len(arguments))
        address = ctypes.addressof(buffer)
        function = self._loaded.function(name, jit.STRING_KERNEL)
        function(address, address, 0, rows, block.address)
        if result_bits(op) == 1:
            block = _packed(block, max(1, rows))
        self._dictionary_results.keep(name, dictionary, block)
        return block


def _packed(flags: HostBlock, count: int) -> HostBlock:
    """Return a flag a byte as bits, in whole words of 32."""
    source = pa.foreign_buffer(flags.address, count, base=flags)
    bits = pa.Array.from_buffers(pa.uint8(), count, [None, source]).cast(pa.bool_()).buffers()[1]
    assert bits is not None
    block = default_pool().acquire(-(-count // 32) * 4)
    ctypes.memmove(block.address, bits.address, (count + 7) // 8)
    return block


class _Variant:
    """One generated function and how its argument block is filled."""

    def __init__(self, owner: CpuProgram, lowered: Lowered, layout: ProgramLayout, name: str) -> None:
        self._owner = owner
        self._lowered = lowered
        self._layout = layout
        self._call = owner._loaded.function(name, jit.KERNEL)
        self._address = owner._loaded.address(name)
        self._pack = struct.Struct(f"<{layout.slots}q").pack
        self._counters = layout.counters
        self._read_counters = struct.Struct(f"<{max(1, layout.counters)}q")
        self._drops = len(lowered.null_drops)
        self._fillers = tuple(_filler(owner, layout.columns[number]) for number in owner.program.columns)
        self._positions = {number: i for i, number in enumerate(owner.program.columns)}
        self._plain_widths = _plain_widths(owner.program, layout) if name != "nullable" else None
        self._plain_outputs = _plain_outputs(lowered, layout)
        self._output_bytes = sum(out.width_bytes for out in layout.outputs)
        self._widths = tuple((out.width_bytes, out.has_validity) for out in layout.outputs)
        self._results = ResultColumns(lowered, layout, self._positions)

    def _arguments(
        self, columns: Sequence[HostColumn], num_rows: int, keep: list[object]
    ) -> tuple[list[int], int]:
        """Return the argument block up to the results, and the address of the counters."""
        counters = 0
        if self._counters:
            block = default_pool().acquire(8 * self._counters)
            keep.append(block)
            counters = block.address
        slots = [num_rows, counters]
        if self._plain_widths is not None:
            for width, column in zip(self._plain_widths, columns, strict=True):
                slots += (0, 0, column.addresses[1] + column.offset * width)
        else:
            for fill, column in zip(self._fillers, columns, strict=True):
                fill(column, slots, keep)
        return slots, counters

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        keep: list[object] = []
        slots, counters = self._arguments(columns, num_rows, keep)
        acquire = default_pool().acquire
        if self._plain_outputs is not None and num_rows <= SMALL_ROWS:
            return self._run_small(slots, num_rows, acquire)
        bitmap_bytes = (num_rows + 7) >> 3
        written: list[Written] = []
        for width, has_validity in self._widths:
            block = acquire(num_rows * width if width else bitmap_bytes)
            slots.append(block.address)
            if has_validity:
                validity = acquire(bitmap_bytes)
                slots.append(validity.address)
                written.append((block.address, validity.address, block, validity))
            else:
                slots.append(0)
                written.append((block.address, 0, block, None))
        chosen = None
        if self._layout.selection is not None:
            selection = acquire(bitmap_bytes)
            slots.append(selection.address)
            chosen = Selection(selection.address, selection, num_rows)
        count = self._call(self._pack(*slots))
        values: tuple[int, ...] = ()
        if self._counters:
            values = self._read_counters.unpack(ctypes.string_at(counters, 8 * self._counters))
        if chosen is not None:
            chosen.kept = count
        results = self._results.columns(written, count, values, columns, chosen)
        return ProgramResult(results, count, sum(values[: self._drops]))

    def _run_small(
        self, slots: list[int], num_rows: int, acquire: Callable[[int], HostBlock]
    ) -> ProgramResult:
        """Run over a micro-batch whose results all fit one small block."""
        assert self._plain_outputs is not None
        lines = (num_rows + 15) >> 3  # cache lines that values of 8 bytes take, and one of slack
        block = acquire(lines * self._output_bytes * 8)
        address = block.address
        starts = []
        for _, width in self._plain_outputs:
            slots += (address, 0)
            starts.append(address)
            address += lines * width * 8
        written = self._call(self._pack(*slots))
        results = [
            HostColumn(data_type, written, 0, 0, None, (0, start), None, block)
            for (data_type, _), start in zip(self._plain_outputs, starts, strict=True)
        ]
        return ProgramResult(tuple(results), written, 0)

    def share(self, blocks: Sequence[InputBlock]) -> TiledRun | None:
        lowered, layout = self._lowered, self._layout
        if not can_tile(lowered, layout):
            return None
        if (
            len(blocks) != 1
            and any(out.carried is not None for out in lowered.outputs)
            and lowered.keep is None
        ):
            return None  # columns that are carried along are whole only where there is one block
        writes_bits = any(out.is_bits or out.has_validity for out in layout.outputs)
        if writes_bits and not _aligned(blocks):
            return None
        keep: list[object] = [self._owner]
        arguments = [self._arguments(block.columns, block.num_rows, keep)[0] for block in blocks]
        return TiledRun(self._address, keep, lowered, layout, blocks, arguments, self._positions)


def _aligned(blocks: Sequence[InputBlock]) -> bool:
    """Return whether every block but the last is a multiple of 64 rows: tiles then start at whole bytes of bitmaps."""
    return all(block.num_rows % 64 == 0 for block in blocks[:-1])


def _plain_widths(program: RecordProgram, layout: ProgramLayout) -> tuple[int, ...] | None:
    """Return the bytes of a value of each input column if all are of fixed width, else None."""
    columns = [layout.columns[number] for number in program.columns]
    if any(column.form is not ColumnForm.FIXED for column in columns):
        return None
    return tuple(fixed_width_bytes(column.type) or 0 for column in columns)


def _plain_outputs(lowered: Lowered, layout: ProgramLayout) -> tuple[tuple[pa.DataType, int], ...] | None:
    """Return type and bytes of each result if the code writes all of them as whole values without nulls."""
    if len(layout.outputs) != len(lowered.outputs) or layout.counters or layout.selection is not None:
        return None
    if not layout.outputs or any(
        out.width_bytes not in (4, 8) or out.output.sources for out in layout.outputs
    ):
        return None
    return tuple((out.output.type, out.width_bytes) for out in layout.outputs)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _string_slots(column: HostColumn, slots: list[int], keep: list[object]) -> None:
    """Append validity, bit offset, offsets or views, bytes or buffer table of a plain string column."""
    addresses = column.addresses
    offset = column.offset
    slots.append(addresses[0] + (offset >> 3) if addresses[0] else 0)
    slots.append(offset & 7 if addresses[0] else 0)
    if pa.types.is_string_view(column.type):
        table = struct.pack(f"<{len(addresses) - 2}Q", *addresses[2:])
        buffer = ctypes.create_string_buffer(table, max(8, len(table)))
        keep.append(buffer)
        slots.append(addresses[1] + 16 * offset)
        slots.append(ctypes.addressof(buffer))
        return
    width = 8 if pa.types.is_large_string(column.type) else 4
    slots.append(addresses[1] + width * offset)
    slots.append(addresses[2])


def _filler(owner: CpuProgram, layout: ColumnLayout) -> Filler:
    """Return what appends the slots of one input column."""
    if layout.form is ColumnForm.FIXED:
        width = fixed_width_bytes(layout.type) or 0

        def fixed(column: HostColumn, slots: list[int], keep: list[object]) -> None:
            addresses = column.addresses
            offset = column.offset
            validity = addresses[0]
            slots.append(validity + (offset >> 3) if validity else 0)
            slots.append(offset & 7 if validity else 0)
            slots.append(addresses[1] + offset * width)

        return fixed
    if layout.form is ColumnForm.BITS:

        def bits(column: HostColumn, slots: list[int], keep: list[object]) -> None:
            validity, data = column.addresses
            offset = column.offset
            slots.append(validity + (offset >> 3) if validity else 0)
            slots.append(offset & 7 if validity else 0)
            slots.append(data + (offset >> 3))
            slots.append(offset & 7)

        return bits
    if layout.form is ColumnForm.DICTIONARY:
        index_width = layout.type.index_type.bit_width // 8
        named = [(owner.dictionary_function(op), op) for op in layout.tables]

        def dictionary(column: HostColumn, slots: list[int], keep: list[object]) -> None:
            validity, indices = column.addresses[:2]
            offset = column.offset
            slots.append(validity + (offset >> 3) if validity else 0)
            slots.append(offset & 7 if validity else 0)
            slots.append(indices + offset * index_width)
            for name, op in named:
                table = owner.dictionary_table(name, op, column.dictionary)
                keep.append(table)
                slots.append(table.address)

        return dictionary
    if layout.form is ColumnForm.NONE:

        def nothing(column: HostColumn, slots: list[int], keep: list[object]) -> None:
            addresses = column.addresses
            if not addresses:  # nested types, which generated code asks only for their validity
                buffer = column.to_arrow().buffers()[0] if column.null_count else None
                keep.append(buffer)
                validity = 0 if buffer is None else buffer.address
            else:
                validity = addresses[0] if column.null_count else 0
            slots.append(validity + (column.offset >> 3) if validity else 0)
            slots.append(column.offset & 7 if validity else 0)

        return nothing

    def string(column: HostColumn, slots: list[int], keep: list[object]) -> None:
        if pa.types.is_dictionary(column.type):
            column = HostColumn.from_arrow(column.to_arrow().cast(column.type.value_type))
            keep.append(column)
        _string_slots(column, slots, keep)

    return string
