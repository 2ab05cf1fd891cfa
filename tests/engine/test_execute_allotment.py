"""Allotment: which limit binds, and how it is shared out; runs over real files that keep to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataflare as flare
from dataflare.control.monitors import MemoryReading
from dataflare.execute.allotment import Allotment, standing_needs
from dataflare.execute.feasibility import StageNeed
from dataflare.kernels.errors import MemoryLimitError
from dataflare.kernels.memory.pool import default_pool
from dataflare.options import RunOptions
from dataflare.sinks.parquet import ParquetSink
from dataflare.sources.parquet import ParquetSource

MIB = 2**20


def host(used_bytes: int | None, limit_bytes: int | None) -> Any:
    reading = MemoryReading(used_bytes, limit_bytes, "cgroup v2", 0.0)
    return SimpleNamespace(device="host", read=lambda: reading)


def allotment(limit_bytes: int) -> Allotment:
    return Allotment(limit_bytes, is_given=True)


def test_what_was_asked_for_binds_and_else_half_of_what_is_free() -> None:
    full = host(400 * MIB, 512 * MIB)
    asked = Allotment.of(RunOptions(memory_limit=64 * MIB), full, in_memory=False)
    assert (asked.limit_bytes, asked.is_given) == (64 * MIB, True)
    free = Allotment.of(RunOptions(), full, in_memory=False)
    assert (free.limit_bytes, free.is_given) == (56 * MIB, False)


def test_nothing_is_bounded_where_nothing_is_known_or_nothing_is_read() -> None:
    for known in (
        Allotment.of(RunOptions(), host(None, None), in_memory=False),
        Allotment.of(RunOptions(), host(1, 2), in_memory=True),
    ):
        assert known.limit_bytes is None
        assert known.batches([StageNeed("reading", 2, 100)], 2, 2, 4) == (None, 4)
        assert known.kept_by_allocators(None).bytes_a_task == 0


@pytest.mark.parametrize("limit_bytes", [MIB, 64 * MIB, 200 * MIB, 2**34])
@pytest.mark.parametrize("tasks", [1, 2, 16])
def test_what_stands_and_all_batches_together_fit(limit_bytes: int, tasks: int) -> None:
    shares = allotment(limit_bytes)
    standing = [
        StageNeed("reading", tasks, limit_bytes // (4 * tasks)),
        StageNeed("gathering", 1, limit_bytes // 8),
    ]
    batch_bytes, window = shares.batches(standing, tasks, 2, 4)
    assert batch_bytes is not None
    assert 2 <= window <= 4
    assert sum(need.total_bytes for need in standing) + tasks * window * batch_bytes <= limit_bytes


def test_what_stands_and_cannot_be_refused_does_not_make_batches_tiny() -> None:
    too_large = [StageNeed("reading", 1, 100 * MIB)]
    assert Allotment(64 * MIB, is_given=False).batches(too_large, 1, 2, 4) == (8 * MIB, 2)
    assert allotment(64 * MIB).batches(too_large, 1, 2, 4).batch_bytes == 1  # and the run is refused


def test_the_window_is_as_wide_as_ever_where_there_is_room() -> None:
    assert allotment(2**33).batches([], 1, 2, 4) == (2**33 // 6, 4)
    assert allotment(64 * MIB).batches([StageNeed("reading", 1, 32 * MIB - 1)], 2, 2, 4) == (8 * MIB, 2)


def test_source_and_sink_are_bounded_and_say_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(400_000), "s": ["some text"] * 400_000}), path, row_group_size=20_000)
    source, sink = ParquetSource.open(path), ParquetSink(tmp_path / "out.parquet")
    shares = allotment(8 * MIB)
    bounded = shares.bounded_source(source)
    assert len(bounded.partitions()) > len(source.partitions())
    before = sink.buffer_bytes
    shares.bound_sink(sink)
    assert sink.buffer_bytes <= MIB < before
    needs = {need.stage: need for need in standing_needs(bounded, "Parquet a", sink, "Parquet out", 2)}
    assert set(needs) == {"reading Parquet a", "gathering for Parquet out"}
    assert needs["reading Parquet a"].tasks == 2
    assert bounded.reading_bytes < source.reading_bytes


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "lines.parquet"
    rows = 1_000_000
    table = pa.table(
        {
            "k": pa.array(range(rows)),
            "x": pa.array([float(n % 977) for n in range(rows)]),
            "g": [n % 7 for n in range(rows)],
        }
    )
    pq.write_table(table, path, row_group_size=50_000)
    return path


def kept(path: Path) -> Any:
    return (
        flare.read_parquet(path, decoder="native")
        .filter(lambda r: r.g < 4)
        .map(lambda r: {"k": r.k, "y": r.x * 2.0})
    )


@pytest.mark.parametrize("limit_bytes", [4_000_000, 16_000_000, 64_000_000])
def test_a_run_to_parquet_accounts_for_no_more_than_its_limit(
    lines: Path, tmp_path: Path, limit_bytes: int
) -> None:
    report = kept(lines).write_parquet(tmp_path / "out.parquet").run(memory_limit=limit_bytes, workers=2)
    free = kept(lines).write_parquet(tmp_path / "free.parquet").run(workers=2)
    assert report.rows_out == free.rows_out
    assert report.peak_host_bytes <= limit_bytes
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "free.parquet"))


def test_fewer_tasks_run_where_the_limit_has_no_room_for_all(lines: Path, tmp_path: Path) -> None:
    need = ParquetSource.open(lines, decoder="native").with_blocks(1).reading_bytes
    limit_bytes = 3 * need
    report = kept(lines).write_parquet(tmp_path / "out.parquet").run(memory_limit=limit_bytes, workers=8)
    assert 1 <= report.workers < 8
    assert report.peak_host_bytes <= limit_bytes


def test_what_reading_and_the_sink_hold_is_named_in_a_refusal(lines: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MemoryLimitError, match=r"(?s)reading Parquet .*gathering for Parquet .*Raise memory_limit"
    ):
        kept(lines).write_parquet(tmp_path / "out.parquet").run(memory_limit=400_000, workers=1)
    assert not (tmp_path / "out.parquet").exists()


def test_memory_that_lies_idle_counts(lines: Path, tmp_path: Path) -> None:
    pool = default_pool()
    blocks = [pool.acquire(4 * MIB) for _ in range(16)]
    del blocks
    assert pool.statistics().idle_bytes >= 64 * MIB
    kept(lines).write_parquet(tmp_path / "out.parquet").run(memory_limit=16_000_000, workers=1)
    assert pool.statistics().idle_bytes <= 16_000_000


def test_sizes_that_the_limit_made_smaller_are_said_to_be_so(lines: Path, tmp_path: Path) -> None:
    limited = kept(lines).write_parquet(tmp_path / "a.parquet").run(memory_limit=8_000_000, workers=2)
    free = kept(lines).write_parquet(tmp_path / "b.parquet").run(workers=2)
    assert limited.batch_size is not None and free.batch_size is not None
    assert limited.batch_size.bound == "memory" != free.batch_size.bound
    assert limited.batch_size.rows < free.batch_size.rows


@pytest.mark.parametrize(("memory_limit", "most_held"), [(None, 4.0), ("256MB", 1.5)])
def test_a_limited_result_holds_little_more_than_it_is_counted_for(
    lines: Path, memory_limit: str | None, most_held: float
) -> None:
    before = default_pool().statistics().in_use_bytes
    result = flare.read_parquet(lines, decoder="native").filter(lambda r: r.g < 3)
    table = result.to_arrow(workers=1, memory_limit=memory_limit)
    held = default_pool().statistics().in_use_bytes - before
    assert table.num_rows > 1_000
    assert held <= most_held * table.nbytes


@pytest.mark.parametrize("type_", [pa.string(), pa.string_view(), pa.large_string()], ids=str)
def test_a_result_from_files_holds_only_the_records_that_a_filter_left(
    tmp_path: Path, type_: pa.DataType
) -> None:
    path, rows = tmp_path / "texts.parquet", 400_000
    texts = pa.array([f"a text that no view has room for, number {n}" for n in range(rows)], type_)
    pq.write_table(pa.table({"n": range(rows), "s": texts}), path)
    idle = default_pool().statistics().in_use_bytes
    result = flare.read_parquet(path, decoder="native").filter(lambda r: r.n % 50 == 0).to_arrow(workers=1)
    assert result["s"].to_pylist() == texts.to_pylist()[::50]
    assert default_pool().statistics().in_use_bytes - idle < texts.nbytes / 8
    assert result.get_total_buffer_size() < texts.nbytes / 8


def test_one_result_for_all_tasks_needs_no_bound_on_batches() -> None:
    table = pa.table({"a": pa.array(range(500_000))})
    pipeline = flare.from_arrow(table).filter(lambda r: r.a % 2 == 0)
    assert pipeline.collect(memory_limit="100MB", workers=2).num_rows == 250_000


def test_compiled_code_counts_where_there_is_room(lines: Path, tmp_path: Path) -> None:
    pipeline = kept(lines).write_parquet(tmp_path / "out.parquet")
    assert "1 × 1.0 MiB for compiled code" in str(pipeline.explain(memory_limit="16MB"))
    assert "compiled code" not in str(pipeline.explain(memory_limit="16MB", device="python"))
    tight = ParquetSource.open(lines, decoder="native").with_blocks(1).reading_bytes + MIB
    assert "compiled code" not in str(pipeline.explain(memory_limit=tight))
    assert pipeline.run(memory_limit=tight).peak_host_bytes <= tight


def test_a_result_that_is_kept_leaves_what_reading_holds(lines: Path) -> None:
    everything = flare.read_parquet(lines, decoder="native").filter(lambda r: r.k >= 0)
    with pytest.raises(MemoryLimitError, match="The result does not fit"):
        everything.to_arrow(memory_limit="20MB", workers=1)


def test_wide_records_do_not_cost_tasks(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({"n": range(512), "b": [b"x" * 16_384] * 512}), path, row_group_size=32)
    pipeline = flare.read_parquet(path).filter(lambda r: r.n >= 0).write_parquet(tmp_path / "out.parquet")
    assert pipeline.run(memory_limit="256MB", workers=4, device="cpu").workers == 4
