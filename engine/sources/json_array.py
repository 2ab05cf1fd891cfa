"""Reads a JSON file that is one array of objects, element by element, as blocks of one line for each element.

Covers bounded memory, whether the array is on one line or on many, and the errors of what is no such array. Does not
cover what the elements mean: they are read like lines.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import MemoryLimitError, ReadError
from dataflare.sources.paths import InputFile
from dataflare.sources.text_blocks import TextBlock, TextBounds, TextReader

__all__ = ["array_blocks", "begins_array"]

_PIECE_BYTES = 2**18
_LEAST_ELEMENT_BYTES = 2**16
_SPACE = " \t\r\n"
_SHOWN_CHARACTERS = 80
# An element becomes Python objects, of 10 to 30 times its text; a record of a block becomes 4 copies.
_ELEMENT_SHARE = 8


def begins_array(text: bytes) -> bool:
    """Tell whether a file that begins so is one array."""
    return text.lstrip().startswith(b"[")


def array_blocks(reader: TextReader, file: InputFile, bounds: TextBounds) -> Iterator[TextBlock]:
    """Yield the elements of an array in blocks, in which each of them has one line.

    Raises
    ------
    ReadError
        It is no array, or one of its elements is no object.
    MemoryLimitError
        An element is longer than a memory limit has room for.
    """
    lines: list[bytes] = []
    size_bytes = offset = 0
    first_line = 1
    for text in _Elements(reader, file, bounds):
        # No text in JSON has line ends in it, so that these are between values.
        line = text.replace("\n", " ").replace("\r", " ").encode() + b"\n"
        lines.append(line)
        size_bytes += len(line)
        if size_bytes >= bounds.block_bytes:
            yield TextBlock(b"".join(lines), first_line, offset)
            first_line += len(lines)
            offset += size_bytes
            lines, size_bytes = [], 0
    if lines:
        yield TextBlock(b"".join(lines), first_line, offset)


class _Elements:
    """The texts of the elements. What was read is held from the element on that is next."""

    def __init__(self, reader: TextReader, file: InputFile, bounds: TextBounds) -> None:
        self._reader = reader
        self._file = file
        self._bounds = bounds
        # Numbers are left as they are: here it only counts where an element ends.
        self._decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
        self._from_utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._position = 0
        self._line = 1  # where the text begins
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        self._take("[")
        if self._next_character() != "]":
            yield self._element()
            while self._next_character() == ",":
                self._position += 1
                yield self._element()
        self._take("]")
        if self._next_character():
            raise self._not_json("something comes after its end", self._position)

    def _take(self, character: str) -> None:
        if self._next_character() != character:
            raise self._not_json("Expecting ',' or ']'", self._position)
        self._position += 1

    def _element(self) -> str:
        self._next_character()
        while True:
            try:
                element, end = self._decode(self._text, self._position)
                break
            except json.JSONDecodeError as error:  # it may only go on in text that is not read yet
                if not self._read_more():
                    raise self._not_json(error.msg, error.pos) from error
            except RecursionError as error:
                raise self._not_json("values are nested too deeply", self._position) from error
        text = self._text[self._position : end]
        if not isinstance(element, dict):
            raise ReadError(
                f"{self._file.shown}: element {self._number} of the array is no object: {text[:_SHOWN_CHARACTERS]}."
            )
        if len(text) > self._longest_bytes:
            raise self._too_long()
        self._position = end
        self._number += 1
        return text

    def _next_character(self) -> str:
        while True:
            while self._position < len(self._text):
                character = self._text[self._position]
                if character not in _SPACE:
                    return character
                self._position += 1
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        rest = self._text[self._position :]
        if len(rest) > self._longest_bytes:
            raise self._too_long()
        # As much again, so that a long element is not parsed many times.
        piece = self._reader.next_piece(max(len(rest), min(_PIECE_BYTES, self._bounds.block_bytes)))
        try:
            text = self._from_utf8.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise self._not_json(str(error), self._position) from error
        self._line += self._text.count("\n", 0, self._position)
        self._text = rest + text
        self._position = 0
        return bool(piece)

    @property
    def _longest_bytes(self) -> int:
        if self._bounds.whole_bytes is None:
            return self._bounds.longest_record_bytes
        return max(
            _LEAST_ELEMENT_BYTES,
            min(self._bounds.longest_record_bytes, self._bounds.whole_bytes // _ELEMENT_SHARE),
        )

    def _too_long(self) -> ReadError | MemoryLimitError:
        longest_bytes = self._longest_bytes
        line = self._line + self._text.count("\n", 0, self._position)
        place = f"{self._file.shown}, line {line:,}: element {self._number} of the array"
        if self._bounds.whole_bytes is None:
            return ReadError(
                f"{place} does not end within {format_bytes(longest_bytes)}. Is a quote or a bracket never closed?"
            )
        return MemoryLimitError(
            f"{place} does not end within the {format_bytes(longest_bytes)} that the memory limit has room for. Raise "
            "memory_limit, or write one object a line, which may be longer."
        )

    def _not_json(self, reason: str, position: int) -> ReadError:
        line = self._line + self._text.count("\n", 0, position)
        return ReadError(
            f"{self._file.shown}: begins with '[' but is not an array in JSON: {reason} in line {line:,}. For one "
            "object a line, no bracket goes around them."
        )
