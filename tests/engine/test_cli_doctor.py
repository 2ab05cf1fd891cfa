"""``dataflare doctor``: its lines, its exit codes, and that a machine without a GPU is explained and healthy."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.nvml import install_nvml

from dataflare.cli import doctor, main
from dataflare.kernels.devices import detection
from dataflare.kernels.devices.surroundings import CupyRuntime, Surroundings


def no_library(name: str) -> ctypes.CDLL:
    raise OSError(f"{name}: cannot open shared object file: No such file or directory")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Let detection see a made-up machine: one without a driver, or with the library that is given."""

    def see(library: ctypes.CDLL | None = None) -> None:
        def surroundings() -> Surroundings:
            return Surroundings(
                environ={},
                root=tmp_path,
                load_library=no_library if library is None else lambda name: library,
                package_version={"cupy-cuda13x": "14.2.0"}.get,
                has_module=lambda name: False,
                cupy_runtime=lambda: CupyRuntime(13010, 1),
            )

        monkeypatch.setattr(detection, "Surroundings", surroundings)

    return see


def lines(text: str) -> dict[str, str]:
    """Lines of the report by the name they begin with."""
    return {line.strip().split("  ")[0]: line for line in text.splitlines()}


def test_a_machine_without_a_driver_is_explained_and_healthy(
    machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    assert main(["doctor"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    found = lines(shown.out)
    assert "ok       compiled, run, right" in found["a program"]
    assert "-bit registers" in found["SIMD"]
    assert " used, by " in found["memory limit"]
    assert "missing  there is no NVIDIA driver" in found["driver library"]
    assert "not needed" in found["CUDA toolkit"]
    assert "cannot be used: there is no NVIDIA driver" in found["device 'cuda'"]
    assert importlib.metadata.version("pyarrow") in found["pyarrow"]


def test_what_is_required_and_missing_is_an_error_with_the_reason(
    machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    assert main(["doctor", "--require", "cuda"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("dataflare: no GPU can be used: there is no NVIDIA driver")
    assert "Install NVIDIA's driver" in message


def test_a_usable_gpu_satisfies_the_requirement(
    machine: Callable[..., None], compile_c: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(ctypes.CDLL(str(compile_c("cuda"))))
    assert main(["doctor", "--require", "cuda"]) == 0
    found = lines(capsys.readouterr().out)
    assert "Fake GPU 0, compute capability 9.0, 16.0 GiB, 0000:01:00.0" in found["cuda:0"]
    assert "CUDA 13.1, sees 1 GPU(s)" in found["CuPy runtime"]
    assert "ok       cuda:0 (Fake GPU 0)" in found["device 'cuda'"]


def test_json_holds_the_same(machine: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    machine()
    assert main(["doctor", "--json", "--require", "cuda"]) == 1
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["cpu"] == {"usable": True}
    assert document["cuda"]["usable"] is False
    assert document["problem"].startswith("no GPU can be used: ")
    assert {finding["group"] for finding in document["findings"]} == set(
        "python packages cpu memory gpu nvml".split()
    )


def test_a_cpu_that_computes_wrongly_is_not_healthy(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong() -> str:
        raise ArithmeticError("computed 5")

    machine()
    monkeypatch.setattr(doctor, "_run_a_program", wrong)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "dataflare: a program: ArithmeticError: computed 5\n"


def test_a_missing_package_is_named(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    monkeypatch.setattr(doctor, "_PACKAGES", ("pyarrow", "no-such-package"))
    assert main(["doctor"]) == 1
    assert "pip install no-such-package" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_a_note(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", "/proc/nowhere")
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: mode == doctor.os.F_OK)
    monkeypatch.setattr(doctor, "_run_a_program", lambda: "not run")
    assert main(["doctor"]) == 0
    assert "DATAFLARE_CACHE_DIR" in lines(capsys.readouterr().out)["compile cache"]


def test_nvml_is_asked_for_each_gpu(
    machine: Callable[..., None],
    compile_c: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library = install_nvml(compile_c("nvml"), monkeypatch)
    machine(ctypes.CDLL(str(compile_c("cuda"))))
    assert main(["doctor"]) == 0
    assert "8.0 GiB of 16.0 GiB free" in capsys.readouterr().out
    assert library.fake_alive() == 0
