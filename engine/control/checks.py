"""Checks of option values, so that every control option is refused in the same words.

Covers ranges of numbers. Does not cover combinations of options: the classes check those themselves.
"""

from __future__ import annotations

import math

from dataflare.kernels.errors import OptionError

__all__ = ["require_integer", "require_number"]


def require_integer(owner: str, field: str, value: object, low: int, high: int | None = None) -> int:
    """Return ``value`` if it is an integer in [low, high]; else raise an ``OptionError`` naming the field."""
    allowed = f">= {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{owner}.{field} must be an integer {allowed}, got {value!r}.")
    if value < low or (high is not None and value > high):
        raise OptionError(f"{owner}.{field} must be {allowed}, got {value}.")
    return value


def require_number(
    owner: str, field: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return ``value`` as a float if it is in [low, high] (or (low, high]); else raise an ``OptionError``."""
    lower = f"{'>' if open_low else '>='} {low:g}"
    allowed = lower if high == math.inf else f"{lower} and <= {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{owner}.{field} must be a number {allowed}, got {value!r}.")
    number = float(value)
    above = number > low if open_low else number >= low
    if not (math.isfinite(number) and above and number <= high):
        raise OptionError(f"{owner}.{field} must be {allowed}, got {value!r}.")
    return number
