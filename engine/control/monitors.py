"""HostMemoryMonitor: how full the host's memory is for this process, container limits included.

Reads cgroup v2, cgroup v1 and psutil; the tightest wins. Does not act on what it reads: a
``BackpressureController`` does. GPU memory has its own monitor, in ``gpu_memory``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dataflare.control.clock import Clock

__all__ = ["HostMemoryMonitor", "MemoryMonitor", "MemoryReading"]

_UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes 2**63 rounded down to a page for "no limit"


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """What a monitor knows. Unknown figures are None, never 0."""

    used_bytes: int | None
    limit_bytes: int | None
    source: str | None
    """Which reading was the tightest: "cgroup v2", "cgroup v1" or "psutil"; of a GPU "NVML" or what stood in."""
    at_s: float | None
    """When it was read, on the monitor's clock."""
    stale: bool = False
    """The latest attempt failed and this is the value before it."""
    error: str | None = None
    """Why the latest attempt failed."""
    lost: bool = False
    """The device is gone: nothing more may be admitted for it."""

    @property
    def status(self) -> Literal["ok", "stale", "unknown", "lost"]:
        """What the figures are worth: read, kept from before a failure, none yet, or of a device that is gone."""
        if self.lost:
            return "lost"
        if self.used_bytes is None:
            return "unknown"
        return "stale" if self.stale else "ok"

    @property
    def pressure(self) -> float | None:
        """Used share of the limit, from 0 to 1."""
        if self.used_bytes is None or not self.limit_bytes:
            return None
        return min(1.0, max(0.0, self.used_bytes / self.limit_bytes))

    @property
    def available_bytes(self) -> int | None:
        """Bytes below the limit."""
        if self.used_bytes is None or self.limit_bytes is None:
            return None
        return max(0, self.limit_bytes - self.used_bytes)


class MemoryMonitor(Protocol):
    """Anything that can say how full one device's memory is."""

    @property
    def device(self) -> str:
        """Name under which pressure is reported: "host", "cuda:0"."""

    def read(self) -> MemoryReading:
        """Read now; a failure gives the last value, marked stale. Never raises."""


class HostMemoryMonitor:
    """Memory use against the tightest of the cgroup v2, cgroup v1 and machine limits.

    Page cache that the kernel can drop (inactive files) does not count as used. When every source fails, the
    last value stays and says so (``stale``, ``error``); before the first success all figures are None.

    Parameters
    ----------
    clock
        Monotonic clock in seconds.
    proc, cgroup
        Where procfs and the cgroup file system are mounted.
    machine
        Returns (used, total) bytes of the machine; psutil by default.
    """

    device = "host"

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
        machine: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._clock = clock
        self._proc = proc
        self._cgroup = cgroup
        self._machine = machine if machine is not None else _psutil_memory
        self._last = MemoryReading(None, None, None, None)

    @property
    def last(self) -> MemoryReading:
        """The latest reading, without reading again."""
        return self._last

    def read(self) -> MemoryReading:
        """Read all sources and return the tightest: the one with the fewest bytes left."""
        found: list[tuple[int, int, int, str]] = []
        failures: list[str] = []
        for name, source in (
            ("cgroup v2", self._read_v2),
            ("cgroup v1", self._read_v1),
            ("psutil", self._read_machine),
        ):
            try:
                found += [(limit - used, used, limit, name) for used, limit in source()]
            except Exception as error:  # a monitor must never take the run down
                failures.append(f"{name}: {error}")
        last = self._last
        if found:
            _, used, limit, name = min(found)
            self._last = MemoryReading(used, limit, name, self._clock())
        else:
            reason = "; ".join(failures) if failures else "no memory limit could be read"
            self._last = MemoryReading(
                last.used_bytes, last.limit_bytes, last.source, last.at_s, stale=True, error=reason
            )
        return self._last

    def _memberships(self) -> list[tuple[str, str]]:
        """Return (controllers, path) of each line of /proc/self/cgroup; empty where there are no cgroups."""
        try:
            lines = (self._proc / "self" / "cgroup").read_text().splitlines()
        except FileNotFoundError:
            return []
        parts = [line.split(":", 2) for line in lines]
        return [(part[1], part[2]) for part in parts if len(part) == 3]

    def _read_v2(self) -> list[tuple[int, int]]:
        paths = [path for controllers, path in self._memberships() if controllers == ""]
        mounts = (self._cgroup, self._cgroup / "unified")
        return [
            reading
            for path in paths
            for mount in mounts
            for folder in _upwards(mount, path)
            if (reading := _read_group(folder, "memory.current", "memory.max", "inactive_file")) is not None
        ]

    def _read_v1(self) -> list[tuple[int, int]]:
        paths = [path for controllers, path in self._memberships() if "memory" in controllers.split(",")]
        names = ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
        return [
            reading
            for path in paths
            for folder in _upwards(self._cgroup / "memory", path)
            if (reading := _read_group(folder, *names)) is not None
        ]

    def _read_machine(self) -> list[tuple[int, int]]:
        return [self._machine()]


def _upwards(mount: Path, path: str) -> list[Path]:
    """Return the group's folder and those above it, up to the mount: a limit on any of them binds."""
    folder = mount / path.lstrip("/")
    folders = [mount]
    if ".." not in folder.parts:  # a path outside this cgroup namespace: only its root can be seen
        while folder not in (mount, folder.parent):
            folders.append(folder)
            folder = folder.parent
    return folders


def _read_group(folder: Path, current: str, maximum: str, inactive: str) -> tuple[int, int] | None:
    """Return (used, limit) of one group, or None when it is not there or not limited."""
    try:
        limit_text = (folder / maximum).read_text().strip()
        if limit_text == "max" or int(limit_text) >= _UNLIMITED_BYTES:
            return None
        used = int((folder / current).read_text())
    except FileNotFoundError:
        return None
    droppable = 0
    try:
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(inactive + " "):
                droppable = int(line.split()[1])
    except FileNotFoundError:
        pass
    return max(0, used - droppable), int(limit_text)


def _psutil_memory() -> tuple[int, int]:
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total - memory.available), int(memory.total)
