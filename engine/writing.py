"""The steps that end a pipeline: where its records go.

Covers the public methods and their options, as a base class of `Pipeline`. How each format is written is in
`dataflare.sinks`, one module a format, imported when its method is called. Nothing is written before `run`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.pipeline import Pipeline
    from dataflare.sinks.base import BatchSink

__all__ = ["WriteSteps"]


class WriteSteps(ABC):
    """What a pipeline can end in. Each method returns a pipeline that `run()` carries out."""

    __slots__ = ()

    @abstractmethod
    def _ending_in(self, label: str, build: Callable[[], BatchSink]) -> Pipeline:
        """Return the pipeline with a sink; `build` makes a fresh one for every run."""

    def write(self, fn: Callable[[SharedDataBatch], Any]) -> Pipeline:
        """Hand every batch to a function, in order, one at a time.

        Parameters
        ----------
        fn
            Takes a `SharedDataBatch`. What it raises fails the run; what it did is its own business to undo.

        Examples
        --------
        >>> import dataflare as flare
        >>> rows = []
        >>> pipeline = flare.from_records([{"a": 1}, {"a": 2}]).write(lambda batch: rows.extend(batch.to_pylist()))
        >>> pipeline.run().rows_out, rows
        (2, [{'a': 1}, {'a': 2}])
        """
        from dataflare.sinks.function import FunctionSink

        return self._ending_in(FunctionSink(fn).description, lambda: FunctionSink(fn))
