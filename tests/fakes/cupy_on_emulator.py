"""A module with the part of CuPy that DataFlare calls; its GPUs are emulated, and as late as a GPU may be.

What goes to a stream waits there until somebody waits for it, so that memory which is used again too early gives a
wrong result. A block of the pool that is given back is handed out again at once, to the same stream alone, and the
content of memory that nobody wrote is 0xA5. Names, arguments and errors are those of CuPy 14. Copies must have
page-locked memory on the host's side. ``fail`` makes a call give an error of the runtime or the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import sys
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from dataflare.kernels import backend as programs
from dataflare.kernels.cuda import backends, dlpack
from dataflare.kernels.cuda.column import DeviceColumn
from dataflare.kernels.devices import detection
from dataflare.kernels.devices.detection import CudaDetection
from dataflare.kernels.devices.driver import CudaDevice
from dataflare.kernels.emulator.launch import launch
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.parser import parse
from dataflare.kernels.errors import DeviceFaultError, DeviceMemoryError

__all__ = ["FakeCuda", "device_found", "fake_cupy", "fake_torch", "install"]

_UNIT_BYTES = 512
_FAULT_CODES = {"misaligned": 716}


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"cudaError{status}: made by a test")
        self.status = status


class CUDADriverError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"CUDA_ERROR_{status}: made by a test")
        self.status = status


class OutOfMemoryError(MemoryError):
    pass


class FakeCuda:
    """The machine behind the module: its GPUs, what was called, and what is to fail."""

    def __init__(self, gpus: int, memory_bytes: int) -> None:
        self.memories = [DeviceMemory(memory_bytes) for _ in range(gpus)]
        self.total_bytes = memory_bytes
        self.calls: Counter[str] = Counter()
        self.launches_of: Counter[int] = Counter()
        """How many kernels each GPU ran."""
        self.streams: list[FakeStream] = []
        self.pinned: dict[int, int] = {}
        """Sizes of page-locked memory by address."""
        self._failures: dict[str, tuple[int, int]] = {}
        self._sticky: int | None = None
        self._thread = threading.local()
        self.lock = threading.RLock()

    def fail(self, call: str, status: int, *, after: int = 0) -> None:
        """Let a call fail with a status, once it was made ``after`` times more."""
        self._failures[call] = (self.calls[call] + after, status)

    def note(self, call: str, error: Callable[[int], Exception] = CUDARuntimeError) -> None:
        """Count a call, and raise where it is to fail or a kernel failed before."""
        with self.lock:
            number = self.calls[call]
            self.calls[call] += 1
            first, status = self._failures.get(call, (number + 1, 0))
            if self._sticky is None and number >= first:
                self._sticky = status
                if status in (2, 200, 218, 222):  # what a process survives
                    self._sticky = None
                    del self._failures[call]
                raise error(status)
            if self._sticky is not None:
                raise error(self._sticky)

    def fault(self, error: DeviceFaultError) -> None:
        """Take a kernel's fault: from now on every call fails."""
        self._sticky = next((code for check, code in _FAULT_CODES.items() if check in error.check), 700)
        raise CUDARuntimeError(self._sticky)

    @property
    def current(self) -> int:
        """The calling thread's GPU."""
        return getattr(self._thread, "gpu", 0)

    @current.setter
    def current(self, gpu: int) -> None:
        self._thread.gpu = gpu

    @property
    def stream(self) -> FakeStream | None:
        """The calling thread's current stream."""
        return getattr(self._thread, "stream", None)

    @stream.setter
    def stream(self, stream: FakeStream | None) -> None:
        self._thread.stream = stream

    def is_pinned(self, address: int, nbytes: int) -> bool:
        return any(
            start <= address and address + nbytes <= start + size for start, size in self.pinned.items()
        )


class FakeDevice:
    _stack = threading.local()

    def __init__(self, cuda: FakeCuda, ordinal: int) -> None:
        self._cuda = cuda
        self.id = ordinal

    def __enter__(self) -> FakeDevice:
        self._cuda.note("setDevice")
        before = self._stack.__dict__.setdefault("gpus", [])
        before.append(self._cuda.current)
        self._cuda.current = self.id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cuda.current = self._stack.gpus.pop()


