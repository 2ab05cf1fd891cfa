"""One kernel as LLVM text: the module around a body, with the functions and declarations that it needs.

Does not cover bodies: those of programs are in ``bodies`` and ``filtering``, others in ``gather`` and ``primitives``.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataflare.kernels.cuda import runtime
from dataflare.kernels.cuda.reading import Reader
from dataflare.kernels.llvm import strings
from dataflare.kernels.llvm.emit import Code
from dataflare.kernels.llvm.layout import ColumnForm
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.udf.ir import StringOp

__all__ = ["BLOCK_THREADS", "KernelText", "StringFunctions", "kernel_of", "module_of"]

BLOCK_THREADS = 256
"""Threads of a block, in all kernels but the running sum."""

_ATTRIBUTES = (
    "attributes #0 = { nounwind }\nattributes #1 = { nounwind willreturn }\n"
    "attributes #2 = { nounwind willreturn memory(none) }\n"
    "attributes #3 = { cold noinline nounwind willreturn memory(none) }\nattributes #4 = { convergent nounwind }"
)


@dataclass(frozen=True)
class KernelText:
    """The LLVM text of one kernel, its name, and how many 64-bit slots its argument block has."""

    text: str
    entry: str
    slots: int


def kernel_of(code: Code, entry: str, slots: int, target: Target) -> KernelText:
    """Return the kernel whose body is ``code``, begun in block "start"."""
    return KernelText(module_of(code, StringFunctions(), entry, slots, target), entry, slots)


class StringFunctions:
    """The functions for operations on strings that one module needs."""

    def __init__(self) -> None:
        self._names: dict[tuple[StringOp, tuple[ColumnForm | None, ...], bool], str] = {}
        self.globals: list[str] = []
        self.texts: list[str] = []
        self.declarations: set[str] = set()

    def name(self, op: StringOp, forms: tuple[ColumnForm | None, ...], *, nullable: bool) -> str:
        """Return the name of the function for an operation on columns of these forms."""
        key = (op, forms, nullable and ColumnForm.VIEW in forms)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"string{len(self._names)}"
            text, declarations = strings.string_function(
                name, op, forms, nullable=key[2], all_ones=Reader.all_ones, aligned=True
            )
            self.texts.append(_private(text))
            self.globals += strings.string_globals(name, op)
            self.declarations.update(declarations)
        return name


def _private(function: str) -> str:
    """Return a function as one that a kernel takes in."""
    function = function.replace("define void", "define internal void", 1)
    return function.replace("#0 {", "alwaysinline nounwind {", 1)


def module_of(code: Code, functions: StringFunctions, entry: str, slots: int, target: Target) -> str:
    """Return the module with one kernel."""
    declarations = set(code.declarations) | functions.declarations
    provided = runtime.functions_for(declarations)
    head = f"define ptx_kernel void @{entry}(ptr byval([{slots} x i64]) align 8 %arguments) #0 {{\nentry:\n"
    body = (
        head
        + "\n".join(code.entry)
        + "\n  br label %start\nstart:\n"
        + "\n".join(code.lines)
        + "\n  ret void\n}"
    )
    return "\n\n".join(
        [
            f'target triple = "{target.triple}"',
            "\n".join(["@all_ones = internal addrspace(1) constant i8 -1", *functions.globals]),
            "\n".join(sorted(runtime.undefined(declarations))),
            *provided,
            *functions.texts,
            body,
            _ATTRIBUTES,
        ]
    )
