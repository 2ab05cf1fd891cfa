"""Narrow an Arrow array to the rows it shows, so that shipping a slice does not ship its parent.

Pickle and every other transport of Arrow buffers send whole buffers: 1,000 rows sliced from a column of 100
MB are 100 MB on the wire. `trimmed` gives an equal array whose buffers end where its rows end. Values are not
copied; what may be is the bookkeeping of a slice: offsets, string views, the validity bits of structs.

Does not cover compacting in place, nor dictionaries: values that the indices do not use are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["trimmed", "used_ranges"]

_LEAST_WASTE_BYTES = 1 << 14  # below this, sending unused text is cheaper than copying the used


def trimmed(array: pa.Array[Any]) -> pa.Array[Any]:
    """Return an array equal to ``array`` over the smallest part of the same memory that holds its rows.

    Unions, list views and run-end encoded arrays are copied; of dense unions the children stay whole.
    """
    data_type = array.type
    if isinstance(array, pa.ExtensionArray):
        extension: pa.Array[Any] = pa.ExtensionArray.from_storage(data_type, trimmed(array.storage))
        return extension
    if isinstance(array, pa.DictionaryArray):
        validity, indices = _bit_aligned(array, data_type.index_type.bit_width)
        return pa.DictionaryArray.from_buffers(
            data_type, len(array), [validity, indices], trimmed(array.dictionary), -1, array.offset & 7
        )
    if isinstance(array, pa.StructArray):
        children = [trimmed(array.field(position)) for position in range(data_type.num_fields)]
        return pa.Array.from_buffers(data_type, len(array), [_validity(array)], -1, 0, children)
    if isinstance(array, pa.FixedSizeListArray):
        size = data_type.list_size
        child = trimmed(array.values.slice(array.offset * size, len(array) * size))
        return pa.Array.from_buffers(data_type, len(array), [_validity(array)], -1, 0, [child])
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.MapArray):
        wide = isinstance(array, pa.LargeListArray)
        validity, offsets, first, last = _offsets(array, 8 if wide else 4)
        child = trimmed(array.values.slice(first, last - first))
        return pa.Array.from_buffers(
            data_type, len(array), [validity, offsets], -1, array.offset & 7, [child]
        )
    if pa.types.is_null(data_type):
        return array
    if pa.types.is_string_view(data_type) or pa.types.is_binary_view(data_type):
        return _trimmed_views(array)
    if _has_offsets(data_type):
        wide = pa.types.is_large_string(data_type) or pa.types.is_large_binary(data_type)
        validity, offsets, first, last = _offsets(array, 8 if wide else 4)
        text = array.buffers()[2]
        if text is not None:
            text = text.slice(first, last - first)
        return pa.Array.from_buffers(data_type, len(array), [validity, offsets, text], -1, array.offset & 7)
    if len(array.buffers()) == 2 and not data_type.num_fields:
        buffers = _bit_aligned(array, data_type.bit_width)
        return pa.Array.from_buffers(data_type, len(array), buffers, -1, array.offset & 7)
    try:
        return pa.concat_arrays([array])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return array


def _has_offsets(data_type: pa.DataType) -> bool:
    return (
        pa.types.is_string(data_type)
        or pa.types.is_binary(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_large_binary(data_type)
    )


def _bits(buffer: pa.Buffer | None, array: pa.Array[Any], bit_width: int) -> pa.Buffer | None:
    """Cut a buffer of ``bit_width`` bits a row to the array's rows, from the last multiple of 8 rows on."""
    if buffer is None:
        return None
    first = array.offset & ~7
    bits = (array.offset - first + len(array)) * bit_width
    return buffer.slice(first * bit_width // 8, min((bits + 7) // 8, buffer.size))


def _bit_aligned(array: pa.Array[Any], bit_width: int) -> list[pa.Buffer | None]:
    validity, values = array.buffers()[:2]
    return [_bits(validity if array.null_count else None, array, 1), _bits(values, array, bit_width)]


def _validity(array: pa.Array[Any]) -> pa.Buffer | None:
    """Return the validity bits from the first row on: children of structs come sliced to it."""
    return pc.is_valid(array).buffers()[1] if array.null_count else None


def _offsets(array: pa.Array[Any], width_bytes: int) -> tuple[pa.Buffer | None, pa.Buffer | None, int, int]:
    """Return validity, offsets that start at 0, and the range of the child or the text that they cover."""
    validity, offsets = array.buffers()[:2]
    if offsets is None or not len(array):
        return None, pa.py_buffer(bytes(8 * width_bytes)), 0, 0
    first_row = array.offset & ~7
    rows = array.offset - first_row + len(array)
    part = offsets.slice(first_row * width_bytes, (rows + 1) * width_bytes)
    values = np.frombuffer(memoryview(part), dtype=f"<i{width_bytes}")
    first, last = int(values[0]), int(values[-1])
    if first:
        part = pa.py_buffer(values - values[0])
    return _bits(validity if array.null_count else None, array, 1), part, first, last


def _trimmed_views(array: pa.Array[Any]) -> pa.Array[Any]:
    """Cut the data buffers of string or binary views to what the rows refer to."""
    rows = len(array)
    validity, views, *buffers = array.buffers()
    texts = [pa.py_buffer(b"") if buffer is None else buffer for buffer in buffers]
    validity = _bits(validity if array.null_count else None, array, 1)
    part = _bits(views, array, 128)
    skip = array.offset & 7
    if part is None or not rows:
        nothing: pa.Array[Any] = pa.array([], type=array.type)
        return nothing
    fields = np.frombuffer(memoryview(part), dtype="<i4").reshape(-1, 4)  # length, prefix, buffer, offset
    long = _points(fields, array, skip)
    used = fields[long]
    used_bytes = int(used[:, 0].sum(dtype=np.int64))
    texts_bytes: int = sum([text.size for text in texts])
    if texts_bytes <= 2 * used_bytes + _LEAST_WASTE_BYTES:
        return pa.Array.from_buffers(array.type, rows, [validity, part, *texts], -1, skip)
    ranges = _ranges(used, len(texts))
    if sum([last - first for first, last in ranges]) > 2 * used_bytes + _LEAST_WASTE_BYTES:
        wide = pa.large_string() if pa.types.is_string_view(array.type) else pa.large_binary()
        # Scattered: copying the text is cheaper than sending the gaps.
        copied: pa.Array[Any] = array.cast(wide).cast(array.type)
        return copied
    moved = fields.copy()
    starts = np.array([first for first, _ in ranges], dtype=np.int64)
    moved[long, 3] -= starts[used[:, 2]].astype(np.int32)
    moved[~long & (fields[:, 0] > 12)] = 0  # rows before the slice, and nulls: may point outside now
    texts = [text.slice(first, last - first) for text, (first, last) in zip(texts, ranges, strict=True)]
    return pa.Array.from_buffers(array.type, rows, [validity, pa.py_buffer(moved.data), *texts], -1, skip)


def used_ranges(array: pa.Array[Any]) -> Sequence[tuple[int, int]]:
    """Return the range of bytes that the rows of an array of views use of each data buffer; (0, 0) of one not used."""
    _, views, *buffers = array.buffers()
    if views is None or not len(array):
        return [(0, 0)] * len(buffers)
    fields = np.frombuffer(memoryview(views), "<i4", 4 * len(array), 16 * array.offset).reshape(-1, 4)
    return _ranges(fields[_points(fields, array, 0)], len(buffers))


def _points(
    fields: np.ndarray[Any, Any], array: pa.Array[Any], skip: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which views point into a buffer: long ones, after the first ``skip``, of rows that are not null."""
    long: np.ndarray[Any, np.dtype[np.bool_]] = fields[:, 0] > 12
    long[:skip] = False
    if array.null_count:
        long[skip:] &= np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False))
    return long


def _ranges(views: np.ndarray[Any, Any], buffer_count: int) -> Sequence[tuple[int, int]]:
    """Return the range of bytes that long views use of each data buffer; (0, 0) of one they do not use."""
    ranges = []
    for buffer in range(buffer_count):
        here = views[views[:, 2] == buffer]
        if len(here):
            ranges.append((int(here[:, 3].min()), int((here[:, 3].astype(np.int64) + here[:, 0]).max())))
        else:
            ranges.append((0, 0))
    return ranges
