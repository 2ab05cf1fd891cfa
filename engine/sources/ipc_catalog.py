"""What the Arrow IPC files of a source say before they are read: schemas, records, and how much reading holds.

Covers opening and inspecting files, and the errors of those that are none. Their metadata are read in `ipc_metadata`,
their data in `ipc`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from operator import attrgetter, itemgetter
from typing import NamedTuple

import pyarrow as pa

from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import ReadError, SchemaError
from dataflare.schema import require_unique_names
from dataflare.sources.ipc_metadata import FileLayout, Message, decoded_bytes, file_layout, stream_layout
from dataflare.sources.paths import InputFile, read_failure

__all__ = ["DictionaryMemory", "IpcCatalog", "IpcFile", "ReadingNeed", "damaged", "read_columns"]

_FILE_MAGIC = b"ARROW1"
# Batches on their way are slices of the last one that was decoded, and keep all of it while the next one is.
_BATCHES_HELD = 2


@dataclass(frozen=True, eq=False)
class IpcFile:
    """One file, and what it says about its batches."""

    file: InputFile
    schema: pa.Schema
    is_stream: bool
    layout: FileLayout | None
    """None for a stream that is not on this machine: its metadata come with its data."""

    @property
    def batch_rows(self) -> tuple[int, ...] | None:
        """Records of each batch; None where only reading tells."""
        if self.layout is None or not self.layout.is_complete:
            return None
        return tuple(batch.rows for batch in self.layout.batches)

    @property
    def is_mapped(self) -> bool:
        """Whether batches are windows on the file; otherwise columns that are not wanted are better left out.

        Compressed files are not mapped: what was read of a mapping counts as memory of the process to the end.
        """
        layout = self.layout
        return self.file.is_local and layout is not None and layout.is_native and not layout.is_compressed

    @property
    def tells_sizes(self) -> bool:
        """Whether the bytes of decoded batches are known before they are read, with no request for each buffer."""
        return self.layout is not None and (self.file.is_local or not self.layout.is_compressed)

    def sizes(self, handle: pa.NativeFile, message: Message, names: Sequence[str]) -> tuple[int, int]:
        """Return the bytes of these columns of a batch, or of a dictionary, and what decoding them takes meanwhile."""
        size_bytes, stored_bytes = decoded_bytes(handle, message, self.schema, names)
        return size_bytes, size_bytes + (stored_bytes if message.is_compressed else 0)

    def open(self) -> pa.NativeFile:
        """Open to read its batches.

        Raises
        ------
        ReadError
            It is gone or may not be read.
        """
        if not self.is_mapped or not self.file.size_bytes:
            return self.file.open()
        try:
            return pa.memory_map(self.file.path)
        except OSError as error:
            raise read_failure(self.file.shown, error) from error


class DictionaryMemory:
    """Counts what the dictionaries take that a reader holds, each until there is another in its place."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}
        self._replaced: dict[int, int] = {}  # which the last batch has still

    @property
    def held_bytes(self) -> int:
        """What is held until the next batch is decoded, replaced ones of the last batch included."""
        return sum(self._held.values()) + sum(self._replaced.values())

    def take(self, message: Message, size_bytes: int, decoding_bytes: int) -> int:
        """Take note of a dictionary that is read, by `IpcFile.sizes`; return what all take while it is decoded."""
        before_bytes = self._held.get(message.dictionary_id, 0)
        most_bytes = self.held_bytes + decoding_bytes
        if message.is_delta:  # then the parts are copied to one
            size_bytes += before_bytes
            most_bytes += size_bytes
        self._replaced.setdefault(message.dictionary_id, before_bytes)
        self._held[message.dictionary_id] = size_bytes
        return most_bytes

    def note_batch(self) -> None:
        """Take note that a batch is decoded, and the one before it gone."""
        self._replaced.clear()


class ReadingNeed(NamedTuple):
    """What a reader holds beside its batches, by what is known before it reads."""

    most_bytes: int
    detail: str | None
    """What takes most of it, and what can be done about it; None where nothing is held."""
    size_bytes: int | None
    """Bytes of all batches in memory; None where some are not known."""


