"""What DataFlare's own mathematical functions cost, against libmvec's and libm's of the same inputs.

One loop over arrays in L1 for each function, element and number of lanes, without a pipeline around it: ns a value of
the function itself, with the load and the store. Also the milliseconds to compile such a loop. Errors are measured by
the tests (``tests/kernels/test_math_exponential.py`` and ``test_math_trigonometry.py``) and by ``math_accuracy``.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.llvm.emit import Code, Emitter
from dataflare.kernels.llvm.math.functions import FUNCTIONS
from dataflare.kernels.llvm.math.lanes import Lanes
from dataflare.kernels.llvm.target import MATH_FUNCTIONS, Target

__all__ = ["loop_text", "main"]

#: Arguments without special values, over a range in which the function is used.
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(FUNCTIONS, (-5.0, 5.0)),
    **dict.fromkeys(("exp", "exp2", "expm1", "sinh", "cosh"), (-50.0, 50.0)),
    **dict.fromkeys(("log", "log2", "log10", "pow"), (0.01, 30.0)),
    **dict.fromkeys(("log1p",), (-0.9, 30.0)),
    **dict.fromkeys(("asin", "acos", "atanh"), (-1.0, 1.0)),
    **dict.fromkeys(("sin", "cos", "tan"), (-100.0, 100.0)),
    "acosh": (1.0, 100.0),
    "gamma": (0.1, 8.0),
    "lgamma": (0.1, 100.0),
}

#: Of the library's time, what a function of our own may take for a smaller error and the same bits on every device.
_GOAL = 1.5

_VALUES = 1024
_REPEATS = 50
_REPEATED = f"""
define void @repeated(ptr %x, ptr %y, ptr %out, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  call void @f(ptr %x, ptr %y, ptr %out, i64 %n)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {_REPEATS}
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
_TYPES = {"double": np.float64, "float": np.float32}


def loop_text(
    name: str, element: str, lanes: int, cpu: Target, *, body: Callable[..., str] | None = None
) -> str:
    """Return LLVM text of ``f(x, y, out, n)``: n is a multiple of ``lanes``, and one-argument functions skip y."""
    code = Code()

    def no_load(*_: Any) -> str:
        raise AssertionError("no node is loaded here")

    emitter = Emitter(code, cpu, lanes, no_load)
    code.add("br label %loop")
    code.label("loop")
    code.add("%i = phi i64 [ 0, %entry ], [ %next, %latch ]")
    kind, size = emitter.type_of(element), 8 if element == "double" else 4
    arguments = []
    for pointer in ("%x", "%y")[: MATH_FUNCTIONS[name][1]]:
        place = code.value(f"getelementptr {element}, ptr {pointer}, i64 %i")
        arguments.append(code.value(f"load {kind}, ptr {place}, align {size}"))
    if body is None:
        result = FUNCTIONS[name](Lanes(emitter, element), *arguments)
    else:
        result = body(emitter, arguments)
    place = code.value(f"getelementptr {element}, ptr %out, i64 %i")
    code.add(f"store {kind} {result}, ptr {place}, align {size}")
    code.add("br label %latch")
    code.label("latch")
    code.add(f"%next = add i64 %i, {lanes}")
    code.add("%more = icmp ult i64 %next, %n")
    code.add("br i1 %more, label %loop, label %done")
    code.label("done")
    code.add("ret void")
    head = "define void @f(ptr noalias %x, ptr noalias %y, ptr noalias %out, i64 %n) noinline {\nentry:"
    attributes = (
        "attributes #2 = { nounwind willreturn memory(none) }\n"
        "attributes #3 = { cold noinline nounwind willreturn memory(none) }"
    )
    return "\n".join([*code.declarations, head, *code.entry, *code.lines, "}", attributes, ""])


def _library_body(symbol: str, element: str, width: int) -> Callable[..., str]:
    """Return code that calls a vector function of libmvec, or a scalar one of libm lane by lane."""

    def body(emitter: Emitter, arguments: Sequence[str]) -> str:
        code, pieces = emitter.code, []
        kind = element if width == 1 else f"<{width} x {element}>"
        code.declare(f"declare {kind} @{symbol}({', '.join([kind] * len(arguments))}) #2")
        for start in range(0, emitter.lanes, width):
            if width == 1:
                vector = emitter.type_of(element)
                parts = [code.value(f"extractelement {vector} {a}, i64 {start}") for a in arguments]
            else:
                parts = [emitter.part(a, element, start, width) for a in arguments]
            pieces.append(
                code.value(f"call {kind} @{symbol}({', '.join(f'{kind} {part}' for part in parts)})")
            )
        if width > 1:
            return emitter.concatenate(pieces, element, width)
        result = "poison"
        for lane, piece in enumerate(pieces):
            result = code.value(
                f"insertelement {emitter.type_of(element)} {result}, {element} {piece}, i64 {lane}"
            )
        return result

    return body


def _library_text(name: str, element: str, cpu: Target) -> tuple[str, str]:
    """Return which library has the function, and the loop that calls it."""
    table = cpu.vector_math if element == "double" else cpu.vector_math32
    lanes = cpu.lanes if element == "double" else 2 * cpu.lanes
    if name in table:
        width = cpu.register_bytes // (8 if element == "double" else 4)
        body = _library_body(table[name], element, width)
        return "libmvec", loop_text(name, element, lanes, cpu, body=body)
    symbol = MATH_FUNCTIONS[name][0] + ("" if element == "double" else "f")
    return "libm", loop_text(name, element, lanes, cpu, body=_library_body(symbol, element, 1))


def _timed(text: str, cpu: Target, name: str, element: str, rounds: int) -> tuple[float, float]:
    """Return ns a value, the best of the rounds, and the milliseconds that compiling took."""
    began = time.perf_counter()
    loaded = jit.load_object(jit.assemble(text + _REPEATED, cpu))
    compiled_ms = (time.perf_counter() - began) * 1e3
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)
    call = loaded.function("repeated", prototype)
    random = np.random.default_rng([8, *name.encode()])
    x, y = (random.uniform(*RANGES[name], _VALUES).astype(_TYPES[element]) for _ in range(2))
    y, out = y / 3, np.empty_like(x)
    best = float("inf")
    places = (x.ctypes.data, y.ctypes.data, out.ctypes.data)
    for _ in range(rounds):
        began = time.perf_counter()
        call(*places, _VALUES)
        best = min(best, (time.perf_counter() - began) / _REPEATS / _VALUES * 1e9)
    return best, compiled_ms


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("own_math", __doc__, size=None, rounds=30)
    parser.add_argument("--functions", default=",".join(FUNCTIONS), help="names, with commas between")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    console, cpu = new_console(), host_target()
    quiet_cores(options)
    report = new_report("own_math", rows=_VALUES, rounds=options.rounds)
    print_environment(console, report)
    rows: list[tuple[str, ...]] = []
    for element in _TYPES:
        register = cpu.register_bytes // (8 if element == "double" else 4)
        for name in options.functions.split(","):
            many, many_ms = _timed(
                loop_text(name, element, 2 * register, cpu), cpu, name, element, options.rounds
            )
            one, _ = _timed(loop_text(name, element, register, cpu), cpu, name, element, options.rounds)
            library, text = _library_text(name, element, cpu)
            other, _ = _timed(text, cpu, name, element, options.rounds)
            report["sections"].append(
                {
                    "title": f"{name} {element}",
                    "ns": {"one": one, "two": many, library: other},
                    "compile_ms": many_ms,
                }
            )
            what = f"{name}, {element}, of {library}'s time"
            report["targets"].append(target(what, _GOAL, many / other, at_least=False, unit="x"))
            rows.append(
                (name, element, f"{one:.2f}", f"{many:.2f}", f"{other:.2f}", library, f"{many_ms:.0f}")
            )
    print_rows(
        console,
        "ns a value, best of the rounds",
        ("function", "element", "one register", "two registers", "library", "which", "ms to compile"),
        rows,
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    main()
