"""JSON files as a source: one object a line (NDJSON), or one array of objects.

Covers types found at the beginning of the first file, bad records with their line, and bounded memory. A file that is
one array is read element by element, see `json_array`; the line of a bad record is then the number of its element,
from 1. Does not cover documents of another form.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa
import pyarrow.json as pa_json

from dataflare.kernels.errors import OptionError, ReadError
from dataflare.schema import column_index, require_unique_names
from dataflare.sources.bad_rows import BadRowCounter, BadRows, check_bad_rows
from dataflare.sources.json_array import array_blocks, begins_array
from dataflare.sources.paths import InputFile, PathsArgument, find_files
from dataflare.sources.slicing import slice_table
from dataflare.sources.text_blocks import (
    UNLIMITED,
    BadRecord,
    TextBlock,
    TextBounds,
    TextReader,
    check_text_files,
    parse_records,
)

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import Predicate

__all__ = ["JsonPartition", "JsonSource"]

UnknownFields = Literal["error", "ignore"]

_SUFFIXES = tuple(
    kind + packed for kind in (".json", ".jsonl", ".ndjson") for packed in ("", ".gz", ".bz2", ".zst", ".lz4")
)


@dataclass(frozen=True, eq=False)
class JsonSource:
    """JSON files, in order, as one source. Made by `open`."""

    schema: pa.Schema
    """Schema of the batches."""
    _files: tuple[InputFile, ...]
    _full_schema: pa.Schema
    _on_bad_rows: BadRows
    _unknown_fields: UnknownFields
    _bad: BadRowCounter = field(default_factory=BadRowCounter)
    _bounds: TextBounds = UNLIMITED

    @classmethod
    def open(
        cls,
        paths: PathsArgument,
        *,
        schema: pa.Schema | Mapping[str, pa.DataType] | None = None,
        on_bad_rows: BadRows = "error",
        unknown_fields: UnknownFields = "error",
        filesystem: Any | None = None,
    ) -> JsonSource:
        """Find the files and read the beginning of the first one.

        Parameters
        ----------
        paths
            See `dataflare.sources.paths.find_files`; directories are searched for .json, .jsonl and .ndjson,
            plain or compressed as .gz, .bz2, .zst or .lz4.
        schema
            The fields and their types. Without it they are found in the first 8 MiB of the first file; a
            field that is always null there is text. A field that a record has not is null.
        on_bad_rows
            "error" stops at the first line that is no JSON object or whose values have other types; "skip"
            leaves such lines out and counts them in `bad_rows`.
        unknown_fields
            "error" stops at a field that is not in the schema; "ignore" leaves it out.

        Raises
        ------
        ReadError
            There is no such file, or it cannot be read, or its beginning does not parse.
        """
        check_bad_rows(on_bad_rows)
        if unknown_fields not in ("error", "ignore"):
            raise OptionError(f"unknown_fields must be 'error' or 'ignore', not {unknown_fields!r}.")
        files = find_files(paths, suffixes=_SUFFIXES, filesystem=filesystem)
        check_text_files(files, "utf-8")
        if schema is None:
            found = _find_schema(files[0], on_bad_rows)
        else:
            found = schema if isinstance(schema, pa.Schema) else pa.schema(list(schema.items()))
        require_unique_names(found)
        return cls(found, files, found, on_bad_rows, unknown_fields)

    @property
    def description(self) -> str:
        """Files and columns."""
        first, others = self._files[0].shown, len(self._files) - 1
        name = f"{first} and {others} more" if others else first
        return f"JSON {name}: {len(self.schema)} of {len(self._full_schema)} columns"

    @property
    def num_rows(self) -> None:
        """Unknown: only reading tells."""
        return None

    @property
    def size_bytes(self) -> None:
        """Unknown: only reading tells."""
        return None

    @property
    def bad_rows(self) -> int:
        """Records left out so far, by all readers of this source."""
        return self._bad.rows

    @property
    def reading_bytes(self) -> int:
        """Bytes that a reader holds at most beside its batches."""
        return self._bounds.reading_bytes

    def with_blocks(self, block_bytes: int) -> Self:
        """Return the source read in blocks of about so many bytes of text, where those are smaller."""
        return replace(self, _bounds=self._bounds.with_blocks(block_bytes))

    def with_reading_bound(self, most_bytes: int) -> Self:
        """Return the source whose readers refuse a record that takes more."""
        return replace(self, _bounds=self._bounds.with_reading_bound(most_bytes))

    def with_projection(self, names: Sequence[str]) -> Self:
        """Return the source with only these columns."""
        fields = [self.schema.field(column_index(self.schema, name, self._files[0].shown)) for name in names]
        return replace(self, schema=pa.schema(fields))

    def with_predicates(self, predicates: Sequence[Predicate]) -> Self:
        """Return the source itself: text has no statistics."""
        return self

    def partitions(self) -> tuple[JsonPartition, ...]:
        """Return one partition for each file."""
        return tuple(
            JsonPartition(
                self.schema,
                file,
                self._full_schema,
                self._on_bad_rows,
                self._unknown_fields,
                self._bad,
                self._bounds,
            )
            for file in self._files
        )


@dataclass(frozen=True, eq=False)
class JsonPartition:
    """One JSON file."""

    schema: pa.Schema
    """Schema of the batches."""
    _file: InputFile
    _full_schema: pa.Schema
    _on_bad_rows: BadRows
    _unknown_fields: UnknownFields
    _bad: BadRowCounter
    _bounds: TextBounds = UNLIMITED
    num_rows: None = None
    """Unknown."""
    size_bytes: None = None
    """Unknown."""

    @property
    def description(self) -> str:
        """Path."""
        return self._file.shown

    def read(self, batch_rows: Callable[[], int]) -> Iterator[SharedDataBatch]:
        """Parse a block of text at a time; see `dataflare.sources.base.SourcePartition.read`."""
        strict = self._unknown_fields == "error"
        # To notice a field that nobody knows, all known ones have to be parsed; one has to be, to count
        # records.
        columns = self._full_schema if strict or not self.schema else self.schema
        options = pa_json.ParseOptions(
            explicit_schema=columns, unexpected_field_behavior="error" if strict else "ignore"
        )
        with TextReader(self._file, bounds=self._bounds) as reader:
            for block in _blocks(reader, self._file, self._bounds):
                for table in parse_records(
                    block, lambda data: _parse(data, options), reader.records, self._take_bad
                ):
                    yield from slice_table(self.schema, self._fitted(table), batch_rows)

    def _fitted(self, table: pa.Table) -> pa.Table:
        if not self.schema:
            return table.select([])
        return pa.Table.from_arrays(
            table.select(self.schema.names).combine_chunks().columns, schema=self.schema
        )

    def _take_bad(self, record: BadRecord) -> None:
        if self._on_bad_rows == "skip":
            self._bad.add()
        else:
            raise _bad_record_error(self._file, record)


def _parse(data: bytes, options: pa_json.ParseOptions | None) -> pa.Table:
    if not data.strip():
        schema = None if options is None else options.explicit_schema
        return (schema or pa.schema([])).empty_table()
    if not data.isascii():
        try:
            data.decode()  # PyArrow does not check
        except UnicodeDecodeError as error:
            raise pa.ArrowInvalid(str(error)) from error
    # A record may be as long as the block, and PyArrow's blocks must hold whole records.
    read_options = pa_json.ReadOptions(block_size=max(len(data), 2**20))
    return pa_json.read_json(io.BytesIO(data), read_options=read_options, parse_options=options)


def _find_schema(file: InputFile, on_bad_rows: BadRows) -> pa.Schema:
    def take_bad(record: BadRecord) -> None:
        if on_bad_rows == "error":
            raise _bad_record_error(file, record)

    with TextReader(file) as reader:
        block = next(_blocks(reader, file), None)
        if block is None:
            raise ReadError(f"{file.shown}: is empty: no record is there to tell the fields. Give schema=.")
        tables = list(parse_records(block, lambda data: _parse(data, None), reader.records, take_bad))
    found = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    if not len(found):
        raise ReadError(f"{file.shown}: no record at its beginning has a field. Give schema=.")
    return pa.schema(
        [entry.with_type(pa.string()) if pa.types.is_null(entry.type) else entry for entry in found]
    )


def _blocks(reader: TextReader, file: InputFile, bounds: TextBounds = UNLIMITED) -> Iterator[TextBlock]:
    """Yield blocks of lines; of an array, those of one line for each element."""
    return array_blocks(reader, file, bounds) if begins_array(reader.peek()) else iter(reader)


def _bad_record_error(file: InputFile, record: BadRecord) -> ReadError:
    reason = record.reason.removeprefix("JSON parse error: ")
    # PyArrow counts from the beginning of what it was given; the line is known already.
    reason = reason.partition(" in row ")[0].rstrip(".")
    way_out = "on_bad_rows='skip' leaves such records out."
    if "unexpected field" in reason:
        reason = "it has a field that the records before do not have"
        way_out = "Name all fields with schema=, or say unknown_fields='ignore'."
    elif "changed from" in reason:
        way_out = f"Types come from the first records; others can be given with schema=. {way_out}"
    return ReadError(f"{replace(record, reason=reason).message(file.shown)}. {way_out}")
