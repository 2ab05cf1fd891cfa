"""The device "cuda:emulated": kernels run on the CPU, in PTX, with every check; memory has a size."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

from dataflare.kernels.cuda.device import DeviceBackend, MemoryInfo
from dataflare.kernels.cuda.ptx import KernelImage
from dataflare.kernels.cuda.target import ComputeCapability, cuda_target
from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.emulator.launch import LaunchStatistics, launch
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.parser import parse
from dataflare.kernels.emulator.syntax import Module

__all__ = ["EmulatedBackend", "EmulatedBlock", "default_emulator"]

_MEMORY_BYTES = 1 << 30
_CAPABILITY: ComputeCapability = (8, 0)


class EmulatedBlock:
    """Memory of the emulated device."""

    __slots__ = ("__weakref__", "_freed", "address", "nbytes")

    def __init__(self, freed: list[int], address: int, nbytes: int) -> None:
        self._freed = freed
        self.address = address
        self.nbytes = nbytes

    def __del__(self) -> None:
        self._freed.append(self.address)


class EmulatedBackend(DeviceBackend):
    """One emulated GPU.

    Parameters
    ----------
    memory_bytes
        How much memory it has.
    capability
        The architecture that code is made for.
    seed
        Draws the order of blocks and atomic operations; None for the order of their numbers.
    warp_schedule
        Whether warps go one at a time, each step by one that is drawn. Slow; needs a seed.
    checks
        Which misuses kernels are watched for; the default is `Checks()`.
    """

    def __init__(
        self,
        memory_bytes: int = _MEMORY_BYTES,
        capability: ComputeCapability = _CAPABILITY,
        *,
        seed: int | None = None,
        warp_schedule: bool = False,
        checks: Checks | None = None,
        name: str = "cuda:emulated",
    ) -> None:
        self.name = name
        self.target = cuda_target(capability)
        self.resident_blocks = 64
        self.launches: list[tuple[str, LaunchStatistics]] | None = None
        """What kernels did, once somebody sets this to a list."""
        self._seed = seed
        self._warp_schedule = warp_schedule
        self._checks = checks
        self._memory = DeviceMemory(memory_bytes)
        self._lock = threading.RLock()
        self._freed: list[
            int
        ] = []  # appended to by destructors, which may run inside of any of our own calls

    def stream(self) -> Any:
        """Return None: an emulator does one thing at a time."""
        return None

    def current(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: no other library works on an emulated device."""
        return nullcontext()

    def acquire(self, nbytes: int) -> EmulatedBlock:
        """Return a block of the emulated memory."""
        with self._lock:
            self.release_idle()
            return EmulatedBlock(self._freed, self._memory.alloc(max(1, nbytes)), nbytes)

    def release_idle(self) -> None:
        """Free what nobody holds any more."""
        with self._lock:
            while self._freed:
                self._memory.free(self._freed.pop())

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes to the emulated memory."""
        with self._lock:
            self._memory.copy_in(address, (ctypes.c_uint8 * nbytes).from_address(host_address))

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes from the emulated memory."""
        with self._lock:
            data = self._memory.view(address, nbytes)
            ctypes.memmove(host_address, data.ctypes.data, nbytes)

    def zero(self, address: int, nbytes: int, stream: Any) -> None:
        """Set bytes of the emulated memory to zero."""
        with self._lock:
            self._memory.copy_in(address, bytes(nbytes))

    def load(self, image: KernelImage) -> tuple[Module, str]:
        """Return the parsed PTX and the name of its entry."""
        return parse(image.ptx), image.entry

    def launch(
        self, kernel: tuple[Module, str], blocks: int, threads: int, arguments: bytes, stream: Any
    ) -> None:
        """Run a kernel to its end, with every check."""
        module, entry = kernel
        with self._lock:
            done = launch(
                module,
                entry,
                grid=(blocks,),
                block=(threads,),
                arguments=arguments,
                memory=self._memory,
                seed=self._seed,
                warp_schedule=self._warp_schedule,
                checks=self._checks,
            )
            if self.launches is not None:
                self.launches.append((entry, done))

    def synchronize(self, stream: Any) -> None:
        """Return: everything is done."""
        return

    def memory(self) -> MemoryInfo:
        """Return how much of the emulated memory is left; waits for no kernel."""
        if self._lock.acquire(blocking=False):
            try:
                self.release_idle()
            finally:
                self._lock.release()
        return MemoryInfo(self._memory.free_bytes, self._memory.size_bytes)


@lru_cache(maxsize=1)
def default_emulator() -> EmulatedBackend:
    """Return the emulator of this process.

    ``DATAFLARE_EMULATED_MEMORY_BYTES`` and ``DATAFLARE_EMULATED_CAPABILITY`` (such as ``9.0``) say what it is like.
    """
    memory_bytes = int(os.environ.get("DATAFLARE_EMULATED_MEMORY_BYTES", _MEMORY_BYTES))
    major, minor = os.environ.get("DATAFLARE_EMULATED_CAPABILITY", "8.0").split(".")
    return EmulatedBackend(memory_bytes, (int(major), int(minor)))
