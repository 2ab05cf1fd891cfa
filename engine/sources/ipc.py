"""Arrow IPC files as a source: the file format (also Feather 2) and streams, memory mapped where local.

Covers files of record batches, compressed or not; uncompressed local ones are not copied: batches are windows
on the page cache. A file must not be cut short while it is read. Does not cover Feather 1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from dataflare.kernels.errors import ReadError, SchemaError
from dataflare.schema import column_index, require_unique_names
from dataflare.sources.agreement import check_agreement
from dataflare.sources.paths import InputFile, PathsArgument, find_files, read_failure
from dataflare.sources.slicing import slice_record_batch, slice_table

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import Predicate

__all__ = ["IpcPartition", "IpcSource"]

_SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
_FILE_MAGIC = b"ARROW1"
_PARTITION_ROWS = 1_048_576


@dataclass(frozen=True, eq=False)
class _IpcFile:
    """One file, and what its head says; rows are counted when somebody asks."""

    file: InputFile
    schema: pa.Schema
    batch_rows: tuple[int, ...] | None
    """Records of each batch; None for a stream, which only reading through tells."""
    is_mapped: bool
    """Whether batches are windows on the file; otherwise columns that are not wanted are better left out."""


class _Catalog:
    """The files of one source; all but the first are opened when somebody asks."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self.files = tuple(files)
        self.first = _inspect(self.files[0])
        self._all: tuple[_IpcFile, ...] | None = None
        self._lock = threading.Lock()

    def all(self) -> tuple[_IpcFile, ...]:
        with self._lock:
            if self._all is None:
                self._all = (self.first, *(_inspect(file) for file in self.files[1:]))
            return self._all


