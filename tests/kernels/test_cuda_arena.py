"""What a device's memory and kernels are asked for: once, and then used again, by any thread."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from chains.faulty import FaultyBackend

from dataflare.kernels.cpu import cache
from dataflare.kernels.cuda.arena import DeviceArena, arena_of, class_bytes
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.errors import DeviceMemoryError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostPool
from dataflare.kernels.udf.ir import StringOp
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage

ROWS = 600
BATCH = pa.record_batch(
    {
        "x": pa.array([None if i % 7 == 0 else i for i in range(ROWS)], pa.int64()),
        "s": pa.array([f"name {i % 19}" for i in range(ROWS)]),
        "d": pa.array([f"kind {i % 5}" for i in range(ROWS)]).dictionary_encode(),
    }
)


def program() -> RecordProgram:
    return build_program(
        [
            FilterStage(lambda r: r.x % 2 == 0 and r.d.startswith("kind")),
            MapStage(lambda r: {"y": r.x * 3, "p": r.s.endswith("7"), "f": r.x / 7}),
        ],
        BATCH.schema,
    )


def columns() -> list[HostColumn]:
    return [HostColumn.from_arrow(BATCH.column(name)) for name in program().required_columns]


@pytest.mark.parametrize("distinct_dictionaries", [False, True])
def test_batches_in_a_steady_state_take_no_new_memory(
    distinct_dictionaries: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = HostPool(limit_bytes=1 << 30)
    monkeypatch.setattr("dataflare.kernels.cuda.fused.default_pool", lambda: pool)
    monkeypatch.setattr("dataflare.kernels.cuda.fused._MAX_TABLES", 4)
    backend = FaultyBackend()
    compiled = compile_cuda(program(), backend)
    given = columns()

    def run() -> None:
        if distinct_dictionaries:
            kinds = pa.array([f"kind {i % 5}" for i in range(ROWS)]).dictionary_encode()
            given[list(program().required_columns).index("d")] = HostColumn.from_arrow(kinds)
        compiled.run(given, ROWS)

    for _ in range(6):  # more than the tables that are kept
        run()
    device, host = backend.calls["acquire"], pool.statistics().allocations
    loads = backend.calls["load"]
    acquired = arena_of(backend).acquisitions
    for _ in range(10):
        run()
    assert (backend.calls["acquire"], pool.statistics().allocations) == (device, host)
    assert backend.calls["load"] == loads
    assert arena_of(backend).acquisitions >= acquired + 10


def test_batches_in_a_steady_state_hash_no_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation has the tables of its automaton, which take longer to be hashed than a column to be planned."""
    built = build_program(
        [FilterStage(lambda r: not r.d.isalpha()), MapStage(lambda r: {"n": r.d.startswith("k")})],
        BATCH.schema,
    )
    compiled = compile_cuda(built, FaultyBackend())
    given = [HostColumn.from_arrow(BATCH.column(name)) for name in built.required_columns]
    compiled.run(given, ROWS)
    hashed: list[StringOp] = []

    def noted_hash(op: StringOp) -> int:
        hashed.append(op)
        return id(op)

    monkeypatch.setattr(StringOp, "__hash__", noted_hash)
    compiled.run(given, ROWS)
    assert not hashed
    compiled.tables_of(StringOp("length", ()))
    assert hashed


def test_memory_goes_back_when_it_is_asked_for_and_with_the_backend() -> None:
    backend = FaultyBackend()
    before = backend.memory().free_bytes
    compile_cuda(program(), backend).run(columns(), ROWS)
    arena = arena_of(backend)
    taken = before - backend.memory().free_bytes
    assert taken >= arena.idle_bytes > 0
    arena.release_idle()
    assert arena.idle_bytes == 0
    assert backend.memory().free_bytes > before - taken


def test_idle_blocks_make_room_for_one_of_another_size() -> None:
    backend = FaultyBackend(memory_bytes=1 << 20)
    arena = DeviceArena(backend)
    arena.acquire(600_000)
    assert arena.idle_bytes == class_bytes(600_000)
    assert arena.acquire(900_000).nbytes == 900_000
    held = arena.acquire(900_000)
    with pytest.raises(DeviceMemoryError):
        arena.acquire(600_000)
    assert held.nbytes == 900_000


