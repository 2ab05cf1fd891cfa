"""The devices "cuda:0" and on: NVIDIA's GPUs through CuPy, by addresses, without an array in between.

CuPy brings the memory pool, page-locked memory, streams, events and modules, and the calls of the runtime and the
driver that are made here; CuPy's own arrays of the user share the pool. Each thread has a stream and a ring of
page-locked memory, so that copies in, kernels and copies out of batches on different threads overlap. A call makes
its GPU the current one of the thread, and puts the one before back. Nothing is imported before a backend is made.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

from dataflare.kernels.cuda.device import DeviceBackend, MemoryInfo, Stretch
from dataflare.kernels.cuda.ptx import KernelImage
from dataflare.kernels.cuda.staging import PinnedRing
from dataflare.kernels.cuda.target import cuda_target
from dataflare.kernels.devices.driver import CudaDevice
from dataflare.kernels.errors import (
    DeviceCodeError,
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
)

__all__ = ["CupyBackend", "CupyBlock"]

_BLOCK_THREADS = 256
_RING_BYTES = 8 << 20
"""Page-locked memory of a thread: its eighths, of a megabyte each, take the bus longer than a launch."""

# The numbers that the runtime and the driver share.
_OUT_OF_MEMORY = 2
_BAD_CODE = frozenset({200, 209, 218, 222, 300, 301})
_FAULTS = {
    702: "time limit",
    710: "assert",
    714: "stack error",
    715: "illegal instruction",
    716: "misaligned address",
    717: "invalid address space",
    718: "invalid program counter",
    700: "illegal address",
    719: "launch failure",
}
"""What kernels do, and after which this process can use the GPU no more."""
_LOST = frozenset({4, 46, 100, 101, 201, 214, 219, 220, 226, 304, 709, 802, 999})
"""The GPU, its driver or this process's context is gone."""


class CupyBlock:
    """Memory of CuPy's pool, which gets it back with this object: for the stream it was acquired on, in its order."""

    __slots__ = ("__weakref__", "_memory", "address", "nbytes")

    def __init__(self, memory: Any, nbytes: int) -> None:
        self._memory = memory
        self.address = int(memory.ptr)
        self.nbytes = nbytes


