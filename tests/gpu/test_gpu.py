"""What only a GPU shows: `pytest tests/gpu` on a machine that has one; elsewhere skipped, with the reason."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.running import run
from gpu.cases import all_cases, digest, stored_results

import dataflare as flare
from dataflare.kernels.cuda.backends import cuda_backend, cuda_backends
from dataflare.kernels.devices.detection import cuda_detection
from dataflare.kernels.errors import DeviceMemoryError
from dataflare.optimize.calibration import measure_rates
from dataflare.testing import assert_batches_equal

_found = cuda_detection()
pytestmark = pytest.mark.skipif(not _found.usable, reason=f"no GPU to test on: {_found.reason}")
_DEVICES = [device.label for device in _found.usable_devices] or ["cuda:0"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("device", _DEVICES)
def test_every_case_gives_what_the_emulated_gpu_gave(device: str, tmp_path: Path) -> None:
    stored = stored_results()
    differing = [case for case in all_cases(tmp_path) if digest(case, device) != stored[case.name]]
    for case in differing:  # the first one, with all that differs
        expected = run("cuda:emulated", case.stages, case.batch)
        assert_batches_equal(run(device, case.stages, case.batch).batch, expected.batch)
    assert [case.name for case in differing] == []


def test_many_threads_and_large_batches_do_not_mix() -> None:
    table = pa.table({"x": np.arange(20_000_000, dtype=np.int64)})
    pipeline = flare.from_arrow(table).filter(lambda r: r.x % 7 == 3).map(lambda r: {"y": r.x * 2})
    for device in ("cuda", "cuda:0"):
        result = pipeline.collect(device=device, workers=8)
        assert np.array_equal(result.to_arrow()["y"], np.arange(3, 20_000_000, 7) * 2)


def test_the_pool_is_used_again_and_given_back() -> None:
    backend = cuda_backend("cuda")
    block = backend.acquire(64 << 20)
    address = block.address
    del block
    assert backend.acquire(64 << 20).address == address
    backend.release_idle()
    free_bytes, total_bytes = backend.memory()
    assert 0 < free_bytes <= total_bytes
    with pytest.raises(DeviceMemoryError, match="has no room for"):
        backend.acquire(total_bytes + (1 << 30))


def test_backends_are_shared_by_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(found) for found in pool.map(lambda _: cuda_backends("cuda")[0], range(64))}) == 1


@pytest.mark.parametrize(("module", "batch_format"), [("cupy", "cupy"), ("torch", "torch")])
def test_arrays_of_other_libraries_between_two_programs(module: str, batch_format: Any) -> None:
    library = pytest.importorskip(module)

    def halved(columns: dict[str, Any]) -> dict[str, Any]:
        assert library.abs(columns["x"][:1]).device == columns["x"].device
        return {"half": columns["x"] / 2, "big": columns["x"] > 1e6}

    schema = pa.schema({"half": pa.float64(), "big": pa.bool_()})
    pipeline = flare.from_arrow(pa.table({"x": np.arange(3_000_000.0)})).filter(lambda r: r.x % 3 == 0)
    pipeline = pipeline.map_batches(halved, schema, batch_format=batch_format)
    result = pipeline.with_columns(y=lambda r: r.half * 3 if r.big else 0.0).collect(device="cuda", workers=4)
    x = np.arange(0, 3_000_000, 3.0)
    assert np.array_equal(result.to_arrow()["y"], np.where(x > 1e6, x / 2 * 3, 0.0))


def test_rates_are_those_of_a_gpu() -> None:
    rates = measure_rates(cuda_backend("cuda"), "cuda:0")
    assert 1e9 < rates.up_bytes_per_s < 1e12
    assert 1e9 < rates.down_bytes_per_s < 1e12
    assert rates.batch_s < 0.01
