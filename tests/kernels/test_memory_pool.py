"""`HostPool`: aligned blocks with slack, reuse, the idle limit, statistics, threads, and fork."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.errors import MemoryLimitError, OptionError
from dataflare.kernels.memory import HostPool, default_pool
from dataflare.kernels.memory import pool as pool_module
from dataflare.kernels.memory.pool import HUGE_PAGE_BYTES, SLACK_BYTES


@pytest.fixture
def pool():
    return HostPool(limit_bytes=1 << 30)


@given(nbytes=st.one_of(st.integers(0, 5000), st.integers(0, 40 << 20)))
def test_any_size_is_aligned_and_has_slack(nbytes):
    pool = HostPool(limit_bytes=0)
    block = pool.acquire(nbytes)
    assert block.nbytes == nbytes
    assert block.address % 64 == 0
    assert block.capacity_bytes >= nbytes + SLACK_BYTES
    # Waste is bounded: a quarter, or one huge page, or the smallest class.
    assert block.capacity_bytes <= max(
        1.25 * (nbytes + SLACK_BYTES), nbytes + SLACK_BYTES + HUGE_PAGE_BYTES, 256
    )
    ctypes.memset(block.address, 0xAB, nbytes + SLACK_BYTES)  # would crash where the memory ended


def test_big_blocks_start_at_a_huge_page(pool):
    assert pool.acquire(HUGE_PAGE_BYTES).address % HUGE_PAGE_BYTES == 0
    assert pool.acquire(50_000_000).address % HUGE_PAGE_BYTES == 0


@pytest.mark.parametrize("nbytes", [1, 8000, 10_000_000])
def test_a_block_returns_when_it_is_garbage_and_is_handed_out_again(pool, nbytes):
    block = pool.acquire(nbytes)
    address = block.address
    assert pool.acquire(nbytes).address != address, "a block in use is never handed out twice"
    del block
    assert pool.acquire(nbytes).address == address


def test_the_block_returned_last_is_handed_out_first(pool):
    first, second = pool.acquire(8000), pool.acquire(8000)
    address = second.address
    del first
    del second
    assert pool.acquire(8000).address == address


def test_sizes_of_one_class_share_blocks(pool):
    address = pool.acquire(79_000_000).address
    assert pool.acquire(80_000_000).address == address


def test_a_larger_idle_block_serves_before_fresh_memory_is_taken(pool):
    address = pool.acquire(30 << 20).address
    assert pool.acquire(20 << 20).address == address
    assert pool.statistics().allocations == 1
    pool.acquire(8 << 20)
    assert pool.statistics().allocations == 2, "but not one of more than twice the size"


def test_arrow_buffers_over_a_block_keep_it(pool):
    block = pool.acquire(800)
    np.asarray(block).view(np.int64)[:] = np.arange(100)
    buffer = pa.foreign_buffer(block.address, block.nbytes, base=block)
    del block
    column = pa.Array.from_buffers(pa.int64(), 100, [None, buffer])[90:]
    del buffer
    gc.collect()
    assert pool.statistics().in_use_bytes > 0
    assert column.to_pylist() == list(range(90, 100))
    del column
    assert pool.statistics().in_use_bytes == 0


def test_a_numpy_view_keeps_its_block(pool):
    view = np.asarray(pool.acquire(64))
    assert pool.statistics().in_use_bytes > 0
    view[:] = 7
    assert view.sum() == 7 * 64
    del view
    assert pool.statistics().in_use_bytes == 0


def test_statistics_count_what_was_reused(pool):
    assert pool.statistics().reuse_ratio is None
    for _ in range(10):
        pool.acquire(5_000_000)
    now = pool.statistics()
    assert (now.acquisitions, now.allocations) == (10, 1)
    assert now.reuse_ratio == pytest.approx(0.9)
    assert now.in_use_bytes == 0
    assert now.idle_bytes == now.allocated_bytes == now.peak_allocated_bytes >= 5_000_000
    assert "0 bytes in use" in repr(pool)


def test_trim_gives_idle_memory_back_and_leaves_blocks_in_use(pool):
    held, idle = pool.acquire(3 << 20), pool.acquire(9 << 20)
    idle_bytes = idle.capacity_bytes
    del idle
    assert pool.trim() == idle_bytes
    now = pool.statistics()
    assert (now.idle_bytes, now.in_use_bytes) == (0, held.capacity_bytes)
    assert now.peak_allocated_bytes == held.capacity_bytes + idle_bytes
    np.asarray(held)[:] = 1


def test_idle_memory_stays_within_the_limit():
    pool = HostPool(limit_bytes=20 << 20)
    blocks = [pool.acquire(4 << 20) for _ in range(8)]
    each = blocks[0].capacity_bytes
    blocks.clear()
    now = pool.statistics()
    assert now.idle_bytes == (20 << 20) // each * each
    assert now.in_use_bytes == 0


def test_the_least_recently_used_class_goes_first():
    pool = HostPool(limit_bytes=1 << 30)
    oldest, middle, newest = pool.acquire(40 << 20), pool.acquire(20 << 20), pool.acquire(4 << 20)
    kept = [(middle.nbytes, middle.address), (newest.nbytes, newest.address)]
    pool.limit_bytes = pool.statistics().allocated_bytes - 1
    del middle, newest
    del oldest  # one byte too many lies idle now, and this is the class that was asked for longest ago
    assert [(nbytes, pool.acquire(nbytes).address) for nbytes, _ in kept] == kept
    assert pool.statistics().allocations == 3
    assert pool.statistics().idle_bytes < 40 << 20


def test_a_limit_of_zero_keeps_nothing():
    pool = HostPool(limit_bytes=0)
    for nbytes in (1, 8000, 5_000_000):
        pool.acquire(nbytes)
        assert pool.statistics().allocated_bytes == 0


def test_a_lower_limit_gives_memory_back_at_once(pool):
    pool.acquire(50 << 20)
    pool.limit_bytes = 1 << 20
    assert pool.limit_bytes == 1 << 20
    assert pool.statistics().idle_bytes == 0


def test_bad_arguments(pool):
    with pytest.raises(OptionError, match="cannot have -1 bytes"):
        pool.acquire(-1)
    with pytest.raises(OptionError, match="0 or more, not -5"):
        HostPool(limit_bytes=-5)
    with pytest.raises(OptionError, match="0 or more, not -5"):
        pool.limit_bytes = -5


def test_memory_that_the_system_refuses_is_an_error_with_a_way_out(pool):
    held = pool.acquire(4 << 20)
    pool.acquire(8 << 20)
    with pytest.raises(MemoryLimitError, match=r"refused .* bytes of host memory.*Use smaller batches"):
        pool.acquire(1 << 60)
    now = pool.statistics()
    assert now.idle_bytes == 0, "idle memory was given back before giving up"
    assert now.in_use_bytes == held.capacity_bytes


def test_the_default_limit_is_a_quarter_of_the_smaller_of_machine_and_control_group(monkeypatch):
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(pool_module, "_control_group_limits", lambda: [1 << 30, 1 << 62])
    assert HostPool().limit_bytes == 1 << 28
    monkeypatch.setattr(pool_module, "_control_group_limits", list)
    assert HostPool().limit_bytes == machine_bytes // 4


def test_default_pool_is_one():
    assert default_pool() is default_pool()


def test_threads_never_share_a_block_and_lose_none(pool):
    sizes = [100, 8000, 3 << 20]
    failures = []

    def work(number):
        for turn in range(400):
            block = pool.acquire(sizes[turn % len(sizes)])
            view = np.asarray(block)[:64]
            view[:] = number
            threading.Event().is_set()  # a call: other threads may run here
            if not (view == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    now = pool.statistics()
    assert now.in_use_bytes == 0
    assert now.allocations <= len(threads) * len(sizes)


def test_a_block_freed_by_the_garbage_collector_inside_the_pool_does_not_deadlock(pool, monkeypatch):
    held = [pool.acquire(8000)]

    def free_and_allocate(block_bytes):
        held.clear()  # a destructor while this thread holds the pool's lock, over the limit
        return allocate(block_bytes)

    allocate = pool_module._allocate
    pool.limit_bytes = 0
    monkeypatch.setattr(pool_module, "_allocate", free_and_allocate)
    block = pool.acquire(5 << 20)
    assert block.nbytes == 5 << 20
    del block
    assert pool.statistics().allocated_bytes == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_its_own_copies_and_an_empty_pool(pool):
    held, idle = pool.acquire(8 << 20), pool.acquire(4 << 20)
    idle_address = idle.address
    del idle
    np.asarray(held)[:8] = 1
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        problems = []
        try:
            if pool.statistics().allocated_bytes:
                problems.append("the child's pool is not empty")
            if np.asarray(held)[0] != 1:
                problems.append("the inherited block lost its content")
            np.asarray(held)[:8] = 2  # must not reach the parent
            address = held.address
            del held
            if pool.statistics().idle_bytes:
                problems.append("an inherited block went into the child's pool")
            fresh = pool.acquire(8 << 20)
            np.asarray(fresh)[:8] = 3
            if fresh.address == address and pool.statistics().allocations != 1:
                problems.append("an inherited block was handed out")
            default_pool().acquire(100)
        except BaseException as error:
            problems.append(repr(error))
        os.write(write_end, "; ".join(problems).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        assert answer.read().decode() == ""
    os.waitpid(child, 0)
    assert (np.asarray(held)[:8] == 1).all()
    assert pool.acquire(4 << 20).address == idle_address, "the parent's idle block is still its own"


def test_control_group_limits_are_read_from_all_levels(tmp_path, monkeypatch):
    def fake_path(*parts):
        return tmp_path.joinpath(*[part.lstrip("/") for part in parts])

    group = fake_path("/sys/fs/cgroup/outer/inner")
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1000000\n")
    old = fake_path("/sys/fs/cgroup/memory/old")
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("2000000\n")
    fake_path("/proc/self").mkdir(parents=True)
    fake_path("/proc/self/cgroup").write_text("3:cpu:/x\n2:memory:/old\n0::/outer/inner\n")
    monkeypatch.setattr(pool_module, "Path", fake_path)
    assert sorted(pool_module._control_group_limits()) == [1_000_000, 2_000_000]
    fake_path("/proc/self/cgroup").unlink()
    assert pool_module._control_group_limits() == []


def test_blocks_alive_at_the_end_of_the_process_make_no_noise():
    script = (
        "from dataflare.kernels.memory import default_pool, HostPool\n"
        "blocks = [default_pool().acquire(n) for n in (1, 8000, 5_000_000)]\n"
        "mine = HostPool(limit_bytes=0).acquire(100)\n"
        "cycle = [blocks]; cycle.append(cycle)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")
