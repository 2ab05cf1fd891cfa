"""Launches kernels: arguments, grid and block, batches of blocks, and what was executed.

Blocks run in batches of some thousand threads, one batch after the other, in the order of their numbers or in one
drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Traffic
from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.program import Program, program_of
from dataflare.kernels.emulator.races import RaceShadow
from dataflare.kernels.emulator.schedule import run_batch
from dataflare.kernels.emulator.syntax import Module
from dataflare.kernels.errors import DeviceFaultError

__all__ = ["LaunchStatistics", "launch"]

BLOCK_LIMIT: Final = 1024
STATIC_SHARED_LIMIT_BYTES: Final = 48 << 10
SHARED_LIMIT_BYTES: Final = 227 << 10
_BLOCK_AXIS_LIMITS: Final = (1024, 1024, 64)
_GRID_AXIS_LIMITS: Final = (2**31 - 1, 65535, 65535)
_BATCH_LANES: Final = 16384
_STEP_LIMIT: Final = 1_000_000


@dataclass(frozen=True)
class LaunchStatistics:
    """What a launch executed, counted over threads.

    Attributes
    ----------
    instructions
        Executed by threads, those included whose predicate was false.
    bytes_loaded, bytes_stored
        By state space; generic accesses count for the space that they went to, atomics as both.
    barriers
        Passed by blocks.
    atomics
        Executed by threads.
    """

    threads: int
    instructions: int
    bytes_loaded: Mapping[str, int]
    bytes_stored: Mapping[str, int]
    barriers: int
    atomics: int

    @property
    def global_bytes(self) -> int:
        """The bytes that threads moved between registers and global memory."""
        return self.bytes_loaded.get("global", 0) + self.bytes_stored.get("global", 0)


def launch(
    module: Module,
    entry: str,
    *,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: bytes | Sequence[int],
    memory: DeviceMemory,
    shared_bytes: int = 0,
    seed: int | None = None,
    warp_schedule: bool = False,
    checks: Checks | None = None,
    step_limit: int = _STEP_LIMIT,
) -> LaunchStatistics:
    """Run a kernel to its end.

    Parameters
    ----------
    grid, block
        Up to three extents each: of the grid in blocks, of a block in threads.
    arguments
        The parameters as the kernel lays them out, or one integer for each of them.
    shared_bytes
        Dynamic shared memory of a block.
    seed
        Draws the order of blocks and of atomic operations; None keeps to the order of their numbers.
    warp_schedule
        Let one warp, drawn at random, make one step at a time. Slow; needs a seed.
    checks
        Which misuses to look for; the default is `Checks()`.
    step_limit
        How many steps a batch of blocks may take before it counts as a live-lock.

    Raises
    ------
    DeviceFaultError
        The launch is not one that a device accepts, or a check found something.
    DeviceCodeError
        The kernel is not there, or has instructions that are not covered.
    """
    program = program_of(module, entry)
    grid_extents, block_extents = (
        _extents(grid, _GRID_AXIS_LIMITS, "grid"),
        _extents(block, _BLOCK_AXIS_LIMITS, "block"),
    )
    threads = int(np.prod(block_extents))
    _check_block(program, block_extents, threads)
    shared = _shared_bytes(program, shared_bytes)
    parameters = _packed(program, arguments)
    checks = checks or Checks()
    random = np.random.default_rng(seed) if seed is not None or warp_schedule else None
    traffic = Traffic()
    blocks = np.arange(int(np.prod(grid_extents)))
    if random is not None:
        blocks = random.permutation(blocks)
    per_batch = max(1, _BATCH_LANES // threads)
    global_addresses = memory.module_addresses(module)
    global_races: dict[int, RaceShadow] | None = {} if checks.global_races else None
    constants = frozenset(name for name, variable in module.variables.items() if variable.space == "const")
    with np.errstate(all="ignore"):
        for start in range(0, len(blocks), per_batch):
            batch = Batch(
                blocks=blocks[start : start + per_batch],
                grid=grid_extents,
                block=block_extents,
                register_sizes=program.register_sizes,
                slot_bytes=program.slot_bytes,
                shared_bytes=shared,
                shared_granule_bytes=program.shared_granule_bytes,
                local_bytes=program.local_bytes,
                parameters=parameters,
                memory=memory,
                global_addresses=global_addresses,
                constant_names=constants,
                global_races=global_races,
                checks=checks,
                traffic=traffic,
                random=random,
            )
            run_batch(program, batch, step_limit=step_limit, by_warps=warp_schedule)
    return LaunchStatistics(
        threads=threads * len(blocks),
        instructions=traffic.instructions,
        bytes_loaded=traffic.loaded,
        bytes_stored=traffic.stored,
        barriers=traffic.barriers,
        atomics=traffic.atomics,
    )


def _extents(given: Sequence[int], limits: tuple[int, int, int], what: str) -> tuple[int, int, int]:
    x, y, z = (*given, 1, 1, 1)[:3]
    for extent, limit in zip((x, y, z), limits, strict=True):
        if len(given) > 3 or not 1 <= extent <= limit:
            raise DeviceFaultError(
                f"A {what} of {tuple(given)} is not one that a device accepts.", "bad launch"
            )
    return x, y, z


def _check_block(program: Program, block: tuple[int, int, int], threads: int) -> None:
    entry = program.entry
    if threads > BLOCK_LIMIT:
        raise DeviceFaultError(
            f"Kernel {entry.name}: a block of {threads} threads; a device has at most {BLOCK_LIMIT}.",
            "bad launch",
        )
    required = entry.required_block
    if required is not None and block != (*required, 1, 1)[:3]:
        raise DeviceFaultError(f"Kernel {entry.name} needs blocks of {required}, not {block}.", "bad launch")
    if entry.block_limit is not None and threads > int(np.prod(entry.block_limit)):
        raise DeviceFaultError(
            f"Kernel {entry.name} was compiled for at most {int(np.prod(entry.block_limit))} threads a block, "
            f"not {threads}.",
            "bad launch",
        )


def _shared_bytes(program: Program, dynamic_bytes: int) -> int:
    static = program.layout.shared_bytes
    name = program.entry.name
    if static > STATIC_SHARED_LIMIT_BYTES:
        raise DeviceFaultError(
            f"Kernel {name} declares {static} bytes of shared memory; "
            f"at most {STATIC_SHARED_LIMIT_BYTES} can be static.",
            "bad launch",
        )
    if dynamic_bytes < 0 or static + dynamic_bytes > SHARED_LIMIT_BYTES:
        raise DeviceFaultError(
            f"Kernel {name}: {static + dynamic_bytes} bytes of shared memory; "
            f"a block has at most {SHARED_LIMIT_BYTES}.",
            "bad launch",
        )
    return static + dynamic_bytes


def _packed(program: Program, arguments: bytes | Sequence[int]) -> bytes:
    """Return the parameters as the kernel lays them out."""
    entry = program.entry
    if isinstance(arguments, (bytes, bytearray, memoryview)):
        if len(arguments) != entry.parameter_bytes:
            raise DeviceFaultError(
                f"Kernel {entry.name} takes {entry.parameter_bytes} bytes of parameters, {len(arguments)} are given.",
                "bad launch",
            )
        return bytes(arguments)
    if len(arguments) != len(entry.parameters):
        raise DeviceFaultError(
            f"Kernel {entry.name} takes {len(entry.parameters)} parameters, {len(arguments)} are given.",
            "bad launch",
        )
    packed = bytearray(entry.parameter_bytes)
    for parameter, value in zip(entry.parameters, arguments, strict=True):
        encoded = (value & ((1 << 8 * parameter.size_bytes) - 1)).to_bytes(parameter.size_bytes, "little")
        packed[parameter.offset_bytes : parameter.offset_bytes + parameter.size_bytes] = encoded
    return bytes(packed)
