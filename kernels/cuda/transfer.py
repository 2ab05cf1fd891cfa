"""Moves columns to a device and gives a kernel's argument block their addresses there.

Only what the rows of a batch refer to is moved: a slice's own values, bits and offsets, and of a string column the
bytes between the first and the last offset. All columns of a batch go into one block.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from dataflare.kernels.cuda.device import DeviceBackend, DeviceBlock, pieces
from dataflare.kernels.llvm.layout import (
    ColumnForm,
    ColumnLayout,
    ProgramLayout,
    fixed_width_bytes,
    string_form,
)
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.dictionaries import without_null_entries
from dataflare.kernels.udf.ir import StringOp

__all__ = ["DictionaryTables", "Upload"]

DictionaryTables = Callable[[StringOp, HostColumn], DeviceBlock]
"""Returns the results of a string operation for each value of a dictionary, on the device."""


class Upload:
    """What of a batch goes to a device, planned first and copied by `send`.

    Parameters
    ----------
    layout
        Where a kernel looks for each column.
    numbers
        The numbers of the columns that are given, in order.
    """

    def __init__(
        self,
        layout: ProgramLayout,
        numbers: Sequence[int],
        columns: Sequence[HostColumn],
        num_rows: int,
        tables: DictionaryTables,
    ) -> None:
        self.keep: list[Any] = []
        self._num_rows = num_rows
        self._tables = tables
        self._sources: list[tuple[int, int]] = []  # host address, bytes
        self._slots: list[tuple[int, int | None]] = []  # a number, and the source that it is relative to
        self._tables_of_buffers: list[tuple[Any, list[int]]] = []
        for number, column in zip(numbers, columns, strict=True):
            self._add(layout.columns[number], column)

    @classmethod
    def of_strings(cls, column: HostColumn) -> Upload:
        """Return the plan for one plain string column; its slots are those of the column alone."""
        form = string_form(column.type)
        layout = ProgramLayout({0: ColumnLayout(0, column.type, form, 0, 4)}, (), None, 4, 0)
        return cls(layout, (0,), (column,), column.length, _no_tables)

    @property
    def nbytes(self) -> int:
        """Bytes that are copied."""
        return sum(nbytes for _, nbytes in self._sources)

    def send(self, backend: DeviceBackend, stream: Any) -> list[int]:
        """Copy, and return the slots of all columns; the block is in `keep`."""
        places, total = pieces([nbytes for _, nbytes in self._sources])
        base = 0
        if self._sources:
            block = backend.acquire(total)
            self.keep.append(block)
            base = block.address
        for table, sources in self._tables_of_buffers:
            struct.pack_into(f"<{len(sources)}Q", table, 0, *(base + places[i].offset for i in sources))
        for (address, nbytes), place in zip(self._sources, places, strict=True):
            backend.upload(base + place.offset, address, nbytes, stream)
        return [
            value if source is None else value + base + places[source].offset for value, source in self._slots
        ]

    # --------------------------------------------------------------------------------------------- planning

    def _source(self, address: int, nbytes: int) -> int:
        if not nbytes:  # nothing is read; a place of one byte keeps addresses valid
            buffer = ctypes.create_string_buffer(16)
            self.keep.append(buffer)
            address, nbytes = ctypes.addressof(buffer), 1
        self._sources.append((address, nbytes))
        return len(self._sources) - 1

    def _bits(self, address: int, offset: int) -> None:
        """Plan a bitmap from bit ``offset`` on: its address and the bit that it begins at."""
        if not address:
            self._slots += [(0, None), (0, None)]
            return
        source = self._source(address + (offset >> 3), ((offset & 7) + self._num_rows + 7) >> 3)
        self._slots += [(0, source), (offset & 7, None)]

    def _values(self, address: int, offset: int, width_bytes: int) -> None:
        self._slots.append((0, self._source(address + offset * width_bytes, self._num_rows * width_bytes)))

    def _add(self, layout: ColumnLayout, column: HostColumn) -> None:
        if layout.form is ColumnForm.NONE:
            self._bits(_validity(column, self.keep), column.offset)
            return
        if layout.form is ColumnForm.DICTIONARY:
            column = without_null_entries(column)
            self.keep.append(column)
        elif pa.types.is_dictionary(column.type):  # compared with another column
            column = HostColumn.from_arrow(column.to_arrow().cast(column.type.value_type))
            self.keep.append(column)
        addresses, offset = column.addresses, column.offset
        self._bits(addresses[0] if column.null_count else 0, offset)
        if layout.form is ColumnForm.FIXED:
            self._values(addresses[1], offset, fixed_width_bytes(layout.type) or 0)
        elif layout.form is ColumnForm.BITS:
            self._bits(addresses[1], offset)
        elif layout.form is ColumnForm.DICTIONARY:
            self._values(addresses[1], offset, layout.type.index_type.bit_width // 8)
            for op in layout.tables:
                table = self._tables(op, column.dictionary)
                self.keep.append(table)
                self._slots.append((table.address, None))
        elif layout.form is ColumnForm.VIEW:
            self._views(column)
        else:
            self._strings(column, 8 if layout.form is ColumnForm.STRING64 else 4)

    def _strings(self, column: HostColumn, width_bytes: int) -> None:
        _, offsets, data = column.addresses
        if not self._num_rows or not offsets:
            self._slots += [(0, self._source(0, 0)), (0, self._source(0, 0))]
            return
        start = offsets + column.offset * width_bytes
        integer = ctypes.c_int64 if width_bytes == 8 else ctypes.c_int32
        first = integer.from_address(start).value
        last = integer.from_address(start + self._num_rows * width_bytes).value
        self._slots.append((0, self._source(start, (self._num_rows + 1) * width_bytes)))
        self._slots.append((-first, self._source(data + first, last - first)))

    def _views(self, column: HostColumn) -> None:
        """Plan views and the buffers that they point into; a kernel finds these by a table of addresses."""
        self._values(column.addresses[1], column.offset, 16)
        buffers = column.to_arrow().buffers()[2:]
        self.keep.append(buffers)
        sources = [self._source(buffer.address, buffer.size) for buffer in buffers if buffer is not None]
        table = ctypes.create_string_buffer(8 * max(1, len(sources)))
        self._slots.append((0, self._source(ctypes.addressof(table), len(table))))
        self._tables_of_buffers.append((table, sources))


def _no_tables(op: StringOp, dictionary: HostColumn) -> DeviceBlock:
    raise AssertionError("plain strings have no dictionary")


def _validity(column: HostColumn, keep: list[Any]) -> int:
    """Return the address of a column's validity bitmap, of whatever type it is."""
    if not column.null_count:
        return 0
    if column.addresses:
        return column.addresses[0]
    buffer = column.to_arrow().buffers()[0]  # nested types
    keep.append(buffer)
    return 0 if buffer is None else int(buffer.address)
