"""FunctionSink: hands every batch to a user's function, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dataflare.kernels.errors import OptionError

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch

__all__ = ["FunctionSink"]


class FunctionSink:
    """Calls `fn` with each batch. What `fn` raises fails the run; what it did is its own business to undo."""

    def __init__(self, fn: Callable[[SharedDataBatch], Any]) -> None:
        if not callable(fn):
            raise OptionError(f"write takes a function of a batch, not {fn!r}.")
        self._fn = fn

    @property
    def description(self) -> str:
        """The function's name."""
        name = getattr(self._fn, "__qualname__", type(self._fn).__qualname__)
        return f"write({name})"

    def open(self, schema: pa.Schema) -> None:
        """Do nothing."""

    def write(self, batch: SharedDataBatch) -> None:
        """Call the function."""
        self._fn(batch)

    def commit(self) -> tuple[str, ...]:
        """Name no file."""
        return ()

    def abort(self) -> None:
        """Do nothing."""
