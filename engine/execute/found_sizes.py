"""Batch sizes that runs found, kept on disk for other processes.

Each kind of work has a small file beside the compile cache, named by a digest of its key, that appears whole by
rename. What cannot be read is taken for missing, what cannot be written is left: then each process searches for itself.
The sizes of this process are in ``dataflare.control.remembered``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from dataflare.control.costs import SizeCost
from dataflare.control.strategies import FoundSize
from dataflare.kernels.cpu.cache import cache_directory

__all__ = ["load_size", "save_size"]

_VERSION = 1
_MOST_BYTES = 64 << 10
_MOST_FILES = 2048
_TRIMMING_DIGITS = "0"
"""Files whose name begins with one of these look at how many there are: listing them takes longer than writing one."""


def load_size(key: str) -> FoundSize | None:
    """Return the size that some process found for this work, or None if there is none that can be read."""
    try:
        with _path(key).open("rb") as file:
            content: Any = json.loads(file.read(_MOST_BYTES))
        if content["version"] != _VERSION or content["key"] != key:
            return None
        found = content["found"]
        measured = tuple(SizeCost(int(a), int(r), float(s), int(n)) for a, r, s, n in found.pop("measured"))
        size = FoundSize(int(found.pop("rows")), **found, measured=measured)
        known = [size.rows, *(value for cost in measured for value in cost)]
        is_sound = all(0 < value < math.inf for value in known)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None
    return size if is_sound else None


def save_size(key: str, found: FoundSize) -> None:
    """Keep a size; where nothing can be written, nothing is kept."""
    content = json.dumps({"version": _VERSION, "key": key, "found": found._asdict()})
    if len(content) > _MOST_BYTES:
        return
    with contextlib.suppress(OSError, RuntimeError):  # a user without a home has no cache
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        if path.name[0] in _TRIMMING_DIGITS:
            _trim(path.parent)


def _path(key: str) -> Path:
    return cache_directory() / "sizes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _trim(folder: Path) -> None:
    """Remove the oldest files above the limit; another process may be doing the same."""
    ages = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                ages.append((entry.stat().st_mtime, entry.path))
    for _, path in sorted(ages)[: max(0, len(ages) - _MOST_FILES)]:
        with contextlib.suppress(OSError):
            Path(path).unlink()
