"""Records that are in memory already, or come from an iterable: `MemorySource` and `BatchesSource`.

Covers anything that speaks Arrow, lists of dicts, and iterables and async iterables of batches. Nothing is
copied, except what is not Arrow yet; what lies on a device stays there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from dataflare.batch import SharedDataBatch
from dataflare.ingest import as_schema
from dataflare.kernels.errors import OptionError, ReadError, SchemaMismatchError
from dataflare.schema import column_index, first_difference, require_unique_names
from dataflare.sources.slicing import cut_batch

if TYPE_CHECKING:
    from dataflare.sources.base import Predicate

__all__ = ["BatchesPartition", "BatchesSource", "MemoryPartition", "MemorySource"]


@dataclass(frozen=True, eq=False)
class MemorySource:
    """Batches in memory, shared and never copied; each is a partition. Made by the ``from_`` methods."""

    schema: pa.Schema
    """Schema of the batches."""
    batches: tuple[SharedDataBatch, ...]
    """What it holds."""
    label: str
    """What messages call it."""
    in_memory: bool = True
    """Reading costs nothing, so nobody has to read ahead."""

    @classmethod
    def from_arrow(cls, data: Any) -> MemorySource:
        """Take anything that exports Arrow: record batches, tables, Polars and pandas frames, readers.

        Raises
        ------
        SchemaError
            `data` does not speak Arrow, or two columns have the same name.
        """
        batches = tuple(_batches_of(data))
        schema = batches[0].schema if batches else _schema_of(data)
        require_unique_names(schema)
        return cls(schema, tuple(batch for batch in batches if batch.num_rows), _kind(data))

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, Any]], schema: pa.Schema | Mapping[str, pa.DataType] | None = None
    ) -> MemorySource:
        """Take dicts; see `SharedDataBatch.from_records`."""
        batch = SharedDataBatch.from_records(list(records), schema)
        return cls(batch.schema, (batch,) if batch.num_rows else (), "records")

    @property
    def description(self) -> str:
        """What it was, and its size."""
        return f"{self.label} in memory: {self.num_rows:,} rows, {len(self.schema)} columns"

    @property
    def num_rows(self) -> int:
        """Records."""
        return sum(batch.num_rows for batch in self.batches)

    @property
    def size_bytes(self) -> int:
        """Bytes that the records take."""
        return sum(batch.nbytes for batch in self.batches)

    @property
    def device(self) -> str:
        """The device that all batches lie on; "cpu" where they lie on several."""
        devices = {batch.device for batch in self.batches}
        return devices.pop() if len(devices) == 1 else "cpu"

    def with_projection(self, names: Sequence[str]) -> Self:
        """Return the source with only these columns, which are shared."""
        fields = [self.schema.field(column_index(self.schema, name, self.label)) for name in names]
        return replace(
            self, schema=pa.schema(fields), batches=tuple(_selected(batch, names) for batch in self.batches)
        )

    def with_predicates(self, predicates: Sequence[Predicate]) -> Self:
        """Return the source itself: nothing is known about the values."""
        return self

    def partitions(self) -> tuple[MemoryPartition, ...]:
        """Return one partition for each batch."""
        return tuple(
            MemoryPartition(batch, f"{self.label}, batch {number}")
            for number, batch in enumerate(self.batches)
        )


@dataclass(frozen=True, eq=False)
class MemoryPartition:
    """One batch in memory."""

    batch: SharedDataBatch
    """What `read` cuts."""
    description: str
    """What messages call it."""

    @property
    def num_rows(self) -> int:
        """Records."""
        return self.batch.num_rows

    @property
    def size_bytes(self) -> int:
        """Bytes that the records take."""
        return self.batch.nbytes

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Cut the batch without copying; see `dataflare.sources.base.SourcePartition.read`."""
        return cut_batch(self.batch, batch_rows)


class BatchesSource:
    """Batches from an iterable, read once and in order; see `open`."""

    def __init__(self, stream: _Stream, full_schema: pa.Schema, names: tuple[str, ...] | None) -> None:
        self._stream = stream
        self._full_schema = full_schema
        self._names = names

    @classmethod
    def open(
        cls,
        batches: Iterable[Any] | AsyncIterable[Any],
        schema: pa.Schema | Mapping[str, pa.DataType] | None = None,
    ) -> BatchesSource | MemorySource:
        """Take an iterable or async iterable of batches, tables or other Arrow data.

        Parameters
        ----------
        batches
            A list or tuple is data in memory. Anything else is taken one by one as the run asks for it; an
            iterator can be read once, an iterable that begins anew each time as often as it does. An async
            iterable runs in an event loop of its own, on a thread of its own.
        schema
            Of all batches. Without it the first batch is taken now.

        Raises
        ------
        OptionError
            It is not iterable, or empty and without a schema.
        SchemaMismatchError
            A list's batch has another schema than the first one.
        """
        expected = None if schema is None else as_schema(schema)
        if isinstance(batches, list | tuple):
            stream = _Stream(batches)
            found = [batch for item in batches for batch in _batches_of(item)]
            if expected is None:
                if not found:
                    raise OptionError("from_batches: the list is empty; give schema=.")
                expected = found[0].schema
            checked = [_checked(batch, expected, number) for number, batch in enumerate(found)]
            return MemorySource(expected, tuple(batch for batch in checked if batch.num_rows), "batches")
        stream = _Stream(batches)
        if expected is None:
            expected = stream.first_schema()
        require_unique_names(expected)
        return cls(stream, expected, None)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches."""
        if self._names is None:
            return self._full_schema
        return pa.schema([self._full_schema.field(name) for name in self._names])

    @property
    def description(self) -> str:
        """What it is."""
        return f"batches from {self._stream.label}: {len(self.schema)} columns"

    @property
    def num_rows(self) -> None:
        """Unknown: only reading tells."""
        return None

    @property
    def size_bytes(self) -> None:
        """Unknown: only reading tells."""
        return None

    def with_projection(self, names: Sequence[str]) -> BatchesSource:
        """Return the source with only these columns."""
        for name in names:
            column_index(self.schema, name, self._stream.label)
        return BatchesSource(self._stream, self._full_schema, tuple(names))

    def with_predicates(self, predicates: Sequence[Predicate]) -> BatchesSource:
        """Return the source itself: nothing is known about the values."""
        return self

    def partitions(self) -> tuple[BatchesPartition, ...]:
        """Return the one partition that a stream is."""
        return (BatchesPartition(self._stream, self._full_schema, self._names),)


class BatchesPartition:
    """All batches of an iterable."""

    num_rows = None
    size_bytes = None

    def __init__(self, stream: _Stream, full_schema: pa.Schema, names: tuple[str, ...] | None) -> None:
        self._stream = stream
        self._full_schema = full_schema
        self._names = names

    @property
    def description(self) -> str:
        """What it is."""
        return f"batches from {self._stream.label}"

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Take batches and cut those that are too long; see `dataflare.sources.base.SourcePartition.read`.

        Raises
        ------
        SchemaMismatchError
            A batch has another schema.
        ReadError
            The iterator was read before.
        """
        items = self._stream.items()
        try:
            for number, item in enumerate(items):
                for batch in _batches_of(item):
                    checked = _checked(batch, self._full_schema, number)
                    wanted = checked if self._names is None else _selected(checked, self._names)
                    yield from cut_batch(wanted, batch_rows)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()


