"""Takes rows of columns that lie on a device, and chooses among strings there: the kernels of ``gather``, launched.

Covers every column that has a form on a device. How many bytes the strings of a result have is known when the first
of their kernels is done; `GatheredStrings` therefore works in two steps, so that the first wait covers all columns.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dataflare.kernels.cuda import gather
from dataflare.kernels.cuda.column import DeviceColumn, offset_bytes, value_bytes
from dataflare.kernels.cuda.device import DeviceBlock, pieces
from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.launching import Launcher
from dataflare.kernels.memory.pool import default_pool

__all__ = ["GatheredStrings", "bitmap_slots", "integers_at", "take_values"]


def integers_at(launcher: Launcher, address: int, count: int, stream: Any) -> tuple[int, ...]:
    """Return int64 of the device, once all that was asked of a stream is done."""
    head = default_pool().acquire(8 * count)
    launcher.backend.download(head.address, address, head.nbytes, stream)
    launcher.backend.synchronize(stream)
    return struct.unpack(f"<{count}q", ctypes.string_at(head.address, head.nbytes))


def bitmap_slots(column: DeviceColumn, buffer: int) -> tuple[int, int]:
    """Return the address of the bits of a buffer and the bit of the first row; of no bits, zeros."""
    address = column.addresses[buffer]
    if not address or (buffer == 0 and not column.may_have_nulls):
        return 0, 0
    return address + (column.offset >> 3), column.offset & 7


def take_values(
    launcher: Launcher, column: DeviceColumn, rows: DeviceBlock, count: int, stream: Any
) -> DeviceColumn:
    """Return the listed rows (i64) of a column of values, bits, views or indices into a dictionary.

    Nulls are not counted yet.
    """
    backend = launcher.backend
    width = value_bytes(column.type)
    assert width is not None
    bitmap_bytes = -(-count // 32) * 4
    data_bytes = count * width if width else bitmap_bytes
    (data, validity), total = pieces([data_bytes, bitmap_bytes * column.may_have_nulls])
    block = backend.acquire(total)
    base = block.address
    if width:
        address = column.data_address
        launcher.launch(
            launcher.shared(("take", width), lambda: gather.take_values_kernel(width, backend.target)),
            count,
            [count, rows.address, address, base + data.offset],
            stream,
        )
    bits = [(1, data.offset)] * (not width) + [(0, validity.offset)] * column.may_have_nulls
    for buffer, offset in bits:
        launcher.launch(
            launcher.shared("take_bits", lambda: gather.take_bits_kernel(backend.target)),
            count,
            [count, rows.address, *bitmap_slots(column, buffer), base + offset],
            stream,
        )
    return DeviceColumn(
        backend,
        column.type,
        count,
        (base + validity.offset if column.may_have_nulls else 0, base + data.offset, *column.addresses[2:]),
        (bitmap_bytes * column.may_have_nulls, data_bytes, *column.sizes[2:]),
        -1,
        (block, column.owner) if len(column.addresses) > 2 else block,
        dictionary=column.dictionary,
        table=column.table,
    )


class GatheredStrings:
    """A column of strings under construction: listed rows of one column, or chosen from several sources.

    Parameters
    ----------
    sources
        Columns of the result's type. Those in ``literals`` have one row, which every record that chooses them gets.
    rows
        The list of rows (i64); None for the rows in order.
    codes
        For each record of the result the number of its source (int32); None where there is one source.
    """

    def __init__(
        self,
        launcher: Launcher,
        data_type: pa.DataType,
        count: int,
        sources: Sequence[DeviceColumn],
        literals: frozenset[int],
        rows: DeviceBlock | None,
        codes: DeviceColumn | None,
        stream: Any,
    ) -> None:
        backend = launcher.backend
        width = offset_bytes(data_type)
        assert width is not None
        self._launcher = launcher
        self._type = data_type
        self._count = count
        self._keep = (sources, rows, codes)
        self._spec = gather.StringGather(width, len(sources), codes is not None, rows is not None)
        nullable = any(source.may_have_nulls for source in sources) or (
            codes is not None and codes.may_have_nulls
        )
        self._sizes = ((count + 31) // 32 * 4 * nullable, (count + 1) * width)
        (validity, offsets), total = pieces(self._sizes)
        self._block = backend.acquire(total)
        self._offsets = self._block.address + offsets.offset
        self._validity = self._block.address + validity.offset if nullable else 0
        segments = -(-count // SEGMENT_ROWS)
        self._scratch = backend.acquire(8 * (2 + segments))
        self.totals_address = self._scratch.address
        """Address of two int64: valid strings, and bytes of all."""
        backend.zero(self.totals_address, 8 * (2 + segments), stream)
        self._slots = [
            count,
            0 if rows is None else rows.address,
            0 if codes is None else codes.data_address,
            *((0, 0) if codes is None else bitmap_slots(codes, 0)),
            self.totals_address + 16,
            self.totals_address,
            self._validity,
            self._offsets,
            0,
        ]
        for number, source in enumerate(sources):
            self._slots += [
                *bitmap_slots(source, 0),
                source.addresses[1] + source.offset * width,
                source.addresses[2],
                int(number not in literals),
            ]
        spec = self._spec
        launcher.launch(
            launcher.shared(("lengths", spec), lambda: gather.string_lengths_kernel(spec, backend.target)),
            count,
            self._slots,
            stream,
        )
        launcher.add_up(self.totals_address + 16, segments, self.totals_address + 8, stream)

    def finish(self, stream: Any) -> DeviceColumn:
        """Copy the strings, once the totals are known, and return the column."""
        launcher, spec = self._launcher, self._spec
        backend = launcher.backend
        valid, nbytes = integers_at(launcher, self.totals_address, 2, stream)
        text = backend.acquire(max(1, nbytes))
        self._slots[9] = text.address
        launcher.launch(
            launcher.shared(("copy", spec), lambda: gather.copy_strings_kernel(spec, backend.target)),
            self._count,
            self._slots,
            stream,
        )
        return DeviceColumn(
            backend,
            self._type,
            self._count,
            (self._validity, self._offsets, text.address),
            (*self._sizes, nbytes),
            self._count - valid,
            (self._block, text),
        )
