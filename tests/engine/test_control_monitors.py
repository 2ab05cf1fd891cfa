"""HostMemoryMonitor on made-up procfs and cgroup trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflare.control import HostMemoryMonitor

GIB = 1 << 30


class Host:
    """A machine whose files the test writes."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()
        self.machine: tuple[int, int] | None = (4 * GIB, 16 * GIB)

    def member_of(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")

    def group(self, path: str, **files: object) -> None:
        folder = self.cgroup / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name.replace("memory_", "memory.")).write_text(f"{value}\n")

    def read_machine(self) -> tuple[int, int]:
        if self.machine is None:
            raise OSError("no such counter")
        return self.machine

    def monitor(self) -> HostMemoryMonitor:
        return HostMemoryMonitor(lambda: 7.0, proc=self.proc, cgroup=self.cgroup, machine=self.read_machine)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_without_cgroups_the_machine_counts(host: Host) -> None:
    reading = host.monitor().read()
    assert (reading.source, reading.pressure, reading.available_bytes) == ("psutil", 0.25, 12 * GIB)
    assert reading.at_s == 7.0


def test_a_cgroup_v2_limit_below_the_machine_wins_and_droppable_cache_is_not_used(host: Host) -> None:
    host.member_of("0::/job")
    host.group("job", memory_max=2 * GIB, memory_current=GIB, memory_stat=f"anon 5\ninactive_file {GIB // 2}")
    reading = host.monitor().read()
    assert (reading.source, reading.limit_bytes, reading.used_bytes) == ("cgroup v2", 2 * GIB, GIB // 2)


def test_a_limit_on_a_group_above_binds_too(host: Host) -> None:
    host.member_of("0::/slice/job")
    host.group("slice", memory_max=GIB, memory_current=GIB // 4)
    host.group("slice/job", memory_max="max", memory_current=GIB // 4)
    assert host.monitor().read().limit_bytes == GIB


def test_in_a_cgroup_namespace_the_root_of_the_mount_is_read(host: Host) -> None:
    host.member_of("0::/")
    host.group("", memory_max=GIB, memory_current=GIB // 2)
    assert host.monitor().read().pressure == 0.5


def test_cgroup_v1_counts_and_no_limit_is_no_limit(host: Host) -> None:
    host.member_of("4:memory:/job", "3:cpu,cpuacct:/job")
    host.group("memory/job", memory_limit_in_bytes=GIB, memory_usage_in_bytes=GIB // 8)
    assert host.monitor().read().source == "cgroup v1"
    host.group("memory/job", memory_limit_in_bytes=9223372036854771712)
    assert host.monitor().read().source == "psutil"


def test_the_fewest_bytes_left_win_over_the_smallest_limit(host: Host) -> None:
    host.machine = (16 * GIB - 10, 16 * GIB)  # the machine is full, the group is not
    host.member_of("0::/job")
    host.group("job", memory_max=GIB, memory_current=0)
    assert host.monitor().read().source == "psutil"


def test_a_failure_keeps_the_last_value_and_says_why(host: Host) -> None:
    monitor = host.monitor()
    assert monitor.read().stale is False
    host.machine = None
    reading = monitor.read()
    assert reading.stale
    assert reading.pressure == 0.25
    assert reading.error is not None
    assert "no such counter" in reading.error
    host.machine = (8 * GIB, 16 * GIB)
    assert monitor.read().pressure == 0.5
    assert monitor.last.error is None


def test_before_the_first_success_everything_is_unknown(host: Host) -> None:
    host.machine = None
    reading = host.monitor().read()
    assert reading.pressure is None
    assert reading.used_bytes is None
    assert reading.available_bytes is None


def test_an_unreadable_group_does_not_hide_the_others(host: Host) -> None:
    host.member_of("0::/job")
    host.group("job", memory_max="a lot", memory_current=1)
    assert host.monitor().read().source == "psutil"


def test_this_machine_can_be_read() -> None:
    reading = HostMemoryMonitor().read()
    assert reading.error is None
    assert reading.pressure is not None
    assert 0.0 < reading.pressure <= 1.0
