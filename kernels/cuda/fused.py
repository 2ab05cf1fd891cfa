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
from typing import Any, NamedTuple

from dataflare.kernels.backend import InputBlock, ProgramResult, SharedRun
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.codegen import SEGMENT_ROWS, KernelText, ProgramKernels, table_kernel
from dataflare.kernels.cuda.device import DeviceBackend, DeviceBlock, settled
from dataflare.kernels.cuda.primitives import SUM_THREADS, running_sum_kernel
from dataflare.kernels.cuda.ptx import image_of
from dataflare.kernels.cuda.recovery import Recovery
from dataflare.kernels.cuda.transfer import Upload, aligned_bytes, planner, string_planner
from dataflare.kernels.errors import CompileError, SchemaError
from dataflare.kernels.llvm.layout import ColumnForm, string_form
from dataflare.kernels.llvm.results import ResultColumns, Selection, WrittenBlocks
from dataflare.kernels.llvm.strings import result_bytes
from dataflare.kernels.llvm.target import MATH_FUNCTIONS
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.dictionaries import nulls_in_indices
from dataflare.kernels.memory.pool import HostBlock, default_pool
from dataflare.kernels.udf.ir import StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, RecordProgram, columns_of

__all__ = ["CudaProgram", "compile_cuda"]

BLOCK_THREADS = 256
_MAX_TABLES = 64
_TABLE_SLOTS = 6


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
        self._may_be_null = tuple(program.input_schema.field(number).nullable for number in program.columns)
        self._tables: dict[tuple[StringOp, int, int], tuple[HostColumn, DeviceBlock]] = {}
        self._table_texts: dict[tuple[StringOp, ColumnForm], KernelText] = {}
        self._loaded: dict[KernelText, Any] = {}
        self._compiled_anew: bool | None = None
        self._lock = threading.Lock()
        self._load_lock = threading.Lock()
        self._dense = _Variant(self, program.dense, "dense", backend)
        self._nullable = _Variant(self, program.nullable, "nullable", backend)
        self._recovery = Recovery(program, backend, self._run_on_device, self.release_idle)

    @property
    def of_devices(self) -> dict[DeviceBackend, CudaProgram]:
        """The program itself, by its device."""
        return {self._backend: self}

    def release_idle(self) -> None:
        """Give back to the device what no batch needs at this moment."""
        with self._lock:
            self._tables.clear()
        self._arena.release_idle()

    @property
    def cache(self) -> str:
        """Where the kernels that were needed so far came from: "disk", "compiled" if one was not there, or "unused"."""
        if self._compiled_anew is None:
            return "unused"
        return "compiled" if self._compiled_anew else "disk"

    def source(self) -> str:
        """Return the generated LLVM code."""
        return "\n\n".join(kernel.text for kernel in (*self._dense.texts, *self._nullable.texts))

    def assembly(self) -> str:
        """Return the PTX of all kernels."""
        texts = (*self._dense.texts, *self._nullable.texts)
        return "\n\n".join(image_of(kernel, self._backend.target).ptx for kernel in texts)

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
        if self.program.read_dictionaries:
            columns = nulls_in_indices(columns, self.program.read_dictionaries)
        for name, column, may in zip(self.program.required_columns, columns, self._may_be_null, strict=True):
            if not may and column.null_count:
                raise SchemaError(
                    f"column {name!r} is declared without nulls and has {column.null_count} here; declare the "
                    "field nullable."
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

    def kernel(self, text: KernelText) -> Any:
        """Return a kernel of the device; compiled when it is first needed, by one thread."""
        kernel = self._loaded.get(text)
        if kernel is None:
            with self._load_lock:
                kernel = self._loaded.get(text)
                if kernel is None:
                    start = time.perf_counter()
                    image = image_of(text, self._backend.target)
                    kernel = self._loaded[text] = self._backend.load(image)
                    self._compiled_anew = bool(self._compiled_anew) or not image.from_disk
                    self.compile_s += time.perf_counter() - start
        return kernel

    def dictionary_table(self, op: StringOp, dictionary: HostColumn) -> DeviceBlock:
        """Return the results of a string operation for each distinct value, computed once per dictionary."""
        addresses = dictionary.addresses
        key = (op, addresses[1] if len(addresses) > 1 else 0, dictionary.offset)
        with self._lock:
            known = self._tables.get(key)
            if known is not None and known[0].length == dictionary.length and known[0].addresses == addresses:
                return known[1]
        block = self._computed_table(op, dictionary)
        with self._lock:
            if len(self._tables) >= _MAX_TABLES:
                self._tables.clear()
            self._tables[key] = (dictionary, block)
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
            grid = max(1, min(backend.resident_blocks, -(-rows // BLOCK_THREADS)))
            arguments = struct.pack(f"<{_TABLE_SLOTS}q", *slots)
            backend.launch(kernel, grid, BLOCK_THREADS, arguments, stream)
            backend.synchronize(stream)
        return block


class _Places(NamedTuple):
    """What follows from the number of rows of a batch: where in its block kernels write, and how they are launched."""

    num_rows: int
    zeroed_bytes: int
    """Bytes at the start of the block that begin as zeros: counters, and what a filter sets bits in."""
    outputs: tuple[tuple[int, int], ...]
    """Where each result's values and validity lie; the latter is 0 where there is none."""
    segments: int
    sums: int
    selection: int
    end: int
    grid: int


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
            self.texts: tuple[KernelText, ...] = (
                self._kernels.select(),
                running_sum_kernel(backend.target.triple),
                self._kernels.write(),
            )
        elif layout.outputs:
            self.texts = (self._kernels.map(aligned=True),)
        else:
            self.texts = ()  # every column is handed on
        self._loaded: tuple[Any, ...] | None = None
        read = columns_of([node for _, node in lowered.roots])
        if self._filters:
            read.update(out.output.carried for out in layout.outputs if out.output.carried is not None)
        self._planners = tuple(
            planner(layout.columns[number], owner.dictionary_table, is_read=number in read)
            for number in owner.program.columns
        )
        self._thread_rows = 1 if self._filters or self._kernels.writes_bits else self._kernels.group_rows
        self._outputs = tuple((out.width_bytes, out.has_validity) for out in layout.outputs)
        self._pack = struct.Struct(f"<{self._kernels.slots}q").pack
        self._head_bytes = 8 * (layout.counters + 1)  # the counters, and how many records a filter kept
        self._read_head = struct.Struct(f"<{layout.counters + 1}q")
        self._has_head = self._filters or layout.counters > 0
        self._no_counters = (0,) * layout.counters
        self._drops = len(lowered.null_drops)
        self._results = ResultColumns(
            lowered, layout, {number: i for i, number in enumerate(owner.program.columns)}
        )
        self._places = self._places_for(0)

    def _places_for(self, num_rows: int) -> _Places:
        bitmap = aligned_bytes(-(-num_rows // 64) * 8)
        segments = -(-num_rows // SEGMENT_ROWS) if self._filters else 0
        end = aligned_bytes(self._head_bytes)
        zeroed = self._head_bytes if self._has_head else 0
        starts: dict[tuple[int, bool], int] = {}
        parts = [(i, part) for i, (_, has) in enumerate(self._outputs) for part in (False, True)[: 1 + has]]
        is_bits = {(i, part): part or not self._outputs[i][0] for i, part in parts}
        for place in sorted(parts, key=lambda place: not is_bits[place]):  # bitmaps first
            starts[place] = end
            end += bitmap if is_bits[place] else aligned_bytes(num_rows * self._outputs[place[0]][0])
            if self._filters and is_bits[place]:
                zeroed = end
        sums, selection = end, end + aligned_bytes(8 * segments)
        if self._filters:
            end = selection + bitmap
        threads = num_rows // self._thread_rows
        return _Places(
            num_rows,
            zeroed,
            tuple((starts[i, False], starts.get((i, True), 0)) for i in range(len(self._outputs))),
            segments,
            sums,
            selection,
            end,
            max(1, min(self._backend.resident_blocks, -(-threads // BLOCK_THREADS))),
        )

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        if not num_rows or not self.texts:
            return self._without_kernel(columns, num_rows)
        kernels = self._loaded
        if kernels is None:
            kernels = self._loaded = tuple(self._owner.kernel(text) for text in self.texts)
        places = self._places
        if places.num_rows != num_rows:
            places = self._places = self._places_for(num_rows)
        upload = Upload(num_rows, places.end)
        for plan, column in zip(self._planners, columns, strict=True):
            plan(column, upload)
        block = self._arena.acquire(upload.end_bytes)
        stream = self._backend.stream()
        with settled(self._backend, stream):
            self._launch(kernels, places, upload, block.address, stream)
            return self._collect(columns, places, block.address, stream)

    def _launch(
        self, kernels: tuple[Any, ...], places: _Places, upload: Upload, base: int, stream: Any
    ) -> None:
        backend, layout = self._backend, self._layout
        inputs = upload.send(backend, base, stream)
        if places.zeroed_bytes:
            backend.zero(base, places.zeroed_bytes, stream)
        slots = [places.num_rows, base, *inputs]
        for data, validity in places.outputs:
            slots += (base + data, base + validity if validity else 0)
        if layout.selection is not None:
            slots.append(base + places.selection)
        if not self._filters:
            backend.launch(kernels[0], places.grid, BLOCK_THREADS, self._pack(*slots), stream)
            return
        sums = base + places.sums
        arguments = self._pack(*slots, base + places.selection, sums)
        select, add_up, write = kernels
        backend.launch(select, places.grid, BLOCK_THREADS, arguments, stream)
        total = base + 8 * layout.counters
        backend.launch(add_up, 1, SUM_THREADS, _pack_sums(places.segments, sums, total), stream)
        if layout.outputs:
            backend.launch(write, places.grid, BLOCK_THREADS, arguments, stream)

    def _collect(
        self, columns: Sequence[HostColumn], places: _Places, base: int, stream: Any
    ) -> ProgramResult:
        """Copy what kernels wrote to host memory, as much of it as there are rows."""
        download, acquire = self._backend.download, default_pool().acquire
        written = places.num_rows
        if self._has_head:
            head = acquire(self._head_bytes)
            download(head.address, base, self._head_bytes, stream)
        if self._filters:
            self._backend.synchronize(stream)
            written = self._head(head)[-1]
        blocks: list[WrittenBlocks] = []
        bitmap_bytes = (written + 7) >> 3
        for (width_bytes, _), (data_place, validity_place) in zip(self._outputs, places.outputs, strict=True):
            nbytes = written * width_bytes if width_bytes else bitmap_bytes
            data = acquire(nbytes)
            download(data.address, base + data_place, nbytes, stream)
            validity = None
            if validity_place:
                validity = acquire(bitmap_bytes)
                download(validity.address, base + validity_place, bitmap_bytes, stream)
            blocks.append((data, validity))
        chosen = None
        if self._layout.selection is not None:
            nbytes = (places.num_rows + 7) >> 3
            bits = acquire(nbytes)
            download(bits.address, base + places.selection, nbytes, stream)
            chosen = Selection(bits, places.num_rows)
            chosen.kept = written
        self._backend.synchronize(stream)
        counters = self._head(head)[:-1] if self._has_head else self._no_counters
        results = self._results.columns(blocks, written, counters, columns, chosen)
        return ProgramResult(results, written, sum(counters[: self._drops]))

    def _head(self, head: HostBlock) -> tuple[int, ...]:
        return self._read_head.unpack(ctypes.string_at(head.address, self._head_bytes))

    def _without_kernel(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Return the result of no rows, or of a program that hands every column on."""
        acquire = default_pool().acquire
        blocks: list[WrittenBlocks] = [
            (acquire(0), acquire(0) if out.has_validity else None) for out in self._layout.outputs
        ]
        chosen = Selection(acquire(0), num_rows) if self._layout.selection is not None else None
        results = self._results.columns(blocks, num_rows, self._no_counters, columns, chosen)
        return ProgramResult(results, num_rows, 0)


_pack_sums = struct.Struct("<3q").pack


def _library_functions(program: RecordProgram) -> list[str]:
    nodes = nodes_of(node for _, node in (*program.nullable.roots, *program.dense.roots))
    return sorted({str(n.attr) for n in nodes if n.op == "call" and n.attr in MATH_FUNCTIONS})
