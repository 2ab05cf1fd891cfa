"""Typed memory of the host: Arrow columns with raw addresses, and the pool that kernel outputs come from.

Does not cover device memory, nor anything about batches or schemas: those are the engine's.
"""

from __future__ import annotations

from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostBlock, HostPool, PoolStatistics, default_pool

__all__ = ["HostBlock", "HostColumn", "HostPool", "PoolStatistics", "default_pool"]
