"""Detection against a fake driver, in made-up surroundings: every branch has its reason and its way out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dataflare.kernels.devices import detection
from dataflare.kernels.devices.detection import CudaDetection, cuda_detection, detect_cuda, require_gpu
from dataflare.kernels.devices.surroundings import CupyRuntime, Surroundings
from dataflare.kernels.errors import DeviceUnavailableError

Packages = dict[str, str]


def no_library(name: str) -> ctypes.CDLL:
    raise OSError(f"{name}: cannot open shared object file: No such file or directory")


def surroundings(root: Path, **changes: object) -> Surroundings:
    """A machine without a driver that has CuPy for CUDA 13."""
    bare = Surroundings(
        environ={},
        root=root,
        load_library=no_library,
        package_version={"cupy-cuda13x": "14.2.0"}.get,
        has_module=lambda name: False,
        cupy_runtime=lambda: CupyRuntime(13010, 1),
    )
    return replace(bare, **changes)  # type: ignore[arg-type]


@pytest.fixture
def driver(compile_c: Callable[..., Path]) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_c("cuda")))


@pytest.fixture
def machine(driver: ctypes.CDLL, tmp_path: Path) -> Surroundings:
    """A machine on which all is well."""
    return surroundings(tmp_path, load_library=lambda name: driver)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def step(found: CudaDetection, name: str) -> tuple[str, str]:
    ((state, detail),) = [(s.state, s.detail) for s in found.steps if s.name == name]
    return state, detail


def test_a_gpu_is_found_with_all_that_is_known_of_it(machine: Surroundings) -> None:
    found = detect_cuda(machine)
    assert found.usable, found.reason
    assert (found.driver_cuda, found.runtime_cuda, found.way_out) == ((13, 1), (13, 1), "")
    (device,) = found.devices
    assert (device.label, device.name, device.compute_capability) == ("cuda:0", "Fake GPU 0", (9, 0))
    assert device.total_bytes == 16 << 30
    assert device.uuid == "GPU-10101010-1010-1010-1010-101010101010"
    assert device.pci_bus_id == "0000:01:00.0"
    assert not device.is_mig
    assert not device.has_unified_memory
    assert require_gpu("cuda", found) == require_gpu("cuda:0", found) == found.devices


def test_a_mig_slice_has_its_own_uuid(machine: Surroundings, driver: ctypes.CDLL) -> None:
    driver.fake_traits(0, 0, 1)
    (device,) = detect_cuda(machine).devices
    assert device.is_mig
    assert device.uuid.startswith("MIG-a0a0")


def test_unified_memory_is_seen(machine: Surroundings, driver: ctypes.CDLL) -> None:
    driver.fake_traits(1, 0, 0)
    assert detect_cuda(machine).devices[0].has_unified_memory


@pytest.mark.parametrize(
    ("files", "reason", "way_out"),
    [
        ({}, "no NVIDIA driver (no libcuda.so.1), and no NVIDIA GPU", "no CUDA toolkit is needed"),
        (
            {"sys/bus/pci/devices/a/vendor": "0x10de\n", "sys/bus/pci/devices/a/class": "0x030200\n"},
            "has an NVIDIA GPU, but no driver",
            "Install NVIDIA's driver",
        ),
        (
            {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 580.65\nGCC"},
            "as in a container without GPUs",
            "--gpus all",
        ),
        ({".dockerenv": ""}, "no NVIDIA driver in this container", "docker run --gpus all"),
        ({"run/.containerenv": ""}, "no NVIDIA driver in this container", "install NVIDIA's driver there"),
        ({"proc/1/cgroup": "9:memory:/kubepods/besteffort/pod1"}, "in this container", "--gpus all"),
        ({"proc/1/cgroup": "0::/init.scope"}, "no NVIDIA driver", "Install NVIDIA's driver"),
        ({"proc/sys/kernel/osrelease": "5.15-Microsoft-standard-WSL2"}, "within WSL", "driver of Windows"),
        ({"etc/nv_tegra_release": "R36"}, "on this Jetson", "JetPack"),
    ],
)
def test_without_the_library_the_surroundings_say_why(
    tmp_path: Path, files: dict[str, str], reason: str, way_out: str
) -> None:
    for path, text in files.items():
        write(tmp_path, path, text)
    found = detect_cuda(surroundings(tmp_path))
    assert not found.usable
    assert reason in found.reason
    assert way_out in found.way_out


@pytest.mark.parametrize("variable", ["KUBERNETES_SERVICE_HOST", "container"])
def test_a_container_may_say_so_by_a_variable(tmp_path: Path, variable: str) -> None:
    found = detect_cuda(surroundings(tmp_path, environ={variable: "x"}))
    with pytest.raises(DeviceUnavailableError, match="container.*docker run --gpus all"):
        require_gpu("cuda", found)


def test_a_library_that_cannot_be_loaded_is_not_a_missing_one(tmp_path: Path) -> None:
    def broken(name: str) -> ctypes.CDLL:
        raise OSError("libcuda.so.1: wrong ELF class")

    found = detect_cuda(surroundings(tmp_path, load_library=broken))
    assert "wrong ELF class" in found.reason
    assert step(found, "driver library")[0] == "failed"


@pytest.mark.parametrize(
    ("code", "reason", "way_out"),
    [
        (3, "forked", "spawn"),
        (34, "stub", "LD_LIBRARY_PATH"),
        (36, "too old", "Update"),
        (46, "busy", "CUDA_VISIBLE_DEVICES"),
        (100, "sees no GPU", "--gpus all"),
        (802, "not ready", "fabricmanager"),
        (803, "different versions", "Restart"),
        (804, "compatibility package", "cuda-compat"),
        (805, "MPS", "nvidia-cuda-mps-control"),
        (999, "unknown error", "dmesg"),
        (777, "does not start", "driver"),
    ],
)
def test_what_the_driver_answers_is_put_in_words(
    machine: Surroundings, driver: ctypes.CDLL, code: int, reason: str, way_out: str
) -> None:
    driver.fake_init(code)
    found = detect_cuda(machine)
    assert not found.usable
    assert reason in found.reason
    assert way_out in found.way_out
    if code != 100:
        assert f"cuInit returned {code} (CUDA_ERROR_FAKE)" in found.reason


@pytest.mark.parametrize("value", ["", "-1", "7"])
def test_a_variable_that_hides_the_gpus_is_named(
    machine: Surroundings, driver: ctypes.CDLL, value: str
) -> None:
    driver.fake_init(100)
    found = detect_cuda(replace(machine, environ={"CUDA_VISIBLE_DEVICES": value}))
    assert found.reason == f"CUDA_VISIBLE_DEVICES is {value!r} and lets no GPU be seen"


def test_no_device_without_an_error(machine: Surroundings, driver: ctypes.CDLL) -> None:
    driver.fake_count(0)
    assert detect_cuda(machine).reason == "the driver sees no GPU"


def test_a_library_without_the_functions_is_too_old(tmp_path: Path) -> None:
    found = detect_cuda(surroundings(tmp_path, load_library=lambda name: ctypes.CDLL(None)))
    assert "too old" in found.reason
    assert "cuInit" in found.reason


def test_without_cupy_the_driver_is_left_alone_unless_asked(
    machine: Surroundings, driver: ctypes.CDLL
) -> None:
    without = replace(machine, package_version={}.get)
    found = detect_cuda(without)
    assert found.reason == "the package cupy is missing"
    assert "dataflare[cuda13]" in found.way_out
    assert found.devices == ()
    assert step(found, "cuInit")[0] == "skipped"
    thorough = detect_cuda(without, thorough=True)
    assert len(thorough.devices) == 1
    assert thorough.reason == found.reason


def test_two_packages_of_cupy_are_one_too_many(machine: Surroundings) -> None:
    both = {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}
    assert "cupy-cuda12x and cupy-cuda13x" in detect_cuda(replace(machine, package_version=both.get)).reason


@pytest.mark.parametrize("installed", [{"cupy-cuda13x": "14.2.0"}, {}])
def test_a_driver_older_than_cupy(machine: Surroundings, driver: ctypes.CDLL, installed: Packages) -> None:
    driver.fake_version(12080)
    from_source = replace(machine, package_version=installed.get, has_module=lambda name: name == "cupy")
    found = detect_cuda(from_source)
    assert found.reason == "CuPy is built for CUDA 13, and the driver supports up to 12.8"
    assert "dataflare[cuda12]" in found.way_out


def test_a_newer_driver_runs_an_older_cupy(machine: Surroundings) -> None:
    older = {"cupy-cuda12x": "14.2.0"}
    made_for_12 = replace(machine, package_version=older.get, cupy_runtime=lambda: CupyRuntime(12090, 1))
    assert detect_cuda(made_for_12).usable


def test_cupy_that_cannot_be_imported(machine: Surroundings) -> None:
    def broken() -> CupyRuntime:
        raise ImportError("libcublas.so.13")

    assert "ImportError: libcublas.so.13" in detect_cuda(replace(machine, cupy_runtime=broken)).reason


def test_old_and_prohibited_gpus_are_listed_and_not_used(machine: Surroundings, driver: ctypes.CDLL) -> None:
    driver.fake_capability(7, 0)
    found = detect_cuda(machine)
    assert not found.usable
    assert "compute capability 7.0, and the kernels need 7.5" in found.reason
    assert len(found.devices) == 1
    assert found.usable_devices == ()
    driver.fake_capability(8, 0)
    driver.fake_traits(0, 2, 0)
    assert "prohibited" in detect_cuda(machine).reason


def test_the_simulator_is_noted_and_changes_nothing(machine: Surroundings) -> None:
    found = detect_cuda(replace(machine, environ={"NUMBA_ENABLE_CUDASIM": "1"}))
    assert found.usable
    assert step(found, "NUMBA_ENABLE_CUDASIM")[0] == "note"


def test_wsl_is_noted(machine: Surroundings, tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "6.6-microsoft-standard-WSL2")
    found = detect_cuda(machine)
    assert found.usable
    assert step(found, "platform")[0] == "note"


def test_whatever_happens_is_a_reason(machine: Surroundings) -> None:
    def explode(name: str) -> ctypes.CDLL:
        raise RuntimeError("a driver gone mad")

    assert detect_cuda(replace(machine, load_library=explode)).reason == "RuntimeError: a driver gone mad"


def test_what_is_required_is_there_or_the_error_says_why(
    machine: Surroundings, driver: ctypes.CDLL, tmp_path: Path
) -> None:
    driver.fake_count(2)
    found = detect_cuda(machine)
    assert [device.ordinal for device in require_gpu("cuda:1", found)] == [1]
    with pytest.raises(DeviceUnavailableError, match="no device 'cuda:2'; usable are cuda:0, cuda:1"):
        require_gpu("cuda:2", found)
    with pytest.raises(DeviceUnavailableError, match="cannot be used: there is no NVIDIA driver.*doctor"):
        require_gpu("cuda", detect_cuda(surroundings(tmp_path)))


def test_this_process_looks_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked: list[int] = []

    def look() -> CudaDetection:
        looked.append(1)
        return detect_cuda(surroundings(tmp_path))

    monkeypatch.setattr(detection, "_detected", None)
    monkeypatch.setattr(detection, "detect_cuda", look)
    assert cuda_detection() is cuda_detection()
    assert len(looked) == 1


def test_this_machine_can_be_asked() -> None:
    found = detect_cuda()
    assert found.reason
    assert found.usable or found.way_out
