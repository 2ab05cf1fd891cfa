"""Comparisons and selection: setp, set, selp, slct.

Ordered comparisons are false where an operand is not a number, those with "u" true; ``ne`` is ordered too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.decoding import Scope, decoder, types_of
from dataflare.kernels.emulator.floats import flushed
from dataflare.kernels.emulator.syntax import Instruction
from dataflare.kernels.emulator.types import TYPES, Array

__all__: list[str] = []

_Comparison = Callable[[Array, Array], Array]
_ORDER: dict[str, _Comparison] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
_JOINS: dict[str, _Comparison] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _comparison(name: str, is_float: bool) -> _Comparison:
    if not is_float:
        return _ORDER[name]
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name == "ne":
        return lambda a, b: (a < b) | (a > b)
    if name in _ORDER:
        return _ORDER[name]
    ordered = _ORDER[name.removesuffix("u")]
    if name == "neu":
        return ordered
    return lambda a, b: ordered(a, b) | np.isnan(a) | np.isnan(b)


@decoder("setp", "set", "setp.f", "set.f")
def _compared(scope: Scope, instruction: Instruction) -> Operation:
    name = instruction.modifiers[0]
    joins = [modifier for modifier in instruction.modifiers[1:] if modifier in _JOINS]
    scope.allow(instruction, " ".join((name, "ftz", *joins)))
    types = types_of(instruction)
    of_type = types[-1]
    compare = _comparison(name, of_type.is_float)
    first, second = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
    third = scope.source(instruction.operands[3], TYPES["pred"]) if joins else None
    join = _JOINS[joins[0]] if joins else None
    flushes = "ftz" in instruction.modifiers and of_type.dtype == np.float32
    results = scope.items(instruction.operands[0])
    is_set = instruction.opcode == "set"
    result_type = types[0] if is_set else TYPES["pred"]
    writers = [scope.target(result, result_type) for result in results]
    ones = result_type.dtype.type(1 if result_type.is_float else -1 if result_type.kind == "s" else 0)
    if is_set and result_type.kind == "u":
        ones = ~ones
    if of_type.is_packed:
        return _compared_halves(scope, instruction, compare)

    def run(batch: Batch, lanes: Lanes) -> None:
        a, b = first(batch, lanes), second(batch, lanes)
        if flushes:
            a, b = flushed(a), flushed(b)
        holds = compare(a, b)
        for write, answer in zip(writers, (holds, ~holds) if len(writers) > 1 else (holds,), strict=True):
            if third is not None and join is not None:
                answer = join(answer, third(batch, lanes))
            write(batch, lanes, np.where(answer, ones, result_type.dtype.type(0)) if is_set else answer)

    return run


def _compared_halves(scope: Scope, instruction: Instruction, compare: _Comparison) -> Operation:
    """Decode ``setp.lt.f16x2 %p1|%p2, a, b``: one predicate for each half."""
    of_type = types_of(instruction)[-1]
    if instruction.opcode == "set" or len(instruction.operands) > 3:
        raise scope.wrong(instruction)
    first, second = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
    writers = [scope.target(result, TYPES["pred"]) for result in scope.items(instruction.operands[0])]

    def run(batch: Batch, lanes: Lanes) -> None:
        holds = compare(first(batch, lanes), second(batch, lanes))
        for half, write in enumerate(writers):
            write(batch, lanes, holds[..., half])

    return run


@decoder("selp", "selp.f")
def _selected(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "")
    of_type = types_of(instruction)[0]
    write = scope.target(instruction.operands[0], TYPES[f"b{of_type.bits}"])
    yes, no = (scope.bits(operand, of_type) for operand in instruction.operands[1:3])
    condition = scope.source(instruction.operands[3], TYPES["pred"])

    def run(batch: Batch, lanes: Lanes) -> None:
        write(batch, lanes, np.where(condition(batch, lanes), yes(batch, lanes), no(batch, lanes)))

    return run


@decoder("slct", "slct.f")
def _selected_by_sign(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "ftz")
    of_type, sign_type = types_of(instruction)
    write = scope.target(instruction.operands[0], of_type)
    yes, no = (scope.source(operand, of_type) for operand in instruction.operands[1:3])
    sign = scope.source(instruction.operands[3], sign_type)

    def run(batch: Batch, lanes: Lanes) -> None:
        write(batch, lanes, np.where(sign(batch, lanes) >= 0, yes(batch, lanes), no(batch, lanes)))

    return run
