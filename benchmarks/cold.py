"""Cold start: importing, compiling for the first time, and finding the program again in a second process.

Covers: seconds to import DataFlare and its peers in a fresh interpreter; seconds to build and compile
W1-W4 with an empty cache folder and with the one that the process before filled, and to the first result after
that; Numba's own first and cached compile of W4 beside them. Every figure is from a process of its own,
repeated; medians. All processes find the bytecode of the modules, as after an installation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.options import common_parser, quiet_cores
from benchmarks.harness.plot import bars
from benchmarks.harness.processes import ChildRun, run_child
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

#: Promised seconds.
IMPORT_S = 0.2
CACHED_S = 0.1

_IMPORTS = ("dataflare", "numpy", "pyarrow", "polars", "duckdb", "pandas", "numba")
_KEYS = ("W1", "W2-81", "W3", "W4")
_NUMBA = "Numba W4, cache=True"
_COLUMNS = ("first_program", "cached_program", "cached_import", "cached_first_result")


#: Runs in an interpreter that has loaded nothing else; prints like the other children.
_IMPORT_CODE = """
import sys, time
start = time.perf_counter()
import {module}
took_s = time.perf_counter() - start
import json
heavy = [n for n in ("numpy", "pyarrow", "numba", "llvmlite", "polars", "pykka") if n in sys.modules]
print(json.dumps({{"import_s": took_s, "loaded": heavy}}))
"""


def _program_child(key: str, rows: int) -> dict[str, Any]:
    """Build, compile and run one workload as the first thing in this process."""
    begun = time.perf_counter()
    import dataflare as flare  # noqa: F401  (timed)
    from benchmarks.contenders.with_dataflare import pipeline, stages
    from benchmarks.data import generate
    from benchmarks.definitions import WORKLOADS

    workload = WORKLOADS[key]
    table = generate(workload.inputs, rows).table
    imported = time.perf_counter()
    from dataflare.kernels.backend import compile_program
    from dataflare.kernels.udf.program import build_program

    compiled = compile_program(build_program(stages(workload), table.schema), device="cpu")
    program = time.perf_counter()
    pipeline(workload, table).collect()
    first = time.perf_counter()
    pipeline(workload, table).collect()
    second = time.perf_counter()
    return {
        "import_s": imported - begun,
        "program_s": program - imported,
        "cache": compiled.cache,
        "first_result_s": first - program,
        "second_result_s": second - first,
        "numba_imported": "numba" in sys.modules,
    }


def _numba_child(rows: int) -> dict[str, Any]:
    begun = time.perf_counter()
    import numba

    from benchmarks.data import generate
    from benchmarks.definitions import WORKLOADS
    from benchmarks.record_functions import trip_cost

    columns = generate(WORKLOADS["W4"].inputs, rows)
    imported = time.perf_counter()
    compiled = numba.vectorize(["float64(float64, float64, float64, float64, int64)"], cache=True)(trip_cost)
    program = time.perf_counter()
    compiled(*columns.arrays.values())
    first = time.perf_counter()
    compiled(*columns.arrays.values())
    second = time.perf_counter()
    return {
        "import_s": imported - begun,
        "program_s": program - imported,
        "first_result_s": first - program,
        "second_result_s": second - first,
        "numba_imported": True,
    }


def _child(options: argparse.Namespace) -> dict[str, Any]:
    if options.child == _NUMBA:
        return _numba_child(options.size)
    return _program_child(options.child, options.size)


def _bytecode(folder: str) -> dict[str, str]:
    """Return the environment of processes that keep bytecode, as an installation has it, even if this one does not."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}


def _run(name: str, rows: int, cache: str, bytecode: str) -> ChildRun:
    environment = {
        "DATAFLARE_CACHE_DIR": cache,
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        **_bytecode(bytecode),
    }
    return run_child(["-m", "benchmarks.cold", "--child", name, "--size", str(rows)], environment=environment)


def _run_import(module: str, bytecode: str) -> ChildRun:
    return run_child(["-c", _IMPORT_CODE.format(module=module)], environment=_bytecode(bytecode))


