"""Control: what decides batch sizes, who may go on, and how many bytes may exist. Events in, decisions out.

Nothing here reads a clock or a device of its own accord except the monitors, and nothing here knows plans,
actors or Arrow.
"""

from __future__ import annotations

from dataflare.control.admission import Admission
from dataflare.control.backpressure import BackpressureController, BackpressureSnapshot, TaskCredits
from dataflare.control.batching import AdaptiveBatcher, AdaptiveBatchingConfig
from dataflare.control.budget import BudgetSnapshot, MemoryBudget, Reservation
from dataflare.control.credits import CreditConfig, CreditMode
from dataflare.control.gpu_memory import GpuMemoryMonitor, gpu_memory_monitor
from dataflare.control.metrics import BatchingMetrics, BatchRecord, MetricsSnapshot
from dataflare.control.monitors import HostMemoryMonitor, MemoryMonitor, MemoryReading
from dataflare.control.remembered import RememberedSizes, remembered_sizes
from dataflare.control.strategies import FoundSize, SizeStrategy, SteadyBatch

__all__ = [
    "AdaptiveBatcher",
    "AdaptiveBatchingConfig",
    "Admission",
    "BackpressureController",
    "BackpressureSnapshot",
    "BatchRecord",
    "BatchingMetrics",
    "BudgetSnapshot",
    "CreditConfig",
    "CreditMode",
    "FoundSize",
    "GpuMemoryMonitor",
    "HostMemoryMonitor",
    "MemoryBudget",
    "MemoryMonitor",
    "MemoryReading",
    "MetricsSnapshot",
    "RememberedSizes",
    "Reservation",
    "SizeStrategy",
    "SteadyBatch",
    "TaskCredits",
    "gpu_memory_monitor",
    "remembered_sizes",
]
