"""Random chains of random functions give the same result, bit for bit, on every device.

Three in five run on the emulated GPU besides. ``chains.emulated`` runs more of them there, for several GPUs.

Each example writes Python functions to a file, as a user would, and runs a chain of filter, map, with_columns and
select on a random batch. Axes: types and slices of the columns, nulls, extremes, operators, conditions, branches,
loops with break and continue, early return, helpers, closures, tuples, string and time operations.

Not here: results of approximate functions used further (a difference of one ULP may turn a comparison), paths that
join an integer with a float, or a plain Python number with a float32 (the join is a static type; plain Python has
none), and arithmetic of plain numbers alone, which Python does before any device sees it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chains.running import assert_as_on_cpu
from chains.steps import HEADER, load, random_chain, stages_of
from hypothesis import Phase, given, note, reject, settings
from hypothesis import strategies as st

from dataflare.kernels.errors import CompileError
from dataflare.testing import assert_batches_equal


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chains")


@pytest.mark.timeout(1200)
@settings(
    max_examples=5 * settings.default.max_examples, phases=[Phase.generate]
)  # another number is another chain: there is nothing to shrink
@given(seed=st.integers(0, 2**64 - 1))
def test_random_chains(folder: Path, run_on: Any, seed: int) -> None:
    chain, batch = random_chain(seed)
    note(chain.text[len(HEADER) :])
    note(repr(chain.steps))
    note(repr(batch.schema))
    stages = stages_of(chain, load(chain.text, folder))
    devices = ("cpu", "cuda:emulated") if seed % 5 < 3 else ("cpu",)
    try:
        outcomes = [run_on(device, stages, batch) for device in devices]
    except CompileError as error:
        if "is None for every record" in str(error):  # conditions that happen to be constant
            reject()
        raise
    expected = run_on("python", stages, batch)
    for outcome in outcomes:
        assert_batches_equal(outcome.batch, expected.batch, ulp=4, ulp_columns=sorted(chain.rough))
        assert outcome.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
    if len(outcomes) > 1:
        assert_as_on_cpu(outcomes[1], stages, batch)