class FakeStream:
    _numbers = itertools.count(4096)

    def __init__(self, cuda: FakeCuda) -> None:
        cuda.note("streamCreate")
        self.ptr = next(self._numbers)
        self.gpu = cuda.current
        self._cuda = cuda
        self._waiting: deque[Callable[[], None]] = deque()
        self._before: list[FakeStream | None] = []
        self.queued = self.done = 0
        cuda.streams.append(self)

    def __enter__(self) -> FakeStream:
        self._before.append(self._cuda.stream)
        self._cuda.stream = self
        return self

    def __exit__(self, *error: object) -> None:
        self._cuda.stream = self._before.pop()

    def queue(self, work: Callable[[], None]) -> None:
        with self._cuda.lock:
            self._waiting.append(work)
            self.queued += 1

    def run_to(self, number: int) -> None:
        with self._cuda.lock:
            while self.done < number:
                self.done += 1
                try:
                    self._waiting.popleft()()
                except DeviceFaultError as error:
                    self._cuda.fault(error)

    def synchronize(self) -> None:
        self._cuda.note("streamSynchronize")
        self.run_to(self.queued)


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        cuda.note("eventCreate")
        self._cuda = cuda
        self._stream: FakeStream | None = None
        self._number = 0

    def record(self, stream: FakeStream) -> None:
        self._cuda.note("eventRecord")
        self._stream, self._number = stream, stream.queued

    def synchronize(self) -> None:
        self._cuda.note("eventSynchronize")
        assert self._stream is not None
        self._stream.run_to(self._number)


class FakePinned:
    def __init__(self, cuda: FakeCuda, nbytes: int) -> None:
        cuda.note("hostAlloc")
        self._buffer = ctypes.create_string_buffer(b"\xa5" * nbytes, nbytes)
        self.ptr = ctypes.addressof(self._buffer)
        self._cuda = cuda
        cuda.pinned[self.ptr] = nbytes

    def __del__(self) -> None:
        self._cuda.pinned.pop(self.ptr, None)


class FakePointer:
    def __init__(self, pool: FakePool, key: tuple[int, int, int], address: int) -> None:
        self.ptr = address
        self._pool = pool
        self._key = key

    def __del__(self) -> None:
        self._pool.idle.setdefault(self._key, []).append(self.ptr)


