"""CupyBackend, with everything but NVIDIA's part: CuPy is a fake whose GPUs are emulated and as late as they may be.

What only a GPU shows is in `tests/gpu`.
"""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from chains.running import run
from fakes.cupy_on_emulator import FakeCuda, device_found, install

import dataflare as flare
from dataflare.execute.prepare import prepare_run
from dataflare.kernels.cuda import arrow_device
from dataflare.kernels.cuda.backends import cuda_backend, cuda_backends
from dataflare.kernels.cuda.gpu import CupyBackend
from dataflare.kernels.cuda.ptx import KernelImage
from dataflare.kernels.cuda.recovery import DeviceWarning
from dataflare.kernels.errors import (
    DeviceCodeError,
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
    OptionError,
    SchemaError,
)
from dataflare.kernels.udf.stages import FilterStage, WithColumnsStage
from dataflare.options import RunOptions
from dataflare.sinks.memory import CollectSink
from dataflare.testing import assert_batches_equal

_ROWS = 5_000
_WILD = """.version 7.0
.target sm_80
.address_size 64
.visible .entry wild(.param .align 8 .b8 wild_0[8])
{
.reg .b64 %rd<3>;
ld.param.b64 %rd1, [wild_0];
st.global.b64 [%rd1], %rd1;
ret;
}
"""
"""Writes eight bytes where its argument says."""


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch)


def _batch(rows: int = _ROWS, seed: int = 0) -> pa.RecordBatch:
    draw = np.random.default_rng(seed)
    return pa.record_batch(
        {
            "a": pa.array(draw.integers(-50, 50, rows), mask=draw.random(rows) < 0.1),
            "b": pa.array(draw.normal(size=rows)),
            "flag": pa.array(draw.random(rows) < 0.5),
            "name": pa.array([f"n{number % 97}" for number in range(rows)]),
        }
    )


_STAGES = (
    WithColumnsStage(None, (("c", lambda r: r.b * 2 + r.a), ("long", lambda r: len(r.name) > 2))),
    FilterStage(lambda r: r.c > 0 or r.flag),
)


def test_programs_give_what_they_give_on_the_cpu(cuda: FakeCuda) -> None:
    for rows in (1, 31, 512, 513, _ROWS):
        for start in (0, 3):
            batch = _batch(rows + start).slice(start)
            found, expected = run("cuda:0", _STAGES, batch), run("cpu", _STAGES, batch)
            assert_batches_equal(found.batch, expected.batch)
            assert found.rows_dropped_null_predicate == expected.rows_dropped_null_predicate


def test_copies_larger_than_the_ring(cuda: FakeCuda) -> None:
    backend = CupyBackend(device_found())
    stream = backend.stream()
    data = np.random.default_rng(1).integers(0, 1 << 62, 3_000_000)
    found = np.zeros_like(data)
    block = backend.acquire(data.nbytes)
    backend.upload(block.address, data.ctypes.data, data.nbytes, stream)
    backend.download(found.ctypes.data, block.address, data.nbytes, stream)
    backend.synchronize(stream)
    assert np.array_equal(found, data)
    assert cuda.calls["hostAlloc"] == 1


def test_each_thread_has_one_stream_and_they_do_not_mix(cuda: FakeCuda) -> None:
    batches = [_batch(2_000, seed) for seed in range(8)]
    expected = [run("cpu", _STAGES, batch).batch for batch in batches]
    meet = threading.Barrier(4)

    def work(number: int) -> list[pa.RecordBatch]:
        meet.wait()
        return [run("cuda:0", _STAGES, batches[i]).batch for i in (number, number + 4)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for number in range(4):
        for place, i in enumerate((number, number + 4)):
            assert_batches_equal(found[number][place], expected[i])
    assert len(cuda.streams) == 4


def test_the_steady_state_allocates_nothing(cuda: FakeCuda) -> None:
    batch = _batch()
    for _ in range(2):
        run("cuda:0", _STAGES, batch)
    before = {
        call: cuda.calls[call] for call in ("cudaMalloc", "hostAlloc", "streamCreate", "moduleLoadData")
    }
    run("cuda:0", _STAGES, batch)
    assert {call: cuda.calls[call] for call in before} == before


def test_the_current_device_of_the_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, gpus=2)
    run("cuda:1", _STAGES, _batch(100))
    assert cuda.current == 0
    assert cuda.launches_of == {1: 3}


def test_all_gpus_get_threads_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, gpus=2)
    assert [backend.name for backend in cuda_backends("cuda")] == ["cuda:0", "cuda:1"]
    batch = _batch(100)
    meet = threading.Barrier(2)

    def work(_: int) -> pa.RecordBatch:
        meet.wait()
        return run("cuda", _STAGES, batch).batch

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, range(2)))
    expected = run("cpu", _STAGES, batch).batch
    assert all(batch.equals(expected) for batch in found)
    assert cuda.launches_of == {0: 3, 1: 3}


