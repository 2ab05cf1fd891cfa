"""Object code on disk, shared by processes: a second process loads what a first one compiled.

An entry is named by a digest of the generated code, the CPU and the versions, so it can be missing but never
stale. It carries a digest of its own content: a damaged, truncated or foreign entry is ignored and compiled anew.
Entries appear whole by rename. A directory that cannot be written is reported once; compiling goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import sys
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path

__all__ = ["CacheWarning", "cache_directory", "load", "save"]

_MAGIC = b"DATAFLARE-OBJECT-1\n"
_MAX_TOTAL_BYTES = 256 * 2**20
_TRIMMING_DIGITS = "0"
"""Entries whose key begins with one of these look at the size of all: a directory of 6,000 takes 70 ms to look at."""
_disabled: set[Path] = set()


class CacheWarning(UserWarning):
    """The compile cache cannot be used; every process will compile for itself."""


def cache_directory() -> Path:
    """Return where objects are kept: ``$DATAFLARE_CACHE_DIR``, else the user's cache directory."""
    explicit = os.environ.get("DATAFLARE_CACHE_DIR")
    if explicit:
        return Path(explicit)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dataflare"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dataflare"


@lru_cache(maxsize=1)
def _secret_free_salt() -> bytes:
    """Return what ties an entry to this user: nobody else's files are loaded as code."""
    return str(os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")).encode()


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.sha256(_MAGIC + _secret_free_salt() + key.encode() + data).digest()


def _path(key: str) -> Path:
    return cache_directory() / "cpu" / f"{key}.o"


def load(key: str) -> bytes | None:
    """Return the object stored under ``key``, or None if there is none that can be trusted."""
    path = _path(key)
    try:
        with path.open("rb") as file:
            if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid not in (os.getuid(), 0):
                return None
            content = file.read()
    except OSError:
        return None
    header = len(_MAGIC) + 32
    if not content.startswith(_MAGIC) or len(content) <= header:
        return None
    data = content[header:]
    if not hmac.compare_digest(content[len(_MAGIC) : header], _digest(key, data)):
        return None
    return data


def save(key: str, data: bytes) -> None:
    """Store an object; a directory that cannot be written is reported once and then left alone."""
    path = _path(key)
    if path.parent in _disabled:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + _digest(key, data) + data)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        if key[0] in _TRIMMING_DIGITS:
            _trim(path.parent)
    except OSError as error:
        _disabled.add(path.parent)
        warnings.warn(
            f"the compile cache in {path.parent} cannot be written ({error.strerror or error}), so each process "
            "compiles for itself; set DATAFLARE_CACHE_DIR to a directory that can",
            CacheWarning,
            stacklevel=2,
        )


def _trim(directory: Path) -> None:
    """Remove the oldest entries above the size limit; another process may be doing the same.

    Between two looks some sixteen objects come, of tens of kilobytes each: the limit is meant that roughly.
    """
    entries = []
    with os.scandir(directory) as found:
        for entry in found:
            if entry.name.endswith(".o"):
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    entries.append((status.st_mtime, status.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= _MAX_TOTAL_BYTES:
            return
        with contextlib.suppress(OSError):
            Path(path).unlink()
        total -= size
