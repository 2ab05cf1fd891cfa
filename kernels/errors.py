"""Every error that DataFlare raises on purpose, as one tree.

DataFlareError
├── PlanError                       what was asked cannot be built; nothing has run
│   ├── CompileError (TypeError)          a record function cannot be compiled: shows the user's file and line
│   ├── ColumnNotFoundError (KeyError)    a name that is not a column, with the nearest names
│   ├── SchemaError (TypeError)           schemas or column types that do not fit together
│   └── OptionError (ValueError)          a bad option, job-file key or argument
├── DataError (ValueError)          the input data is bad
│   ├── ReadError                         a file that cannot be read: path and place in it
│   └── SchemaMismatchError               a file whose schema differs from the first one's
├── SinkError (OSError)             the output cannot be written
│   └── OutputExistsError (FileExistsError)   the output path is taken
├── RunError (RuntimeError)         a stage failed while running; the cause is chained
│   └── RunCancelledError                 the run was cancelled or interrupted
├── MemoryLimitError (MemoryError)  what was asked does not fit the memory limit
│   └── DeviceMemoryError                 the memory of a device is full
├── DeviceUnavailableError (RuntimeError)  the device asked for is not here; says why
├── DeviceFaultError (RuntimeError) a kernel did what a device leaves undefined or stops at
└── DeviceCodeError (ValueError)    device code that cannot be read or loaded

Each also inherits the builtin that a caller would expect, so `except KeyError` keeps working.
Messages say what happened, where, and the way out. This module imports nothing of DataFlare.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BufferUnavailableError",
    "ColumnNotFoundError",
    "CompileError",
    "DataError",
    "DataFlareError",
    "DeviceCodeError",
    "DeviceFaultError",
    "DeviceMemoryError",
    "DeviceUnavailableError",
    "InterfaceUnavailableError",
    "MemoryLimitError",
    "OptionError",
    "OutputExistsError",
    "PlanError",
    "ReadError",
    "RunCancelledError",
    "RunError",
    "SchemaError",
    "SchemaMismatchError",
    "SinkError",
    "nearest",
]


def nearest(name: str, candidates: Iterable[str], limit: int = 3) -> str:
    """Return ``Did you mean 'a' or 'b'?`` for the candidates closest to ``name``, or an empty string."""
    names = list(candidates)
    by_folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=limit, cutoff=0.6)
    if not close:
        return ""
    return "Did you mean " + " or ".join(repr(by_folded[match]) for match in close) + "?"


class DataFlareError(Exception):
    """Base of every error that DataFlare raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0]) if self.args else ""


class PlanError(DataFlareError):
    """What was asked cannot be built. Raised before anything runs."""


class CompileError(PlanError, TypeError):
    """A record function cannot be compiled; the message shows the user's file, line, column types and a way out."""


class ColumnNotFoundError(PlanError, KeyError):
    """A name that is not a column of the data at that step."""

    @classmethod
    def for_name(cls, name: str, available: Iterable[str], context: str = "") -> ColumnNotFoundError:
        """Build the error for ``name``, with the nearest and all available columns in the message."""
        names = list(available)
        hint = nearest(name, names)
        where = f"{context}: " if context else ""
        listing = ", ".join(names) if names else "none"
        parts = [f"{where}there is no column {name!r}.", hint, f"Columns here: {listing}."]
        return cls(" ".join(part for part in parts if part))


class SchemaError(PlanError, TypeError):
    """Schemas or column types that do not fit together."""


class OptionError(PlanError, ValueError):
    """A bad option, argument or job-file key."""


class DataError(DataFlareError, ValueError):
    """The input data is bad."""


class ReadError(DataError):
    """A file or stream that cannot be read; the message names the path and the place in it."""


class SchemaMismatchError(DataError):
    """A file whose schema differs from that of the first file of the same source."""


class SinkError(DataFlareError, OSError):
    """The output cannot be written."""


class OutputExistsError(SinkError, FileExistsError):
    """The output path is taken; nothing was overwritten."""


class RunError(DataFlareError, RuntimeError):
    """A stage failed while running; ``__cause__`` holds what it raised."""


class RunCancelledError(RunError):
    """The run was cancelled or interrupted before it finished."""


class MemoryLimitError(DataFlareError, MemoryError):
    """What was asked does not fit into the memory limit."""


class DeviceUnavailableError(DataFlareError, RuntimeError):
    """The device asked for is not usable here; the message says why."""


class DeviceMemoryError(MemoryLimitError):
    """The memory of a device is full; the message says how much was asked for and how much is free."""


class DeviceFaultError(DataFlareError, RuntimeError):
    """A kernel did what a device leaves undefined or stops at, or the host misused device memory.

    Parameters
    ----------
    message
        What happened; for a kernel with its name, the line of its code, the thread and the address.
    check
        Which check found it, in a few words: "out of bounds", "race", "deadlock" and so on.
    """

    def __init__(self, message: str, check: str) -> None:
        super().__init__(message, check)
        self.check = check


class BufferUnavailableError(DataFlareError, BufferError):
    """A column has no form that an array of another library could share."""


class InterfaceUnavailableError(DataFlareError, AttributeError):
    """A column does not have an interface, for the reason that the message gives; `hasattr` is then false."""


class DeviceCodeError(DataFlareError, ValueError):
    """Device code that cannot be read or loaded; the message names the line."""
