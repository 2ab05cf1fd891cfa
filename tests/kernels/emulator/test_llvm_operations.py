"""Every operation of LLVM IR on the types that records have: compiled to PTX and emulated, against the host's code.

One kernel for each operation, on all pairs of edge values and on random ones; the same operation compiled for this
machine gives the expected bits. Left out is what IR itself leaves undefined: shifts by the width, division by zero,
conversions out of range. Remainders of floats are approximated by the NVPTX backend and left out too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from dataflare.kernels.cpu.jit import assemble, load_object
from dataflare.kernels.cpu.target import host_target

Array = NDArray[Any]
INTEGERS = ("i8", "i16", "i32", "i64", "i128")
FLOATS = {"float": "f32", "double": "f64"}
DTYPES = {
    "i1": "u1",
    "i8": "u1",
    "i16": "u2",
    "i32": "u4",
    "i64": "u8",
    "i128": "V16",
    "float": "f4",
    "double": "f8",
}
DTYPES |= {
    "<4 x float>": "V16",
    "<2 x double>": "V16",
    "<4 x i8>": "V4",
    "<2 x i16>": "V4",
    "<4 x i16>": "V8",
}
TARGETS = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")


class Operation(NamedTuple):
    """An expression on %a0, %a1, ... of one type, and what it needs to be declared."""

    name: str
    expression: str
    type: str
    result: str
    arity: int
    declaration: str = ""
    rule: str = ""


def intrinsic(name: str, type: str, result: str, arity: int, flag: str = "", rule: str = "") -> Operation:
    arguments = ", ".join(f"{type} %a{index}" for index in range(arity)) + (f", i1 {flag}" if flag else "")
    kinds = ", ".join([type] * arity) + (", i1" if flag else "")
    declared = f"declare {result} @llvm.{name}({kinds})"
    return Operation(name, f"call {result} @llvm.{name}({arguments})", type, result, arity, declared, rule)


def operations() -> Iterator[Operation]:
    for kind in INTEGERS:
        for name in "add sub mul and or xor udiv sdiv urem srem shl lshr ashr".split():
            rule = "division" if "div" in name or "rem" in name else "shift" if "sh" in name else ""
            if kind != "i128" or rule != "division":
                yield Operation(name, f"{name} {kind} %a0, %a1", kind, kind, 2, rule=rule)
        for name in "eq ne ult ule ugt uge slt sle sgt sge".split():
            yield Operation(f"icmp.{name}", f"icmp {name} {kind} %a0, %a1", kind, "i1", 2)
        for name in "smin smax umin umax sadd.sat uadd.sat ssub.sat usub.sat".split():
            yield intrinsic(f"{name}.{kind}", kind, kind, 2)
        for name in ("fshl", "fshr"):
            yield intrinsic(f"{name}.{kind}", kind, kind, 3)
        for name in ("ctpop", "bitreverse"):
            yield intrinsic(f"{name}.{kind}", kind, kind, 1)
        if kind != "i8":
            yield intrinsic(f"bswap.{kind}", kind, kind, 1)
        for name in ("ctlz", "cttz", "abs"):
            yield intrinsic(f"{name}.{kind}", kind, kind, 1, flag="false")
        for other in INTEGERS:
            casts = (
                ("zext", "sext") if int(other[1:]) > int(kind[1:]) else ("trunc",) if other != kind else ()
            )
            for cast in casts:
                yield Operation(f"{cast}.{other}", f"{cast} {kind} %a0 to {other}", kind, other, 1)
        if kind == "i128":
            continue
        for wide, suffix in FLOATS.items():
            for cast in ("sitofp", "uitofp"):
                yield Operation(f"{cast}.{wide}", f"{cast} {kind} %a0 to {wide}", kind, wide, 1)
            for cast in ("fptosi", "fptoui"):
                yield intrinsic(f"{cast}.sat.{kind}.{suffix}", wide, kind, 1)
    for kind, suffix in FLOATS.items():
        for name in "fadd fsub fmul fdiv".split():
            yield Operation(name, f"{name} {kind} %a0, %a1", kind, kind, 2)
        yield Operation("fneg", f"fneg {kind} %a0", kind, kind, 1)
        for name in "oeq one olt ole ogt oge ord ueq une ult ule ugt uge uno".split():
            yield Operation(f"fcmp.{name}", f"fcmp {name} {kind} %a0, %a1", kind, "i1", 2)
        for name in "sqrt fabs floor ceil trunc rint nearbyint roundeven round".split():
            yield intrinsic(f"{name}.{suffix}", kind, kind, 1)
        for name in ("minimum", "maximum", "copysign"):
            yield intrinsic(f"{name}.{suffix}", kind, kind, 2)
        for name in ("minnum", "maxnum"):
            yield intrinsic(f"{name}.{suffix}", kind, kind, 2, rule="no zeros")
        yield intrinsic(f"fma.{suffix}", kind, kind, 3)
    yield Operation("fpext", "fpext float %a0 to double", "float", "double", 1)
    yield Operation("fptrunc", "fptrunc double %a0 to float", "double", "float", 1)
    for kind in ("<4 x float>", "<2 x double>"):
        yield Operation("fmul", f"fmul {kind} %a0, %a1", kind, kind, 2, rule="no NaN")
    for kind in ("<4 x i8>", "<2 x i16>", "<4 x i16>"):
        for name in ("add", "mul", "xor"):
            yield Operation(name, f"{name} {kind} %a0, %a1", kind, kind, 2)


OPERATIONS = list(operations())


def edges(kind: str) -> Array:
    random = np.random.default_rng(7)
    if kind in FLOATS:
        dtype = np.dtype(DTYPES[kind])
        info = np.finfo(dtype)
        special = [
            0.0,
            0.5,
            1.0,
            1.5,
            2.5,
            127.5,
            255.0,
            256.0,
            65535.5,
            2.0**31,
            2.0**32,
            2.0**63,
            2.0**64,
            1e30,
        ]
        special += [float(info.max), float(info.tiny), float(info.smallest_subnormal), np.inf]
        values = [sign * value for value in special for sign in (1, -1)] + [np.nan]
        return np.array(values + list(random.normal(0, 1000, 24)), dtype)
    if kind.startswith("<"):
        size = np.dtype(DTYPES[kind]).itemsize
        if "i" in kind:
            return random.integers(0, 256, 40 * size).astype(np.uint8).view(f"V{size}")
        dtype = np.float32 if "float" in kind else np.float64
        return random.normal(0, 1e10, 40 * size // np.dtype(dtype).itemsize).astype(dtype).view(f"V{size}")
    bits = int(kind[1:])
    values = [0, 1, 2, 3, 7, 10, bits - 1, bits, 100]
    values += [2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1, 2**bits - 2, 2 ** (bits // 2), 2**bits - 7]
    values += [int.from_bytes(random.bytes(bits // 8), "little") for _ in range(20)]
    data = b"".join((value % 2**bits).to_bytes(bits // 8, "little") for value in values)
    return np.frombuffer(data, DTYPES[kind])


def inputs(operation: Operation) -> list[Array]:
    values = edges(operation.type)
    if operation.arity == 1:
        return [values]
    if operation.arity == 3:
        random = np.random.default_rng(3)
        return [values[random.integers(0, len(values), 2000)] for _ in range(3)]
    first, second = (axis.ravel() for axis in np.meshgrid(np.arange(len(values)), np.arange(len(values))))
    a, b = values[first], values[second]
    if operation.rule == "division":
        signed = np.dtype(f"i{a.dtype.itemsize}")
        lowest = a.view(signed) == np.iinfo(signed).min
        keep = (b != 0) & ~(lowest & (b.view(signed) == -1))
        a, b = a[keep], b[keep]
    elif operation.rule == "shift":
        width = int(operation.type[1:])
        amounts = np.array([int.from_bytes(bytes(value.tobytes()), "little") for value in b])
        keep = amounts < width
        a, b = a[keep], b[keep]
    elif operation.rule == "no zeros":
        keep = (a != 0) | (b != 0)
        a, b = a[keep], b[keep]
    return [a, b]


def body(operation: Operation, space: str) -> str:
    lines = []
    for index in range(operation.arity):
        pointer = f"ptr {space}%x{index}"
        lines.append(f"  %p{index} = getelementptr {operation.type}, {pointer}, i64 %i")
        lines.append(f"  %a{index} = load {operation.type}, ptr {space}%p{index}")
    stored, value = operation.result, "%r"
    lines.append(f"  %r = {operation.expression}")
    if stored == "i1":
        lines.append("  %wide = zext i1 %r to i8")
        stored, value = "i8", "%wide"
    lines.append(f"  %q = getelementptr {stored}, ptr {space}%out, i64 %i")
    lines.append(f"  store {stored} {value}, ptr {space}%q")
    return "\n".join(lines)


def device_ir(operation: Operation) -> str:
    parameters = ", ".join(
        f"ptr addrspace(1) %{name}" for name in [*(f"x{i}" for i in range(operation.arity)), "out"]
    )
    return f"""
