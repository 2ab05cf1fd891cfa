"""`SharedDataBatch`: immutable columns on one device, shared by reference.

Slices, selections, threads and pipeline stages share one memory; nothing is copied before somebody has to.
What can become a batch is in `dataflare.ingest`, how one prints in `dataflare.display`, how functions are
applied to one in `dataflare.apply`. Does not cover streams of batches: those are pipelines.
"""

from __future__ import annotations

import builtins
import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

import pyarrow as pa

from dataflare import apply, display, ingest
from dataflare.kernels.errors import OptionError, SchemaError
from dataflare.kernels.memory import HostColumn
from dataflare.kernels.memory.joining import join_columns
from dataflare.kernels.memory.trimming import trimmed
from dataflare.kernels.udf.stages import FilterStage, MapStage, WithColumnsStage
from dataflare.schema import column_index, first_difference, merged_schema

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped] # no stubs
    import polars as pl

    from dataflare.kernels.cuda.column import DeviceColumn
    from dataflare.kernels.cuda.device import DeviceBackend

__all__ = ["SharedDataBatch"]

_NO_METADATA: Mapping[str, Any] = MappingProxyType({})
_allocate = object.__new__
_clock = time.monotonic
_serial = itertools.count()
_process = uuid.uuid4().int >> 64 << 64  # the half of every id that tells processes apart


