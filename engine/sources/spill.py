"""SpillQueue: batches on their way from one thread to another, in memory up to a bound and on disk beyond it.

Covers one thread that puts and never waits for the other, one that takes, the order, and bounds of memory and of
disk. Who runs the two threads is in ``unpausable``.

The files are Arrow IPC streams that have no name: the system takes their space back when they are closed, and when
the process dies, however it dies. So nothing is ever left to clean up, and nobody else can open them.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from dataflare.batch import SharedDataBatch
from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import MemoryLimitError, RunCancelledError
from dataflare.kernels.memory.column import HostColumn

__all__ = ["SpillQueue", "SpillSpace"]

_SEGMENT_BYTES: Final = 64 << 20  # a file that was read gives its space back
_BATCH_BYTES: Final = 2 << 10  # what a batch takes besides its data: many small ones are not free
_PIECES: Final = 4


@dataclass
class SpillSpace:
    """The disk that a run may use, and its use of it."""

    folder: str | None
    """Where the files are; None: the folder for temporary files, as `TMPDIR` says."""
    limit_bytes: int
    """The most bytes that may wait there at once."""
    spilled_bytes: int = 0
    """Bytes that were written in all."""

    @property
    def place(self) -> str:
        """The folder, for messages."""
        return self.folder or tempfile.gettempdir()


class SpillQueue:
    """Batches that were put and not yet taken, in order.

    Parameters
    ----------
    schema
        Of all batches.
    memory_bytes
        What the batches in memory may take, the one that was taken last included. A batch that is read back takes
        a quarter of it at most: larger ones are cut when they are written.
    space
        Where to write what does not fit.
    label
        What messages call the source of the batches.
    """

    def __init__(self, schema: pa.Schema, memory_bytes: int, space: SpillSpace, label: str) -> None:
        self._schema = schema
        self._piece_bytes = max(1, memory_bytes // _PIECES)
        self._bound_bytes = memory_bytes - self._piece_bytes
        self._space = space
        self._label = label
        self._disk = threading.Lock()  # held while writing; taken before the other one
        self._segment: _Segment | None = None
        self._changed = threading.Condition()
        self._waiting: deque[tuple[SharedDataBatch, int]] = deque()
        self._sealed: deque[_Segment] = deque()
        self._reading: _Segment | None = None
        self._memory_bytes = 0
        self._in_hand_bytes = 0
        self._on_disk = 0
        self._disk_bytes = 0
        self._lost = False
        self._ended = False
        self._closed = False
        self._interrupted = False
        self._error: BaseException | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes of the batches that wait in memory, and of the one that was taken last."""
        return self._memory_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of the files that there are now."""
        return self._disk_bytes

    def put(self, batch: SharedDataBatch) -> bool:
        """Add a batch in host memory; waits for nothing but the disk. False once the queue is closed.

        Raises
        ------
        MemoryLimitError
            It fits neither into memory nor on the disk. `take` raises what `end` is given then, and no more batches.
        """
        nbytes = max(batch.nbytes, _BATCH_BYTES)
        with self._disk:
            with self._changed:
                if self._closed:
                    return False
                # What is on the disk came earlier.
                if not self._on_disk and self._memory_bytes + nbytes <= self._bound_bytes:
                    self._waiting.append((batch, nbytes))
                    self._memory_bytes += nbytes
                    self._changed.notify_all()
                    return True
            rows = max(1, batch.num_rows * self._piece_bytes // nbytes)
            try:
                for start in range(0, batch.num_rows, rows):
                    self._spill(batch.slice(start, start + rows))
            except BaseException:
                self._lost = True
                raise
        return True

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, and why."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def take(self) -> SharedDataBatch | None:
        """Wait for the next batch; None when there are no more.

        Raises
        ------
        RunCancelledError
            `interrupt` was called.
        BaseException
            What `end` was given, after the batches before it, or at once where one of them is lost.
        """
        with self._changed:
            self._memory_bytes -= self._in_hand_bytes
            self._in_hand_bytes = 0
            self._changed.wait_for(lambda: self._ended or self._interrupted or self._has_next())
            if self._interrupted:
                raise RunCancelledError("Nobody wants the batches any more.")
            if not self._has_next():
                error, self._error = self._error, None
                try:
                    if error is not None:
                        raise error
                    return None
                finally:
                    del error  # its traceback leads here
            if self._waiting:
                batch, self._in_hand_bytes = self._waiting.popleft()
                return batch
            if self._reading is None and self._sealed:
                self._reading = self._sealed.popleft()
        return self._read_back()

    def interrupt(self) -> None:
        """End a `take` that waits, and all further ones. Any thread may call it."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits, and take nothing more; for the thread that takes."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._memory_bytes = self._in_hand_bytes = 0
        with self._disk:
            for segment in (self._reading, *self._sealed, self._segment):
                if segment is not None:
                    segment.close()
            self._reading = self._segment = None
            self._sealed.clear()
            self._on_disk = self._disk_bytes = 0

    def _has_next(self) -> bool:
        return not self._lost and bool(self._waiting or self._on_disk)

    def _spill(self, batch: SharedDataBatch) -> None:
        data = batch.to_arrow()
        most_bytes = max(pa.ipc.get_record_batch_size(data), data.nbytes)
        space, label = self._space, self._label
        if self._disk_bytes + most_bytes > space.limit_bytes:
            raise MemoryLimitError(
                f"{label}: batches come faster than they are taken, and cannot be held back: "
                f"{format_bytes(self._disk_bytes)} wait in {space.place}, and the next {format_bytes(most_bytes)} "
                f"would exceed the spill_limit of {format_bytes(space.limit_bytes)}. Raise spill_limit, or do with a "
                "faster sink or fewer records."
            )
        try:
            if self._segment is None:
                self._segment = _Segment(self._schema, space.folder)
            written_bytes = self._segment.write(batch, data)
            full = self._segment if self._segment.nbytes >= _SEGMENT_BYTES else None
            if full is not None:
                full.seal()
                self._segment = None
        except OSError as error:
            raise self._failed(error) from error
        space.spilled_bytes += written_bytes
        with self._changed:
            if full is not None:
                self._sealed.append(full)
            self._disk_bytes += written_bytes
            self._on_disk += 1
            self._changed.notify_all()

    def _read_back(self) -> SharedDataBatch:
        if self._reading is None:
            with self._disk:  # all that is left is in the file that is being written
                if self._sealed:
                    self._reading = self._sealed.popleft()
                else:
                    assert self._segment is not None
                    self._reading, self._segment = self._segment, None
                    try:
                        self._reading.seal()
                    except OSError as error:
                        raise self._failed(error) from error
        try:
            batch = self._reading.read(self._schema)
        except (OSError, pa.ArrowException) as error:
            raise self._failed(error) from error
        with self._changed:
            self._on_disk -= 1
            self._in_hand_bytes = max(batch.nbytes, _BATCH_BYTES)
            self._memory_bytes += self._in_hand_bytes
            if not self._reading.left:
                self._disk_bytes -= self._reading.nbytes
                self._reading.close()
                self._reading = None
        return batch

    def _failed(self, error: Exception) -> MemoryLimitError:
        return MemoryLimitError(
            f"{self._label}: batches that cannot be held back do not fit into memory, and spilling them to "
            f"{self._space.place} failed: {error}. Let spill_dir name a folder on a disk with room, or raise "
            "memory_limit."
        )


