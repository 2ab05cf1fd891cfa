"""CSV files as a source: types found in the first block, bad rows with their line, bounded memory.

Covers one record a row, quoted or not, compressed or not. Rows are parsed by PyArrow, on several threads
within a block. Does not cover comments, several characters as delimiter, or files whose rows differ in their
columns.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa
import pyarrow.csv as pa_csv

from dataflare.kernels.errors import OptionError, ReadError, SchemaError, SchemaMismatchError, nearest
from dataflare.schema import column_index, require_unique_names
from dataflare.sources.bad_rows import BadRowCounter, BadRows, check_bad_rows
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
    shown_text,
)

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.sources.base import Predicate

__all__ = ["CsvPartition", "CsvSource"]

_SUFFIXES = tuple(
    kind + packed for kind in (".csv", ".tsv", ".txt") for packed in ("", ".gz", ".bz2", ".zst", ".lz4")
)
_TOO_LONG_FOR_BLOCKS = "straddles two block boundaries"
_COLUMN_NUMBER = re.compile(r"In CSV column #(\d+): (?:CSV )?")


@dataclass(frozen=True)
class CsvFormat:
    """How rows are written and what they mean; see `CsvSource.open`."""

    delimiter: str
    quote: str | None
    escape: str | None
    header: bool
    encoding: str
    null_values: tuple[str, ...]
    on_bad_rows: BadRows

    def reader(self, file: InputFile, bounds: TextBounds = UNLIMITED) -> TextReader:
        """Return a reader of whole rows."""
        return TextReader(
            file,
            bounds=bounds,
            quote=self.quote.encode() if self.quote else None,
            escape=self.escape.encode() if self.escape else None,
            encoding=self.encoding,
        )

    def parse(
        self,
        data: bytes,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        columns: Sequence[str] | None,
        short: list[Any] | None,
    ) -> pa.Table:
        """Parse whole rows; ``short`` is filled with those that have too few or too many values, an error if None."""
        if not data:
            wanted = names if columns is None else columns
            return pa.schema([(name, types.get(name, pa.null())) for name in wanted]).empty_table()
        try:
            return self._parse_in_blocks(data, min(len(data), 2**20), names, types, columns, short)
        except pa.ArrowInvalid as error:
            if _TOO_LONG_FOR_BLOCKS not in str(error):
                raise
        return self._parse_in_blocks(data, len(data), names, types, columns, short)

    def _parse_in_blocks(
        self,
        data: bytes,
        block_bytes: int,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        columns: Sequence[str] | None,
        short: list[Any] | None,
    ) -> pa.Table:
        """Parse with as many threads as there are blocks; no row may reach over a whole one."""

        def skip_short(row: Any) -> Literal["skip"]:
            assert short is not None
            short.append(row)
            return "skip"

        if short is not None:
            short.clear()  # the same rows are parsed again and again where one does not parse
        quoted = self.quote is not None and self.quote.encode() in data
        return pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(column_names=list(names), block_size=block_bytes),
            parse_options=pa_csv.ParseOptions(
                delimiter=self.delimiter,
                quote_char=self.quote or False,
                escape_char=self.escape or False,
                newlines_in_values=quoted,
                # In a file of one column an empty line is a null.
                ignore_empty_lines=len(names) > 1,
                invalid_row_handler=None if short is None else skip_short,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict(types),
                include_columns=None if columns is None else list(columns),
                null_values=list(self.null_values),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )


@dataclass(frozen=True, eq=False)
class CsvSource:
    """CSV files, in order, as one source. Made by `open`."""

    schema: pa.Schema
    """Schema of the batches."""
    _files: tuple[InputFile, ...]
    _format: CsvFormat
    _full_schema: pa.Schema
    _bad: BadRowCounter = field(default_factory=BadRowCounter)
    _bounds: TextBounds = UNLIMITED

    @classmethod
    def open(
        cls,
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
    ) -> CsvSource:
        r"""Find the files and read the beginning of the first one.

        Parameters
        ----------
        paths
            See `dataflare.sources.paths.find_files`; directories are searched for .csv, .tsv and .txt, plain
            or compressed as .gz, .bz2, .zst or .lz4.
        delimiter
            One character; a tab for .tsv files and a comma for others when None.
        header
            Whether the first row of each file holds names. Files may then have their columns in different
            orders.
        column_names
            Names in place of the header's, or of the header that is not there.
        column_types
            Arrow types of some columns. The others' are found in the first 8 MiB of the first file; a column
            without any value there is text.
        null_values
            Texts that mean null. The empty text does unless it is in quotes; "NA" and "null" do not by
            themselves, since they may be values, and neither does "NaN", which is a number.
        quote, escape
            The characters that do so; None for none.
        encoding
            Any that Python knows.
        on_bad_rows
            "error" stops at the first row that has not as many values as there are columns, or a value that
            is not of its column's type; "skip" leaves such rows out and counts them in `bad_rows`.

        Raises
        ------
        ReadError
            There is no such file, or it cannot be read, or its beginning does not parse.
        SchemaError
            Two columns have the same name.
        """
        check_bad_rows(on_bad_rows)
        if not header and column_names is None:
            raise OptionError("without a header the columns need names: give column_names.")
        files = find_files(paths, suffixes=_SUFFIXES, filesystem=filesystem)
        check_text_files(files, encoding)
        if delimiter is None:
            delimiter = "\t" if ".tsv" in files[0].path.lower().rpartition("/")[2] else ","
        for option, character in (("delimiter", delimiter), ("quote", quote), ("escape", escape)):
            if character is not None and (len(character) != 1 or not character.isascii()):
                raise OptionError(f"{option} must be one ASCII character, not {character!r}.")
        form = CsvFormat(delimiter, quote, escape, header, encoding, tuple(null_values), on_bad_rows)
        given = (
            dict(zip(column_types.names, column_types.types, strict=True))
            if isinstance(column_types, pa.Schema)
            else dict(column_types or {})
        )
        schema = _find_schema(files[0], form, column_names, given)
        return cls(schema, files, form, schema)

    @property
    def description(self) -> str:
        """Files and columns."""
        name = (
            self._files[0].shown
            if len(self._files) == 1
            else (f"{self._files[0].shown} and {len(self._files) - 1} more")
        )
        return f"CSV {name}: {len(self.schema)} of {len(self._full_schema)} columns"

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
        """Rows left out so far, by all readers of this source."""
        return self._bad.rows

    @property
    def reading_bytes(self) -> int:
        """Bytes that a reader holds at most beside its batches."""
        return self._bounds.reading_bytes

    def with_blocks(self, block_bytes: int) -> Self:
        """Return the source read in blocks of about so many bytes of text, where those are smaller."""
        return replace(self, _bounds=self._bounds.with_blocks(block_bytes))

    def with_reading_bound(self, most_bytes: int) -> Self:
        """Return the source whose readers refuse what has to be read as a whole, and takes more."""
        return replace(self, _bounds=self._bounds.with_reading_bound(most_bytes))

    def with_projection(self, names: Sequence[str]) -> Self:
        """Return the source with only these columns; the others are not converted, and not checked."""
        fields = [self.schema.field(column_index(self.schema, name, self._files[0].shown)) for name in names]
        return replace(self, schema=pa.schema(fields))

    def with_predicates(self, predicates: Sequence[Predicate]) -> Self:
        """Return the source itself: text has no statistics."""
        return self

    def partitions(self) -> tuple[CsvPartition, ...]:
        """Return one partition for each file."""
        return tuple(
            CsvPartition(
                self.schema,
                file,
                self._files[0].shown,
                self._format,
                self._full_schema,
                self._bad,
                self._bounds,
            )
            for file in self._files
        )


@dataclass(frozen=True, eq=False)
class CsvPartition:
    """One CSV file."""

    schema: pa.Schema
    """Schema of the batches."""
    _file: InputFile
    _first_shown: str
    _format: CsvFormat
    _full_schema: pa.Schema
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
        types = dict(zip(self._full_schema.names, self._full_schema.types, strict=True))
        # Rows without any column still have to be counted: one column is read and dropped.
        columns = self.schema.names or self._full_schema.names[:1]
        with self._format.reader(self._file, self._bounds) as reader:
            names = self._names(reader)
            skips = self._format.on_bad_rows == "skip"
            short: list[Any] = []  # in what was parsed last

            def parse(data: bytes) -> pa.Table:
                return self._format.parse(data, names, types, columns, short if skips else None)

            def on_bad(record: BadRecord) -> None:
                self._on_bad(record, names)

            for block in reader:
                for table in parse_records(block, parse, reader.records, on_bad):
                    self._bad.add(len(short))
                    yield from slice_table(self.schema, self._fitted(table), batch_rows)

    def _fitted(self, table: pa.Table) -> pa.Table:
        if not self.schema:
            return table.select([])
        return pa.Table.from_arrays(table.combine_chunks().columns, schema=self.schema)

    def _names(self, reader: TextReader) -> list[str]:
        expected = self._full_schema.names
        if not self._format.header:
            return expected
        found = _header(reader, self._file, self._format)
        if self._file.shown == self._first_shown or set(found) == set(expected):
            # The first file's header may have been renamed by column_names.
            return expected if self._file.shown == self._first_shown else found
        if len(found) == len(expected) and not set(found) & set(expected):
            return expected  # renamed by column_names
        missing = [name for name in expected if name not in found]
        if missing:
            raise SchemaMismatchError(
                f"{self._file.shown}: has no column {missing[0]!r}, which {self._first_shown} has as "
                f"{self._full_schema.field(missing[0]).type}. {nearest(missing[0], found)}".rstrip()
            )
        extra = next(name for name in found if name not in expected)
        raise SchemaMismatchError(
            f"{self._file.shown}: has the column {extra!r}, which {self._first_shown} has not. "
            "All files of one source need the same columns."
        )

    def _on_bad(self, record: BadRecord, names: Sequence[str]) -> None:
        if self._format.on_bad_rows == "skip":
            self._bad.add()
            return
        raise _bad_row_error(
            self._file, record, names, {name: self._full_schema.field(name).type for name in names}
        )


def _find_schema(
    file: InputFile, form: CsvFormat, column_names: Sequence[str] | None, given: Mapping[str, pa.DataType]
) -> pa.Schema:
    with form.reader(file) as reader:
        names = _header(reader, file, form) if form.header else []
        if column_names is not None:
            if form.header and len(column_names) != len(names):
                raise OptionError(
                    f"column_names has {len(column_names)} names, but {file.shown} has {len(names)} columns."
                )
            names = list(column_names)
        block = reader.next_block() or TextBlock(b"", 2, 0)

        def parse(data: bytes) -> pa.Table:
            known = {name: kind for name, kind in given.items() if name in names}
            return form.parse(data, names, known, None, [] if form.on_bad_rows == "skip" else None)

        def on_bad(record: BadRecord) -> None:
            if form.on_bad_rows == "error":
                raise _bad_row_error(file, record, names, given)

        tables = list(parse_records(block, parse, reader.records, on_bad)) or [parse(b"")]
        for name in names:
            if (
                any(pa.types.is_binary(table.schema.field(name).type) for table in tables)
                and name not in given
            ):
                # What PyArrow takes for binary is text in another encoding: say where, as reading would.
                given = {**given, name: pa.string()}
                tables = list(parse_records(block, parse, reader.records, on_bad)) or [parse(b"")]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise OptionError(
            f"column_types: {file.shown} has no column {unknown[0]!r}. {nearest(unknown[0], names)}"
        )
    found = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    fields = []
    for name in names:
        kind = given.get(name, found.field(name).type)
        fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) and name not in given else kind))
    schema = pa.schema(fields)
    try:
        require_unique_names(schema)
    except SchemaError as error:
        raise SchemaError(f"{file.shown}: {error}") from error
    return schema


def _header(reader: TextReader, file: InputFile, form: CsvFormat) -> list[str]:
    record = reader.take_record()
    if record is None:
        raise ReadError(f"{file.shown}: is empty, not even a header is there.")
    count = record.data.count(form.delimiter.encode()) + 1  # or fewer, where names hold it
    plain = replace(form, null_values=())
    for columns in range(count, 0, -1):
        names = [f"f{position}" for position in range(columns)]
        try:
            table = plain.parse(record.data, names, dict.fromkeys(names, pa.string()), None, None)
        except pa.ArrowInvalid as error:
            if not record.data.isascii():
                try:
                    record.data.decode()
                except UnicodeDecodeError:
                    bad = BadRecord(record.data, record.first_line, record.offset, str(error))
                    raise ReadError(bad.message(file.shown)) from error
            continue
        if table.num_rows == 1:
            header = [column[0].as_py() or "" for column in table.columns]
            if "" in header:
                raise ReadError(
                    f"{file.shown}, line 1: column {header.index('') + 1} has no name: {shown_text(record.data)}. "
                    "Give names with column_names."
                )
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise SchemaError(
                    f"{file.shown}, line 1: the name {twice!r} is there {header.count(twice)} times. "
                    "Give other names with column_names."
                )
            return header
    raise ReadError(f"{file.shown}, line 1: is no row of names: {shown_text(record.data)}.")


def _bad_row_error(
    file: InputFile, record: BadRecord, names: Sequence[str], types: Mapping[str, pa.DataType]
) -> ReadError:
    reason = record.reason.removeprefix("CSV parse error: ")
    if reason.startswith("Expected "):
        reason = reason.split(": ")[0]  # pyarrow repeats the row
    match = _COLUMN_NUMBER.match(reason)
    way_out = "on_bad_rows='skip' leaves such rows out."
    if match is not None:
        name = names[int(match[1])]
        reason = f"column {name!r}: {reason[match.end() :]}"
        kind = types.get(name)
        if kind is not None and not pa.types.is_string(kind):
            way_out = f"If {name!r} is no {kind}, say column_types={{{name!r}: ...}}; {way_out}"
    bad = replace(record, reason=reason)
    return ReadError(f"{bad.message(file.shown)}. {way_out}")
