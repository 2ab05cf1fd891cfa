"""What typical CUDA kernels take, without a GPU: registers, machine instructions, bytes moved a row.

Registers and instructions are NVIDIA's assembler's (the extra ``ptx``); without it these columns stay empty. Bytes are
those that the emulator counted, with what all threads of a warp read in one place, such as a word of bits, once: a GPU
moves it once. The least is each column that is read and each result once; of a filter, whose order must not depend on
timing, that of two passes: the rows that it keeps are read again, and bits in between say which.

Does not cover time, which needs a GPU, and that memory moves sectors of 32 bytes: where a filter keeps every second
row, its second pass moves nearly all of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness.options import parse_size
from benchmarks.harness.report import (
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    write_json,
)
from dataflare.kernels.cuda.assembler import assemble, assembler_version, machine_instructions
from dataflare.kernels.cuda.codegen import ProgramKernels
from dataflare.kernels.cuda.emulated import EmulatedBackend
from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.cuda.kernel_text import KernelText
from dataflare.kernels.cuda.ptx import image_of
from dataflare.kernels.cuda.target import cuda_target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage

ARCHITECTURES = ((7, 5), (8, 0), (9, 0), (12, 0))
COUNTED = (9, 0)
"""The architecture whose machine instructions are counted."""
PROMISED_FACTOR = 1.05
_BIT = 1 / 8


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel: its program, and what a row of it needs.

    ``least_bytes`` is for the share of rows that a filter keeps; ``bits`` are those that a thread reads for each row,
    a byte at a time, of which eight threads share one.
    """

    name: str
    stages: tuple[Stage, ...]
    columns: dict[str, Any]
    entry: str
    least_bytes: Callable[[float], float]
    bits: Callable[[float], float] = lambda kept: 0.0


def _haversine(r: Any) -> dict[str, Any]:
    phi1, phi2 = math.radians(r.lat1), math.radians(r.lat2)
    half = math.radians(r.lon2 - r.lon1) / 2
    h = math.sin((phi2 - phi1) / 2) ** 2 + math.cos(phi1) * math.cos(phi2) * math.sin(half) ** 2
    return {"km": 2 * 6371.0088 * math.asin(math.sqrt(h))}


def _collatz(r: Any) -> dict[str, Any]:
    n = r.n
    steps = 0
    while n > 1 and steps < 200:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return {"steps": steps}


_F64, _F32, _I64 = pa.float64(), pa.float32(), pa.int64()
_FILTER = (
    FilterStage(lambda r: r.age > 50),
    MapStage(lambda r: {"id": r.id, "total": r.price * r.qty * 1.08}),
)
_FILTER_COLUMNS = {"id": _I64, "age": _I64, "price": _F64, "qty": _I64}

KERNELS = (
    Kernel(
        name="total = price * qty * 1.08, float64", stages=(MapStage(lambda r: {"total": r.price * r.qty * 1.08}),),
        columns={"price": _F64, "qty": _I64}, entry="dense", least_bytes=lambda kept: 24,
    ),
    Kernel(
        name="a * b + a, float32", stages=(MapStage(lambda r: {"y": r.a * r.b + r.a}),),
        columns={"a": _F32, "b": _F32}, entry="dense", least_bytes=lambda kept: 12,
    ),
    Kernel(
        name="a * 3 + b, int64 with nulls", stages=(MapStage(lambda r: {"y": r.a * 3 + r.b}),),
        columns={"a": _I64, "b": _I64}, entry="nullable",
        least_bytes=lambda kept: 24 + 3 * _BIT, bits=lambda kept: 2,
    ),
    Kernel(
        name="a < b, float64 to bits", stages=(MapStage(lambda r: {"less": r.a < r.b}),),
        columns={"a": _F64, "b": _F64}, entry="dense", least_bytes=lambda kept: 16 + _BIT,
    ),
    Kernel(
        name="exp(x), float64", stages=(MapStage(lambda r: {"y": math.exp(r.x)}),), columns={"x": _F64},
        entry="dense", least_bytes=lambda kept: 16,
    ),
    Kernel(
        name="haversine of four columns", stages=(MapStage(_haversine),),
        columns=dict.fromkeys(("lat1", "lon1", "lat2", "lon2"), _F64), entry="dense", least_bytes=lambda kept: 40,
    ),
    Kernel(
        name="Collatz, a loop of 1 to 200 steps", stages=(MapStage(_collatz),), columns={"n": _I64}, entry="dense",
        least_bytes=lambda kept: 16,
    ),
    Kernel(
        name="filter, first pass: age > 50", stages=_FILTER, columns=_FILTER_COLUMNS, entry="dense_select",
        least_bytes=lambda kept: 8 + _BIT + 8 / SEGMENT_ROWS,
    ),
    Kernel(
        name="filter, second pass: id and total", stages=_FILTER, columns=_FILTER_COLUMNS, entry="dense_write",
        least_bytes=lambda kept: _BIT + 8 / SEGMENT_ROWS + kept * (24 + 16),
    ),
)  # fmt: skip


