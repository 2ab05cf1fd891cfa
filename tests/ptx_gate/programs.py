"""The programs whose kernels the gate assembles: one for each way of reading, computing and writing on a GPU.

Each says what holds of its code besides what holds of all (``inspection``). Only the functions of ``math`` and the
remainder of floats ask for fused multiply-adds; no other program may hold one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataflare.kernels.cuda import gather
from dataflare.kernels.cuda.codegen import ProgramKernels, table_kernel
from dataflare.kernels.cuda.kernel_text import KernelText
from dataflare.kernels.cuda.primitives import running_sum_kernel
from dataflare.kernels.cuda.reading import VECTOR_BYTES
from dataflare.kernels.llvm.layout import ColumnForm, fixed_width_bytes, string_form
from dataflare.kernels.llvm.math.functions import FUNCTIONS
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.udf.ir import nodes_of
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage, WithColumnsStage


@dataclass(frozen=True, kw_only=True)
class GateProgram:
    """A program, and what its kernels are held to.

    Attributes
    ----------
    may_fuse
        It may hold fused multiply-adds.
    float32
        It computes with nothing wider than float32.
    """

    name: str
    columns: dict[str, pa.DataType]
    stages: tuple[Stage, ...]
    may_fuse: bool = False
    float32: bool = False

    def program(self) -> RecordProgram:
        """Return the program, over columns that may hold nulls."""
        return build_program(self.stages, pa.schema(list(self.columns.items())))


@dataclass(frozen=True)
class GateKernel:
    """One kernel of a program for one GPU.

    ``vector_loads`` and ``vector_stores`` are the instructions of 16 bytes that its columns have room for.
    """

    name: str
    text: KernelText
    target: Target
    of: GateProgram
    vector_loads: int = 0
    vector_stores: int = 0


def kernels_of(gate: GateProgram, target: Target) -> Iterator[GateKernel]:
    """Yield every kernel of a program: both variants, aligned and not, both passes of a filter, string tables."""
    program = gate.program()
    for variant, lowered in (("dense", program.dense), ("nullable", program.nullable)):
        made = ProgramKernels(program, lowered, variant, target)
        prefix = f"{gate.name}.{variant}"
        if lowered.keep is not None:
            yield GateKernel(f"{prefix}.select", made.select(), target, gate)
            yield GateKernel(f"{prefix}.write", made.write(), target, gate)
            continue
        aligned, unaligned = made.map(aligned=True), made.map(aligned=False)
        fixed = [c.type for c in made.layout.columns.values() if c.form is ColumnForm.FIXED]
        loads = sum(_vectors(made.group_rows, data_type) for data_type in fixed)
        stores = sum(made.group_rows * out.width_bytes // VECTOR_BYTES for out in made.layout.outputs)
        yield GateKernel(f"{prefix}.map", aligned, target, gate, loads, stores)
        if unaligned.text != aligned.text:
            yield GateKernel(f"{prefix}.map_unaligned", unaligned, target, gate)
    yield from _tables_of(gate, program, target)


def _vectors(group_rows: int, column: pa.DataType) -> int:
    """Return how many vectors of 16 bytes a group of values has room for; of decimals only the low halves are read."""
    if pa.types.is_decimal(column):
        return 0
    return group_rows * (fixed_width_bytes(column) or 0) // VECTOR_BYTES


def _tables_of(gate: GateProgram, program: RecordProgram, target: Target) -> Iterator[GateKernel]:
    """Yield the kernels that would compute the string operations of a program for the values of dictionaries."""
    nodes = nodes_of(node for _, node in program.dense.roots)
    ops = [node.attr for node in nodes if node.op == "string_op"]
    alone = [op for op in ops if sum(leaf.column is not None for leaf in op.leaves) == 1]
    for number, op in enumerate(alone):
        for values in (pa.string(), pa.large_string(), pa.string_view()):
            table = table_kernel(op, string_form(values), target)
            yield GateKernel(f"{gate.name}.table{number}.{values}", table, target, gate)


def all_kernels(target: Target) -> Iterator[GateKernel]:
    """Yield the kernels of all programs, and those that are no program's own."""
    shared = {
        "running_sum": running_sum_kernel(target),
        "gather.kept_rows": gather.kept_rows_kernel(target),
        "gather.bits": gather.take_bits_kernel(target),
    }
    for width_bytes in (1, 2, 4, 8, 16):
        shared[f"gather.values{width_bytes}"] = gather.take_values_kernel(width_bytes, target)
    for name, spec in _GATHERS.items():
        shared[f"gather.lengths_{name}"] = gather.string_lengths_kernel(spec, target)
        shared[f"gather.strings_{name}"] = gather.copy_strings_kernel(spec, target)
    for name, text in shared.items():
        yield GateKernel(name, text, target, _NO_PROGRAM)
    for gate in PROGRAMS:
        yield from kernels_of(gate, target)


