"""Time as the controllers see it: a clock that is passed in, and durations in seconds.

Controllers never read a clock of their own, so tests drive them with a counter. Not here: sleeping or
waiting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from dataflare.kernels.errors import OptionError

__all__ = ["Clock", "Duration", "to_seconds"]

Clock: TypeAlias = Callable[[], float]
"""A monotonic clock: seconds as a float, never going back."""

Duration: TypeAlias = float | timedelta
"""Seconds as a number, or a ``timedelta``."""


def to_seconds(value: Duration, name: str = "duration") -> float:
    """Return a duration in seconds; a negative or non-finite one is an ``OptionError`` naming ``name``."""
    if type(value) is float and 0.0 <= value < math.inf:  # the hot path: one batch, one call
        return value
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, bool) or not hasattr(value, "__float__"):
        raise OptionError(f"{name} must be seconds (a number) or a timedelta, not {type(value).__name__}.")
    else:
        seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0.0:
        raise OptionError(f"{name} must be a finite number of seconds >= 0, got {value!r}.")
    return seconds