def _median(runs: Sequence[ChildRun], field: str) -> float:
    return statistics.median(run.output[field] for run in runs)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("cold", __doc__, size="1k", rounds=5)
    parser.add_argument(
        "--workload", action="append", choices=list(_KEYS), help="only this one; may be repeated"
    )
    parser.add_argument("--child", choices=[*_KEYS, _NUMBA], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    if options.child is not None:
        result = _child(options)
        print(json.dumps(result))
        return result
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("cold", rows=options.size, rounds=options.rounds)
    print_environment(console, report)
    imports: dict[str, list[ChildRun]] = {name: [] for name in _IMPORTS}
    keys = [*(options.workload or _KEYS), _NUMBA]
    first: dict[str, list[ChildRun]] = {key: [] for key in keys}
    cached: dict[str, list[ChildRun]] = {key: [] for key in keys}
    with Progress(console) as progress, tempfile.TemporaryDirectory() as bytecode:
        for name in _IMPORTS:
            _run_import(name, bytecode)
        for key in keys:
            with tempfile.TemporaryDirectory() as cache:
                for _ in (first, cached):
                    _run(key, options.size, cache, bytecode)
        for index in range(options.rounds):
            for name in _IMPORTS:
                progress(f"round {index + 1} of {options.rounds}: import {name}")
                quiet.wait()
                imports[name].append(_run_import(name, bytecode))
            for key in keys:
                progress(f"round {index + 1} of {options.rounds}: {key}")
                with tempfile.TemporaryDirectory() as cache:
                    for runs in (first, cached):
                        quiet.wait()
                        runs[key].append(_run(key, options.size, cache, bytecode))
    import_rows = [
        {
            "name": f"import {name}",
            "role": "dataflare" if name == "dataflare" else "peer",
            "median_s": _median(runs, "import_s"),
            "loaded": runs[0].output["loaded"],
        }
        for name, runs in imports.items()
    ]
    program_rows = [
        {
            "name": key if key == _NUMBA else f"DataFlare {key}",
            "role": "hand-written" if key == _NUMBA else "dataflare",
            "first_program_s": _median(first[key], "program_s"),
            "cached_program_s": _median(cached[key], "program_s"),
            "cached_import_s": _median(cached[key], "import_s"),
            "cached_first_result_s": _median(cached[key], "first_result_s"),
            "second_result_s": _median(cached[key], "second_result_s"),
            "numba_imported": cached[key][0].output["numba_imported"],
        }
        for key in keys
    ]
    report["sections"] = [
        {"title": "import", "measurements": import_rows},
        {"title": "programs", "measurements": program_rows},
    ]
    ours = next(r for r in import_rows if r["role"] == "dataflare")
    report["targets"] = [
        target("import dataflare", IMPORT_S, ours["median_s"], at_least=False, unit="s"),
        *(
            target(
                f"{r['name']}: cached program in a second process",
                CACHED_S,
                r["cached_program_s"],
                at_least=False,
                unit="s",
            )
            for r in program_rows
            if r["role"] == "dataflare"
        ),
    ]
    print_rows(
        console,
        "import in a fresh interpreter",
        ("module", "seconds", "loads"),
        [(r["name"], f"{r['median_s']:.3f}", ", ".join(r["loaded"])) for r in import_rows],
    )
    print_rows(
        console,
        f"build and compile with the compiler's imports; the rest is of the second process, {options.size:,} rows",
        (
            "program",
            "first process",
            "second process",
            "its imports",
            "first result",
            "second result",
            "numba",
        ),
        [
            (
                r["name"],
                *(f"{r[f'{field}_s']:.3f} s" for field in _COLUMNS),
                f"{r['second_result_s'] * 1e3:.2f} ms",
                "yes" if r["numba_imported"] else "no",
            )
            for r in program_rows
        ],
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        panels = {
            "import": [(r["name"], r["median_s"], r["role"]) for r in import_rows],
            "first process": [(r["name"], r["first_program_s"], r["role"]) for r in program_rows],
            "second process": [(r["name"], r["cached_program_s"], r["role"]) for r in program_rows],
        }
        bars(panels, options.plot, axis="seconds")
    return report


if __name__ == "__main__":
    main()
