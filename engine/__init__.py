"""DataFlare: record-level Python functions over columnar data, compiled, fused and streamed.

``import dataflare as flare`` gives the whole public API. It is lazy (PEP 562): a name is imported from its
module at its first use, so the import itself loads no NumPy, PyArrow, Numba, LLVM, Polars or actor library.

Covers only the list of exports; each name is defined and documented in the module that the table below names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.actors.cluster import ClusterActor
    from dataflare.actors.task import TaskActor
    from dataflare.actors.workflow import WorkflowActor
    from dataflare.batch import SharedDataBatch
    from dataflare.control import (
        AdaptiveBatcher,
        AdaptiveBatchingConfig,
        BackpressureController,
        BatchingMetrics,
        CreditConfig,
        CreditMode,
        FoundSize,
        GpuMemoryMonitor,
        HostMemoryMonitor,
        MemoryBudget,
        SizeStrategy,
        SteadyBatch,
    )
    from dataflare.kernels.errors import (
        ColumnNotFoundError,
        CompileError,
        DataError,
        DataFlareError,
        DeviceUnavailableError,
        MemoryLimitError,
        OptionError,
        OutputExistsError,
        PlanError,
        ReadError,
        RunCancelledError,
        RunError,
        SchemaError,
        SchemaMismatchError,
        SinkError,
    )
    from dataflare.observe.curves import RunCurves
    from dataflare.observe.progress import ProgressEvent
    from dataflare.observe.report import RunReport, StageReport
    from dataflare.options import RunOptions
    from dataflare.pipeline import Pipeline
    from dataflare.plan.explanation import Explanation, StageExplanation
    from dataflare.reading import (
        from_arrow,
        from_batches,
        from_records,
        read_csv,
        read_ipc,
        read_json,
        read_parquet,
    )

__all__ = [
    "AdaptiveBatcher",
    "AdaptiveBatchingConfig",
    "BackpressureController",
    "BatchingMetrics",
    "ClusterActor",
    "ColumnNotFoundError",
    "CompileError",
    "CreditConfig",
    "CreditMode",
    "DataError",
    "DataFlareError",
    "DeviceUnavailableError",
    "Explanation",
    "FoundSize",
    "GpuMemoryMonitor",
    "HostMemoryMonitor",
    "MemoryBudget",
    "MemoryLimitError",
    "OptionError",
    "OutputExistsError",
    "Pipeline",
    "PlanError",
    "ProgressEvent",
    "ReadError",
    "RunCancelledError",
    "RunCurves",
    "RunError",
    "RunOptions",
    "RunReport",
    "SchemaError",
    "SchemaMismatchError",
    "SharedDataBatch",
    "SinkError",
    "SizeStrategy",
    "StageExplanation",
    "StageReport",
    "SteadyBatch",
    "TaskActor",
    "WorkflowActor",
    "__version__",
    "from_arrow",
    "from_batches",
    "from_records",
    "read_csv",
    "read_ipc",
    "read_json",
    "read_parquet",
]

__version__ = "0.1.0.dev0"

# Where each public name lives. A test keeps this table, the imports above and __all__ equal.
_MODULES = {
    "AdaptiveBatcher": "dataflare.control",
    "AdaptiveBatchingConfig": "dataflare.control",
    "BackpressureController": "dataflare.control",
    "BatchingMetrics": "dataflare.control",
    "ClusterActor": "dataflare.actors.cluster",
    "ColumnNotFoundError": "dataflare.kernels.errors",
    "CompileError": "dataflare.kernels.errors",
    "CreditConfig": "dataflare.control",
    "CreditMode": "dataflare.control",
    "DataError": "dataflare.kernels.errors",
    "DataFlareError": "dataflare.kernels.errors",
    "DeviceUnavailableError": "dataflare.kernels.errors",
    "Explanation": "dataflare.plan.explanation",
    "FoundSize": "dataflare.control",
    "GpuMemoryMonitor": "dataflare.control",
    "HostMemoryMonitor": "dataflare.control",
    "MemoryBudget": "dataflare.control",
    "MemoryLimitError": "dataflare.kernels.errors",
    "OptionError": "dataflare.kernels.errors",
    "OutputExistsError": "dataflare.kernels.errors",
    "Pipeline": "dataflare.pipeline",
    "PlanError": "dataflare.kernels.errors",
    "ProgressEvent": "dataflare.observe.progress",
    "ReadError": "dataflare.kernels.errors",
    "RunCancelledError": "dataflare.kernels.errors",
    "RunCurves": "dataflare.observe.curves",
    "RunError": "dataflare.kernels.errors",
    "RunOptions": "dataflare.options",
    "RunReport": "dataflare.observe.report",
    "SchemaError": "dataflare.kernels.errors",
    "SchemaMismatchError": "dataflare.kernels.errors",
    "SharedDataBatch": "dataflare.batch",
    "SinkError": "dataflare.kernels.errors",
    "SizeStrategy": "dataflare.control",
    "StageExplanation": "dataflare.plan.explanation",
    "StageReport": "dataflare.observe.report",
    "SteadyBatch": "dataflare.control",
    "TaskActor": "dataflare.actors.task",
    "WorkflowActor": "dataflare.actors.workflow",
    "from_arrow": "dataflare.reading",
    "from_batches": "dataflare.reading",
    "from_records": "dataflare.reading",
    "read_csv": "dataflare.reading",
    "read_ipc": "dataflare.reading",
    "read_json": "dataflare.reading",
    "read_parquet": "dataflare.reading",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        module_name = _MODULES.get(name)
        if module_name is None:
            message = f"module 'dataflare' has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(module_name), name)
        globals()[name] = value  # the next access does not come here
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