def test_a_pipeline_keeps_its_order_on_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, gpus=2)
    table = pa.table({"x": np.arange(70_000)})
    result = (
        flare.from_arrow(table)
        .filter(lambda r: r.x & 3 != 1)
        .collect(device="cuda", workers=2, batching=flare.AdaptiveBatchingConfig(initial_size=10_000))
    )
    kept = np.arange(70_000)
    assert np.array_equal(result.to_arrow()["x"], kept[kept & 3 != 1])
    assert set(cuda.launches_of) <= {0, 1}


def test_a_run_has_two_workers_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gpus=3)
    monkeypatch.setattr("dataflare.execute.prepare.usable_cores", lambda: 2)
    pipeline = flare.from_arrow(pa.table({"x": np.arange(10**6)})).map(lambda r: {"y": r.x})
    plan = pipeline._physical(CollectSink(), RunOptions())
    workers = {
        device: prepare_run(plan, RunOptions(device=device)).workers for device in ("cpu", "cuda:1", "cuda")
    }
    assert workers == {"cpu": 2, "cuda:1": 2, "cuda": 6}


def test_a_run_watches_the_memory_of_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, gpus=2)
    plan = (
        flare.from_arrow(pa.table({"x": [1]}))
        .map(lambda r: {"y": r.x})
        ._physical(CollectSink(), RunOptions())
    )
    run = prepare_run(plan, RunOptions(device="cuda"))
    assert [monitor.device for monitor in run.monitors] == ["host", "cuda:0", "cuda:1"]
    kept = cuda_backend("cuda:1").acquire(cuda.total_bytes // 4)
    run.controller.poll_monitors()
    pressure = run.controller.snapshot().pressure_by_device
    assert (pressure["cuda:0"], pressure["cuda:1"]) == (0.0, 0.25)
    del kept  # idle in the pool: the driver counts it as used, nobody uses it
    assert run.monitors[2]._pool_free_bytes() == cuda.total_bytes // 4


def test_backends_are_made_once(cuda: FakeCuda) -> None:
    assert cuda_backend("cuda") is cuda_backend("cuda:0")
    with pytest.raises(DeviceUnavailableError, match=r"there is no device 'cuda:7'; usable are cuda:0"):
        cuda_backend("cuda:7")


def test_memory_counts_the_pool_as_free(cuda: FakeCuda) -> None:
    backend = CupyBackend(device_found())
    block = backend.acquire(1 << 20)
    held = backend.memory()
    del block
    assert backend.pool_free_bytes() == 1 << 20
    assert backend.memory().free_bytes == held.free_bytes + (1 << 20) == held.total_bytes
    assert backend.driver_memory()[0] == held.free_bytes
    backend.release_idle()
    assert backend.pool_free_bytes() == 0
    assert backend.memory().free_bytes == held.total_bytes


def test_a_full_device_says_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, memory_bytes=1 << 20)
    backend = CupyBackend(device_found())
    kept = backend.acquire(1 << 19)
    with pytest.raises(
        DeviceMemoryError, match=r"cuda:0 has no room for 1,000,000 bytes: 524,288 of 1,048,576"
    ):
        backend.acquire(1_000_000)
    del kept
    assert backend.acquire(1_000_000).nbytes == 1_000_000  # the pool gave back what lay idle


@pytest.mark.parametrize(
    ("call", "status", "expected", "message"),
    [
        ("memcpyAsync", 2, DeviceMemoryError, "cuda:0: cudaError2"),
        ("streamSynchronize", 700, DeviceFaultError, "a kernel failed on cuda:0"),
        ("streamSynchronize", 719, DeviceFaultError, "device='cuda:emulated' says which"),
        ("eventSynchronize", 999, DeviceUnavailableError, "context is gone"),
        ("launchKernel", 46, DeviceUnavailableError, "cuda:0: CUDA_ERROR_46"),
        ("setDevice", 214, DeviceUnavailableError, "context is gone"),
        ("launchKernel", 1, DeviceFaultError, "CUDA_ERROR_1"),
        ("moduleLoadData", 222, DeviceCodeError, "Update NVIDIA's driver"),
    ],
)
def test_errors_of_cuda_become_ours(
    cuda: FakeCuda, call: str, status: int, expected: type[Exception], message: str
) -> None:
    backend = CupyBackend(device_found())
    cuda.fail(call, status)
    with pytest.raises(expected, match=message) as caught:
        stream = backend.stream()
        block = backend.acquire(64)
        host = ctypes.create_string_buffer(64)
        backend.upload(block.address, ctypes.addressof(host), 64, stream)
        kernel = backend.load(KernelImage(_WILD, "wild", 1, "sm_80"))
        backend.launch(kernel, 1, 1, block.address.to_bytes(8, "little"), stream)
        backend.synchronize(stream)
    assert getattr(caught.value.__cause__, "status", None) == status


