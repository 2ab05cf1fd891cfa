"""`FaultyBackend`: an emulated GPU that fails where a test wants it to, and counts what it is asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from dataflare.kernels.cuda.emulated import EmulatedBackend, EmulatedBlock
from dataflare.kernels.cuda.ptx import KernelImage

__all__ = ["CALLS", "FaultyBackend"]

CALLS = ("acquire", "load", "upload", "zero", "launch", "download", "synchronize")

_parsed: dict[KernelImage, Any] = {}


class FaultyBackend(EmulatedBackend):
    """An emulated GPU whose every call may fail.

    Parameters
    ----------
    fails
        Given the name of a call and how many of its kind there were, this one included: what to raise, or None.
    """

    def __init__(
        self, fails: Callable[[str, int], Exception | None] = lambda call, number: None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.fails = fails
        self.calls: Counter[str] = Counter()
        self._counting = threading.Lock()

    def _count(self, call: str) -> None:
        with self._counting:
            self.calls[call] += 1
            number = self.calls[call]
        error = self.fails(call, number)
        if error is not None:
            raise error

    def acquire(self, nbytes: int) -> EmulatedBlock:
        self._count("acquire")
        return super().acquire(nbytes)

    def load(self, image: KernelImage) -> Any:
        self._count("load")
        kernel = _parsed.get(image)  # reading PTX takes longer than running it on few records
        if kernel is None:
            kernel = _parsed[image] = super().load(image)
        return kernel

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        self._count("upload")
        super().upload(address, host_address, nbytes, stream)

    def zero(self, address: int, nbytes: int, stream: Any) -> None:
        self._count("zero")
        super().zero(address, nbytes, stream)

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: bytes, stream: Any) -> None:
        self._count("launch")
        super().launch(kernel, blocks, threads, arguments, stream)

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        self._count("download")
        super().download(host_address, address, nbytes, stream)

    def synchronize(self, stream: Any) -> None:
        self._count("synchronize")
        super().synchronize(stream)
