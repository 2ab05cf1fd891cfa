"""The blocks that run together: their lanes, registers, special registers, shared and local memory.

A lane is a thread; lanes of a block are neighbours, block after block. "Lanes" as an argument are the indices of
those that run, ascending, or None for all of them, which is the fast case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.races import RaceShadow, access_keys
from dataflare.kernels.emulator.types import Array

__all__ = ["LOCAL_WINDOW", "PARAMETER_WINDOW", "SHARED_START", "SHARED_WINDOW", "Batch", "Lanes", "Traffic"]

Lanes: TypeAlias = "NDArray[np.intp] | None"
Operation: TypeAlias = "Callable[[Batch, Lanes], None]"

SHARED_WINDOW: Final = 0x1000_0000_0000
"""Where generic addresses of shared memory begin."""

LOCAL_WINDOW: Final = 0x2000_0000_0000
"""Where generic addresses of local memory begin."""

PARAMETER_WINDOW: Final = 0x3000_0000_0000
"""Where generic addresses of kernel parameters begin."""

SHARED_START: Final = 0x400
"""The first address in shared memory itself; what lies before is kept by the system, as on devices."""

_WARP_LANES: Final = 32
_PATTERN: Final = 0xA5
_UNKNOWN: Final = 0xA5A5_A5A5_A5A5_A5A5


class Traffic:
    """Bytes that lanes loaded and stored, by state space, and how often barriers were passed."""

    def __init__(self) -> None:
        self.instructions = 0
        self.block_steps = 0
        self.barriers = 0
        self.loaded: dict[str, int] = {}
        self.stored: dict[str, int] = {}
        self.atomics = 0


class Batch:
    """The state of the blocks that run together.

    Parameters
    ----------
    blocks
        Their linear numbers in the grid.
    register_sizes
        The bytes of each register; 0 for a predicate.
    slot_bytes
        The sizes of the ``.param`` variables that calls use.
    shared_bytes, local_bytes
        Of a block, and of a thread.
    shared_granule_bytes
        The smallest access to shared memory.
    """

    def __init__(
        self,
        *,
        blocks: Array,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        register_sizes: list[int],
        slot_bytes: list[int],
        shared_bytes: int,
        shared_granule_bytes: int,
        local_bytes: int,
        parameters: bytes,
        memory: DeviceMemory,
        global_addresses: dict[str, int],
        constant_names: frozenset[str],
        global_races: dict[int, RaceShadow] | None,
        checks: Checks,
        traffic: Traffic,
        random: np.random.Generator | None,
    ) -> None:
        self.threads = threads = block[0] * block[1] * block[2]
        self.blocks = blocks
        self.grid = grid
        self.block = block
        self.count = count = len(blocks) * threads
        self.memory = memory
        self.parameters = parameters
        self.global_addresses = global_addresses
        self.constant_names = constant_names
        self.global_races = global_races
        self.checks = checks
        self.traffic = traffic
        self.random = random
        self.at = 0  # the place of the running instruction in its block of code, for messages

        thread = np.tile(np.arange(threads), len(blocks))
        self.block_of_lane = np.repeat(np.arange(len(blocks)), threads)
        self.lane_in_warp = (thread % _WARP_LANES).astype(np.uint32)
        self.warps_per_block = -(-threads // _WARP_LANES)
        self.warp_count = len(blocks) * self.warps_per_block
        self.warp_of_lane = self.block_of_lane * self.warps_per_block + thread // _WARP_LANES
        self.has_full_warps = threads % _WARP_LANES == 0
        self.slot_of_lane = self.warp_of_lane * _WARP_LANES + self.lane_in_warp
        self.all_lanes = np.arange(count)
        self.has_exited = np.zeros(count, np.bool_)
        self.exited = 0
        self._thread = thread
        self._special: dict[str, Array] = {}

        unknown = np.uint64(_UNKNOWN)
        self.registers: list[Array] = [
            np.bool_(False) if size == 0 else unknown.astype(f"u{size}") for size in register_sizes
        ]
        self.carry: Array = np.zeros((), np.bool_)
        self.slots: list[Array] = [np.zeros((count, size), np.uint8) for size in slot_bytes]

        self.shared_bytes = shared_bytes
        self.shared_stride = -(-shared_bytes // 16) * 16
        self.shared = np.full(len(blocks) * self.shared_stride, _PATTERN, np.uint8)
        self.shared_written = np.zeros(self.shared.size, np.bool_)
        self.block_epoch = np.zeros(len(blocks), np.int64)
        self.warp_epoch = np.zeros(self.warp_count, np.int64)
        self.shared_races: RaceShadow | None = None
        if checks.shared_races and shared_bytes:
            self.shared_races = RaceShadow(
                self.shared.size, shared_granule_bytes, threads, spans_blocks=False
            )
        self.local_stride = -(-local_bytes // 16) * 16
        self.local_bytes = local_bytes
        self.local = np.full(count * self.local_stride, _PATTERN, np.uint8)

    # --------------------------------------------------------------------------------------------- lanes, warps

    def size(self, lanes: Lanes) -> int:
        """Return how many lanes run."""
        return self.count if lanes is None else len(lanes)

    def indices(self, lanes: Lanes) -> Array:
        """Return the indices of the lanes that run."""
        return self.all_lanes if lanes is None else lanes

    def of_lanes(self, values: Array, lanes: Lanes) -> Array:
        """Return the entries of the lanes that run."""
        return values if lanes is None else values[lanes]

    def ballot(self, flags: Array, lanes: Lanes) -> Array:
        """Return, for each warp, the bits of the running lanes whose flag is true."""
        if lanes is None and self.has_full_warps:
            bits = np.broadcast_to(flags, self.count)
        else:
            bits = np.zeros(self.warp_count * _WARP_LANES, np.bool_)
            bits[self.of_lanes(self.slot_of_lane, lanes)] = flags
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def existing_bits(self) -> Array:
        """Return, for each warp, the bits of the lanes that have not exited."""
        return self.ballot(~self.has_exited, None)

    def thread_name(self, lane: int) -> str:
        """Return a lane's place in the grid: ``thread (3, 0, 0) of block (1, 0, 0)``."""
        names = []
        for kind in ("tid", "ctaid"):
            place = ", ".join(str(int(self.special(f"%{kind}.{axis}")[lane])) for axis in "xyz")
            names.append(f"({place})")
        return f"thread {names[0]} of block {names[1]}"

    def special(self, name: str) -> Array:
        """Return a special register: one value, or one for each lane."""
        found = self._special.get(name)
        if found is None:
            found = self._special[name] = self._make_special(name[1:])
        return found

    def _make_special(self, name: str) -> Array:
        kind, _, axis = name.partition(".")
        if axis:
            at = "xyz".index(axis)
            if kind == "ntid":
                return np.uint32(self.block[at])
            if kind == "nctaid":
                return np.uint32(self.grid[at])
            extent = self.block if kind == "tid" else self.grid
            linear = self._thread if kind == "tid" else self.blocks[self.block_of_lane]
            before = int(np.prod(extent[:at], dtype=np.int64))
            return np.asarray(linear // before % extent[at]).astype(np.uint32)
        if name == "laneid":
            return self.lane_in_warp
        if name == "warpid":
            return (self._thread // _WARP_LANES).astype(np.uint32)
        if name == "nwarpid":
            return np.uint32(self.warps_per_block)
        if name.startswith("lanemask_"):
            bit = np.uint32(1) << self.lane_in_warp
            masks = {
                "eq": bit,
                "lt": bit - 1,
                "le": bit | (bit - 1),
                "gt": ~(bit | (bit - 1)),
                "ge": ~(bit - 1),
            }
            return masks[name.removeprefix("lanemask_")].astype(np.uint32)
        return np.zeros((), np.uint64)  # clocks stand still, and there is one multiprocessor

    # --------------------------------------------------------------------------------------------------- races

    def race_keys(self, lanes: Lanes) -> Array:
        """Return what `RaceShadow` needs to know of each running lane."""
        index = self.indices(lanes)
        block = self.block_of_lane[index]
        thread = self.blocks[block] * self.threads + self._thread[index]
        return access_keys(thread, self.block_epoch[block], self.warp_epoch[self.warp_of_lane[index]])

    def release_block(self, block: int) -> None:
        """Count a barrier that all threads of a block passed."""
        self.block_epoch[block] += 1
        self.traffic.barriers += 1
