"""CPUs that generated code is forced to be for: this one, this one without its fast paths, and levels of x86-64."""

from __future__ import annotations

import pytest
from chains.guarded import LEVELS, target_of

from dataflare.kernels.llvm.target import Target


@pytest.fixture(params=LEVELS)
def target(request: pytest.FixtureRequest) -> Target:
    found = target_of(request.param)
    if found is None:
        pytest.skip(f"this machine cannot run code for {request.param}")
    return found
