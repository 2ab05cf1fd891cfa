"""Mailbox: an inbox with two lanes, so that control overtakes the batches that wait.

Bounded by credits, not by itself: a full queue would block whoever wants to stop its reader. Does not know
what messages mean beyond the lane they take.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from typing import Final, Generic, TypeVar

__all__ = ["Mailbox"]

T = TypeVar("T")

_LONGEST_WAIT_S: Final = 1e6
"""Nothing waits longer, since queues refuse timeouts of more than some centuries: the reader asks again."""


class Mailbox(Generic[T]):
    """A thread-safe queue of control and data; control comes out first. One reader, any number of writers."""

    __slots__ = ("_control", "_data", "_tokens", "_wake_at_s")

    def __init__(self) -> None:
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._control: deque[T] = deque()
        self._data: deque[T] = deque()
        self._wake_at_s: float | None = None

    def put(self, item: T, *, data: bool) -> None:
        """Add an item to its lane."""
        (self._data if data else self._control).append(item)
        self._tokens.put(None)

    def get(self) -> T | None:
        """Wait for the next item; None when the time set by `wake_after` is over first."""
        control, data, tokens = self._control, self._data, self._tokens
        # The lanes say what is there. Tokens only wake the reader: Ctrl-C may end `put` between the two, and an item
        # without its token must not hold up the next one, by which the run is to be stopped.
        while not (control or data):
            if self._wake_at_s is None:
                tokens.get()
                continue
            try:
                tokens.get(timeout=max(0.0, self._wake_at_s - time.monotonic()))
            except queue.Empty:
                self._wake_at_s = None
                return None
        if not tokens.empty():
            tokens.get()
        return control.popleft() if control else data.popleft()

    def wake_after(self, seconds: float) -> None:
        """Let `get` return None when no item comes for so long. For the reader."""
        self._wake_at_s = time.monotonic() + min(seconds, _LONGEST_WAIT_S)

    def control_pending(self) -> bool:
        """Whether an item waits in the control lane."""
        return bool(self._control)

    def empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._control or self._data)