@dataclass(frozen=True, eq=False)
class IpcSource:
    """Arrow IPC files, in order, as one source. Made by `open`."""

    schema: pa.Schema
    """Schema of the batches."""
    _catalog: _Catalog

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
        catalog = _Catalog(find_files(paths, suffixes=_SUFFIXES, filesystem=filesystem))
        return cls(catalog.first.schema, catalog)

    @property
    def description(self) -> str:
        """Files and columns."""
        first, others = self._catalog.files[0].shown, len(self._catalog.files) - 1
        name = f"{first} and {others} more" if others else first
        return f"Arrow IPC {name}: {len(self.schema)} of {len(self._catalog.first.schema)} columns"

    @property
    def num_rows(self) -> int | None:
        """Records; None when one of the files is a stream."""
        total = 0
        for entry in self._catalog.all():
            if entry.batch_rows is None:
                return None
            total += sum(entry.batch_rows)
        return total

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the files for the share of columns that is read: right for uncompressed ones."""
        total = sum(file.size_bytes for file in self._catalog.files)
        return total * len(self.schema) // max(1, len(self._catalog.first.schema))

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
            if entry.batch_rows is None:
                partitions.append(IpcPartition(self.schema, entry, None, None))
                continue
            begin = rows = 0
            for number, count in enumerate(entry.batch_rows):
                rows += count
                if rows >= _PARTITION_ROWS or number == len(entry.batch_rows) - 1:
                    if rows:
                        batches = range(begin, number + 1)
                        partitions.append(IpcPartition(self.schema, entry, batches, rows))
                    begin, rows = number + 1, 0
        return tuple(partitions)


@dataclass(frozen=True, eq=False)
class IpcPartition:
    """Some batches of a file, or a whole stream."""

    schema: pa.Schema
    """Schema of the batches."""
    _entry: _IpcFile
    _batches: range | None
    num_rows: int | None
    """Records; None for a stream."""

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
        fields: list[int] = []
        if not self._entry.is_mapped and len(
            self._entry.schema
        ):  # leaving columns out makes PyArrow copy the others
            # No field at all would mean all of them; one is needed to learn how many rows there are.
            fields = sorted(self._entry.schema.get_field_index(name) for name in self.schema.names) or [0]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        with _opened(self._entry.file) as handle:
            for number, batch in self._file_batches(handle, options):
                try:
                    batch.validate()
                except ValueError as error:
                    raise _damaged(self._entry.file, number, error) from error
                if not self.schema:
                    rows = pa.Table.from_batches([batch]).select([])
                    yield from slice_table(self.schema, rows, batch_rows)
                elif batch.num_rows:
                    columns = [_fitted(batch, field) for field in self.schema]
                    yield from slice_record_batch(
                        self.schema, pa.RecordBatch.from_arrays(columns, schema=self.schema), batch_rows
                    )

    def _file_batches(
        self, handle: pa.NativeFile, options: pa.ipc.IpcReadOptions
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        number = 0
        try:
            if self._batches is None:
                with pa.ipc.open_stream(handle, options=options) as stream:
                    for number, batch in enumerate(stream):
                        yield number, batch
            else:
                reader = pa.ipc.open_file(handle, options=options)
                for number in self._batches:
                    yield number, reader.get_batch(number)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self._entry.file, number, error) from error


def _fitted(batch: pa.RecordBatch, field: pa.Field[Any]) -> pa.Array[Any]:
    column = batch.column(field.name)
    return column if column.type == field.type else column.cast(field.type)


def _opened(file: InputFile) -> pa.NativeFile:
    if not file.is_local or not file.size_bytes:
        return file.open()
    try:
        return pa.memory_map(file.path)
    except OSError as error:
        raise read_failure(file.shown, error) from error


def _inspect(file: InputFile) -> _IpcFile:
    with _opened(file) as handle:
        if not handle.size():
            raise ReadError(f"{file.shown}: is empty (0 bytes), not an Arrow IPC file.")
        is_file = handle.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        handle.seek(0)
        try:
            if not is_file:
                with pa.ipc.open_stream(handle) as stream:
                    return _checked(_IpcFile(file, stream.schema.remove_metadata(), None, file.is_local))
            reader = pa.ipc.open_file(handle)
            schema = reader.schema.remove_metadata()
            count = reader.num_record_batches
            is_mapped = file.is_local and (not count or _is_within(handle, reader.get_batch(0)))
            if not is_mapped and len(schema):
                # Reading one column of each batch is the only way to its length.
                reader = pa.ipc.open_file(handle, options=pa.ipc.IpcReadOptions(included_fields=[0]))
            rows = tuple(reader.get_batch(number).num_rows for number in range(count))
        except (OSError, pa.ArrowException) as error:
            raise _not_ipc(file, is_file, error) from error
        return _checked(_IpcFile(file, schema, rows, is_mapped))


def _is_within(handle: pa.NativeFile, batch: pa.RecordBatch) -> bool:
    """Whether a batch's memory is the mapped file itself, rather than what was decompressed from it."""
    handle.seek(0)
    file = handle.read_buffer()
    buffers = [
        buffer
        for column in batch.columns
        for buffer in column.buffers()
        if buffer is not None and buffer.size
    ]
    return all(file.address <= buffer.address < file.address + file.size for buffer in buffers)


def _checked(entry: _IpcFile) -> _IpcFile:
    try:
        require_unique_names(entry.schema)
    except SchemaError as error:
        raise ReadError(f"{entry.file.shown}: {error}") from error
    return entry


def _not_ipc(file: InputFile, is_file: bool, error: Exception) -> ReadError:
    if is_file:
        return ReadError(
            f"{file.shown}: is a truncated or damaged Arrow IPC file: it begins as one, but "
            f"{_first_line(error)}. Was it copied only in part, or is it still being written?"
        )
    return ReadError(f"{file.shown}: is not an Arrow IPC file or stream: {_first_line(error)}.")


def _damaged(file: InputFile, number: int, error: Exception) -> ReadError:
    return ReadError(
        f"{file.shown}: batch {number} cannot be read: {_first_line(error)}. The file is damaged."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
