"""Splits a large batch between threads inside machine code, and puts what is kept into one result, in order.

Every thread takes one tile of rows after the other. A program that keeps all rows writes each tile straight to its
place. A filter does not know the place before the tiles ahead of it are counted, so its tile is compacted into
scratch memory that stays in the cache; the thread then waits for its turn, which comes as soon as the tile before is
counted, takes the next free rows of the result, and copies its tile there past the caches. The result is written
once and never joined, and no interpreter runs between tiles. (Decoupling the place from the copy by a running
prefix is how GPU scans work: Merrill and Garland, "Single-pass Parallel Prefix Scan with Decoupled Look-back".)

Covers programs whose results are whole values of fixed width. Results with bits (flags, validity) are written in
place only; strings and other columns that Arrow moves are not covered: `share` says so by returning None.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from dataflare.kernels.backend import InputBlock, ProgramResult
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.objects import load_or_compile
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.llvm.layout import ColumnForm, ColumnLayout, ProgramLayout, is_view
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostBlock, default_pool

if TYPE_CHECKING:
    from dataflare.kernels.udf.program import Lowered, Output

__all__ = ["STREAMING_MIN_BYTES", "TiledRun", "can_tile", "driver_text"]

SCRATCH_BYTES: Final = 512 * 2**10
"""What a tile of results takes at most: it stays in a second-level cache beside the rows that are read."""

LEAST_TILE_ROWS: Final = 4096
MOST_TILE_ROWS: Final = 32_768
STREAMING_MIN_BYTES: Final = 4 * 2**20
"""Results of at least this size bypass the caches: they would only push out what is read next."""

_LINE_BYTES: Final = 64
_WORKER_FIELDS: Final = (
    "kernel slots base strides arguments rows tile_rows shift outputs moves counters counted totals most_tiles "
    "first_tile streaming order next_tile rows_in rows_out"
).split()


def can_tile(lowered: Lowered, layout: ProgramLayout) -> bool:
    """Return whether results of this variant can be put together in tiles."""
    if layout.selection is not None:
        return False
    written = {id(out.output) for out in layout.outputs}
    if lowered.keep is None:
        return all(out.carried is not None or id(out) in written for out in lowered.outputs) and all(
            not out.output.sources for out in layout.outputs
        )
    return len(written) == len(lowered.outputs) > 0 and all(
        out.width_bytes and not out.has_validity and not out.output.sources and not is_view(out.output.type)
        for out in layout.outputs
    )


class TiledRun:
    """One run over blocks of input, shared by several threads, each through a `Worker` of its own.

    Parameters
    ----------
    kernel
        Address of the generated function.
    kept_alive
        Owns the machine code.
    lowered, layout
        The variant of the program that the function is.
    blocks
        The input, in order.
    base_arguments
        For each block the argument block up to the results, see `dataflare.kernels.llvm.layout`.
    places
        Position of each column of the program among the columns of a block, by its number.
    """

    def __init__(
        self,
        kernel: int,
        kept_alive: object,
        lowered: Lowered,
        layout: ProgramLayout,
        blocks: Sequence[InputBlock],
        base_arguments: Sequence[list[int]],
        places: dict[int, int],
    ) -> None:
        self._drive = _driver()  # now, not in the first worker: it may have to be compiled
        self._kernel = kernel
        self._kept_alive = kept_alive
        self._lowered = lowered
        self._layout = layout
        self._blocks = blocks
        self._places = places
        self._base = base_arguments
        self._in_place = lowered.keep is None
        self.num_rows = sum(block.num_rows for block in blocks)
        """Rows of input."""
        row_bytes = max(1, sum(out.width_bytes for out in layout.outputs))
        rows = min(MOST_TILE_ROWS, max(LEAST_TILE_ROWS, SCRATCH_BYTES // row_bytes))
        self.tile_rows = rows // 64 * 64
        self.capacity_bytes = sum(self._output_bytes(out.width_bytes) for out in layout.outputs)
        """Address space for the result if every row is kept; memory is taken up only as far as it is written."""
        self._results: list[tuple[HostBlock, HostBlock | None]] = []
        self._targets: list[int] = []
        self._block_arguments: list[tuple[Any, Any, Any]] = []
        self._shifts: list[int] = []
        self._order = _line()
        # Not the workers themselves: they know the run, and a circle keeps its memory until the collector comes.
        self._tallies: list[Any] = []
        self._lock = threading.Lock()

    def worker(self) -> Worker:
        """Return what one thread works with; the first one takes the memory, and one that comes late finds nothing."""
        with self._lock:
            if not self._block_arguments:
                self._begin()
            tally = (ctypes.c_int64 * (1 + self._layout.counters))()
            self._tallies.append(tally)
            return Worker(self, tally)

    def result(self) -> ProgramResult:
        """Return the result, once all rows are worked on; its memory is the caller's from then on."""
        written, *counts = [sum(numbers) for numbers in zip(*self._tallies, strict=True)]
        places = {id(out.output): n for n, out in enumerate(self._layout.outputs)}
        columns = tuple(
            self._column(out, places.get(id(out)), written, counts) for out in self._lowered.outputs
        )
        self._results = []
        return ProgramResult(columns, written, sum(counts[: len(self._lowered.null_drops)]))

    def _column(self, output: Output, place: int | None, written: int, counts: list[int]) -> HostColumn:
        if place is None:
            assert output.carried is not None
            return self._blocks[0].columns[self._places[output.carried]]
        data, validity = self._results[place]
        counter = self._layout.outputs[place].counter
        nulls = written - counts[counter] if counter is not None else 0
        if validity is None or not nulls:
            return HostColumn.from_block(output.type, written, 0, data.address, 0, data)
        return HostColumn.from_block(
            output.type, written, validity.address, data.address, nulls, (data, validity)
        )

    def _output_bytes(self, width_bytes: int) -> int:
        return self.num_rows * width_bytes if width_bytes else (self.num_rows + 7) // 8

    def _begin(self) -> None:
        acquire = default_pool().acquire
        for out in self._layout.outputs:
            validity = acquire((self.num_rows + 7) // 8) if out.has_validity else None
            self._results.append((acquire(self._output_bytes(out.width_bytes)), validity))
        self._targets = [data.address for data, _ in self._results]
        input_strides = self._input_strides()
        row = 0
        for block, base in zip(self._blocks, self._base, strict=True):
            slots = list(base)
            # In eighths of a byte a row, so that bitmaps have one too; what is absent stays at address 0.
            strides = [stride if slot else 0 for stride, slot in zip(input_strides, slots, strict=True)]
            if self._in_place:
                for out, (data, validity) in zip(self._layout.outputs, self._results, strict=True):
                    bits = 8 * out.width_bytes or 1
                    slots += [data.address + row * bits // 8, validity.address + row // 8 if validity else 0]
                    strides += [bits, 1 if validity else 0]
            else:  # each worker has scratch memory of its own there
                slots += [0, 0] * len(self._layout.outputs)
                strides += [0, 0] * len(self._layout.outputs)
            count = len(slots)
            # Bits are read from whole bytes on, and an empty block has no tile that could be shorter.
            as_it_is = self._in_place or 1 in strides or not block.num_rows
            self._shifts.append(0 if as_it_is else self._shift(slots))
            self._block_arguments.append(
                ((ctypes.c_uint64 * count)(*slots), (ctypes.c_int64 * count)(*strides), _line())
            )
            row += block.num_rows

    def _shift(self, slots: Sequence[int]) -> int:
        """Return by how many rows the first tile is shorter, so that the others begin on a cache line.

        A group that lies across two lines costs both of them, in a filter that keeps few records twice what it needs
        (10 M rows, 2 threads, Xeon Scalable: 0.1 and 1 % kept, from 4.1 and 6.4 to 3.7 and 5.0 ms). Large arrays of
        NumPy begin 16 bytes into a page, all of them, so the first column speaks for the others.
        """
        for number in self._places:
            column = self._layout.columns[number]
            width_bytes = _strides(column)[-1] // 8
            if column.form is ColumnForm.FIXED and width_bytes and not slots[column.data] % width_bytes:
                return slots[column.data] % _LINE_BYTES // width_bytes
        return 0

    def _input_strides(self) -> list[int]:
        strides = [0, 0]
        for number in self._places:
            strides += _strides(self._layout.columns[number])
        return strides


class Worker:
    """One thread's part in a `TiledRun`. Used by one thread at a time.

    ``tally`` receives the rows kept, then the counters of the program.
    """

    def __init__(self, run: TiledRun, tally: Any) -> None:
        self._run = run
        self._tally = tally
        layout = run._layout
        self._block = 0
        count = len(run._block_arguments[0][0]) if run._block_arguments else 0
        self._arguments = (ctypes.c_uint64 * max(1, count))()
        self._counted = (ctypes.c_int64 * max(1, layout.counters))()
        self._moves: Any = None
        self._scratch: HostBlock | None = None
        self._base: Any = None
        self._scratch_slots: list[int] = []
        moved = 0 if run._in_place else len(layout.outputs)
        if moved:
            sizes = [-(-run.tile_rows * out.width_bytes // 64) * 64 + 64 for out in layout.outputs]
            self._scratch = default_pool().acquire(sum(sizes))
            moves: list[int] = []
            address = self._scratch.address
            for out, size, target in zip(layout.outputs, sizes, run._targets, strict=True):
                moves += [out.width_bytes, address, target]
                self._scratch_slots += [address, 0]
                address += size
            self._moves = (ctypes.c_uint64 * len(moves))(*moves)
        self._control = (ctypes.c_uint64 * len(_WORKER_FIELDS))()
        self._set(
            kernel=run._kernel,
            slots=count,
            arguments=ctypes.addressof(self._arguments),
            tile_rows=run.tile_rows,
            outputs=moved,
            moves=ctypes.addressof(self._moves) if moved else 0,
            counters=layout.counters,
            counted=ctypes.addressof(self._counted),
            totals=ctypes.addressof(tally) + 8,
            streaming=run.capacity_bytes >= STREAMING_MIN_BYTES,
            order=ctypes.addressof(run._order),
        )
        self._first_tile = 0

    def work(self, most_rows: int) -> tuple[int, int]:
        """Work on at least one and about ``most_rows`` rows; return rows in and rows kept, (0, 0) at the end."""
        run = self._run
        control = self._control
        left = max(1, -(-most_rows // run.tile_rows))
        rows_in = rows_out = 0
        while left and self._block < len(run._blocks):
            base, strides, next_tile = run._block_arguments[self._block]
            num_rows = run._blocks[self._block].num_rows
            shift = run._shifts[self._block]
            if self._base is None:
                self._base = type(base).from_buffer_copy(base)
                first_result = len(base) - len(self._scratch_slots)
                self._base[first_result:] = self._scratch_slots
            self._set(
                base=ctypes.addressof(self._base),
                strides=ctypes.addressof(strides),
                rows=num_rows,
                shift=shift,
                first_tile=self._first_tile,
                most_tiles=left,
                next_tile=ctypes.addressof(next_tile),
            )
            done = run._drive(control)
            left -= done
            rows_in += control[_WORKER_FIELDS.index("rows_in")]
            rows_out += control[_WORKER_FIELDS.index("rows_out")]
            if left:  # the block has no tile left
                self._block += 1
                self._base = None
                self._first_tile += -(-(num_rows + shift) // run.tile_rows)
        self._tally[0] += rows_out
        return rows_in, rows_out

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            self._control[_WORKER_FIELDS.index(name)] = value


def _line() -> Any:
    """Return a cache line of zeros of its own, for what threads count together."""
    return (ctypes.c_int64 * 24)()


def _strides(column: ColumnLayout) -> list[int]:
    """Return by how many bits each slot of an input column moves on with a row."""
    data_type = column.type
    match column.form:
        case ColumnForm.FIXED:
            width_bits = 128 if is_view(data_type) else data_type.bit_width
            return [1, 0, width_bits]
        case ColumnForm.BITS:
            return [1, 0, 1, 0]
        case ColumnForm.STRING32:
            return [1, 0, 32, 0]
        case ColumnForm.STRING64:
            return [1, 0, 64, 0]
        case ColumnForm.VIEW:
            return [1, 0, 128, 0]
        case ColumnForm.DICTIONARY:
            return [1, 0, data_type.index_type.bit_width, *(0 for _ in column.tables)]
        case ColumnForm.NONE:
            return [1, 0]


_DRIVER: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)


@lru_cache(maxsize=1)
def _driver() -> Any:
    """Return the function that works on tiles, the same for every program."""
    target = host_target()
    loaded, _ = load_or_compile(driver_text(target), target)
    _driver_objects.append(loaded)
    return loaded.function("tiles", _DRIVER)


_driver_objects: list[jit.LoadedObject] = []  # machine code lives as long as its object


def driver_text(target: Target) -> str:
    """Return the LLVM module of the driver, ``i64 tiles(ptr worker)``: it returns how many tiles it worked on."""
    if target.triple.startswith("x86_64"):
        pause, declared = "call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"
    elif target.triple.startswith("aarch64"):
        pause, declared = "call void @llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"
    else:
        pause, declared = "fence acquire", ""
    fields = "\n".join(
        f"  %{name}.f = getelementptr i64, ptr %worker, i64 {number}\n  %{name} = load i64, ptr %{name}.f"
        for number, name in enumerate(_WORKER_FIELDS)
        if not name.startswith("rows_")
    )
    pointers = "\n".join(
        f"  %{name}.a = inttoptr i64 %{name} to ptr"
        for name in "kernel base strides arguments moves counted totals order next_tile".split()
    )
    return _TEMPLATE.format(
        triple=target.triple,
        pause=pause,
        declared=declared,
        fields=fields,
        pointers=pointers,
        rows_in=_WORKER_FIELDS.index("rows_in"),
        rows_out=_WORKER_FIELDS.index("rows_out"),
    )


# `sched_yield` after a while: the thread whose turn it is may not be running at all on a machine that is shared.
_TEMPLATE = """target triple = "{triple}"
{declared}
declare i32 @sched_yield()
declare i64 @llvm.usub.sat.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal void @move(ptr %to, ptr %from, i64 %bytes, i64 %streaming) alwaysinline {{
entry:
  %past = icmp ne i64 %streaming, 0
  %long = icmp uge i64 %bytes, 256
  %both = and i1 %past, %long
  br i1 %both, label %align, label %plain
plain:
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 false)
  ret void
align:
  %address = ptrtoint ptr %to to i64
  %negative = sub i64 0, %address
  %first = and i64 %negative, 63
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %first, i1 false)
  %rest = sub i64 %bytes, %first
  %whole = and i64 %rest, -64
  %end = add i64 %first, %whole
  br label %lines
lines:
  %at = phi i64 [ %first, %align ], [ %after, %lines ]
  %source = getelementptr i8, ptr %from, i64 %at
  %target = getelementptr i8, ptr %to, i64 %at
  %line = load <16 x i32>, ptr %source, align 1
  store <16 x i32> %line, ptr %target, align 64, !nontemporal !0
  %after = add i64 %at, 64
  %more = icmp ult i64 %after, %end
  br i1 %more, label %lines, label %tail
tail:
  %left = sub i64 %bytes, %end
  %source.t = getelementptr i8, ptr %from, i64 %end
  %target.t = getelementptr i8, ptr %to, i64 %end
  call void @llvm.memcpy.p0.p0.i64(ptr %target.t, ptr %source.t, i64 %left, i1 false)
  ret void
}}

define i64 @tiles(ptr noalias %worker) nounwind {{
entry:
{fields}
{pointers}
  %turn.a = getelementptr i64, ptr %order.a, i64 8
  %ordered = icmp ne i64 %outputs, 0
  br label %next
next:
  %done = phi i64 [ 0, %entry ], [ %done.1, %worked ]
  %in = phi i64 [ 0, %entry ], [ %in.1, %worked ]
  %out = phi i64 [ 0, %entry ], [ %out.1, %worked ]
  %enough = icmp uge i64 %done, %most_tiles
  br i1 %enough, label %leave, label %take
take:
  %tile = atomicrmw add ptr %next_tile.a, i64 1 monotonic
  %unshifted = mul i64 %tile, %tile_rows
  %start = call i64 @llvm.usub.sat.i64(i64 %unshifted, i64 %shift)
  %gone = icmp uge i64 %start, %rows
  br i1 %gone, label %leave, label %tile_of
tile_of:
  %next_unshifted = add i64 %unshifted, %tile_rows
  %next_start = sub i64 %next_unshifted, %shift
  %end = call i64 @llvm.umin.i64(i64 %next_start, i64 %rows)
  %count = sub i64 %end, %start
  br label %slot
slot:
  %s = phi i64 [ 0, %tile_of ], [ %s.1, %slot ]
  %base.p = getelementptr i64, ptr %base.a, i64 %s
  %base.v = load i64, ptr %base.p
  %stride.p = getelementptr i64, ptr %strides.a, i64 %s
  %stride.v = load i64, ptr %stride.p
  %bits = mul i64 %start, %stride.v
  %bytes = lshr i64 %bits, 3
  %value = add i64 %base.v, %bytes
  %argument.p = getelementptr i64, ptr %arguments.a, i64 %s
  store i64 %value, ptr %argument.p
  %s.1 = add i64 %s, 1
  %slots.more = icmp ult i64 %s.1, %slots
  br i1 %slots.more, label %slot, label %compute
compute:
  store i64 %count, ptr %arguments.a
  %counted.p = getelementptr i64, ptr %arguments.a, i64 1
  store i64 %counted, ptr %counted.p
  %kept = call i64 %kernel.a(ptr %arguments.a)
  br label %counting
counting:
  %c = phi i64 [ 0, %compute ], [ %c.1, %add ]
  %counting.more = icmp ult i64 %c, %counters
  br i1 %counting.more, label %add, label %counted.all
add:
  %one.p = getelementptr i64, ptr %counted.a, i64 %c
  %one = load i64, ptr %one.p
  %total.p = getelementptr i64, ptr %totals.a, i64 %c
  %total = load i64, ptr %total.p
  %total.1 = add i64 %total, %one
  store i64 %total.1, ptr %total.p
  %c.1 = add i64 %c, 1
  br label %counting
counted.all:
  br i1 %ordered, label %await, label %worked
await:
  %mine = add i64 %tile, %first_tile
  br label %look
look:
  %spins = phi i64 [ 0, %await ], [ %spins.1, %wait ], [ 0, %yield ]
  %turn = load atomic i64, ptr %turn.a acquire, align 8
  %my.turn = icmp eq i64 %turn, %mine
  br i1 %my.turn, label %place, label %wait
wait:
  {pause}
  %spins.1 = add i64 %spins, 1
  %patient = icmp ult i64 %spins.1, 2000
  br i1 %patient, label %look, label %yield
yield:
  %ignored = call i32 @sched_yield()
  br label %look
place:
  %position = load i64, ptr %order.a, align 8
  %position.1 = add i64 %position, %kept
  store i64 %position.1, ptr %order.a, align 8
  %mine.1 = add i64 %mine, 1
  store atomic i64 %mine.1, ptr %turn.a release, align 8
  br label %output
output:
  %o = phi i64 [ 0, %place ], [ %o.1, %output ]
  %move.p = getelementptr [3 x i64], ptr %moves.a, i64 %o
  %width = load i64, ptr %move.p
  %from.p = getelementptr i64, ptr %move.p, i64 1
  %from = load ptr, ptr %from.p
  %to.p = getelementptr i64, ptr %move.p, i64 2
  %to = load ptr, ptr %to.p
  %offset = mul i64 %position, %width
  %to.here = getelementptr i8, ptr %to, i64 %offset
  %size = mul i64 %kept, %width
  call void @move(ptr %to.here, ptr %from, i64 %size, i64 %streaming)
  %o.1 = add i64 %o, 1
  %output.more = icmp ult i64 %o.1, %outputs
  br i1 %output.more, label %output, label %worked
worked:
  %done.1 = add i64 %done, 1
  %in.1 = add i64 %in, %count
  %out.1 = add i64 %out, %kept
  br label %next
leave:
  fence seq_cst
  %in.p = getelementptr i64, ptr %worker, i64 {rows_in}
  store i64 %in, ptr %in.p
  %out.p = getelementptr i64, ptr %worker, i64 {rows_out}
  store i64 %out, ptr %out.p
  ret i64 %done
}}
!0 = !{{i32 1}}
"""
