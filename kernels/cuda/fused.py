"""Runs a program on a GPU over the columns of a batch in host memory: copies in, launches, copies out.

Each run works on the stream of its thread. Results that the kernels do not write (columns handed on, nested types,
strings that are chosen among) are put together on the host, as on the CPU.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

from dataflare.kernels.backend import InputBlock, ProgramResult, SharedRun
from dataflare.kernels.cuda.codegen import SEGMENT_ROWS, KernelText, ProgramKernels, table_kernel
from dataflare.kernels.cuda.device import DeviceBackend, DeviceBlock, pieces
from dataflare.kernels.cuda.primitives import SUM_THREADS, running_sum_kernel
from dataflare.kernels.cuda.ptx import image_of
from dataflare.kernels.cuda.transfer import Upload
from dataflare.kernels.errors import CompileError, SchemaError
from dataflare.kernels.llvm.layout import string_form
from dataflare.kernels.llvm.results import ResultColumns, Selection, WrittenBlocks
from dataflare.kernels.llvm.strings import result_bytes
from dataflare.kernels.llvm.target import MATH_FUNCTIONS
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostBlock, default_pool
from dataflare.kernels.udf.ir import StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, RecordProgram

__all__ = ["CudaProgram", "compile_cuda"]

BLOCK_THREADS = 256
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
    made.compile_s = time.perf_counter() - start
    return made


class CudaProgram:
    """A program as kernels of one device. Thread-safe: it keeps no state between batches but its dictionary tables."""

    def __init__(self, program: RecordProgram, backend: DeviceBackend) -> None:
        self.program = program
        self.device = backend.name
        self.compile_s = 0.0
        self.cache = "compiled"
        self._backend = backend
        self._may_be_null = tuple(program.input_schema.field(number).nullable for number in program.columns)
        self._tables: dict[tuple[StringOp, int], tuple[HostColumn, DeviceBlock]] = {}
        self._lock = threading.Lock()
        self._dense = _Variant(self, program.dense, "dense", backend)
        self._nullable = _Variant(self, program.nullable, "nullable", backend)

    def source(self) -> str:
        """Return the generated LLVM code."""
        return "\n\n".join(kernel.text for kernel in (*self._dense.texts, *self._nullable.texts))

    def assembly(self) -> str:
        """Return the PTX of all kernels."""
        texts = (*self._dense.texts, *self._nullable.texts)
        return "\n\n".join(image_of(kernel, self._backend.target).ptx for kernel in texts)

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch; ``columns`` in the order of ``program.required_columns``.

        Raises
        ------
        SchemaError
            If a column that the schema declares without nulls has some.
        DeviceMemoryError
            If the batch and its result do not fit the device.
        """
        variant = self._dense
        for name, column, may in zip(self.program.required_columns, columns, self._may_be_null, strict=True):
            if column.null_count:
                variant = self._nullable
                if not may:
                    raise SchemaError(
                        f"column {name!r} is declared without nulls and has {column.null_count} here; declare the "
                        "field nullable."
                    )
        return variant.run(columns, num_rows)

    def share(self, blocks: Sequence[InputBlock]) -> SharedRun | None:
        """Return None: a device runs one batch at a time, with all its threads."""
        return None

    def dictionary_table(self, op: StringOp, dictionary: HostColumn) -> DeviceBlock:
        """Return the results of a string operation for each distinct value, computed once per dictionary."""
        addresses = dictionary.addresses
        key = (op, addresses[1] if len(addresses) > 1 else 0)
        with self._lock:
            known = self._tables.get(key)
            if known is not None and known[0].length == dictionary.length and known[0].addresses == addresses:
                return known[1]
        backend = self._backend
        stream = backend.stream()
        kernel = table_kernel(op, string_form(dictionary.type), backend.target)
        rows = max(1, dictionary.length) if dictionary.length else 0
        block = backend.acquire(max(1, rows) * result_bytes(op))
        backend.zero(block.address, block.nbytes, stream)  # entry 0 is read under nulls
        if rows:
            upload = Upload.of_strings(dictionary)
            slots = [rows, *upload.send(backend, stream), block.address]
            backend.launch(
                backend.load(image_of(kernel, backend.target)),
                min(backend.resident_blocks, -(-rows // BLOCK_THREADS)),
                BLOCK_THREADS,
                _packed(slots),
                stream,
            )
            backend.synchronize(stream)
        with self._lock:
            if len(self._tables) >= _MAX_TABLES:
                self._tables.clear()
            self._tables[key] = (dictionary, block)
        return block


class _Variant:
    """The kernels for batches with or without nulls, and how they are run."""

    def __init__(self, owner: CudaProgram, lowered: Lowered, name: str, backend: DeviceBackend) -> None:
        self._owner = owner
        self._lowered = lowered
        self._backend = backend
        self._kernels = ProgramKernels(owner.program, lowered, name, backend.target)
        self._layout = self._kernels.layout
        self._filters = lowered.keep is not None
        if self._filters:
            self.texts: tuple[KernelText, ...] = (
                self._kernels.select(),
                running_sum_kernel(backend.target.triple),
                self._kernels.write(),
            )
        elif self._layout.outputs:
            self.texts = (self._kernels.map(aligned=True),)
        else:
            self.texts = ()  # every column is handed on
        self._loaded: tuple[Any, ...] | None = None
        self._drops = len(lowered.null_drops)
        self._results = ResultColumns(
            lowered, self._layout, {number: i for i, number in enumerate(owner.program.columns)}
        )

    def _load(self) -> tuple[Any, ...]:
        """Return the kernels; compiled when they are first needed, since most programs meet one kind of batch."""
        if self._loaded is None:
            target = self._backend.target
            self._loaded = tuple(self._backend.load(image_of(text, target)) for text in self.texts)
        return self._loaded

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        if not num_rows or not self.texts:
            return self._without_kernel(columns, num_rows)
        kernels = self._load()
        backend, layout = self._backend, self._layout
        stream = backend.stream()
        upload = Upload(layout, self._owner.program.columns, columns, num_rows, self._owner.dictionary_table)
        bitmap_bytes = -(-num_rows // 64) * 8
        segments = -(-num_rows // SEGMENT_ROWS) if self._filters else 0
        # Counters and the total first, then what a filter sets bits in: one stretch that begins as zeros.
        sizes = [8 * (layout.counters + 1)]
        for out in layout.outputs:
            sizes.append(bitmap_bytes if out.is_bits else num_rows * out.width_bytes)
            sizes.append(bitmap_bytes if out.has_validity else 0)
        sizes += [8 * segments, bitmap_bytes if self._filters else 0]
        places, total = pieces(sizes)
        inputs = upload.send(backend, stream)
        block = backend.acquire(total)
        addresses = [block.address + place.offset for place in places]
        backend.zero(addresses[0], sizes[0], stream)
        slots = [num_rows, addresses[0], *inputs]
        for number, out in enumerate(layout.outputs):
            data, validity = 1 + 2 * number, 2 + 2 * number
            if self._filters:
                for position in (data,) * out.is_bits + (validity,) * out.has_validity:
                    backend.zero(addresses[position], bitmap_bytes, stream)
            slots += [addresses[data], addresses[validity] if out.has_validity else 0]
        if layout.selection is not None:
            slots.append(addresses[-1])
        threads = (
            num_rows if self._filters or self._kernels.writes_bits else num_rows // self._kernels.group_rows
        )
        grid = max(1, min(backend.resident_blocks, -(-threads // BLOCK_THREADS)))
        if self._filters:
            slots += [addresses[-1], addresses[-2]]
            total_address = addresses[0] + 8 * layout.counters
            select, add_up, write = kernels
            backend.launch(select, grid, BLOCK_THREADS, _packed(slots), stream)
            sums = _packed([segments, addresses[-2], total_address])
            backend.launch(add_up, 1, SUM_THREADS, sums, stream)
            if layout.outputs:
                backend.launch(write, grid, BLOCK_THREADS, _packed(slots), stream)
        else:
            backend.launch(kernels[0], grid, BLOCK_THREADS, _packed(slots), stream)
        return self._collect(columns, num_rows, addresses, stream)

    def _collect(
        self, columns: Sequence[HostColumn], num_rows: int, addresses: list[int], stream: Any
    ) -> ProgramResult:
        """Copy what kernels wrote to host memory, as much of it as there are rows."""
        backend, layout = self._backend, self._layout
        acquire = default_pool().acquire
        head = acquire(8 * (layout.counters + 1))
        backend.download(head.address, addresses[0], head.nbytes, stream)
        written = num_rows
        if self._filters:
            backend.synchronize(stream)
            written = _integers(head)[layout.counters]
        blocks: list[WrittenBlocks] = []
        bitmap_bytes = (written + 7) // 8
        for number, out in enumerate(layout.outputs):
            data = acquire(bitmap_bytes if out.is_bits else written * out.width_bytes)
            backend.download(data.address, addresses[1 + 2 * number], data.nbytes, stream)
            validity = None
            if out.has_validity:
                validity = acquire(bitmap_bytes)
                backend.download(validity.address, addresses[2 + 2 * number], bitmap_bytes, stream)
            blocks.append((data, validity))
        chosen = None
        if layout.selection is not None:
            bits = acquire((num_rows + 7) // 8)
            backend.download(bits.address, addresses[-1], bits.nbytes, stream)
            chosen = Selection(bits, num_rows)
            chosen.kept = written
        backend.synchronize(stream)
        counters = _integers(head)
        results = self._results.columns(blocks, written, counters, columns, chosen)
        return ProgramResult(results, written, sum(counters[: self._drops]))

    def _without_kernel(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Return the result of no rows, or of a program that hands every column on."""
        acquire = default_pool().acquire
        blocks: list[WrittenBlocks] = [
            (acquire(0), acquire(0) if out.has_validity else None) for out in self._layout.outputs
        ]
        chosen = Selection(acquire(0), num_rows) if self._layout.selection is not None else None
        counters = [0] * self._layout.counters
        return ProgramResult(self._results.columns(blocks, num_rows, counters, columns, chosen), num_rows, 0)


def _library_functions(program: RecordProgram) -> list[str]:
    nodes = nodes_of(node for _, node in (*program.nullable.roots, *program.dense.roots))
    return sorted({str(n.attr) for n in nodes if n.op == "call" and n.attr in MATH_FUNCTIONS})


def _packed(slots: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(slots)}Q", *(slot & (2**64 - 1) for slot in slots))


def _integers(block: HostBlock) -> tuple[int, ...]:
    return struct.unpack(f"<{block.nbytes // 8}q", ctypes.string_at(block.address, block.nbytes))
