"""Give a column memory of its own where what it keeps alive is far more than its rows.

What a filter leaves of a batch lies in blocks for the whole batch, and text views point into all the text that was
decoded with them. Who holds on to such a column, until a file's row group is full for instance, holds all of that.
Does not cover shipping (`dataflare.kernels.memory.trimming`): there is nothing gained by narrowing shared buffers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from dataflare.kernels.cpu.jit import LoadedObject
from dataflare.kernels.cpu.objects import load_or_compile
from dataflare.kernels.cpu.parquet_texts import LONGEST_INLINE_BYTES
from dataflare.kernels.cpu.routine import DECLARATIONS, Operand, Routine
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.memory.column import HostColumn, fixed_width_bytes
from dataflare.kernels.memory.pool import HostBlock, default_pool

__all__ = ["compacted"]

_BEARABLE_WASTE = 1.25
_LEAST_WASTE_BYTES = 1 << 16  # of one column: below this, copying costs more than the memory is worth
_VIEW_BYTES = 16


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
    if to_pool:
        width_bytes = fixed_width_bytes(column.type)
        if width_bytes is not None:
            return _copied_values(column, width_bytes)
        if _are_views(column.type):
            return _copied_views(column)
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


def _copied_views(column: HostColumn) -> HostColumn:
    copy_views = _functions().copy_views
    validity, bitmap, skip = _copied_validity(column)
    rows = skip + column.length
    _, views_address, *texts = column.addresses
    source = views_address + (column.offset - skip) * _VIEW_BYTES
    buffers = (ctypes.c_int64 * len(texts))(*texts)
    place = ctypes.addressof(buffers)
    pool = default_pool()
    text_bytes = copy_views(source, rows, validity, place, 0, 0)
    views, heap = pool.acquire(rows * _VIEW_BYTES), pool.acquire(text_bytes)
    copy_views(source, rows, validity, place, views.address, heap.address)
    addresses, sizes = [validity, views.address], [(rows + 7) // 8, rows * _VIEW_BYTES]
    if text_bytes:
        addresses.append(heap.address)
        sizes.append(text_bytes)
    owner = (views, bitmap, heap if text_bytes else None)
    return HostColumn.from_buffers(
        column.type, column.length, addresses, sizes, column.null_count, owner, skip
    )


def _copied_validity(column: HostColumn) -> tuple[int, HostBlock | None, int]:
    """Return the bitmap's address, what keeps it, and how many rows before the first are in it: part of a byte."""
    if not column.null_count:
        return 0, None, 0
    skip = column.offset & 7
    size_bytes = (skip + column.length + 7) // 8
    bitmap = default_pool().acquire(size_bytes)
    ctypes.memmove(bitmap.address, column.addresses[0] + column.offset // 8, size_bytes)
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


@lru_cache(maxsize=1)
def _functions() -> _Functions:
    target = host_target()
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
