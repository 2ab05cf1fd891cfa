"""Loads and stores of all state spaces, one to eight elements at once, after the checks of `places`.

Generic addresses that lie in several state spaces are split. Caching and ordering hints change nothing,
since memory is sequentially consistent here.
"""

from __future__ import annotations

from typing import Final

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
from dataflare.kernels.emulator.decoding import Scope, Writer, decoder, types_of
from dataflare.kernels.emulator.moves import space_of_addresses
from dataflare.kernels.emulator.places import (
    check_conflicts,
    check_written,
    global_places,
    local_places,
    note_global_race,
    shared_places,
)
from dataflare.kernels.emulator.syntax import Address, Instruction, Symbol
from dataflare.kernels.emulator.types import UNSIGNED, Array, PtxType, unsigned_of

__all__ = ["SPACES", "space_of"]

SPACES: Final = ("global", "shared", "local", "param", "const")
_WINDOW_NAMES: Final = {1: "shared", 2: "local", 3: "param"}
_WINDOWS: Final = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAMETER_WINDOW}
_HINTS: Final = (
    "ca cg cs lu cv wb wt volatile weak relaxed acquire release cta gpu sys cluster nc mmio v2 v4 v8 "
    "L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate "
    "L2::64B L2::128B L2::256B L2::evict_first L2::evict_last L2::evict_normal "
)
_ORDERED: Final = frozenset({"volatile", "relaxed", "acquire", "release", "mmio"})


def space_of(scope: Scope, instruction: Instruction, hints: str) -> str | None:
    """Return the state space that an instruction names, None for generic addresses."""
    scope.allow(instruction, hints + "global shared shared::cta local param param::entry param::func const")
    for modifier in instruction.modifiers:
        name = modifier.partition("::")[0]
        if name in SPACES:
            return name
    return None


@decoder("ld", "ld.f", "ldu", "ldu.f")
def _load(scope: Scope, instruction: Instruction) -> Operation:
    space = space_of(scope, instruction, _HINTS)
    declared = types_of(instruction)[-1]
    of_type = declared if declared.kind == "s" else unsigned_of(declared.name)
    targets = scope.items(instruction.operands[0])
    writers = [scope.target(target, of_type) for target in targets]
    place = instruction.operands[1]
    if space == "param":
        slot = _slot(scope, place)
        if slot is not None:
            return _load_slot(slot, place, of_type, writers)
    read = scope.address(instruction, place)
    bits, total = unsigned_of(declared.name), of_type.size_bytes * len(targets)
    is_ordered = not _ORDERED.isdisjoint(instruction.modifiers)

    def load(batch: Batch, lanes: Lanes, addresses: Array, space: str) -> list[Array]:
        batch.traffic.loaded[space] = batch.traffic.loaded.get(space, 0) + total * batch.size(lanes)
        return _LOADS[space](batch, lanes, addresses, bits, len(targets), is_ordered)

    def run(batch: Batch, lanes: Lanes) -> None:
        addresses = read(batch, lanes)
        if space is not None:
            values = load(batch, lanes, addresses, space)
        else:
            parts = _split(batch, lanes, addresses)
            if len(parts) == 1:
                values = load(batch, *parts[0][:3])
            else:
                values = [np.empty(batch.size(lanes), bits.dtype) for _ in targets]
                for some, theirs, name, index in parts:
                    for whole, part in zip(values, load(batch, some, theirs, name), strict=True):
                        whole[index] = part
        for write, value in zip(writers, values, strict=True):
            write(batch, lanes, value.view(of_type.dtype))

    return run


