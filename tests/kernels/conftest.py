"""What generated code is forced to be for: this CPU with and without its fast paths, levels of x86-64, a GPU."""

from __future__ import annotations

import pytest
from chains.guarded import LEVELS, target_of

from dataflare.kernels.cuda.emulated import default_emulator
from dataflare.kernels.llvm.target import Target


@pytest.fixture(params=[*LEVELS, "cuda:emulated"])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "cuda:emulated":
        return default_emulator().target
    found = target_of(request.param)
    if found is None:
        pytest.skip(f"this machine cannot run code for {request.param}")
    return found
