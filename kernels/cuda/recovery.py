"""How a program goes on where its device cannot: where memory is short, where the device is lost.

Memory: what lies idle is given back and the batch tried again; then it is run in parts, of half the size each time,
and the size that fits is remembered; where not even a small part fits, the CPU runs the rest of the batch. A device
that is lost stays so, and the CPU runs the batch that was on it and all later ones. The CPU's results are those of the
device bit for bit, so that nobody sees where a batch was computed but in the figures: each detour is counted in the
result, and told once in a warning.

A kernel that does wrong is none of this: it is an error, which names the user's functions.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence

import pyarrow as pa

from dataflare.kernels.backend import ProgramResult, compile_program
from dataflare.kernels.cuda.device import DeviceBackend, notes_loss
from dataflare.kernels.errors import (
    CompileError,
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
    MemoryLimitError,
)
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.joining import join_columns
from dataflare.kernels.udf.program import RecordProgram

__all__ = ["LARGER_AFTER_PARTS", "LEAST_PART_ROWS", "DeviceWarning", "Recovery"]

LEAST_PART_ROWS = 1024
"""The CPU is faster than a device at less: what does not fit in parts of this size is computed there."""

_UNLIMITED_ROWS = 1 << 62
LARGER_AFTER_PARTS = 64
"""Parts that fit before twice the size is tried: whoever took the memory may have left."""


class DeviceWarning(RuntimeWarning):
    """A device does less than it was asked for: batches are run in parts, or on the CPU."""


class Recovery:
    """One program on one device, with the CPU behind it. Thread-safe.

    Parameters
    ----------
    attempt
        Runs the program on the device over columns and a number of rows.
    release_idle
        Gives memory back to the device that no batch needs at the moment.
    """

    def __init__(
        self,
        program: RecordProgram,
        backend: DeviceBackend,
        attempt: Callable[[Sequence[HostColumn], int], ProgramResult],
        release_idle: Callable[[], None],
    ) -> None:
        self._program = program
        self._backend = backend
        self._attempt = attempt
        self._release_idle = release_idle
        self._fitting_rows = _UNLIMITED_ROWS
        self._fitted_parts = 0
        self._told: set[str] = set()
        self._lock = threading.Lock()
        places = {number: place for place, number in enumerate(program.columns)}
        outputs = program.nullable.outputs if program.nullable.keep is None else ()
        self._handed_on = {
            number: places[output.carried]
            for number, output in enumerate(outputs)
            if output.carried is not None
        }

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch, on the device as far as that goes.

        Raises
        ------
        DeviceMemoryError
            If the CPU had no memory for what did not fit the device either.
        DeviceFaultError
            If a kernel did what the device stops at.
        """
        if self._backend.lost is None:
            try:
                return self._on_device(columns, num_rows)
            except (DeviceUnavailableError, DeviceFaultError) as error:
                if not notes_loss(self._backend, error) and isinstance(error, DeviceFaultError):
                    raise DeviceFaultError(
                        f"{self._functions} failed on {self._backend.name}: {error}", error.check
                    ) from error
        device, reason = self._backend.name, str(self._backend.lost)
        self._tell("lost", f"{device} is lost ({reason}): {self._functions} runs on the CPU from here on.")
        return self._on_cpu(columns, num_rows)._replace(on_cpu=True, lost_device=(device, reason))

    @property
    def _functions(self) -> str:
        return ", ".join(self._program.functions) or "a program"

    # --------------------------------------------------------------------------------------- too little memory

    def _on_device(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        if num_rows > self._fitting_rows:
            return self._in_parts(columns, num_rows, is_full=False)
        try:
            return self._attempt(columns, num_rows)
        except DeviceMemoryError:
            pass  # the error keeps the memory of the attempt until it goes
        return self._in_parts(columns, num_rows, is_full=True)

    def _in_parts(self, columns: Sequence[HostColumn], num_rows: int, *, is_full: bool) -> ProgramResult:
        """Run over slices of the batch, of the size that fits, and join what they give.

        ``is_full`` says that the device has just refused: it is not asked again before idle memory was given back.
        """
        parts: list[ProgramResult] = []
        retries = 0
        on_cpu = False
        start = 0
        while start < num_rows:
            size = min(self._fitting_rows, num_rows - start)
            given = columns if size == num_rows else [column.slice(start, size) for column in columns]
            part: ProgramResult | None = None
            if is_full:
                retries += 1
                self._release_idle()
            try:
                part = self._attempt(given, size)
            except DeviceMemoryError as error:
                failure = str(error)
            if part is not None:
                is_full = False
                self._note_fitting()
            elif not is_full:
                is_full = True
                continue
            else:
                self._note_full(size)
                if size > LEAST_PART_ROWS:
                    continue
                size = num_rows - start
                part = self._rest_on_cpu([column.slice(start, size) for column in columns], size, failure)
                on_cpu = True
            parts.append(part)
            start += size
        if len(parts) == 1:
            return parts[0]._replace(device_retries=retries, on_cpu=on_cpu)
        joined = self._joined(parts, columns)
        if joined is None:
            return self._on_cpu(columns, num_rows)._replace(device_retries=retries, on_cpu=True)
        dropped = sum(part.rows_dropped_null_predicate for part in parts)
        return ProgramResult(joined, sum(part.num_rows for part in parts), dropped, retries, on_cpu)

    def _note_full(self, num_rows: int) -> None:
        with self._lock:
            half = max(LEAST_PART_ROWS, num_rows // 2 // 64 * 64)
            self._fitting_rows = min(self._fitting_rows, half)
            self._fitted_parts = 0
        if num_rows > LEAST_PART_ROWS:
            self._tell(
                "parts",
                f"{self._backend.name} has no memory for a batch of {num_rows:,} records of {self._functions}: "
                "larger batches are run in parts there.",
            )

    def _note_fitting(self) -> None:
        with self._lock:
            self._fitted_parts += 1
            if self._fitted_parts >= LARGER_AFTER_PARTS:
                self._fitted_parts = 0
                self._fitting_rows = min(2 * self._fitting_rows, _UNLIMITED_ROWS)

    def _joined(
        self, parts: Sequence[ProgramResult], columns: Sequence[HostColumn]
    ) -> tuple[HostColumn, ...] | None:
        """Return the columns of a whole batch, or None where Arrow cannot join columns of a type."""
        of_parts = [[part.columns[i] for part in parts] for i in range(len(parts[0].columns))]
        try:
            return tuple(
                columns[self._handed_on[number]]
                if number in self._handed_on
                else column or HostColumn.from_arrow(pa.concat_arrays([part.to_arrow() for part in given]))
                for number, (column, given) in enumerate(zip(join_columns(of_parts), of_parts, strict=True))
            )
        except pa.ArrowNotImplementedError:
            return None

    # -------------------------------------------------------------------------------------------- on the CPU

    def _on_cpu(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        return compile_program(self._program, "cpu").run(columns, num_rows)

    def _rest_on_cpu(self, columns: Sequence[HostColumn], num_rows: int, failure: str) -> ProgramResult:
        """Run what does not fit the device on the CPU; ``failure`` says how much was asked for and free."""
        self._tell(
            "cpu",
            f"{self._backend.name} has no memory for {LEAST_PART_ROWS:,} records of {self._functions}: batches are run "
            f"on the CPU while that is so. {failure}",
        )
        try:
            return self._on_cpu(columns, num_rows)
        except (MemoryLimitError, CompileError) as error:
            raise DeviceMemoryError(
                f"{num_rows:,} records of {self._functions} fit neither {self._backend.name} nor the CPU. On the "
                f"device: {failure} On the CPU: {error}"
            ) from error

    def _tell(self, what: str, message: str) -> None:
        """Warn once of each kind of detour."""
        with self._lock:
            if what in self._told:
                return
            self._told.add(what)
        warnings.warn(message, DeviceWarning, stacklevel=2)
