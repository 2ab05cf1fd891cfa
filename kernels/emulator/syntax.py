"""What PTX text becomes: modules of functions and variables, functions of instructions with resolved registers.

Nothing here knows what an instruction does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = [
    "Address",
    "Function",
    "Guard",
    "Immediate",
    "Instruction",
    "Label",
    "Module",
    "Operand",
    "Parameter",
    "Register",
    "Symbol",
    "Variable",
    "Vector",
]


@dataclass(frozen=True)
class Register:
    """A register by its name; names of inner scopes are made unique by the parser. May be negated (``!%p1``)."""

    name: str
    is_negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """A literal: an integer, or the bits of a float of 4 or 8 bytes (``float_bytes`` is 0 for integers)."""

    value: int
    float_bytes: int = 0


@dataclass(frozen=True)
class Symbol:
    """The name of a variable, function, parameter, special register or label."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base + offset]``."""

    base: Register | Symbol | Immediate
    offset_bytes: int = 0


@dataclass(frozen=True)
class Vector:
    """``{a, b, c, d}``, ``(a, b)`` of a call, or ``a|b`` of an instruction with two results."""

    items: tuple[Operand, ...]


Operand: TypeAlias = Register | Immediate | Symbol | Address | Vector


@dataclass(frozen=True)
class Guard:
    """The predicate before an instruction: ``@%p1`` or ``@!%p1``."""

    register: str
    is_negated: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``add.rn.f64 %rd1, %rd2, %rd3;`` has the opcode "add" and the modifiers "rn" and "f64"."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    line: int
    guard: Guard | None = None


@dataclass(frozen=True)
class Label:
    """A place that branches name."""

    name: str


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel or function, or a ``.param`` variable of a call: where it lies among its kind."""

    name: str
    offset_bytes: int
    size_bytes: int
    alignment_bytes: int


@dataclass(frozen=True)
class Variable:
    """A variable of a module or function.

    ``initial`` holds its bytes, or is None where none are given; ``references`` lists the symbols whose addresses
    are added to it: where in the bytes, in how many bytes, and which symbol.
    """

    name: str
    space: str
    size_bytes: int
    alignment_bytes: int
    initial: bytes | None = None
    references: tuple[tuple[int, int, str], ...] = ()
    is_dynamic: bool = False


@dataclass
class Function:
    """A kernel or a device function.

    Attributes
    ----------
    registers
        The type of each register, by its unique name.
    locals, params
        Its ``.local`` variables and the ``.param`` variables that it passes to others, by name.
    branch_tables
        The labels of each ``.branchtargets``.
    block_limit, required_block
        The threads of a block: at most (``.maxntid``), or exactly (``.reqntid``); None where nothing is said.
    """

    name: str
    is_entry: bool
    line: int
    parameters: tuple[Parameter, ...] = ()
    results: tuple[Parameter, ...] = ()
    registers: dict[str, str] = field(default_factory=dict)
    locals: dict[str, Variable] = field(default_factory=dict)
    params: dict[str, Parameter] = field(default_factory=dict)
    branch_tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    body: list[Instruction | Label] = field(default_factory=list)
    block_limit: tuple[int, ...] | None = None
    required_block: tuple[int, ...] | None = None
    is_defined: bool = False

    @property
    def parameter_bytes(self) -> int:
        """The size of all parameters together, as a launch passes them."""
        return max((p.offset_bytes + p.size_bytes for p in self.parameters), default=0)

    @property
    def register_counts(self) -> dict[str, int]:
        """How many registers of each type are declared."""
        counts: dict[str, int] = {}
        for type_name in self.registers.values():
            counts[type_name] = counts.get(type_name, 0) + 1
        return counts


@dataclass(frozen=True, eq=False)
class Module:
    """A PTX text, parsed.

    Attributes
    ----------
    version, target
        Of the text: "8.7" and "sm_120".
    functions
        Kernels and device functions by name.
    variables
        ``.global``, ``.const`` and ``.shared`` variables of the module and of its functions, by name.
    lines
        The text, for messages.
    """

    version: str
    target: str
    functions: Mapping[str, Function]
    variables: Mapping[str, Variable]
    lines: Sequence[str]

    @property
    def entries(self) -> Mapping[str, Function]:
        """The kernels by name."""
        return {name: function for name, function in self.functions.items() if function.is_entry}

    @property
    def shared_bytes(self) -> int:
        """The static shared memory that a block has, alignment included."""
        size = 0
        for variable in self.variables.values():
            if variable.space == "shared" and not variable.is_dynamic:
                size = -(-size // variable.alignment_bytes) * variable.alignment_bytes + variable.size_bytes
        return size
