"""`PlacedProgram`: runs a program over batches of a pipeline that lie on a GPU, or whose results are to stay there.

A batch runs where it lies; one in host memory goes to the GPU of its thread first. What a GPU has no memory for, once
what lies idle is given back, is run as from host memory: in parts, or on the CPU, which ``recovery`` decides. Where a
GPU is lost, so is what lay on it: the error says so, and whoever has the batch in host memory begins again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dataflare.kernels.cuda.column import DeviceColumn
from dataflare.kernels.cuda.copies import to_device, to_host
from dataflare.kernels.cuda.device import DeviceBackend, notes_loss
from dataflare.kernels.cuda.fused import CudaProgram
from dataflare.kernels.cuda.resident import AnyColumn, ResidentProgram
from dataflare.kernels.cuda.spread import SpreadProgram, backend_of_thread
from dataflare.kernels.errors import DeviceFaultError, DeviceMemoryError, DeviceUnavailableError
from dataflare.kernels.memory.column import HostColumn

__all__ = ["PlacedProgram", "PlacedResult"]


class PlacedResult(NamedTuple):
    """What a program made of one batch; see `ProgramResult`."""

    columns: tuple[AnyColumn, ...]
    num_rows: int
    rows_dropped_null_predicate: int
    backend: DeviceBackend | None
    """The device that the columns lie on; None for host memory."""
    device_retries: int = 0
    on_cpu: bool = False
    lost_device: tuple[str, str] | None = None


class PlacedProgram:
    """A program for batches that lie on its devices, or come to lie there. Thread-safe.

    Parameters
    ----------
    compiled
        The program for batches in host memory.
    """

    def __init__(self, compiled: CudaProgram | SpreadProgram) -> None:
        self._compiled = compiled
        self._programs = compiled.of_devices
        self._residents: dict[DeviceBackend, ResidentProgram] = {}

    def run(self, columns: Sequence[AnyColumn], num_rows: int) -> PlacedResult:
        """Run over one batch and leave the result on its device; in host memory where the device cannot have it.

        Raises
        ------
        DeviceUnavailableError, DeviceFaultError
            If the device is lost, and with it the batch; or if a kernel did what the device stops at.
        """
        lies_on = next((column.backend for column in columns if isinstance(column, DeviceColumn)), None)
        backend = lies_on or backend_of_thread(tuple(self._programs))
        if backend not in self._programs or backend.lost is not None:
            return self._from_host(columns, num_rows)
        try:
            return self._on_device(backend, columns, num_rows)
        except (DeviceUnavailableError, DeviceFaultError) as error:
            if not notes_loss(backend, error) and isinstance(error, DeviceFaultError):
                raise DeviceFaultError(
                    f"{', '.join(self._compiled.program.functions)} failed on {backend.name}: {error}",
                    error.check,
                ) from error
            if lies_on is not None:
                raise
        return self._from_host(columns, num_rows)

    def _on_device(self, backend: DeviceBackend, columns: Sequence[AnyColumn], num_rows: int) -> PlacedResult:
        try:
            return self._attempt(backend, columns, num_rows)
        except DeviceMemoryError:
            pass  # the error keeps the memory of the attempt until it goes
        self._programs[backend].release_idle()
        try:
            return self._attempt(backend, columns, num_rows)._replace(device_retries=1)
        except DeviceMemoryError:
            pass
        result = self._from_host(columns, num_rows)
        return result._replace(device_retries=result.device_retries + 1)

    def _attempt(self, backend: DeviceBackend, columns: Sequence[AnyColumn], num_rows: int) -> PlacedResult:
        moved = iter(to_device([column for column in columns if isinstance(column, HostColumn)], backend))
        placed = [next(moved) if isinstance(column, HostColumn) else column for column in columns]
        resident = self._residents.get(backend)
        if resident is None:
            resident = self._residents[backend] = ResidentProgram(self._programs[backend], backend)
        result = resident.run(placed, num_rows)
        return PlacedResult(*result, backend)

    def _from_host(self, columns: Sequence[AnyColumn], num_rows: int) -> PlacedResult:
        columns_there = to_host(columns)
        result = self._compiled.run(columns_there, num_rows)
        return PlacedResult(
            result.columns,
            result.num_rows,
            result.rows_dropped_null_predicate,
            None,
            result.device_retries,
            result.on_cpu,
            result.lost_device,
        )