def texts_of(kernel: Kernel, architecture: tuple[int, int]) -> KernelText:
    """Return the LLVM text of a kernel for an architecture."""
    schema = pa.schema(list(kernel.columns.items()))
    program = build_program(kernel.stages, schema)
    variant = kernel.entry.split("_")[0]
    lowered = program.nullable if variant == "nullable" else program.dense
    made = ProgramKernels(program, lowered, variant, cuda_target(architecture))
    if lowered.keep is None:
        return made.map(aligned=True)
    return made.select() if kernel.entry.endswith("select") else made.write()


def bytes_a_row(kernel: Kernel, rows: int) -> tuple[float, float]:
    """Return the bytes that a kernel moves a row, and the least that it can."""
    rng = np.random.default_rng(1)
    columns = {}
    for name, data_type in kernel.columns.items():
        mask = rng.random(rows) < 0.1 if kernel.entry.startswith("nullable") else None
        columns[name] = pa.array(rng.integers(1, 101, rows), mask=mask).cast(data_type)
    batch = pa.record_batch(columns)
    backend = EmulatedBackend(memory_bytes=1 << 30)
    program = compile_cuda(build_program(kernel.stages, batch.schema), backend)
    backend.launches = []
    result = program.run(
        [HostColumn.from_arrow(batch.column(name)) for name in program.program.required_columns], rows
    )
    moved = next(done.global_bytes for entry, done in backend.launches if entry == kernel.entry) / rows
    kept = result.num_rows / rows
    moved -= kernel.bits(kept) * (1 - _BIT)
    if kernel.entry.endswith(
        "write"
    ):  # the word of bits of a step and the number of a segment, by all 32 threads
        moved -= (4 - _BIT) + 31 * 8 / SEGMENT_ROWS
    return moved, kernel.least_bytes(kept)


def measure(kernel: Kernel, rows: int) -> dict[str, Any]:
    """Return everything that is known of a kernel."""
    moved, least = bytes_a_row(kernel, rows)
    found: dict[str, Any] = {"kernel": kernel.name, "bytes_a_row": moved, "least_bytes_a_row": least}
    if assembler_version() is None:
        return {**found, "registers": None, "instructions": None}
    registers = {}
    for architecture in ARCHITECTURES:
        target_ = cuda_target(architecture)
        made = assemble(image_of(texts_of(kernel, architecture), target_).ptx, target_.cpu)
        registers[target_.cpu] = made.registers
        found[f"spilled_bytes_{target_.cpu}"] = made.spill_bytes
        if architecture == COUNTED:
            found["instructions"] = machine_instructions(made.cubin).total()
    return {**found, "registers": registers}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_kernels",
        description=(__doc__ or "").strip().splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--size", type=parse_size, default=32_768, help="rows that the emulator runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    console = new_console()
    report = new_report("gpu_kernels", rows=options.size, ptxas=assembler_version())
    print_environment(console, report)
    rows = []
    for kernel in KERNELS:
        found = measure(kernel, options.size)
        report["sections"].append(found)
        moved, least = found["bytes_a_row"], found["least_bytes_a_row"]
        report["targets"].append(
            target(
                f"bytes: {kernel.name}",
                PROMISED_FACTOR,
                round(moved / least, 4),
                at_least=False,
                unit="x the least",
            )
        )
        registers = found["registers"]
        rows.append((
            kernel.name,
            "" if registers is None else " / ".join(map(str, registers.values())),
            "" if registers is None else str(found["instructions"]),
            f"{moved:.2f}", f"{least:.2f}", f"{moved / least:.3f}",
        ))  # fmt: skip
    names = " / ".join(f"{major}{minor}" for major, minor in ARCHITECTURES)
    print_rows(
        console,
        f"kernels, over {options.size:,} rows",
        ("kernel", f"registers on sm_{names}", "instructions on sm_90", "bytes a row", "least", "ratio"),
        rows,
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    raise SystemExit(any(promise["met"] is False for promise in main()["targets"]))
