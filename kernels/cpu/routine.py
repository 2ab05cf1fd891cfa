"""Builds LLVM functions that are written by hand: variables, conditions and loops over 64-bit integers.

The fused programs are generated from a user's functions and use `Code` directly; a decoder is always the same and
reads better as statements. Every value is an i64, an address too; what is loaded is extended with zeros, and
comparisons are unsigned. Does not cover vectors and floats: such loops are given as LLVM text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from dataflare.kernels.llvm.emit import Code

__all__ = [
    "DECLARATIONS",
    "Flag",
    "Operand",
    "OperandLike",
    "Pointer",
    "Routine",
    "Variable",
    "counted_loop",
]

DECLARATIONS = """\
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.ctpop.i64(i64)
declare i64 @llvm.umin.i64(i64, i64)"""
"""What a module of routines declares."""

OperandLike: TypeAlias = "Operand | int"


class Flag:
    """A condition: an i1."""

    def __init__(self, code: Code, text: str) -> None:
        self._code = code
        self.text = text

    def __and__(self, other: Flag) -> Flag:
        return Flag(self._code, self._code.value(f"and i1 {self.text}, {other.text}"))

    def __or__(self, other: Flag) -> Flag:
        return Flag(self._code, self._code.value(f"or i1 {self.text}, {other.text}"))


class Operand:
    """An i64 that instructions can use."""

    def __init__(self, code: Code, text: str) -> None:
        self._code = code
        self._text = text

    @property
    def text(self) -> str:
        """The register or literal that holds the value now."""
        return self._text

    def _binary(self, operation: str, other: OperandLike) -> Operand:
        return Operand(self._code, self._code.value(f"{operation} i64 {self.text}, {text_of(other)}"))

    def _compared(self, predicate: str, other: OperandLike) -> Flag:
        return Flag(self._code, self._code.value(f"icmp {predicate} i64 {self.text}, {text_of(other)}"))

    def __add__(self, other: OperandLike) -> Operand:
        return self._binary("add", other)

    def __sub__(self, other: OperandLike) -> Operand:
        return self._binary("sub", other)

    def __rsub__(self, other: int) -> Operand:
        return Operand(self._code, self._code.value(f"sub i64 {other}, {self.text}"))

    def __mul__(self, other: OperandLike) -> Operand:
        return self._binary("mul", other)

    def __floordiv__(self, other: OperandLike) -> Operand:
        return self._binary("udiv", other)

    def __and__(self, other: OperandLike) -> Operand:
        return self._binary("and", other)

    def __or__(self, other: OperandLike) -> Operand:
        return self._binary("or", other)

    def __xor__(self, other: OperandLike) -> Operand:
        return self._binary("xor", other)

    def __lshift__(self, other: OperandLike) -> Operand:
        return self._binary("shl", other)

    def __rshift__(self, other: OperandLike) -> Operand:
        return self._binary("lshr", other)

    def __lt__(self, other: OperandLike) -> Flag:
        return self._compared("ult", other)

    def __le__(self, other: OperandLike) -> Flag:
        return self._compared("ule", other)

    def __gt__(self, other: OperandLike) -> Flag:
        return self._compared("ugt", other)

    def __ge__(self, other: OperandLike) -> Flag:
        return self._compared("uge", other)

    def equals(self, other: OperandLike) -> Flag:
        """Return whether both are the same."""
        return self._compared("eq", other)

    def differs(self, other: OperandLike) -> Flag:
        """Return whether they are not the same."""
        return self._compared("ne", other)

    def least(self, other: OperandLike) -> Operand:
        """Return the smaller one."""
        return Operand(
            self._code, self._code.value(f"call i64 @llvm.umin.i64(i64 {self.text}, i64 {text_of(other)})")
        )


class Pointer:
    """An address as an argument of a loop given as LLVM text."""

    def __init__(self, text: str) -> None:
        self.text = text


class Variable(Operand):
    """An i64 that changes; each use reads what it is then. The optimiser keeps locals in registers."""

    def __init__(self, code: Code, pointer: str) -> None:
        super().__init__(code, pointer)
        self.pointer = pointer

    @property
    def text(self) -> str:
        """The value of this moment."""
        return self._code.value(f"load i64, ptr {self.pointer}, align 8")

    def set(self, value: OperandLike) -> None:
        """Assign a value."""
        self._code.add(f"store i64 {text_of(value)}, ptr {self.pointer}, align 8")

    @property
    def now(self) -> Operand:
        """The value of this moment, whatever is assigned later."""
        return Operand(self._code, self.text)

    def advance(self, by: OperandLike) -> None:
        """Add to it."""
        self.set(self + by)


def text_of(value: OperandLike) -> str:
    """Return a value as it stands in an instruction."""
    return str(value) if isinstance(value, int) else value.text


class Routine:
    """One function of i64 arguments that returns an i64; statements are added by calling its methods.

    Parameters
    ----------
    name
        What others call it by.
    parameters
        Names of the arguments.
    exported
        Whether it is called from outside the module.
    """

    def __init__(self, name: str, parameters: Sequence[str], *, exported: bool = False) -> None:
        self.code = Code()
        self.code.block = "start"
        self._head = (
            f"define {'' if exported else 'internal '}i64 @{name}("
            + ", ".join(f"i64 %{parameter}" for parameter in parameters)
            + f") {'' if exported else 'noinline '}nounwind {{"
        )
        self._arguments = {parameter: Operand(self.code, f"%{parameter}") for parameter in parameters}

    def __getitem__(self, parameter: str) -> Operand:
        """Return an argument."""
        return self._arguments[parameter]

    def build(self) -> str:
        """Return the text of the function; falling off its end returns 0."""
        return "\n".join(
            [
                self._head,
                "entry:",
                *self.code.entry,
                "  br label %start",
                "start:",
                *self.code.lines,
                "  ret i64 0",
                "}",
            ]
        )

    # ------------------------------------------------------------------------------------- values and memory

    def variable(self, initial: OperandLike = 0) -> Variable:
        """Return a new variable, assigned here."""
        name = self.code.name("x")
        self.code.entry.append(f"  {name} = alloca i64, align 8")
        variable = Variable(self.code, name)
        variable.set(initial)
        return variable

    def constant(self, value: int) -> Operand:
        """Return a literal."""
        return Operand(self.code, str(value))

    def memory(self, address: OperandLike) -> Variable:
        """Return the i64 at an address as a variable."""
        return Variable(self.code, self._pointer(address))

    def address_of(self, variable: Variable) -> Operand:
        """Return where a variable is."""
        return Operand(self.code, self.code.value(f"ptrtoint ptr {variable.pointer} to i64"))

    def stack(self, size_bytes: int) -> Operand:
        """Return the address of memory that the function has while it runs, aligned to 64 bytes."""
        name = self.code.name("memory")
        self.code.entry.append(f"  {name} = alloca [{size_bytes} x i8], align 64")
        self.code.entry.append(f"  {name}.a = ptrtoint ptr {name} to i64")
        return Operand(self.code, f"{name}.a")

    def _pointer(self, address: OperandLike) -> str:
        return self.code.value(f"inttoptr i64 {text_of(address)} to ptr")

    def load(self, address: OperandLike, bits: int) -> Operand:
        """Return `bits` bits from any address, extended with zeros."""
        loaded = self.code.value(f"load i{bits}, ptr {self._pointer(address)}, align 1")
        if bits < 64:
            loaded = self.code.value(f"zext i{bits} {loaded} to i64")
        return Operand(self.code, loaded)

    def store(self, address: OperandLike, value: OperandLike, bits: int) -> None:
        """Write the low `bits` bits to any address."""
        stored = text_of(value)
        if bits < 64:
            stored = self.code.value(f"trunc i64 {stored} to i{bits}")
        self.code.add(f"store i{bits} {stored}, ptr {self._pointer(address)}, align 1")

    def move(self, target: OperandLike, source: OperandLike, size_bytes: int) -> None:
        """Copy 8, 16 or 32 bytes at once, through registers."""
        kind = "i64" if size_bytes == 8 else f"<{size_bytes // 4} x i32>"
        loaded = self.code.value(f"load {kind}, ptr {self._pointer(source)}, align 1")
        self.code.add(f"store {kind} {loaded}, ptr {self._pointer(target)}, align 1")

    def copy(self, target: OperandLike, source: OperandLike, size_bytes: OperandLike) -> None:
        """Copy any number of bytes between places that do not overlap."""
        self.code.add(
            f"call void @llvm.memcpy.p0.p0.i64(ptr {self._pointer(target)}, ptr {self._pointer(source)}, "
            f"i64 {text_of(size_bytes)}, i1 false)"
        )

    def fill(self, target: OperandLike, byte: OperandLike, size_bytes: OperandLike) -> None:
        """Set any number of bytes to the low 8 bits of `byte`."""
        low = self.code.value(f"trunc i64 {text_of(byte)} to i8")
        self.code.add(
            f"call void @llvm.memset.p0.i64(ptr {self._pointer(target)}, i8 {low}, i64 {text_of(size_bytes)}, i1 false)"
        )

    def chosen(self, condition: Flag, yes: OperandLike, no: OperandLike) -> Operand:
        """Return one of two values without a branch."""
        return Operand(
            self.code,
            self.code.value(f"select i1 {condition.text}, i64 {text_of(yes)}, i64 {text_of(no)}"),
        )

    def bits_set(self, value: OperandLike) -> Operand:
        """Return how many bits of a value are ones."""
        return Operand(self.code, self.code.value(f"call i64 @llvm.ctpop.i64(i64 {text_of(value)})"))

    def opposite(self, condition: Flag) -> Flag:
        """Return whether a condition does not hold."""
        return Flag(self.code, self.code.value(f"xor i1 {condition.text}, true"))

    def table(self, name: str) -> Operand:
        """Return the address of a constant of the module."""
        return Operand(self.code, f"ptrtoint (ptr @{name} to i64)")

    def pointer(self, address: OperandLike) -> Pointer:
        """Return an address for a function that takes a pointer."""
        return Pointer(self._pointer(address))

    def call(self, name: str, *arguments: OperandLike | Pointer) -> Operand:
        """Call another function that returns an i64."""
        listed = ", ".join(
            f"ptr {argument.text}" if isinstance(argument, Pointer) else f"i64 {text_of(argument)}"
            for argument in arguments
        )
        return Operand(self.code, self.code.value(f"call i64 @{name}({listed})"))

    # ----------------------------------------------------------------------------------------------- control

    @contextmanager
    def when(self, condition: Flag) -> Iterator[None]:
        """Run the statements of the block where the condition holds."""
        yes, after = self.code.fresh_label("yes"), self.code.fresh_label("after")
        self.code.add(f"br i1 {condition.text}, label %{yes}, label %{after}")
        self.code.label(yes)
        yield
        self.code.add(f"br label %{after}")
        self.code.label(after)

    @contextmanager
    def loop(self, condition: Callable[[], Flag]) -> Iterator[str]:
        """Repeat the statements of the block as long as the condition holds; gives the place for `go_on`."""
        head, body, after = (self.code.fresh_label(stem) for stem in ("head", "body", "done"))
        self.code.add(f"br label %{head}")
        self.code.label(head)
        holds = condition()
        self.code.add(f"br i1 {holds.text}, label %{body}, label %{after}")
        self.code.label(body)
        yield head
        self.code.add(f"br label %{head}")
        self.code.label(after)

    def go_on(self, loop: str) -> None:
        """Test the condition of an enclosing loop again."""
        self.code.add(f"br label %{loop}")
        self.code.label(self.code.fresh_label("unreached"))

    def finish(self, value: OperandLike) -> None:
        """Return from the function."""
        self.code.add(f"ret i64 {text_of(value)}")
        self.code.label(self.code.fresh_label("unreached"))

    def finish_when(self, condition: Flag, value: OperandLike) -> None:
        """Return from the function where the condition holds."""
        with self.when(condition):
            self.finish(value)


def counted_loop(head: str, before: str, body: str) -> str:
    """Return a function of LLVM text around a loop of `body` over ``%i`` below ``%count``.

    Parameters
    ----------
    head
        Name and parameters.
    before
        What comes before the loop; whole lines.
    """
    return f"""\
define internal i64 @{head} nounwind {{
entry:
{before}  %some = icmp ne i64 %count, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
{body}
  %i.next = add nuw i64 %i, 1
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %done
done:
  ret i64 0
}}"""
