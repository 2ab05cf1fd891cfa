"""Functions applied to one batch at a time: `SharedDataBatch.map`, `filter` and `with_columns`.

A function that is known, for a schema that is known, costs a few microseconds beside its kernel: programs are
found by what the function is and captured, so a changed captured value compiles again. Does not cover fusion
of several functions: a pipeline does that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa

from dataflare.kernels.udf.capture import function_key

if TYPE_CHECKING:
    from dataflare.kernels.cuda.column import DeviceColumn
    from dataflare.kernels.cuda.device import DeviceBackend
    from dataflare.kernels.memory import HostColumn
    from dataflare.kernels.udf.stages import Stage

__all__ = ["function_key", "known_program", "remember_program"]

_KNOWN_KEYS = 256
_SCHEMAS_A_KEY = 8


class _Result(Protocol):
    @property
    def columns(self) -> Sequence[HostColumn | DeviceColumn]: ...

    @property
    def num_rows(self) -> int: ...


class KnownProgram(NamedTuple):
    """A compiled stage, with what it takes to call it."""

    input_schema: pa.Schema
    output_schema: pa.Schema
    positions: tuple[int, ...]
    """Positions of the columns to hand to ``run``, in its order."""
    run: Callable[[Sequence[HostColumn | DeviceColumn], int], _Result]


_known: dict[Hashable, tuple[KnownProgram, ...]] = {}
_lock = threading.Lock()


def known_program(key: Hashable, schema: pa.Schema) -> KnownProgram | None:
    """Return the program compiled under ``key`` for a schema, or None."""
    for known in _known.get(key, ()):
        if known.input_schema is schema or known.input_schema.equals(schema, check_metadata=True):
            return known
    return None


def remember_program(
    key: Hashable, stage: Stage, schema: pa.Schema, backend: DeviceBackend | None = None
) -> KnownProgram:
    """Compile a stage for a schema and remember it under ``key``; those compiled first are forgotten.

    With a ``backend`` it is compiled for columns that lie on that device, otherwise for those in host memory.
    """
    from dataflare.kernels.backend import compile_program
    from dataflare.kernels.udf.program import build_program

    program = build_program((stage,), schema)
    positions = tuple(schema.get_field_index(name) for name in program.required_columns)
    compiled: Any
    if backend is None:
        compiled = compile_program(program, "cpu")
    else:
        from dataflare.kernels.cuda.fused import compile_cuda
        from dataflare.kernels.cuda.resident import ResidentProgram

        compiled = ResidentProgram(compile_cuda(program, backend), backend)
    known = KnownProgram(schema, program.output_schema, positions, compiled.run)
    with _lock:
        others = [other for other in _known.pop(key, ()) if not other.input_schema.equals(schema, True)]
        _known[key] = (known, *others[: _SCHEMAS_A_KEY - 1])
        while len(_known) > _KNOWN_KEYS:
            del _known[next(iter(_known))]
    return known
