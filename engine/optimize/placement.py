"""Where a plan runs when the device is "auto": the CPU, or a GPU whose copies and kernels take less time together.

A stated model of time per record. On the CPU, the slower of moving the bytes and of computing, on all cores. On a
GPU, the slowest of copying in, computing and copying out, which overlap, and a share of what each batch costs by
itself. The rates are measured (`calibration`). Where steps leave batches on the GPU, nothing is copied in between.
Work that is small however it runs stays on the CPU, and nobody looks for a GPU for it: that alone takes longer.
Batches that lie on a device, and functions that take CuPy arrays, decide before any model. Does not split a plan
between devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from dataflare.execute.widths import row_bytes
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep, PhysicalPlan, PhysicalStep
from dataflare.plan.residence import staying, takes_on_device

if TYPE_CHECKING:
    from dataflare.kernels.devices.detection import CudaDetection
    from dataflare.kernels.devices.driver import CudaDevice
    from dataflare.kernels.udf.ir import Node
    from dataflare.kernels.udf.program import RecordProgram
    from dataflare.options import RunOptions

__all__ = ["ASSUMED", "DeviceRates", "Placement", "RecordWork", "place", "record_work"]

_SMALL_S = 0.25
"""Work of one core that is over before a GPU could be found, its context made and its kernels loaded."""
_LEAST_GAIN = 1.25
"""How many times faster the GPU must be by the model, which is a rough one."""
_BATCH_BYTES = 4 << 20
_LOOP_TURNS = 32.0
"""How often a loop is taken to turn for a record: nobody knows before it runs."""
_STEPS = {"div": 4.0, "rem": 16.0, "floordiv": 8.0, "floormod": 8.0, "call": 24.0, "string_op": 32.0}
"""What an operation costs in additions."""
_FREE = frozenset({"const", "load", "valid", "param", "loop_out", "loop"})


@dataclass(frozen=True, slots=True)
class DeviceRates:
    """What is measured once on a machine: rates of one CPU core, of a GPU, and of the way between them."""

    cpu_bytes_per_s: float
    """Read and written by a core that hardly computes."""
    cpu_steps_per_s: float
    """Additions and multiplications of a core."""
    up_bytes_per_s: float
    down_bytes_per_s: float
    gpu_steps_per_s: float
    batch_s: float
    """What a batch costs on a GPU however small it is."""


ASSUMED = DeviceRates(4e9, 2e9, 12e9, 12e9, 1e12, 1e-4)
"""What a machine of these years does: for the first look, which measures nothing."""


@dataclass(frozen=True, slots=True)
class RecordWork:
    """What one record takes, on average: bytes in and out of the programs, and operations."""

    in_bytes: float
    out_bytes: float
    steps: float
    up_bytes: float | None = None
    """What of that is copied to a device, and back; None for all: only batches that stay there are spared it."""
    down_bytes: float | None = None

    def cpu_s(self, rates: DeviceRates, cores: int) -> float:
        """Return the seconds of a record on a CPU."""
        moved = (self.in_bytes + self.out_bytes) / rates.cpu_bytes_per_s
        return max(moved, self.steps / rates.cpu_steps_per_s) / cores

    def gpu_parts_s(self, rates: DeviceRates, gpus: int) -> tuple[float, float, float, float]:
        """Return the seconds of a record for copying in, computing, copying out, and its share of a batch."""
        batch_share = (self.in_bytes + self.out_bytes) / _BATCH_BYTES
        up_bytes = self.in_bytes if self.up_bytes is None else self.up_bytes
        down_bytes = self.out_bytes if self.down_bytes is None else self.down_bytes
        return (
            up_bytes / rates.up_bytes_per_s / gpus,
            self.steps / rates.gpu_steps_per_s / gpus,
            down_bytes / rates.down_bytes_per_s / gpus,
            rates.batch_s * batch_share / gpus,
        )

    def gpu_s(self, rates: DeviceRates, gpus: int) -> float:
        """Return the seconds of a record on GPUs."""
        *overlapping, batch = self.gpu_parts_s(rates, gpus)
        return max(overlapping) + batch


@dataclass(frozen=True, slots=True)
class Placement:
    """A device that `compile_program` takes, and why it was chosen, in words."""

    device: str
    reason: str


def place(
    plan: PhysicalPlan,
    options: RunOptions,
    cores: int,
    *,
    detect: Callable[[], CudaDetection] | None = None,
    rates_of: Callable[[CudaDevice], DeviceRates] | None = None,
) -> Placement:
    """Return where a plan runs.

    Parameters
    ----------
    cores
        CPU cores that the run would use.
    detect, rates_of
        Look for GPUs, and return what was measured with one; `cuda_detection` and `device_rates` by default.
    """
    if options.device != "auto":
        slow = ": plain Python, slow, to debug functions" if options.device == "python" else ""
        return Placement(options.device, f"asked for{slow}")
    source_device = getattr(plan.source, "device", "cpu")
    if source_device != "cpu":
        return Placement(source_device, "chosen by auto: the batches lie there")
    programs = [step.program for step in plan.steps if isinstance(step, ComputeStep)]
    takes_cupy = any(isinstance(step, MapBatchesStep) and step.batch_format == "cupy" for step in plan.steps)
    if takes_cupy and options.math != "exact":
        found = (detect or _detect)()
        if found.usable:
            return Placement("cuda", "chosen by auto: map_batches takes CuPy arrays")
        return _cpu(found.reason)
    if not programs:
        return _cpu("there is nothing to compute")
    work = _with_copies(record_work(programs), plan.steps)
    rows = plan.source.num_rows
    if rows is not None and rows * work.cpu_s(ASSUMED, 1) < _SMALL_S:
        return _cpu("too little work for a GPU")
    if options.math == "exact":
        return _cpu("math='exact' is the C library's")
    found = (detect or _detect)()
    if not found.usable:
        return _cpu(found.reason)
    if rates_of is None:
        from dataflare.optimize.calibration import device_rates

        rates_of = device_rates
    gpus = found.usable_devices
    rates = rates_of(gpus[0])
    cpu_s, gpu_s = work.cpu_s(rates, cores), work.gpu_s(rates, len(gpus))
    up, compute, down, batch = work.gpu_parts_s(rates, len(gpus))
    names = ("copies in", "kernels", "copies out")
    slowest = max(zip((up, compute, down), names, strict=True))[1]
    compared = (
        f"a record takes about {_nanoseconds(gpu_s)} on {_count(len(gpus), 'GPU')} ({_nanoseconds(up)} in, "
        f"{_nanoseconds(compute)} kernel, {_nanoseconds(down)} out, overlapped, mostly {slowest}; "
        f"{_nanoseconds(batch)} of its batch) and {_nanoseconds(cpu_s)} on {_count(cores, 'core')}"
    )
    if gpu_s * _LEAST_GAIN > cpu_s:
        return _cpu(compared)
    return Placement("cuda", f"chosen by auto: {compared}")


def record_work(programs: Iterable[RecordProgram]) -> RecordWork:
    """Return what a record takes in programs that follow each other, each with copies of its own."""
    works = [_program_work(program) for program in programs]
    return RecordWork(*(sum(part) for part in zip(*works, strict=True)))


def _with_copies(work: RecordWork, steps: Sequence[PhysicalStep]) -> RecordWork:
    """Return the work of a plan with what it copies to a GPU and back, where batches stay there between steps."""
    stays = staying(steps, "cuda")
    if not any(stays):
        return work
    up_bytes = down_bytes = 0.0
    arrives = False
    for step, leaves_there in zip(steps, stays, strict=True):
        if takes_on_device(step, "cuda"):
            in_bytes, out_bytes = _row_bytes(step)
            up_bytes += 0.0 if arrives else in_bytes
            down_bytes += 0.0 if leaves_there else out_bytes
        arrives = leaves_there
    return replace(work, up_bytes=up_bytes, down_bytes=down_bytes)


def _row_bytes(step: PhysicalStep) -> tuple[float, float]:
    """Return the bytes of a record that a step is given and gives; 0 where its schema is not known before."""
    if isinstance(step, ComputeStep):
        return _program_work(step.program)[0], row_bytes(step.program.output_schema)
    if isinstance(step, LimitStep):
        return 0.0, 0.0
    given, made = step.input_schema, step.output_schema
    return 0.0 if given is None else row_bytes(given), 0.0 if made is None else row_bytes(made)


@lru_cache(maxsize=256)
def _program_work(program: RecordProgram) -> tuple[float, float, float]:
    """Return bytes in, bytes out and steps; every run asks, and most ask again."""
    import pyarrow as pa

    from dataflare.kernels.llvm.layout import ColumnForm, layout_of

    layout = layout_of(program, program.dense)  # what a device is given, and what its kernels write
    given = [number for number, column in layout.columns.items() if column.form is not ColumnForm.NONE]
    read = [program.input_schema.field(number) for number in given]
    written = [pa.field(out.output.name, out.output.type, out.has_validity) for out in layout.outputs]
    steps = _steps(node for _, node in program.dense.roots)
    return row_bytes(pa.schema(read)), row_bytes(pa.schema(written)), steps


def _steps(roots: Iterable[Node]) -> float:
    from dataflare.kernels.udf.ir import nodes_of

    return sum(
        _STEPS.get(node.op, 1.0) * _LOOP_TURNS**node.depth for node in nodes_of(roots) if node.op not in _FREE
    )


def _detect() -> CudaDetection:
    from dataflare.kernels.devices.detection import cuda_detection

    return cuda_detection()


def _cpu(reason: str) -> Placement:
    return Placement("cpu", f"chosen by auto: {reason}")


def _nanoseconds(seconds: float) -> str:
    return f"{seconds * 1e9:.2g} ns"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
