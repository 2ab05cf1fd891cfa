"""Runs a program over the lanes of a batch: who goes next, who waits, and who waits for ever.

Lanes at the same block of code run together, and the lowest block goes first, so that lanes which took different
ways meet again. Groups that were passed over many times go in between, so that a lane may wait for another by
spinning. With a schedule by warps, one warp drawn at random makes one step at a time.
"""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np

from dataflare.kernels.emulator.batch import Batch, Lanes
from dataflare.kernels.emulator.checks import Fault, first_lane
from dataflare.kernels.emulator.program import Barrier, Branch, Exit, Jump, Program, Switch
from dataflare.kernels.emulator.types import Array
from dataflare.kernels.emulator.warps import WarpExchange
from dataflare.kernels.errors import DeviceFaultError

__all__ = ["run_batch"]

_PATIENCE_STEPS: Final = 512
_ALL_MEMBERS: Final = np.uint32(0xFFFF_FFFF)


def run_batch(program: Program, batch: Batch, *, step_limit: int, by_warps: bool) -> None:
    """Run a kernel to the end of all threads of a batch.

    Raises
    ------
    DeviceFaultError
        A check found something; the message names the kernel, the line and the thread.
    """
    scheduler = _Scheduler(program, batch, step_limit, by_warps)
    try:
        scheduler.run()
    except Fault as fault:
        raise scheduler.located(fault) from None


