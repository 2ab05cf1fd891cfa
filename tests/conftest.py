"""What all tests share: the devices, a way to run steps on one, and the Hypothesis profiles.

``HYPOTHESIS_PROFILE=ci`` draws more examples than ``dev``, the default: 850 random chains, 510 of them on the
emulated GPU too. Both always draw the same ones; ``explore`` draws new ones each time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

# No installed packages and on no path: this is where tests find them.
for _name in ("chains", "fakes", "gpu", "own_math", "ptx_gate", "torture"):
    sys.modules.setdefault(_name, ModuleType(_name)).__path__ = [str(Path(__file__).parent / _name)]

from chains.running import Outcome, run  # noqa: E402

settings.register_profile(
    "dev", max_examples=20, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=170)
settings.register_profile("explore", parent=settings.get_profile("ci"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session", autouse=True)
def _no_sizes_of_earlier_sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the batch sizes that runs find out of the user's cache, so that tests never depend on earlier ones."""
    folder = tmp_path_factory.mktemp("sizes")
    with mock.patch("dataflare.execute.found_sizes.cache_directory", return_value=folder):
        yield


@pytest.fixture
def open_files(tmp_path: Path) -> Callable[[], int]:
    """Return a function that counts the files below `tmp_path` that this process has open, nameless ones included."""

    def count() -> int:
        found = 0
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed by another thread since
                found += str(link.readlink()).startswith(str(tmp_path))
        return found

    return count


RunOn = Callable[..., Outcome]


@pytest.fixture(scope="session", params=["python", "cpu", "cuda:emulated"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that computes the same answers; a test that asks for it runs on all of them."""
    name: str = request.param
    return name


@pytest.fixture(scope="session", params=["cpu", "cuda:emulated"])
def compiled_device(request: pytest.FixtureRequest) -> str:
    """Each device that is held against the reference."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def run_on() -> RunOn:
    """Return ``run(device, stages, batch)``: the outcome of a chain of steps on one device."""
    return run


CompileC = Callable[..., Path]


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> CompileC:
    """Return ``compile(name, *flags)``: a library of its own, made of ``tests/fakes/name.c``."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the fake driver libraries")

    def compile_library(name: str, *flags: str) -> Path:
        library = tmp_path_factory.mktemp(name) / f"lib{name}.so"
        source = Path(__file__).parent / "fakes" / f"{name}.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-w", *flags, "-o", library, source], check=True)
        return library

    return compile_library
