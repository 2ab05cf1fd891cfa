"""Moves columns to a device and gives a kernel's argument block their addresses there.

Only what the rows of a batch refer to is moved: a slice's own values, bits and offsets, of a string column the bytes
between the first and the last offset, of views those between the first and the last byte of each buffer that a row
points to. What follows from types alone is decided once, by `planner`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from dataflare.kernels.cuda.device import ALIGNMENT_BYTES, DeviceBackend, DeviceBlock, Stretch
from dataflare.kernels.llvm.layout import (
    ColumnForm,
    ColumnLayout,
    fixed_width_bytes,
    stored_bytes,
    string_form,
)
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.trimming import used_ranges
from dataflare.kernels.udf.ir import StringOp

__all__ = ["DictionaryTables", "Planner", "Upload", "aligned_bytes", "planner", "string_planner"]

_PADDING, _ALIGNED = ALIGNMENT_BYTES - 1, -ALIGNMENT_BYTES
_LOOK_BYTES_A_ROW = 64
"""Bytes of text a row up to which copying all of it takes less time than looking which of it the rows use."""


class Upload:
    """What of a batch goes to a device: planned by a `Planner` for each column, then copied into one block by `send`.

    Parameters
    ----------
    num_rows
        Rows of the batch.
    start_bytes
        Where in the block the columns begin; aligned.
    """

    __slots__ = ("_buffer_tables", "_relative", "_stretches", "end_bytes", "keep", "num_rows", "slots")

    def __init__(self, num_rows: int, start_bytes: int = 0) -> None:
        self.num_rows = num_rows
        self.end_bytes = start_bytes
        """Where in the block the columns end so far; aligned."""
        self.slots: list[int] = []
        """The slots of all columns; addresses count from the start of the block until `send`."""
        self.keep: list[Any] = []
        """What has to live until the work on the batch is done."""
        self._relative: list[int] = []  # which slots are addresses in the block
        self._stretches: list[Stretch] = []
        self._buffer_tables: list[tuple[Any, list[int]]] = []

    @property
    def nbytes(self) -> int:
        """Bytes that are copied."""
        return sum(nbytes for _, _, nbytes in self._stretches)

    def stretch(self, address: int, nbytes: int, minus: int = 0) -> None:
        """Plan to copy a stretch of host memory; the next slot is its address on the device, less ``minus``."""
        self._relative.append(len(self.slots))
        self.slots.append(self._place(address, nbytes) - minus)

    def bits(self, address: int, offset: int) -> None:
        """Plan to copy a bitmap from bit ``offset`` on; the next slots are its address and the bit it begins at."""
        slots = self.slots
        if not address:
            slots += (0, 0)
            return
        bit = offset & 7
        self._relative.append(len(slots))
        slots += (self._place(address + (offset >> 3), (bit + self.num_rows + 7) >> 3), bit)

    def values(self, column: HostColumn, width_bytes: int) -> None:
        """Plan to copy validity and values of a fixed width; the next slots are those of both.

        As `bits` and `stretch` do it, in one: this is what most columns of most batches are.
        """
        slots, stretches, rows = self.slots, self._stretches, self.num_rows
        number, place, offset, addresses = len(slots), self.end_bytes, column.offset, column.addresses
        if column.null_count:
            bit = offset & 7
            nbytes = (bit + rows + 7) >> 3
            stretches.append((place, addresses[0] + (offset >> 3), nbytes))
            values = place + ((nbytes + _PADDING) & _ALIGNED)
            slots += (place, bit, values)
            self._relative += (number, number + 2)
        else:
            values = place
            slots += (0, 0, values)
            self._relative.append(number + 2)
        nbytes = rows * width_bytes
        stretches.append((values, addresses[1] + offset * width_bytes, nbytes))
        self.end_bytes = values + ((nbytes + _PADDING) & _ALIGNED)

    def buffers(self, parts: Sequence[tuple[int, int, int]]) -> None:
        """Plan to copy parts of buffers; the next slot is the address of a table of the buffers' addresses.

        Each part is an address on the host, bytes, and where in its buffer it begins.
        """
        places = [self._place(address, nbytes) - first for address, nbytes, first in parts]
        table = ctypes.create_string_buffer(8 * max(1, len(places)))
        self._buffer_tables.append((table, places))
        self.keep.append(table)
        self.stretch(ctypes.addressof(table), len(table))

    def send(self, backend: DeviceBackend, base: int, stream: Any) -> list[int]:
        """Copy into the block at ``base``, of at least `end_bytes`, and return the slots of all columns."""
        for table, places in self._buffer_tables:
            struct.pack_into(f"<{len(places)}q", table, 0, *(base + place for place in places))
        backend.upload_all(base, self._stretches, stream)
        slots = self.slots
        for number in self._relative:
            slots[number] += base
        return slots

    def _place(self, address: int, nbytes: int) -> int:
        place = self.end_bytes
        if nbytes:
            self._stretches.append((place, address, nbytes))
            self.end_bytes = place + ((nbytes + _PADDING) & _ALIGNED)
        else:  # nothing is read, but an address is an address
            self.end_bytes = place + ALIGNMENT_BYTES
        return place


def aligned_bytes(nbytes: int) -> int:
    """Return the bytes that a column of ``nbytes`` takes in a block."""
    return (nbytes + _PADDING) & _ALIGNED


DictionaryTables = Callable[[StringOp, HostColumn], DeviceBlock]
"""Returns the results of a string operation for each value of a dictionary, on the device."""

Planner = Callable[[HostColumn, Upload], None]
"""Plans to copy what a kernel reads of one input column."""


def planner(layout: ColumnLayout, tables: DictionaryTables, *, is_read: bool = True) -> Planner:
    """Return what plans the slots of one input column; one that no kernel reads stays where it is."""
    if not is_read:
        return _unread_planner(layout.slots)
    if layout.form is ColumnForm.NONE:
        return _only_validity
    if layout.form is ColumnForm.DICTIONARY:
        return _dictionary_planner(layout, tables)
    if layout.form is ColumnForm.FIXED:
        return _fixed_planner(fixed_width_bytes(layout.type) or 0)
    if layout.form is ColumnForm.BITS:
        return _bits
    if pa.types.is_dictionary(layout.type):  # compared with another column
        return _decoded_planner(layout.type.value_type)
    return string_planner(layout.type)


def string_planner(data_type: pa.DataType) -> Planner:
    """Return what plans the slots of a plain string column: validity, then offsets and bytes, or views and buffers."""
    form = string_form(data_type)
    if form is ColumnForm.VIEW:
        return _views
    width_bytes, integer = (8, ctypes.c_int64) if form is ColumnForm.STRING64 else (4, ctypes.c_int32)

    def strings(column: HostColumn, upload: Upload) -> None:
        _validity(column, upload)
        _, offsets, data = column.addresses
        rows = upload.num_rows
        if not rows or not offsets:
            upload.stretch(0, 0)
            upload.stretch(0, 0)
            return
        start = offsets + column.offset * width_bytes
        first = integer.from_address(start).value
        last = integer.from_address(start + rows * width_bytes).value
        upload.stretch(start, (rows + 1) * width_bytes)
        upload.stretch(data + first, last - first, minus=first)

    return strings


def _unread_planner(slots: int) -> Planner:
    empty = (0,) * slots

    def unread(column: HostColumn, upload: Upload) -> None:
        upload.slots += empty

    return unread


def _validity(column: HostColumn, upload: Upload) -> None:
    if column.null_count:
        upload.bits(column.addresses[0], column.offset)
    else:
        upload.slots += (0, 0)


def _only_validity(column: HostColumn, upload: Upload) -> None:
    if not column.null_count or column.addresses:
        _validity(column, upload)
        return
    buffer = column.to_arrow().buffers()[0]  # nested types
    upload.keep.append(buffer)
    upload.bits(0 if buffer is None else buffer.address, column.offset)


def _fixed_planner(width_bytes: int) -> Planner:
    def fixed(column: HostColumn, upload: Upload) -> None:
        upload.values(column, width_bytes)

    return fixed


def _bits(column: HostColumn, upload: Upload) -> None:
    _validity(column, upload)
    upload.bits(column.addresses[1], column.offset)


def _dictionary_planner(layout: ColumnLayout, tables: DictionaryTables) -> Planner:
    index_bytes = stored_bytes(layout.type) or 0

    def dictionary(column: HostColumn, upload: Upload) -> None:
        upload.values(column, index_bytes)
        for op in layout.tables:
            table = tables(op, column.dictionary)
            upload.keep.append(table)
            upload.slots.append(table.address)

    return dictionary


def _decoded_planner(value_type: pa.DataType) -> Planner:
    plain = string_planner(value_type)

    def decoded(column: HostColumn, upload: Upload) -> None:
        column = HostColumn.from_arrow(column.to_arrow().cast(value_type))
        upload.keep.append(column)
        plain(column, upload)

    return decoded


def _views(column: HostColumn, upload: Upload) -> None:
    """Plan views and what they point to; a kernel finds the buffers by a table of addresses."""
    _validity(column, upload)
    upload.stretch(column.addresses[1] + 16 * column.offset, 16 * upload.num_rows)
    array = column.to_arrow()
    texts = array.buffers()[2:]
    upload.keep.append(texts)
    sizes = [0 if text is None else text.size for text in texts]
    ranges: Sequence[tuple[int, int]] = [(0, size) for size in sizes]
    if sum(sizes) > _LOOK_BYTES_A_ROW * upload.num_rows:
        ranges = used_ranges(array)
    addresses = column.addresses[2:]
    upload.buffers(
        [
            (address + first, last - first, first)
            for address, (first, last) in zip(addresses, ranges, strict=True)
        ]
    )
