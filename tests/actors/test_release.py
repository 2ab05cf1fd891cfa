"""A finished run keeps nothing alive: results go back to the pool by reference counts, not by the collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

import dataflare as flare
from dataflare.actors.cluster import ClusterActor
from dataflare.actors.local_runtime import LocalRuntime
from dataflare.kernels.memory.pool import default_pool
from dataflare.pipeline import Pipeline

ROWS = 200_000
TABLE = pa.table({"x": np.arange(ROWS), "y": np.arange(ROWS) * 0.5})


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def wait_for_the_threads() -> None:
    """Wait until no thread has anything of the last run in its hands."""
    runtime = LocalRuntime.shared()
    assert runtime.threads.wait_until_busy_at_most(1, 10.0)  # the cluster's own thread
    runtime.cluster.ask(ClusterActor.nodes)  # which may have been lent to an actor that has none


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize(
    "pipeline",
    [
        flare.from_arrow(TABLE).map(lambda r: {"z": r.x * r.y}),
        flare.from_arrow(TABLE).filter(lambda r: r.x > 1000).map(lambda r: {"z": r.x * r.y}),
    ],
    ids=["one block", "chunks"],
)
def test_memory_returns_when_the_result_goes(pipeline: Pipeline) -> None:
    pipeline.to_arrow()
    wait_for_the_threads()
    before = default_pool().statistics().in_use_bytes
    for _ in range(5):
        result = pipeline.to_arrow()
        assert default_pool().statistics().in_use_bytes > before
        del result
    wait_for_the_threads()
    assert default_pool().statistics().in_use_bytes == before
