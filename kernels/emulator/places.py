"""Where accesses go in memory, and what is wrong with them: bounds, alignment, reads before writes, races.

Global accesses look at the lowest and highest address first: where both lie in one allocation, nothing else is
asked. Each function raises a `Fault` for what it finds.
"""

from __future__ import annotations

import numpy as np

from dataflare.kernels.emulator.batch import SHARED_START, Batch, Lanes
from dataflare.kernels.emulator.checks import Fault, first_lane
from dataflare.kernels.emulator.memory import Allocation
from dataflare.kernels.emulator.races import RaceShadow
from dataflare.kernels.emulator.types import Array

__all__ = [
    "check_conflicts",
    "check_written",
    "global_places",
    "local_places",
    "note_global_race",
    "shared_places",
]


def global_places(
    batch: Batch, lanes: Lanes, addresses: Array, total_bytes: int
) -> list[tuple[Allocation, Array, Array | slice]]:
    """Return where accesses of `total_bytes` go: the allocation, offsets in it, and which of the lanes.

    Raises
    ------
    Fault
        An access is misaligned, or is not wholly inside an allocation.
    """
    if total_bytes > 1 and (addresses & np.uint64(total_bytes - 1)).any():
        wrong = np.atleast_1d(addresses & np.uint64(total_bytes - 1)) != 0
        raise Fault(
            "misaligned",
            f"access of {total_bytes} bytes at {int(np.atleast_1d(addresses)[wrong.argmax()]):#x}, "
            f"which is not a multiple of {total_bytes}",
            first_lane(wrong, lanes),
        )
    low = int(addresses.min())
    allocation = batch.memory.find(low)
    if allocation is not None and int(addresses.max()) + total_bytes <= allocation.end:
        return [(allocation, (addresses - np.uint64(allocation.address)).view(np.int64), slice(None))]
    flat = np.atleast_1d(addresses)
    try:
        which, allocations = batch.memory.locate(flat, total_bytes)
    except Fault as fault:
        lane = fault.lane or 0
        lane = lane if lanes is None else int(lanes[lane])
        raise Fault(fault.check, str(fault), lane) from None
    places: list[tuple[Allocation, Array, Array | slice]] = []
    for number, one in enumerate(allocations):
        index = np.nonzero(which == number)[0]
        places.append((one, (flat[index] - np.uint64(one.address)).view(np.int64), index))
    return places


def note_global_race(
    batch: Batch,
    lanes: Lanes,
    allocation: Allocation,
    offsets: Array,
    index: Array | slice,
    size: int,
    writes: bool,
) -> None:
    """Raise a `Fault` if an access to global memory races with one before."""
    shadows = batch.global_races
    if shadows is None:
        return
    shadow = shadows.get(allocation.serial)
    if shadow is None:
        shadow = RaceShadow(allocation.data.size, 1, batch.threads, spans_blocks=True)
        shadows[allocation.serial] = shadow
    keys = batch.race_keys(lanes)
    if not isinstance(index, slice):
        keys = keys[index]
    wrong = shadow.access(np.broadcast_to(offsets, keys.shape), size, keys, writes=writes)
    if wrong is not None:
        lane = int(batch.indices(lanes)[index][int(wrong.argmax())])
        verb = "writes" if writes else "reads"
        raise Fault(
            "race",
            f"it {verb} global memory that another thread uses, and nothing orders the two ({allocation})",
            lane,
        )


def check_written(
    batch: Batch, lanes: Lanes, allocation: Allocation, offsets: Array, index: Array | slice, size: int
) -> None:
    """Raise a `Fault` if an access reads bytes that nothing wrote."""
    written = allocation.written
    assert written is not None
    offsets = np.atleast_1d(offsets)
    for byte in range(size):
        wrong = ~written[offsets + byte]
        if wrong.any():
            at = int(wrong.argmax())
            lane = int(batch.indices(lanes)[index][at])
            raise Fault(
                "uninitialised",
                f"read of {allocation.address + int(offsets[at]) + byte:#x}, which nothing wrote, in the {allocation}",
                lane,
            )


