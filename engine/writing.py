"""The steps that end a pipeline: where its records go.

Covers the public methods and their options, as a base class of `Pipeline`. How each format is written is in
`dataflare.sinks`, one module a format, imported when its method is called. Nothing is written before `run`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.pipeline import Pipeline
    from dataflare.sinks.base import BatchSink

__all__ = ["WriteSteps"]


class WriteSteps(ABC):
    """What a pipeline can end in. Each method returns a pipeline that `run()` carries out."""

    __slots__ = ()

    @abstractmethod
    def _ending_in(self, label: str, build: Callable[[], BatchSink]) -> Pipeline:
        """Return the pipeline with a sink; `build` makes a fresh one for every run."""

    def write_parquet(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Literal["snappy", "zstd", "gzip", "brotli", "lz4", "none"] = "snappy",
        compression_level: int | None = None,
        row_group_rows: int | None = None,
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> Pipeline:
        """Write Parquet: one file, or a directory of part files when the path ends with a slash.

        The output appears whole when the run has ended well, or not at all.

        Parameters
        ----------
        path
            A path, or a URL such as `s3://bucket/key`. Missing folders are made.
        compression
            "snappy", "zstd", "gzip", "brotli", "lz4" or "none".
        compression_level
            For zstd, gzip and brotli; the codec's own choice when None.
        row_group_rows
            Records in a row group; as many as take 32 MiB in memory when None.
        overwrite
            Whether an output that is there is replaced; otherwise `run` raises `OutputExistsError`.
        part_bytes
            In a directory: about how large a part gets.
        filesystem
            Where plain paths are: pyarrow's or fsspec's file system.
        """
        from dataflare.sinks.parquet import ParquetSink

        def build() -> BatchSink:
            return ParquetSink(
                path,
                compression=compression,
                compression_level=compression_level,
                row_group_rows=row_group_rows,
                overwrite=overwrite,
                part_bytes=part_bytes,
                filesystem=filesystem,
            )

        return self._ending_in(f"write_parquet({os.fspath(path)})", build)

    def write_csv(
        self,
        path: str | os.PathLike[str],
        *,
        delimiter: str | None = None,
        header: bool = True,
        compression: Literal["none", "gzip", "bz2", "zstd", "lz4"] = "none",
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> Pipeline:
        """Write CSV in UTF-8: one file, or a directory of part files when the path ends with a slash.

        A null is nothing between delimiters, an empty text is in quotes. The output appears whole when the run
        has ended well, or not at all.

        Parameters
        ----------
        path
            A path, or a URL such as `s3://bucket/key`; .gz, .bz2, .zst and .lz4 compress. Missing folders are
            made.
        delimiter
            One character; None takes a tab for .tsv files and a comma for others.
        header
            Whether the first row holds the names.
        compression
            Of the part files of a directory; a file says it by its suffix.
        overwrite
            Whether an output that is there is replaced; otherwise `run` raises `OutputExistsError`.
        part_bytes
            In a directory: about how large a part gets.
        filesystem
            Where plain paths are: pyarrow's or fsspec's file system.
        """
        from dataflare.sinks.csv import CsvSink

        def build() -> BatchSink:
            return CsvSink(
                path,
                delimiter=delimiter,
                header=header,
                compression=compression,
                overwrite=overwrite,
                part_bytes=part_bytes,
                filesystem=filesystem,
            )

        return self._ending_in(f"write_csv({os.fspath(path)})", build)

    def write_ipc(
        self,
        path: str | os.PathLike[str],
        *,
        compression: Literal["none", "lz4", "zstd"] = "none",
        overwrite: bool = False,
        part_bytes: int | None = None,
        filesystem: Any | None = None,
    ) -> Pipeline:
        """Write Arrow IPC (also called Feather 2), which every Arrow library reads without decoding.

        The output appears whole when the run has ended well, or not at all.

        Parameters
        ----------
        path
            A path, or a URL such as `s3://bucket/key`; .arrows makes a stream, a slash at the end a directory
            of part files. Missing folders are made.
        compression
            "none", so that readers can map the file into memory, or "lz4" or "zstd".
        overwrite
            Whether an output that is there is replaced; otherwise `run` raises `OutputExistsError`.
        part_bytes
            In a directory: about how large a part gets.
        filesystem
            Where plain paths are: pyarrow's or fsspec's file system.
        """
        from dataflare.sinks.ipc import IpcSink

        def build() -> BatchSink:
            return IpcSink(
                path,
                compression=compression,
                overwrite=overwrite,
                part_bytes=part_bytes,
                filesystem=filesystem,
            )

        return self._ending_in(f"write_ipc({os.fspath(path)})", build)

    def write(self, fn: Callable[[SharedDataBatch], Any]) -> Pipeline:
        """Hand every batch to a function, in order, one at a time.

        Parameters
        ----------
        fn
            Takes a `SharedDataBatch`. What it raises fails the run; what it did is its own business to undo.

        Examples
        --------
        >>> import dataflare as flare
        >>> rows = []
        >>> pipeline = flare.from_records([{"a": 1}, {"a": 2}]).write(lambda batch: rows.extend(batch.to_pylist()))
        >>> pipeline.run().rows_out, rows
        (2, [{'a': 1}, {'a': 2}])
        """
        from dataflare.sinks.function import FunctionSink

        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        return self._ending_in(f"write({name})", lambda: FunctionSink(fn))
