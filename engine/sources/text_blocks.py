"""Reads text files of records in blocks that end where a record ends, and finds the record that is broken.

Covers what CSV and NDJSON have in common: bounded memory, line numbers, encodings, and the search for a bad
record when a block does not parse. Does not cover what a record means.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import OptionError, ReadError
from dataflare.sources.paths import InputFile, read_failure

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "UNLIMITED",
    "BadRecord",
    "TextBlock",
    "TextBounds",
    "TextReader",
    "check_text_files",
    "parse_records",
    "shown_text",
]

# Text, of which Arrow columns are about as large: a block of records is as large as one of Parquet.
_BLOCK_BYTES = 8 * 2**20
_LONGEST_RECORD_BYTES = 64 * 2**20
_LEAST_BLOCK_BYTES = 2**16
_PEEK_BYTES = 2**12
# A block, the start of the next one, and the table that it is parsed to, once again while it is built.
_COPIES_OF_A_BLOCK = 4
_BOM = codecs.BOM_UTF8
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UNSUPPORTED_SUFFIXES = (".zip", ".xz", ".7z", ".rar", ".lzma", ".z")
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class TextBounds:
    """How much text is read at once.

    Attributes
    ----------
    block_bytes
        About how much a block of records has.
    whole_bytes
        The most that is read at once where it has to be, such as one record; it takes as many copies as a block. None
        where memory is not limited.
    """

    block_bytes: int = _BLOCK_BYTES
    whole_bytes: int | None = None

    def with_blocks(self, block_bytes: int) -> TextBounds:
        """Return the bounds where so many bytes are allowed for a block."""
        return replace(self, block_bytes=max(_LEAST_BLOCK_BYTES, min(_BLOCK_BYTES, block_bytes)))

    def with_reading_bound(self, most_bytes: int) -> TextBounds:
        """Return the bounds where a reader may hold so many bytes."""
        return replace(self, whole_bytes=max(_LEAST_BLOCK_BYTES, most_bytes // _COPIES_OF_A_BLOCK))

    @property
    def longest_record_bytes(self) -> int:
        """About how long a record may be."""
        return (
            _LONGEST_RECORD_BYTES
            if self.whole_bytes is None
            else min(_LONGEST_RECORD_BYTES, self.whole_bytes)
        )

    @property
    def reading_bytes(self) -> int:
        """What a reader holds beside its batches, as long as records are short."""
        return _COPIES_OF_A_BLOCK * self.block_bytes


UNLIMITED = TextBounds()


@dataclass(frozen=True)
class TextBlock:
    """Whole records in UTF-8.

    Attributes
    ----------
    data
        The text, with the line ends.
    first_line
        Number of its first line in the file, from 1.
    offset
        Position in the (decompressed) file of its first byte.
    """

    data: bytes
    first_line: int
    offset: int


@dataclass(frozen=True)
class BadRecord:
    """A record that does not parse: where it is, what it says, and why it is refused."""

    text: bytes
    line: int
    offset: int
    reason: str

    def message(self, shown: str) -> str:
        """Return the error for people; a record that is not UTF-8 is refused for that."""
        try:
            self.text.decode()
        except UnicodeDecodeError as error:
            return (
                f"{shown}, line {self.line:,}: is not UTF-8: byte 0x{self.text[error.start]:02x} at byte "
                f"{error.start + 1:,} of the line (byte {self.offset + error.start:,} of the file). "
                "If the file has another encoding, name it: encoding='latin-1', for instance."
            )
        return f"{shown}, line {self.line:,}: {self.reason}: {shown_text(self.text)}"


def shown_text(record: bytes) -> str:
    """Return a record as it can be shown: in quotes, not longer than a line."""
    text = record.decode(errors="replace").rstrip("\r\n")
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")


def check_text_files(files: Sequence[InputFile], encoding: str) -> None:
    """Refuse unknown encodings, and compressions that cannot be read, before anything is read."""
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise OptionError(
            f"encoding: Python knows no encoding {encoding!r}; try 'utf-8' or 'latin-1'."
        ) from error
    for file in files:
        if file.suffix in _UNSUPPORTED_SUFFIXES:
            raise ReadError(
                f"{file.shown}: {file.suffix} files cannot be read. Unpack it, or compress it as .gz, .zst, .bz2 "
                "or .lz4."
            )


class TextReader:
    """Reads one file in blocks of whole records. Belongs to one thread; a context manager.

    Parameters
    ----------
    file
        The file, compressed or not.
    quote
        The character between two of which a line end does not end the record; None where there is none.
    escape
        The character after which a quote is just a character.
    encoding
        Of the file; blocks are UTF-8 always.
    bounds
        How much is read at once.
    """

    def __init__(
        self,
        file: InputFile,
        *,
        quote: bytes | None = None,
        escape: bytes | None = None,
        encoding: str = "utf-8",
        bounds: TextBounds = UNLIMITED,
    ) -> None:
        self._file = file
        self._quote = quote
        self._escape = escape
        self._encoding = codecs.lookup(encoding).name
        self._decoder = None if self._encoding == "utf-8" else codecs.getincrementaldecoder(encoding)()
        self._bounds = bounds
        self._handle: pa.NativeFile | None = None
        self._rest = b""
        self._line = 1
        self._offset = 0
        self._begun = False
        self._ended = False

    def __enter__(self) -> TextReader:
        self._handle = self._file.open_stream()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.close()

    def __iter__(self) -> Iterator[TextBlock]:
        while (block := self.next_block()) is not None:
            yield block

    def next_block(self) -> TextBlock | None:
        """Return the next records, or None at the end."""
        pieces = [self._rest]
        size_bytes = len(self._rest)
        self._rest = b""
        while True:
            piece = self._read(self._bounds.block_bytes)
            if not piece:
                data = b"".join(pieces)
                self._check_closed(data)
                return self._block(data) if data else None
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes < self._bounds.block_bytes:
                continue
            data = b"".join(pieces)
            end = self._last_record_end(data)
            if end:
                self._rest = data[end:]
                return self._block(data[:end])
            if size_bytes > self._bounds.longest_record_bytes:
                raise self._too_long(size_bytes)
            pieces = [data]

    def peek(self) -> bytes:
        """Return the beginning of the file, wherever it is cut, and leave it to be read."""
        if not self._begun:
            self._rest = self._read(_PEEK_BYTES)
        return self._rest

    def next_piece(self, most_bytes: int) -> bytes:
        """Return text wherever it ends, of about so many bytes or less, and none at the end of the file.

        For what is not made of lines. Lines are not counted, and what is left is no longer for `next_block`.
        """
        piece, self._rest = self._rest, b""
        return piece or self._read(most_bytes)

    def take_record(self) -> TextBlock | None:
        """Return the first record only, such as a header, and leave the others for `next_block`."""
        block = self.next_block()
        if block is None:
            return None
        end, _ = next(record_ends(block.data, self._quote, self._escape))
        self._rest = block.data[end:] + self._rest
        record = TextBlock(block.data[:end], block.first_line, block.offset)
        self._line = block.first_line + record.data.count(b"\n")
        self._offset = block.offset + end
        return record

    def records(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield for each record the position where it ends, and the line ends in it."""
        return record_ends(data, self._quote, self._escape)

    def _too_long(self, size_bytes: int) -> ReadError:
        longest_bytes = self._bounds.longest_record_bytes
        if longest_bytes < _LONGEST_RECORD_BYTES:
            bound = (
                f"The memory limit has room for one of {format_bytes(longest_bytes)}: raise memory_limit for longer "
                f"ones, up to {format_bytes(_LONGEST_RECORD_BYTES)}."
            )
        else:
            bound = f"A record may have {format_bytes(longest_bytes)}."
        return ReadError(
            f"{self._file.shown}, line {self._line:,}: no record ends within {size_bytes:,} bytes. Is a quote never "
            f"closed, or is it no text file? {bound}"
        )

    def _block(self, data: bytes) -> TextBlock:
        block = TextBlock(data, self._line, self._offset)
        self._line += data.count(b"\n")
        self._offset += len(data)
        return block

    def _read(self, most_bytes: int) -> bytes:
        assert self._handle is not None
        if self._ended:
            return b""
        first, self._begun = not self._begun, True
        try:
            data: bytes = self._handle.read(most_bytes)
        except (OSError, ValueError) as error:
            raise read_failure(self._file.shown, error) from error
        self._ended = not data
        if self._decoder is not None:
            try:
                return self._decoder.decode(data, final=not data).encode()
            except UnicodeDecodeError as error:
                raise ReadError(
                    f"{self._file.shown}: is not {self._encoding}: {error.reason} in the text from line "
                    f"{self._line:,} on."
                ) from error
        if first:
            if data.startswith(_UTF16_MARKS):
                raise ReadError(f"{self._file.shown}: is UTF-16 by its first bytes. Say encoding='utf-16'.")
            data = data.removeprefix(_BOM)
        return data

    def _check_closed(self, data: bytes) -> None:
        if self._quote is None or _quotes(data, self._quote, self._escape) % 2 == 0:
            return
        start = self._last_record_end(data)
        line = self._line + data.count(b"\n", 0, start)
        text = shown_text(data[start:].splitlines()[0])
        raise ReadError(
            f"{self._file.shown}, line {line:,}: in this row or one before it a quote opens "
            f"that is never closed: {text}. "
            "If quotes have no meaning here, say quote=None."
        )

    def _last_record_end(self, data: bytes) -> int:
        end = data.rfind(b"\n") + 1
        quote = self._quote
        if quote is None or not end:
            return end
        # Inside a pair of quotes there is an odd number of them before.
        before = _quotes(data[:end], quote, self._escape)
        while end and before % 2:
            position = data.rfind(quote, 0, end)
            before -= _quotes(data[position:end], quote, self._escape)
            end = data.rfind(b"\n", 0, position) + 1
            before -= _quotes(data[end:position], quote, self._escape)
        return end