_GATHERS = {
    "listed": gather.StringGather(4, 1, is_chosen=False, is_listed=True),
    "large": gather.StringGather(8, 1, is_chosen=False, is_listed=True),
    "chosen": gather.StringGather(4, 2, is_chosen=True, is_listed=True),
}
_NO_PROGRAM = GateProgram(name="no program", columns={}, stages=())
_F64, _F32, _I64, _I32 = pa.float64(), pa.float32(), pa.int64(), pa.int32()
_TEXT, _DECIMAL = pa.string(), pa.decimal128(15, 2)


def _map(name: str, fn: Any, columns: dict[str, pa.DataType], **held_to: bool) -> GateProgram:
    return GateProgram(name=name, columns=columns, stages=(MapStage(fn),), **held_to)


def _collatz(r: Any) -> dict[str, Any]:
    n = r.n
    steps = 0
    while n > 1 and steps < 200:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return {"steps": steps}


def _newton(r: Any) -> dict[str, Any]:
    x = r.a
    for _ in range(20):
        x = 0.5 * (x + r.a / x)
    return {"root": x}


def _trip(r: Any) -> dict[str, Any]:
    phi1, phi2 = math.radians(r.lat1), math.radians(r.lat2)
    half = math.radians(r.lon2 - r.lon1) / 2
    h = math.sin((phi2 - phi1) / 2) ** 2 + math.cos(phi1) * math.cos(phi2) * math.sin(half) ** 2
    return {"km": 2 * 6371.0088 * math.asin(math.sqrt(h))}


