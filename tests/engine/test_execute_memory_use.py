"""GrowthBound: when Arrow's allocator is asked to give memory back, and when it is left alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataflare as flare
from dataflare.execute import memory_use
from dataflare.execute.memory_use import GrowthBound

LIMIT_BYTES = 1_600
STEP_BYTES = 100


class Process:
    """Resident memory: some in use, and some that an allocator keeps until it is told to give it back."""

    def __init__(self) -> None:
        self.used_bytes = 10_000
        self.kept_bytes = 0
        self.times = 0

    def resident(self) -> int:
        return self.used_bytes + self.kept_bytes

    def give_back(self) -> None:
        self.kept_bytes = 0
        self.times += 1


def bound(process: Process) -> GrowthBound:
    return GrowthBound(LIMIT_BYTES, resident=process.resident, give_back=process.give_back)


def test_a_process_whose_allocator_keeps_everything_stays_within_the_limit() -> None:
    process = Process()
    growth = bound(process)
    for _ in range(1_000):
        process.kept_bytes += 30
        growth.note_batch(30)
        assert process.resident() - 10_000 <= LIMIT_BYTES
    assert 15 <= process.times <= 25  # once for each limit's worth of what was kept


def test_below_the_limit_nothing_is_given_back() -> None:
    process = Process()
    growth = bound(process)
    process.kept_bytes = 3 * LIMIT_BYTES // 4
    for _ in range(100):
        growth.note_batch(STEP_BYTES)
    assert process.times == 0


def test_each_thread_gives_its_own_part_back_once() -> None:
    given_back = []
    process = Process()
    growth = GrowthBound(
        LIMIT_BYTES, resident=process.resident, give_back=lambda: given_back.append(threading.get_ident())
    )
    with ThreadPoolExecutor(1) as sink:
        sink.submit(growth.follow).result()
        assert given_back == []
        process.used_bytes += LIMIT_BYTES
        growth.note_batch(STEP_BYTES)
        for _ in range(3):
            sink.submit(growth.follow).result()
        assert len(given_back) == len(set(given_back)) == 2


def test_memory_in_use_is_not_asked_for_again_and_again() -> None:
    process = Process()
    growth = bound(process)
    process.used_bytes += 5 * LIMIT_BYTES  # of the user's own threads, say
    for _ in range(100):
        growth.note_batch(STEP_BYTES)
    assert process.times == 1
    process.kept_bytes += STEP_BYTES + 1
    growth.note_batch(STEP_BYTES)
    assert process.times == 2


def test_looks_are_as_far_apart_as_a_share_of_the_limit() -> None:
    process = Process()
    looks = 0

    def resident() -> int:
        nonlocal looks
        looks += 1
        return process.resident()

    growth = GrowthBound(LIMIT_BYTES, resident=resident, give_back=process.give_back)
    looks = 0
    for _ in range(1_000):
        growth.note_batch(STEP_BYTES // 10)
    assert looks == 100


def test_where_the_system_does_not_tell_nothing_is_done() -> None:
    process = Process()
    growth = GrowthBound(LIMIT_BYTES, resident=lambda: None, give_back=process.give_back)
    growth.note_batch(10 * LIMIT_BYTES)
    assert process.times == 0


@pytest.mark.parametrize(("memory_limit", "given_back"), [(8_000_000, True), (None, False)])
def test_only_a_run_with_a_limit_has_memory_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_limit: int | None, given_back: bool
) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"n": range(400_000), "s": ["some text"] * 400_000}), path, row_group_size=20_000)
    calls = []
    resident = iter(range(0, 1 << 50, 1 << 30))  # it grows by a GiB each time
    monkeypatch.setattr(memory_use, "resident_bytes", lambda: next(resident))
    monkeypatch.setattr(memory_use, "_release_arrow_memory", lambda: calls.append(1))
    pipeline = flare.read_parquet(path, decoder="pyarrow").filter(lambda r: r.n % 2 == 0)
    report = pipeline.write_parquet(tmp_path / "out.parquet").run(memory_limit=memory_limit)
    assert report.rows_out == 200_000
    assert bool(calls) is given_back