def check_conflicts(batch: Batch, lanes: Lanes, addresses: Array, values: list[Array]) -> None:
    """Raise a `Fault` if lanes store different values to one address."""
    differing = [value for value in values if value.ndim]
    if not differing or batch.size(lanes) < 2:
        return
    if addresses.ndim:
        if (addresses[1:] > addresses[:-1]).all():
            return
        order = np.argsort(addresses, kind="stable")
        same = addresses[order[1:]] == addresses[order[:-1]]
        if not same.any():
            return
    else:
        order, same = np.arange(batch.size(lanes)), np.ones(batch.size(lanes) - 1, np.bool_)
    for value in differing:
        wrong = same & (value[order[1:]] != value[order[:-1]])
        if wrong.any():
            at = order[int(wrong.argmax()) + 1]
            lane = int(batch.indices(lanes)[at])
            place = int(addresses[at] if addresses.ndim else addresses)
            raise Fault("conflicting stores", f"threads store different values to {place:#x} at once", lane)


def shared_places(
    batch: Batch,
    lanes: Lanes,
    addresses: Array,
    total_bytes: int,
    *,
    reads: bool,
    writes: bool,
    races: bool = True,
) -> Array:
    """Return the byte offsets of accesses in the shared memory of all blocks of the batch.

    Raises
    ------
    Fault
        An access is out of bounds or misaligned, reads what nothing wrote, or races.
    """
    count = batch.size(lanes)
    within = np.broadcast_to(addresses, count).astype(np.int64) - SHARED_START
    wrong = (within < 0) | (within + total_bytes > batch.shared_bytes)
    if wrong.any():
        at = int(wrong.argmax())
        raise Fault(
            "out of bounds",
            f"access of {total_bytes} bytes at {int(within[at])} in shared memory of {batch.shared_bytes} bytes",
            first_lane(wrong, lanes),
        )
    if total_bytes > 1:
        wrong = within & (total_bytes - 1) != 0
        if wrong.any():
            raise Fault(
                "misaligned",
                f"access of {total_bytes} bytes at {int(within[wrong.argmax()])} in shared memory",
                first_lane(wrong, lanes),
            )
    offsets = within + batch.of_lanes(batch.block_of_lane, lanes) * batch.shared_stride
    if reads and batch.checks.uninitialised_shared:
        for byte in range(total_bytes):
            wrong = ~batch.shared_written[offsets + byte]
            if wrong.any():
                at = int(wrong.argmax())
                raise Fault(
                    "uninitialised",
                    f"read of {total_bytes} bytes at {int(within[at])} in shared memory, which nothing wrote",
                    first_lane(wrong, lanes),
                )
    if races and batch.shared_races is not None:
        racing = batch.shared_races.access(offsets, total_bytes, batch.race_keys(lanes), writes=writes)
        if racing is not None:
            verb = "writes" if writes else "reads"
            raise Fault(
                "race",
                f"it {verb} {total_bytes} bytes at {int(within[racing.argmax()])} in shared memory that another "
                "thread uses, and no barrier orders the two",
                first_lane(racing, lanes),
            )
    return np.asarray(offsets)


def local_places(batch: Batch, lanes: Lanes, addresses: Array, total_bytes: int) -> Array:
    """Return the byte offsets of accesses in the local memory of all lanes of the batch."""
    within = np.broadcast_to(addresses, batch.size(lanes)).astype(np.int64)
    wrong = (within < 0) | (within + total_bytes > batch.local_bytes)
    if wrong.any():
        raise Fault(
            "out of bounds",
            f"access of {total_bytes} bytes at {int(within[wrong.argmax()])} in local memory of "
            f"{batch.local_bytes} bytes",
            first_lane(wrong, lanes),
        )
    wrong = within & (total_bytes - 1) != 0
    if wrong.any():
        raise Fault("misaligned", f"access of {total_bytes} bytes in local memory", first_lane(wrong, lanes))
    return np.asarray(within + batch.indices(lanes) * batch.local_stride)
