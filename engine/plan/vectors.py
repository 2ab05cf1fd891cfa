"""Says what of a program a CPU computes for many records at once, and what one by one.

Reads the typed operations of a program and what this machine offers; generates no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataflare.kernels.cpu.target import Target
    from dataflare.kernels.udf.ir import Node
    from dataflare.kernels.udf.program import RecordProgram

__all__ = ["vector_text"]


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
    from dataflare.kernels.cpu.target import MATH_FUNCTIONS, host_target

    target = host_target() if target is None else target
    if exact_math:
        target = target.exact_math
    single: set[str] = set()
    nodes = list(_nodes(node for _, node in program.dense.roots))
    for node in nodes:
        if node.op == "string_op":
            single.add(f"text {node.attr.name}")
        elif node.op == "call" and node.attr in MATH_FUNCTIONS and node.attr not in target.vector_math:
            single.add(str(node.attr))
        elif node.op in ("quotient", "rem") and node.type.is_integer:
            single.add("whole-number division")  # no instruction set has it for vectors
    if not nodes:
        return "no computation: columns are handed on"
    lanes = f"vectorised: one loop of machine code, {group_lanes(program.dense, target)} records at once"
    return f"{lanes}; one by one: {', '.join(sorted(single))}" if single else lanes


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