class FakePool:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.idle: dict[tuple[int, int, int], list[int]] = {}
        """Addresses by GPU, stream and size."""

    def malloc(self, nbytes: int) -> FakePointer:
        cuda = self._cuda
        cuda.note("malloc")
        size = -(-nbytes // _UNIT_BYTES) * _UNIT_BYTES
        assert cuda.stream is not None and cuda.stream.gpu == cuda.current, (
            "allocated for no stream of this GPU"
        )
        key = (cuda.current, cuda.stream.ptr, size)
        with cuda.lock:
            idle = self.idle.get(key)
            if idle:
                return FakePointer(self, key, idle.pop())
            cuda.note("cudaMalloc")
            memory = cuda.memories[cuda.current]
            try:
                address = memory.alloc(size)
            except DeviceMemoryError:
                self.free_all_blocks()
                try:
                    address = memory.alloc(size)
                except DeviceMemoryError as error:
                    raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes") from error
            memory.copy_in(address, b"\xa5" * size)
            return FakePointer(self, key, address)

    def free_all_blocks(self) -> None:
        self._cuda.note("free_all_blocks")
        with self._cuda.lock:
            for (gpu, ptr, _), addresses in list(self.idle.items()):
                if gpu == self._cuda.current:
                    for stream in self._cuda.streams:  # cudaFree waits for the device
                        if stream.ptr == ptr:
                            stream.run_to(stream.queued)
                    while addresses:
                        self._cuda.memories[gpu].free(addresses.pop())

    def free_bytes(self) -> int:
        with self._cuda.lock:
            return sum(
                size * len(addresses)
                for (gpu, _, size), addresses in self.idle.items()
                if gpu == self._cuda.current
            )


class FakeModule:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self._parsed: Any = None

    def load(self, cubin: bytes) -> None:
        assert type(cubin) is bytes
        self._cuda.note("moduleLoadData", CUDADriverError)
        self._parsed = parse(cubin.decode())

    def get_function(self, name: str) -> FakeFunction:
        self._cuda.note("moduleGetFunction", CUDADriverError)
        return FakeFunction(self._parsed, name)


class FakeFunction:
    by_ptr: ClassVar[dict[int, FakeFunction]] = {}

    def __init__(self, module: Any, name: str) -> None:
        self.module = module
        self.name = name
        assert len(module.functions[name].parameters) == 1
        self.nbytes = module.functions[name].parameter_bytes
        self.ptr = id(self)
        self.by_ptr[self.ptr] = self


class FakeArray:
    """A vector on a GPU; what is computed of it is computed when its stream gets to it."""

    def __init__(self, cuda: FakeCuda, pool: FakePool, address: int, values: Any, owner: object) -> None:
        self._cuda, self._pool, self._owner = cuda, pool, owner
        self.gpu = cuda.current
        self.address = address
        self.dtype, self.size = values.dtype, len(values)
        self.stream = cuda.stream

    @classmethod
    def over(cls, cuda: FakeCuda, pool: FakePool, given: Any) -> FakeArray:
        """Share the memory of what has CUDA's array interface."""
        cuda.note("asarray")
        interface = given.__cuda_array_interface__
        values = np.broadcast_to(np.zeros(1, interface["typestr"]), interface["shape"])
        return cls(cuda, pool, interface["data"][0], values, given)

    def _view(self) -> Any:
        return (
            self._cuda.memories[self.gpu].view(self.address, self.size * self.dtype.itemsize).view(self.dtype)
        )

    def _made(self, compute: Callable[..., Any], *given: Any) -> FakeArray:
        """Return what ``compute`` makes of this array and others, on the current stream."""
        cuda = self._cuda
        stream = cuda.stream
        assert stream is not None and stream.gpu == cuda.current == self.gpu, (
            "no stream of this GPU is current"
        )
        cuda.note("computeArray")
        ones = [np.ones(1, each.dtype) if isinstance(each, FakeArray) else each for each in given]
        like = compute(np.ones(self.size, self.dtype), *ones)
        memory = self._pool.malloc(like.nbytes)

        def run() -> None:
            values = [each._view() if isinstance(each, FakeArray) else each for each in (self, *given)]
            cuda.memories[self.gpu].copy_in(memory.ptr, np.ascontiguousarray(compute(*values)).view(np.uint8))

        stream.queue(run)
        return FakeArray(cuda, self._pool, memory.ptr, like, (memory, self, given))

    def __mul__(self, other: Any) -> FakeArray:
        return self._made(np.multiply, other)

    def __add__(self, other: Any) -> FakeArray:
        return self._made(np.add, other)

    def __gt__(self, other: Any) -> FakeArray:
        return self._made(np.greater, other)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.gpu

    def __dlpack__(self, *, stream: int) -> object:
        if self.stream is not None and self.stream.ptr != stream:
            self.stream.run_to(self.stream.queued)
        kind = {"b": "u1"}.get(self.dtype.kind, self.dtype.str[1:])
        on = SimpleNamespace(name=f"cuda:{self.gpu}")
        nbytes = self.size * self.dtype.itemsize
        column = DeviceColumn(
            on, pa.from_numpy_dtype(kind), self.size, (0, self.address), (0, nbytes), 0, self
        )
        return column.__dlpack__() if self.dtype.kind != "b" else _as_bools(column.__dlpack__())


def _as_bools(capsule: object) -> object:
    """Change the type of what a capsule holds to bools."""
    tensor = dlpack._pointer_of(id(capsule), b"dltensor")
    ctypes.cast(tensor, ctypes.POINTER(dlpack._ManagedTensor)).contents.tensor.code = 6
    return capsule


def fake_cupy(*, gpus: int = 1, memory_bytes: int = 1 << 28) -> ModuleType:
    """Return a module to be put in the place of ``cupy``; its ``fake`` is the machine behind it."""
    cuda = FakeCuda(gpus, memory_bytes)

    def memcpy_async(to: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        cuda.note("memcpyAsync")
        host = source if kind == 1 else to
        assert cuda.is_pinned(host, nbytes), (
            "a copy that is not from or to page-locked memory waits for itself"
        )
        found = _stream_of(cuda, stream)
        memory = cuda.memories[found.gpu]

        def copy() -> None:
            if kind == 1:
                memory.copy_in(to, (ctypes.c_uint8 * nbytes).from_address(source))
            else:
                ctypes.memmove(to, memory.view(source, nbytes).ctypes.data, nbytes)

        found.queue(copy)

    def memset_async(address: int, value: int, nbytes: int, stream: int) -> None:
        cuda.note("memsetAsync")
        found = _stream_of(cuda, stream)
        found.queue(lambda: cuda.memories[found.gpu].copy_in(address, bytes([value]) * nbytes))

    def launch_kernel(f: int, *numbers: int) -> None:
        gx, gy, gz, bx, by, bz, shared, stream, parameters, extra = numbers
        cuda.note("launchKernel", CUDADriverError)
        function = FakeFunction.by_ptr[f]
        found = _stream_of(cuda, stream)
        assert found.gpu == cuda.current, "a kernel on a stream of another GPU"
        assert extra == 0 and shared == 0
        block = ctypes.c_void_p.from_address(parameters).value
        arguments = ctypes.string_at(block or 0, function.nbytes)

        def run() -> None:
            cuda.launches_of[found.gpu] += 1
            launch(
                function.module,
                function.name,
                grid=(gx, gy, gz),
                block=(bx, by, bz),
                arguments=arguments,
                memory=cuda.memories[found.gpu],
            )

        found.queue(run)

    def attribute(number: int, gpu: int) -> int:
        return {16: 4, 39: 2048}[number]

    def memory_info() -> tuple[int, int]:
        cuda.note("memGetInfo")
        return cuda.memories[cuda.current].free_bytes, cuda.total_bytes

    pool = FakePool(cuda)
    module = ModuleType("cupy")
    module.fake = cuda  # type: ignore[attr-defined]
    module.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]
    module.asarray = lambda given: FakeArray.over(cuda, pool, given)  # type: ignore[attr-defined]
    module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        Device=lambda ordinal: FakeDevice(cuda, ordinal),
        Stream=lambda *, non_blocking: FakeStream(cuda),
        Event=lambda *, disable_timing: FakeEvent(cuda),
        Module=lambda: FakeModule(cuda),
        alloc_pinned_memory=lambda nbytes: FakePinned(cuda, nbytes),
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            cudaDevAttrMultiProcessorCount=16,
            cudaDevAttrMaxThreadsPerMultiProcessor=39,
            deviceGetAttribute=attribute,
            memcpyAsync=memcpy_async,
            memsetAsync=memset_async,
            memGetInfo=memory_info,
        ),
        driver=SimpleNamespace(CUDADriverError=CUDADriverError, launchKernel=launch_kernel),
    )
    return module