class _Segment:
    """A file without a name: first batches are written, then, once it is sealed, read."""

    def __init__(self, schema: pa.Schema, folder: str | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open until it was read)
        self._writer = pa.ipc.new_stream(self._file, schema)
        self._reader: Any = None
        self._marks: deque[tuple[int | None, Mapping[str, Any]]] = deque()
        self.nbytes = 0

    @property
    def left(self) -> int:
        """Batches that were written and not read."""
        return len(self._marks)

    def write(self, batch: SharedDataBatch, data: pa.RecordBatch) -> int:
        """Write the data of a batch; return by how much the file has grown."""
        before_bytes = self.nbytes
        self._writer.write_batch(data)
        self._file.flush()  # a full disk is to be noticed now
        self.nbytes = self._file.tell()
        self._marks.append((batch.watermark, batch.metadata))
        return self.nbytes - before_bytes

    def seal(self) -> None:
        self._writer.close()
        self._file.seek(0)
        self._reader = pa.ipc.open_stream(self._file)

    def read(self, schema: pa.Schema) -> SharedDataBatch:
        data = self._reader.read_next_batch()
        watermark, metadata = self._marks.popleft()
        columns = [HostColumn.from_arrow(column) for column in data.columns]
        return SharedDataBatch._from_columns(
            schema, columns, data.num_rows, watermark=watermark, metadata=metadata
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written is not missed
            self._file.close()
