"""Says how a program runs on a device, in words.

For a CPU: what it computes for many records at once, and what one by one. For a GPU: which kernels it launches.
Reads the typed operations of a program and what the device offers; generates no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.kernels.llvm.target import Target
    from dataflare.kernels.udf.ir import Node
    from dataflare.kernels.udf.program import RecordProgram

__all__ = ["run_text", "vector_text"]


def run_text(program: RecordProgram, device: str, *, exact_math: bool = False) -> str:
    """Return how a program runs on a device, in words."""
    if device == "python":
        return "one record at a time, by the Python interpreter"
    if device.startswith("cuda"):
        return _kernel_text(program)
    return vector_text(program, exact_math=exact_math)


def _kernel_text(program: RecordProgram) -> str:
    """Return which kernels a GPU launches for a batch."""
    if program.has_filter:
        return "three kernels a batch: find and count what is kept, add the counts up, write it in order"
    if not program.dense.roots:
        return "no computation: columns are handed on"
    return "one kernel a batch, a thread for a few records"


def vector_text(program: RecordProgram, target: Target | None = None, *, exact_math: bool = False) -> str:
    """Return how a program runs on a CPU, in words.

    Parameters
    ----------
    target
        The CPU; this machine's when None.
    exact_math
        Whether mathematical functions are left to the C library.
    """
    from dataflare.kernels.cpu.codegen import group_lanes
    from dataflare.kernels.cpu.target import host_target
    from dataflare.kernels.cpu.text_groups import takes_groups
    from dataflare.kernels.llvm.layout import ColumnForm, layout_of
    from dataflare.kernels.llvm.target import MATH_FUNCTIONS

    target = host_target() if target is None else target
    if exact_math:
        target = target.exact_math
    single: set[str] = set()
    distinct: set[str] = set()
    columns = layout_of(program, program.dense).columns
    nodes = list(_nodes(node for _, node in program.dense.roots))
    for node in nodes:
        if node.op == "string_op":
            forms = [None if x.column is None else columns[x.column].form for x in node.attr.leaves]
            if ColumnForm.DICTIONARY in forms:
                distinct.add(f"text {node.attr.name}")
            elif not takes_groups(node.attr, forms):
                single.add(f"text {node.attr.name}")
        elif node.op == "call" and node.attr in MATH_FUNCTIONS and not target.has_vector_code(node.attr):
            single.add(str(node.attr))
        elif node.op == "rem" and not target.has_fma:
            single.add("remainder of floats")
    if not nodes:
        return "no computation: columns are handed on"
    text = f"vectorised: one loop of machine code, {group_lanes(program.dense, target)} records at once"
    if distinct:
        text += f"; once for each distinct value: {', '.join(sorted(distinct))}"
    return f"{text}; one by one: {', '.join(sorted(single))}" if single else text


def _nodes(roots: Iterable[Node]) -> Iterator[Node]:
    seen: set[int] = set()
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node.index in seen:
            continue
        seen.add(node.index)
        yield node
        pending.extend(node.args)
        if node.op == "loop":
            pending.extend(node.attr.nexts)
