"""Arrow IPC files as a source: the file format (also Feather 2) and streams, memory mapped where local.

Covers files of record batches, compressed or not; uncompressed local ones are not copied: batches are windows
on the page cache. A compressed batch is decoded as a whole. A file must not be cut short while it is read. What is
known of files before is in `ipc_catalog`. Does not cover Feather 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import MemoryLimitError
from dataflare.schema import column_index
from dataflare.sources.agreement import check_agreement
from dataflare.sources.ipc_catalog import (
    DictionaryMemory,
    IpcCatalog,
    IpcFile,
    ReadingNeed,
    damaged,
    read_columns,
)
from dataflare.sources.ipc_metadata import Message, next_message
from dataflare.sources.paths import PathsArgument, find_files
from dataflare.sources.slicing import slice_record_batch, slice_table

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import Predicate

__all__ = ["IpcPartition", "IpcSource"]

_SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
_PARTITION_ROWS = 1_048_576


@dataclass(frozen=True, eq=False)
class IpcSource:
    """Arrow IPC files, in order, as one source. Made by `open`."""

    schema: pa.Schema
    """Schema of the batches."""
    _catalog: IpcCatalog
    _most_bytes: int | None = None

    @classmethod
    def open(cls, paths: PathsArgument, *, filesystem: Any | None = None) -> IpcSource:
        """Find the files and read the first one's schema.

        Parameters
        ----------
        paths
            See `dataflare.sources.paths.find_files`; directories are searched for .arrow, .arrows, .feather
            and .ipc. Which of the two formats a file has is seen from its first bytes.

        Raises
        ------
        ReadError
            There is no such file, or it is not an Arrow IPC file.
        """
        catalog = IpcCatalog(find_files(paths, suffixes=_SUFFIXES, filesystem=filesystem))
        return cls(catalog.first.schema, catalog)

    @property
    def description(self) -> str:
        """Files and columns."""
        first, others = self._catalog.files[0].shown, len(self._catalog.files) - 1
        name = f"{first} and {others} more" if others else first
        return f"Arrow IPC {name}: {len(self.schema)} of {len(self._catalog.first.schema)} columns"

    @property
    def num_rows(self) -> int | None:
        """Records; None when one of the files is a stream that is not on this machine, or is damaged."""
        total = 0
        for entry in self._catalog.all():
            if entry.batch_rows is None:
                return None
            total += sum(entry.batch_rows)
        return total

    @property
    def size_bytes(self) -> int | None:
        """Bytes in memory of the columns; where only reading tells, the share of columns of the files' bytes."""
        size_bytes = self._need.size_bytes
        if size_bytes is not None:
            return size_bytes
        total = sum(file.size_bytes for file in self._catalog.files)
        return total * len(self.schema) // max(1, len(self._catalog.first.schema))

    @property
    def reading_bytes(self) -> int:
        """Bytes that a reader holds at most beside its batches: what is not mapped, but decoded or fetched."""
        need = self._need
        return max(need.most_bytes, self._most_bytes or 0) if need.size_bytes is None else need.most_bytes

    @property
    def reading_detail(self) -> str | None:
        """What makes `reading_bytes` as large as it is, and what can be done about it."""
        return self._need.detail

    def with_reading_bound(self, most_bytes: int) -> Self:
        """Return the source whose readers refuse a batch that takes more, where only reading tells how much it is."""
        return replace(self, _most_bytes=most_bytes)

    def with_projection(self, names: Sequence[str]) -> Self:
        """Return the source with only these columns."""
        shown = self._catalog.files[0].shown
        return replace(
            self,
            schema=pa.schema([self.schema.field(column_index(self.schema, name, shown)) for name in names]),
        )

    def with_predicates(self, predicates: Sequence[Predicate]) -> Self:
        """Return the source itself: the format has no statistics."""
        return self

    def partitions(self) -> tuple[IpcPartition, ...]:
        """Return ranges of batches of about a million records, and streams as a whole."""
        first = self._catalog.first
        every_column = len(self.schema) == len(first.schema)
        partitions: list[IpcPartition] = []
        for entry in self._catalog.all():
            check_agreement(
                entry.file.shown, entry.schema, first.file.shown, self.schema, every_column=every_column
            )
            counts = entry.batch_rows
            if entry.is_stream or counts is None:
                rows = None if counts is None else sum(counts)
                if rows != 0:
                    partitions.append(IpcPartition(self.schema, entry, None, rows, self._most_bytes))
                continue
            begin = rows = 0
            for number, count in enumerate(counts):
                rows += count
                if rows >= _PARTITION_ROWS or number == len(counts) - 1:
                    if rows:
                        batches = range(begin, number + 1)
                        partitions.append(IpcPartition(self.schema, entry, batches, rows, self._most_bytes))
                    begin, rows = number + 1, 0
        return tuple(partitions)

    @property
    def _need(self) -> ReadingNeed:
        return self._catalog.reading_need(self.schema.names)


