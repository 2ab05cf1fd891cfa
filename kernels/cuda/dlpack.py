"""DLPack of columns on a device: `export` makes the capsule that CuPy and torch take, `Imported` reads theirs.

The structures are those of DLPack 0.8 (``dlpack.h``), written with ctypes, since what they describe is memory that no
library of the host can open. An emulated device is of DLPack's type kDLExtDev, which no GPU library takes by mistake.

Covers one-dimensional, contiguous arrays of whole numbers and floats; bools, which have a byte each, only come in.
"""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING, Any, Final

from dataflare.kernels.errors import BufferUnavailableError, SchemaError

if TYPE_CHECKING:
    from dataflare.kernels.cuda.column import DeviceColumn

__all__ = ["EMULATED_DEVICE_TYPE", "Imported", "device_name", "device_of", "export"]

CUDA_DEVICE_TYPES: Final = (2, 13)
"""kDLCUDA and kDLCUDAManaged."""
EMULATED_DEVICE_TYPE: Final = 12
"""kDLExtDev."""
_CODES: Final = {"i": 0, "u": 1, "f": 2, "b": 6}
_NAME: Final = b"dltensor"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_ManagedTensor))
_ManagedTensor._fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", _Deleter))

_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_exported: dict[
    int, tuple[Any, ...]
] = {}  # by address of the structure: what it needs until its deleter is called
_lock = threading.Lock()


def device_of(name: str) -> tuple[int, int]:
    """Return DLPack's type and number of a device."""
    if name == "cuda:emulated":
        return EMULATED_DEVICE_TYPE, 0
    return CUDA_DEVICE_TYPES[0], int(name.partition(":")[2] or 0)


def device_name(device_type: int, device_id: int) -> str | None:
    """Return the name of a device, given DLPack's type and number; None where it is none of ours."""
    if device_type == EMULATED_DEVICE_TYPE:
        return "cuda:emulated"
    return f"cuda:{device_id}" if device_type in CUDA_DEVICE_TYPES else None


def export(
    column: DeviceColumn, *, dl_device: tuple[int, int] | None = None, copy: bool | None = None
) -> object:
    """Return the capsule of a column; its memory lives until who takes it is done.

    Raises
    ------
    BufferUnavailableError
        If the column has nulls or is not of numbers, or a copy or another device is asked for.
    """
    kind = column.array_kind()
    device = device_of(column.device)
    if copy or (dl_device is not None and tuple(dl_device) != device):
        raise BufferUnavailableError(
            "a column is given where it lies and as it is: use batch.to_device() or to_host() first, or copy what "
            "from_dlpack returns."
        )
    shape, strides = (ctypes.c_int64 * 1)(column.length), (ctypes.c_int64 * 1)(1)
    bits = 8 * int(kind[1:])
    tensor = _Tensor(
        column.data_address if column.length else None,
        *device,
        1,
        _CODES[kind[0]],
        bits,
        1,
        shape,
        strides,
        0,
    )
    managed = _ManagedTensor(tensor, None, _delete_callback)
    address = ctypes.addressof(managed)
    with _lock:
        _exported[address] = (managed, shape, strides, column.owner)
    capsule: object = _new_capsule(address, _NAME, _destroy_callback)
    return capsule


def _delete(managed: Any) -> None:
    with _lock:
        held = _exported.pop(ctypes.addressof(managed.contents), None)
    del held


def _destroy(capsule: int) -> None:
    """Let go of what nobody took; who takes a capsule gives it another name."""
    if _is_valid(capsule, _NAME):
        with _lock:
            held = _exported.pop(_pointer_of(capsule, _NAME), None)
        del held


_delete_callback = _Deleter(_delete)
_destroy_callback = _CapsuleDestructor(_destroy)


class Imported:
    """An array of another library on a device: where it lies, how long it is, NumPy's name of its type.

    The capsule is kept as it is, and with it the array; nothing is taken over.

    Parameters
    ----------
    array
        Has ``__dlpack__``.
    name
        Names the column in messages.
    stream
        The address of the CUDA stream whose work is to see the values; None where there are no streams.

    Raises
    ------
    SchemaError
        If it is no one-dimensional, contiguous array of numbers.
    """

    def __init__(self, array: Any, name: str, stream: int | None) -> None:
        self.capsule = array.__dlpack__() if stream is None else array.__dlpack__(stream=stream)
        managed = ctypes.cast(_pointer_of(id(self.capsule), _NAME), ctypes.POINTER(_ManagedTensor)).contents
        tensor = managed.tensor
        if tensor.ndim != 1:
            raise SchemaError(f"column {name!r} has {tensor.ndim} dimensions: a column has one.")
        self.length = int(tensor.shape[0])
        kind = next((kind for kind, code in _CODES.items() if code == tensor.code), None)
        if kind is None or tensor.lanes != 1 or tensor.bits % 8:
            raise SchemaError(
                f"column {name!r} is an array of DLPack type {tensor.code} with {tensor.bits} bits: a column on a "
                "device is made of integers, floats or bools."
            )
        if tensor.strides and self.length > 1 and tensor.strides[0] != 1:
            raise SchemaError(
                f"column {name!r} is not contiguous: every {tensor.strides[0]}th value is one of it. Copy it first."
            )
        self.kind = f"{kind}{tensor.bits // 8}"
        self.address = int(tensor.data or 0) + int(tensor.byte_offset)
