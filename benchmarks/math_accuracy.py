"""Errors and costs of the mathematical functions of record functions: vector math, and the C library's one by one.

The right result is NumPy's ``longdouble`` (64 bits of mantissa on x86-64), which says to a thousandth of a unit
how far a float64 is off. Covers the functions that ``longdouble`` has; arguments are random over a range for each.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness.options import common_parser, quiet_cores
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
from benchmarks.harness.runner import Contender, measure
from dataflare.kernels.backend import compile_program
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.memory import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import MapStage

#: Units in the last place that no function may be off by more than, as the README says: those of DataFlare's own, which
#: need a fused multiply-add, and those of a C library.
PROMISED_ULP = {"vector": 1.5 if host_target().own_math else 4.0, "exact": 4.0}


@dataclass(frozen=True, kw_only=True)
class _Function:
    name: str
    fn: Callable[..., float]
    right: Any
    low: float
    high: float
    arguments: int = 1


def _function(name: str, low: float, high: float, *, arguments: int = 1, numpy_name: str = "") -> _Function:
    right = getattr(np, numpy_name or name)
    return _Function(
        name=name, fn=getattr(math, name), right=right, low=low, high=high, arguments=arguments
    )  # fmt: skip


FUNCTIONS = (
    _function("exp", -700, 700),
    _function("exp2", -1000, 1000),
    _function("expm1", -30, 700),
    _function("log", 0, 1e6),
    _function("log10", 0, 1e6),
    _function("log2", 0, 1e6),
    _function("log1p", -1, 1e6),
    _function("sin", -1e4, 1e4),
    _function("cos", -1e4, 1e4),
    _function("tan", -1e4, 1e4),
    _function("asin", -1, 1, numpy_name="arcsin"),
    _function("acos", -1, 1, numpy_name="arccos"),
    _function("atan", -100, 100, numpy_name="arctan"),
    _function("sinh", -700, 700),
    _function("cosh", -700, 700),
    _function("tanh", -20, 20),
    _function("asinh", -1e6, 1e6, numpy_name="arcsinh"),
    _function("acosh", 1, 1e6, numpy_name="arccosh"),
    _function("atanh", -1, 1, numpy_name="arctanh"),
    _function("cbrt", -1e6, 1e6),
    _function("pow", 0, 30, arguments=2, numpy_name="power"),
    _function("atan2", -100, 100, arguments=2, numpy_name="arctan2"),
    _function("hypot", -1e6, 1e6, arguments=2),
)


def _units_off(got: np.ndarray, right: np.ndarray) -> float:
    """Return the largest error in units of the last place of the right result."""
    nearest = right.astype(np.float64)
    finite = np.isfinite(nearest) & (nearest != 0)
    unit = np.spacing(np.abs(nearest[finite])).astype(np.longdouble)
    return float(np.max(np.abs(got[finite].astype(np.longdouble) - right[finite]) / unit))


def _runs(function: _Function, inputs: list[np.ndarray]) -> dict[str, Callable[[], np.ndarray]]:
    """Return one call for each kind of math, over the whole of ``inputs`` on one thread."""
    fn = function.fn
    stage = MapStage(
        (lambda r: {"y": fn(r.x)}) if function.arguments == 1 else (lambda r: {"y": fn(r.x, r.z)})
    )
    names = ("x", "z")[: function.arguments]
    program = build_program([stage], pa.schema([pa.field(name, pa.float64()) for name in names]))
    columns = [HostColumn.from_arrow(pa.array(values)) for values in inputs]

    def call(kind: Any) -> Callable[[], np.ndarray]:
        code = compile_program(program, math=kind)
        return lambda: code.run(columns, len(inputs[0])).columns[0].to_arrow().to_numpy()

    return {kind: call(kind) for kind in ("vector", "exact")}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    return common_parser("math_accuracy", __doc__, size="1M", rounds=5).parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("math_accuracy", rows=options.size, rounds=options.rounds)
    print_environment(console, report)
    rows: list[tuple[str, ...]] = []
    section: dict[str, Any] = {"title": "errors and costs", "rows": options.size, "functions": []}
    for function in FUNCTIONS:
        random = np.random.default_rng([6, *function.name.encode()])
        inputs = [
            random.uniform(function.low, function.high, options.size) for _ in range(function.arguments)
        ]
        with np.errstate(all="ignore"):
            right = function.right(*(x.astype(np.longdouble) for x in inputs))
        runs = _runs(function, inputs)
        errors = {kind: _units_off(run(), right) for kind, run in runs.items()}
        with Progress(console) as progress:
            contenders = [Contender(name=kind, run=run, rows=options.size) for kind, run in runs.items()]
            measured = measure(contenders, rounds=options.rounds, quiet=quiet, progress=progress)
        cost_ns = {m.contender.name: m.median_s / options.size * 1e9 for m in measured}
        section["functions"].append({"name": function.name, "units_off": errors, "ns": cost_ns})
        for kind, error in errors.items():
            what = f"{function.name}, {kind}"
            report["targets"].append(target(what, PROMISED_ULP[kind], error, at_least=False, unit="ULP"))
        kinds = ("vector", "exact")
        rows.append(
            (
                function.name,
                f"{function.low:g} … {function.high:g}",
                *(f"{errors[kind]:.2f}" for kind in kinds),
                *(f"{cost_ns[kind]:.2f}" for kind in kinds),
            )
        )
    report["sections"].append(section)
    report["quiet_waited_s"] = quiet.waited_s
    print_rows(
        console,
        f"errors in units of the last place over {options.size:,} records, and ns a record on one thread",
        ("function", "arguments", "vector: error", "exact: error", "vector: ns", "exact: ns"),
        rows,
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    main()