define ptx_kernel void @k({parameters}, i64 %n) {{
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %base = mul i32 %b, 128
  %g = add i32 %base, %t
  %i = zext i32 %g to i64
  %inside = icmp ult i64 %i, %n
  br i1 %inside, label %go, label %done
go:
{body(operation, "addrspace(1) ")}
  br label %done
done:
  ret void
}}
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
{operation.declaration}
"""


@lru_cache(maxsize=1)
def host_code() -> Any:
    functions, declarations = [], set()
    for number, operation in enumerate(OPERATIONS):
        pointers = ", ".join(f"ptr %{name}" for name in [*(f"x{i}" for i in range(operation.arity)), "out"])
        functions.append(f"""
define void @f{number}({pointers}, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{body(operation, "")}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}""")
        declarations.add(operation.declaration)
    text = "\n".join([*functions, *sorted(declarations)])
    return load_object(assemble(text, host_target()))


def expected(number: int, operation: Operation, arrays: list[Array]) -> Array:
    out = np.zeros(len(arrays[0]), DTYPES[operation.result])
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (operation.arity + 1), ctypes.c_int64)
    function = host_code().function(f"f{number}", prototype)
    function(*(array.ctypes.data for array in arrays), out.ctypes.data, len(out))
    return out


@pytest.mark.parametrize("cpu", TARGETS)
@pytest.mark.parametrize("kind", sorted({operation.type for operation in OPERATIONS}))
def test_an_operation_gives_the_bits_that_the_host_gives(
    kind: str, cpu: str, compile_ir: Callable[..., str], device: Any
) -> None:
    for number, operation in enumerate(OPERATIONS):
        if operation.type != kind:
            continue
        arrays = [np.ascontiguousarray(array) for array in inputs(operation)]
        want = expected(number, operation, arrays)
        out = device.memory.alloc(want.nbytes)
        addresses = [device.put(array.view(np.uint8)) for array in arrays]
        device.run(
            compile_ir(device_ir(operation), cpu),
            [*addresses, out, len(want)],
            block=128,
            grid=-(-len(want) // 128),
        )
        got = device.get(out, want.dtype, len(want))
        same = got == want
        if want.dtype.kind == "f":
            bits = f"u{want.dtype.itemsize}"
            same = (got.view(bits) == want.view(bits)) | (np.isnan(got) & np.isnan(want))
        if not same.all():
            at = int((~same).argmax())
            given = [array[at] for array in arrays]
            pytest.fail(f"{cpu} {operation.name} of {given}: {got[at]!r}, the host gives {want[at]!r}")
        for address in [*addresses, out]:
            device.memory.free(address)
