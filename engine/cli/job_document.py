"""A job file as a document: its values, where each of them stands, and errors that show the line.

Covers reading, `--set` values laid over it, checks of keys and types. What the tables mean is `job_file`'s.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dataflare.cli.positions import KeyPath, Place, Positions
from dataflare.kernels.errors import OptionError, PlanError, nearest

__all__ = ["JobCodeError", "JobDocument", "dotted", "no_such_job", "parse_setting"]

_TYPE_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


class JobCodeError(PlanError):
    """The Python code of a job raised while its pipeline was being built; ``__cause__`` is what it raised."""


def parse_setting(argument: str) -> tuple[str, Any]:
    """Split ``key=value`` of the command line; the value is typed as TOML types it, else it is text.

    Examples
    --------
    >>> parse_setting("run.workers=2"), parse_setting("source.path=a.csv")
    (('run.workers', 2), ('source.path', 'a.csv'))
    """
    key, equals, text = argument.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise OptionError(f"--set {argument}: write it as key=value, for instance --set run.workers=2.")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def dotted(path: KeyPath) -> str:
    """Return a path as people write it: ``steps[0].filter``; an empty one is "the job file"."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the job file"


class JobDocument:
    """The values of a TOML job file and the places they came from.

    Parameters
    ----------
    filename
        As the user gave it; used in messages.
    text
        The document.
    settings
        Values that replace those of the document, by dotted key.
    """

    def __init__(self, filename: str, text: str, settings: Mapping[str, Any]) -> None:
        self.filename = filename
        try:
            self.data: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OptionError(f"{filename}: this is not TOML: {error}") from None
        self._positions = Positions(text)
        self._set: set[KeyPath] = set()
        for key, value in settings.items():
            self._lay_over(key, value)

    @classmethod
    def read(cls, path: Path, settings: Mapping[str, Any]) -> JobDocument:
        """Read a job file as UTF-8."""
        try:
            text = path.read_bytes().decode().replace("\r\n", "\n")
        except FileNotFoundError:
            raise OptionError(no_such_job(path)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"the job file {path} cannot be read: {error}") from None
        return cls(str(path), text, settings)

    def is_set(self, path: KeyPath) -> bool:
        """Return whether the value came from the command line."""
        return path in self._set

    def has(self, path: KeyPath) -> bool:
        """Return whether a key is in the document or came from the command line."""
        return self.is_set(path) or self._positions.key(path) is not None

    def line(self, path: KeyPath) -> int:
        """Return the line of a key, or of the nearest table around it, counted from 1."""
        place = self._positions.nearest_key(path)
        return 1 if place is None else place.line + 1

    def expression_line(self, path: KeyPath, text: str) -> int:
        """Return the line on which the text of an expression begins, counted from 1."""
        content = self._positions.string_content(path, text)
        return self.line(path) if content is None else content.line + 1

    def error(self, path: KeyPath, message: str) -> OptionError:
        """Build an error about the key at ``path``, with its line."""
        if self.is_set(path):
            return OptionError(f"--set {dotted(path)}: {message}")
        place = self._positions.nearest_key(path)
        if place is None:
            return OptionError(f"{self.filename}: {message}")
        return OptionError(f"{self.filename}:{place.line + 1}: {message}\n{self._shown(place)}")

    def error_in_text(
        self, path: KeyPath, text: str, message: str, line: int, column: int, end_column: int
    ) -> OptionError:
        """Build an error about characters of a text value; ``line`` and the columns are within the text."""
        message = f"{dotted(path)}: {message}"
        content = None if self.is_set(path) else self._positions.string_content(path, text)
        if content is None:  # written with escapes: show the text as it was understood
            carets = " " * column + "^" * max(end_column - column, 1)
            shown = f"    {text.split(chr(10))[line]}\n    {carets}"
            return OptionError(f"{self.filename}:{self.line(path)}: {message}\n{shown}")
        shift = content.column if line == 0 else 0
        place = Place(content.line + line, column + shift)
        return OptionError(
            f"{self.filename}:{place.line + 1}: {message}\n{self._shown(place, end_column - column)}"
        )

    def check_keys(self, path: KeyPath, table: Mapping[str, Any], allowed: Iterable[str]) -> None:
        """Raise at the first key of ``table`` that is not allowed, with the nearest ones."""
        known = list(allowed)
        for key in table:
            if key not in known:
                parts = [f"{dotted(path)} has no key {key!r}.", nearest(key, known)]
                parts.append(f"Keys here: {', '.join(sorted(known))}.")
                raise self.error((*path, key), " ".join(part for part in parts if part))

    def check_type(self, path: KeyPath, value: Any, *types: type) -> None:
        """Raise unless ``value`` is of one of ``types``; true and false are no numbers."""
        if isinstance(value, types) and not (isinstance(value, bool) and bool not in types):
            return
        wanted = " or ".join(_TYPE_NAMES[kind] for kind in types)
        raise self.error(path, f"{dotted(path)} must be {wanted}, not {value!r}.")

    def table(self, path: KeyPath, parent: Mapping[str, Any]) -> dict[str, Any]:
        """Return the table at ``path``, empty where ``parent`` does not have it."""
        value = parent.get(str(path[-1]), {})
        self.check_type(path, value, dict)
        return dict(value)

    def _lay_over(self, key: str, value: Any) -> None:
        parts = key.split(".")
        table = self.data
        for part in parts[:-1]:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):
                raise OptionError(
                    f"--set {key}: {part} is no table of the job file. A value inside a step is set through "
                    "a constant: name it in [constants] and use --set constants.name=value."
                )
            table = inner
        table[parts[-1]] = value
        self._set.add(tuple(parts))

    def _shown(self, place: Place, width: int = 0) -> str:
        number = str(place.line + 1)
        line = self._positions.lines[place.line]
        shown = f"  {number} | {line}"
        if width:
            blank = "".join(character if character == "\t" else " " for character in line[: place.column])
            shown += f"\n  {' ' * len(number)} | {blank}{'^' * width}"
        return shown


def no_such_job(path: Path) -> str:
    """Return the message for a job file that does not exist, with the nearest names beside it."""
    try:
        neighbours = [p.name for p in path.parent.iterdir() if p.suffix in (".toml", ".py")]
    except OSError:
        return f"there is no job file {path}: its folder does not exist."
    return f"there is no job file {path}. {nearest(path.name, neighbours)}".rstrip()
