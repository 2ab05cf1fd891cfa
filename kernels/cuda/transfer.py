"""Moves columns to a device and gives a kernel's argument block their addresses there.

Only what the rows of a batch refer to is moved: a slice's own values, bits and offsets, of a string column the bytes
between the first and the last offset, of views those between the first and the last byte of each buffer that a row
points to. What follows from types alone is decided once, by `plan_of`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

__all__ = [
    "ColumnPlan",
    "DictionaryTables",
    "Planner",
    "Upload",
    "aligned_bytes",
    "plan_of",
    "string_planner",
]

_PADDING, _ALIGNED = ALIGNMENT_BYTES - 1, -ALIGNMENT_BYTES
_LOOK_BYTES_A_ROW = 64
"""Bytes of text a row up to which copying all of it takes less time than looking which of it the rows use."""


class Upload:
    """What of a batch goes to a device: planned column by column, then copied into one block by `send`.

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

    def validity(self, column: HostColumn) -> None:
        """Plan to copy the validity of a column; the next slots are its address and the bit it begins at."""
        if column.null_count:
            self.bits(column.addresses[0], column.offset)
        else:
            self.slots += (0, 0)

    def bits(self, address: int, offset: int) -> None:
        """Plan to copy a bitmap from bit ``offset`` on; the next slots are its address and the bit it begins at."""
        slots = self.slots
        if not address:
            slots += (0, 0)
            return
        bit = offset & 7
        self._relative.append(len(slots))
        slots += (self._place(address + (offset >> 3), (bit + self.num_rows + 7) >> 3), bit)

    def columns(self, plans: Sequence[SizedPlan], columns: Sequence[HostColumn]) -> None:
        """Plan to copy columns, each by its plan for so many rows; the next slots are those of all.

        Validity and values of a fixed width, most of what batches have, are planned here as `bits` and `stretch` do
        it: without a call for each column, and with the sizes that follow from the number of rows known.
        """
        slots, stretches, relative, end = self.slots, self._stretches, self._relative, self.end_bytes
        rows_and_7 = self.num_rows + 7
        bitmap_step = aligned_bytes((rows_and_7 + 7) >> 3)  # wherever in a byte a bitmap begins
        for (width_bytes, nbytes, step_bytes, more), column in zip(plans, columns, strict=True):
            if width_bytes:
                number, offset, addresses = len(slots), column.offset, column.addresses
                if column.null_count:
                    bit = offset & 7
                    stretches.append((end, addresses[0] + (offset >> 3), (rows_and_7 + bit) >> 3))
                    slots += (end, bit, end := end + bitmap_step)
                    relative += (number, number + 2)
                else:
                    slots += (0, 0, end)
                    relative.append(number + 2)
                stretches.append((end, addresses[1] + offset * width_bytes, nbytes))
                end += step_bytes
            if more is not None:
                self.end_bytes = end
                more(column, self)
                end = self.end_bytes
        self.end_bytes = end

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


DictionaryTables = Callable[[HostColumn], DeviceBlock]
"""Returns the results of one string operation for each value of a dictionary, on the device."""

Planner = Callable[[HostColumn, Upload], None]
"""Plans to copy what a kernel reads of one input column."""


class ColumnPlan(NamedTuple):
    """How `Upload.columns` plans one input column."""

    width_bytes: int
    """Bytes of a value, for validity and values of a fixed width; 0 where ``more`` plans all that there is."""
    more: Planner | None
    """What plans the rest."""

    def sized(self, num_rows: int) -> SizedPlan:
        """Return the plan for batches of so many rows."""
        nbytes = num_rows * self.width_bytes
        return self.width_bytes, nbytes, aligned_bytes(nbytes), self.more


SizedPlan = tuple[int, int, int, Planner | None]
"""A `ColumnPlan` for a number of rows: bytes of a value, of all values, what these take in a block, and the rest."""


def plan_of(
    layout: ColumnLayout, tables_of: Callable[[StringOp], DictionaryTables], *, is_read: bool = True
) -> ColumnPlan:
    """Return how the slots of one input column are planned; one that no kernel reads stays where it is."""
    if not is_read:
        return ColumnPlan(0, _unread_planner(layout.slots))
    if layout.form is ColumnForm.NONE:
        return ColumnPlan(0, _only_validity)
    if layout.form is ColumnForm.DICTIONARY:
        return ColumnPlan(
            stored_bytes(layout.type) or 0, _tables_planner([tables_of(op) for op in layout.tables])
        )
    if layout.form is ColumnForm.FIXED:
        return ColumnPlan(fixed_width_bytes(layout.type) or 0, None)
    if layout.form is ColumnForm.BITS:
        return ColumnPlan(0, _bits)
    if pa.types.is_dictionary(layout.type):  # compared with another column
        return ColumnPlan(0, _decoded_planner(layout.type.value_type))
    return ColumnPlan(0, string_planner(layout.type))


def string_planner(data_type: pa.DataType) -> Planner:
    """Return what plans the slots of a plain string column: validity, then offsets and bytes, or views and buffers."""
    form = string_form(data_type)
    if form is ColumnForm.VIEW:
        return _views
    width_bytes, integer = (8, ctypes.c_int64) if form is ColumnForm.STRING64 else (4, ctypes.c_int32)

    def strings(column: HostColumn, upload: Upload) -> None:
        upload.validity(column)
        _, offsets, data = column.addresses
        if not upload.num_rows or not offsets:
            upload.stretch(0, 0)
            upload.stretch(0, 0)
            return
        start, offsets_bytes = offsets + column.offset * width_bytes, upload.num_rows * width_bytes
        first = integer.from_address(start).value
        last = integer.from_address(start + offsets_bytes).value
        upload.stretch(start, offsets_bytes + width_bytes)
        upload.stretch(data + first, last - first, first)

    return strings


def _unread_planner(slots: int) -> Planner:
    empty = (0,) * slots

    def unread(column: HostColumn, upload: Upload) -> None:
        upload.slots += empty

    return unread


def _only_validity(column: HostColumn, upload: Upload) -> None:
    if not column.null_count or column.addresses:
        upload.validity(column)
        return
    buffer = column.to_arrow().buffers()[0]  # nested types
    upload.keep.append(buffer)
    upload.bits(0 if buffer is None else buffer.address, column.offset)


def _bits(column: HostColumn, upload: Upload) -> None:
    upload.validity(column)
    upload.bits(column.addresses[1], column.offset)


def _tables_planner(tables_of_ops: Sequence[DictionaryTables]) -> Planner | None:
    if not tables_of_ops:
        return None

    def tables(column: HostColumn, upload: Upload) -> None:
        dictionary = column.dictionary
        for table_of in tables_of_ops:
            table = table_of(dictionary)
            upload.keep.append(table)
            upload.slots.append(table.address)

    return tables


def _decoded_planner(value_type: pa.DataType) -> Planner:
    plain = string_planner(value_type)

    def decoded(column: HostColumn, upload: Upload) -> None:
        column = HostColumn.from_arrow(column.to_arrow().cast(value_type))
        upload.keep.append(column)
        plain(column, upload)

    return decoded


def _views(column: HostColumn, upload: Upload) -> None:
    """Plan views and what they point to; a kernel finds the buffers by a table of addresses."""
    upload.validity(column)
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
