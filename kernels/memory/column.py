"""`HostColumn`: an immutable Arrow column in host memory, cheap to make and to slice, with raw addresses.

Kernels read addresses and never touch ``pyarrow``; everybody else uses `HostColumn.to_arrow`. Both directions
are lazy and copy nothing: an Arrow array is asked for its addresses when a kernel first reads it, and memory
that a kernel wrote becomes an Arrow array when somebody first asks for one.

Does not cover converting between types, computing, or device memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from dataflare.kernels.errors import SchemaError
from dataflare.kernels.memory.pool import HostBlock

__all__ = ["HostColumn", "fixed_width_bytes"]

_FIXED_WIDTH = frozenset(
    {
        pa.lib.Type_BOOL,
        pa.lib.Type_INT8,
        pa.lib.Type_INT16,
        pa.lib.Type_INT32,
        pa.lib.Type_INT64,
        pa.lib.Type_UINT8,
        pa.lib.Type_UINT16,
        pa.lib.Type_UINT32,
        pa.lib.Type_UINT64,
        pa.lib.Type_HALF_FLOAT,
        pa.lib.Type_FLOAT,
        pa.lib.Type_DOUBLE,
        pa.lib.Type_DATE32,
        pa.lib.Type_DATE64,
        pa.lib.Type_TIME32,
        pa.lib.Type_TIME64,
        pa.lib.Type_TIMESTAMP,
        pa.lib.Type_DURATION,
        pa.lib.Type_INTERVAL_MONTH_DAY_NANO,
        pa.lib.Type_DECIMAL32,  # type: ignore[attr-defined] # missing in the stubs, as is the next
        pa.lib.Type_DECIMAL64,  # type: ignore[attr-defined]
        pa.lib.Type_DECIMAL128,
        pa.lib.Type_DECIMAL256,
        pa.lib.Type_FIXED_SIZE_BINARY,
    }
)
_OFFSETS_4_BYTES = frozenset({pa.lib.Type_STRING, pa.lib.Type_BINARY})
_OFFSETS_8_BYTES = frozenset({pa.lib.Type_LARGE_STRING, pa.lib.Type_LARGE_BINARY})
_VIEWS = frozenset({pa.lib.Type_STRING_VIEW, pa.lib.Type_BINARY_VIEW})
_DICTIONARY = pa.lib.Type_DICTIONARY
_ADDRESSABLE = _FIXED_WIDTH | _OFFSETS_4_BYTES | _OFFSETS_8_BYTES | _VIEWS | {_DICTIONARY}


def fixed_width_bytes(data_type: pa.DataType) -> int | None:
    """Return the bytes of one value; None for single bits and for types without a fixed width."""
    if data_type.id not in _FIXED_WIDTH or data_type.bit_width % 8:
        return None
    return data_type.bit_width // 8


class HostColumn:
    """An immutable Arrow column in host memory.

    Made by `from_arrow`, `from_block`, `from_buffers` and `slice`. Attributes are read-only by agreement.
    """

    __slots__ = (
        "__weakref__",
        "_addresses",
        "_arrow",
        "_dictionary",
        "_null_count",
        "_owner",
        "_root",
        "_sizes",
        "length",
        "offset",
        "type",
    )

    type: pa.DataType
    """Arrow type."""
    length: int
    """Rows."""
    offset: int
    """Rows to skip in every buffer, as in Arrow: buffers of a slice are those of the whole."""

    def __init__(
        self,
        type: pa.DataType,
        length: int,
        offset: int,
        null_count: int,
        arrow: pa.Array[Any] | None,
        addresses: tuple[int, ...] | None,
        root: HostColumn | None = None,
        owner: object = None,
        sizes: tuple[int, ...] | None = None,
        dictionary: HostColumn | None = None,
    ) -> None:
        # Positional, and called once a column and batch: keywords would cost a third of the time.
        self.type = type
        self.length = length
        self.offset = offset
        self._null_count = null_count
        self._arrow = arrow
        self._addresses = addresses
        self._sizes = sizes  # of the buffers, in bytes; None: they follow from the fixed width
        self._owner = owner
        self._dictionary = dictionary
        self._root = root  # the column that this one is a slice of; never itself a slice

    @classmethod
    def from_arrow(cls, array: pa.Array[Any]) -> HostColumn:
        """Wrap an Arrow array of any type, at any offset, without copying."""
        return cls(array.type, len(array), array.offset, -1, array, None)

    @classmethod
    def from_block(
        cls,
        type: pa.DataType,
        length: int,
        validity_address: int,
        data_address: int,
        null_count: int,
        owner: object,
        offset: int = 0,
        *,
        dictionary: HostColumn | None = None,
    ) -> HostColumn:
        """Describe what a kernel wrote: fixed-width values, bools or the indices of a dictionary.

        Parameters
        ----------
        validity_address
            Address of the validity bitmap, or 0 where no row is null.
        null_count
            Nulls among the ``length`` rows from ``offset`` on; -1 where nobody counted.
        owner
            What keeps the memory alive, such as a `HostBlock` or a tuple of them.
        dictionary
            The values, for a dictionary type.
        """
        return cls(
            type,
            length,
            offset,
            null_count if validity_address else 0,
            None,
            (validity_address, data_address),
            None,
            owner,
            None,
            dictionary,
        )

    @classmethod
    def from_buffers(
        cls,
        type: pa.DataType,
        length: int,
        addresses: Sequence[int],
        sizes: Sequence[int],
        null_count: int,
        owner: object,
        offset: int = 0,
        *,
        dictionary: HostColumn | None = None,
    ) -> HostColumn:
        """Describe memory of any type that has `addresses`, by the address and the bytes of each buffer.

        The order is that of `addresses`; an absent buffer has address 0.
        """
        return cls(
            type,
            length,
            offset,
            null_count if addresses[0] else 0,
            None,
            tuple(addresses),
            None,
            owner,
            tuple(sizes),
            dictionary,
        )

    @property
    def addresses(self) -> tuple[int, ...]:
        """Addresses of the Arrow buffers, in Arrow's own order for the type; 0 where a buffer is absent.

        Fixed width and bool: validity, data. Strings and binary: validity, offsets, data. String and binary
        views: validity, views, then the data buffers. Dictionary: validity, indices. Any other type has none
        and is to be used through `to_arrow`.
        """
        addresses = self._addresses
        if addresses is None:
            if self._root is not None:
                addresses = self._root.addresses
            elif self.type.id in _ADDRESSABLE:
                buffers = self.to_arrow().buffers()
                addresses = tuple([0 if buffer is None else buffer.address for buffer in buffers])
            else:
                addresses = ()
            self._addresses = addresses
        return addresses

    @property
    def null_count(self) -> int:
        """Nulls among the rows, by the validity bitmap; counted on first use where it is not known."""
        if self._null_count < 0:
            root = self._root
            if root is not None and root.null_count == 0:
                self._null_count = 0  # counted once for all slices, and no Arrow array made for this one
            else:
                self._null_count = self.to_arrow().null_count
        return self._null_count

    @property
    def has_nulls(self) -> bool:
        """Whether any row is null, by the validity bitmap."""
        return self.null_count > 0

    @property
    def dictionary(self) -> HostColumn:
        """The values of a dictionary column.

        Raises
        ------
        SchemaError
            The column is not dictionary-encoded.
        """
        if self._dictionary is None:
            if self._root is not None:
                self._dictionary = self._root.dictionary
            else:
                array = self.to_arrow()
                if not isinstance(array, pa.DictionaryArray):
                    raise SchemaError(f"a column of type {self.type} has no dictionary.")
                self._dictionary = HostColumn.from_arrow(array.dictionary)
        return self._dictionary

    @property
    def nbytes(self) -> int:
        """Bytes that these rows take: of shared buffers only the part that the rows refer to."""
        type_id = self.type.id
        if type_id in _FIXED_WIDTH:
            data_bytes = (self.length * self.type.bit_width + 7) // 8
            if not self._absent_validity():
                data_bytes += (self.length + 7) // 8
            return data_bytes
        if type_id in _VIEWS:
            lengths, _, texts = self._views()
            text_bytes = int(lengths[lengths > 12].sum(dtype="i8"))  # shorter ones lie in the view itself
            if text_bytes:
                text_bytes = min(text_bytes, sum(text.size for text in texts if text is not None))
            return self.own_bytes + text_bytes
        return self.to_arrow().nbytes

    @property
    def own_bytes(self) -> int:
        """Bytes of `nbytes` beside `shared_bytes`."""
        if self.type.id in _VIEWS:
            return 16 * self.length + (0 if self._absent_validity() else (self.length + 7) // 8)
        if self.type.id == _DICTIONARY and self.dictionary.addresses:
            return self.nbytes - self.dictionary.nbytes
        return self.nbytes

    def shared_bytes(self) -> dict[tuple[int, ...], tuple[int, int]]:
        """Return by its place the memory that other columns may have as well: the texts of views, and a dictionary.

        How many bytes of it these rows refer to, at most, and how many there are. A place is an address, or those of a
        dictionary and its first entry: parts of one dictionary that begin elsewhere are different. Columns may know of
        more or less of what lies at one place. Dictionaries without `addresses` are not among it.
        """
        if self.type.id in _VIEWS:
            return {(address,): sizes for address, sizes in self._viewed_bytes().items()}
        if self.type.id == _DICTIONARY and (addresses := self.dictionary.addresses):
            nbytes = self.dictionary.nbytes
            return {(*addresses, self.dictionary.offset): (nbytes, nbytes)}
        return {}

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that this column keeps alive, shared with others or not: whole blocks and whole buffers.

        A slice, or what a filter has left of a batch, can hold many times its `nbytes`.
        """
        blocks = [block.capacity_bytes for block in self._blocks()]
        root = self if self._root is None else self._root
        return sum(blocks) if blocks else root.to_arrow().get_total_buffer_size()

    def keeper(self, address: int) -> object:
        """Return what keeps the memory at one of `addresses` alive: its block, or else the whole column."""
        for block in self._blocks():
            if block.address <= address < block.address + block.capacity_bytes:
                return block
        return self if self._root is None else self._root

    def _blocks(self) -> list[HostBlock]:
        owner = self._owner if self._root is None else self._root._owner
        return [
            each for each in (owner if isinstance(owner, tuple) else (owner,)) if isinstance(each, HostBlock)
        ]

    def slice(self, start: int, length: int) -> HostColumn:
        """Return ``length`` rows from row ``start`` on, sharing memory; the column must have them."""
        return HostColumn(
            self.type,
            length,
            self.offset + start,
            self._null_count if self._null_count == 0 or length == self.length else -1,
            None,
            self._addresses,
            self if self._root is None else self._root,
        )

    def to_arrow(self) -> pa.Array[Any]:
        """Return the column as an Arrow array over the same memory; made once."""
        array = self._arrow
        if array is None:
            root = self._root
            if root is None:
                array = self._arrow_from_addresses()
            else:
                array = root.to_arrow().slice(self.offset - root.offset, self.length)
            self._arrow = array
        return array

    def _arrow_from_addresses(self) -> pa.Array[Any]:
        addresses = self._addresses
        assert addresses is not None  # the constructors give an array, a root or addresses
        sizes = self._sizes
        if sizes is None:
            rows = self.offset + self.length
            sizes = ((rows + 7) // 8, (rows * self.type.bit_width + 7) // 8)
        buffers = [
            pa.foreign_buffer(address, size, base=self._owner) if address else None
            for address, size in zip(addresses, sizes, strict=True)
        ]
        if self._dictionary is not None:
            return pa.DictionaryArray.from_buffers(
                self.type, self.length, buffers, self._dictionary.to_arrow(), self._null_count, self.offset
            )
        return pa.Array.from_buffers(self.type, self.length, buffers, self._null_count, self.offset)

    def _absent_validity(self) -> bool:
        return self._null_count == 0 or not self.addresses[0]

    def _views(self) -> tuple[Any, Any, list[pa.Buffer | None]]:
        """Return the lengths of the views, the numbers of the buffers that have their texts, and those buffers."""
        import numpy as np

        _, views, *texts = self.to_arrow().buffers()
        if views is None or not self.length:
            return np.empty(0, "<i4"), np.empty(0, "<i4"), texts
        parts = np.frombuffer(memoryview(views), dtype="<i4", count=4 * self.length, offset=16 * self.offset)
        return parts[::4], parts[2::4], texts

    def _viewed_bytes(self) -> dict[int, tuple[int, int]]:
        """Arrow counts every data buffer in full for each slice; count what these rows refer to."""
        import numpy as np

        lengths, numbers, texts = self._views()
        # Shorter ones lie in the view itself, and what is null may be anything.
        is_elsewhere = (lengths > 12) & (numbers >= 0) & (numbers < len(texts))
        sums = np.bincount(numbers[is_elsewhere], lengths[is_elsewhere], minlength=len(texts)).tolist()
        return {
            # Several views of one text count once as far as that can be told: the buffer has no more.
            text.address: (min(int(nbytes), text.size), text.size)
            for text, nbytes in zip(texts, sums, strict=True)
            if text is not None and nbytes
        }

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        nulls = "nulls not counted" if self._null_count < 0 else f"{self._null_count:,} nulls"
        return f"<HostColumn {self.type}: {self.length:,} rows from {self.offset:,}, {nulls}>"
