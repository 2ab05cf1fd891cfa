"""What a real GPU is held to are results of the emulated one, by a sample of them; and CupyBackend gives the same."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from fakes.cupy_on_emulator import install
from gpu.cases import all_cases, digest, stored_results

_EVERY = 29


def test_stored_results_are_those_of_the_emulated_gpu(tmp_path: Path) -> None:
    stored = stored_results()
    names = []
    for number, case in enumerate(all_cases(tmp_path)):
        names.append(case.name)
        if number % _EVERY == 0:
            assert digest(case, "cuda:emulated") == stored[case.name], case.name
    assert names == list(stored)


def test_the_backend_of_gpus_gives_the_stored_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch)
    stored = stored_results()
    for case in islice(all_cases(tmp_path), _EVERY // 2, None, _EVERY):
        assert digest(case, "cuda:0") == stored[case.name], case.name
