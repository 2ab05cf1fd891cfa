"""Instructions that W1-W4 execute a record, on each level of the x86-64 ABI, against the counts that are kept.

A count is the same on a busy machine and a quiet one, so it shows what a change did to the generated code where times
cannot. It is the difference between the first ``2 n`` records and the first ``n``, divided by ``n``: what a
call costs however few records it has cancels out. ``instruction_counts.json`` keeps the counts, with the versions of
LLVM, which makes the code, and of the C library, whose functions it calls. More than a tenth above them is a failure,
and the command exits with 1.

Does not cover: how long an instruction takes, the code around the generated one, and large results, which are written
past the cache by the same loops.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import llvmlite.binding as llvm
import pyarrow as pa

from benchmarks.contenders.with_dataflare import stages
from benchmarks.data import Columns, generate
from benchmarks.definitions import WORKLOADS, Workload, check_result
from benchmarks.harness.options import parse_size
from benchmarks.harness.report import (
    Progress,
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    write_json,
)
from benchmarks.harness.stepping import CountedObject, why_unavailable
from dataflare.kernels.cpu import codegen, jit
from dataflare.kernels.cpu.fused import CpuProgram
from dataflare.kernels.cpu.target import host_target, level_target
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program

LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")
KEPT = Path(__file__).with_name("instruction_counts.json")
#: How many times the count that is kept is still no failure.
PROMISED_FACTOR = 1.1


def runnable_targets() -> dict[str, Target]:
    """Return the levels whose code this CPU can run."""
    widest = host_target().register_bytes
    targets = {level: level_target(level) for level in LEVELS}
    return {level: cpu for level, cpu in targets.items() if cpu.register_bytes <= widest}


def instructions_per_record(workload: Workload, cpu: Target, rows: int) -> float:
    """Return what each of the records from ``rows`` to ``2 * rows`` adds to the instructions executed."""
    columns = generate(workload.inputs, 2 * rows)
    program = build_program(stages(workload), columns.table.schema)
    code = codegen.generate(program, cpu)
    loaded = jit.load_object(jit.assemble(code.text, cpu))

    def run(runs: CpuProgram, part: Columns) -> pa.Table:
        inputs = [HostColumn.from_arrow(pa.array(part[name])) for name in program.required_columns]
        result = runs.run(inputs, part.rows)
        return pa.table([column.to_arrow() for column in result.columns], schema=program.output_schema)

    # Right first; and the linker binds functions that functions of libmvec call when they are first called.
    result = run(CpuProgram(program, code, cpu, loaded, "compiled", 0.0), columns)
    check_result(workload.key, result, workload.expected(columns), workload.tolerance)

    counted = CountedObject(loaded)
    stepped = CpuProgram(program, code, cpu, cast(jit.LoadedObject, counted), "compiled", 0.0)
    counts = []
    for part in (columns.head(rows), columns):
        run(stepped, part)
        counts.append(counted.instructions)
    return (counts[1] - counts[0]) / rows


def conditions(rows: int) -> dict[str, Any]:
    """Return what a count depends on besides the workload, the level and DataFlare's own code."""
    return {
        "rows": rows,
        "llvm": ".".join(map(str, llvm.llvm_version_info)),
        "libc": " ".join(platform.libc_ver()).strip(),
    }


def promises(level: str, counts: dict[str, float], kept: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each count of a level beside the most that it may be.

    Raises
    ------
    SystemExit
        If a count is not among those kept: nothing would ever be compared with it.
    """
    for key, count in counts.items():
        before = kept.get(level, {}).get("instructions_per_record", {}).get(key)
        if before is None:
            raise SystemExit(f"no count of {key} on {level} is kept; run with --update to keep it")
        most = round(PROMISED_FACTOR * before, 3)
        yield target(f"{key} on {level}, kept {before:g}", most, count, at_least=False, unit="a record")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=(__doc__ or "").strip().splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--size", type=parse_size, default=codegen.SELECTION_BLOCK_ROWS,
        help="records whose instructions are counted; a multiple of the block that filters work in",
    )  # fmt: skip
    parser.add_argument(
        "--workload", action="append", choices=list(WORKLOADS), help="only this one; may be repeated"
    )
    parser.add_argument("--kept", type=Path, default=KEPT, metavar="FILE", help="where the counts are kept")
    parser.add_argument("--update", action="store_true", help="keep the counts of this run instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything counted to FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    if (reason := why_unavailable()) is not None:
        raise SystemExit(f"instructions cannot be counted here: {reason}")
    console = new_console()
    now = conditions(options.size)
    report = new_report("instructions", **now)
    print_environment(console, report)
    kept: dict[str, Any] = {}
    if options.kept.exists():  # an update may begin a new file
        kept = json.loads(options.kept.read_text(encoding="utf-8"))
    keys = options.workload or list(WORKLOADS)
    for level, cpu in runnable_targets().items():
        counts = {}
        with Progress(console) as progress:
            for key in keys:
                progress(f"{key} on {level}")
                counts[key] = round(instructions_per_record(WORKLOADS[key], cpu, options.size), 3)
        report["sections"].append({"level": level, "instructions_per_record": counts})
        before = kept.get(level, {})
        alike = all(before.get(name) == value for name, value in now.items())
        if options.update:
            others = before["instructions_per_record"] if alike else {}
            kept[level] = {**now, "instructions_per_record": {**others, **counts}}
            continue
        if not alike:
            differ = ", ".join(f"{name} {before.get(name)}, now {value}" for name, value in now.items())
            console.print(f"[yellow]the counts kept for {level} are of {differ}[/yellow]")
        report["targets"] += promises(level, counts, kept)
    if options.update:
        options.kept.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print_rows(
        console,
        f"instructions a record, over {options.size:,} records",
        ("level", *keys),
        [
            (section["level"], *(f"{count:.4g}" for count in section["instructions_per_record"].values()))
            for section in report["sections"]
        ],
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    raise SystemExit(any(promise["met"] is False for promise in main()["targets"]))
