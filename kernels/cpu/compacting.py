"""Give a column memory of its own where what it keeps alive is far more than its rows.

What a filter leaves of a batch lies in blocks for the whole batch, and text views point into all the text that was
decoded with them. Who holds on to such a column, until a file's row group is full for instance, holds all of that.
Does not cover shipping (`dataflare.kernels.memory.trimming`): there is nothing gained by narrowing shared buffers.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataflare.kernels.cpu.jit import LoadedObject
from dataflare.kernels.cpu.objects import load_or_compile
from dataflare.kernels.cpu.parquet_texts import LONGEST_INLINE_BYTES
from dataflare.kernels.cpu.routine import DECLARATIONS, Operand, Routine
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn, fixed_width_bytes
from dataflare.kernels.memory.pool import HUGE_PAGE_BYTES, HostBlock, default_pool

__all__ = ["compacted"]

_BEARABLE_WASTE = 1.5
_LEAST_WASTE_BYTES = 1 << 16  # of one column: below this, copying costs more than the memory is worth
_VIEW_BYTES = 16
_MOST_OFFSET = (1 << 31) - 1


def compacted(column: HostColumn, *, to_pool: bool) -> HostColumn:
    """Return the column itself, or a copy of its rows where it keeps alive much more memory than they take.

    Parameters
    ----------
    to_pool
        Copy values and views to blocks of the pool: for what is kept for a while only. Arrow's allocator holds on to
        what one thread takes and another frees, while a block of the pool comes back to who takes the next, but may
        be twice as large as what is in it.
    """
    if column.held_bytes <= _BEARABLE_WASTE * column.nbytes + _LEAST_WASTE_BYTES:
        return column
    to_pool = to_pool and column.nbytes < HUGE_PAGE_BYTES  # its larger blocks are whole huge pages
    width_bytes = fixed_width_bytes(column.type)
    if width_bytes is not None and to_pool:
        return _copied_values(column, width_bytes)
    if _are_views(column.type):
        text_bytes, most_bytes = _long_text_bytes(column)
        if text_bytes > most_bytes:
            return _copied_views(column, None)
        if to_pool:
            return _copied_views(column, text_bytes)
    return HostColumn.from_arrow(_copied(column.to_arrow()))


def _copied_values(column: HostColumn, width_bytes: int) -> HostColumn:
    validity, bitmap, skip = _copied_validity(column)
    rows = skip + column.length
    values = default_pool().acquire(rows * width_bytes)
    source = column.addresses[1] + (column.offset - skip) * width_bytes
    ctypes.memmove(values.address, source, rows * width_bytes)
    return HostColumn.from_block(
        column.type, column.length, validity, values.address, column.null_count, (values, bitmap), skip
    )


def _long_text_bytes(column: HostColumn) -> tuple[int, int]:
    """Return the bytes of the texts outside of the views, and how many there may be for copying them to be of use.

    Texts that many views share, as those of a dictionary, take more in a copy for each than where they are.
    """
    texts = column.to_arrow().buffers()[2:]
    shared_bytes = sum(text.size for text in texts if text is not None)
    return _copy(column, *_copied_validity(column), 0, 0), min(shared_bytes, _MOST_OFFSET)


def _copied_views(column: HostColumn, text_bytes: int | None) -> HostColumn:
    """Copy views, and their texts, of so many bytes; without these where it is None."""
    validity, bitmap, skip = _copied_validity(column)
    rows = skip + column.length
    pool = default_pool()
    views = pool.acquire(rows * _VIEW_BYTES)
    addresses, sizes = [validity, views.address], [(rows + 7) // 8, rows * _VIEW_BYTES]
    if text_bytes is None:
        source = column.addresses[1] + (column.offset - skip) * _VIEW_BYTES
        ctypes.memmove(views.address, source, rows * _VIEW_BYTES)
        owner: tuple[object, ...] = (views, bitmap)
        for text in column.to_arrow().buffers()[2:]:
            if text is None or not text.size:
                addresses.append(views.address)
                sizes.append(0)
                continue
            addresses.append(text.address)
            sizes.append(text.size)
            owner += (column.keeper(text.address),)  # not what else the column keeps alive
    else:
        heap = pool.acquire(text_bytes)
        _copy(column, validity, bitmap, skip, views.address, heap.address)
        if text_bytes:
            addresses.append(heap.address)
            sizes.append(text_bytes)
        owner = (views, bitmap, heap if text_bytes else None)
    return HostColumn.from_buffers(
        column.type, column.length, addresses, sizes, column.null_count, owner, skip
    )


def _copy(
    column: HostColumn, validity: int, bitmap: HostBlock | None, skip: int, views: int, heap: int
) -> int:
    """Call ``copy_views`` for a column; `bitmap` is what keeps the copied `validity`."""
    source = column.addresses[1] + (column.offset - skip) * _VIEW_BYTES
    texts = column.addresses[2:]
    buffers = (ctypes.c_int64 * len(texts))(*texts)
    place = ctypes.addressof(buffers)
    return _functions().copy_views(source, skip + column.length, validity, place, views, heap)


def _copied_validity(column: HostColumn) -> tuple[int, HostBlock | None, int]:
    """Return the bitmap's address, what keeps it, and how many rows before the first are in it: part of a byte.

    Those rows are null, so that nothing of them is copied.
    """
    if not column.null_count:
        return 0, None, 0
    skip = column.offset & 7
    size_bytes = (skip + column.length + 7) // 8
    bitmap = default_pool().acquire(size_bytes)
    ctypes.memmove(bitmap.address, column.addresses[0] + column.offset // 8, size_bytes)
    first = ctypes.c_uint8.from_address(bitmap.address)
    first.value &= 0xFF << skip & 0xFF
    return bitmap.address, bitmap, skip


def _copied(array: pa.Array[Any]) -> pa.Array[Any]:
    if _are_views(array.type):
        return array.cast(pa.large_binary()).cast(array.type)
    try:
        return pa.concat_arrays([array])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return array


def _are_views(data_type: pa.DataType) -> bool:
    return pa.types.is_string_view(data_type) or pa.types.is_binary_view(data_type)


# -- the compiled copy of views ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Functions:
    code: LoadedObject
    copy_views: Callable[[int, int, int, int, int, int], int]


_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 4)


_lock = threading.Lock()
_loaded: list[_Functions] = []


def _functions() -> _Functions:
    with _lock:  # or code that a second thread has loaded as well would go while it runs
        if not _loaded:
            _loaded.append(_load(host_target()))
        return _loaded[0]


def _load(target: Target) -> _Functions:
    text = "\n\n".join([f'target triple = "{target.triple}"', DECLARATIONS, _copy_views()])
    code, _ = load_or_compile(text, target)
    return _Functions(code, code.function("copy_views", _PROTOTYPE))


def _copy_views() -> str:
    """Build ``copy_views(views, count, bitmap, buffers, out, heap)``, which returns the bytes of the long texts.

    `buffers` are addresses of what the views refer to; `heap` becomes what the views of `out` refer to, or is 0 to
    count only. Rows whose bit is 0 become empty: what their views say means nothing. Without nulls `bitmap` is 0.
    """
    f = Routine("copy_views", ("views", "count", "bitmap", "buffers", "out", "heap"), exported=True)
    bitmap, heap = f["bitmap"], f["heap"]
    row, used = f.variable(0), f.variable(0)
    with f.loop(lambda: row < f["count"]):
        view = f["views"] + (row << 4)
        first, second = f.variable(f.load(view, 64)), f.variable(f.load(view + 8, 64))
        with f.when(bitmap.differs(0)):
            bit = (f.load(bitmap + (row >> 3), 8) >> (row & 7)) & 1
            first.set(f.chosen(bit.equals(0), 0, first))
            second.set(f.chosen(bit.equals(0), 0, second))
        length = first & ((1 << 32) - 1)
        with f.when(length > LONGEST_INLINE_BYTES):
            with f.when(heap.differs(0)):
                text = f.load(f["buffers"] + ((second & ((1 << 32) - 1)) << 3), 64) + (second >> 32)
                _copy_text(f, heap + used, text, length)
            second.set(used << 32)
            used.advance(length)
        with f.when(heap.differs(0)):
            target = f["out"] + (row << 4)
            f.store(target, first, 64)
            f.store(target + 8, second, 64)
        row.advance(1)
    f.finish(used)
    return f.build()


def _copy_text(f: Routine, target: Operand, source: Operand, length: Operand) -> None:
    """Copy a text of more than 12 bytes, and nothing beside it: in whole steps, of which the last two may overlap."""
    for least, most, step in ((0, 16, 8), (16, 32, 16), (32, 1 << 32, 32)):
        with f.when((length >= least) & (length < most)):
            _copy_in_steps(f, target, source, length, step)


def _copy_in_steps(f: Routine, target: Operand, source: Operand, length: Operand, step: int) -> None:
    done = f.variable(0)
    with f.loop(lambda: done + step < length):
        f.move(target + done, source + done, step)
        done.advance(step)
    f.move(target + (length - step), source + (length - step), step)
