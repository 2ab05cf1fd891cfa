"""What can become a batch without leaving the device it lies on: Arrow, CuPy, torch and Numba arrays of a GPU.

Every function returns None where the data is in host memory: that is ``dataflare.ingest``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from dataflare.kernels.cuda import arrow_device, dlpack
from dataflare.kernels.cuda.backends import cuda_backend
from dataflare.kernels.cuda.column import DeviceColumn
from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.errors import DeviceUnavailableError, SchemaError
from dataflare.kernels.memory import HostColumn
from dataflare.schema import require_unique_names

__all__ = ["DeviceParts", "arrow_parts", "column_parts"]

_HOST_TYPES = frozenset({1, 3, 11})  # CPU, and CUDA's and ROCm's page-locked host memory


class DeviceParts(NamedTuple):
    """What a batch on a device is made of."""

    schema: pa.Schema
    columns: Sequence[DeviceColumn | HostColumn]
    num_rows: int
    backend: DeviceBackend


def arrow_parts(data: Any) -> DeviceParts | None:
    """Take over what speaks Arrow's device interface.

    Raises
    ------
    SchemaError
        It is no batch of named columns, or has a type that cannot be taken over.
    DeviceUnavailableError
        It lies on a device that cannot be used.
    """
    schema_capsule, capsule = data.__arrow_c_device_array__()
    device_type, device_id = arrow_device.device_of_capsule(capsule)
    backend = _backend(device_type, device_id, "this data")
    if backend is None:
        return None
    schema, columns, num_rows = arrow_device.import_batch(schema_capsule, capsule, backend)
    require_unique_names(schema)
    return DeviceParts(schema, columns, num_rows, backend)


def column_parts(columns: Mapping[str, Any]) -> DeviceParts | None:
    """Take over one-dimensional arrays of one device.

    Raises
    ------
    SchemaError
        Some lie on another device or in host memory, or an array has another shape, type or length.
    DeviceUnavailableError
        They lie on a device that cannot be used.
    """
    places = {name: _place_of(name, column) for name, column in columns.items()}
    found = {name: backend for name, backend in places.items() if backend is not None}
    if not found:
        return None
    first, backend = next(iter(found.items()))
    taken = []
    for name, column in columns.items():
        if places[name] is not backend:
            other = places[name]
            where = "in host memory" if other is None else f"on {other.name}"
            raise SchemaError(
                f"column {name!r} lies {where} and column {first!r} on {backend.name}: a batch lies on one device."
            )
        taken.append(column if isinstance(column, DeviceColumn) else _taken(name, column, backend))
    num_rows = taken[0].length
    for name, one in zip(columns, taken, strict=True):
        if one.length != num_rows:
            raise SchemaError(
                f"column {name!r} has {one.length:,} rows and column {first!r} has {num_rows:,}: all columns of a "
                "batch have as many."
            )
    return DeviceParts(
        pa.schema(list(zip(columns, [one.type for one in taken], strict=True))), taken, num_rows, backend
    )


def _place_of(name: str, column: Any) -> DeviceBackend | None:
    if isinstance(column, DeviceColumn):
        return column.backend
    if hasattr(column, "__dlpack_device__"):
        device_type, device_id = column.__dlpack_device__()
        return _backend(device_type, device_id, f"column {name!r}")
    if hasattr(column, "__cuda_array_interface__"):
        return _place_of(name, _as_cupy(name, column))
    return None


def _as_cupy(name: str, column: Any) -> Any:
    """Return an array that only has CUDA's array interface, which does not say on which device it lies, as CuPy's."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise DeviceUnavailableError(
            f"column {name!r} lies on a CUDA device, and CuPy, which is needed there, is not installed: see "
            "dataflare doctor."
        ) from error
    return cupy.asarray(column)


def _backend(device_type: int, device_id: int, what: str) -> DeviceBackend | None:
    """Return the device of DLPack's and Arrow's numbers; None for host memory."""
    if int(device_type) in _HOST_TYPES:
        return None
    device = dlpack.device_name(int(device_type), int(device_id))
    way_out = "Copy it to the host first: cupy.asnumpy(x) for CuPy, x.cpu() for torch."
    if device is None:
        raise DeviceUnavailableError(
            f"{what} lies on device {int(device_id)} of DLPack type {int(device_type)}, and batches lie in host memory "
            f"or on CUDA devices. {way_out}"
        )
    try:
        return cuda_backend(device)
    except DeviceUnavailableError as error:
        raise DeviceUnavailableError(f"{what} lies on {device}, and {error} {way_out}") from error


def _taken(name: str, column: Any, backend: DeviceBackend) -> DeviceColumn:
    array = column if hasattr(column, "__dlpack__") else _as_cupy(name, column)
    stream = backend.stream()
    found = dlpack.Imported(array, name, None if stream is None else int(stream.ptr))
    backend.synchronize(stream)
    is_bool = found.kind == "b1"
    width = int(found.kind[1:])
    if found.address % width:
        raise SchemaError(
            f"column {name!r} does not begin at a multiple of its {width} bytes. Copy it first."
        )
    kind = "u1" if is_bool else found.kind
    data_type: Any = pa.from_numpy_dtype(kind)  # type: ignore[arg-type] # stubs: no names of dtypes
    column = DeviceColumn(
        backend, data_type, found.length, (0, found.address), (0, found.length * width), 0, found.capsule
    )
    return _as_bits(column) if is_bool else column


def _as_bits(column: DeviceColumn) -> DeviceColumn:
    """Return a bool column, made where the bytes lie."""
    from dataflare.batch import SharedDataBatch

    schema = pa.schema([pa.field("value", column.type, nullable=False)])
    values = SharedDataBatch._from_columns(schema, [column], column.length, backend=column.backend)
    bits = values.map(_is_set)._column(0)
    assert isinstance(bits, DeviceColumn)
    return bits


def _is_set(r: Any) -> dict[str, bool]:
    return {"value": r.value != 0}