@dataclass(frozen=True, eq=False)
class IpcPartition:
    """Some batches of a file, or a whole stream."""

    schema: pa.Schema
    """Schema of the batches."""
    _entry: IpcFile
    _batches: range | None
    num_rows: int | None
    """Records; None where only reading tells."""
    _most_bytes: int | None = None

    @property
    def description(self) -> str:
        """Path and batches."""
        if self._batches is None:
            return self._entry.file.shown
        return f"{self._entry.file.shown}, batches {self._batches.start} to {self._batches.stop - 1}"

    @property
    def size_bytes(self) -> None:
        """Unknown."""
        return None

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Cut the batches of the file; see `dataflare.sources.base.SourcePartition.read`."""
        entry = self._entry
        fields: list[int] = []
        names = read_columns(self.schema.names, entry.schema)
        if not entry.is_mapped and len(names) < len(entry.schema):  # otherwise Arrow copies them first
            fields = sorted(entry.schema.get_field_index(name) for name in names)
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        with entry.open() as handle:
            for number, batch in self._file_batches(handle, options, names):
                try:
                    batch.validate()
                except ValueError as error:
                    raise damaged(entry.file, f"batch {number}", error) from error
                if not self.schema:
                    rows = pa.Table.from_batches([batch]).select([])
                    del batch
                    yield from slice_table(self.schema, rows, batch_rows)
                elif batch.num_rows:
                    columns = [_fitted(batch, field) for field in self.schema]
                    batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
                    del columns
                    yield from slice_record_batch(self.schema, batch, batch_rows)
                    del batch  # or it stays while the next one is decoded

    def _file_batches(
        self, handle: pa.NativeFile, options: pa.ipc.IpcReadOptions, names: Sequence[str]
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        entry, layout = self._entry, self._entry.layout
        check = _SizeCheck(entry, handle, names, self._most_bytes)
        number = 0
        try:
            if self._batches is not None:
                assert layout is not None  # of a file
                reader = pa.ipc.open_file(handle, options=options)
                dictionaries = layout.dictionaries  # all are read with the first batch
                for number in self._batches:
                    check.note(number, (*dictionaries, layout.batches[number]))
                    dictionaries = ()
                    yield number, reader.get_batch(number)
                return
            with pa.ipc.open_stream(handle, options=options) as stream:
                while layout is None or not layout.is_complete or number < len(layout.batches):
                    check.note_next(number)
                    try:
                        batch = stream.read_next_batch()
                    except StopIteration:
                        return
                    yield number, batch
                    del batch
                    number += 1
        except (OSError, pa.ArrowException) as error:
            raise damaged(entry.file, f"batch {number}", error) from error


class _SizeCheck:
    """Refuses a batch that takes too much, before it is decoded, where nobody knew when the run was prepared."""

    def __init__(
        self, entry: IpcFile, handle: pa.NativeFile, names: Sequence[str], most_bytes: int | None
    ) -> None:
        self._entry = entry
        self._handle = handle
        self._names = names
        self._most_bytes = None if entry.tells_sizes else most_bytes
        self._before_bytes = 0
        self._dictionaries = DictionaryMemory()

    def note_next(self, number: int) -> None:
        """Take note of the batch of a stream that is read next, and of the dictionaries before it."""
        if self._most_bytes is not None:
            position = self._handle.tell()
            self.note(number, _messages_until_batch(self._handle, position))
            self._handle.seek(position)  # files of fsspec move on wherever they are read

    def note(self, number: int, messages: Sequence[Message]) -> None:
        """Take note of a batch that is read next, after the dictionaries that it needs."""
        if self._most_bytes is None:
            return
        for message in messages:
            size_bytes, held_bytes = self._entry.sizes(self._handle, message, self._names)
            if message.is_dictionary:
                needed_bytes = self._dictionaries.take(message, size_bytes, held_bytes)
                self._require(f"dictionaries for batch {number} are held", needed_bytes, self._before_bytes)
            else:
                others_bytes = self._before_bytes + self._dictionaries.held_bytes
                self._require(f"batch {number} is read as a whole", held_bytes, others_bytes)
                self._dictionaries.note_batch()
                self._before_bytes = held_bytes

    def _require(self, what: str, nbytes: int, others_bytes: int) -> None:
        assert self._most_bytes is not None  # or nothing is noted
        if nbytes + others_bytes > self._most_bytes:
            before = f", after {format_bytes(others_bytes)} that are held already" if others_bytes else ""
            raise MemoryLimitError(
                f"{self._entry.file.shown}: {what}, which takes {format_bytes(nbytes)}{before}, and the memory limit "
                f"leaves {format_bytes(self._most_bytes)} to reading it. Write it with smaller batches, or raise "
                "memory_limit."
            )


def _messages_until_batch(handle: pa.NativeFile, offset: int) -> list[Message]:
    messages: list[Message] = []
    while (message := next_message(handle, offset)) is not None:
        messages.append(message)
        if message.is_batch:
            break
        offset = message.end
    return messages


def _fitted(batch: pa.RecordBatch, field: pa.Field[Any]) -> pa.Array[Any]:
    column = batch.column(field.name)
    return column if column.type == field.type else column.cast(field.type)
