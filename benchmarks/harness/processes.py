"""Run a piece of a benchmark in a process of its own and watch it from outside.

Covers: peak resident memory as the kernel counts it, processor seconds, wall seconds, the JSON that the
child prints as its last line. The child is a module run with ``-m``; it never reports its own memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

__all__ = ["ChildRun", "run_child"]

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ChildRun:
    """What was seen of a finished child. ``peak_anonymous_bytes`` leaves out mapped files."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    peak_anonymous_bytes: int
    output: dict[str, Any]


def _status_bytes(pid: int, *fields: str) -> dict[str, int]:
    """Read ``Vm…``/``Rss…`` lines of /proc/<pid>/status; empty where there is no such file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        if name in fields and rest:
            found[name] = int(rest.split()[0]) * 1024
    return found


def run_child(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    poll_s: float = 0.005,
    timeout_s: float = 1800.0,
) -> ChildRun:
    """Run ``python <arguments>`` from the root of the repository and return what was seen of it.

    Raises ``RuntimeError`` with the child's error output when it fails.
    """
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=_ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak_rss = peak_anonymous = 0
    cpu_s = 0.0
    watched = psutil.Process(child.pid)
    try:
        while child.poll() is None:
            seen = _status_bytes(child.pid, "VmHWM", "RssAnon")
            try:
                if not seen:
                    seen = {"VmHWM": watched.memory_info().rss}
                times = watched.cpu_times()
                cpu_s = max(cpu_s, times.user + times.system)
            except psutil.Error:
                pass
            peak_rss = max(
                peak_rss, seen.get("VmHWM", 0)
            )  # the kernel's own high-water mark: polling cannot miss it
            peak_anonymous = max(peak_anonymous, seen.get("RssAnon", 0))
            if time.perf_counter() - start > timeout_s:
                raise RuntimeError(f"{' '.join(arguments)} ran longer than {timeout_s:.0f} s")
            time.sleep(poll_s)
    finally:
        if child.poll() is None:
            child.kill()
        stdout, stderr = child.communicate()
    wall_s = time.perf_counter() - start
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} failed with {child.returncode}:\n{stderr.strip()}")
    lines = [line for line in stdout.splitlines() if line.strip()]
    return ChildRun(
        wall_s=wall_s,
        cpu_s=cpu_s,
        peak_rss_bytes=peak_rss,
        peak_anonymous_bytes=peak_anonymous,
        output=json.loads(lines[-1]) if lines else {},
    )
