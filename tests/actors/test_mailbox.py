"""Mailbox and ThreadPool: lanes, waking, reuse, no thread left."""

from __future__ import annotations

import os
import queue
import threading

import pytest

from dataflare.actors.mailbox import Mailbox
from dataflare.actors.threads import ThreadPool

PATIENCE_S = 30.0


def test_control_overtakes_data_and_each_lane_keeps_its_order() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put("d1", data=True)
    mailbox.put("c1", data=False)
    mailbox.put("d2", data=True)
    mailbox.put("c2", data=False)
    assert mailbox.control_pending()
    assert [mailbox.get() for _ in range(4)] == ["c1", "c2", "d1", "d2"]
    assert not mailbox.control_pending()
    assert mailbox.empty()


def test_a_reader_wakes_when_nothing_comes_in_time() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.wake_after(0.0)
    assert mailbox.get() is None
    mailbox.put("late", data=False)
    assert mailbox.get() == "late"


def test_a_message_before_the_wake_does_not_lose_the_wake() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.wake_after(0.0)
    mailbox.put("first", data=False)
    assert mailbox.get() == "first"
    assert mailbox.get() is None


@pytest.mark.parametrize("seconds", [1e9, 1e300, float("inf")])
def test_a_wake_in_centuries_does_not_keep_messages_out(seconds: float) -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.wake_after(seconds)
    mailbox.put("first", data=False)
    assert mailbox.get() == "first"


def test_an_item_whose_put_was_interrupted_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox: Mailbox[str] = Mailbox()

    class Interrupted(queue.SimpleQueue[None]):
        def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(mailbox, "_tokens", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            mailbox.put("deploy", data=False)
    mailbox.put("stop", data=False)
    assert [mailbox.get(), mailbox.get()] == ["deploy", "stop"]
    assert mailbox.empty()


def test_a_token_that_is_left_over_wakes_nobody_for_long() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox._tokens.put(None)
    mailbox.wake_after(0.0)
    assert mailbox.get() is None
    assert mailbox.empty()


def test_threads_run_at_once_are_used_again_and_end() -> None:
    pool = ThreadPool(keep=4)
    both = threading.Barrier(2, timeout=PATIENCE_S)
    names: list[str] = []

    def work() -> None:
        names.append(threading.current_thread().name)
        both.wait()

    pool.run(work, "one")
    pool.run(work, "two")
    assert pool.wait_idle(PATIENCE_S)
    assert sorted(names) == ["one", "two"]
    assert pool.parked == 2
    parked = set(pool._parked)
    done = threading.Event()
    pool.run(done.set, "three")
    assert done.wait(PATIENCE_S)
    assert pool.wait_idle(PATIENCE_S)
    assert set(pool._parked) == parked
    pool.close()
    assert not any(worker.is_alive() for worker in parked)


def test_a_pool_keeps_no_more_threads_than_it_may_and_not_for_ever() -> None:
    pool = ThreadPool(keep=1, idle_s=0.01)
    both = threading.Barrier(2, timeout=PATIENCE_S)
    workers: list[threading.Thread] = []

    def work() -> None:
        workers.append(threading.current_thread())
        both.wait()

    pool.run(work, "one")
    pool.run(work, "two")
    for worker in list(workers):
        worker.join(PATIENCE_S)
    assert pool.wait_idle(PATIENCE_S)
    for worker in workers:
        worker.join(PATIENCE_S)
        assert not worker.is_alive()
    assert pool.parked == 0


def test_work_that_fails_leaves_the_pool_usable() -> None:
    pool = ThreadPool()
    hook, threading.excepthook = threading.excepthook, lambda args: None
    try:

        def fail() -> None:
            raise ValueError

        pool.run(fail, "fails")
        assert pool.wait_idle(PATIENCE_S)
        done = threading.Event()
        pool.run(done.set, "next")
        assert done.wait(PATIENCE_S)
    finally:
        threading.excepthook = hook
        pool.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux places threads")
def test_threads_of_different_cores_wake_apart_and_are_free_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everywhere = os.sched_getaffinity(0)
    placed: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: placed.append(set(cores)))
    pool = ThreadPool()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    for core in (0, 1, 5, None):
        pool.run(lambda: done.put(threading.current_thread().name), f"on {core}", core)
        assert done.get(timeout=PATIENCE_S) == f"on {core}"
        assert pool.wait_idle(PATIENCE_S)
    pool.close()
    assert placed == [{0}, {0, 1, 2}, {1}, {0, 1, 2}, {2}, {0, 1, 2}]
    monkeypatch.undo()
    assert os.sched_getaffinity(0) == everywhere


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux places threads")
def test_a_system_that_forbids_placing_runs_the_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(thread: int, cores: set[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    pool = ThreadPool()
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    pool.run(lambda: done.put(7), "any", 1)
    assert done.get(timeout=PATIENCE_S) == 7
    assert pool.wait_idle(PATIENCE_S)
    pool.close()
