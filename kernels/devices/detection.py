"""`detect_cuda`: goes from the driver to CuPy, never raises, and says why no GPU can be used and what to do.

What a GPU needs here is little: NVIDIA's driver, and CuPy for memory and launches. The PTX of the kernels is made by
llvmlite, so no CUDA toolkit is looked for. Nothing of this makes a context or imports CuPy before all else is found.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dataflare.kernels.devices.driver import CudaDevice, CudaDriver, DriverCallError, Version
from dataflare.kernels.devices.surroundings import Surroundings
from dataflare.kernels.errors import DeviceUnavailableError

__all__ = [
    "MINIMUM_COMPUTE_CAPABILITY",
    "CudaDetection",
    "DetectionStep",
    "cuda_detection",
    "detect_cuda",
    "require_gpu",
]

MINIMUM_COMPUTE_CAPABILITY: Version = (7, 5)
"""The oldest GPUs that the kernels are compiled for: Turing."""

StepState = Literal["ok", "note", "missing", "failed", "skipped"]

_CUPY_PACKAGES: Mapping[str, int | None] = {"cupy-cuda12x": 12, "cupy-cuda13x": 13, "cupy": None}
"""Distributions that bring CuPy, and the CUDA version each is built for; None where its name does not say."""
_INSTALL_CUPY = "Install it: pip install 'dataflare[cuda13]', or 'dataflare[cuda12]' for a driver of CUDA 12."
_START_WITH_GPUS = "Start the container with GPUs (docker run --gpus all, with the NVIDIA Container Toolkit)"
_INSTALL_DRIVER = "Install NVIDIA's driver and see that nvidia-smi lists the GPU; no CUDA toolkit is needed."

_INIT_FAILURES: Mapping[int, tuple[str, str]] = {
    # CUresult of cuInit: what happened, the way out.
    3: (
        "this process was forked from one that had already used CUDA",
        "Start processes with multiprocessing's 'spawn' or 'forkserver', not by forking.",
    ),
    34: (
        "libcuda.so.1 is the stub of a CUDA toolkit, not a driver",
        "Take the toolkit's folder 'stubs' out of LD_LIBRARY_PATH, and install NVIDIA's driver.",
    ),
    36: ("the driver is too old", "Update NVIDIA's driver."),
    46: (
        "the GPU is busy or reserved for another process",
        "Wait for the process that nvidia-smi shows, or choose another GPU with CUDA_VISIBLE_DEVICES.",
    ),
    802: (
        "the system is not ready yet",
        "On machines with NVSwitch start the service nvidia-fabricmanager, of the driver's version.",
    ),
    803: (
        "libcuda.so.1 and the driver in the kernel are of different versions",
        "Restart the machine after an update of the driver; in a container remove libcuda from the image.",
    ),
    804: (
        "this GPU does not support the CUDA compatibility package that is installed",
        "Remove the package cuda-compat from the image, or its folder from LD_LIBRARY_PATH.",
    ),
    805: (
        "the MPS server cannot be reached",
        "Start nvidia-cuda-mps-control, or unset CUDA_MPS_PIPE_DIRECTORY.",
    ),
    999: (
        "the driver reports an unknown error",
        "See dmesg for 'NVRM'; loading the module nvidia_uvm anew or restarting the machine often helps.",
    ),
}


@dataclass(frozen=True, slots=True)
class DetectionStep:
    """One thing that was looked at."""

    name: str
    state: StepState
    detail: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class CudaDetection:
    """What was found of CUDA. Values that are not known are None."""

    usable: bool
    reason: str
    """Why no GPU can be used, or which can be."""
    way_out: str
    """What to do about it; empty where a GPU can be used."""
    devices: tuple[CudaDevice, ...] = ()
    """All that are visible; `usable_devices` leaves out what the kernels cannot run on."""
    driver_cuda: Version | None = None
    """The newest CUDA version that the driver supports."""
    runtime_cuda: Version | None = None
    """The CUDA version that CuPy was built for, once it was asked."""
    kernel_driver: str | None = None
    """The driver in the kernel, in its own words."""
    steps: tuple[DetectionStep, ...] = ()
    """All that was looked at, in order."""

    @property
    def usable_devices(self) -> tuple[CudaDevice, ...]:
        """The devices that the kernels run on; empty where CUDA cannot be used at all."""
        return tuple(device for device in self.devices if not _objection(device)) if self.usable else ()


def detect_cuda(surroundings: Surroundings | None = None, *, thorough: bool = False) -> CudaDetection:
    """Look for usable GPUs.

    Parameters
    ----------
    surroundings
        What to look at; this machine by default.
    thorough
        Initialise the driver even where CuPy is missing, to list the GPUs. Otherwise it is left alone, so that a
        process which cannot use the GPU anyway can still be forked by somebody who can.
    """
    chain = _Chain(surroundings if surroundings is not None else Surroundings(), thorough)
    try:
        chain.follow()
    except Exception as error:  # whatever a driver does: there is a CPU to run on
        chain.block("detection", "failed", f"{type(error).__name__}: {error}", "Please report this.")
    return chain.result()


_detected: tuple[int, CudaDetection] | None = None
_lock = threading.Lock()


def cuda_detection() -> CudaDetection:
    """Return what `detect_cuda` finds on this machine, looking once in a process (anew in one that was forked)."""
    global _detected
    with _lock:
        if _detected is None or _detected[0] != os.getpid():
            _detected = (os.getpid(), detect_cuda())
        return _detected[1]


def require_gpu(device: str = "cuda", detection: CudaDetection | None = None) -> tuple[CudaDevice, ...]:
    """Return the GPUs that ``device`` names: all usable ones for "cuda", one for "cuda:1".

    Parameters
    ----------
    detection
        What was found; `cuda_detection` by default.

    Raises
    ------
    DeviceUnavailableError
        With the reason and the way out.
    """
    found = cuda_detection() if detection is None else detection
    if not found.usable:
        raise DeviceUnavailableError(
            f"the device {device!r} cannot be used: {found.reason}. {found.way_out} "
            "`dataflare doctor` shows what was looked at; device='cpu' needs none of it."
        )
    if device == "cuda":
        return found.usable_devices
    for known in found.devices:
        if known.label == device:
            objection = _objection(known)
            if objection:
                raise DeviceUnavailableError(f"the device {device!r} cannot be used: {objection}.")
            return (known,)
    labels = ", ".join(known.label for known in found.usable_devices)
    raise DeviceUnavailableError(f"there is no device {device!r}; usable are {labels}.")


def _objection(device: CudaDevice) -> str:
    """Return why the kernels cannot run on a device, or nothing."""
    if device.compute_capability < MINIMUM_COMPUTE_CAPABILITY:
        return (
            f"{device.name} has compute capability {_dotted(device.compute_capability)}, and the kernels need "
            f"{_dotted(MINIMUM_COMPUTE_CAPABILITY)} or newer"
        )
    if device.is_prohibited:
        return f"the compute mode of {device.name} is 'prohibited' (nvidia-smi --compute-mode=0 changes it)"
    return ""


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


class _Chain:
    """One walk along what a GPU needs. The first thing that is missing is the reason; later steps are skipped."""

    def __init__(self, surroundings: Surroundings, thorough: bool) -> None:
        self._around = surroundings
        self._thorough = thorough
        self._steps: list[DetectionStep] = []
        self._blocked: DetectionStep | None = None
        self._devices: tuple[CudaDevice, ...] = ()
        self._driver_cuda: Version | None = None
        self._runtime_cuda: Version | None = None

    def follow(self) -> None:
        """Take all steps, cheap ones without side effects first."""
        self._look_at_simulator()
        self._look_at_platform()
        driver = self._load_driver()
        package_cuda = self._find_cupy()
        if driver is None or (self._blocked is not None and not self._thorough):
            self._skip("cuInit", "CuPy runtime")
            return
        if self._initialise(driver):
            self._list_devices(driver)
        self._compare_versions(package_cuda)
        if self._blocked is None:
            self._ask_cupy()
        else:
            self._skip("CuPy runtime")

    def block(self, name: str, state: StepState, detail: str, way_out: str) -> None:
        """Note a step without which no GPU can be used."""
        step = DetectionStep(name, state, detail, way_out)
        self._steps.append(step)
        if self._blocked is None:
            self._blocked = step

    def result(self) -> CudaDetection:
        """Return what the walk found."""
        usable = [device for device in self._devices if not _objection(device)]
        if self._blocked is None:
            reason = ", ".join(f"{device.label} ({device.name})" for device in usable)
            way_out = ""
        else:
            reason, way_out = self._blocked.detail, self._blocked.way_out
        return CudaDetection(
            usable=self._blocked is None,
            reason=reason,
            way_out=way_out,
            devices=self._devices,
            driver_cuda=self._driver_cuda,
            runtime_cuda=self._runtime_cuda,
            kernel_driver=self._around.kernel_driver,
            steps=tuple(self._steps),
        )

    def _add(self, name: str, state: StepState, detail: str) -> None:
        self._steps.append(DetectionStep(name, state, detail))

    def _skip(self, *names: str) -> None:
        for name in names:
            self._add(name, "skipped", "not asked, since something before it is missing")

    def _look_at_simulator(self) -> None:
        value = self._around.environ.get("NUMBA_ENABLE_CUDASIM", "0")
        if value not in ("", "0"):
            self._add(
                "NUMBA_ENABLE_CUDASIM",
                "note",
                f"is {value}: numba.cuda is its simulator in this process. DataFlare does not go through numba.cuda",
            )

    def _look_at_platform(self) -> None:
        around = self._around
        if around.is_wsl:
            self._add("platform", "note", "Linux within Windows (WSL): the driver is that of Windows")
        if around.is_jetson:
            self._add(
                "platform", "note", "Jetson: host and GPU share one memory; the driver is part of JetPack"
            )
        if around.kernel_driver is not None:
            self._add("driver in the kernel", "ok", around.kernel_driver)

    def _load_driver(self) -> CudaDriver | None:
        name = "driver library"
        try:
            library = self._around.load_library("libcuda.so.1")
        except OSError as error:
            if "No such file" in str(error):
                self.block(name, "missing", *self._without_library())
            else:
                self.block(name, "failed", f"libcuda.so.1 cannot be loaded: {error}", _INSTALL_DRIVER)
            return None
        self._add(name, "ok", "libcuda.so.1")
        return CudaDriver(library)

    def _without_library(self) -> tuple[str, str]:
        """Return what is the matter where there is no libcuda, and the way out."""
        around = self._around
        if around.is_wsl:
            return (
                "there is no libcuda.so.1 within WSL",
                "Update NVIDIA's driver of Windows (none is installed within WSL) and put /usr/lib/wsl/lib into "
                "LD_LIBRARY_PATH.",
            )
        if around.is_jetson:
            return (
                "there is no libcuda.so.1 on this Jetson",
                "Install JetPack's CUDA driver package, nvidia-l4t-cuda.",
            )
        if around.kernel_driver is not None:
            return (
                "the kernel has NVIDIA's driver, but its libcuda.so.1 is not here, as in a container without GPUs",
                f"{_START_WITH_GPUS}.",
            )
        if around.is_container:
            return (
                "there is no NVIDIA driver in this container (no libcuda.so.1), as in one started without GPUs",
                f"{_START_WITH_GPUS}; where nvidia-smi fails on the host, install NVIDIA's driver there.",
            )
        if around.has_nvidia_hardware:
            return "this machine has an NVIDIA GPU, but no driver (no libcuda.so.1)", _INSTALL_DRIVER
        return "there is no NVIDIA driver (no libcuda.so.1), and no NVIDIA GPU can be seen", _INSTALL_DRIVER

    def _find_cupy(self) -> int | None:
        """Look for the package without importing it; return the major CUDA version that its name says."""
        name = "CuPy"
        found = {
            package: version
            for package in _CUPY_PACKAGES
            if (version := self._around.package_version(package)) is not None
        }
        if len(found) > 1:
            packages = " and ".join(found)
            self.block(
                name,
                "failed",
                f"{packages} are installed, and each overwrites the other",
                f"pip uninstall {' '.join(found)}, then install one of them.",
            )
            return None
        if not found:
            if self._around.has_module("cupy"):
                self._add(name, "ok", "installed from source")
            else:
                self.block(name, "missing", "the package cupy is missing", _INSTALL_CUPY)
            return None
        ((package, version),) = found.items()
        self._add(name, "ok", f"{package} {version}")
        return _CUPY_PACKAGES[package]

    def _initialise(self, driver: CudaDriver) -> bool:
        name = "cuInit"
        try:
            driver.initialise()
            self._driver_cuda = driver.supported_cuda()
        except AttributeError as error:
            self.block(name, "failed", f"the driver is too old: {error}", "Update NVIDIA's driver.")
        except DriverCallError as error:
            if error.code == 100:
                self.block(name, "failed", *self._none_visible())
            else:
                what, way_out = _INIT_FAILURES.get(error.code, ("the driver does not start", _INSTALL_DRIVER))
                self.block(name, "failed", f"{what}: {error}", way_out)
        else:
            self._add(name, "ok", f"the driver supports CUDA {_dotted(self._driver_cuda)}")
            return True
        return False

    def _none_visible(self) -> tuple[str, str]:
        visible = self._around.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return (
                f"CUDA_VISIBLE_DEVICES is {visible!r} and lets no GPU be seen",
                "Unset it, or name GPUs that nvidia-smi -L lists, by number or UUID.",
            )
        return (
            "the driver sees no GPU",
            "See that nvidia-smi lists it; start a container with --gpus all.",
        )

    def _list_devices(self, driver: CudaDriver) -> None:
        try:
            self._devices = driver.devices()
        except AttributeError as error:
            self.block("GPUs", "failed", f"the driver is too old: {error}", "Update NVIDIA's driver.")
            return
        except DriverCallError as error:
            self.block("GPUs", "failed", f"the GPUs cannot be listed: {error}", _INSTALL_DRIVER)
            return
        if not self._devices:
            self.block("GPUs", "missing", *self._none_visible())
            return
        objections = [_objection(device) for device in self._devices]
        for device, objection in zip(self._devices, objections, strict=True):
            if objection:
                self._add(device.label, "failed", objection)
            else:
                self._add(device.label, "ok", _description(device))
        if all(objections):
            self.block("GPUs", "failed", "; ".join(objections), "Use a newer GPU, or device='cpu'.")

    def _compare_versions(self, package_cuda: int | None) -> None:
        """Compare the driver with the package's name: a wrong pair is known before CuPy is imported."""
        if self._driver_cuda is None or package_cuda is None or self._driver_cuda[0] >= package_cuda:
            return
        wants = f"CuPy is built for CUDA {package_cuda}, and the driver supports up to {_dotted(self._driver_cuda)}"
        if package_cuda == 13 and self._driver_cuda[0] == 12:
            way_out = (
                "pip uninstall cupy-cuda13x, then pip install 'dataflare[cuda12]'; or update the driver."
            )
        else:
            way_out = "Update NVIDIA's driver."
        self.block("versions", "failed", wants, way_out)

    def _ask_cupy(self) -> None:
        name = "CuPy runtime"
        try:
            runtime = self._around.cupy_runtime()
        except Exception as error:  # an import may fail in any way
            self.block(
                name, "failed", f"CuPy does not work here: {type(error).__name__}: {error}", _INSTALL_CUPY
            )
            return
        self._runtime_cuda = runtime.runtime_version // 1000, runtime.runtime_version % 1000 // 10
        self._compare_versions(self._runtime_cuda[0])
        if self._blocked is None:
            self._add(name, "ok", f"CUDA {_dotted(self._runtime_cuda)}, sees {runtime.device_count} GPU(s)")


def _description(device: CudaDevice) -> str:
    parts = [
        device.name,
        f"compute capability {_dotted(device.compute_capability)}",
        f"{device.total_bytes / 2**30:.1f} GiB",
        device.pci_bus_id,
    ]
    if device.is_mig:
        parts.append("a MIG slice")
    if device.has_unified_memory:
        parts.append("memory shared with the host")
    return ", ".join(parts)