class SharedDataBatch:
    """Immutable columns of equal length on one device, shared by reference.

    Made by the class methods, by `slice`, `select`, `map`, `filter`, `with_columns` and `merge`, never by its
    constructor. A batch has Arrow columns of any type, a read-only ``metadata`` mapping and an optional
    ``watermark``. Everything derived from a batch carries both on. Two batches are equal if they are the same
    batch, copies sent to other processes included; `equals` compares what is in them.

    Examples
    --------
    >>> import dataflare as flare
    >>> batch = flare.SharedDataBatch.from_pydict({"name": ["Ada", "Grace"], "born": [1815, 1906]})
    >>> batch
    SharedDataBatch: 2 rows × 2 columns, 32 B on cpu
      name  string  'Ada', 'Grace'
      born  int64   1815, 1906
    >>> batch[1:].to_pylist()
    [{'name': 'Grace', 'born': 1906}]
    """

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
    _origin: SharedDataBatch | None  # the batch that this one is a slice of, itself no slice
    _start: int  # row of the origin
    _watermark: int | None
    _metadata: Mapping[str, Any]
    _created_s: float
    _number: int  # no other batch of this process has it
    _id: str | None
    _nbytes: int

    def __init__(self) -> None:
        raise TypeError(
            "SharedDataBatch is made by from_arrow, from_pydict, from_records, from_columns or empty, "
            "not by its constructor."
        )

    @classmethod
    def _new(
        cls,
        schema: pa.Schema,
        num_rows: int,
        loaded: list[HostColumn | DeviceColumn | None] | None,
        arrow: pa.RecordBatch | None,
        watermark: int | None,
        metadata: Mapping[str, Any],
        origin: SharedDataBatch | None = None,
        start: int = 0,
        backend: DeviceBackend | None = None,
    ) -> SharedDataBatch:
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
    ) -> SharedDataBatch:
        """Build a batch from columns that are known to fit the schema; the hot path of every stage."""
        known = _NO_METADATA if metadata is None else metadata
        return cls._new(schema, num_rows, list(columns), None, watermark, known, backend=backend)

    @classmethod
    def _from_arrays(
        cls, schema: pa.Schema, arrays: Sequence[pa.Array[Any]], num_rows: int
    ) -> SharedDataBatch:
        return cls._from_columns(schema, [HostColumn.from_arrow(array) for array in arrays], num_rows)

    @classmethod
    def from_arrow(cls, data: Any) -> SharedDataBatch:
        """Wrap an Arrow record batch or table, or anything that exports one, without copying.

        Takes pyarrow objects and whatever has ``__arrow_c_stream__`` or ``__arrow_c_array__``: Polars and
        pandas data frames, DuckDB relations, nanoarrow and arro3 objects. A batch is contiguous: columns in
        several chunks are concatenated, which copies them. pandas decides what it exports: NaN becomes null,
        and an index that is not a plain range becomes a column. What has ``__arrow_c_device_array__`` and lies on
        a CUDA device, such as tables of cuDF, becomes a batch on that device.

        Raises
        ------
        SchemaError
            ``data`` is none of these, has columns without names, or two of one name.
        DataError
            A column in chunks is too large for its type when made contiguous, or has nulls that its field
            rules out.
        """
        if isinstance(data, SharedDataBatch):
            return data
        if ingest.may_lie_on_device(data):
            from dataflare import device_ingest

            parts = device_ingest.arrow_parts(data)
            if parts is not None:
                return cls._from_columns(*parts[:3], backend=parts.backend)
        batch = ingest.arrow_batch(data)
        return cls._new(batch.schema, batch.num_rows, None, batch, None, _NO_METADATA)

    @classmethod
    def from_pydict(
        cls, data: Mapping[str, Any], schema: pa.Schema | Mapping[str, pa.DataType] | None = None
    ) -> SharedDataBatch:
        """Build a batch from a mapping of column names to sequences of Python values.

        Parameters
        ----------
        schema
            Order and types of the columns; without it, both follow from the data.

        Raises
        ------
        DataError
            A value does not convert; the message names column and row.
        SchemaError
            Columns of different lengths, or columns that the schema does not have or that have no values.
        """
        return cls._from_arrays(*ingest.from_pydict(data, schema))

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        schema: pa.Schema | Mapping[str, pa.DataType] | None = None,
    ) -> SharedDataBatch:
        """Build a batch from records: mappings from field names to Python values.

        Without a schema, columns appear in the order in which records first name them. A field that a record
        lacks is null.

        Raises
        ------
        DataError
            A record that is no mapping, a field that the schema does not have, a value that does not convert,
            or a null that the schema rules out; the message names record and field.
        """
        return cls._from_arrays(*ingest.from_records(records, schema))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> SharedDataBatch:
        """Wrap one-dimensional arrays: NumPy, or anything that speaks DLPack or Arrow.

        Native, contiguous numbers and datetimes are shared, not copied: do not write to the arrays
        afterwards. Strided and byte-swapped arrays are copied, as are bools, which Arrow stores as bits. NaT
        and masked values become null; NaN stays a value. Integers and floats on a CUDA device, of CuPy, torch or
        Numba, become a batch on that device.

        Raises
        ------
        SchemaError
            An array of another shape, a dtype that Arrow does not have, different lengths or devices.
        DeviceUnavailableError
            An array that lies on a device that cannot be used.
        """
        if any(map(ingest.may_lie_on_device, getattr(columns, "values", tuple)())):
            from dataflare import device_ingest

            parts = device_ingest.column_parts(columns)
            if parts is not None:
                return cls._from_columns(*parts[:3], backend=parts.backend)
        return cls._from_arrays(*ingest.from_columns(columns))

    @classmethod
    def empty(cls, schema: pa.Schema | Mapping[str, pa.DataType]) -> SharedDataBatch:
        """Return a batch of no rows."""
        fields = ingest.as_schema(schema)
        return cls._from_arrays(fields, [ingest.empty_array(field.type) for field in fields], 0)

    @classmethod
    def merge(
        cls, batches: Iterable[SharedDataBatch], watermark: Literal["min", "max"] = "min"
    ) -> SharedDataBatch:
        """Concatenate batches whose schemas agree. Of one metadata key, the later batch's value wins.

        Parameters
        ----------
        watermark
            ``"min"``: the lowest, and None when any batch has none, since a watermark promises that no later
            record is older, and only the lowest keeps that promise across inputs. ``"max"``: the highest
            known, for consecutive batches of one ordered stream.

        Raises
        ------
        SchemaError
            Two batches differ in a column; the message names it.
        OptionError
            There is no batch, or they lie on different devices.

        Notes
        -----
        Batches on a device are joined in host memory and copied back.
        """
        parts: list[Any] = list(batches)
        if watermark not in ("min", "max"):
            raise OptionError(f"watermark={watermark!r} is not a way to merge: use 'min' or 'max'.")
        if not parts:
            raise OptionError("merge needs at least one batch; for none, use SharedDataBatch.empty(schema).")
        for position, part in enumerate(parts):
            if not isinstance(part, SharedDataBatch):
                raise SchemaError(f"merge takes batches, and item {position} is none: use from_arrow on it.")
        first: SharedDataBatch = parts[0]
        if len(parts) == 1:
            return first
        if any(part._backend is not None for part in parts):
            return cls._merged_on_device(parts, watermark)
        for position, part in enumerate(parts[1:], 1):
            difference = first_difference(first._schema, part._schema)
            if difference is not None:
                raise SchemaError(f"merge: batch {position} does not fit batch 0: {difference}")
        marks = [part._watermark for part in parts]
        known = [mark for mark in marks if mark is not None]
        if watermark == "min":
            merged_mark = min(known) if len(known) == len(marks) else None
        else:
            merged_mark = max(known, default=None)
        metadata: dict[str, Any] = {}
        for part in parts:
            metadata.update(part._metadata)
        rows = sum(part._num_rows for part in parts)
        filled = [part for part in parts if part._num_rows] or [first]
        held = [part._columns for part in filled]
        joined = join_columns(
            [[columns[position] for columns in held] for position in range(len(first._schema))]
        )
        merged = [
            HostColumn.from_arrow(ingest.one_array(name, [columns[position].to_arrow() for columns in held]))
            if column is None
            else column
            for position, (name, column) in enumerate(zip(first._schema.names, joined, strict=True))
        ]
        schema = merged_schema([part._schema for part in parts])
        return cls._from_columns(
            schema, merged, rows, watermark=merged_mark, metadata=MappingProxyType(metadata)
        )

    @classmethod
    def _merged_on_device(
        cls, parts: Sequence[SharedDataBatch], watermark: Literal["min", "max"]
    ) -> SharedDataBatch:
        devices = sorted({part.device for part in parts})
        if len(devices) > 1:
            raise OptionError(
                f"merge takes batches of one device, and these lie on {', '.join(devices)}: use to_host() or "
                "to_device() on some of them."
            )
        merged = cls.merge([part.to_host() for part in parts], watermark)
        backend = parts[0]._backend
        return merged if backend is None else merged._moved(backend)

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
            self._nbytes = sum(column.nbytes for column in self._columns)
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

    def with_metadata(self, key: str, value: Any) -> SharedDataBatch:
        """Return a batch over the same columns with one more metadata entry."""
        return self._sharing(self._watermark, MappingProxyType({**self._metadata, key: value}))

    def with_watermark(self, watermark: int | None) -> SharedDataBatch:
        """Return a batch over the same columns with another watermark."""
        mark: Any = watermark
        if mark is not None and (not isinstance(mark, int) or isinstance(mark, bool)):
            raise OptionError(
                f"a watermark is an int in the stream's own unit, or None, not {watermark!r}: "
                "a datetime gives one by int(ts.timestamp() * 1_000_000)."
            )
        return self._sharing(watermark, self._metadata)

    def _sharing(self, watermark: int | None, metadata: Mapping[str, Any]) -> SharedDataBatch:
        return SharedDataBatch._new(
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

    def slice(self, start: int | None = None, stop: int | None = None) -> SharedDataBatch:
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
        return SharedDataBatch._new(
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

    def select(self, *names: str) -> SharedDataBatch:
        """Return a batch of these columns, in this order, sharing memory."""
        if not names:
            raise OptionError("select needs the name of at least one column.")
        positions = [column_index(self._schema, name, "select") for name in names]
        if len(set(positions)) != len(positions):
            twice = next(name for name in names if names.count(name) > 1)
            raise SchemaError(f"select names column {twice!r} more than once.")
        fields = [self._schema.field(position) for position in positions]
        return SharedDataBatch._from_columns(
            pa.schema(fields, self._schema.metadata),  # type: ignore[arg-type] # stubs: dict is invariant
            [self._column(position) for position in positions],
            self._num_rows,
            watermark=self._watermark,
            metadata=self._metadata,
            backend=self._backend,
        )

    def map(self, fn: Callable[[Any], Any]) -> SharedDataBatch:
        """Return the records that ``fn`` makes of these.

        It returns a dict, a NamedTuple or ``{**r, "new": value}``. The function is compiled at the first call
        and known from then on, until a value that it captured changes.
        """
        backend = self._backend
        key = (MapStage, apply.function_key(fn), backend)
        known = apply.known_program(key, self._schema)
        return self._run(known or apply.remember_program(key, MapStage(fn), self._schema, backend))

    def filter(self, fn: Callable[[Any], Any]) -> SharedDataBatch:
        """Return the records for which ``fn`` is true; null counts as false."""
        backend = self._backend
        key = (FilterStage, apply.function_key(fn), backend)
        known = apply.known_program(key, self._schema)
        return self._run(known or apply.remember_program(key, FilterStage(fn), self._schema, backend))

    def with_columns(
        self, fn: Callable[[Any], Any] | None = None, /, **named: Callable[[Any], Any]
    ) -> SharedDataBatch:
        """Return the records with columns added or replaced.

        Parameters
        ----------
        fn
            Returns a dict of new columns.
        **named
            Each returns the value of the column of that name. All see the records as they were.
        """
        functions = named.items()
        key = (
            WithColumnsStage,
            self._backend,
            None if fn is None else apply.function_key(fn),
            *[(name, apply.function_key(function)) for name, function in functions],
        )
        known = apply.known_program(key, self._schema)
        if known is None:
            if fn is None and not named:
                raise OptionError("with_columns needs a function, or name=function for each new column.")
            stage = WithColumnsStage(fn=fn, named=tuple(functions))
            known = apply.remember_program(key, stage, self._schema, self._backend)
        return self._run(known)

    def _run(self, known: apply.KnownProgram) -> SharedDataBatch:
        result = known.run([self._column(position) for position in known.positions], self._num_rows)
        return SharedDataBatch._from_columns(
            known.output_schema,
            result.columns,
            result.num_rows,
            watermark=self._watermark,
            metadata=self._metadata,
            backend=self._backend,
        )

    def to_device(self, device: str) -> SharedDataBatch:
        """Return this batch on a device: this one if it is there, otherwise a copy.

        `slice`, `select`, `map`, `filter` and `with_columns` then run where the batch lies and leave their results
        there; what passes to the host are numbers of rows. ``batch["x"]`` is a column that CuPy, torch, Numba and
        cuDF take without copying. `to_arrow`, `to_pylist` and other ways into host memory copy, as `to_host` does.

        Parameters
        ----------
        device
            ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"cuda:emulated"``, which needs no GPU.

        Raises
        ------
        DeviceUnavailableError
            There is no such GPU, or none that can be used; the message says why.
        DeviceMemoryError
            The batch does not fit the device.
        """
        if device == "cpu":
            return self.to_host()
        if device != "cuda" and not device.startswith("cuda:"):
            raise OptionError(
                f'device {device!r} is not known: it is "cpu", "cuda", "cuda:N" or "cuda:emulated".'
            )
        if self.device == device or (device == "cuda" and self.device not in ("cpu", "cuda:emulated")):
            return self
        from dataflare.kernels.cuda.backends import cuda_backend

        backend = cuda_backend(device)
        return self._moved(backend)

    def _moved(self, backend: DeviceBackend) -> SharedDataBatch:
        """Return a copy on a device."""
        from dataflare.kernels.cuda.copies import to_device

        columns = to_device(self._columns, backend)
        return self._copied(columns, backend)

    def _copied(
        self, columns: Sequence[HostColumn | DeviceColumn], backend: DeviceBackend | None
    ) -> SharedDataBatch:
        return SharedDataBatch._from_columns(
            self._schema,
            columns,
            self._num_rows,
            watermark=self._watermark,
            metadata=self._metadata,
            backend=backend,
        )

    def to_host(self) -> SharedDataBatch:
        """Return this batch in host memory: this one if it is there, otherwise a copy."""
        return self if self._backend is None else self._copied(self._columns, None)

    def to_arrow(self) -> pa.RecordBatch:
        """Return a pyarrow record batch over the same memory, or of a batch on a device a copy in host memory.

        It carries neither metadata nor watermark.
        """
        batch = self._arrow
        if batch is None:
            if self._origin is not None and self._loaded is None and self._backend is None:
                batch = self._origin.to_arrow().slice(self._start, self._num_rows)
            elif len(self._schema):
                arrays = [column.to_arrow() for column in self._columns]
                batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
            else:  # rows without columns: only structs can say how many
                rows: Any = pa.Array.from_buffers(pa.struct([]), self._num_rows, [None])
                batch = pa.RecordBatch.from_struct_array(rows).replace_schema_metadata(self._schema.metadata)
            self._arrow = batch
        return batch

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the records as dicts of Python values."""
        return self.to_arrow().to_pylist()

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas data frame, by pandas' own rules for nulls. Needs pandas."""
        try:
            import pandas  # noqa: F401 - only to say what is missing
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_pandas needs pandas: pip install pandas", name="pandas") from error
        return self.to_arrow().to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return a Polars data frame over the same memory where Polars has the type. Needs polars."""
        try:
            import polars as pl
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("to_polars needs polars: pip install polars", name="polars") from error
        return pl.DataFrame(self.to_arrow())

    def equals(self, other: SharedDataBatch) -> bool:
        """Whether names, types and values are equal; metadata, watermark and id are not compared."""
        return first_difference(self._schema, other._schema) is None and all(
            mine.to_arrow().equals(theirs.to_arrow())
            for mine, theirs in zip(self._columns, other._columns, strict=True)
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
    def __getitem__(self, key: builtins.slice) -> SharedDataBatch: ...

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
        return self is other or (isinstance(other, SharedDataBatch) and self.id == other.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> SharedDataBatch:
        return self  # immutable

    def __deepcopy__(self, memo: object) -> SharedDataBatch:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # pyarrow hands the buffers of arrays to protocol 5 out of band, whole ones: hence `trimmed`.
        arrays = [trimmed(column.to_arrow()) for column in self._columns]
        state = (arrays, self._num_rows, self._watermark, dict(self._metadata), self.id, self.age())
        return _restored, (self._schema, *state)

    def __arrow_c_schema__(self) -> object:
        return self._schema.__arrow_c_schema__()

    def __arrow_c_array__(self, requested_schema: object | None = None) -> Any:
        return _exporter(self).__arrow_c_array__(requested_schema)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return _exporter(self).__arrow_c_stream__(requested_schema)

    def __arrow_c_device_array__(self, requested_schema: object | None = None, **kwargs: Any) -> Any:
        if self._backend is None:
            return _exporter(self).__arrow_c_device_array__(requested_schema, **kwargs)
        from dataflare.kernels.cuda.arrow_device import export_batch

        columns = [self._column(position) for position in range(len(self._schema))]
        return export_batch(self._schema, columns, self._num_rows, self._backend)

    def __repr__(self) -> str:
        return display.plain_text(self)

    def _repr_html_(self) -> str:
        return display.html_text(self)


def _exporter(batch: SharedDataBatch) -> Any:
    return batch.to_arrow()  # the stubs lack the types of the C data interface


def _start_ids_afresh() -> None:
    global _process
    _process = uuid.uuid4().int >> 64 << 64


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_ids_afresh)


def _restored(
    schema: pa.Schema,
    arrays: list[pa.Array[Any]],
    num_rows: int,
    watermark: int | None,
    metadata: dict[str, Any],
    batch_id: str,
    age_s: float,
) -> SharedDataBatch:
    columns = [HostColumn.from_arrow(array) for array in arrays]
    batch = SharedDataBatch._from_columns(
        schema, columns, num_rows, watermark=watermark, metadata=MappingProxyType(metadata)
    )
    batch._id = batch_id
    batch._created_s -= age_s
    return batch
