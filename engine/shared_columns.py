"""`SharedColumns`: what a batch is made of: immutable columns on one device, and who the batch is.

Covers slices and selections, which share memory, indexing, metadata and watermark, identity. What can be done with
the values is in ``dataflare.batch``, how they leave in ``dataflare.interchange``.
"""

from __future__ import annotations

import builtins
import itertools
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, overload

import pyarrow as pa

from dataflare.kernels.errors import OptionError, SchemaError
from dataflare.kernels.memory import HostColumn
from dataflare.schema import column_index

if TYPE_CHECKING:
    from dataflare.kernels.cuda.column import DeviceColumn
    from dataflare.kernels.cuda.device import DeviceBackend

__all__ = ["NO_METADATA", "SharedColumns"]

NO_METADATA: Mapping[str, Any] = MappingProxyType({})
_allocate = object.__new__
_clock = time.monotonic
_serial = itertools.count()
_process = uuid.uuid4().int >> 64 << 64  # the half of every id that tells processes apart


class SharedColumns:
    """Immutable columns of equal length on one device, shared by reference: what `SharedDataBatch` is made of."""

    __slots__ = (
        "__weakref__",
        "_arrow",
        "_backend",
        "_created_s",
        "_id",
        "_loaded",
        "_metadata",
        "_nbytes",
        "_number",
        "_num_rows",
        "_origin",
        "_schema",
        "_start",
        "_watermark",
    )

    _schema: pa.Schema
    _num_rows: int
    _backend: DeviceBackend | None  # the device that the columns lie on; None for host memory
    _loaded: (
        list[HostColumn | DeviceColumn | None] | None
    )  # those that somebody asked for; None before the first
    _arrow: pa.RecordBatch | None  # in host memory, of a batch on a device a copy
    _origin: Self | None  # the batch that this one is a slice of, itself no slice
    _start: int  # row of the origin
    _watermark: int | None
    _metadata: Mapping[str, Any]
    _created_s: float
    _number: int  # no other batch of this process has it
    _id: str | None
    _nbytes: int

    @classmethod
    def _new(
        cls,
        schema: pa.Schema,
        num_rows: int,
        loaded: list[HostColumn | DeviceColumn | None] | None,
        arrow: pa.RecordBatch | None,
        watermark: int | None,
        metadata: Mapping[str, Any],
        origin: Self | None = None,
        start: int = 0,
        backend: DeviceBackend | None = None,
    ) -> Self:
        batch = _allocate(cls)
        batch._backend = backend
        batch._schema = schema
        batch._num_rows = num_rows
        batch._loaded = loaded
        batch._arrow = arrow
        batch._watermark = watermark
        batch._metadata = metadata
        batch._origin = origin
        batch._start = start
        batch._created_s = _clock()
        batch._number = next(_serial)
        batch._id = None
        batch._nbytes = -1
        return batch

    @classmethod
    def _from_columns(
        cls,
        schema: pa.Schema,
        columns: Sequence[HostColumn | DeviceColumn],
        num_rows: int,
        *,
        watermark: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        backend: DeviceBackend | None = None,
    ) -> Self:
        """Build a batch from columns that are known to fit the schema; the hot path of every stage."""
        known = NO_METADATA if metadata is None else metadata
        return cls._new(schema, num_rows, list(columns), None, watermark, known, backend=backend)

    @property
    def num_rows(self) -> int:
        """Rows."""
        return self._num_rows

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""
        return self._schema.names

    @property
    def nbytes(self) -> int:
        """Bytes that these rows take; of memory shared with other slices, only the part they refer to."""
        if self._nbytes < 0:
            self._nbytes = sum(self._column(position).nbytes for position in range(len(self._schema)))
        return self._nbytes

    @property
    def device(self) -> str:
        """Where the columns lie: "cpu", "cuda:0" or "cuda:emulated".

        Nested columns, which no kernel reads, are in host memory on any device.
        """
        return "cpu" if self._backend is None else self._backend.name

    @property
    def id(self) -> str:
        """A name that no other batch has; copies sent to other processes keep it."""
        if self._id is None:
            self._id = str(uuid.UUID(int=_process | self._number, version=4))  # the same in every thread
        return self._id

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was attached to this batch, read-only. Apart from the schema's metadata, which is Arrow's."""
        return self._metadata

    @property
    def watermark(self) -> int | None:
        """The promise that no later record is older than this, in the stream's unit; None for no promise."""
        return self._watermark

    @property
    def _columns(self) -> tuple[HostColumn, ...]:
        """The columns in host memory; of a batch on a device, copies."""
        positions = range(len(self._schema))
        if self._backend is not None:
            from dataflare.kernels.cuda.copies import to_host

            return tuple(to_host([self._column(position) for position in positions]))
        columns: Any = [self._column(position) for position in positions]
        return tuple(columns)

    def age(self) -> float:
        """Return the seconds since this batch was made."""
        return _clock() - self._created_s

    def with_metadata(self, key: str, value: Any) -> Self:
        """Return a batch over the same columns with one more metadata entry."""
        return self._sharing(self._watermark, MappingProxyType({**self._metadata, key: value}))

    def with_watermark(self, watermark: int | None) -> Self:
        """Return a batch over the same columns with another watermark."""
        mark: Any = watermark
        if mark is not None and (not isinstance(mark, int) or isinstance(mark, bool)):
            raise OptionError(
                f"a watermark is an int in the stream's own unit, or None, not {watermark!r}: "
                "a datetime gives one by int(ts.timestamp() * 1_000_000)."
            )
        return self._sharing(watermark, self._metadata)

    def _sharing(self, watermark: int | None, metadata: Mapping[str, Any]) -> Self:
        return type(self)._new(
            self._schema,
            self._num_rows,
            self._loaded,
            self._arrow,
            watermark,
            metadata,
            self._origin,
            self._start,
            self._backend,
        )

    def slice(self, start: int | None = None, stop: int | None = None) -> Self:
        """Return rows from ``start`` up to ``stop``, sharing memory and clamping as Python does."""
        rows = self._num_rows
        if start is None or start < -rows:
            start = 0
        elif start < 0:
            start += rows
        elif start > rows:
            start = rows
        if stop is None or stop > rows:
            stop = rows
        elif stop < 0:
            stop += rows
        length = stop - start
        if length == rows:
            return self
        origin = self._origin
        return type(self)._new(
            self._schema,
            length if length > 0 else 0,
            None,
            None,
            self._watermark,
            self._metadata,
            self if origin is None else origin,
            self._start + start,
            self._backend,
        )

    def select(self, *names: str) -> Self:
        """Return a batch of these columns, in this order, sharing memory."""
        if not names:
            raise OptionError("select needs the name of at least one column.")
        positions = [column_index(self._schema, name, "select") for name in names]
        if len(set(positions)) != len(positions):
            twice = next(name for name in names if names.count(name) > 1)
            raise SchemaError(f"select names column {twice!r} more than once.")
        fields = [self._schema.field(position) for position in positions]
        return type(self)._from_columns(
            pa.schema(fields, self._schema.metadata),  # type: ignore[arg-type] # stubs: dict is invariant
            [self._column(position) for position in positions],
            self._num_rows,
            watermark=self._watermark,
            metadata=self._metadata,
            backend=self._backend,
        )

    def _column(self, position: int) -> HostColumn | DeviceColumn:
        """Return a column where it lies."""
        loaded = self._loaded
        if loaded is None:
            loaded = self._loaded = [None] * len(self._schema)
        column = loaded[position]
        if column is None:
            origin = self._origin
            if origin is not None:
                column = origin._column(position).slice(self._start, self._num_rows)
            else:
                assert self._arrow is not None  # a batch has columns, an origin or a record batch
                column = HostColumn.from_arrow(self._arrow.column(position))
            loaded[position] = column
        return column

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, key: str) -> Any: ...

    @overload
    def __getitem__(self, key: builtins.slice) -> Self: ...

    def __getitem__(self, key: str | builtins.slice) -> Any:
        """Return rows of this batch, or a column: an Arrow array, of a batch on a device a `DeviceColumn`."""
        if isinstance(key, builtins.slice):
            if key.step not in (None, 1):
                raise OptionError(
                    f"a slice of a batch shares its memory and so has no step {key.step}. "
                    "For every n-th row use to_arrow().take(indices)."
                )
            return self.slice(key.start, key.stop)
        if isinstance(key, str):
            column = self._column(column_index(self._schema, key, "batch[...]"))
            return column.to_arrow() if isinstance(column, HostColumn) else column
        raise TypeError(
            f"a batch is indexed by a column name or a slice of rows, not by {type(key).__name__}. "
            "For Python records use to_pylist()."
        )

    def __contains__(self, name: object) -> bool:
        return name in self._schema.names

    def __iter__(self) -> Any:
        raise TypeError(
            "iterating a batch is ambiguous: use to_pylist() for records, column_names for names, "
            "or map and filter, which are compiled."
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, SharedColumns) and self.id == other.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> Self:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> Self:
        return self


def _start_ids_afresh() -> None:
    global _process
    _process = uuid.uuid4().int >> 64 << 64


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_ids_afresh)
