"""Chains whose batches stay on a device from one step to the next: `DeviceChain`, and its steps.

A batch in host memory goes to the device where a step after the first takes it there, and what comes out of the chain
is back in host memory; in between nothing is copied. Where the device has no memory for a batch, a function is called
with parts of it, and has the smallest in host memory; programs do as ``kernels.cuda.placed`` says. Where the device is
lost, the batch begins again at the step that last had it in host memory, with what is
counted of it taken back; from then on all steps run there.

Where steps leave batches is decided by the plan (`dataflare.plan.residence`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dataflare.batch import SharedDataBatch
from dataflare.execute.chain import Chain, ComputeStage, MapBatchesStage, SchemaLatch
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.device import notes_loss
from dataflare.kernels.cuda.placed import PlacedProgram
from dataflare.kernels.cuda.recovery import LARGER_AFTER_PARTS, LEAST_PART_ROWS, DeviceWarning
from dataflare.kernels.cuda.spread import backend_of_thread
from dataflare.kernels.errors import (
    DataFlareError,
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
)

if TYPE_CHECKING:
    from dataflare.execute.handover import Handover
    from dataflare.kernels.backend import CompiledProgram
    from dataflare.kernels.cuda.device import DeviceBackend

__all__ = ["DeviceChain", "DeviceComputeStage", "DeviceMapBatchesStage"]

OnDeviceLost = Callable[[str, str], None]


class DeviceComputeStage(ComputeStage):
    """A compiled record program that runs on batches where they lie.

    Parameters
    ----------
    stays
        Whether the step after this one takes batches on the device, so that those from host memory go there.
    """

    def __init__(
        self,
        name: str,
        compiled: CompiledProgram,
        placed: PlacedProgram,
        on_device_lost: OnDeviceLost,
        *,
        stays: bool,
    ) -> None:
        super().__init__(name, compiled, on_device_lost)
        self._placed = placed
        self._stays = stays

    def process(self, batch: SharedDataBatch) -> SharedDataBatch:
        """Run the program on the batch."""
        if batch._backend is None and not self._stays:
            return super().process(batch)
        rows = batch.num_rows
        columns = [batch._column(place) for place in self.places(batch)]
        began_s = perf_counter()
        result = self._placed.run(columns, rows)
        self.count(rows, result, perf_counter() - began_s)
        return self._from_columns(
            self._schema,
            result.columns,
            result.num_rows,
            watermark=batch.watermark,
            metadata=batch.metadata,
            backend=result.backend,
        )


class DeviceMapBatchesStage(MapBatchesStage):
    """A user's function of batches on a device; where that cannot be, of batches in host memory."""

    def __init__(
        self,
        name: str,
        fn: Callable[[Any], Any],
        latch: SchemaLatch,
        handover: Handover,
        on_device_lost: OnDeviceLost,
    ) -> None:
        super().__init__(name, fn, latch, handover)
        self._on_device_lost = on_device_lost
        self._fitting_rows: int | None = None  # what the device had memory for, where it once had not
        self._fitted_parts = 0
        self._told = False

    def call(self, batch: SharedDataBatch) -> SharedDataBatch:
        """Return what the function makes of a batch on its device."""
        backends = self._handover.backends
        here = batch._backend
        backend = here if here in backends and here is not None else backend_of_thread(backends)
        if backend.lost is None:
            try:
                return self._on_device(batch, backend)
            except (DeviceFaultError, DeviceUnavailableError) as error:
                # The function may have asked for a device that is not there: no reason to give this one up.
                if isinstance(error, DeviceUnavailableError) and _answers(backend):
                    raise
                if not notes_loss(backend, error) or here is backend:
                    raise
        self._on_device_lost(backend.name, str(backend.lost))
        return self._on_host(batch, f"{backend.name} is lost ({backend.lost})")

    def _on_device(self, batch: SharedDataBatch, backend: DeviceBackend) -> SharedDataBatch:
        """Call the function with the batch, or with parts of the size that the device has memory for."""
        parts: list[SharedDataBatch] = []
        rows, start = batch.num_rows, 0
        is_refused = False
        while start < rows:
            size = min(self._fitting_rows or rows, rows - start)
            part = batch.slice(start, start + size)
            try:
                result: SharedDataBatch | None = self._attempt(part, backend)
            except DeviceMemoryError as error:
                failure, result = str(error), None  # the error keeps the memory of the attempt until it goes
            if result is not None:
                is_refused = False
                self._note_fitting()
            elif not is_refused:
                is_refused = True
                self.meter.device_retries += 1
                arena_of(backend).release_idle()
                continue
            elif size > LEAST_PART_ROWS:
                self._fitting_rows = max(LEAST_PART_ROWS, size // 2 // 64 * 64)
                continue
            else:
                size = rows - start
                result = self._on_host(batch.slice(start, rows), failure)
            parts.append(result)
            start += size
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            self._latch.check(self.name, part.schema)
        return SharedDataBatch.merge(part.to_host() for part in parts)

    def _note_fitting(self) -> None:
        """Try larger parts after many that fitted: whoever took the memory may have left."""
        if self._fitting_rows is not None:
            self._fitted_parts += 1
            if self._fitted_parts >= LARGER_AFTER_PARTS:
                self._fitted_parts = 0
                self._fitting_rows *= 2

    def _on_host(self, batch: SharedDataBatch, reason: str) -> SharedDataBatch:
        on_host = batch.to_host()
        self.meter.batches_on_cpu += 1
        if not self._told:
            self._told = True
            warnings.warn(f"{self.name} has batches in host memory: {reason}", DeviceWarning, stacklevel=2)
        return self._handover.call(self._fn, on_host)

    def _attempt(self, batch: SharedDataBatch, backend: DeviceBackend) -> SharedDataBatch:
        placed = batch if batch._backend is backend else batch.to_host()._moved(backend)
        return self._handover.call(self._fn, placed, backend)


class DeviceChain(Chain):
    """Steps in a row, in one task, some of which keep batches on a device."""

    __slots__ = ()

    def process(self, batch: SharedDataBatch) -> SharedDataBatch | None:
        """Send a batch through all steps; what comes out lies in host memory."""
        passed: SharedDataBatch | None = batch
        safe: SharedDataBatch | None = None  # the batch as it last was in host memory
        restart, counts = 0, [stage.meter.counts() for stage in self.stages]
        lost: list[DeviceBackend] = []
        number = 0
        while number <= len(self.stages):
            if passed is None:
                return None
            if passed._backend is None:
                safe, restart = passed, number
                counts[number:] = [stage.meter.counts() for stage in self.stages[number:]]
            try:
                if number == len(self.stages):
                    return self._to_host(passed)
                stage = self.stages[number]
                self.current = stage.name
                passed = stage.process(passed)
                number += 1
            except DataFlareError:
                gone = None if passed is None else passed._backend
                if safe is None or gone is None or gone.lost is None or gone in lost:
                    raise
                lost.append(gone)
                passed, number = safe, restart
                for stage, count in zip(self.stages[number:], counts[number:], strict=True):
                    stage.meter.go_back(count)
        return passed

    def _to_host(self, batch: SharedDataBatch) -> SharedDataBatch:
        began_s = perf_counter()
        on_host = batch.to_host()
        self.stages[-1].meter.kernel_s += perf_counter() - began_s
        return on_host


def _answers(backend: DeviceBackend) -> bool:
    try:
        backend.memory()
    except DataFlareError:
        return False
    return True
