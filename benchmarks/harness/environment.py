"""Describe the machine and the versions that a table was made with, without saying whose machine it is.

Covers: processor model, cores that this process may use, memory (cgroup limits included), kernel, library
versions. Never included: host names, user names and paths.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

__all__ = ["available_cores", "describe_environment"]

_LIBRARIES = (
    "dataflare", "numpy", "pyarrow", "numba", "llvmlite", "polars", "duckdb", "pandas", "numexpr", "arro3-io"
)  # fmt: skip


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> tuple[str, list[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(line.split("\t:", 1) if "\t:" in line else (line, "") for line in text.splitlines())
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    return fields.get("model name", platform.machine()), [f for f in ("avx2", "avx512f") if f in flags]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_environment() -> dict[str, Any]:
    """Return the description that goes into every JSON file."""
    model, simd = _processor()
    memory = psutil.virtual_memory()
    return {
        "processor": model,
        "simd": simd,
        "cores": available_cores(),
        "memory_bytes": memory.total,
        "available_memory_bytes": memory.available,
        "load_1_min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
    }
