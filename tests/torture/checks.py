"""What a run may not leave behind: threads, memory, reservations, credits, open files."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

from torture.world import World

from dataflare.actors.cluster import ClusterActor
from dataflare.actors.local_runtime import LocalRuntime
from dataflare.kernels.memory.pool import default_pool
from dataflare.sources.unpausable import THREAD_NAME

PATIENCE_S = 10.0


class Before:
    """What there was before a scenario; `left_behind` tells what is new since."""

    def __init__(self) -> None:
        settle()
        self._threads = set(threading.enumerate())
        self._pool_bytes = default_pool().statistics().in_use_bytes
        self._files = open_files()

    def left_behind(self, world: World) -> list[str]:
        """Say what is left; call it when nothing holds a result any more."""
        problems = []
        if not settle():
            problems.append("threads of the runtime are still busy")
        while world.prepared:  # through their sinks they keep every result
            run = world.prepared.pop()
            held = {
                owner: size
                for owner, size in run.memory.budget.snapshot().by_owner.items()
                if owner != "result"
            }
            if held:
                problems.append(f"bytes are still reserved: {held}")
            if run.controller.in_flight:
                problems.append(f"{run.controller.in_flight} credits did not come back")
            del run
        gc.collect()
        pool = LocalRuntime.shared().threads
        new = set(threading.enumerate()) - self._threads
        strangers = sorted(thread.name for thread in new if type(thread).__module__ != type(pool).__module__)
        if strangers:
            problems.append(f"threads are left: {strangers}")
        pool_bytes = default_pool().statistics().in_use_bytes
        if pool_bytes > self._pool_bytes:
            problems.append(f"{pool_bytes - self._pool_bytes} bytes of the pool are still in use")
        files = open_files() - self._files
        if files:
            problems.append(f"files are still open: {sorted(files)}")
        if world.sources_open:
            problems.append(f"{world.sources_open} sources were not closed")
        return problems


def settle() -> bool:
    """Wait until no thread has anything of a run in its hands; False where one does not let go."""
    gc.collect()  # an iterator that was dropped stops its run
    runtime = LocalRuntime.shared()
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:  # it was left alone with a source that was stuck
            thread.join(PATIENCE_S)
    idle = runtime.threads.wait_until_busy_at_most(1, PATIENCE_S)  # the cluster's own thread
    runtime.cluster.ask(ClusterActor.nodes)  # which may have been lent to an actor that has none
    gc.collect()
    return idle


def open_files() -> set[str]:
    """Return the files and sockets that this process has open, but for devices and what procfs is read by."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:  # the folder's own descriptor
            continue
        if not target.startswith(("/proc/", "/dev/", "pipe:")):
            found.add(f"{link.name} {target}")
    return found
