"""What to do with rows that do not parse: stop, or leave them out and count them."""

from __future__ import annotations

import threading
from typing import Literal

from dataflare.kernels.errors import OptionError

__all__ = ["BadRowCounter", "BadRows", "check_bad_rows"]

BadRows = Literal["error", "skip"]


def check_bad_rows(on_bad_rows: str) -> None:
    """Raise `OptionError` unless it is one of the two."""
    if on_bad_rows not in ("error", "skip"):
        raise OptionError(f"on_bad_rows must be 'error' or 'skip', not {on_bad_rows!r}.")


class BadRowCounter:
    """Counts the rows that were left out, over all files of a source; safe to share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows = 0

    def add(self, rows: int = 1) -> None:
        """Count rows that were left out."""
        with self._lock:
            self.rows += rows
