"""`PinnedRing`: page-locked host memory through which copies to and from a GPU go, so that none waits for another.

A GPU copies by itself only what cannot be paged out. Bytes are copied into the ring, or out of it, by the thread
while the GPU works on what came before. One thread and one stream use a ring; what makes the memory and the events
is handed in.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dataflare.kernels.cuda.device import Stretch

__all__ = ["PinnedRing"]

_ALIGNMENT_BYTES = 64


class _Copy(NamedTuple):
    """A copy that the GPU may still be at; one that comes out of it has a place where its bytes are to go."""

    begin: int
    nbytes: int
    event: Any
    destination: int | None


class PinnedRing:
    """A ring of page-locked memory for the copies of one stream.

    Parameters
    ----------
    memory
        Something with an address ``ptr`` that owns the page-locked memory.
    nbytes
        Its size. A copy is cut into pieces of an eighth of it.
    new_event
        Makes an event, with ``record(stream)`` and ``synchronize()``.
    copy_in, copy_out
        Start a copy on a stream: (device address, host address, bytes, stream), and the host's address first.
    """

    def __init__(
        self,
        memory: Any,
        nbytes: int,
        *,
        new_event: Callable[[], Any],
        copy_in: Callable[[int, int, int, Any], None],
        copy_out: Callable[[int, int, int, Any], None],
    ) -> None:
        self._memory = memory
        self._nbytes = nbytes
        self._piece_bytes = nbytes // 8 // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
        self._new_event = new_event
        self._copy_in = copy_in
        self._copy_out = copy_out
        self._idle_events: list[Any] = []
        self._under_way: deque[_Copy] = deque()
        self._end = 0  # counts on: a place in the ring is the remainder

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes to a device address. The host's memory may be used again at once."""
        for done in range(0, nbytes, self._piece_bytes):
            size = min(self._piece_bytes, nbytes - done)
            begin, here = self._room_for(size)
            ctypes.memmove(here, host_address + done, size)
            self._copy_in(address + done, here, size, stream)
            self._note(begin, size, None, stream)

    def upload_all(self, base: int, stretches: Sequence[Stretch], stream: Any) -> None:
        """Copy stretches that follow each other in the block at ``base``; as many at once as a piece has room for.

        A copy costs the driver microseconds, as much as moving tens of kilobytes: bitmaps go along with values.
        """
        together: list[Stretch] = []
        start = 0
        for stretch in stretches:
            place, _, nbytes = stretch
            if together and place + nbytes - start > self._piece_bytes:
                self._upload_together(base, together, stream)
                together = []
            if nbytes > self._piece_bytes:
                self.upload(base + place, stretch[1], nbytes, stream)
                continue
            if not together:
                start = place
            together.append(stretch)
        if together:
            self._upload_together(base, together, stream)

    def _upload_together(self, base: int, stretches: Sequence[Stretch], stream: Any) -> None:
        start = stretches[0][0]
        size = stretches[-1][0] + stretches[-1][2] - start
        begin, here = self._room_for(size)
        for place, host_address, nbytes in stretches:
            ctypes.memmove(here + place - start, host_address, nbytes)
        self._copy_in(base + start, here, size, stream)
        self._note(begin, size, None, stream)

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes of a device to the host's memory, which has them after `finish` and must live until then."""
        for done in range(0, nbytes, self._piece_bytes):
            size = min(self._piece_bytes, nbytes - done)
            begin, here = self._room_for(size)
            self._copy_out(here, address + done, size, stream)
            self._note(begin, size, host_address + done, stream)

    def finish(self) -> None:
        """Wait for all copies, and bring what came from the device where it belongs."""
        while self._under_way:
            self._finish_oldest()

    def forget(self) -> None:
        """Bring nothing more to the host's memory: whoever wanted it has failed, and its memory may be gone."""
        self._under_way = deque(copy._replace(destination=None) for copy in self._under_way)

    def _room_for(self, nbytes: int) -> tuple[int, int]:
        """Return where the next piece begins, on the count and as an address; waits for what is there."""
        begin = self._end
        left = self._nbytes - begin % self._nbytes
        if nbytes > left:  # a piece lies in one stretch
            begin += left
        while self._under_way and self._under_way[0].begin + self._nbytes < begin + nbytes:
            self._finish_oldest()
        return begin, int(self._memory.ptr) + begin % self._nbytes

    def _note(self, begin: int, nbytes: int, destination: int | None, stream: Any) -> None:
        self._end = begin + -(-nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        event = self._idle_events.pop() if self._idle_events else self._new_event()
        event.record(stream)
        self._under_way.append(_Copy(begin, nbytes, event, destination))

    def _finish_oldest(self) -> None:
        copy = self._under_way[0]
        copy.event.synchronize()
        if copy.destination is not None:
            ctypes.memmove(copy.destination, int(self._memory.ptr) + copy.begin % self._nbytes, copy.nbytes)
        self._under_way.popleft()
        self._idle_events.append(copy.event)
