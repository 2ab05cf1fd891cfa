"""One way to make a record program run on a device: ``compile_program``, and what it gives back.

Devices are chosen by name here and nowhere else below the engine; each is a module that is imported when named.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import pyarrow as pa

from dataflare.kernels.errors import DeviceUnavailableError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.pool import HostBlock, default_pool
from dataflare.kernels.udf.program import RecordProgram

__all__ = ["CompiledProgram", "OutputBlock", "ProgramResult", "compile_program"]

_MAX_CACHED_PROGRAMS = 512


class ProgramResult(NamedTuple):
    """What a program made of one batch."""

    columns: tuple[HostColumn, ...]
    num_rows: int
    rows_dropped_null_predicate: int


class OutputBlock:
    """One contiguous result that several batches are written into, each at its own place.

    Pieces may be written by several threads at once, as they begin at multiples of 64 rows.
    """

    def __init__(
        self, schema: pa.Schema, num_rows: int, blocks: list[tuple[HostBlock, HostBlock | None]]
    ) -> None:
        self.num_rows = num_rows
        self._schema = schema
        self._blocks = blocks
        self._nulls = [0] * len(blocks)
        self._lock = threading.Lock()

    @classmethod
    def allocate(cls, schema: pa.Schema, num_rows: int) -> OutputBlock:
        """Take memory for fixed-width columns of ``schema`` from the pool."""
        pool = default_pool()
        blocks: list[tuple[HostBlock, HostBlock | None]] = []
        for field in schema:
            data = pool.acquire((num_rows * field.type.bit_width + 7) // 8)
            blocks.append((data, pool.acquire((num_rows + 7) // 8) if field.nullable else None))
        return cls(schema, num_rows, blocks)

    def addresses(self, column: int) -> tuple[int, int]:
        """Return the addresses of the data and of the validity bitmap (0 if there is none)."""
        data, validity = self._blocks[column]
        return data.address, 0 if validity is None else validity.address

    def count_nulls(self, column: int, nulls: int) -> None:
        """Add to the null count of a column."""
        if nulls:
            with self._lock:
                self._nulls[column] += nulls

    def mark_valid(self, column: int, row_offset: int, num_rows: int) -> None:
        """Set the validity of rows that have no null; ``row_offset`` is a multiple of 8."""
        validity = self._blocks[column][1]
        if validity is not None:
            ctypes.memset(validity.address + row_offset // 8, 0xFF, (num_rows + 7) // 8)

    def columns(self, num_rows: int) -> tuple[HostColumn, ...]:
        """Return the first ``num_rows`` rows as columns."""
        result = []
        for field, (data, validity), nulls in zip(self._schema, self._blocks, self._nulls, strict=True):
            has_nulls = validity is not None and nulls > 0
            result.append(
                HostColumn.from_block(
                    field.type,
                    num_rows,
                    validity.address if validity is not None and has_nulls else 0,
                    data.address,
                    nulls,
                    (data, validity) if has_nulls else data,
                )
            )
        return tuple(result)


class CompiledProgram(Protocol):
    """A program that a device can run. Thread-safe."""

    program: RecordProgram
    device: str
    compile_s: float
    cache: str
    can_run_into: bool

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        """Run over one batch; ``columns`` in the order of ``program.required_columns``."""
        ...

    def allocate(self, num_rows: int) -> OutputBlock:
        """Return memory for the result of ``num_rows`` records."""
        ...

    def run_into(
        self, columns: Sequence[HostColumn], num_rows: int, out: OutputBlock, row_offset: int
    ) -> None:
        """Run over one batch and write its records at ``row_offset``, a multiple of 64, of ``out``."""
        ...


_programs: OrderedDict[tuple[str, str], Any] = OrderedDict()
_lock = threading.Lock()


def compile_program(program: RecordProgram, device: str = "cpu") -> CompiledProgram:
    """Compile a program for a device, or return what was compiled for it before.

    Raises
    ------
    DeviceUnavailableError
        If the device is not known or not usable here.
    """
    if device == "python":
        from dataflare.kernels.reference.fused import compile_reference

        compiled: Any = compile_reference(
            program.stages,
            program.input_schema,
            program.output_schema,
            program.required_columns,
            program=program,
        )
        return cast(CompiledProgram, compiled)
    if device != "cpu":
        raise DeviceUnavailableError(
            f"the device {device!r} is not available in this version; there are 'cpu' and 'python'."
        )
    key = (device, program.key)
    with _lock:
        known = _programs.get(key)
        if known is not None:
            _programs.move_to_end(key)
            return known  # type: ignore[no-any-return]
    from dataflare.kernels.cpu.fused import compile_cpu

    fresh = compile_cpu(program)
    with _lock:
        _programs[key] = fresh
        while len(_programs) > _MAX_CACHED_PROGRAMS:
            _programs.popitem(last=False)
    return fresh
