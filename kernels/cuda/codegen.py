"""Puts a program together as CUDA kernels: one that maps, or two that filter, in LLVM text.

A program that keeps every record is one kernel. Where all values have whole bytes, each thread takes a group of
records that fills 16 bytes of the widest column; where bits are written, each warp takes 32 records at a time
and a vote of its threads is a word of the bitmap. A filter is two such kernels with a sum in between
(``primitives``): the first writes who is kept as bits and counts them for each segment of rows, the second writes
the results, in order, from the place that the sums give each segment (count, scan, scatter). No order depends on
timing, so no result does.

Does not cover launching and memory (``fused``), or strings among the results, which the host puts together.
"""

from __future__ import annotations

from dataflare.kernels.cuda.bodies import Body, MapBody
from dataflare.kernels.cuda.filtering import SelectBody, WriteBody
from dataflare.kernels.cuda.kernel_text import KernelText, StringFunctions, module_of
from dataflare.kernels.cuda.reading import VECTOR_BYTES, Reader
from dataflare.kernels.cuda.target import ARGUMENT_BYTES
from dataflare.kernels.cuda.threads import Threads
from dataflare.kernels.errors import CompileError
from dataflare.kernels.llvm import strings
from dataflare.kernels.llvm.counting import counted_loop
from dataflare.kernels.llvm.emit import Code
from dataflare.kernels.llvm.layout import ColumnForm, ProgramLayout, fixed_width_bytes, layout_of
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.udf.ir import StringOp, nodes_of
from dataflare.kernels.udf.program import Lowered, RecordProgram

__all__ = ["ProgramKernels", "table_kernel"]

_MAX_GROUP = 8
_MAX_BUSY_GROUP = 2
"""The most records of a thread that computes much: more would not fit its registers."""


class ProgramKernels:
    """The kernels of one variant ("dense" or "nullable") of a program.

    The argument block is that of ``layout``; for a filter two slots follow, the address of the bits that say who is
    kept (`selection_slot`) and that of the sums, one i64 a segment (`segments_slot`).
    """

    def __init__(self, program: RecordProgram, lowered: Lowered, name: str, target: Target) -> None:
        self.layout: ProgramLayout = layout_of(program, lowered, moves_indices=True)
        self.lowered = lowered
        self.name = name
        self._target = target
        self.selection_slot = self.layout.slots
        self.segments_slot = self.layout.slots + 1
        self.slots = self.layout.slots + (0 if lowered.keep is None else 2)
        if 8 * self.slots > ARGUMENT_BYTES:
            raise CompileError(
                f"a kernel takes {ARGUMENT_BYTES // 8:,} numbers and addresses, and this program has {self.slots:,}: "
                "select() fewer columns before it, or use device='cpu'."
            )
        self.writes_bits = any(out.is_bits or out.has_validity for out in self.layout.outputs)

    @property
    def group_rows(self) -> int:
        """Records that a thread of the mapping kernel works on at once."""
        if self.writes_bits or self.lowered.keep is not None:
            return 1
        widths = [out.width_bytes for out in self.layout.outputs]
        for column in self.layout.columns.values():
            if column.form is ColumnForm.FIXED:
                widths.append(fixed_width_bytes(column.type) or 1)
        nodes = list(nodes_of(node for _, node in self.lowered.roots))
        if any(node.op == "string_op" for node in nodes):
            return 1
        is_busy = any(node.op in ("call", "loop", "rem") for node in nodes)
        most = _MAX_BUSY_GROUP if is_busy else _MAX_GROUP
        return max(1, min(most, VECTOR_BYTES // max(widths, default=VECTOR_BYTES)))

    def map(self, *, aligned: bool) -> KernelText:
        """Return the kernel of a program that keeps every record."""
        return self._kernel(self.name, self.slots, MapBody(self, aligned=aligned))

    def select(self) -> KernelText:
        """Return the kernel that finds which records a filter keeps."""
        return self._kernel(f"{self.name}_select", self.slots, SelectBody(self))

    def write(self) -> KernelText:
        """Return the kernel that writes the results of a filter."""
        return self._kernel(f"{self.name}_write", self.slots, WriteBody(self))

    def _kernel(self, entry: str, slots: int, body: Body) -> KernelText:
        return KernelText(body.module(entry, slots), entry, slots)

    @property
    def target(self) -> Target:
        """The GPU that code is made for."""
        return self._target


def table_kernel(op: StringOp, form: ColumnForm, target: Target) -> KernelText:
    """Return the kernel that computes a string operation for each value of a dictionary.

    Its slots: rows, the four slots of the column, the address of the results.
    """
    forms = tuple(None if leaf.column is None else form for leaf in op.leaves)
    code = Code()
    code.block = "start"
    reader, threads = Reader(code, aligned=False), Threads(code)
    functions = StringFunctions()
    name = functions.name(op, forms, nullable=False)
    rows, out = reader.slot(0), reader.pointer(5)
    slots = code.value("getelementptr i64, ptr %arguments, i64 1")
    with counted_loop(code, "row", threads.index(), rows, threads.count()) as row:
        here = code.value(f"getelementptr [{strings.result_bytes(op)} x i8], ptr {out}, i64 {row}")
        code.add(f"call void @{name}(ptr {slots}, ptr {slots}, i64 {row}, i64 1, ptr {here})")
    return KernelText(module_of(code, functions, "table", 6, target), "table", 6)
