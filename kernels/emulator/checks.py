"""Which misuses a launch looks for, and how an instruction reports one.

Always found: accesses out of bounds, after free and misaligned, divergent barriers and barriers after an exit,
bad masks and absent lanes of warp instructions, integer division by zero, deadlock, live-lock, bad launches.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataflare.kernels.emulator.types import Array

__all__ = ["Checks", "Fault"]


@dataclass(frozen=True)
class Checks:
    """The checks that cost time or that some programs want to do without.

    Attributes
    ----------
    shared_races
        Two threads touch a byte of shared memory, one of them writes, and no barrier lies between.
    uninitialised_shared
        Reads of shared memory that nothing wrote.
    conflicting_stores
        Threads store different values to one global address with one instruction.
    global_races
        As ``shared_races``, for global memory and over the whole grid. Takes 32 bytes for each byte touched.
    uninitialised_global
        Reads of global memory that neither the host nor a kernel wrote. Needs a memory that tracks it.
    exited_members
        A warp instruction names lanes that have exited. PTX allows it, but a mask is rarely meant so.
    """

    shared_races: bool = True
    uninitialised_shared: bool = True
    conflicting_stores: bool = True
    global_races: bool = False
    uninitialised_global: bool = True
    exited_members: bool = False


class Fault(Exception):
    """What an instruction found, before it is known where: becomes a `DeviceFaultError`.

    Parameters
    ----------
    check
        Which check found it.
    message
        What happened, without a full stop.
    lane
        The first lane of the batch that it happened to, where there is one.
    """

    def __init__(self, check: str, message: str, lane: int | None = None) -> None:
        super().__init__(message)
        self.check = check
        self.lane = lane


def first_lane(wrong: Array, lanes: Array | None) -> int:
    """Return the lane of the first entry that is true; `wrong` has one entry for each of `lanes`."""
    index = int(wrong.argmax()) if wrong.ndim else 0
    return index if lanes is None else int(lanes[index])
