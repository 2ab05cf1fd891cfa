"""Copies columns between host memory and a device, where they stay.

Each column gets a block of its own, so that dropping one frees its memory; what moves are the rows of a slice and no
more, and on the device they begin at row 0. Columns without a form on a device (``column.has_device_form``) are
handed through. What a program copies for one run only is in ``transfer``.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dataflare.kernels.cuda.column import DeviceColumn, has_device_form, offset_bytes, value_bytes
from dataflare.kernels.cuda.device import DeviceBackend, pieces, settled
from dataflare.kernels.llvm.layout import is_view
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.dictionaries import without_null_entries
from dataflare.kernels.memory.pool import default_pool
from dataflare.kernels.memory.trimming import trimmed

__all__ = ["count_nulls", "to_device", "to_host"]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def to_device(columns: Sequence[HostColumn], backend: DeviceBackend) -> list[DeviceColumn | HostColumn]:
    """Copy columns to a device; those of types that have no form there come back as they are.

    Raises
    ------
    DeviceMemoryError
        If the device has not so much memory left.
    """
    stream = backend.stream()
    keep: list[Any] = []
    with settled(backend, stream):
        found = [
            _uploaded(column, backend, stream, keep) if has_device_form(column.type) else column
            for column in columns
        ]
        backend.synchronize(stream)
    return found


def _uploaded(column: HostColumn, backend: DeviceBackend, stream: Any, keep: list[Any]) -> DeviceColumn:
    dictionary = None
    if isinstance(column.type, pa.DictionaryType):
        column = without_null_entries(column)
        dictionary = column.dictionary
    elif is_view(column.type):
        column = HostColumn.from_arrow(trimmed(column.to_arrow()))
    keep.append(column)
    buffers = _buffers(column)
    views = len(buffers) - 2 if is_view(column.type) else 0
    table = ctypes.create_string_buffer(max(8, 8 * views))
    sizes = tuple(0 if data is None else data.nbytes for data in buffers)
    places, total = pieces([*(max(16, nbytes) for nbytes in sizes), len(table)])
    block = backend.acquire(total)
    addresses = [block.address + place.offset for place in places]
    struct.pack_into(f"<{views}Q", table, 0, *addresses[2 : 2 + views])
    for address, data in zip(addresses, buffers, strict=False):
        if data is not None and data.nbytes:
            backend.upload(address, data.ctypes.data, data.nbytes, stream)
    if views:
        backend.upload(addresses[-1], ctypes.addressof(table), len(table), stream)
    keep += [buffers, table]
    if buffers[0] is None:
        addresses[0] = 0
    return DeviceColumn(
        backend,
        column.type,
        column.length,
        tuple(addresses[:-1]),
        sizes,
        column.null_count,
        block,
        dictionary=dictionary,
        table=addresses[-1],
    )


def _buffers(column: HostColumn) -> list[Bytes | None]:
    """Return the buffers of the rows of a column, as they are on the device: from row 0 on, offsets from 0 on."""
    addresses, start, rows = column.addresses, column.offset, column.length
    found: list[Bytes | None] = [_bits(addresses[0], start, rows) if column.null_count else None]
    width, of_offsets = value_bytes(column.type), offset_bytes(column.type)
    if of_offsets is not None:
        if not rows or not addresses[1]:
            return [*found, np.zeros(8, np.uint8), np.zeros(0, np.uint8)]
        integer = np.int32 if of_offsets == 4 else np.int64
        offsets = _host(addresses[1] + start * of_offsets, (rows + 1) * of_offsets).view(integer)
        first, last = int(offsets[0]), int(offsets[-1])
        rebased = offsets if not first else offsets - offsets[0]
        return [*found, rebased.view(np.uint8), _host(addresses[2] + first, last - first)]
    if width == 0:
        return [*found, _bits(addresses[1], start, rows)]
    assert width is not None
    found.append(_host(addresses[1] + start * width, rows * width))
    if is_view(column.type):
        buffers = column.to_arrow().buffers()[2:]
        found += [_host(buffer.address, buffer.size) for buffer in buffers if buffer is not None]
    return found


def _host(address: int, nbytes: int) -> Bytes:
    """Return host memory as an array, without copying."""
    if not nbytes:
        return np.zeros(0, np.uint8)
    memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
    return np.frombuffer(memory, np.uint8)


def _bits(address: int, start: int, rows: int) -> Bytes:
    """Return bits from bit ``start`` on, moved to begin with a byte where they do not."""
    shift = start & 7
    found = _host(address + (start >> 3), (shift + rows + 7) >> 3)
    if not shift or not rows:
        return found
    moved: Bytes = np.right_shift(found, shift)
    moved[:-1] |= found[1:] << (8 - shift)
    return moved[: (rows + 7) >> 3]


# ------------------------------------------------------------------------------------------------------- to the host


def to_host(columns: Sequence[DeviceColumn | HostColumn]) -> list[HostColumn]:
    """Copy columns to host memory; those that are there come back as they are."""
    parts = [_Download(column) for column in columns if isinstance(column, DeviceColumn)]
    backends = {id(part.column.backend): part.column.backend for part in parts}
    streams = {key: backend.stream() for key, backend in backends.items()}
    with contextlib.ExitStack() as work:
        for key, backend in backends.items():
            work.enter_context(settled(backend, streams[key]))
        for step in (_Download.begin, _Download.read_text):
            for part in parts:
                step(part, streams[id(part.column.backend)])
            for key, backend in backends.items():
                backend.synchronize(streams[key])
    copied = iter(parts)
    return [next(copied).finish() if isinstance(column, DeviceColumn) else column for column in columns]


def count_nulls(column: DeviceColumn) -> int:
    """Return how many rows are null."""
    download = _Download(column)
    stream = column.backend.stream()
    validity = download.copy(column.addresses[0] + (column.offset >> 3), download.bitmap_bytes, stream)
    column.backend.synchronize(stream)
    bits = np.unpackbits(_host(*validity), count=download.skip + column.length, bitorder="little")
    return int(column.length - np.count_nonzero(bits[download.skip :]))


class _Download:
    """One column on its way to the host: all that has a known size first, then the bytes of strings.

    Copies begin at a multiple of 8 rows, so that bits begin with a byte; `skip` is how many rows too early.
    """

    def __init__(self, column: DeviceColumn) -> None:
        self.column = column
        self.skip = column.offset & 7
        self.rows = self.skip + column.length
        self.bitmap_bytes = (self.rows + 7) // 8
        self._begin = column.offset - self.skip
        self._owners: list[Any] = []
        self._buffers: list[tuple[int, int]] = []

    def copy(self, address: int, nbytes: int, stream: Any) -> tuple[int, int]:
        """Copy bytes to a block of host memory; return where they are and how many."""
        block = default_pool().acquire(nbytes)
        self._owners.append(block)
        if nbytes:
            self.column.backend.download(block.address, address, nbytes, stream)
        return block.address, nbytes

    def begin(self, stream: Any) -> None:
        """Copy the validity, and values or offsets."""
        column = self.column
        validity = (0, 0)
        if column.may_have_nulls:
            validity = self.copy(column.addresses[0] + (self._begin >> 3), self.bitmap_bytes, stream)
        width, of_offsets = value_bytes(column.type), offset_bytes(column.type)
        if width == 0:
            values = self.copy(column.addresses[1] + (self._begin >> 3), self.bitmap_bytes, stream)
        else:
            each = width if of_offsets is None else of_offsets
            assert each is not None
            more = 0 if of_offsets is None else 1
            values = self.copy(column.addresses[1] + self._begin * each, (self.rows + more) * each, stream)
        self._buffers = [validity, values]

    def read_text(self, stream: Any) -> None:
        """Copy what offsets or views point to."""
        column = self.column
        of_offsets = offset_bytes(column.type)
        if of_offsets is None:
            for address, nbytes in zip(column.addresses[2:], column.sizes[2:], strict=True):
                self._buffers.append(self.copy(address, nbytes, stream))
            return
        offsets = _host(*self._buffers[1]).view(np.int32 if of_offsets == 4 else np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        if first:
            np.subtract(offsets, offsets[0], out=offsets)
        self._buffers.append(self.copy(column.addresses[2] + first, last - first, stream))

    def finish(self) -> HostColumn:
        """Return the column."""
        column = self.column
        addresses, sizes = zip(*self._buffers, strict=True)
        return HostColumn.from_buffers(
            column.type,
            column.length,
            addresses,
            sizes,
            column._null_count,
            tuple(self._owners),
            self.skip,
            dictionary=column.dictionary,
        )