class _Scheduler:
    def __init__(self, program: Program, batch: Batch, step_limit: int, by_warps: bool) -> None:
        self._program = program
        self._batch = batch
        self._step_limit = step_limit
        self._random = batch.random if by_warps else None
        self._here = 0
        self._ready: dict[int, list[Array]] = {}
        self._heap: list[int] = []
        self._since: dict[int, int] = {}
        self._steps = 0
        self._passed_over = 0
        self._at_exchange: dict[int, Array] = {}
        self._at_barrier: dict[int, Array] = {}

    def located(self, fault: Fault) -> DeviceFaultError:
        """Return the error that says where a fault happened."""
        block = self._program.blocks[self._here]
        instruction = block.instructions[min(self._batch.at, len(block.instructions) - 1)]
        text = self._program.module.lines[instruction.line - 1].strip()
        thread = "" if fault.lane is None else f", {self._batch.thread_name(fault.lane)}"
        return DeviceFaultError(
            f"Kernel {self._program.entry.name}: {fault}. PTX line {instruction.line}{thread}: {text}",
            fault.check,
        )

    # ------------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Run until every lane has ended."""
        batch, blocks = self._batch, self._program.blocks
        self._push(0, batch.all_lanes)
        while True:
            if not self._heap and not self._release():
                return
            if self._at_barrier and self._steps % _PATIENCE_STEPS == 0:
                self._release_barriers()  # for whom those that can go on may spin
            self._here, group = self._pick()
            lanes = None if len(group) == batch.count else group
            block = blocks[self._here]
            self._steps += 1
            batch.at = 0
            if self._steps > self._step_limit:
                raise Fault("live-lock", f"it does not end within {self._step_limit} steps", int(group[0]))
            batch.traffic.instructions += block.count * len(group)
            for batch.at, operation in enumerate(block.operations):
                operation(batch, lanes)
            batch.at = len(block.operations)
            terminator = block.terminator
            if isinstance(terminator, Branch):
                self._branch(terminator, lanes, group)
            elif isinstance(terminator, Jump):
                self._push(terminator.target, group)
            elif isinstance(terminator, Exit):
                batch.has_exited[group] = True
                batch.exited += len(group)
            elif isinstance(terminator, WarpExchange):
                self._exchange(terminator, self._here, group)
            elif isinstance(terminator, Barrier):
                self._wait_at(self._at_barrier, self._here, group)
            elif isinstance(terminator, Switch):
                self._switch(terminator, lanes, group)

    def _push(self, place: int, group: Array) -> None:
        groups = self._ready.get(place)
        if groups is not None:
            groups.append(group)
            return
        self._ready[place] = [group]
        self._since[place] = self._steps
        heapq.heappush(self._heap, place)

    def _pick(self) -> tuple[int, Array]:
        """Take the group that goes next."""
        heap = self._heap
        if self._random is not None:
            return self._pick_warp(self._random)
        self._passed_over = self._passed_over + 1 if len(heap) > 1 else 0
        if self._passed_over > _PATIENCE_STEPS:
            self._passed_over = 0
            place = min(heap, key=self._since.__getitem__)
            heap.remove(place)
            heapq.heapify(heap)
        else:
            place = heapq.heappop(heap)
        return place, _joined(self._ready.pop(place))

    def _pick_warp(self, random: np.random.Generator) -> tuple[int, Array]:
        place = self._heap[int(random.integers(len(self._heap)))]
        self._heap.remove(place)
        heapq.heapify(self._heap)
        group = _joined(self._ready.pop(place))
        warps = self._batch.warp_of_lane[group]
        chosen = warps == warps[int(random.integers(len(warps)))]
        if not chosen.all():
            self._push(place, group[~chosen])
        return place, group[chosen]

    def _branch(self, branch: Branch, lanes: Lanes, group: Array) -> None:
        holds = self._batch.registers[branch.register]
        if holds.ndim == 0:
            self._push(branch.target if bool(holds) != branch.is_negated else branch.following, group)
            return
        if lanes is not None:
            holds = holds[lanes]
        if branch.is_negated:
            holds = ~holds
        if holds.all():
            self._push(branch.target, group)
        elif not holds.any():
            self._push(branch.following, group)
        else:
            self._push(branch.target, group[holds])
            self._push(branch.following, group[~holds])

    def _switch(self, switch: Switch, lanes: Lanes, group: Array) -> None:
        index = np.broadcast_to(switch.index(self._batch, lanes), len(group))
        wrong = index >= len(switch.targets)
        if wrong.any():
            raise Fault("bad branch", "the index of brx is beyond its targets", first_lane(wrong, lanes))
        for chosen in np.unique(index):
            self._push(switch.targets[int(chosen)], group[index == chosen])

    # ------------------------------------------------------------------------------------------------ exchanges

    def _exchange(self, exchange: WarpExchange, place: int, group: Array) -> None:
        """Let those lanes exchange whose partners are here too; the others wait."""
        batch = self._batch
        before = self._at_exchange.pop(place, None)
        if before is not None:
            group = _joined([before, group])
        lanes = None if len(group) == batch.count else group
        masks = exchange.mask(batch, lanes)
        if lanes is None and masks.ndim == 0 and masks == _ALL_MEMBERS:
            exchange.operation(batch, None)
            self._push(place + 1, group)
            return
        masks = np.broadcast_to(masks, len(group))
        lane = batch.lane_in_warp[group]
        stranger = (masks >> lane & np.uint32(1)) == 0
        if stranger.any():
            raise Fault(
                "bad mask", "the thread is not in the mask of its own instruction", int(group[stranger][0])
            )
        warp = batch.warp_of_lane[group]
        present = batch.ballot(np.ones(len(group), np.bool_), lanes)[warp]
        alive = batch.existing_bits()[warp]
        is_complete = (masks & alive & ~present) == 0
        if is_complete.any():
            self._check_masks(masks, warp, present, group, is_complete)
            going = group if is_complete.all() else group[is_complete]
            exchange.operation(batch, None if len(going) == batch.count else going)
            self._push(place + 1, going)
        if not is_complete.all():
            self._at_exchange[place] = group[~is_complete]

    def _check_masks(
        self, masks: Array, warp: Array, present: Array, group: Array, is_complete: Array
    ) -> None:
        """Raise a `Fault` where lanes that exchange name different masks, or lanes that have exited."""
        batch = self._batch
        if (masks != masks[0]).any():
            for mask in np.unique(masks):
                agrees = masks == mask
                theirs = batch.ballot(agrees, None if len(group) == batch.count else group)[warp]
                wrong = agrees & is_complete & ((present & mask & ~theirs) != 0)
                if wrong.any():
                    raise Fault("bad mask", "threads of one warp name different masks", int(group[wrong][0]))
        if batch.checks.exited_members and batch.exited:
            exited = batch.ballot(batch.has_exited, None)[warp]
            wrong = is_complete & (masks & exited != 0)
            if wrong.any():
                raise Fault("bad mask", "the mask names threads that have exited", int(group[wrong][0]))

    # ------------------------------------------------------------------------------------------------- barriers

    def _wait_at(self, waiting: dict[int, Array], place: int, group: Array) -> None:
        before = waiting.get(place)
        waiting[place] = group if before is None else _joined([before, group])

    def _release(self) -> bool:
        """Let someone go on, now that nobody can; return False when all lanes have ended."""
        batch = self._batch
        if batch.exited == batch.count:
            return False
        for place, group in sorted(self._at_exchange.items()):  # threads that exited are not waited for
            self._here = place
            del self._at_exchange[place]
            terminator = self._program.blocks[place].terminator
            assert isinstance(terminator, WarpExchange)
            self._exchange(terminator, place, group)
        if self._heap or self._release_barriers():
            return True
        waiting = sorted((*self._at_barrier.items(), *self._at_exchange.items()))
        self._here = waiting[0][0]
        listed = []
        for place, group in waiting[:4]:
            line = self._program.blocks[place].instructions[-1].line
            listed.append(f"{len(group)} threads wait at line {line}")
        raise Fault("deadlock", "; ".join(listed) + "; the others cannot arrive", int(waiting[0][1][0]))

    def _release_barriers(self) -> bool:
        batch = self._batch
        places = sorted(self._at_barrier)
        if not places:
            return False
        self._here = places[0]
        groups = [self._at_barrier[place] for place in places]
        everyone = np.concatenate(groups)
        where = np.repeat(np.array(places), [len(group) for group in groups])
        number, needed = np.empty(len(everyone), np.int64), np.zeros(len(everyone), np.int64)
        at = 0
        for place, group in zip(places, groups, strict=True):
            barrier = self._barrier(place)
            number[at : at + len(group)] = barrier.number(batch, group)
            if barrier.threads is not None:
                needed[at : at + len(group)] = barrier.threads(batch, group)
            at += len(group)
        block = batch.block_of_lane[everyone]
        goes = np.zeros(len(everyone), np.bool_)
        alive = np.bincount(batch.block_of_lane[~batch.has_exited], minlength=len(batch.blocks))
        order = np.lexsort((number, block))
        starts = np.nonzero(np.diff(block[order], prepend=-1) | np.diff(number[order], prepend=-1))[0]
        for theirs in np.split(order, starts[1:]):  # the threads of one block at one barrier
            one, wanted = int(block[theirs[0]]), int(needed[theirs].max())
            if len(theirs) < (wanted or int(alive[one])):
                continue
            self._check_barrier(everyone[theirs], where[theirs], int(alive[one]), wanted)
            self._reduce(everyone[theirs], where[theirs])
            batch.release_block(one)
            goes[theirs] = True
        if not goes.any():
            return False
        for place in places:
            mine = where == place
            going, staying = everyone[mine & goes], everyone[mine & ~goes]
            if len(going):
                self._push(place + 1, going)
            if len(staying):
                self._at_barrier[place] = staying
            else:
                del self._at_barrier[place]
        return True

    def _barrier(self, place: int) -> Barrier:
        barrier = self._program.blocks[place].terminator
        assert isinstance(barrier, Barrier)
        return barrier

    def _check_barrier(self, lanes: Array, where: Array, alive: int, wanted: int) -> None:
        batch = self._batch
        different = where != where[0]
        if different.any() and any(self._barrier(int(place)).is_aligned for place in np.unique(where)):
            lines = [self._program.blocks[int(place)].instructions[-1].line for place in np.unique(where)]
            self._here = int(where[0])
            raise Fault(
                "divergent barrier",
                f"threads of one block wait at different barriers, in lines {', '.join(map(str, lines))}",
                int(lanes[different][0]),
            )
        self._here = int(where[0])
        if wanted:
            if len(lanes) > wanted:
                raise Fault(
                    "divergent barrier", f"{len(lanes)} threads wait at a barrier of {wanted}", int(lanes[0])
                )
        elif alive < batch.threads:
            raise Fault(
                "barrier after exit",
                f"{batch.threads - alive} threads of the block have exited before",
                int(lanes[0]),
            )

    def _reduce(self, lanes: Array, where: Array) -> None:
        """Give the threads of one barrier what their predicates make together."""
        barrier = self._barrier(int(where[0]))
        if barrier.reduction is None or barrier.predicate is None or barrier.write is None:
            return
        holds = np.broadcast_to(barrier.predicate(self._batch, lanes), len(lanes))
        results = {"popc": holds.sum(dtype=np.uint32), "and": holds.all(), "or": holds.any()}
        barrier.write(self._batch, lanes, np.asarray(results[barrier.reduction]))


def _joined(groups: list[Array]) -> Array:
    """Return the lanes of some groups, ascending."""
    if len(groups) == 1:
        return groups[0]
    lanes = np.concatenate(groups)
    lanes.sort()
    return lanes