_PLAIN = [
    _map("sum_f64", lambda r: {"y": r.a * r.b + 1.5}, {"a": _F64, "b": _F64}),
    _map("sum_f32", lambda r: {"y": r.a * r.b + r.a}, {"a": _F32, "b": _F32}, float32=True),
    _map("divide_f64", lambda r: {"y": r.a / r.b}, {"a": _F64, "b": _F64}),
    _map("add_i64", lambda r: {"y": r.a * 3 + r.b}, {"a": _I64, "b": _I64}),
    _map("xor_i32", lambda r: {"y": r.a ^ r.b}, {"a": _I32, "b": _I32}),
    _map("and_i8", lambda r: {"y": r.a & r.b}, {"a": pa.int8(), "b": pa.int8()}),
    _map("floor_i64", lambda r: {"q": r.a // r.b, "m": r.a % r.b}, {"a": _I64, "b": _I64}),
    _map("floor_by_7", lambda r: {"q": r.a // 7, "m": r.a % 7}, {"a": _I64}),
    _map("remainder_f64", lambda r: {"m": r.a % r.b}, {"a": _F64, "b": _F64}, may_fuse=True),
    _map("power_i64", lambda r: {"p": r.a**5, "q": r.b**r.a}, {"a": _I64, "b": _I64}),
    _map("choose", lambda r: {"y": r.a if r.a > r.b else r.b * 0.5}, {"a": _F64, "b": _F64}),
    _map("mixed", lambda r: {"y": r.a * r.b, "z": r.c + 1}, {"a": _F32, "b": _I64, "c": pa.int16()}),
    _map("convert", lambda r: {"i": int(r.a), "f": float(r.b)}, {"a": _F64, "b": _I64}),
    _map("halves", lambda r: {"y": r.a * 2}, {"a": pa.float16()}),
    _map("compare", lambda r: {"less": r.a < r.b}, {"a": _F64, "b": _F64}),
    _map("flags", lambda r: {"y": (r.p and not r.q) or r.a > 0}, {"p": pa.bool_(), "q": pa.bool_(), "a": _I32}),
    _map("round_f64", lambda r: {"y": round(r.a), "z": math.floor(r.a), "w": abs(r.a)}, {"a": _F64}),
    GateProgram(
        name="with_columns", columns={"price": _F64, "qty": _I32},
        stages=(
            WithColumnsStage(named=(("gross", lambda r: r.price * r.qty),)),
            WithColumnsStage(named=(("net", lambda r: r.gross * 0.9 if r.qty > 30 else r.gross),)),
        ),
    ),
    _map("decimals", lambda r: {"sum": r.a + r.b, "less": r.a < r.b}, {"a": _DECIMAL, "b": _DECIMAL}),
    _map("decimal_pass", lambda r: {"twice": -r.a}, {"a": _DECIMAL}),
    _map(
        "timestamps",
        lambda r: {"hour": r.t.hour, "day": r.t.day, "year": r.t.year, "weekday": r.t.weekday()},
        {"t": pa.timestamp("us")},
    ),
    _map("dates", lambda r: {"month": r.d.month, "gap": r.d - r.e}, {"d": pa.date32(), "e": pa.date32()}),
    _map("collatz", _collatz, {"n": _I64}),
    _map("newton", _newton, {"a": _F64}),
]  # fmt: skip

_STRINGS = [
    _map("string_length", lambda r: {"n": len(r.s)}, {"s": _TEXT}),
    _map("string_equal", lambda r: {"y": r.s == "needle" or r.s.startswith("no")}, {"s": _TEXT}),
    _map("string_in", lambda r: {"y": "needle" in r.s}, {"s": pa.large_string()}),
    _map("string_order", lambda r: {"y": r.s < r.t}, {"s": _TEXT, "t": pa.string_view()}),
    _map("dictionary", lambda r: {"y": r.s == "x", "n": len(r.s)}, {"s": pa.dictionary(_I32, _TEXT)}),
]

_FILTERS = [
    GateProgram(
        name="filter_f64", columns={"x": _F64, "id": _I64}, stages=(FilterStage(lambda r: r.x > 0.5),)
    ),
    GateProgram(
        name="filter_f32", columns={"x": _F32}, stages=(FilterStage(lambda r: r.x > 0),), float32=True
    ),
    GateProgram(
        name="filter_string", columns={"s": _TEXT, "x": _F64}, stages=(FilterStage(lambda r: r.s == "a"),)
    ),
    GateProgram(
        name="filter_dictionary", columns={"d": pa.dictionary(pa.int16(), _TEXT), "x": _I32},
        stages=(FilterStage(lambda r: r.x > 5),),
    ),
    GateProgram(
        name="filter_wide", columns={"d": _DECIMAL, "p": pa.bool_(), "b": pa.int8()},
        stages=(FilterStage(lambda r: r.p),),
    ),
    GateProgram(
        name="filter_chain", columns={"age": _I64, "price": _F64, "qty": _I64},
        stages=(
            WithColumnsStage(named=(("net", lambda r: r.price * r.qty),)),
            FilterStage(lambda r: r.net > 300.0),
            MapStage(lambda r: {"net": r.net, "score": r.net * 1.5 - r.age, "old": r.age > 50}),
        ),
    ),
]  # fmt: skip


def _calls(name: str, element: pa.DataType) -> GateProgram:
    """Return the program that calls one function of ``math``."""
    function = getattr(math, name)
    is_float32 = element == _F32
    columns = {"x": element}
    if name in ("atan2", "hypot", "pow"):
        columns["y"] = element
        stage = MapStage(lambda r: {"z": function(r.x, r.y)})
    else:
        stage = MapStage(lambda r: {"z": function(r.x)})
    return GateProgram(
        name=f"math.{name}_{'f32' if is_float32 else 'f64'}", columns=columns, stages=(stage,), may_fuse=True
    )


_MATH = [
    *(_calls(name, element) for name in sorted(FUNCTIONS) for element in (_F64, _F32)),
    _map("trip", _trip, {"lat1": _F64, "lon1": _F64, "lat2": _F64, "lon2": _F64}, may_fuse=True),
]

PROGRAMS: Sequence[GateProgram] = (*_PLAIN, *_STRINGS, *_FILTERS, *_MATH)
