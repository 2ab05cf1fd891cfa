"""`ChainMaker`: makes the chains of a run's tasks out of its steps, and of what the tasks share.

Shared are compiled programs, the schemas that first batches fix, and the ways of batches to functions of
``map_batches``, which are found, or found missing, before the run starts. Classes are built in each task.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataflare.execute.chain import Chain, ComputeStage, LimitStage, MapBatchesStage, SchemaLatch, Stage
from dataflare.execute.handover import Handover
from dataflare.kernels.errors import DataFlareError, RunError
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep, PhysicalStep
from dataflare.plan.residence import staying

if TYPE_CHECKING:
    from dataflare.kernels.backend import CompiledProgram
    from dataflare.kernels.udf.program import RecordProgram

__all__ = ["ChainMaker"]

OnDeviceLost = Callable[[str, str], None]


class ChainMaker:
    """What the chains of one run are made of.

    Parameters
    ----------
    steps
        All steps that tasks run, in order.
    compiled
        The programs, by the identity of their steps.
    """

    def __init__(
        self,
        steps: Sequence[PhysicalStep],
        device: str,
        compiled: Mapping[int, CompiledProgram],
    ) -> None:
        self._device = device
        self._compiled = compiled
        self._names = {id(step): _name(step, number) for number, step in enumerate(steps, 1)}
        self._latches: dict[int, SchemaLatch] = {}
        self._handovers: dict[int, Handover] = {}
        for step in steps:
            if isinstance(step, MapBatchesStep):
                self._latches[id(step)] = SchemaLatch(step.output_schema)
                self._handovers[id(step)] = Handover(self._names[id(step)], step, device)
        self._placed = self._placed_programs()

    def make(self, steps: Sequence[PhysicalStep], on_device_lost: OnDeviceLost) -> Chain:
        """Return the chain of one task, on its thread; classes of ``map_batches`` are built here.

        Parameters
        ----------
        on_device_lost
            Called with a device and the reason when a batch met its loss.
        """
        on_device = any(self._is_on_device(step) for step in steps)
        if on_device:
            from dataflare.execute.device_chain import DeviceChain
            from dataflare.kernels.cuda.spread import take_turn

            take_turn()
        stages = [
            self._stage(step, on_device_lost, stays=stays)
            for step, stays in zip(steps, staying(steps, self._device), strict=True)
        ]
        return DeviceChain(stages) if on_device else Chain(stages)

    def _is_on_device(self, step: PhysicalStep) -> bool:
        if isinstance(step, MapBatchesStep):
            return bool(self._handovers[id(step)].backends)
        return id(step) in self._placed

    def _placed_programs(self) -> dict[int, Any]:
        if not self._device.startswith("cuda"):
            return {}
        from dataflare.kernels.cuda.placed import PlacedProgram

        programs: dict[int, Any] = dict(self._compiled)
        return {key: PlacedProgram(compiled) for key, compiled in programs.items()}

    def _stage(self, step: PhysicalStep, lost: OnDeviceLost, *, stays: bool) -> Stage:
        if isinstance(step, LimitStep):
            return LimitStage(step.rows)
        name = self._names[id(step)]
        if isinstance(step, ComputeStep):
            compiled = self._compiled[id(step)]
            if not self._is_on_device(step):
                return ComputeStage(name, compiled, lost)
            from dataflare.execute.device_chain import DeviceComputeStage

            return DeviceComputeStage(name, compiled, self._placed[id(step)], lost, stays=stays)
        latch, handover = self._latches[id(step)], self._handovers[id(step)]
        try:
            if not self._is_on_device(step):
                return MapBatchesStage(name, step.fn, latch, handover)
            from dataflare.execute.device_chain import DeviceMapBatchesStage

            return DeviceMapBatchesStage(name, step.fn, latch, handover, lost)
        except DataFlareError:
            raise
        except Exception as error:
            raise RunError(f"{name} could not be built: {type(error).__name__}: {error}") from error


def _name(step: PhysicalStep, number: int) -> str:
    if isinstance(step, ComputeStep):
        return f"compute {number}: {_functions(step.program)}"
    if isinstance(step, MapBatchesStep):
        return f"map_batches {number}: {getattr(step.fn, '__qualname__', type(step.fn).__qualname__)}"
    return f"limit {step.rows:,}"


def _functions(program: RecordProgram) -> str:
    """Name the functions of a program, with the file's name but not its folders."""
    names = [re.sub(r"\(.*[/\\]", "(", name) for name in program.functions]
    return ", ".join(names) if names else "columns"
