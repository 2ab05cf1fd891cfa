"""FileSink: what all sinks that write files share, whatever the format.

Covers when files begin and end, the commit, and errors. Where the files are meanwhile is in
`dataflare.sinks.staging`; the formats are subclasses in modules of their own.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa

from dataflare.kernels.errors import DataError, OptionError, SinkError
from dataflare.sinks.staging import stage, write_failure

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch

__all__ = ["FileSink", "FormatWriter"]

_PART_BYTES = 256 * 2**20
_WRITERS = {
    ".parquet": "write_parquet",
    ".pq": "write_parquet",
    ".csv": "write_csv",
    ".tsv": "write_csv",
    ".arrow": "write_ipc",
    ".arrows": "write_ipc",
    ".feather": "write_ipc",
    ".json": "map_batches and write(fn)",
    ".xlsx": "write_csv",
}


class FormatWriter(Protocol):
    """Writes record batches to an open file in one format."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch of at least one record."""

    def close(self) -> None:
        """Write what is still to be written; the file itself stays open."""


class FileSink(ABC):
    """Writes one file, or a directory of ``part-00000`` files when the path ends with a slash.

    Nothing is visible before `commit`, and nothing is left after `abort`. Missing folders are made, and
    removed again by `abort`.

    Parameters
    ----------
    path
        A path, or a URL such as ``s3://bucket/key``.
    overwrite
        Whether a file that is there is replaced. A directory is, too, if it has nothing but part files.
    part_bytes
        In a directory: about how large a part gets, 256 MiB if None.
    filesystem
        Where plain paths are: pyarrow's or fsspec's file system; the local disk when None.
    """

    format_name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> None:
        self._staging = stage(path, overwrite=overwrite, filesystem=filesystem)
        name = PurePosixPath(self._staging.shown.partition("?")[0])
        if not self._staging.is_directory:
            self._check_suffix(name.suffix.lower())
            if part_bytes is not None:
                raise OptionError("part_bytes is for directories of part files: end the path with a slash.")
        if part_bytes is not None and part_bytes < 1:
            raise OptionError(f"part_bytes must be at least 1, not {part_bytes}.")
        self._name = name.name
        self._part_bytes = _PART_BYTES if part_bytes is None else part_bytes
        self._schema: pa.Schema | None = None
        self._parts = 0
        self._part = ""
        self._stream: pa.NativeFile | None = None
        self._writer: FormatWriter | None = None
        self._written_bytes = 0
        self._ended = False

    @property
    def description(self) -> str:
        """Format and path."""
        return f"{self.format_name} {self._staging.shown}"

    def open(self, schema: pa.Schema) -> None:
        """See `dataflare.sinks.base.BatchSink.open`."""
        if self._schema is not None:
            raise SinkError(f"{self._staging.shown}: this sink has been used; a sink serves one run.")
        self._check_schema(schema)
        self._staging.prepare()
        self._schema = schema

    def write(self, batch: SharedDataBatch) -> None:
        """See `dataflare.sinks.base.BatchSink.write`."""
        if not batch.num_rows:
            return
        schema = self._opened()
        arrow = self._record_batch(batch)
        if not arrow.schema.equals(schema):  # only whether nulls are possible may differ
            arrow = pa.RecordBatch.from_arrays(arrow.columns, schema=schema)
        if self._writer is None:
            self._guarded(self._begin_part)
        writer = self._writer
        assert writer is not None
        self._guarded(lambda: writer.write(arrow))
        if self._staging.is_directory and self._position() >= self._part_bytes:
            self._guarded(self._end_part)

    def commit(self) -> tuple[str, ...]:
        """See `dataflare.sinks.base.BatchSink.commit`."""
        self._opened()
        if not self._parts:
            self._guarded(self._begin_part)
        if self._writer is not None:
            self._guarded(self._end_part)
        try:
            files = self._staging.publish()
        except SinkError:
            raise
        except OSError as error:
            raise write_failure(self._staging.shown, error, self._written_bytes) from error
        self._ended = True
        return files

    def abort(self) -> None:
        """See `dataflare.sinks.base.BatchSink.abort`."""
        if self._ended:
            return
        self._ended = True
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
        if self._stream is not None:
            with suppress(Exception):
                self._stream.close()
        self._writer = self._stream = None
        if self._schema is not None:
            self._staging.discard()

    @abstractmethod
    def _start(self, stream: pa.NativeFile, schema: pa.Schema) -> FormatWriter:
        """Begin a file."""

    @abstractmethod
    def _check_schema(self, schema: pa.Schema) -> None:
        """Raise `SchemaError` for a column that the format cannot hold."""

    def _check_suffix(self, suffix: str) -> None:
        """Raise `OptionError` for a suffix that says another format."""
        other = _WRITERS.get(suffix)
        if other is not None and suffix not in self.suffixes:
            raise OptionError(
                f"{self._staging.shown}: ends with {suffix}, which is not {self.format_name}. Use {other}, or end the "
                f"path with {self.suffixes[0]}."
            )

    def _record_batch(self, batch: SharedDataBatch) -> pa.RecordBatch:
        """Return what the writer gets of a batch."""
        return batch.to_arrow()

    def _opened(self) -> pa.Schema:
        if self._schema is None or self._ended:
            state = "was not opened" if self._schema is None else "is closed"
            raise SinkError(f"{self._staging.shown}: this sink {state}.")
        return self._schema

    def _part_suffix(self) -> str:
        return self.suffixes[0]

    def _begin_part(self) -> None:
        self._part = (
            f"part-{self._parts:05d}{self._part_suffix()}" if self._staging.is_directory else self._name
        )
        self._parts += 1
        self._stream = self._staging.create(self._part)
        self._writer = self._start(self._stream, self._opened())

    def _end_part(self) -> None:
        assert self._writer is not None
        assert self._stream is not None
        self._writer.close()
        self._writer = None
        self._written_bytes += self._position()
        self._stream.close()
        self._stream = None
        self._staging.finish(self._part)

    def _position(self) -> int:
        stream = self._stream
        try:
            return 0 if stream is None or stream.closed else int(stream.tell())
        except OSError:
            return 0

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except SinkError:
            raise
        except pa.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{self._staging.shown}: a value cannot be written as {self.format_name}: {reason}."
            ) from error
        except OSError as error:
            raise write_failure(self._staging.shown, error, self._written_bytes + self._position()) from error
