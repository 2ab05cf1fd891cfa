"""Truth: conditions, and Kleene's ``and``, ``or``, ``not``.

On booleans a null is an unknown: null and False is False, null or True is True, not null is null. On
other values ``and`` and ``or`` give one of the operands, as in Python, and a null counts as false: ``r.a
or 0`` is 0 for a null.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["and_lazily", "both", "condition", "decides_and", "decides_or", "either", "negate", "or_lazily"]


def condition(value: Any) -> bool:
    """Return what ``if``, ``while``, a ternary or a filter make of a value: a null is false."""
    return value is not None and bool(value)


def decides_and(left: Any) -> bool:
    """Return whether ``left and ...`` is ``left`` whatever stands on the right."""
    return left is not None and not left


def decides_or(left: Any) -> bool:
    """Return whether ``left or ...`` is ``left`` whatever stands on the right."""
    return left is not None and bool(left)


def both(left: Any, right: Any) -> Any:
    """Return ``left and right`` for a left operand that is true or null."""
    if left is None:
        return False if right is False else None
    return right


def either(left: Any, right: Any) -> Any:
    """Return ``left or right`` for a left operand that is false or null."""
    if left is None:
        return None if right is False else right
    return right


def and_lazily(left: Any, right: Callable[[], Any]) -> Any:
    """Return ``left and right()``."""
    return left if decides_and(left) else both(left, right())


def or_lazily(left: Any, right: Callable[[], Any]) -> Any:
    """Return ``left or right()``."""
    return left if decides_or(left) else either(left, right())


def negate(value: Any) -> Any:
    """Return ``not value``."""
    return None if value is None else not value
