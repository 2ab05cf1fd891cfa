"""What detection looks at outside DataFlare: variables, files, shared libraries and packages, behind one object.

Tests hand in their own. Does not judge what it finds: `detection` does.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

__all__ = ["CupyRuntime", "Surroundings"]


class CupyRuntime(NamedTuple):
    """What CuPy says of itself once it is imported."""

    runtime_version: int
    """CUDA version that it was built for, as CUDA writes it: 13010 is 13.1."""
    device_count: int


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _cupy_runtime() -> CupyRuntime:
    from cupy.cuda import runtime

    return CupyRuntime(int(runtime.runtimeGetVersion()), int(runtime.getDeviceCount()))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The machine and the process as detection sees them; the defaults are the real ones.

    Parameters
    ----------
    environ
        Environment variables.
    root
        Folder under which ``proc``, ``sys``, ``etc`` and ``run`` lie.
    load_library
        Loads a shared library by name; OSError where there is none.
    package_version
        Version of an installed distribution, or None.
    has_module
        Whether a module could be imported; imports nothing.
    cupy_runtime
        Imports CuPy and asks it; may raise anything.
    """

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    load_library: Callable[[str], ctypes.CDLL] = ctypes.CDLL
    package_version: Callable[[str], str | None] = _package_version
    has_module: Callable[[str], bool] = _has_module
    cupy_runtime: Callable[[], CupyRuntime] = _cupy_runtime

    def text(self, path: str) -> str | None:
        """Return a file below `root` as text, or None where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return None

    @property
    def is_wsl(self) -> bool:
        """Linux within Windows: the driver is that of Windows."""
        return "microsoft" in (self.text("proc/sys/kernel/osrelease") or "").lower()

    @property
    def is_jetson(self) -> bool:
        """A Jetson board: its driver belongs to the system image."""
        return (self.root / "etc/nv_tegra_release").exists() or "jetson" in (
            self.text("proc/device-tree/model") or ""
        ).lower()

    @property
    def is_container(self) -> bool:
        """Whether this process runs in a container: a file, a variable or the names of its control groups say so."""
        if any((self.root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
            return True
        if "KUBERNETES_SERVICE_HOST" in self.environ or self.environ.get("container"):
            return True
        groups = self.text("proc/1/cgroup") or ""  # of cgroup v1; a namespace of cgroup v2 shows "0::/" only
        return any(name in groups for name in ("docker", "kubepods", "containerd", "libpod", "lxc"))

    @property
    def kernel_driver(self) -> str | None:
        """First line about the driver that is loaded in the kernel, which a container shares with its host."""
        text = self.text("proc/driver/nvidia/version")
        return text.splitlines()[0].removeprefix("NVRM version:").strip() if text else None

    @property
    def has_nvidia_hardware(self) -> bool:
        """Whether a display or compute device of NVIDIA is on the PCI bus."""
        for device in (self.root / "sys/bus/pci/devices").glob("*"):
            vendor = self.text(f"sys/bus/pci/devices/{device.name}/vendor")
            kind = self.text(f"sys/bus/pci/devices/{device.name}/class") or ""
            if vendor == "0x10de" and kind.startswith("0x03"):
                return True
        return False
