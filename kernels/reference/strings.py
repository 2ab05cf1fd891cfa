"""What a record function may do with text: code points in, code points out, exactly as Python's ``str``.

Comparison and ``in`` are in ``comparison``, ``len`` in ``conversions``. Building new text (concatenation,
format, replace, split) is not covered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dataflare.kernels.reference.values import unsupported

__all__ = ["STRING_METHODS", "character", "part"]


def starts_with(text: str, prefix: str | tuple[str, ...]) -> bool:
    """Return ``s.startswith(prefix)``, or any of a tuple of prefixes."""
    return text.startswith(prefix)


def ends_with(text: str, suffix: str | tuple[str, ...]) -> bool:
    """Return ``s.endswith(suffix)``, or any of a tuple of suffixes."""
    return text.endswith(suffix)


def find(text: str, part: str) -> np.int64:
    """Return ``s.find(part)``: the first place, counted in code points, or -1."""
    return np.int64(text.find(part))


def lower(text: str) -> str:
    """Return ``s.lower()``."""
    return text.lower()


def fold_case(text: str) -> str:
    """Return ``s.casefold()``."""
    return text.casefold()


def upper(text: str) -> str:
    """Return ``s.upper()``."""
    return text.upper()


def strip(text: str, characters: str | None = None) -> str:
    """Return ``s.strip()``."""
    return text.strip(characters)


def strip_left(text: str, characters: str | None = None) -> str:
    """Return ``s.lstrip()``."""
    return text.lstrip(characters)


def strip_right(text: str, characters: str | None = None) -> str:
    """Return ``s.rstrip()``."""
    return text.rstrip(characters)


_QUESTIONS: tuple[Callable[[str], bool], ...] = (
    str.isalnum,
    str.isalpha,
    str.isascii,
    str.isdecimal,
    str.isdigit,
    str.islower,
    str.isnumeric,
    str.isspace,
    str.isupper,
)

STRING_METHODS: dict[str, Callable[..., Any]] = {
    **{question.__name__: question for question in _QUESTIONS},
    "casefold": fold_case,
    "endswith": ends_with,
    "find": find,
    "lower": lower,
    "lstrip": strip_left,
    "rstrip": strip_right,
    "startswith": starts_with,
    "strip": strip,
    "upper": upper,
}


def character(text: str, index: Any) -> str | None:
    """Return ``s[i]``: null where there is no such code point."""
    place = int(index)
    return text[place] if -len(text) <= place < len(text) else None


def part(text: str, chosen: slice) -> str:
    """Return ``s[start:stop]``; a step is not covered."""
    if chosen.step is not None:
        raise unsupported("slicing with a step", text)
    return text[chosen]