def test_a_run_goes_on_without_a_gpu_that_is_lost(cuda: FakeCuda) -> None:
    cuda.fail("memcpyAsync", 999, after=1)
    batch = _batch(100)
    with pytest.warns(DeviceWarning, match="cuda:0 is lost"):
        assert_batches_equal(run("cuda:0", _STAGES, batch).batch, run("cpu", _STAGES, batch).batch)
    assert "context is gone" in (cuda_backend("cuda:0").lost or "")


def test_what_a_kernel_may_not_do_is_a_fault(cuda: FakeCuda) -> None:
    backend = CupyBackend(device_found())
    stream = backend.stream()
    block = backend.acquire(64)
    kernel = backend.load(KernelImage(_WILD, "wild", 1, "sm_80"))
    backend.launch(kernel, 1, 1, (block.address + 4).to_bytes(8, "little"), stream)
    with pytest.raises(DeviceFaultError) as caught:
        backend.synchronize(stream)
    assert caught.value.check == "misaligned address"
    with pytest.raises(DeviceFaultError):  # and nothing works any more
        backend.memory()


def test_after_an_error_nothing_is_written_to_the_host(cuda: FakeCuda) -> None:
    backend = CupyBackend(device_found())
    stream = backend.stream()
    block = backend.acquire(64)
    backend.zero(block.address, 64, stream)
    host = ctypes.create_string_buffer(b"\xff" * 64, 64)
    backend.download(ctypes.addressof(host), block.address, 64, stream)
    cuda.fail("memcpyAsync", 2)
    with pytest.raises(DeviceMemoryError):
        backend.download(ctypes.addressof(host), block.address, 64, stream)
    backend.synchronize(stream)
    assert host.raw == b"\xff" * 64
    backend.download(ctypes.addressof(host), block.address, 64, stream)
    backend.synchronize(stream)
    assert host.raw == b"\0" * 64


def test_batches_stay_on_the_gpu_and_on_the_thread_that_asks(cuda: FakeCuda) -> None:
    batch = flare.SharedDataBatch.from_arrow(
        _batch().append_column("tag", pa.array(["x", "yy"] * (_ROWS // 2)))
    )
    there = batch.to_device("cuda:0")
    assert there.device == "cuda:0"
    assert there.to_device("cuda") is there
    assert there["b"].__dlpack_device__() == (2, 0)

    def steps(one: flare.SharedDataBatch) -> flare.SharedDataBatch:
        made = one[3:].with_columns(c=lambda r: r.b * 2 + r.a, t=lambda r: r.name if r.flag else r.tag)
        return made.filter(lambda r: r.c > 0 or r.flag)[5:].filter(lambda r: r.name != "n5")

    expected = steps(batch).to_arrow()
    with ThreadPoolExecutor(3) as threads:
        parts = list(threads.map(lambda _: steps(there), range(3)))
    for part in parts:  # made on other threads, whose streams are not waited for here
        assert part.device == "cuda:0"
        assert_batches_equal(part.to_arrow(), expected)
    assert flare.SharedDataBatch.merge(parts).num_rows == 3 * expected.num_rows


def test_gpus_do_not_mix_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gpus=2)
    batch = flare.SharedDataBatch.from_arrow(_batch())
    first, second = batch.to_device("cuda:0"), batch.to_device("cuda:1")
    assert first.to_device("cuda:1").equals(second)
    with pytest.raises(OptionError, match="cuda:0, cuda:1"):
        flare.SharedDataBatch.merge([first, second])
    with pytest.raises(SchemaError, match="'y' lies on cuda:1 and column 'x' on cuda:0"):
        flare.SharedDataBatch.from_columns({"x": first["b"], "y": second["b"]})


def test_the_event_of_a_producer_is_waited_for(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> None:
    backend = cuda_backend("cuda:0")
    assert isinstance(backend, CupyBackend)
    waited: list[int] = []
    monkeypatch.setattr(backend._runtime, "eventSynchronize", waited.append, raising=False)
    there = flare.SharedDataBatch.from_pydict({"x": [1, 2, 3]}).to_device("cuda:0")
    schema, array = there.__arrow_c_device_array__()
    event = ctypes.c_void_p(77)
    arrow_device._opened(array).sync_event = ctypes.addressof(event)

    class Producer:
        def __arrow_c_device_array__(self, requested_schema: object = None) -> tuple[object, object]:
            return schema, array

    assert flare.SharedDataBatch.from_arrow(Producer()).to_pylist() == [{"x": 1}, {"x": 2}, {"x": 3}]
    assert waited == [77]