@decoder("st", "st.f")
def _store(scope: Scope, instruction: Instruction) -> Operation:
    space = space_of(scope, instruction, _HINTS)
    of_type = unsigned_of(types_of(instruction)[-1].name)
    sources = scope.items(instruction.operands[1])
    readers = [scope.source(source, of_type) for source in sources]
    place = instruction.operands[0]
    if space == "param":
        slot = _slot(scope, place)
        if slot is None or not isinstance(place, Address):
            raise scope.wrong(instruction, "stores to a parameter of the kernel")
        offset = place.offset_bytes

        def store_slot(batch: Batch, lanes: Lanes) -> None:
            for index, read_value in enumerate(readers):
                start = offset + index * of_type.size_bytes
                values = np.broadcast_to(read_value(batch, lanes), batch.size(lanes))
                as_bytes = np.ascontiguousarray(values)[:, np.newaxis].view(np.uint8)
                batch.slots[slot][batch.indices(lanes), start : start + of_type.size_bytes] = as_bytes

        return store_slot
    read = scope.address(instruction, place)
    total = of_type.size_bytes * len(sources)
    is_ordered = not _ORDERED.isdisjoint(instruction.modifiers)

    def store(batch: Batch, lanes: Lanes, addresses: Array, space: str, values: list[Array]) -> None:
        batch.traffic.stored[space] = batch.traffic.stored.get(space, 0) + total * batch.size(lanes)
        if space not in _STORES:
            raise Fault(
                "read-only memory", f"the kernel writes to {space} memory", first_lane(np.ones(1), lanes)
            )
        _STORES[space](batch, lanes, addresses, of_type, values, is_ordered)

    def run(batch: Batch, lanes: Lanes) -> None:
        addresses = read(batch, lanes)
        values = [read_value(batch, lanes) for read_value in readers]
        if space is not None:
            store(batch, lanes, addresses, space, values)
            return
        for some, theirs, name, index in _split(batch, lanes, addresses):
            store(batch, some, theirs, name, [value[index] if value.ndim else value for value in values])

    return run


def _slot(scope: Scope, place: object) -> int | None:
    """Return the number of the ``.param`` variable that an address names, if it names one of a call."""
    if isinstance(place, Address) and isinstance(place.base, Symbol):
        return scope.slots.get(place.base.name)
    return None


def _load_slot(slot: int, place: object, of_type: PtxType, writers: list[Writer]) -> Operation:
    assert isinstance(place, Address)
    offset, size = place.offset_bytes, of_type.size_bytes

    def run(batch: Batch, lanes: Lanes) -> None:
        rows = batch.of_lanes(batch.slots[slot], lanes)
        for index, write in enumerate(writers):
            start = offset + index * size
            values = np.ascontiguousarray(rows[:, start : start + size]).view(of_type.dtype)[:, 0]
            write(batch, lanes, values.copy())

    return run


def _split(batch: Batch, lanes: Lanes, addresses: Array) -> list[tuple[Lanes, Array, str, Array | slice]]:
    """Split generic addresses by state space: lanes, addresses there, the space, and which of the lanes."""
    windows = space_of_addresses(addresses)
    low, high = int(windows.min()), int(windows.max())
    if low == high or low >= 7:
        name = _WINDOW_NAMES.get(low, "global")
        return [(lanes, addresses - np.uint64(_WINDOWS.get(name, 0)), name, slice(None))]
    parts: list[tuple[Lanes, Array, str, Array | slice]] = []
    names = np.minimum(windows, 7)
    for window in np.unique(names):
        index = np.nonzero(names == window)[0]
        name = _WINDOW_NAMES.get(int(window), "global")
        some = batch.indices(lanes)[index]
        parts.append((some, addresses[index] - np.uint64(_WINDOWS.get(name, 0)), name, index))
    return parts


# ------------------------------------------------------------------------------------------------- global memory


def _load_global(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, elements: int, is_ordered: bool
) -> list[Array]:
    size = bits.size_bytes
    values: list[Array] = []
    for allocation, offsets, index in global_places(batch, lanes, addresses, size * elements):
        if allocation.written is not None and batch.checks.uninitialised_global:
            check_written(batch, lanes, allocation, offsets, index, size * elements)
        if batch.global_races is not None and not is_ordered and not allocation.is_module:
            note_global_race(batch, lanes, allocation, offsets, index, size * elements, writes=False)
        first = offsets // size
        view = allocation.typed(size)
        parts = [view[first + element] if element else view[first] for element in range(elements)]
        if isinstance(index, slice):
            return parts
        if not values:
            values = [np.empty(addresses.shape, bits.dtype) for _ in range(elements)]
        for whole, part in zip(values, parts, strict=True):
            whole[index] = part
    return values


