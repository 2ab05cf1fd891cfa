"""`device_rates`: what the model of `placement` needs to know of a machine, measured once and kept on disk.

A program that adds and one that computes a polynomial run on one core and on the GPU over columns in memory, and
bytes are copied both ways: half a second, most of it compiling. The figures are rough, as the model is. They are
kept beside the compile cache, by GPU, CPU and version.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.optimize.placement import DeviceRates

if TYPE_CHECKING:
    from dataflare.kernels.cuda.device import DeviceBackend
    from dataflare.kernels.devices.driver import CudaDevice

__all__ = ["device_rates", "measure_rates"]

_VERSION = 1
_ROWS = 1 << 20
_TERMS = 64
_ROUNDS = 3


@lru_cache(maxsize=8)
def device_rates(device: CudaDevice) -> DeviceRates:
    """Return the rates of a GPU and this machine's CPU, measured unless some process has done so before."""
    from dataflare.kernels.cpu.cache import cache_directory
    from dataflare.kernels.cpu.target import host_target
    from dataflare.kernels.cuda.backends import cuda_backend

    target = host_target()
    parts = (str(_VERSION), device.uuid, device.name, target.cpu, target.features)
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    path = cache_directory() / "rates" / f"{name}.json"
    known = _load(path)
    if known is None:
        known = measure_rates(cuda_backend(device.label), device.label)
        _save(path, known)
    return known


def measure_rates(backend: DeviceBackend, device: str, rows: int = _ROWS) -> DeviceRates:
    """Measure one core, a GPU and the copies between them.

    Parameters
    ----------
    rows
        Records of 8 bytes that programs run over and that are copied.
    """
    adding, computing = _programs()
    light_cpu_s, heavy_cpu_s = (_run_s(program, "cpu", rows) for program in (adding, computing))
    light_gpu_s, heavy_gpu_s = (_run_s(program, device, rows) for program in (adding, computing))
    up_s, down_s = _copies_s(backend, 8 * rows)
    steps = 2.0 * _TERMS * rows
    return DeviceRates(
        cpu_bytes_per_s=16.0 * rows / light_cpu_s,
        cpu_steps_per_s=steps / heavy_cpu_s,
        up_bytes_per_s=8.0 * rows / up_s,
        down_bytes_per_s=8.0 * rows / down_s,
        # Copies are the same for both, so what is more is the kernel; a clock may not see it at all.
        gpu_steps_per_s=steps / max(heavy_gpu_s - light_gpu_s, 1e-6),
        batch_s=_run_s(adding, device, 1),
    )


def _programs() -> tuple[Any, Any]:
    import pyarrow as pa

    from dataflare.kernels.udf.program import build_program
    from dataflare.kernels.udf.stages import MapStage

    def polynomial(r: Any) -> Any:
        y = r.x
        for _ in range(_TERMS):
            y = y * r.x + 0.5
        return {"y": y}

    schema = pa.schema([pa.field("x", pa.float64(), nullable=False)])
    return build_program([MapStage(lambda r: {"y": r.x + 1.0})], schema), build_program(
        [MapStage(polynomial)], schema
    )


def _run_s(program: Any, device: str, rows: int) -> float:
    """Return the shortest time of a few runs over a column in memory, on one thread."""
    import numpy as np
    import pyarrow as pa

    from dataflare.kernels.backend import compile_program
    from dataflare.kernels.memory.column import HostColumn

    compiled = compile_program(program, device)
    column = HostColumn.from_arrow(pa.array(np.linspace(0.0, 0.5, rows)))
    return _shortest_s(lambda: compiled.run((column,), rows))


def _copies_s(backend: DeviceBackend, nbytes: int) -> tuple[float, float]:
    """Return the shortest times of a copy to the device and back."""
    host = ctypes.create_string_buffer(nbytes)
    address = ctypes.addressof(host)
    block = backend.acquire(nbytes)
    stream = backend.stream()

    def up() -> None:
        backend.upload(block.address, address, nbytes, stream)
        backend.synchronize(stream)

    def down() -> None:
        backend.download(address, block.address, nbytes, stream)
        backend.synchronize(stream)

    return _shortest_s(up), _shortest_s(down)


def _shortest_s(work: Callable[[], object]) -> float:
    work()  # makes pages, streams and kernels
    times = []
    for _ in range(_ROUNDS):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return max(min(times), 1e-9)


def _load(path: Path) -> DeviceRates | None:
    try:
        values = json.loads(path.read_text())
        return DeviceRates(**{name: float(value) for name, value in values.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _save(path: Path, rates: DeviceRates) -> None:
    """Keep what was measured; where nothing can be written, the next process measures again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(asdict(rates), file)
        Path(temporary).replace(path)
    except OSError:
        return
