"""Where each key and value of a TOML document stands, so that a message can name the line.

Covers documents that `tomllib` has already accepted: syntax is not checked again, only followed. It knows
tables, arrays of tables, dotted and quoted keys, inline tables, arrays and the four kinds of strings.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass

__all__ = ["KeyPath", "Place", "Positions"]

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*)*")
_PLAIN_VALUE = re.compile(r"[^,\]}\n#]*")
_QUOTED = {
    '"""': re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL),
    "'''": re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}"),
    '"': re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    "'": re.compile(r"'[^'\n]*'"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the document, both counted from 0, in characters."""

    line: int
    column: int


class Positions:
    r"""The places of the keys and values of one document.

    Parameters
    ----------
    text
        A document that `tomllib` accepts.

    Examples
    --------
    >>> Positions('[source]\npath = "a.csv"').key(("source", "path"))
    Place(line=1, column=0)
    """

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self._text = text
        self._at = 0
        self._keys: dict[KeyPath, int] = {}
        self._values: dict[KeyPath, tuple[int, int]] = {}
        self._array_lengths: dict[KeyPath, int] = {}
        self._read_document()

    def key(self, path: KeyPath) -> Place | None:
        """Return where a key (or the header of its table) stands; for a path not in the document, None."""
        offset = self._keys.get(path)
        return None if offset is None else self._place(offset)

    def nearest_key(self, path: KeyPath) -> Place | None:
        """Return the place of a key or, where it is not in the document, of the table that it would be in."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._keys:
                return self.key(path[:length])
        return None

    def string_content(self, path: KeyPath, value: str) -> Place | None:
        """Return where the characters of a string value begin.

        None where they do not stand in the document as they are (escapes), so that no offset within the value
        can be turned into a place.
        """
        if path not in self._values:
            return None
        start, end = self._values[path]
        raw = self._text[start:end]
        quotes = next((quotes for quotes in _QUOTED if raw.startswith(quotes)), None)
        if quotes is None:
            return None
        begin = start + len(quotes)
        if len(quotes) == 3 and self._text.startswith("\n", begin):
            begin += 1  # TOML drops a line end right after the opening quotes
        return self._place(begin) if self._text[begin : end - len(quotes)] == value else None

    def _place(self, offset: int) -> Place:
        line = self._text.count("\n", 0, offset)
        return Place(line, offset - (self._text.rfind("\n", 0, offset) + 1))

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return match.group()

    def _read_document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BETWEEN) is not None and self._at < len(self._text):
            start = self._at
            brackets = "[[" if self._text.startswith("[[", start) else "["
            if self._text.startswith("[", start):
                self._at += len(brackets)
                *parents, last = self._read_key()
                table = ()
                for part in parents:
                    table = self._inside((*table, part))
                table = (*table, last)
                if brackets == "[[":
                    self._keys.setdefault(table, start)
                    index = self._array_lengths.get(table, 0)
                    self._array_lengths[table] = index + 1
                    table = (*table, index)
                self._keys.setdefault(table, start)
                self._at += len(brackets)
            else:
                self._read_pair(table)

    def _inside(self, path: KeyPath) -> KeyPath:
        """Return the path of the last element where ``path`` is an array of tables."""
        length = self._array_lengths.get(path)
        return path if length is None else (*path, length - 1)

    def _read_key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_BLANK)
            character = self._text[self._at]
            if character in "\"'":
                parts.append(tomllib.loads("key = " + self._skip(_QUOTED[character]))["key"])
            else:
                parts.append(self._skip(_BARE_KEY))
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _read_pair(self, table: KeyPath) -> None:
        start = self._at
        path = table
        for part in self._read_key():
            path = (*path, part)
            self._keys.setdefault(path, start)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._read_value(path)

    def _read_value(self, path: KeyPath) -> None:
        start = self._at
        quotes = next((quotes for quotes in _QUOTED if self._text.startswith(quotes, start)), None)
        opening = self._text[start]
        if quotes is not None:
            self._skip(_QUOTED[quotes])
        elif opening in "[{":
            self._at += 1
            self._skip(_BETWEEN)
            index = 0
            while self._text[self._at] not in "]}":
                if opening == "{":
                    self._read_pair(path)
                else:
                    self._keys.setdefault((*path, index), self._at)
                    self._read_value((*path, index))
                index += 1
                self._skip(_BETWEEN)
            self._at += 1
        else:
            self._skip(_PLAIN_VALUE)
        self._values[path] = (start, self._at)