def test_a_smaller_request_takes_an_idle_block_of_up_to_twice_the_size() -> None:
    backend = FaultyBackend()
    arena = DeviceArena(backend)
    address = arena.acquire(100_000).address
    assert arena.acquire(60_000).address == address
    assert arena.acquire(30_000).address != address
    assert (arena.acquisitions, arena.allocations, backend.calls["acquire"]) == (3, 2, 2)


def test_sizes_that_nobody_asks_for_any_more_go_back() -> None:
    backend = FaultyBackend()
    arena = DeviceArena(backend)
    arena.acquire(1_000_000)
    for _ in range(300):
        arena.acquire(10_000)
    arena.acquire(50_000)
    assert arena.idle_bytes == class_bytes(10_000) + class_bytes(50_000)


@pytest.mark.parametrize("nbytes", [0, 1, 4_096, 4_097, 100_000, 1 << 20, (1 << 20) + 1, 123_456_789])
def test_a_size_class_is_at_most_a_quarter_larger(nbytes: int) -> None:
    assert nbytes <= class_bytes(nbytes) <= max(4_096, nbytes + nbytes // 4)
    assert class_bytes(class_bytes(nbytes)) == class_bytes(nbytes)


def test_blocks_die_with_their_backend_and_not_when_cycles_are_looked_for() -> None:
    gc.disable()
    try:
        backend = FaultyBackend()
        gone = threading.Event()
        arena_of(backend).acquire(1_000)
        backend.fails = _Signals(gone)
        del backend
        assert gone.is_set()
    finally:
        gc.enable()


class _Signals:
    """Part of a backend that tells when it goes."""

    def __init__(self, gone: threading.Event) -> None:
        self._gone = gone

    def __call__(self, call: str, number: int) -> None:
        return None

    def __del__(self) -> None:
        self._gone.set()


def test_threads_that_start_together_load_each_kernel_once_and_share_no_block(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_disabled", set())
    backend = FaultyBackend()
    compiled = compile_cuda(program(), backend)
    assert compiled.cache == "unused"
    made_s = compiled.compile_s
    expected = compile_cuda(program(), FaultyBackend()).run(columns(), ROWS)
    together = threading.Barrier(6)

    def run() -> list[bool]:
        together.wait(30)
        given = columns()
        found = [compiled.run(given, ROWS) for _ in range(3)]
        return [
            column.to_arrow().equals(wanted.to_arrow())
            for result in found
            for column, wanted in zip(result.columns, expected.columns, strict=True)
        ]

    with ThreadPoolExecutor(6) as threads:
        results = [each for future in [threads.submit(run) for _ in range(6)] for each in future.result()]
    assert len(results) == 6 * 3 * 3
    assert all(results)
    assert backend.calls["load"] == 4  # two of the filter, the sum between them, the table of the dictionary
    assert compiled.compile_s > made_s


def test_where_kernels_came_from_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_disabled", set())
    for expected in ("compiled", "disk"):
        compiled = compile_cuda(program(), FaultyBackend())
        compiled.run(columns(), ROWS)
        assert compiled.cache == expected


def test_a_block_that_goes_in_a_cycle_can_be_used_again() -> None:
    backend = FaultyBackend()
    arena = DeviceArena(backend)
    cycle: list[object] = [arena.acquire(10_000)]
    cycle.append(cycle)  # as an exception and the frames of its traceback are
    del cycle
    gc.collect()
    again = arena.acquire(10_000)
    backend.release_idle()
    backend.zero(again.address, again.nbytes, None)
    assert arena.allocations == 1


def test_a_peak_is_that_of_the_time_it_was_watched() -> None:
    arena = DeviceArena(backend := FaultyBackend())
    early = arena.watch_peak()
    blocks = [arena.acquire(class_bytes(100_000)) for _ in range(3)]
    held = arena.held_bytes
    assert early.nbytes == held == 3 * class_bytes(100_000)
    assert (backend.name, arena.idle_bytes) == ("cuda:emulated", 0)
    del blocks
    assert (arena.held_bytes, arena.idle_bytes) == (held, held)
    arena.release_idle()
    late = arena.watch_peak()
    assert (arena.held_bytes, late.nbytes) == (0, 0)
    arena.acquire(class_bytes(100_000))
    assert (early.nbytes, late.nbytes) == (held, class_bytes(100_000))
