"""Atomic operations on global and shared memory.

Lanes that meet at one address take turns in the order of lanes, or in an order drawn from the seed of the launch:
what depends on the order (sums of floats, exchanges) then differs between seeds, as it does between runs of a device.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from dataflare.kernels.emulator.accesses import space_of
from dataflare.kernels.emulator.batch import SHARED_WINDOW, Batch, Lanes, Operation
from dataflare.kernels.emulator.checks import Fault, first_lane
from dataflare.kernels.emulator.decoding import Scope, decoder, types_of
from dataflare.kernels.emulator.moves import space_of_addresses
from dataflare.kernels.emulator.places import global_places, shared_places
from dataflare.kernels.emulator.syntax import Instruction
from dataflare.kernels.emulator.types import Array, PtxType, unsigned_of

__all__: list[str] = []

_HINTS = "relaxed acquire release acq_rel cta gpu sys cluster noftz "
_Turn = Callable[[Array, Array, "Array | None"], Array]


def _turns(of_type: PtxType) -> dict[str, _Turn]:
    """Return what one turn makes of the value in memory, by the name of the operation."""
    zero, one = of_type.dtype.type(0), of_type.dtype.type(1)
    return {
        "add": lambda old, value, other: old + value,
        "min": lambda old, value, other: (np.fmin if of_type.is_float else np.minimum)(old, value),
        "max": lambda old, value, other: (np.fmax if of_type.is_float else np.maximum)(old, value),
        "and": lambda old, value, other: old & value,
        "or": lambda old, value, other: old | value,
        "xor": lambda old, value, other: old ^ value,
        "exch": lambda old, value, other: value,
        "cas": lambda old, value, other: np.where(old == value, other, old),
        "inc": lambda old, value, other: np.where(old >= value, zero, old + one),
        "dec": lambda old, value, other: np.where((old == zero) | (old > value), value, old - one),
    }


@decoder("atom", "red", "atom.f", "red.f")
def _atomic(scope: Scope, instruction: Instruction) -> Operation:
    of_type = types_of(instruction)[-1]
    turns = _turns(of_type)
    names = [modifier for modifier in instruction.modifiers if modifier in turns]
    if len(names) != 1 or of_type.is_packed or of_type.is_bfloat:
        raise scope.wrong(instruction)
    name, turn = names[0], turns[names[0]]
    space = space_of(scope, instruction, _HINTS + name + " ")
    operands = instruction.operands
    write = None
    if instruction.opcode == "atom":
        write = scope.target(operands[0], of_type)
        operands = operands[1:]
    read = scope.address(instruction, operands[0])
    value = scope.source(operands[1], of_type)
    other = scope.source(operands[2], of_type) if name == "cas" else None

    def run(batch: Batch, lanes: Lanes) -> None:
        count = batch.size(lanes)
        batch.traffic.atomics += count
        addresses = np.broadcast_to(read(batch, lanes), count)
        values = np.broadcast_to(value(batch, lanes), count)
        others = None if other is None else np.broadcast_to(other(batch, lanes), count)
        old = np.empty(count, of_type.dtype)
        for memory, places, index in _places(batch, lanes, addresses, space, of_type):
            old[index] = _take_turns(
                memory,
                places,
                name,
                turn,
                values[index],
                None if others is None else others[index],
                batch.random,
            )
        if write is not None:
            write(batch, lanes, old)

    return run


def _places(
    batch: Batch, lanes: Lanes, addresses: Array, space: str | None, of_type: PtxType
) -> list[tuple[Array, Array, Array | slice]]:
    """Return the memories that atomics go to: typed views, indices in them, and which of the lanes."""
    size = of_type.size_bytes
    bits = unsigned_of(of_type.name).dtype
    if space is None:
        windows = space_of_addresses(addresses)
        is_shared = windows == 1
        if is_shared.any():
            if not is_shared.all():
                raise Fault(
                    "mixed spaces",
                    "one atomic goes to shared and to global memory",
                    first_lane(is_shared, lanes),
                )
            space, addresses = "shared", addresses - np.uint64(SHARED_WINDOW)
    if space == "shared":
        offsets = shared_places(batch, lanes, addresses, size, reads=True, writes=True, races=False)
        return [(batch.shared.view(bits).view(of_type.dtype), offsets // size, slice(None))]
    batch.traffic.loaded["global"] = batch.traffic.loaded.get("global", 0) + size * len(addresses)
    batch.traffic.stored["global"] = batch.traffic.stored.get("global", 0) + size * len(addresses)
    return [
        (allocation.typed(size).view(of_type.dtype), offsets // size, index)
        for allocation, offsets, index in global_places(batch, lanes, addresses, size)
    ]


def _take_turns(
    memory: Array,
    places: Array,
    name: str,
    turn: _Turn,
    values: Array,
    others: Array | None,
    random: np.random.Generator | None,
) -> Array:
    """Apply an operation lane after lane; return what each lane found."""
    count = len(places)
    order = np.arange(count) if random is None else random.permutation(count)
    order = order[np.argsort(places[order], kind="stable")]
    sorted_places = places[order]
    is_first = np.ones(count, np.bool_)
    is_first[1:] = sorted_places[1:] != sorted_places[:-1]
    starts = np.maximum.accumulate(np.where(is_first, np.arange(count), 0))
    rank = np.arange(count) - starts
    most = int(rank.max(initial=0))
    old = np.empty(count, memory.dtype)
    if name == "add" and memory.dtype.kind in "iu" and most > 8:  # all turns at once, as a running sum
        theirs = values[order]
        before = np.cumsum(theirs, dtype=memory.dtype) - theirs
        before = before - before[starts]
        found = memory[sorted_places] + before
        old[order] = found
        is_last = np.append(is_first[1:], True)
        memory[sorted_places[is_last]] = found[is_last] + theirs[is_last]
        return old
    by_rank = np.argsort(rank, kind="stable")
    bounds = np.searchsorted(rank[by_rank], np.arange(most + 2))
    for begin, end in pairwise(bounds):  # one lane of each address still waiting
        here = by_rank[begin:end]
        now = order[here]
        place = sorted_places[here]
        found = memory[place]
        old[now] = found
        memory[place] = turn(found, values[now], None if others is None else others[now])
    return old