def _quotes(data: bytes, quote: bytes, escape: bytes | None) -> int:
    return data.count(quote) - (data.count(escape + quote) if escape else 0)


def record_ends(data: bytes, quote: bytes | None, escape: bytes | None) -> Iterator[tuple[int, int]]:
    """Yield for each record in `data` the position where it ends, and the line ends in it."""
    start = 0
    quotes = 0
    lines = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1
        lines += 1
        if not end:
            yield len(data), lines - 1
            return
        if quote is not None:
            quotes += _quotes(data[start:end], quote, escape)
        start = end
        if quotes % 2 == 0:
            yield end, lines
            lines = 0
    if lines:
        yield len(data), lines


def parse_records(
    block: TextBlock,
    parse: Callable[[bytes], pa.Table],
    ends: Callable[[bytes], Iterator[tuple[int, int]]],
    on_bad: Callable[[BadRecord], None],
) -> Iterator[pa.Table]:
    """Parse a block; where it fails find the first bad record, report it, and go on behind it.

    Parameters
    ----------
    parse
        Parses whole records; raises pyarrow's errors. When it fails for some records, it fails for more.
    ends
        Finds the ends of the records, see `record_ends`; called only when something is bad.
    on_bad
        Takes the bad record; raises unless it is to be left out.
    """
    data, line, offset = block.data, block.first_line, block.offset
    while data:
        try:
            yield parse(data)
            return
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            reason = error
        records = list(ends(data))
        good, bad = 0, len(records)  # the first `good` records parse, the first `bad` do not
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                parse(data[: records[middle - 1][0]])
                good = middle
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                bad, reason = middle, error
        start = records[good - 1][0] if good else 0
        end = records[good][0]
        line += sum(count for _, count in records[:good])
        if start:
            yield parse(data[:start])
        on_bad(BadRecord(data[start:end], line, offset + start, str(reason).splitlines()[0]))
        line += records[good][1]
        offset += end
        data = data[end:]
