"""What a batch costs the CPU when a GPU does the work: planning, packing, launches and the columns of the result.

The device is one that counts what it is asked for and does nothing, so that all of the time is DataFlare's own; no GPU
is needed. Kernels are compiled before the clock starts. What CuPy and the driver take for a copy or a launch comes on
top: the number of calls is shown, with the blocks of memory that a batch in the steady state asks the device for.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from benchmarks.contenders.with_dataflare import stages
from benchmarks.data import generate
from benchmarks.definitions import WORKLOADS
from benchmarks.harness.options import common_parser, quiet_cores
from benchmarks.harness.report import (
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    write_json,
)
from benchmarks.microbatch import Call, summary, time_calls
from dataflare.kernels.cuda.device import DeviceBackend, MemoryInfo, Stretch
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.cuda.ptx import KernelImage
from dataflare.kernels.cuda.target import cuda_target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import FilterStage, Stage, WithColumnsStage

#: Promised microseconds a batch.
HOST_COST_US = 50.0

_ROWS = 100_000
_WORKLOADS = ("W1", "W2-81", "W3", "W4")


class _Block(NamedTuple):
    address: int
    nbytes: int


class CountingBackend(DeviceBackend):
    """A GPU that does nothing but count; a filter is told that it kept ``kept`` records."""

    def __init__(self, kept: int) -> None:
        self.name = "cuda:counting"
        self.target = cuda_target((8, 0))
        self.resident_blocks = 1024
        self.calls: Counter[str] = Counter()
        self._counters = kept.to_bytes(8, "little") * 32

    def stream(self) -> None:
        """Return no stream: nothing is done."""

    def acquire(self, nbytes: int) -> _Block:
        """Return an address that nobody reads."""
        self.calls["acquire"] += 1
        return _Block(1 << 40, nbytes)

    def release_idle(self) -> None:
        """Do nothing."""

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        """Count."""
        self.calls["upload"] += 1

    def upload_all(self, base: int, stretches: Sequence[Stretch], stream: Any) -> None:
        """Count them as one: pieces of a megabyte are copied together."""
        self.calls["upload"] += 1

    def download(self, host_address: int, address: int, nbytes: int, stream: Any) -> None:
        """Count; where counters may be comes a number of records that is possible."""
        self.calls["download"] += 1
        ctypes.memmove(host_address, self._counters, min(nbytes, len(self._counters)))

    def zero(self, address: int, nbytes: int, stream: Any) -> None:
        """Count."""
        self.calls["zero"] += 1

    def load(self, image: KernelImage) -> str:
        """Return the name of the kernel."""
        return image.entry

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: bytes, stream: Any) -> None:
        """Count."""
        self.calls["launch"] += 1

    def synchronize(self, stream: Any) -> None:
        """Count."""
        self.calls["synchronize"] += 1

    def memory(self) -> MemoryInfo:
        """Return that there is plenty."""
        return MemoryInfo(1 << 40, 1 << 40)


def _nullable() -> tuple[Sequence[Stage], pa.Table]:
    """Return a filter and map over ten columns, with nulls, strings and a dictionary."""
    rows = range(_ROWS)
    numbers = {f"n{i}": pa.array([None if (row + i) % 9 == 0 else row for row in rows]) for i in range(6)}
    columns = {
        **numbers,
        "price": pa.array([row / 7 for row in rows]),
        "name": pa.array([f"name {row % 97}" for row in rows]),
        "kind": pa.array([f"kind {row % 5}" for row in rows]).dictionary_encode(),
        "flag": pa.array([row % 3 == 0 for row in rows]),
    }
    chain: list[Stage] = [
        FilterStage(lambda r: r.n0 > 10 and r.kind != "kind 3" and not r.flag),
        WithColumnsStage(lambda r: {"total": r.price * r.n1, "long": r.name.startswith("name 1")}),
    ]
    return chain, pa.table(columns).select([*numbers, "price", "kind", "flag", "name"])


def _calls() -> dict[str, tuple[CountingBackend, Call]]:
    found = {}
    for key in _WORKLOADS:
        workload = WORKLOADS[key]
        found[key] = _prepared(stages(workload), generate(workload.inputs, _ROWS).table)
    found["ten columns with nulls and strings"] = _prepared(*_nullable())
    return found


def _prepared(chain: Sequence[Stage], table: pa.Table) -> tuple[CountingBackend, Call]:
    program: RecordProgram = build_program(chain, table.schema)
    backend = CountingBackend(_ROWS // 2)
    compiled = compile_cuda(program, backend)
    columns = [HostColumn.from_arrow(table[name].chunk(0)) for name in program.required_columns]
    compiled.run(columns, _ROWS)
    backend.calls.clear()
    compiled.run(columns, _ROWS)
    return backend, lambda: compiled.run(columns, _ROWS)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = common_parser("gpu_host_cost", __doc__, size=None, rounds=15).parse_args(arguments)
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("gpu_host_cost", rows=_ROWS, rounds=options.rounds)
    print_environment(console, report)
    calls = _calls()
    asked = {name: dict(backend.calls) for name, (backend, _) in calls.items()}
    turns = time_calls([call for _, call in calls.values()], rounds=options.rounds, wait=quiet.wait)
    results = [
        {"name": name, "calls_a_batch": asked[name], **summary(taken)}
        for name, taken in zip(calls, turns, strict=True)
    ]
    report["sections"].append({"title": f"batches of {_ROWS:,} rows", "measurements": results})
    kinds = ("upload", "launch", "download", "synchronize", "acquire")
    print_rows(
        console,
        f"a batch of {_ROWS:,} rows, µs of the CPU, and what the device is asked for",
        ("program", "median", "p99", "min", *kinds),
        [
            (
                r["name"],
                *(f"{r[key] * 1e6:.1f}" for key in ("median_s", "p99_s", "min_s")),
                *(str(r["calls_a_batch"].get(kind, 0)) for kind in kinds),
            )
            for r in results
        ],
    )
    for r in results:
        median_us = r["median_s"] * 1e6
        report["targets"].append(target(r["name"], HOST_COST_US, median_us, at_least=False, unit="µs"))
    report["quiet_waited_s"] = quiet.waited_s
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    main()
