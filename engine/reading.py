"""Where pipelines start: files, Arrow data, records, iterables of batches.

Covers the public functions and their options. How each format is read is in `dataflare.sources`, one module a
format, imported when its function is called.

Paths are a path, a list of paths, a glob, a directory (searched to the bottom) or a URL such as
`s3://bucket/folder/`. What a glob or a directory gives is read in natural order: `part-2` before `part-10`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataflare.pipeline import Pipeline

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.sources.bad_rows import BadRows
    from dataflare.sources.json import UnknownFields
    from dataflare.sources.parquet_choice import DecoderName
    from dataflare.sources.paths import PathsArgument

__all__ = [
    "from_arrow",
    "from_batches",
    "from_records",
    "read_csv",
    "read_ipc",
    "read_json",
    "read_parquet",
]


def read_parquet(
    paths: PathsArgument,
    *,
    columns: Sequence[str] | None = None,
    decoder: DecoderName = "auto",
    filesystem: Any | None = None,
) -> Pipeline:
    """Start a pipeline at Parquet files; only columns that are used and row groups that can match are read.

    Parameters
    ----------
    paths
        See the module: path, list, glob, directory or URL.
    columns
        The columns to see; all when None. What no step uses is not read in any case.
    decoder
        "auto" takes the fastest decoder for each column: DataFlare's own for numbers, times and text in local
        files, Polars where it is installed, PyArrow. "native", "polars" and "pyarrow" prefer one where it can.
    filesystem
        Where plain paths are: pyarrow's or fsspec's file system.

    Raises
    ------
    ReadError
        There is no such file, or the first one is not a readable Parquet file.
    ColumnNotFoundError
        One of `columns` is not there.
    """
    from dataflare.sources.parquet import ParquetSource

    return Pipeline(ParquetSource.open(paths, columns=columns, decoder=decoder, filesystem=filesystem))


def read_csv(
    paths: PathsArgument,
    *,
    delimiter: str | None = None,
    header: bool = True,
    column_names: Sequence[str] | None = None,
    column_types: Mapping[str, pa.DataType] | pa.Schema | None = None,
    null_values: Sequence[str] = ("",),
    quote: str | None = '"',
    escape: str | None = None,
    encoding: str = "utf-8",
    on_bad_rows: BadRows = "error",
    filesystem: Any | None = None,
) -> Pipeline:
    """Start a pipeline at CSV files, plain or compressed.

    Parameters
    ----------
    paths
        See the module: path, list, glob, directory or URL.
    delimiter
        One character; None takes a tab for .tsv files and a comma for others.
    header
        Whether the first row of each file holds names. Files may then have their columns in different orders.
    column_names
        Names in place of the header's, or of the header that is not there.
    column_types
        Arrow types of some columns. The others' are found at the beginning of the first file.
    null_values
        Texts that mean null; the empty text does unless it is in quotes.
    quote, escape
        The characters that do so; None for none.
    encoding
        Any that Python knows.
    on_bad_rows
        "error" stops at the first row that does not fit and names its line, "skip" leaves such rows out.
    filesystem
        Where plain paths are: pyarrow's or fsspec's file system.

    Raises
    ------
    ReadError
        There is no such file, or its beginning cannot be read.
    """
    from dataflare.sources.csv import CsvSource

    return Pipeline(
        CsvSource.open(
            paths,
            delimiter=delimiter,
            header=header,
            column_names=column_names,
            column_types=column_types,
            null_values=null_values,
            quote=quote,
            escape=escape,
            encoding=encoding,
            on_bad_rows=on_bad_rows,
            filesystem=filesystem,
        )
    )


def read_json(
    paths: PathsArgument,
    *,
    schema: pa.Schema | Mapping[str, pa.DataType] | None = None,
    on_bad_rows: BadRows = "error",
    unknown_fields: UnknownFields = "error",
    filesystem: Any | None = None,
) -> Pipeline:
    """Start a pipeline at JSON files with one object a line, plain or compressed.

    Parameters
    ----------
    paths
        See the module: path, list, glob, directory or URL.
    schema
        The fields and their types; found at the beginning of the first file when None. A field that a record
        does not have is null.
    on_bad_rows
        "error" stops at the first line that does not fit and names it, "skip" leaves such lines out.
    unknown_fields
        "error" stops at a field that is not in the schema, "ignore" leaves it out.
    filesystem
        Where plain paths are: pyarrow's or fsspec's file system.

    Raises
    ------
    ReadError
        There is no such file, or its beginning cannot be read.
    """
    from dataflare.sources.json import JsonSource

    return Pipeline(
        JsonSource.open(
            paths,
            schema=schema,
            on_bad_rows=on_bad_rows,
            unknown_fields=unknown_fields,
            filesystem=filesystem,
        )
    )


def read_ipc(paths: PathsArgument, *, filesystem: Any | None = None) -> Pipeline:
    """Start a pipeline at Arrow IPC files (also called Feather 2) or streams; local files are memory-mapped.

    Parameters
    ----------
    paths
        See the module: path, list, glob, directory or URL.
    filesystem
        Where plain paths are: pyarrow's or fsspec's file system.

    Raises
    ------
    ReadError
        There is no such file, or it is not an Arrow IPC file.
    """
    from dataflare.sources.ipc import IpcSource

    return Pipeline(IpcSource.open(paths, filesystem=filesystem))


def from_arrow(data: Any) -> Pipeline:
    """Start a pipeline at Arrow data in memory, without copying it.

    Parameters
    ----------
    data
        A record batch, a table, a `SharedDataBatch`, or anything else that exports Arrow: Polars and pandas
        frames, DuckDB results.

    Raises
    ------
    SchemaError
        `data` does not export Arrow, or two columns have the same name.

    Examples
    --------
    >>> import dataflare as flare, pyarrow as pa
    >>> flare.from_arrow(pa.table({"a": [1, 2, 3]})).filter(lambda r: r.a != 2).collect().to_pylist()
    [{'a': 1}, {'a': 3}]
    """
    from dataflare.sources.memory import MemorySource

    return Pipeline(MemorySource.from_arrow(data))


def from_records(
    records: Iterable[Mapping[str, Any]], schema: pa.Schema | Mapping[str, pa.DataType] | None = None
) -> Pipeline:
    """Start a pipeline at records that are dicts; a key that a record does not have is null.

    Parameters
    ----------
    records
        Taken at once.
    schema
        Names and types; found from the records when None.

    Examples
    --------
    >>> import dataflare as flare
    >>> flare.from_records([{"a": 1}, {"a": None}]).map(lambda r: {"known": r.a is not None}).collect().to_pylist()
    [{'known': True}, {'known': False}]
    """
    from dataflare.sources.memory import MemorySource

    return Pipeline(MemorySource.from_records(records, schema))


def from_batches(
    batches: Iterable[Any] | AsyncIterable[Any],
    schema: pa.Schema | Mapping[str, pa.DataType] | None = None,
    *,
    pausable: bool = True,
) -> Pipeline:
    """Start a pipeline at an iterable or async iterable of batches, taken one by one as the run asks for them.

    Parameters
    ----------
    batches
        `SharedDataBatch`, Arrow batches or tables, or anything else that exports Arrow. An iterator can be run
        once; a list, or an iterable that begins anew, as often as one likes. An async iterable runs in an
        event loop of its own, on a thread of its own. Batches on a GPU are computed where they lie if the run
        is on that GPU, as by default it is for a list of them; results come back to host memory.
    schema
        Of all batches. Without it the first batch is taken now.
    pausable
        False where batches are lost, or who sends them is stopped, unless they are taken as soon as they come, as
        with a socket. A thread takes them from the first to the last whatever the sink does. Those that
        it is not ready for wait in a quarter of the memory limit (without one in 256 MiB or less), the others in
        files in the run option `spill_dir`, `spill_limit` bytes at most. Batches on a GPU come to host memory. Data in
        memory, such as a list, can always be paused.

    Raises
    ------
    OptionError
        It is not iterable, or it is empty and there is no schema.

    Examples
    --------
    >>> import dataflare as flare, pyarrow as pa
    >>> numbers = (pa.record_batch({"a": [n, n + 1]}) for n in range(0, 6, 2))
    >>> flare.from_batches(numbers).filter(lambda r: r.a % 3 == 0).collect().to_pylist()
    [{'a': 0}, {'a': 3}]
    """
    from dataflare.sources.memory import BatchesSource, MemorySource

    source = BatchesSource.open(batches, schema)
    if pausable or isinstance(source, MemorySource):
        return Pipeline(source)
    from dataflare.sources.unpausable import UnpausableSource

    return Pipeline(UnpausableSource(source))
