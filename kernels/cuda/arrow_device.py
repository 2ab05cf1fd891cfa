"""Arrow's C device data interface: `export_batch` and `export_column`, and `import_batch` of what others export.

The structures are written with ctypes: pyarrow without its CUDA module cannot describe memory of a device. What is
exported holds the columns until its consumer releases it; what is imported is held by its capsule. All work on an
exported column is done, so there is no event to wait for. Nested columns, which are in host memory, are not exported.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from dataflare.kernels.cuda.column import DeviceColumn, has_device_form, offset_bytes
from dataflare.kernels.cuda.copies import to_device
from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.cuda.dlpack import device_of
from dataflare.kernels.errors import BufferUnavailableError, SchemaError
from dataflare.kernels.llvm.layout import is_view
from dataflare.kernels.memory.column import HostColumn

__all__ = ["device_of_capsule", "export_batch", "export_column", "import_batch"]

_NAME: Final = b"arrow_device_array"


class _Array(ctypes.Structure):
    pass


_Release = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Array))
_Array._fields_ = (
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.POINTER(_Array)),
    ("release", _Release),
    ("private_data", ctypes.c_void_p),
)


class _DeviceArray(ctypes.Structure):
    _fields_ = (
        ("array", _Array),
        ("device_id", ctypes.c_int64),
        ("device_type", ctypes.c_int32),
        ("sync_event", ctypes.c_void_p),
        ("reserved", ctypes.c_int64 * 3),
    )


_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_held: dict[int, Any] = {}  # by `private_data`: what an exported array needs until it is released
_capsules: dict[int, _DeviceArray] = {}  # by address: the structures that capsules point to
_lock = threading.Lock()
_next_key = 0


# ---------------------------------------------------------------------------------------------------------- out


def export_column(column: DeviceColumn) -> tuple[object, object]:
    """Return the capsules of the type and of the array of a column."""
    return _schema_capsule(column.type), _capsule(_array_of(column), column.backend)


def export_batch(
    schema: pa.Schema, columns: Sequence[DeviceColumn | HostColumn], num_rows: int, backend: DeviceBackend
) -> tuple[object, object]:
    """Return the capsules of the schema and of a struct of the columns.

    Raises
    ------
    BufferUnavailableError
        If a column is in host memory, since its type has no form on a device.
    """
    children = []
    for name, column in zip(schema.names, columns, strict=True):
        if isinstance(column, HostColumn):
            raise BufferUnavailableError(
                f"column {name!r} of type {column.type} is in host memory, since no kernel reads it: select() the "
                "other columns first."
            )
        children.append(_array_of(column))
    array = _filled(num_rows, 0, 0, [None], children, None, None)
    return _schema_capsule(schema), _capsule(array, backend)


def _schema_capsule(described: Any) -> object:
    capsule: object = described.__arrow_c_schema__()
    return capsule


def _array_of(column: DeviceColumn) -> _Array:
    addresses: list[int | None] = [address or None for address in column.addresses]
    keep: list[Any] = [column.owner]
    dictionary = None
    if is_view(
        column.type
    ):  # the interface has the sizes of the buffers as a buffer of its own, read by the host
        sizes = (ctypes.c_int64 * max(1, len(column.sizes) - 2))(*column.sizes[2:])
        keep.append(sizes)
        addresses.append(ctypes.addressof(sizes))
    if column.dictionary is not None:
        (values,) = to_device([column.dictionary], column.backend)
        if isinstance(values, HostColumn):
            raise BufferUnavailableError(
                f"a dictionary of {values.type} has no form on a device: decode the column first."
            )
        dictionary = _array_of(values)
    nulls = column._null_count
    return _filled(column.length, nulls, column.offset, addresses, [], dictionary, keep)


def _filled(
    length: int,
    null_count: int,
    offset: int,
    addresses: Sequence[int | None],
    children: Sequence[_Array],
    dictionary: _Array | None,
    owner: object,
) -> _Array:
    """Return an array that keeps what it consists of until it is released."""
    global _next_key
    buffers = (ctypes.c_void_p * len(addresses))(*addresses)
    pointers = (ctypes.POINTER(_Array) * max(1, len(children)))(*map(ctypes.pointer, children))
    array = _Array(
        length,
        null_count,
        offset,
        len(addresses),
        len(children),
        buffers,
        pointers if children else None,
        None if dictionary is None else ctypes.pointer(dictionary),
        _release_callback,
    )
    with _lock:
        _next_key += 1
        array.private_data = _next_key
        _held[_next_key] = (buffers, pointers, children, dictionary, owner)
    return array


def _release(pointer: Any) -> None:
    """Let go of an array, and of those inside of it that were not moved elsewhere."""
    array = pointer.contents
    for number in range(array.n_children):
        child = array.children[number]
        if child.contents.release:
            child.contents.release(child)
    if array.dictionary and array.dictionary.contents.release:
        array.dictionary.contents.release(array.dictionary)
    with _lock:
        held = _held.pop(array.private_data, None)
    array.release = _Release()
    del held


def _capsule(array: _Array, backend: DeviceBackend) -> object:
    device_type, device_id = device_of(backend.name)
    device_array = _DeviceArray(array, device_id, device_type, None)
    address = ctypes.addressof(device_array)
    with _lock:
        _capsules[address] = device_array
    capsule: object = _new_capsule(address, _NAME, _destroy_callback)
    return capsule


def _destroy(capsule: int) -> None:
    """Release what nobody took, and the structure itself; who takes the array moves it out of there."""
    with _lock:
        device_array = _capsules.pop(_pointer_of(capsule, _NAME), None)
    if device_array is not None and device_array.array.release:
        device_array.array.release(ctypes.pointer(device_array.array))


_release_callback = _Release(_release)
_destroy_callback = _CapsuleDestructor(_destroy)


# ----------------------------------------------------------------------------------------------------------- in


def device_of_capsule(capsule: object) -> tuple[int, int]:
    """Return the type and number of the device that an exported array lies on; Arrow's types are DLPack's."""
    found = _opened(capsule)
    return int(found.device_type), int(found.device_id)


def _opened(capsule: object) -> _DeviceArray:
    pointer = ctypes.cast(_pointer_of(id(capsule), _NAME), ctypes.POINTER(_DeviceArray))
    return pointer.contents


def import_batch(
    schema_capsule: Any, capsule: object, backend: DeviceBackend
) -> tuple[pa.Schema, list[DeviceColumn | HostColumn], int]:
    """Return schema, columns and rows of an exported struct, without copying; the columns hold the capsule.

    Raises
    ------
    SchemaError
        If it is no struct of columns, or a column has a type without a form on a device.
    BufferUnavailableError
        If there is an event to wait for, and the device has none.
    """
    found = _opened(capsule)
    if found.sync_event:
        _wait(backend, found.sync_event)
    importer: Any = pa.Schema
    schema: pa.Schema = importer._import_from_c_capsule(schema_capsule)
    array = found.array
    if array.n_children != len(schema):
        raise SchemaError("from_arrow needs columns with names: give a single column to from_columns.")
    columns: list[DeviceColumn | HostColumn] = [
        _imported(
            field.name,
            field.type,
            array.children[number].contents,
            array.offset,
            array.length,
            backend,
            capsule,
        )
        for number, field in enumerate(schema)
    ]
    return schema, columns, int(array.length)


def _wait(backend: DeviceBackend, event: int) -> None:
    """Wait for the work of a producer; ``event`` is the address of a CUDA event."""
    from dataflare.kernels.cuda.gpu import CupyBackend

    if not isinstance(backend, CupyBackend):
        raise BufferUnavailableError(
            f"the producer gave an event to wait for, and {backend.name} has no events."
        )
    backend.wait_for(ctypes.c_void_p.from_address(event).value or 0)


def _imported(
    name: str, data_type: Any, array: _Array, skip: int, length: int, backend: DeviceBackend, owner: object
) -> DeviceColumn:
    if not has_device_form(data_type) or is_view(data_type):
        raise SchemaError(
            f"column {name!r} of type {data_type} cannot be taken over from a device: leave it out, or cast it to "
            "string or large_string first."
        )
    dictionary = None
    if isinstance(data_type, pa.DictionaryType):
        values = array.dictionary.contents
        dictionary = _imported(name, data_type.value_type, values, 0, values.length, backend, owner).to_host()
    offset = array.offset + skip
    whole = length == array.length
    addresses = tuple(int(array.buffers[number] or 0) for number in range(array.n_buffers))
    rows = offset + length
    width = offset_bytes(data_type)
    sizes = [(rows + 7) // 8, (rows + 1) * width if width else -(-rows * data_type.bit_width // 8)]
    if isinstance(data_type, pa.DictionaryType):
        sizes[1] = rows * data_type.index_type.bit_width // 8
    column = DeviceColumn(
        backend,
        data_type,
        length,
        addresses,
        (*sizes, 0) if width else tuple(sizes),
        array.null_count if whole else -1,
        owner,
        offset=offset,
        dictionary=dictionary,
    )
    if dictionary is None or not dictionary.null_count:
        return column
    (moved,) = to_device([column.to_host()], backend)  # where nulls are moved to the indices
    assert isinstance(moved, DeviceColumn)
    return moved