class CupyBackend(DeviceBackend):
    """One NVIDIA GPU.

    Blocks are to be held until the work on them is done on streams other than that of the thread that acquired them.

    Parameters
    ----------
    hardware
        The GPU as it was found.
    """

    def __init__(self, hardware: CudaDevice) -> None:
        import cupy

        self.name = hardware.label
        self.hardware = hardware
        self.target = cuda_target(hardware.compute_capability)
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._driver = cupy.cuda.driver
        self._pool = cupy.get_default_memory_pool()
        self._here = _Here(self, cupy.cuda.Device(hardware.ordinal))
        self._of_thread = threading.local()
        runtime = self._runtime
        with self._here:
            multiprocessors = runtime.deviceGetAttribute(
                runtime.cudaDevAttrMultiProcessorCount, hardware.ordinal
            )
            threads = runtime.deviceGetAttribute(
                runtime.cudaDevAttrMaxThreadsPerMultiProcessor, hardware.ordinal
            )
        self.resident_blocks = multiprocessors * max(1, threads // _BLOCK_THREADS)

    def stream(self) -> Any:
        """Return the stream of the calling thread."""
        stream = getattr(self._of_thread, "stream", None)
        if stream is None:
            with self._here:
                stream = self._of_thread.stream = self._cupy.cuda.Stream(non_blocking=True)
        return stream

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Return a context in which CuPy works on this GPU and the stream of the calling thread."""
        stream = self.stream()
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self.hardware.ordinal), stream:
                yield
        except (
            cuda.memory.OutOfMemoryError,
            self._runtime.CUDARuntimeError,
            self._driver.CUDADriverError,
        ) as error:
            self._failed()
            raise self._error(error) from error

    def acquire(self, nbytes: int) -> CupyBlock:
        """Return a block of the pool, for the calling thread's stream."""
        stream = self.stream()
        try:
            with self._here, stream:
                return CupyBlock(self._pool.malloc(max(1, nbytes)), nbytes)
        except DeviceMemoryError as error:
            info = self.memory()
            raise DeviceMemoryError(
                f"{self.name} has no room for {nbytes:,} bytes: {info.free_bytes:,} of {info.total_bytes:,} are free."
            ) from error

    def release_idle(self) -> None:
        """Give idle blocks of the pool back to the device."""
        with self._here:
            self._pool.free_all_blocks()

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes to the device by way of page-locked memory."""
        with self._here:
            self._ring().upload(address, host_address, nbytes, stream)

    def upload_all(self, base: int, stretches: Sequence[Stretch], stream: Any) -> None:
        """Copy stretches by way of page-locked memory, short ones together."""
        with self._here:
            self._ring().upload_all(base, stretches, stream)

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        """Copy bytes of the device to page-locked memory, and from there where they belong in `synchronize`."""
        with self._here:
            self._ring().download(host_address, address, nbytes, stream)

    def zero(self, address: int, nbytes: int, stream: Any) -> None:
        """Set bytes of the device to zero."""
        with self._here:
            self._runtime.memsetAsync(address, 0, nbytes, stream.ptr)

    def load(self, image: KernelImage) -> Any:
        """Return the kernel's function; the driver makes machine code of the PTX, and keeps it on disk."""
        with self._here:
            module = self._cupy.cuda.Module()
            module.load(image.ptx.encode())
            return module.get_function(image.entry)

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: bytes, stream: Any) -> None:
        """Start a kernel. Its one parameter is the argument block, which the driver copies before this returns."""
        block = ctypes.c_char_p(arguments)
        parameters = (ctypes.c_void_p * 1)(ctypes.cast(block, ctypes.c_void_p))
        with self._here:
            self._driver.launchKernel(
                kernel.ptr, blocks, 1, 1, threads, 1, 1, 0, stream.ptr, ctypes.addressof(parameters), 0
            )

    def synchronize(self, stream: Any) -> None:
        """Wait until the work on a stream is done, and bring what was copied out where it belongs."""
        with self._here:
            self._ring().finish()  # what came first is copied on while the rest comes
            stream.synchronize()

    def wait_for(self, event: int) -> None:
        """Wait for an event of another library, such as comes with its data."""
        with self._here:
            self._runtime.eventSynchronize(event)

    def memory(self) -> MemoryInfo:
        """Return how much memory the device has; what the pool holds for nobody is free."""
        free_bytes, total_bytes = self.driver_memory()
        return MemoryInfo(free_bytes + self.pool_free_bytes(), total_bytes)

    def driver_memory(self) -> tuple[int, int]:
        """Return (free, total) bytes as the driver counts them, to whom the whole pool is in use."""
        with self._here:
            free_bytes, total_bytes = self._runtime.memGetInfo()
        return free_bytes, total_bytes

    def pool_free_bytes(self) -> int:
        """Return how many bytes the pool holds for nobody."""
        with self._here:
            return int(self._pool.free_bytes())

    def _ring(self) -> PinnedRing:
        ring: PinnedRing | None = getattr(self._of_thread, "ring", None)
        if ring is None:
            cuda, runtime = self._cupy.cuda, self._runtime
            ring = self._of_thread.ring = PinnedRing(
                cuda.alloc_pinned_memory(_RING_BYTES),
                _RING_BYTES,
                new_event=lambda: cuda.Event(disable_timing=True),
                copy_in=lambda to, here, nbytes, stream: runtime.memcpyAsync(
                    to, here, nbytes, runtime.memcpyHostToDevice, stream.ptr
                ),
                copy_out=lambda here, source, nbytes, stream: runtime.memcpyAsync(
                    here, source, nbytes, runtime.memcpyDeviceToHost, stream.ptr
                ),
            )
        return ring

    def _failed(self) -> None:
        """Forget what this thread was copying out: whoever wanted it is about to get an error."""
        ring: PinnedRing | None = getattr(self._of_thread, "ring", None)
        if ring is not None:
            ring.forget()

    def _error(self, error: Exception) -> Exception:
        """Return what an error of CuPy means here."""
        if isinstance(error, self._cupy.cuda.memory.OutOfMemoryError):
            return DeviceMemoryError(f"{self.name}: {error}")
        code = getattr(error, "status", None)
        if code is None:
            return error
        if code == _OUT_OF_MEMORY:
            return DeviceMemoryError(f"{self.name}: {error}")
        if code in _FAULTS:
            return DeviceFaultError(
                f"a kernel failed on {self.name}: {error}. This process cannot use the GPU any more; "
                "device='cuda:emulated' says which kernel and where.",
                _FAULTS[code],
            )
        if code in _BAD_CODE:
            return DeviceCodeError(f"{self.name} does not take the kernel: {error}. Update NVIDIA's driver.")
        if code in _LOST:
            return DeviceUnavailableError(
                f"{self.name}: {error}. The GPU, its driver or this process's context is gone."
            )
        return DeviceFaultError(f"{self.name}: {error}", "driver call")


class _Here:
    """Makes a GPU the current one for a few calls, and errors of CuPy ours. Reentrant, for any thread."""

    def __init__(self, backend: CupyBackend, device: Any) -> None:
        self._backend = backend
        self._device = device

    def __enter__(self) -> None:
        try:
            self._device.__enter__()
        except Exception as error:
            self._raise(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._device.__exit__(kind, error, trace)
        except Exception as later:  # after a fault every call fails; the first error is the one that tells
            if error is None:
                self._raise(later)
        if isinstance(error, Exception):
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        self._backend._failed()
        meaning = self._backend._error(error)
        if meaning is error:
            raise error
        raise meaning from error
