"""NVIDIA's Python package for NVML on top of the library of ``nvml.c``, whose state a test sets."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

__all__ = ["install_nvml"]


def install_nvml(library: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """Let the package load a library that was made of ``nvml.c``; skip the test where there is no package."""
    pynvml = pytest.importorskip("pynvml", reason="the package nvidia-ml-py is not installed")
    loaded = ctypes.CDLL(str(library))
    loaded.fake_memory.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]
    monkeypatch.setattr(pynvml, "CDLL", lambda name: loaded)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlLib_refcount", 0)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return loaded
