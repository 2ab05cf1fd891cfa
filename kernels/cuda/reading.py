"""How a CUDA kernel reads the columns of a batch: vectors of up to 16 bytes a thread, or one record.

Strings are read in ``kernels.llvm.strings``. Columns are in global memory, which the pointers say, so that loads need
not find out.
"""

from __future__ import annotations

from dataflare.kernels.llvm.arguments import Arguments
from dataflare.kernels.llvm.emit import Code, Emitter
from dataflare.kernels.llvm.layout import ColumnLayout, stored_bytes

__all__ = ["VECTOR_BYTES", "Reader"]

VECTOR_BYTES = 16
"""The most that one instruction of a thread loads or stores."""


class Reader(Arguments):
    """Reads columns in one kernel.

    ``aligned`` says that groups of records begin at multiples of 16 bytes in every column; otherwise they are only
    aligned as single values are.
    """

    all_ones = "addrspacecast (ptr addrspace(1) @all_ones to ptr)"

    def __init__(self, code: Code, *, aligned: bool) -> None:
        super().__init__(code)
        self._aligned = aligned

    def _pointer_to(self, name: str, slot: str) -> list[str]:
        return [
            f"  {name}.g = inttoptr i64 {slot} to ptr addrspace(1)",
            f"  {name} = addrspacecast ptr addrspace(1) {name}.g to ptr",
        ]

    def alignment(self, lanes: int, width_bytes: int) -> int:
        """Return what the address of a group of values is a multiple of."""
        return min(VECTOR_BYTES, lanes * width_bytes) if self._aligned else min(VECTOR_BYTES, width_bytes)

    def fixed(self, emitter: Emitter, column: ColumnLayout, element: str, row: str) -> str:
        """Read a group of values of one width, or of indices into a dictionary, as ``element``."""
        code = self.code
        address = code.value(f"getelementptr {element}, ptr {self.pointer(column.data)}, i64 {row}")
        align = self.alignment(emitter.lanes, stored_bytes(column.type) or 1)
        return code.value(f"load {emitter.type_of(element)}, ptr {address}, align {align}")

    def decimal(self, emitter: Emitter, column: ColumnLayout, row: str) -> str:
        """Read the low halves of 128-bit decimals, which hold all of 18 digits."""
        code, lanes = self.code, emitter.lanes
        address = code.value(f"getelementptr i128, ptr {self.pointer(column.data)}, i64 {row}")
        if lanes == 1:
            return code.value(f"load i64, ptr {address}, align 8")
        vector = emitter.type_of("i64")
        result = "poison"
        for lane in range(lanes):
            here = code.value(f"getelementptr i128, ptr {address}, i64 {lane}")
            one = code.value(f"load i64, ptr {here}, align 8")
            result = code.value(f"insertelement {vector} {result}, i64 {one}, i64 {lane}")
        return result