class IpcCatalog:
    """The files of one source; all but the first are opened when somebody asks."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self.files = tuple(files)
        self.first = _inspect(self.files[0])
        self._all: tuple[IpcFile, ...] | None = None
        self._needs: dict[tuple[str, ...], ReadingNeed] = {}
        self._lock = threading.Lock()

    def all(self) -> tuple[IpcFile, ...]:
        """Return the files in order, inspected once."""
        with self._lock:
            if self._all is None:
                self._all = (self.first, *(_inspect(file) for file in self.files[1:]))
            return self._all

    def reading_need(self, names: Sequence[str]) -> ReadingNeed:
        """Return what reading these columns takes, looked up once.

        Raises
        ------
        ReadError
            The metadata of a batch are damaged.
        """
        key = tuple(names)
        need = self._needs.get(key)
        if need is None:
            self._needs[key] = need = self._reading_need(names)
        return need

    def _reading_need(self, names: Sequence[str]) -> ReadingNeed:
        held: list[tuple[int, str]] = []
        dictionaries: list[tuple[int, str]] = [(0, "")]
        size_bytes = 0
        tells_all = True
        for entry in self.all():
            layout = entry.layout
            if layout is None or not entry.tells_sizes:
                tells_all = False
            elif entry.is_mapped:
                share = len(names) / max(1, len(entry.schema))
                size_bytes += int(share * sum(batch.body_bytes for batch in layout.batches))
            else:
                sizes, dictionaries_held = _decoded_sizes(entry, layout, read_columns(names, entry.schema))
                size_bytes += sum(size for size, _ in sizes)
                dictionaries.append((dictionaries_held, entry.file.shown))
                held += [
                    (nbytes, f"batch {number} of {entry.file.shown}")
                    for number, (_, nbytes) in enumerate(sizes)
                ]
            tells_all = tells_all and layout is not None and layout.is_complete
        largest = nlargest(_BATCHES_HELD, held, key=itemgetter(0))
        batch_bytes = sum(nbytes for nbytes, _ in largest)
        dictionary_bytes, shown = max(dictionaries, key=itemgetter(0))
        detail = None
        if dictionary_bytes > batch_bytes:
            detail = (
                f"the dictionaries of {shown} are held, which takes {format_bytes(dictionary_bytes)}: write its "
                "columns without dictionaries, in small batches"
            )
        elif largest:
            nbytes, place = largest[0]
            detail = f"{place} is read as a whole, which takes {format_bytes(nbytes)}: write it with smaller batches"
        return ReadingNeed(dictionary_bytes + batch_bytes, detail, size_bytes if tells_all else None)


def read_columns(names: Sequence[str], schema: pa.Schema) -> Sequence[str]:
    """Return which columns are decoded for these; for none, one is needed to learn how many records there are."""
    return names or schema.names[:1]


def _decoded_sizes(
    entry: IpcFile, layout: FileLayout, names: Sequence[str]
) -> tuple[list[tuple[int, int]], int]:
    """Return the sizes of each batch as `IpcFile.sizes` does, and the most that dictionaries take at once."""
    sizes: list[tuple[int, int]] = []
    dictionaries, dictionary_bytes = DictionaryMemory(), 0
    messages = [*layout.dictionaries, *layout.batches]  # of a file, all dictionaries are read first
    if entry.is_stream:
        messages.sort(key=attrgetter("offset"))
    with entry.file.open() as handle:
        for message in messages:
            try:
                size_bytes, held_bytes = entry.sizes(handle, message, names)
            except (OSError, pa.ArrowException) as error:
                place = (
                    f"a dictionary before batch {len(sizes)}"
                    if message.is_dictionary
                    else f"batch {len(sizes)}"
                )
                raise damaged(entry.file, place, error) from error
            if message.is_dictionary:
                most_bytes = dictionaries.take(message, size_bytes, held_bytes)
                dictionary_bytes = max(dictionary_bytes, most_bytes)
            else:
                dictionaries.note_batch()
                sizes.append((size_bytes, held_bytes))
    return sizes, dictionary_bytes


def _inspect(file: InputFile) -> IpcFile:
    with file.open() as handle:  # not mapped: pages of a mapping count as memory of the process
        if not handle.size():
            raise ReadError(f"{file.shown}: is empty (0 bytes), not an Arrow IPC file.")
        is_file = handle.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        handle.seek(0)
        try:
            if not is_file:
                with pa.ipc.open_stream(handle) as stream:
                    schema = stream.schema.remove_metadata()
                layout = stream_layout(handle) if file.is_local else None
                return _checked(IpcFile(file, schema, True, layout))
            schema = pa.ipc.open_file(handle).schema.remove_metadata()
            return _checked(IpcFile(file, schema, False, file_layout(handle)))
        except (OSError, pa.ArrowException) as error:
            raise _not_ipc(file, is_file, error) from error


def _checked(entry: IpcFile) -> IpcFile:
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


def damaged(file: InputFile, place: str, error: Exception) -> ReadError:
    """Return what to raise for a batch or a dictionary that cannot be read."""
    return ReadError(f"{file.shown}: {place} cannot be read: {_first_line(error)}. The file is damaged.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
