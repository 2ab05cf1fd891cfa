"""Instructions that need the lanes of a warp together: shfl, vote, match, redux, elect and bar.warp.sync.

An exchange is called for lanes that are complete: every lane of each one's mask that has not exited is there. When
that is so is for the scheduler to say, and the mask is read by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes, Operation
from dataflare.kernels.emulator.checks import Fault, first_lane
from dataflare.kernels.emulator.decoding import Reader, Scope, types_of
from dataflare.kernels.emulator.syntax import Instruction
from dataflare.kernels.emulator.types import TYPES

__all__ = ["WarpExchange", "decode_exchange", "is_exchange"]

_WORD: Final = TYPES["b32"]
_PREDICATE: Final = TYPES["pred"]


@dataclass(frozen=True)
class WarpExchange:
    """What a warp does together: the mask of lanes that take part, and the operation once they are there."""

    mask: Reader
    operation: Operation


def is_exchange(instruction: Instruction) -> bool:
    """Return whether an instruction needs lanes of a warp together."""
    if instruction.opcode in ("bar", "barrier"):
        return "warp" in instruction.modifiers
    return instruction.opcode in ("shfl", "vote", "match", "redux", "elect")


def decode_exchange(scope: Scope, instruction: Instruction) -> WarpExchange:
    """Return what an instruction for which `is_exchange` holds does."""
    if instruction.opcode in ("bar", "barrier"):
        return WarpExchange(scope.source(instruction.operands[0], _WORD), _synchronised)
    if "sync" not in instruction.modifiers:
        raise scope.wrong(instruction, "without .sync is not covered")
    decoders: dict[str, Callable[[Scope, Instruction], Operation]] = {
        "shfl": _shuffled,
        "vote": _voted,
        "match": _matched,
        "redux": _reduced,
        "elect": _elected,
    }
    mask = scope.source(instruction.operands[-1], _WORD)
    return WarpExchange(mask, decoders[instruction.opcode](scope, instruction))


def _synchronised(batch: Batch, lanes: Lanes) -> None:
    batch.warp_epoch[np.unique(batch.of_lanes(batch.warp_of_lane, lanes))] += 1


def _voted(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "sync ballot all any uni")
    mode = next(modifier for modifier in instruction.modifiers if modifier in ("ballot", "all", "any", "uni"))
    write = scope.target(instruction.operands[0], _WORD if mode == "ballot" else _PREDICATE)
    predicate = scope.source(instruction.operands[1], _PREDICATE)
    mask = scope.source(instruction.operands[2], _WORD)

    def run(batch: Batch, lanes: Lanes) -> None:
        warp = batch.of_lanes(batch.warp_of_lane, lanes)
        members = mask(batch, lanes)
        yes = batch.ballot(predicate(batch, lanes), lanes)[warp] & members
        if mode == "ballot":
            write(batch, lanes, yes)
            return
        if mode == "any":
            write(batch, lanes, yes != 0)
            return
        present = batch.ballot(np.ones(batch.size(lanes), np.bool_), lanes)[warp] & members
        write(batch, lanes, yes == present if mode == "all" else (yes == present) | (yes == 0))

    return run


def _shuffled(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "sync up down bfly idx")
    mode = next(modifier for modifier in instruction.modifiers if modifier in ("up", "down", "bfly", "idx"))
    results = scope.items(instruction.operands[0])
    write = scope.target(results[0], _WORD)
    write_valid = scope.target(results[1], _PREDICATE) if len(results) > 1 else None
    value, distance, control, mask = (scope.source(operand, _WORD) for operand in instruction.operands[1:5])

    def run(batch: Batch, lanes: Lanes) -> None:
        count = batch.size(lanes)
        lane = batch.of_lanes(batch.lane_in_warp, lanes).astype(np.int64)
        by = (distance(batch, lanes) & np.uint32(31)).astype(np.int64)
        packed = control(batch, lanes).astype(np.int64)
        clamp, segment = packed & 31, packed >> 8 & 31
        last = (lane & segment) | (clamp & ~segment & 31)
        if mode == "up":
            source = lane - by
            is_valid = source >= last
        else:
            if mode == "down":
                source = lane + by
            elif mode == "bfly":
                source = lane ^ by
            else:
                source = (lane & segment) | (by & ~segment & 31)
            is_valid = source <= last
        source = np.where(is_valid, source, lane)
        warp = batch.of_lanes(batch.warp_of_lane, lanes)
        slots = np.zeros(batch.warp_count * 32, np.uint32)
        present = np.zeros(batch.warp_count * 32, np.bool_)
        own = batch.of_lanes(batch.slot_of_lane, lanes)
        slots[own] = np.broadcast_to(value(batch, lanes), count)
        present[own] = True
        place = warp * 32 + source
        members = np.broadcast_to(mask(batch, lanes), count)
        wrong = ~present[place] | ((members >> source.astype(np.uint32)) & np.uint32(1) == 0)
        if wrong.any():
            raise Fault(
                "absent lane",
                f"shfl reads lane {int(source[wrong.argmax()])} of its warp, which does not take part",
                first_lane(wrong, lanes),
            )
        write(batch, lanes, slots[place])
        if write_valid is not None:
            write_valid(batch, lanes, np.broadcast_to(is_valid, count).copy())

    return run


def _matched(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "sync any all")
    of_type = types_of(instruction)[-1]
    results = scope.items(instruction.operands[0])
    write = scope.target(results[0], _WORD)
    write_all = scope.target(results[1], _PREDICATE) if len(results) > 1 else None
    value, mask = scope.source(instruction.operands[1], of_type), scope.source(instruction.operands[2], _WORD)
    wants_all = "all" in instruction.modifiers

    def run(batch: Batch, lanes: Lanes) -> None:
        count = batch.size(lanes)
        values = np.broadcast_to(value(batch, lanes), count)
        warp = batch.of_lanes(batch.warp_of_lane, lanes)
        members = np.broadcast_to(mask(batch, lanes), count)
        same = np.zeros(count, np.uint32)
        for one in np.unique(values):
            has = values == one
            same[has] = batch.ballot(has, lanes)[warp[has]]
        same &= members
        if not wants_all:
            write(batch, lanes, same)
            return
        present = batch.ballot(np.ones(count, np.bool_), lanes)[warp] & members
        agree = same == present
        write(batch, lanes, np.where(agree, present, np.uint32(0)))
        if write_all is not None:
            write_all(batch, lanes, agree)

    return run


def _reduced(scope: Scope, instruction: Instruction) -> Operation:
    scope.allow(instruction, "sync add min max and or xor")
    of_type = types_of(instruction)[0]
    if of_type.is_float:
        raise scope.wrong(instruction)
    functions: dict[str, np.ufunc] = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    combine = next(functions[modifier] for modifier in instruction.modifiers if modifier in functions)
    write = scope.target(instruction.operands[0], of_type)
    value, mask = scope.source(instruction.operands[1], of_type), scope.source(instruction.operands[2], _WORD)

    def run(batch: Batch, lanes: Lanes) -> None:
        count = batch.size(lanes)
        values = np.broadcast_to(value(batch, lanes), count)
        # Lanes of one warp may take part in different groups, each with its own mask.
        warp = batch.of_lanes(batch.warp_of_lane, lanes)
        group = warp.astype(np.uint64) << np.uint64(32) | np.broadcast_to(mask(batch, lanes), count)
        order = np.argsort(group, kind="stable")
        _, start, which = np.unique(group, return_index=True, return_inverse=True)
        begins = np.searchsorted(group[order], group[start])
        write(batch, lanes, combine.reduceat(values[order], begins).astype(of_type.dtype)[which])

    return run


def _elected(scope: Scope, instruction: Instruction) -> Operation:
    results = scope.items(instruction.operands[0])
    write_leader, write_is_leader = scope.target(results[0], _WORD), scope.target(results[1], _PREDICATE)
    mask = scope.source(instruction.operands[1], _WORD)

    def run(batch: Batch, lanes: Lanes) -> None:
        warp = batch.of_lanes(batch.warp_of_lane, lanes)
        present = batch.ballot(np.ones(batch.size(lanes), np.bool_), lanes)[warp] & mask(batch, lanes)
        lowest = present & (~present + np.uint32(1))
        leader = np.bitwise_count(lowest - np.uint32(1)).astype(np.uint32)
        write_leader(batch, lanes, leader)
        write_is_leader(batch, lanes, leader == batch.of_lanes(batch.lane_in_warp, lanes))

    return run
