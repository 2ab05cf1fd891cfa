"""SpillQueue: order, the bounds of memory and of disk, and that nothing is left, whoever dies."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dataflare as flare
from dataflare.kernels.errors import MemoryLimitError
from dataflare.sources import spill
from dataflare.sources.spill import SpillQueue, SpillSpace

SCHEMA = pa.schema({"n": pa.int64()})
KIB = 2**10


def batch(start: int, rows: int) -> flare.SharedDataBatch:
    return flare.SharedDataBatch.from_arrow(pa.record_batch({"n": pa.array(range(start, start + rows))}))


def queue(memory_bytes: int, limit_bytes: int = 2**30, folder: Path | None = None) -> SpillQueue:
    space = SpillSpace(None if folder is None else str(folder), limit_bytes)
    return SpillQueue(SCHEMA, memory_bytes, space, "batches from a socket")


def numbers(taken: flare.SharedDataBatch | None) -> list[int]:
    return [] if taken is None else [row["n"] for row in taken.to_pylist()]


@given(
    steps=st.lists(st.one_of(st.integers(1, 700), st.none()), max_size=40), segment_bytes=st.integers(1, 9000)
)
def test_whatever_comes_and_goes_is_taken_once_and_in_order(
    steps: list[int | None], segment_bytes: int
) -> None:
    bound_bytes = 12 * KIB
    waits = queue(bound_bytes)
    put = 0
    got: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_SEGMENT_BYTES", segment_bytes)
        for rows in steps:
            if rows is not None:
                assert waits.put(batch(put, rows))
                put += rows
            elif len(got) < put:
                got += numbers(waits.take())
            assert waits.memory_bytes <= bound_bytes
        waits.end()
        while (taken := waits.take()) is not None:
            got += numbers(taken)
    assert got == list(range(put))
    assert (waits.memory_bytes, waits.disk_bytes) == (0, 0)
    waits.close()


def test_memory_is_used_before_the_disk_and_after_it(tmp_path: Path, open_files: Callable[[], int]) -> None:
    waits = queue(16 * KIB, folder=tmp_path)
    for start in range(0, 8 * 256, 256):  # of 2 KiB each; six have room beside one that is read back
        waits.put(batch(start, 256))
    assert waits.memory_bytes == 12 * KIB
    assert 4 * KIB < waits.disk_bytes < 6 * KIB
    assert open_files() == 1
    assert list(tmp_path.iterdir()) == []  # without a name
    for start in range(0, 8 * 256, 256):
        assert numbers(waits.take()) == [*range(start, start + 256)]
    assert (waits.disk_bytes, open_files()) == (0, 0)
    waits.put(batch(9000, 256))
    assert (waits.disk_bytes, numbers(waits.take())[0]) == (0, 9000)


def test_a_batch_larger_than_memory_is_read_back_in_pieces() -> None:
    waits = queue(16 * KIB)
    waits.put(batch(0, 20_000))
    waits.end()
    got = []
    while (taken := waits.take()) is not None:
        assert taken.nbytes <= 4 * KIB
        assert waits.memory_bytes <= 16 * KIB
        got += numbers(taken)
    assert got == list(range(20_000))


def test_watermark_metadata_nulls_and_dictionaries_survive() -> None:
    table = pa.table(
        {
            "text": pa.array(["a", None, "b"]).dictionary_encode(),
            "list": pa.array([[1], [], None], pa.list_(pa.int8())),
        }
    )
    other = table.set_column(0, "text", pa.array(["z", "y", None]).dictionary_encode())
    waits = SpillQueue(table.schema, 0, SpillSpace(None, 2**20), "x")
    for watermark, each in enumerate((table, other)):
        waits.put(
            flare.SharedDataBatch.from_arrow(each).with_watermark(watermark).with_metadata("at", {watermark})
        )
    for watermark, each in enumerate((table, other)):
        for row in each.to_pylist():
            taken = waits.take()
            assert taken is not None
            assert (taken.to_pylist(), taken.watermark, taken.metadata) == (
                [row],
                watermark,
                {"at": {watermark}},
            )


def test_rows_without_columns_survive() -> None:
    waits = SpillQueue(pa.schema([]), 4 * KIB, SpillSpace(None, 2**20), "x")
    for rows in (5, 7, 9):
        waits.put(flare.SharedDataBatch._from_columns(pa.schema([]), (), rows))
    waits.end()
    rows = 0
    while (taken := waits.take()) is not None:
        rows += taken.num_rows
    assert rows == 21


def test_an_error_of_the_source_comes_behind_its_batches() -> None:
    waits = queue(0)
    waits.put(batch(0, 1))
    waits.end(OSError("connection lost"))
    assert numbers(waits.take()) == [0]
    with pytest.raises(OSError, match="connection lost"):
        waits.take()


def test_a_full_disk_bound_says_what_waits_and_ends_at_once(
    tmp_path: Path, open_files: Callable[[], int]
) -> None:
    waits = queue(4 * KIB, limit_bytes=10_000, folder=tmp_path)
    waits.put(batch(0, 1000))
    message = rf"batches from a socket: .* KiB wait in {tmp_path}, .* exceed the spill_limit of 9.8 KiB"
    with pytest.raises(MemoryLimitError, match=message) as caught:
        waits.put(batch(1000, 1000))
    assert waits.disk_bytes <= 10_000
    waits.end(caught.value)
    with pytest.raises(MemoryLimitError):
        waits.take()
    waits.close()
    assert open_files() == 0


def test_a_disk_that_fails_names_the_folder(
    tmp_path: Path, open_files: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MemoryLimitError, match=r"spilling them to .*/missing failed: .*spill_dir"):
        queue(0, folder=tmp_path / "missing").put(batch(0, 1))

    def full(self: Any, *_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spill._Segment, "write", full)
    waits = queue(0, folder=tmp_path)
    with pytest.raises(MemoryLimitError, match="No space left on device"):
        waits.put(batch(0, 1))
    waits.close()
    assert open_files() == 0


def test_after_close_nothing_is_taken_and_nothing_left(tmp_path: Path, open_files: Callable[[], int]) -> None:
    waits = queue(0, folder=tmp_path)
    for start in range(4):
        waits.put(batch(start, 1))
    waits.take()
    waits.put(batch(4, 1))
    assert open_files() == 2
    waits.close()
    assert not waits.put(batch(5, 1))
    assert (open_files(), waits.memory_bytes, waits.disk_bytes) == (0, 0, 0)


def test_two_threads_at_once(
    tmp_path: Path, open_files: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "_SEGMENT_BYTES", 3000)
    waits = queue(12 * KIB, folder=tmp_path)

    def put() -> None:
        for start in range(0, 30_000, 30):
            waits.put(batch(start, 30))
        waits.end()

    thread = threading.Thread(target=put)
    thread.start()
    got = []
    while (taken := waits.take()) is not None:
        got += numbers(taken)
    thread.join()
    assert got == list(range(30_000))
    assert open_files() == 0


CRASH = """
import os, signal, sys
import pyarrow as pa
import dataflare as flare
from dataflare.sources.spill import SpillQueue, SpillSpace
table = pa.table({"n": range(100_000)})
queue = SpillQueue(table.schema, 0, SpillSpace(sys.argv[1], 10**9), "x")
queue.put(flare.SharedDataBatch.from_arrow(table))
assert queue.disk_bytes > 800_000
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert list(tmp_path.iterdir()) == []
