"""Runs a program on a GPU over the columns of a batch in host memory: copies in, launches, copies out.

Each run works on the stream of its thread, in one block of the device's arena. Results that the kernels do not write
(columns handed on, nested types, strings that are chosen among) are put together on the host, as on the CPU. The path
taken for every batch decides nothing that follows from types alone; what follows from the number of rows it keeps.

Does not cover what is done where the device is full or gone: that is ``recovery``.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dataflare.kernels.backend import InputBlock, ProgramResult, SharedRun
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.codegen import ProgramKernels, table_kernel
from dataflare.kernels.cuda.device import DeviceBackend, DeviceBlock, settled
from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.kernel_text import BLOCK_THREADS, KernelText
from dataflare.kernels.cuda.launching import LoadedKernel, grid_of, launcher_of
from dataflare.kernels.cuda.placing import ResultPlaces
from dataflare.kernels.cuda.primitives import running_sum_kernel
from dataflare.kernels.cuda.ptx import image_of
from dataflare.kernels.cuda.recovery import Recovery
from dataflare.kernels.cuda.transfer import (
    DictionaryTables,
    SizedPlan,
    Upload,
    aligned_bytes,
    plan_of,
    string_planner,
)
from dataflare.kernels.errors import CompileError, SchemaError
from dataflare.kernels.llvm.layout import ColumnForm, string_form
from dataflare.kernels.llvm.results import ResultColumns, Selection, Written
from dataflare.kernels.llvm.strings import result_bytes
from dataflare.kernels.llvm.target import MATH_FUNCTIONS
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.dictionaries import DictionaryCache, Entries, nulls_in_indices
from dataflare.kernels.memory.pool import default_pool
from dataflare.kernels.udf.ir import StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, RecordProgram, columns_of

__all__ = ["CudaProgram", "compile_cuda"]

_MAX_TABLES = 64


def compile_cuda(program: RecordProgram, backend: DeviceBackend, *, exact_math: bool = False) -> CudaProgram:
    """Compile a program for a device, or load its kernels from the cache.

    Raises
    ------
    CompileError
        If a function does something besides giving a value, such as printing, or needs what kernels have not.
    """
    if program.effects:
        raise CompileError(program.effects[0])
    if exact_math and (called := _library_functions(program)):
        raise CompileError(
            f"math='exact' means the C library's {', '.join(called)}, which a GPU does not have: use device='cpu', or "
            "leave the option out."
        )
    start = time.perf_counter()
    made = CudaProgram(program, backend)
    made.compile_s += time.perf_counter() - start
    return made


class CudaProgram:
    """A program as kernels of one device.

    Thread-safe: between batches it keeps its dictionary tables, and what ``recovery`` found out about the device.
    """

    def __init__(self, program: RecordProgram, backend: DeviceBackend) -> None:
        self.program = program
        self.device = backend.name
        self.compile_s = 0.0
        """Seconds that compiling took so far: each kernel is compiled when a batch first needs it."""
        self._backend = backend
        self._arena = arena_of(backend)
        fields = [program.input_schema.field(number) for number in program.columns]
        self._never_null = tuple((i, field.name) for i, field in enumerate(fields) if not field.nullable)
        self._read_dictionaries = program.read_dictionaries
        self._exchanged: DictionaryCache[Entries] = DictionaryCache()
        self._tables: DictionaryCache[DeviceBlock] = DictionaryCache(_MAX_TABLES)
        self._op_numbers: dict[StringOp, int] = {}
        self._table_texts: dict[tuple[StringOp, ColumnForm], KernelText] = {}
        self._held: dict[KernelText, LoadedKernel] = {}
        self._compiled_anew: bool | None = None
        self._lock = threading.Lock()
        self.launcher = launcher_of(backend)
        self._dense = _Variant(self, program.dense, "dense", backend)
        self._nullable = _Variant(self, program.nullable, "nullable", backend)
        self._recovery = Recovery(program, backend, self._run_on_device, self.release_idle)

    @property
    def of_devices(self) -> dict[DeviceBackend, CudaProgram]:
        """The program itself, by its device."""
        return {self._backend: self}

    @property
    def cache(self) -> str:
        """Where the kernels that were needed so far came from: "disk", "compiled" if one was not there, or "unused"."""
        if self._compiled_anew is None:
            return "unused"
        return "compiled" if self._compiled_anew else "disk"

    def source(self) -> str:
        """Return the generated LLVM code."""
        return "\n\n".join(kernel.text for kernel in self._texts)

    def assembly(self) -> str:
        """Return the PTX of all kernels."""
        return "\n\n".join(image_of(kernel, self._backend.target).ptx for kernel in self._texts)

    @property
    def _texts(self) -> tuple[KernelText, ...]:
        shared = () if self.program.row_preserving else (running_sum_kernel(self._backend.target),)
        return (*self._dense.texts, *self._nullable.texts, *shared)

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch; ``columns`` in the order of ``program.required_columns``.

        A device that has too little memory, or is lost, is gone on without, and the result says so.

        Raises
        ------
        SchemaError
            If a column that the schema declares without nulls has some.
        DeviceMemoryError
            If neither the device nor the CPU had memory for the batch.
        DeviceFaultError
            If a kernel did what the device stops at; the message names the functions.
        """
        if self._read_dictionaries:
            columns = nulls_in_indices(columns, self._read_dictionaries, self._exchanged)
        for position, name in self._never_null:
            if nulls := columns[position].null_count:
                raise SchemaError(
                    f"column {name!r} is declared without nulls and has {nulls} here; declare the field nullable."
                )
        return self._recovery.run(columns, num_rows)

    def share(self, blocks: Sequence[InputBlock]) -> SharedRun | None:
        """Return None: a device runs one batch at a time, with all its threads."""
        return None

    def _run_on_device(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        for column in columns:
            if column.null_count:
                return self._nullable.run(columns, num_rows)
        return self._dense.run(columns, num_rows)

    def release_idle(self) -> None:
        """Give back to the device what no batch needs at this moment."""
        self._tables.clear()
        self._arena.release_idle()

    def kernel(self, text: KernelText) -> LoadedKernel:
        """Return a kernel of the device, which stays loaded while this program lives."""
        kernel = self._held.get(text)
        if kernel is None:
            with self._lock:
                start = time.perf_counter()
                kernel = self._held[text] = self.launcher.kernel(text)
                self._compiled_anew = bool(self._compiled_anew) or not kernel.from_disk
                self.compile_s += time.perf_counter() - start
        return kernel

    def tables_of(self, op: StringOp) -> DictionaryTables:
        """Return what gives the results of a string operation for each distinct value, computed once per dictionary."""
        with self._lock:
            number = self._op_numbers.setdefault(op, len(self._op_numbers))
        return partial(self._table, number, op)

    def _table(self, number: int, op: StringOp, dictionary: HostColumn) -> DeviceBlock:
        """Return the table of an operation, which is known by its number: some take microseconds to be hashed."""
        known = self._tables.find(number, dictionary)
        if known is not None:
            return known
        block = self._computed_table(op, dictionary)
        self._tables.keep(number, dictionary, block)
        return block

    def _computed_table(self, op: StringOp, dictionary: HostColumn) -> DeviceBlock:
        backend, rows = self._backend, dictionary.length
        stream = backend.stream()
        nbytes = max(1, rows) * result_bytes(op)
        upload = Upload(rows)
        string_planner(dictionary.type)(dictionary, upload)
        form = string_form(dictionary.type)
        text = self._table_texts.get((op, form))
        if text is None:
            text = self._table_texts[op, form] = table_kernel(op, form, backend.target)
        kernel = self.kernel(text)
        block, strings = self._arena.acquire(nbytes), self._arena.acquire(upload.end_bytes)
        with settled(backend, stream):
            backend.zero(block.address, nbytes, stream)  # entry 0 is read under nulls
            slots = [rows, *upload.send(backend, strings.address, stream), block.address]
            self.launcher.launch(kernel, rows, slots, stream)
            backend.synchronize(stream)
        return block


@dataclass(frozen=True, slots=True)
class _Places:
    """What follows from the number of rows of a batch: where in its block everything lies, and how large grids are.

    Counters come first, then, where the host needs them, the bits of who is kept, then the results: what comes back
    is one stretch. After it the sums of a filter and, where only kernels need them, the bits; then the columns.
    """

    num_rows: int
    selection: int
    results: int
    zeroed_bytes: int
    """Bytes at the start of the block that begin as zeros: counters, and what a filter sets bits in."""
    segments: int
    sums: int
    end: int
    grid: int
    plans: tuple[SizedPlan, ...]


class _Variant:
    """The kernels for batches with or without nulls, and how they are run."""

    def __init__(self, owner: CudaProgram, lowered: Lowered, name: str, backend: DeviceBackend) -> None:
        self._owner = owner
        self._backend = backend
        self._arena = arena_of(backend)
        self._kernels = ProgramKernels(owner.program, lowered, name, backend.target)
        self._layout = layout = self._kernels.layout
        self._filters = lowered.keep is not None
        if self._filters:
            self.texts: tuple[KernelText, ...] = (self._kernels.select(), self._kernels.write())
        elif layout.outputs:
            self.texts = (self._kernels.map(aligned=True),)
        else:
            self.texts = ()  # every column is handed on
        self._loaded: tuple[Any, ...] | None = None
        read = columns_of([node for _, node in lowered.roots])
        if self._filters:
            read.update(out.output.carried for out in layout.outputs if out.output.carried is not None)
        self._plans = tuple(
            plan_of(layout.columns[number], owner.tables_of, is_read=number in read)
            for number in owner.program.columns
        )
        self._thread_rows = 1 if self._filters or self._kernels.writes_bits else self._kernels.group_rows
        self._of_results = ResultPlaces(layout.outputs)
        trailing = self._kernels.slots - layout.slots + (layout.selection is not None)
        self._pack_inputs = struct.Struct(
            f"<{self._kernels.slots - trailing - 2 * len(layout.outputs)}q"
        ).pack
        self._pack_results = struct.Struct(f"<{2 * len(layout.outputs)}q").pack
        self._pack_trailing = struct.Struct(f"<{trailing}q").pack
        self._head_bytes = 8 * (layout.counters + 1)  # the counters, and how many records a filter kept
        self._counters = ctypes.c_int64 * layout.counters
        self._has_head = self._filters or layout.counters > 0
        self._no_results = bytes(16 * len(layout.outputs))
        self._drops = len(lowered.null_drops)
        self._results = ResultColumns(
            lowered, layout, {number: i for i, number in enumerate(owner.program.columns)}
        )
        self._places = self._places_for(0)

    def _places_for(self, num_rows: int) -> _Places:
        bitmap_bytes = aligned_bytes(-(-num_rows // 64) * 8)
        segments = -(-num_rows // SEGMENT_ROWS) if self._filters else 0
        selection = results = aligned_bytes(self._head_bytes) if self._has_head else 0
        if self._layout.selection is not None:
            results += bitmap_bytes
        sums = results + aligned_bytes(self._of_results.nbytes(num_rows))
        end = sums + aligned_bytes(8 * segments)
        if self._filters and self._layout.selection is None:
            selection, end = end, end + bitmap_bytes
        zeroed_bytes = self._head_bytes if self._has_head else 0
        if self._filters and (bits := self._of_results.bitmap_bytes(num_rows)):
            zeroed_bytes = results + bits
        grid = grid_of(self._backend, num_rows // self._thread_rows)
        plans = tuple(plan.sized(num_rows) for plan in self._plans)
        return _Places(num_rows, selection, results, zeroed_bytes, segments, sums, end, grid, plans)

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        if not num_rows or not self.texts:
            return self._without_kernel(columns, num_rows)
        if self._loaded is None:
            self._loaded = tuple(self._owner.kernel(text).handle for text in self.texts)
        places = self._places
        if places.num_rows != num_rows:
            places = self._places = self._places_for(num_rows)
        upload = Upload(num_rows, places.end)
        upload.columns(places.plans, columns)
        backend = self._backend
        block = self._arena.acquire(upload.end_bytes)
        base, stream = block.address, backend.stream()
        with settled(backend, stream):
            inputs = self._pack_inputs(num_rows, base, *upload.send(backend, base, stream))
            if places.zeroed_bytes:
                backend.zero(base, places.zeroed_bytes, stream)
            count, results = self._launch(self._loaded, places, inputs, base, stream)
            return self._collect(columns, places, count, results, base, stream)

    def _launch(
        self, kernels: tuple[Any, ...], places: _Places, inputs: bytes, base: int, stream: Any
    ) -> tuple[int, list[int]]:
        """Run the kernels; return the rows of the result, and the slots of its columns.

        ``inputs`` is the argument block up to the results.
        """
        backend, layout = self._backend, self._layout
        grid, start = places.grid, base + places.results
        if not self._filters:
            results = self._of_results.slots(places.num_rows, start)
            backend.launch(kernels[0], grid, BLOCK_THREADS, inputs + self._pack_results(*results), stream)
            return places.num_rows, results
        bits, sums = base + places.selection, base + places.sums
        trailing = self._pack_trailing(*((bits, sums) if layout.selection is None else (bits, bits, sums)))
        select, write = kernels
        backend.launch(select, grid, BLOCK_THREADS, inputs + self._no_results + trailing, stream)
        count_address = base + 8 * layout.counters
        self._owner.launcher.add_up(sums, places.segments, count_address, stream)
        kept = ctypes.c_int64()
        backend.download(ctypes.addressof(kept), count_address, 8, stream)
        backend.synchronize(stream)
        count = kept.value
        results = self._of_results.slots(count, start)
        if results:
            arguments = inputs + self._pack_results(*results) + trailing
            backend.launch(write, grid, BLOCK_THREADS, arguments, stream)
        return count, results

    def _collect(
        self,
        columns: Sequence[HostColumn],
        places: _Places,
        count: int,
        results: list[int],
        base: int,
        stream: Any,
    ) -> ProgramResult:
        """Copy what kernels wrote to host memory, in one stretch, as much of it as there are rows.

        ``results`` are the slots of the result's columns; in host memory these lie in the same places of the block.
        The columns share the block that it comes into, as those of a message do in Arrow's own formats.
        """
        nbytes = places.results + self._of_results.nbytes(count)
        block = default_pool().acquire(nbytes)
        here = block.address
        self._backend.download(here, base, nbytes, stream)
        self._backend.synchronize(stream)
        counters = self._counters.from_address(here)[:] if self._has_head else ()
        chosen = None
        if self._layout.selection is not None:
            chosen = Selection(here + places.selection, block, places.num_rows)
            chosen.kept = count
        moved = here - base
        slots = iter(results)
        written = [
            (values + moved, validity and validity + moved, block, block)
            for values, validity in zip(slots, slots, strict=True)
        ]
        made = self._results.columns(written, count, counters, columns, chosen)
        return ProgramResult(made, count, sum(counters[: self._drops]))

    def _without_kernel(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Return the result of no rows, or of a program that hands every column on."""
        block = default_pool().acquire(0)
        written: list[Written] = [(block.address, 0, block, None) for _ in self._layout.outputs]
        chosen = Selection(block.address, block, num_rows) if self._layout.selection is not None else None
        results = self._results.columns(written, num_rows, (), columns, chosen)
        return ProgramResult(results, num_rows, 0)


def _library_functions(program: RecordProgram) -> list[str]:
    nodes = nodes_of(node for _, node in (*program.nullable.roots, *program.dense.roots))
    return sorted({str(n.attr) for n in nodes if n.op == "call" and n.attr in MATH_FUNCTIONS})
