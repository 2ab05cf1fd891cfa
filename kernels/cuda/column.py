"""`DeviceColumn`: an immutable Arrow column in the memory of a GPU, cheap to slice, with raw addresses.

The buffers are Arrow's own: validity bits, then values, or offsets and bytes, or views and what they point into. Each
begins at a multiple of 256 bytes, so that kernels read whole vectors; a slice begins where it does. The values of a
dictionary stay in host memory, since kernels read the results that were computed for them and not the values.

Columns of nested and other types without buffers of that kind have no form on a device: a batch keeps them in host
memory. Copying is in ``copies``, what other libraries take a column by in ``dlpack`` and ``arrow_device``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from dataflare.kernels.cuda.device import DeviceBackend
from dataflare.kernels.errors import BufferUnavailableError, InterfaceUnavailableError
from dataflare.kernels.llvm.layout import is_view
from dataflare.kernels.memory.column import HostColumn, fixed_width_bytes

__all__ = ["DeviceColumn", "has_device_form", "offset_bytes", "value_bytes"]

_ARRAY_KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "i": pa.types.is_signed_integer,
    "u": pa.types.is_unsigned_integer,
    "f": pa.types.is_floating,
}


def offset_bytes(data_type: pa.DataType) -> int | None:
    """Return the bytes of an offset of strings and binary; None for other types."""
    if pa.types.is_string(data_type) or pa.types.is_binary(data_type):
        return 4
    return 8 if pa.types.is_large_string(data_type) or pa.types.is_large_binary(data_type) else None


def value_bytes(data_type: pa.DataType) -> int | None:
    """Return the bytes of a value, of a view, or of an index into a dictionary; 0 for single bits, None for others."""
    if isinstance(data_type, pa.DictionaryType):
        return int(data_type.index_type.bit_width) // 8
    if is_view(data_type):
        return 16
    return 0 if pa.types.is_boolean(data_type) else fixed_width_bytes(data_type) or None


def has_device_form(data_type: pa.DataType) -> bool:
    """Return whether columns of a type lie on a device; others stay in host memory."""
    return value_bytes(data_type) is not None or offset_bytes(data_type) is not None


class DeviceColumn:
    """An immutable Arrow column in the memory of a GPU.

    Made by ``copies.to_device``, by programs, and from arrays of other libraries. CuPy, torch and Numba take a column
    of numbers without nulls as it is: ``cupy.asarray(column)``, ``torch.as_tensor(column, device="cuda")``. cuDF and
    nanoarrow take one of any type through ``__arrow_c_device_array__``.

    Parameters
    ----------
    offset
        Rows to skip in every buffer, as in Arrow.
    addresses, sizes
        Address and bytes of each buffer, in Arrow's order; address 0 for no validity.
    null_count
        Nulls among the rows; -1 where nobody counted.
    owner
        What keeps the memory: a `DeviceBlock`, an object of another library, or a tuple of them.
    dictionary
        The values, for a dictionary type.
    table
        For views, the address of the addresses of their buffers.
    """

    __slots__ = (
        "__weakref__",
        "_null_count",
        "addresses",
        "backend",
        "dictionary",
        "length",
        "offset",
        "owner",
        "sizes",
        "table",
        "type",
    )

    def __init__(
        self,
        backend: DeviceBackend,
        type: pa.DataType,
        length: int,
        addresses: tuple[int, ...],
        sizes: tuple[int, ...],
        null_count: int,
        owner: object,
        *,
        offset: int = 0,
        dictionary: HostColumn | None = None,
        table: int = 0,
    ) -> None:
        self.backend = backend
        self.type = type
        self.length = length
        self.offset = offset
        self.addresses = addresses
        self.sizes = sizes
        self._null_count = null_count if addresses[0] else 0
        self.owner = owner
        self.dictionary = dictionary
        self.table = table

    @property
    def device(self) -> str:
        """The device that the column lies on, such as "cuda:0"."""
        return self.backend.name

    @property
    def may_have_nulls(self) -> bool:
        """Whether a row may be null, as far as is known without looking."""
        return self._null_count != 0

    @property
    def null_count(self) -> int:
        """Nulls among the rows; counted on first use where it is not known, which copies the validity to the host."""
        if self._null_count < 0:
            from dataflare.kernels.cuda.copies import count_nulls

            self._null_count = count_nulls(self)
        return self._null_count

    @property
    def nbytes(self) -> int:
        """Bytes that these rows take; of a slice of strings, its share of the bytes of all."""
        validity_bytes = (self.length + 7) // 8 if self.may_have_nulls else 0
        width = value_bytes(self.type)
        if width == 0:
            return validity_bytes + (self.length + 7) // 8
        offsets = offset_bytes(self.type)
        if offsets is None:
            assert width is not None
            rows = max(1, self.sizes[1] // width)
            return validity_bytes + width * self.length + sum(self.sizes[2:]) * self.length // rows
        rows = max(1, self.sizes[1] // offsets - 1)
        return validity_bytes + offsets * (self.length + 1) + self.sizes[2] * self.length // rows

    def slice(self, start: int, length: int) -> DeviceColumn:
        """Return ``length`` rows from row ``start`` on, sharing memory; the column must have them."""
        nulls = self._null_count if self._null_count == 0 or length == self.length else -1
        return DeviceColumn(
            self.backend,
            self.type,
            length,
            self.addresses,
            self.sizes,
            nulls,
            self.owner,
            offset=self.offset + start,
            dictionary=self.dictionary,
            table=self.table,
        )

    def to_host(self) -> HostColumn:
        """Return a copy of these rows in host memory."""
        from dataflare.kernels.cuda.copies import to_host

        return to_host([self])[0]

    def to_arrow(self) -> pa.Array[Any]:
        """Return a copy of these rows as an Arrow array in host memory."""
        return self.to_host().to_arrow()

    # ------------------------------------------------------------------------------------------- interchange

    def array_kind(self) -> str:
        """Return how NumPy writes the type of the values, such as "f8": what arrays of other libraries can hold.

        Raises
        ------
        BufferUnavailableError
            If the column is none that they can: it has nulls, or its values are no numbers.
        """
        width = value_bytes(self.type)
        kind = next((kind for kind, fits in _ARRAY_KINDS.items() if fits(self.type)), None)
        if not width or kind is None:
            raise BufferUnavailableError(
                f"a column of type {self.type} is no array of numbers, which CuPy, torch and DLPack need; "
                "Arrow's device interface (__arrow_c_device_array__) has every type."
            )
        if self.null_count:
            raise BufferUnavailableError(
                f"a column with {self.null_count:,} nulls is no array, which has no place for them: replace them "
                "first, with `r.x if r.x is not None else 0.0` for one, or use __arrow_c_device_array__."
            )
        return f"{kind}{width}"

    @property
    def data_address(self) -> int:
        """Address of the first value, of types with whole bytes."""
        width = value_bytes(self.type)
        assert width
        return self.addresses[1] + self.offset * width

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What CuPy, torch and Numba take the values by. All work on them is done: no stream to wait for."""
        try:
            kind = self.array_kind()
        except BufferUnavailableError as error:  # the protocol asks by hasattr
            raise InterfaceUnavailableError(str(error)) from error
        return {
            "shape": (self.length,),
            "typestr": f"<{kind}",
            "data": (self.data_address if self.length else 0, True),
            "strides": None,
            "version": 3,
            "stream": None,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        from dataflare.kernels.cuda.dlpack import device_of

        return device_of(self.backend.name)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        from dataflare.kernels.cuda.dlpack import export

        return export(self, dl_device=dl_device, copy=copy)

    def __arrow_c_device_array__(
        self, requested_schema: object | None = None, **kwargs: Any
    ) -> tuple[object, object]:
        from dataflare.kernels.cuda.arrow_device import export_column

        return export_column(self)

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        nulls = "nulls not counted" if self._null_count < 0 else f"{self._null_count:,} nulls"
        return (
            f"<DeviceColumn {self.type} on {self.device}: {self.length:,} rows from {self.offset:,}, {nulls}>"
        )
