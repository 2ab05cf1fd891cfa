"""The programs of a plan as text: typed operations, LLVM code, assembly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from dataflare.kernels.errors import OptionError, nearest
from dataflare.plan.physical import ComputeStep

if TYPE_CHECKING:
    from dataflare.kernels.udf.program import RecordProgram
    from dataflare.plan.physical import PhysicalPlan

__all__ = ["ProgramForm", "program_listing"]

ProgramForm: TypeAlias = Literal["operations", "llvm", "assembly"]

_FORMS = ("operations", "llvm", "assembly")
_COMMENTS = {"operations": "#", "llvm": ";", "assembly": "#"}


def program_listing(plan: PhysicalPlan, form: ProgramForm) -> str:
    """Return the programs of a plan, in order, each under a comment that names its functions."""
    if form not in _FORMS:
        parts = [f"There is no form {form!r}.", nearest(str(form), _FORMS), f"Forms: {', '.join(_FORMS)}."]
        raise OptionError(" ".join(part for part in parts if part))
    comment = _COMMENTS[form]
    programs = [step.program for step in plan.steps if isinstance(step, ComputeStep)]
    if not programs:
        return f"{comment} no step compiles to a program"
    return "\n\n".join(
        f"{comment} {', '.join(program.functions) or 'columns'}\n{_text(program, form)}"
        for program in programs
    )


def _text(program: RecordProgram, form: ProgramForm) -> str:
    if form == "operations":
        return program.describe()
    from dataflare.kernels.cpu.fused import compile_cpu

    compiled = compile_cpu(program)
    return compiled.source() if form == "llvm" else compiled.assembly()
