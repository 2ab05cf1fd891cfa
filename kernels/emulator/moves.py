"""Moves without memory: mov with packing and unpacking, conversions of addresses, and masks of active lanes."""

from __future__ import annotations

import numpy as np

from dataflare.kernels.emulator.batch import (
    LOCAL_WINDOW,
    PARAMETER_WINDOW,
    SHARED_WINDOW,
    Batch,
    Lanes,
    Operation,
)
from dataflare.kernels.emulator.checks import Fault, first_lane
from dataflare.kernels.emulator.decoding import Scope, decoder, types_of
from dataflare.kernels.emulator.syntax import Instruction, Vector
from dataflare.kernels.emulator.types import TYPES, Array, unsigned_of

__all__ = ["space_of_addresses"]

_WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}


@decoder("mov", "mov.f", "mov.p")
def _moved(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "b128")
    target, source = instruction.operands
    if isinstance(target, Vector) or isinstance(source, Vector):
        if "b128" in instruction.modifiers:
            raise scope.wrong(instruction)
        return _unpacked(scope, instruction) if isinstance(target, Vector) else _packed(scope, instruction)
    of_type = unsigned_of(types_of(instruction)[0].name)
    write, read = scope.target(target, of_type), scope.source(source, of_type)

    def run(batch: Batch, lanes: Lanes) -> None:
        values = read(batch, lanes)
        # Registers are changed in place, so that no two may share an array.
        write(batch, lanes, values.copy() if lanes is None else values)

    return run


def _unpacked(scope: Scope, instruction: Instruction) -> Operation:
    whole = unsigned_of(types_of(instruction)[0].name)
    targets = scope.items(instruction.operands[0])
    part = TYPES[f"b{whole.bits // len(targets)}"]
    writers = [scope.target(target, part) for target in targets]
    read = scope.source(instruction.operands[1], whole)

    def run(batch: Batch, lanes: Lanes) -> None:
        values = read(batch, lanes)
        for index, write in enumerate(writers):
            write(batch, lanes, (values >> whole.dtype.type(part.bits * index)).astype(part.dtype))

    return run


def _packed(scope: Scope, instruction: Instruction) -> Operation:
    whole = unsigned_of(types_of(instruction)[0].name)
    sources = scope.items(instruction.operands[1])
    part = TYPES[f"b{whole.bits // len(sources)}"]
    readers = [scope.source(source, part) for source in sources]
    write = scope.target(instruction.operands[0], whole)

    def run(batch: Batch, lanes: Lanes) -> None:
        result: Array = readers[0](batch, lanes).astype(whole.dtype)
        for index, read in enumerate(readers[1:], 1):
            result = result | read(batch, lanes).astype(whole.dtype) << whole.dtype.type(part.bits * index)
        write(batch, lanes, result)

    return run


@decoder("cvta")
def _converted_address(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "to global const shared shared::cta local param")
    spaces = [modifier.partition("::")[0] for modifier in instruction.modifiers if modifier != "to"]
    window = np.uint64(_WINDOWS.get(spaces[0], 0))
    is_from_generic = "to" in instruction.modifiers
    of_type = unsigned_of(types_of(instruction)[0].name)
    if of_type.bits != 64:
        raise scope.wrong(instruction)
    write, read = (
        scope.target(instruction.operands[0], of_type),
        scope.source(instruction.operands[1], of_type),
    )

    def run(batch: Batch, lanes: Lanes) -> None:
        values = read(batch, lanes)
        if not window:
            write(batch, lanes, values.copy() if lanes is None else values)
        else:
            write(batch, lanes, values - window if is_from_generic else values + window)

    return run


def space_of_addresses(addresses: Array) -> Array:
    """Return the window of generic addresses: 1 is shared memory, 2 local, 3 parameters, 7 and more global."""
    return np.asarray(addresses >> np.uint64(44))


@decoder("isspacep")
def _is_in_space(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "global const shared shared::cta local param")
    space = instruction.modifiers[0].partition("::")[0]
    wanted = {"shared": 1, "local": 2, "param": 3}.get(space)
    write = scope.target(instruction.operands[0], TYPES["pred"])
    read = scope.source(instruction.operands[1], TYPES["b64"])

    def run(batch: Batch, lanes: Lanes) -> None:
        window = space_of_addresses(read(batch, lanes))
        write(batch, lanes, window == wanted if wanted is not None else window >= 7)

    return run


@decoder("activemask")
def _active(scope: Scope, instruction: Instruction) -> Operation:
    write = scope.target(instruction.operands[0], TYPES["b32"])

    def run(batch: Batch, lanes: Lanes) -> None:
        bits = batch.ballot(np.ones(batch.size(lanes), np.bool_), lanes)
        write(batch, lanes, bits[batch.of_lanes(batch.warp_of_lane, lanes)])

    return run


def _nothing(batch: Batch, lanes: Lanes) -> None:
    """Do what fences, prefetches and naps do here."""


@decoder("membar", "fence", "nanosleep", "prefetch", "prefetchu", "discard", "applypriority", "pmevent")
def _ignored(scope: Scope, instruction: Instruction) -> Operation:
    return _nothing


@decoder("trap", "brkpt")
def _trapped(scope: Scope, instruction: Instruction) -> Operation:
    def run(batch: Batch, lanes: Lanes) -> None:
        raise Fault(
            "trap", f"the kernel executes {instruction.opcode}", first_lane(np.ones(1, np.bool_), lanes)
        )

    return run
