"""Every engine's contenders for a workload, in one list."""

from __future__ import annotations

from benchmarks.contenders import (
    with_dataflare,
    with_duckdb,
    with_numba,
    with_numexpr,
    with_numpy,
    with_pandas,
    with_polars,
    with_pyarrow,
)
from benchmarks.data import Columns
from benchmarks.definitions import Workload
from benchmarks.harness.runner import Contender

__all__ = ["all_contenders"]

_ENGINES = (
    with_dataflare,
    with_numba,
    with_polars,
    with_duckdb,
    with_pyarrow,
    with_numexpr,
    with_pandas,
    with_numpy,
)


def all_contenders(workload: Workload, columns: Columns) -> list[Contender]:
    """Return every engine's contenders for ``workload``, DataFlare first."""
    return [contender for engine in _ENGINES for contender in engine.contenders(workload, columns)]
