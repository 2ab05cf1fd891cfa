"""What programs need of a GPU: memory, copies, kernels and streams, behind one protocol.

``emulated`` and ``gpu`` implement it; everything above works on addresses and is the same code for both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dataflare.kernels.cuda.ptx import KernelImage
from dataflare.kernels.errors import DataFlareError, DeviceFaultError, DeviceUnavailableError
from dataflare.kernels.llvm.target import Target

if TYPE_CHECKING:
    from dataflare.kernels.cuda.arena import DeviceArena

__all__ = [
    "ALIGNMENT_BYTES",
    "DEVICE_LOST",
    "DeviceBackend",
    "DeviceBlock",
    "MemoryInfo",
    "Piece",
    "Stretch",
    "notes_loss",
    "pieces",
    "settled",
]

ALIGNMENT_BYTES = 256
"""What each block and each column in it begins at a multiple of."""

DEVICE_LOST = "device lost"
"""The ``check`` of a `DeviceFaultError` that says that the device is gone, and not that a kernel did wrong."""


class MemoryInfo(NamedTuple):
    """Memory of a device in bytes: what can be had now, blocks that lie idle in the pool included, and all there is."""

    free_bytes: int
    total_bytes: int


Stretch = tuple[int, int, int]
"""Bytes to copy into a block: where in it, where they are on the host, how many."""


class DeviceBlock(Protocol):
    """Memory of a device, given back to its pool when nobody holds this object."""

    address: int
    nbytes: int


class DeviceBackend(Protocol):
    """One GPU. Thread-safe; work on one stream is done in order, streams do not wait for each other.

    Copies and launches return at once where the device allows it; `synchronize` waits for them. Any of these calls
    raises a `DeviceFaultError` with the check `DEVICE_LOST`, or a `DeviceUnavailableError`, when the device is gone.
    """

    name: str
    """"cuda:0", "cuda:emulated" and so on."""
    target: Target
    """What code for this device is made for."""
    resident_blocks: int
    """How many blocks of 256 threads keep the device busy."""
    lost: str | None = None
    """Why the device is gone, for good: programs for it run on the CPU from then on. None while it is there."""
    arena: DeviceArena | None = None
    """The memory that its programs use again; made by ``arena.arena_of``."""

    def stream(self) -> Any:
        """Return a stream of this device for the calling thread."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Return a context in which what other libraries do by default is done on this device.

        CuPy's work goes to the stream of the calling thread, and its errors are those of the calls here.
        """
        ...

    def acquire(self, nbytes: int) -> DeviceBlock:
        """Return a block of memory; its content is whatever was there.

        Raises
        ------
        DeviceMemoryError
            If the device has not so much left.
        """
        ...

    def release_idle(self) -> None:
        """Give idle blocks of the pool back to the device."""
        ...

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes of host memory, which may be used again at once, to the device."""
        ...

    def upload_all(self, base: int, stretches: Sequence[Stretch], stream: Any) -> None:
        """Copy stretches, which follow each other, into the block at ``base``.

        What lies between the stretches in the block has no meaning afterwards, but does not reach beyond them.
        """
        for place, host_address, nbytes in stretches:
            self.upload(base + place, host_address, nbytes, stream)

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes of the device to host memory, which holds them after `synchronize`."""
        ...

    def zero(self, address: int, nbytes: int, stream: Any) -> None:
        """Set bytes of the device to zero."""
        ...

    def load(self, image: KernelImage) -> Any:
        """Return a kernel of this device."""
        ...

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: bytes, stream: Any) -> None:
        """Run a kernel on ``blocks`` of ``threads`` with its argument block.

        Raises
        ------
        DeviceFaultError
            If the kernel did what the device stops at.
        """
        ...

    def synchronize(self, stream: Any) -> None:
        """Wait until the work on a stream is done."""
        ...

    def memory(self) -> MemoryInfo:
        """Return how much memory the device has."""
        ...


class Piece(NamedTuple):
    """A part of a block: where it begins, in bytes from the start, and its size."""

    offset: int
    nbytes: int


def pieces(sizes: Sequence[int]) -> tuple[list[Piece], int]:
    """Return where parts of these sizes lie in one block, each aligned, and the size of the block."""
    found = []
    offset = 0
    for nbytes in sizes:
        found.append(Piece(offset, nbytes))
        offset += -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return found, max(offset, ALIGNMENT_BYTES)


def notes_loss(backend: DeviceBackend, error: BaseException) -> bool:
    """Return whether an error of work on a device says that it is gone; if so, that is what it is from now on."""
    gone = isinstance(error, DeviceUnavailableError)
    if isinstance(error, DeviceFaultError):
        gone = error.check == DEVICE_LOST
    if gone:
        backend.lost = backend.lost or str(error)
    return gone


class settled:  # noqa: N801 - a statement, as those of contextlib
    """Wait for the work that is begun inside if it fails: only then may others have its memory."""

    __slots__ = ("_backend", "_stream")

    def __init__(self, backend: DeviceBackend, stream: Any) -> None:
        self._backend = backend
        self._stream = stream

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            notes_loss(self._backend, error)
            with contextlib.suppress(DataFlareError):  # the first failure is the one to tell
                self._backend.synchronize(self._stream)
