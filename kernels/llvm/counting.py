"""The loop that most code is made of: an index from a first value to an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dataflare.kernels.llvm.emit import Code

__all__ = ["counted_loop"]


@contextmanager
def counted_loop(code: Code, stem: str, first: str, end: str, step: str) -> Iterator[str]:
    """Repeat what is emitted inside for an index (i64, unsigned) from ``first`` by ``step`` up to ``end``."""
    before, head, body, after = (
        code.block,
        *(code.fresh_label(f"{stem}_{s}") for s in ("head", "body", "end")),
    )
    index, following = code.name(stem), code.name(stem)
    code.add(f"br label %{head}")
    code.label(head)
    phi = len(code.lines)
    inside = code.value(f"icmp ult i64 {index}, {end}")
    code.add(f"br i1 {inside}, label %{body}, label %{after}")
    code.label(body)
    yield index
    code.add(f"{following} = add i64 {index}, {step}")
    code.lines.insert(phi, f"  {index} = phi i64 [ {first}, %{before} ], [ {following}, %{code.block} ]")
    code.add(f"br label %{head}")
    code.label(after)
