"""Runs a program over columns that lie on a device, and leaves the results there: no copies in, no copies out.

What passes between host and device are the counts that a result is sized by: kept records, bytes of strings, nulls.
Columns of types without a form on a device (nested ones) are in host memory; a filter is applied to them there, with
the bits of who is kept. Two things make a round trip: a dictionary column that is compared with another column, and
a string chosen among columns of different types. All work on a result is done when `run` returns, so that any thread
and any stream may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from dataflare.kernels.cuda import gather
from dataflare.kernels.cuda.codegen import ProgramKernels
from dataflare.kernels.cuda.column import DeviceColumn, offset_bytes, value_bytes
from dataflare.kernels.cuda.copies import to_device
from dataflare.kernels.cuda.device import DeviceBackend, DeviceBlock, pieces, settled
from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.fused import CudaProgram
from dataflare.kernels.cuda.kernel_text import KernelText
from dataflare.kernels.cuda.launching import LoadedKernel, launcher_of
from dataflare.kernels.cuda.taking import GatheredStrings, bitmap_slots, integers_at, take_values
from dataflare.kernels.cuda.transfer import Upload, plan_of
from dataflare.kernels.errors import DeviceMemoryError, SchemaError
from dataflare.kernels.llvm.layout import ColumnForm, ColumnLayout, OutputLayout, is_view
from dataflare.kernels.llvm.results import Selection
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import default_pool
from dataflare.kernels.udf.program import Lowered, Output

__all__ = ["ResidentProgram", "ResidentResult"]

_VECTOR_BYTES = 16

AnyColumn = DeviceColumn | HostColumn


class ResidentResult(NamedTuple):
    """What a program made of one batch on a device."""

    columns: tuple[AnyColumn, ...]
    num_rows: int
    rows_dropped_null_predicate: int


class ResidentProgram:
    """A compiled program for batches on its device. Thread-safe.

    Where the device is full, what lies idle there is given back and the step tried once more. Parts of a batch would
    not help, as in programs over host memory: the whole result has to lie beside the batch in the end.

    Parameters
    ----------
    compiled
        The program for batches in host memory, which has the tables of dictionaries.
    """

    def __init__(self, compiled: CudaProgram, backend: DeviceBackend) -> None:
        self.program = program = compiled.program
        self._compiled = compiled
        self._may_be_null = tuple(program.input_schema.field(number).nullable for number in program.columns)
        self._dense = _Variant(compiled, program.dense, "dense", backend)
        self._nullable = _Variant(compiled, program.nullable, "nullable", backend)

    def run(self, columns: Sequence[AnyColumn], num_rows: int) -> ResidentResult:
        """Run over one batch; ``columns`` in the order of ``program.required_columns``.

        Raises
        ------
        SchemaError
            If a column that the schema declares without nulls has some.
        DeviceMemoryError
            If the result does not fit the device, even without what lay idle there.
        """
        variant = self._dense
        for name, column, may in zip(self.program.required_columns, columns, self._may_be_null, strict=True):
            has_nulls = column.may_have_nulls if isinstance(column, DeviceColumn) else column.has_nulls
            if has_nulls and not may and column.null_count:
                raise SchemaError(
                    f"column {name!r} is declared without nulls and has {column.null_count} here; declare the field "
                    "nullable."
                )
            if has_nulls and may:
                variant = self._nullable
        try:
            return variant.run(columns, num_rows)
        except DeviceMemoryError:
            pass  # the error keeps the memory of the attempt until it goes
        self._compiled.release_idle()
        try:
            return variant.run(columns, num_rows)
        except DeviceMemoryError as error:
            functions = ", ".join(self.program.functions) or "a step"
            raise DeviceMemoryError(
                f"{functions} over {num_rows:,} records does not fit {self._compiled.device}, where nothing lies idle "
                f"any more: {error} Let go of other batches there, work on slices of this one, or take it to_host() "
                "first."
            ) from error


class _Variant:
    """The kernels for batches with or without nulls, and how they are run."""

    def __init__(self, compiled: CudaProgram, lowered: Lowered, name: str, backend: DeviceBackend) -> None:
        program = compiled.program
        self.compiled = compiled
        self.lowered = lowered
        self.launcher = launcher_of(backend)
        self.kernels = ProgramKernels(program, lowered, name, backend.target)
        self.positions = {number: position for position, number in enumerate(program.columns)}
        self.places = {id(out.output): place for place, out in enumerate(self.kernels.layout.outputs)}
        self._backend = backend
        self._literals: dict[tuple[str, pa.DataType], DeviceColumn] = {}
        self._loaded: dict[str, LoadedKernel] = {}

    def kernel(self, name: str, make: Callable[[], KernelText]) -> LoadedKernel:
        """Return the kernel known by ``name``, or the one that ``make`` returns."""
        known = self._loaded.get(name)
        if known is None:
            known = self._loaded[name] = self.compiled.kernel(make())
        return known

    def run(self, columns: Sequence[AnyColumn], num_rows: int) -> ResidentResult:
        """Run over one batch."""
        if not num_rows:
            return ResidentResult(self.empty(), 0, 0)
        run = _Run(self, self._backend, columns, num_rows)
        with settled(self._backend, run.stream):
            result = run.filter() if self.lowered.keep is not None else run.map()
            self._backend.synchronize(run.stream)
        return result

    def empty(self) -> tuple[AnyColumn, ...]:
        """Return the columns of a result without rows."""
        types = [output.type for output in self.lowered.outputs]
        return tuple(to_device([HostColumn.from_arrow(_no_values(t)) for t in types], self._backend))

    def literal(self, text: str, data_type: pa.DataType) -> DeviceColumn:
        """Return a column of one string."""
        known = self._literals.get((text, data_type))
        if known is None:
            column = HostColumn.from_arrow(pa.array([text], data_type))
            known = self._literals[text, data_type] = _on_device(column, self._backend)
        return known


class _Run:
    """One run over a batch of at least one row. What it holds lives until the work is done."""

    def __init__(
        self, variant: _Variant, backend: DeviceBackend, columns: Sequence[AnyColumn], num_rows: int
    ) -> None:
        self.stream = backend.stream()
        self._variant = variant
        self._backend = backend
        self._columns = columns
        self._rows = num_rows
        self._launcher = variant.launcher
        self._kernels = variant.kernels
        self._layout = variant.kernels.layout
        self._drops = len(variant.lowered.null_drops)
        self._keep: list[Any] = []

    def map(self) -> ResidentResult:
        """Run a program that keeps every record."""
        layout, rows = self._layout, self._rows
        if not layout.outputs:
            return ResidentResult(self._assembled([], rows, None, None), rows, 0)
        counters = 8 * layout.counters
        head = self._scratch(counters + 8)
        self._backend.zero(head.address, counters + 8, self.stream)
        inputs, aligned = self._inputs()
        written = [_Written(self._backend, out, rows) for out in layout.outputs]
        slots = [rows, head.address, *inputs, *(slot for one in written for slot in one.slots)]
        threads = rows if self._kernels.writes_bits else rows // self._kernels.group_rows
        kernel = self._variant.kernel(
            "map" if aligned else "map_unaligned", lambda: self._kernels.map(aligned=aligned)
        )
        self._launcher.launch(kernel, threads, slots, self.stream)
        counts = self._counts(head, written)
        columns = [one.column(rows, counts, self._source_of(one)) for one in written]
        return ResidentResult(self._assembled(columns, rows, None, None), rows, 0)

    def filter(self) -> ResidentResult:
        """Run a program that keeps some records."""
        layout, rows, launcher, stream = self._layout, self._rows, self._launcher, self.stream
        segments = -(-rows // SEGMENT_ROWS)
        (head, places, bits), total = pieces([8 * (layout.counters + 1), 8 * segments, -(-rows // 64) * 8])
        scratch = self._scratch(total)
        base = scratch.address
        self._backend.zero(base, head.nbytes, stream)
        inputs, _ = self._inputs()
        trailing = [base + bits.offset, base + places.offset]
        if layout.selection is not None:
            trailing.insert(0, base + bits.offset)
        slots = [rows, base, *inputs, *[0] * (2 * len(layout.outputs)), *trailing]
        launcher.launch(self._variant.kernel("select", self._kernels.select), rows, slots, stream)
        launcher.add_up(base + places.offset, segments, base + 8 * layout.counters, stream)
        counts: Sequence[int] = integers_at(launcher, base, layout.counters + 1, stream)
        kept, dropped = counts[-1], sum(counts[: self._drops])
        if not kept:
            return ResidentResult(self._variant.empty(), 0, dropped)
        written = [_Written(self._backend, out, kept) for out in layout.outputs]
        columns: list[DeviceColumn] = []
        if written:
            for one in written:
                one.zero_bits(stream)
            slots = [rows, base, *inputs, *(slot for one in written for slot in one.slots), *trailing]
            launcher.launch(self._variant.kernel("write", self._kernels.write), rows, slots, stream)
            counts = self._counts(scratch, written)
            columns = [one.column(kept, counts, self._source_of(one)) for one in written]
        listed = self._listed(base + bits.offset, base + places.offset, kept)
        chosen = self._selection(base + bits.offset, kept)
        return ResidentResult(self._assembled(columns, kept, listed, chosen), kept, dropped)

    # --------------------------------------------------------------------------------------- what a run is given

    def _scratch(self, nbytes: int) -> DeviceBlock:
        block = self._backend.acquire(nbytes)
        self._keep.append(block)
        return block

    def _inputs(self) -> tuple[list[int], bool]:
        """Return the slots of the columns, and whether all values begin at a multiple of a vector."""
        slots: list[int] = []
        aligned = True
        for layout, column in zip(self._layout.columns.values(), self._columns, strict=True):
            if isinstance(column, HostColumn):
                slots += self._uploaded(layout, column)
                continue
            slots += self._slots(layout, column)
            if layout.form is ColumnForm.FIXED:
                aligned = aligned and column.data_address % _VECTOR_BYTES == 0
        return slots, aligned

    def _uploaded(self, layout: ColumnLayout, column: HostColumn) -> list[int]:
        """Copy what a kernel needs of a column in host memory: of nested types the validity."""
        upload = Upload(self._rows)
        upload.columns([plan_of(layout, self._variant.compiled.tables_of).sized(self._rows)], [column])
        self._keep.append(upload)
        return upload.send(self._backend, self._scratch(upload.end_bytes).address, self.stream)

    def _slots(self, layout: ColumnLayout, column: DeviceColumn) -> list[int]:
        slots = [*bitmap_slots(column, 0)]
        form = layout.form
        if form is ColumnForm.NONE:
            return slots
        if form is ColumnForm.FIXED:
            return [*slots, column.data_address]
        if form is ColumnForm.BITS:
            return [*slots, *bitmap_slots(column, 1)]
        if form is ColumnForm.VIEW:
            return [*slots, column.data_address, column.table]
        if form is ColumnForm.DICTIONARY:
            assert column.dictionary is not None
            tables = [self._variant.compiled.tables_of(op)(column.dictionary) for op in layout.tables]
            self._keep += tables
            return [*slots, column.data_address, *(table.address for table in tables)]
        width = 8 if form is ColumnForm.STRING64 else 4
        if isinstance(column.type, pa.DictionaryType):
            column = self._as_type(column, column.type.value_type)
            slots = [*bitmap_slots(column, 0)]
        return [*slots, column.addresses[1] + column.offset * width, column.addresses[2]]

    def _as_type(self, column: DeviceColumn, data_type: pa.DataType) -> DeviceColumn:
        """Return a column as another type of strings, by a round trip."""
        cast = HostColumn.from_arrow(column.to_arrow().cast(data_type))
        moved = _on_device(cast, self._backend)
        self._keep.append(moved)
        return moved

    # ------------------------------------------------------------------------------------------ what it gives

    def _counts(self, head: DeviceBlock, written: Sequence[_Written]) -> Sequence[int]:
        """Return the counters, if anybody asks for them."""
        if not any(one.layout.has_validity for one in written):
            return ()
        return integers_at(self._launcher, head.address, self._layout.counters, self.stream)

    def _source_of(self, written: _Written) -> DeviceColumn | None:
        """Return the column that a result is a copy of."""
        number = written.layout.output.carried
        column = None if number is None else self._columns[self._variant.positions[number]]
        return column if isinstance(column, DeviceColumn) else None

    def _listed(self, bits: int, places: int, kept: int) -> DeviceBlock | None:
        """Return the list of rows that a filter keeps; None if it is all of them."""
        if kept == self._rows or self._layout.selection is None:
            return None
        block = self._scratch(8 * kept)
        kernel = self._launcher.shared("kept_rows", lambda: gather.kept_rows_kernel(self._backend.target))
        self._launcher.launch(kernel, self._rows, [self._rows, bits, places, block.address], self.stream)
        return block

    def _selection(self, bits: int, kept: int) -> Selection | None:
        """Return who is kept, for the columns in host memory."""
        if kept == self._rows or not any(isinstance(column, HostColumn) for column in self._columns):
            return None
        block = default_pool().acquire((self._rows + 7) // 8)
        self._backend.download(block.address, bits, block.nbytes, self.stream)
        self._backend.synchronize(self.stream)
        chosen = Selection(block.address, block, self._rows)
        chosen.kept = kept
        return chosen

    def _assembled(
        self,
        written: Sequence[DeviceColumn],
        count: int,
        listed: DeviceBlock | None,
        chosen: Selection | None,
    ) -> tuple[AnyColumn, ...]:
        """Return the columns of a result, out of those that were written and those that were given."""
        found: list[AnyColumn | GatheredStrings] = []
        for output in self._variant.lowered.outputs:
            place = self._variant.places.get(id(output))
            if place is None:
                assert output.carried is not None
                column = self._columns[self._variant.positions[output.carried]]
                found.append(self._carried(column, count, listed, chosen))
            elif output.sources:
                found.append(self._chosen(output, written[place], count, listed))
            else:
                found.append(written[place])
        finished = [
            column.finish(self.stream) if isinstance(column, GatheredStrings) else column for column in found
        ]
        return tuple(
            self._as_type(column, output.type)
            if output.sources and isinstance(column, DeviceColumn) and column.type != output.type
            else column
            for output, column in zip(self._variant.lowered.outputs, finished, strict=True)
        )

    def _carried(
        self, column: AnyColumn, count: int, listed: DeviceBlock | None, chosen: Selection | None
    ) -> AnyColumn | GatheredStrings:
        if isinstance(column, HostColumn):
            return column if chosen is None else chosen.apply(column)
        if listed is None:
            return column
        if value_bytes(column.type) is not None:
            return take_values(self._launcher, column, listed, count, self.stream)
        return GatheredStrings(
            self._launcher, column.type, count, [column], frozenset(), listed, None, self.stream
        )

    def _chosen(
        self, output: Output, codes: DeviceColumn, count: int, listed: DeviceBlock | None
    ) -> GatheredStrings:
        """Take each string of a result from the source that its number names."""
        data_type = output.type if offset_bytes(output.type) is not None else pa.large_string()
        sources = []
        for leaf in output.sources:
            if leaf.column is None:
                assert leaf.text is not None
                sources.append(self._variant.literal(leaf.text, data_type))
                continue
            column = self._columns[self._variant.positions[leaf.column]]
            assert isinstance(column, DeviceColumn)  # strings have a form on the device
            sources.append(column if column.type == data_type else self._as_type(column, data_type))
        literals = frozenset(number for number, leaf in enumerate(output.sources) if leaf.column is None)
        return GatheredStrings(
            self._launcher, data_type, count, sources, literals, listed, codes, self.stream
        )


class _Written:
    """The memory of a result that kernels write, in a block of its own."""

    def __init__(self, backend: DeviceBackend, layout: OutputLayout, count: int) -> None:
        bitmap_bytes = -(-count // 64) * 8
        data_bytes = bitmap_bytes if layout.is_bits else count * layout.width_bytes
        self.layout = layout
        self._backend = backend
        self._sizes = (bitmap_bytes * layout.has_validity, data_bytes)
        (validity, data), total = pieces(self._sizes)
        self._block = backend.acquire(total)
        self._data = self._block.address + data.offset
        self._validity = self._block.address + validity.offset if layout.has_validity else 0
        self.slots = (self._data, self._validity)

    def zero_bits(self, stream: Any) -> None:
        """Clear the bits, which a filter only sets."""
        if self.layout.has_validity:
            self._backend.zero(self._validity, self._sizes[0], stream)
        if self.layout.is_bits:
            self._backend.zero(self._data, self._sizes[1], stream)

    def column(self, count: int, counts: Sequence[int], source: DeviceColumn | None) -> DeviceColumn:
        """Return the column; what ``source`` had besides values, the bytes of views and a dictionary, it has too."""
        output = self.layout.output
        nulls = 0 if self.layout.counter is None else count - counts[self.layout.counter]
        addresses: tuple[int, ...] = (self._validity if nulls else 0, self._data)
        sizes: tuple[int, ...] = self._sizes
        if source is not None and is_view(output.type):
            addresses, sizes = (*addresses, *source.addresses[2:]), (*sizes, *source.sizes[2:])
            return DeviceColumn(
                self._backend,
                output.type,
                count,
                addresses,
                sizes,
                nulls,
                (self._block, source.owner),
                table=source.table,
            )
        data_type = pa.int32() if output.sources else output.type
        dictionary = None if source is None else source.dictionary
        return DeviceColumn(
            self._backend, data_type, count, addresses, sizes, nulls, self._block, dictionary=dictionary
        )


def _no_values(data_type: pa.DataType) -> pa.Array[Any]:
    kind: Any = data_type
    values: pa.Array[Any] = pa.nulls(0, kind)  # pa.array has none of extension types
    return values


def _on_device(column: HostColumn, backend: DeviceBackend) -> DeviceColumn:
    moved = to_device([column], backend)[0]
    assert isinstance(moved, DeviceColumn)
    return moved
