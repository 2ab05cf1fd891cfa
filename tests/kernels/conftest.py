"""CPUs that generated code is forced to be for: this one, this one without its fast paths, and levels of x86-64."""

from __future__ import annotations

import dataclasses
import platform

import pytest

from dataflare.kernels.cpu.target import host_target, level_target
from dataflare.kernels.llvm.target import Target

LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")


def plain_target() -> Target:
    """This machine without what the fast paths need."""
    return dataclasses.replace(
        host_target(),
        has_permute=False,
        has_bit_extract=False,
        has_compress=False,
        has_short_compress=False,
        has_fma=False,
        vector_math={},
        vector_math32={},
    )


def forced_target(name: str) -> Target:
    """Return a CPU by name, or skip the test where this machine cannot run its code."""
    if name == "plain":
        return plain_target()
    host = host_target()
    if name == "host":
        return host
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("x86-64 only")
    level = level_target(name)
    if level.register_bytes > host.register_bytes:
        pytest.skip(f"this CPU is below {name}")
    return level


@pytest.fixture(params=["host", "plain", *LEVELS])
def target(request: pytest.FixtureRequest) -> Target:
    return forced_target(request.param)
