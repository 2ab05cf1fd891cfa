"""What the footers of a source's Parquet files say: schemas, row groups, sizes, and which belong together.

Covers opening and checking files and the errors of those that are damaged or differ. Decoding is in
`dataflare.sources.parquet_decoders`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from dataflare.kernels.errors import ReadError, SchemaError
from dataflare.schema import require_unique_names
from dataflare.sources.agreement import check_agreement
from dataflare.sources.paths import InputFile, read_failure

if TYPE_CHECKING:
    from dataflare.kernels.errors import DataFlareError
    from dataflare.sources.parquet_native import StoredColumn

__all__ = ["ParquetCatalog", "ParquetFileInfo"]

_FOOTER_THREADS = 8  # latency, not work
_MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
_FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True, eq=False)
class ParquetFileInfo:
    """One file and its footer.

    Attributes
    ----------
    schema
        Arrow schema of the whole file, without file-level metadata.
    leaves
        For each column the positions of its chunks in a row group: one, unless it is nested.
    stored_columns
        What DataFlare's decoder has found out of columns, by name and type.
    """

    file: InputFile
    metadata: pq.FileMetaData
    schema: pa.Schema
    leaves: Mapping[str, tuple[int, ...]]
    stored_columns: dict[tuple[str, pa.DataType], StoredColumn] = dataclass_field(
        default_factory=dict, repr=False
    )

    def decoded_bytes(self, row_group: int, names: Sequence[str]) -> int:
        """Estimate what these columns of a row group take in memory."""
        group = self.metadata.row_group(row_group)
        total = 0
        for name in names:
            data_type = self.schema.field(name).type
            try:
                width_bits = data_type.bit_width + 1
            except ValueError:
                # 16 bytes a row for the view, or for offsets and what a dictionary page saves.
                total += self.uncompressed_bytes(row_group, [name]) + 16 * group.num_rows
            else:
                total += width_bits * group.num_rows // 8
        return total

    def stored_bytes(self, row_group: int, names: Sequence[str]) -> int:
        """Return what these columns of a row group take in the file."""
        group = self.metadata.row_group(row_group)
        return sum(group.column(leaf).total_compressed_size for name in names for leaf in self.leaves[name])

    def uncompressed_bytes(self, row_group: int, names: Sequence[str]) -> int:
        """Return what the pages of these columns of a row group take once they are decompressed."""
        group = self.metadata.row_group(row_group)
        return sum(group.column(leaf).total_uncompressed_size for name in names for leaf in self.leaves[name])

    def compressed_bytes(self, names: Sequence[str]) -> int:
        """Return what these columns take in the file."""
        return sum(self.stored_bytes(index, names) for index in range(self.metadata.num_row_groups))


class ParquetCatalog:
    """The files of one source. Footers are read once, all but the first when somebody asks; safe to share."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self.files = tuple(files)
        self.first = _open(self.files[0])
        self._infos: tuple[ParquetFileInfo, ...] | None = (self.first,) if len(self.files) == 1 else None
        self._lock = threading.Lock()

    @property
    def schema(self) -> pa.Schema:
        """The first file's schema; of several files, every column may have nulls."""
        schema = self.first.schema
        if len(self.files) == 1:
            return schema
        return pa.schema([field.with_nullable(True) for field in schema])

    def infos(self) -> tuple[ParquetFileInfo, ...]:
        """Return all files with their footers.

        Raises
        ------
        ReadError
            One cannot be read or is damaged.
        """
        with self._lock:
            if self._infos is None:
                with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
                    self._infos = (self.first, *pool.map(_open, self.files[1:]))
            return self._infos

    def check(self, schema: pa.Schema, *, every_column: bool) -> None:
        """Check that every file has the columns of `schema`, and no others if `every_column`.

        Raises
        ------
        SchemaMismatchError
            A file does not; the message names it, the column and both types.
        """
        first = self.first
        for info in self.infos()[1:]:
            check_agreement(info.file.shown, info.schema, first.file.shown, schema, every_column=every_column)


def _open(file: InputFile) -> ParquetFileInfo:
    with file.open() as handle:
        try:
            parquet = pq.ParquetFile(handle)
            metadata = parquet.metadata
            schema = _cleaned(parquet.schema_arrow)
        except (OSError, ValueError, NotImplementedError, EOFError) as error:
            raise _why_not_parquet(file, handle, error) from error
    try:
        require_unique_names(schema)
    except SchemaError as error:
        raise ReadError(f"{file.shown}: {error}") from error
    return ParquetFileInfo(file, metadata, schema, _leaves(metadata, schema))


def _cleaned(schema: pa.Schema) -> pa.Schema:
    """Leave out what says something of the file, not of the data; extension types keep their marks."""
    fields = []
    for field in schema:
        marks: dict[bytes | str, bytes | str] = {
            key: value for key, value in (field.metadata or {}).items() if key != _FIELD_ID
        }
        fields.append(field.with_metadata(marks) if marks else field.remove_metadata())
    return pa.schema(fields)


def _leaves(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, tuple[int, ...]]:
    """Leaves come in the order of the columns, so counting each column's leaves says which are its own."""
    stored = metadata.schema
    leaves: dict[str, tuple[int, ...]] = {}
    position = 0
    for field in schema:
        prefix = field.name + "."
        end = position + 1
        if stored.column(position).path != field.name:  # nested: "name.more.and.more"
            while end < metadata.num_columns and stored.column(end).path.startswith(prefix):
                end += 1
        leaves[field.name] = tuple(range(position, end))
        position = end
    return leaves


def _why_not_parquet(file: InputFile, handle: pa.NativeFile, error: Exception) -> DataFlareError:
    try:
        size_bytes = handle.size()
        handle.seek(0)
        head = handle.read(8)
        handle.seek(max(0, size_bytes - 4))
        tail = handle.read(4)
    except OSError as failure:
        return read_failure(file.shown, failure)
    if not size_bytes:
        return ReadError(f"{file.shown}: is empty (0 bytes), not a Parquet file.")
    if _ENCRYPTED_MAGIC in (head[:4], tail):
        return ReadError(
            f"{file.shown}: is an encrypted Parquet file, which is not supported. Decrypt it first."
        )
    if head[:4] != _MAGIC:
        return ReadError(f"{file.shown}: is not a Parquet file ({_looks_like(head)}).")
    if tail != _MAGIC:
        return ReadError(
            f"{file.shown}: is a truncated Parquet file: it begins as one, but after {size_bytes:,} bytes "
            "the footer is missing. Was it copied only in part, or is it still being written?"
        )
    return ReadError(
        f"{file.shown}: the footer of this Parquet file is damaged: {str(error).splitlines()[0]}"
    )


def _looks_like(head: bytes) -> str:
    if head.startswith(b"ARROW1"):
        return "it is an Arrow IPC file: use read_ipc"
    if head[:1] in (b"{", b"["):
        return "it looks like JSON: use read_json"
    if head[:2] == b"\x1f\x8b":
        return "it is compressed with gzip"
    if head.isascii() and head.decode("ascii").isprintable():
        return f"it begins with the text {head.decode('ascii')!r}; for CSV use read_csv"
    return "it does not begin with PAR1"
