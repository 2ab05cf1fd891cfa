"""Runtimes: what carries out a prepared run, chosen by name and imported only then.

Covers the protocol between the engine and a runtime. The engine never imports a runtime by itself: it knows a
dotted name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from dataflare.kernels.errors import OptionError, nearest

if TYPE_CHECKING:
    from dataflare.execute.outcome import Outcome
    from dataflare.execute.prepare import PreparedRun
    from dataflare.observe.progress import ProgressEvent

__all__ = ["RUNTIMES", "RunHandle", "RunRuntime", "load_runtime"]

RUNTIMES: Final = {"local": "dataflare.actors.local_runtime:LocalRuntime"}
"""Runtimes by the name that a run's option gives them."""


class RunHandle(Protocol):
    """A run that goes on."""

    def wait(self) -> Outcome:
        """Wait for the end and return it; raise what the run failed with, or was interrupted by."""

    def cancel(self, reason: str) -> None:
        """Stop the run, and wait until it has stopped, whatever its end is."""


class RunRuntime(Protocol):
    """Carries out runs."""

    @classmethod
    def shared(cls) -> RunRuntime:
        """Return the one that this process uses."""

    def run(
        self, run: PreparedRun, subscribers: tuple[Callable[[ProgressEvent], object], ...] = ()
    ) -> Outcome:
        """Carry a run out and return its end; raise what it failed with. An interrupt stops it at any moment."""

    def deploy(
        self, run: PreparedRun, subscribers: tuple[Callable[[ProgressEvent], object], ...] = ()
    ) -> RunHandle:
        """Start a run."""


def load_runtime(name: str) -> RunRuntime:
    """Return the runtime of that name, importing it.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    dotted = RUNTIMES.get(name)
    if dotted is None:
        known = ", ".join(repr(runtime) for runtime in RUNTIMES)
        raise OptionError(f"there is no runtime {name!r}. {nearest(name, RUNTIMES)} Runtimes: {known}.")
    module, _, attribute = dotted.partition(":")
    runtime = cast("type[RunRuntime]", getattr(importlib.import_module(module), attribute))
    return runtime.shared()
