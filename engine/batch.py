"""`SharedDataBatch`: immutable columns on one device, shared by reference.

Slices, selections, threads and pipeline stages share one memory; nothing is copied before somebody has to.
Covers how batches are made, joined and moved, and the steps on one. What a batch is made of is in
`dataflare.shared_columns`, the ways out in `dataflare.interchange`; what can become a batch is in
`dataflare.ingest`, how one prints in `dataflare.display`, how functions are applied to one in `dataflare.apply`.
Does not cover streams of batches: those are pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from dataflare import apply, display, ingest
from dataflare.interchange import Interchange
from dataflare.kernels.errors import OptionError, SchemaError
from dataflare.kernels.memory import HostColumn
from dataflare.kernels.memory.joining import join_columns
from dataflare.kernels.udf.stages import FilterStage, MapStage, WithColumnsStage
from dataflare.schema import first_difference, merged_schema
from dataflare.shared_columns import NO_METADATA

if TYPE_CHECKING:
    from dataflare.kernels.cuda.column import DeviceColumn
    from dataflare.kernels.cuda.device import DeviceBackend

__all__ = ["SharedDataBatch"]


class SharedDataBatch(Interchange):
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

    __slots__ = ()

    def __init__(self) -> None:
        raise TypeError(
            "SharedDataBatch is made by from_arrow, from_pydict, from_records, from_columns or empty, "
            "not by its constructor."
        )

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
        there = cls._lying_on_device(data)
        if there is not None:
            return there
        batch = ingest.arrow_batch(data)
        return cls._new(batch.schema, batch.num_rows, None, batch, None, NO_METADATA)

    @classmethod
    def _lying_on_device(cls, data: Any) -> SharedDataBatch | None:
        """Wrap what speaks Arrow and lies on a CUDA device; None for anything else."""
        if not ingest.may_lie_on_device(data) or not hasattr(data, "__arrow_c_device_array__"):
            return None
        from dataflare import device_ingest

        parts = device_ingest.arrow_parts(data)
        return None if parts is None else cls._from_columns(*parts[:3], backend=parts.backend)

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
        and masked values become null; NaN stays a value. Numbers on a CUDA device, of CuPy, torch or Numba, become
        a batch on that device; bools are copied there.

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

    def __repr__(self) -> str:
        return display.plain_text(self)

    def _repr_html_(self) -> str:
        return display.html_text(self)