def fake_torch(cupy: ModuleType) -> ModuleType:
    """Return a module to be put in the place of ``torch`` whose tensors are arrays of a fake CuPy.

    Its ``streams`` lists the device and the address of each stream that was made current.
    """
    module = ModuleType("torch")
    streams: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def stream(given: tuple[int, int]) -> Iterator[None]:
        streams.append(given)
        yield

    module.streams = streams  # type: ignore[attr-defined]
    module.from_dlpack = cupy.asarray  # type: ignore[attr-defined]
    module.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        ExternalStream=lambda pointer, *, device: (device, pointer),
        stream=stream,
        OutOfMemoryError=type("OutOfMemoryError", (RuntimeError,), {}),
    )
    return module


def _stream_of(cuda: FakeCuda, ptr: int) -> FakeStream:
    return next(stream for stream in cuda.streams if stream.ptr == ptr)


def device_found(ordinal: int = 0, *, total_bytes: int = 1 << 28) -> CudaDevice:
    """Return a GPU as detection finds one."""
    return CudaDevice(
        ordinal=ordinal,
        name="Emulated in a test",
        compute_capability=(8, 0),
        total_bytes=total_bytes,
        uuid=f"GPU-00000000-0000-0000-0000-{ordinal:012d}",
        pci_bus_id=f"0000:0{ordinal}:00.0",
        is_mig=False,
        has_unified_memory=False,
        is_prohibited=False,
    )


def install(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 1, memory_bytes: int = 1 << 28) -> FakeCuda:
    """Let this process find GPUs and CuPy, for one test."""
    module = fake_cupy(gpus=gpus, memory_bytes=memory_bytes)
    devices = tuple(device_found(ordinal, total_bytes=memory_bytes) for ordinal in range(gpus))
    found = CudaDetection(usable=True, reason="GPUs of a test", way_out="", devices=devices)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(detection, "cuda_detection", lambda: found)
    monkeypatch.setattr(backends, "_gpus", {})
    monkeypatch.setattr(programs, "_programs", OrderedDict())
    fake: FakeCuda = module.fake  # type: ignore[attr-defined]
    return fake