class _Stream:
    """The items of an iterable, with those that were taken early for their schema."""

    def __init__(self, batches: Any) -> None:
        self._async = isinstance(batches, AsyncIterable)
        if not self._async and not isinstance(batches, Iterable):
            raise OptionError(f"from_batches takes an iterable of batches, not {type(batches).__name__}.")
        self.label = type(batches).__name__
        self._batches = batches
        self._once = (aiter(batches) if self._async else iter(batches)) is batches
        self._lock = threading.Lock()
        self._begun: Iterator[Any] | None = None
        self._taken: list[Any] = []
        self._used = False

    def first_schema(self) -> pa.Schema:
        begun = self._iterator()
        for item in begun:
            self._taken.append(item)
            batches = list(_batches_of(item))
            if batches:
                self._begun = begun
                return batches[0].schema
        raise OptionError(f"from_batches: the {self.label} gave no batch: give schema=.")

    def items(self) -> Iterator[Any]:
        with self._lock:
            if self._used and self._once:
                raise ReadError(
                    f"from_batches: the {self.label} was read already and cannot begin anew. "
                    "Pass a list, or an object whose __iter__ starts again."
                )
            self._used = True
            begun, taken = self._begun, self._taken
            self._begun, self._taken = None, []
        rest = self._iterator() if begun is None else begun
        try:
            while taken:
                yield taken.pop(0)
            yield from rest
        finally:
            close = getattr(rest, "close", None)
            if close is not None:
                close()

    def _iterator(self) -> Iterator[Any]:
        return _from_async(self._batches) if self._async else iter(self._batches)


def _from_async(batches: AsyncIterable[Any]) -> Iterator[Any]:
    """Run an async iterable in a loop on its own thread: the thread that reads may have a loop running."""
    with ThreadPoolExecutor(1, thread_name_prefix="dataflare-async-source") as thread:
        loop = asyncio.new_event_loop()

        async def take(items: AsyncIterator[Any]) -> tuple[bool, Any]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        async def stop(items: AsyncIterator[Any]) -> None:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

        items = aiter(batches)
        try:
            while True:
                more, item = thread.submit(loop.run_until_complete, take(items)).result()
                if not more:
                    return
                yield item
        finally:
            thread.submit(loop.run_until_complete, stop(items)).result()
            thread.submit(loop.close).result()


def _batches_of(item: Any) -> Iterator[SharedDataBatch]:
    """Yield the chunks of a table as they are; other data is one batch."""
    if isinstance(item, SharedDataBatch):
        yield item
    elif isinstance(item, pa.Table):
        if item.num_columns:
            for chunk in item.to_batches():
                yield SharedDataBatch.from_arrow(chunk)
        elif item.num_rows:
            yield SharedDataBatch._from_columns(item.schema, (), item.num_rows)
    elif hasattr(item, "__arrow_c_stream__") and not isinstance(item, pa.RecordBatch):
        on_device = SharedDataBatch._lying_on_device(item)
        yield from _batches_of(pa.table(item) if on_device is None else on_device)
    else:
        yield SharedDataBatch.from_arrow(item)


def _schema_of(data: Any) -> pa.Schema:
    return data.schema if isinstance(data, pa.Table) else pa.table(data).schema


def _kind(data: Any) -> str:
    module = type(data).__module__.partition(".")[0]
    name = type(data).__name__
    return name if module in ("dataflare", "builtins") else f"{module} {name}"


def _checked(batch: SharedDataBatch, expected: pa.Schema, number: int) -> SharedDataBatch:
    difference = first_difference(expected, batch.schema)
    if difference is not None:
        raise SchemaMismatchError(
            f"from_batches: batch {number}: {difference.rstrip('.')}. All batches need the same schema."
        )
    return batch


def _selected(batch: SharedDataBatch, names: Sequence[str]) -> SharedDataBatch:
    if names:
        return batch.select(*names)
    return SharedDataBatch._from_columns(
        pa.schema([]), (), batch.num_rows, watermark=batch.watermark, metadata=batch.metadata
    )