def _store_global(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, values: list[Array], is_ordered: bool
) -> None:
    size = bits.size_bytes
    if batch.checks.conflicting_stores and not is_ordered:
        check_conflicts(batch, lanes, addresses, values)
    for allocation, offsets, index in global_places(batch, lanes, addresses, size * len(values)):
        if allocation.is_module and allocation.label in batch.constant_names:
            raise Fault(
                "read-only memory",
                f"it writes to the constant {allocation.label}",
                first_lane(offsets, lanes),
            )
        if batch.global_races is not None and not is_ordered:
            note_global_race(batch, lanes, allocation, offsets, index, size * len(values), writes=True)
        first = offsets // size
        view = allocation.typed(size)
        for element, value in enumerate(values):
            part = value if isinstance(index, slice) or not value.ndim else value[index]
            if part.ndim and not first.ndim:
                part = part[-1]  # all lanes store to one address
            view[first + element if element else first] = part
        if allocation.written is not None:
            for byte in range(size * len(values)):
                allocation.written[offsets + byte] = True


# ------------------------------------------------------------------------------------- shared, local, parameters


def _load_shared(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, elements: int, is_ordered: bool
) -> list[Array]:
    size = bits.size_bytes
    offsets = shared_places(
        batch, lanes, addresses, size * elements, reads=True, writes=False, races=not is_ordered
    )
    view = batch.shared.view(bits.dtype)
    return [view[offsets // size + element] for element in range(elements)]


def _store_shared(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, values: list[Array], is_ordered: bool
) -> None:
    size = bits.size_bytes
    offsets = shared_places(
        batch, lanes, addresses, size * len(values), reads=False, writes=True, races=not is_ordered
    )
    view = batch.shared.view(bits.dtype)
    for element, value in enumerate(values):
        view[offsets // size + element] = value
    for byte in range(size * len(values)):
        batch.shared_written[offsets + byte] = True


def _load_local(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, elements: int, is_ordered: bool
) -> list[Array]:
    first = local_places(batch, lanes, addresses, bits.size_bytes * elements) // bits.size_bytes
    view = batch.local.view(bits.dtype)
    return [view[first + element] for element in range(elements)]


def _store_local(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, values: list[Array], is_ordered: bool
) -> None:
    first = local_places(batch, lanes, addresses, bits.size_bytes * len(values)) // bits.size_bytes
    view = batch.local.view(bits.dtype)
    for element, value in enumerate(values):
        view[first + element] = value


def _load_parameter(
    batch: Batch, lanes: Lanes, addresses: Array, bits: PtxType, elements: int, is_ordered: bool
) -> list[Array]:
    size = bits.size_bytes
    offsets = addresses.astype(np.int64)
    if (offsets < 0).any() or (offsets + size * elements > len(batch.parameters)).any():
        raise Fault("out of bounds", f"access of {size * elements} bytes outside the kernel's parameters")
    data = np.frombuffer(batch.parameters, np.uint8)
    places = np.atleast_1d(offsets)[:, np.newaxis] + np.arange(size * elements)
    columns = np.ascontiguousarray(data[places]).view(UNSIGNED[size])
    if offsets.ndim == 0:
        return [columns[0, element] for element in range(elements)]
    return [columns[:, element].copy() for element in range(elements)]


_LOADS = {
    "global": _load_global,
    "const": _load_global,
    "shared": _load_shared,
    "local": _load_local,
    "param": _load_parameter,
}
_STORES = {"global": _store_global, "shared": _store_shared, "local": _store_local}
