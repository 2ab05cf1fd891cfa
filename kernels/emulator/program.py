"""Decodes a kernel: device functions are copied in where they are called, and the code is cut into basic blocks.

A block ends where control may go elsewhere, and barriers and exchanges of a warp are blocks of their own. Blocks are
numbered in the order of the text, which compilers lay out so that lanes meet again when the lowest number goes first.
Calls through pointers and recursion are not covered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

from dataflare.kernels.emulator import (  # noqa: F401 - their decoders register themselves
    accesses,
    atomics,
    bits,
    comparisons,
    conversions,
    floats,
    integers,
    moves,
)
from dataflare.kernels.emulator.batch import SHARED_START, Batch, Lanes, Operation
from dataflare.kernels.emulator.decoding import BadOperand, Layout, Reader, Scope, Writer, decode, types_of
from dataflare.kernels.emulator.syntax import (
    Address,
    Function,
    Guard,
    Instruction,
    Label,
    Module,
    Register,
    Symbol,
    Vector,
)
from dataflare.kernels.emulator.types import TYPES
from dataflare.kernels.emulator.warps import WarpExchange, decode_exchange, is_exchange
from dataflare.kernels.errors import DeviceCodeError

__all__ = ["Barrier", "Block", "Branch", "Exit", "Jump", "Program", "Switch", "program_of"]


@dataclass(frozen=True)
class Jump:
    """Go on at a block."""

    target: int


@dataclass(frozen=True)
class Branch:
    """Go to one block where a predicate holds (or does not, if negated), else to the next."""

    register: int
    is_negated: bool
    target: int
    following: int


@dataclass(frozen=True)
class Switch:
    """Go to the block that an index chooses."""

    index: Reader
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Exit:
    """The thread ends."""


@dataclass(frozen=True)
class Barrier:
    """Wait for the other threads of the block.

    ``threads`` says how many, or is None for all; ``reduction`` what becomes of their predicates: "popc", "and", "or".
    """

    number: Reader
    threads: Reader | None
    is_aligned: bool
    reduction: str | None
    predicate: Reader | None
    write: Writer | None


Terminator: TypeAlias = Jump | Branch | Switch | Exit | Barrier | WarpExchange


@dataclass
class Block:
    """Operations that run one after the other, and how they end.

    ``instructions`` names the instruction of each operation and of the end, ``count`` says how many there are in the
    text: a block that ends because another begins has none for its end.
    """

    operations: list[Operation] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    terminator: Terminator | None = None
    count: int = 0


@dataclass(frozen=True)
class Program:
    """A kernel, decoded."""

    module: Module
    entry: Function
    blocks: tuple[Block, ...]
    layout: Layout
    register_sizes: list[int]
    slot_bytes: list[int]
    local_bytes: int
    shared_granule_bytes: int
    uses_dynamic_shared: bool


_ALIGNMENT: Final = 16
_LabelKey: TypeAlias = tuple[int, str]


@lru_cache(maxsize=256)
def program_of(module: Module, entry: str) -> Program:
    """Return a kernel of a module, decoded.

    Raises
    ------
    DeviceCodeError
        There is no such kernel, or an instruction is not covered; the message names the line.
    """
    function = module.entries.get(entry)
    if function is None:
        names = ", ".join(module.entries) or "none"
        raise DeviceCodeError(f"The module has no kernel {entry!r}; it has {names}.")
    return _Builder(module, function).program()


class _Builder:
    """Collects the blocks; labels are known by the copy of the function and their name until all are placed."""

    def __init__(self, module: Module, entry: Function) -> None:
        self._module = module
        self._entry = entry
        self._layout, self._uses_dynamic = _layout(module, entry)
        self._register_sizes: list[int] = []
        self._slot_bytes: list[int] = []
        self._local_bytes = 0
        self._blocks: list[Block] = [Block()]
        self._places: dict[_LabelKey, int] = {}
        self._jumps: list[tuple[Block, tuple[_LabelKey, ...]]] = []
        self._copies = 0
        self._granule = 8

    def program(self) -> Program:
        self._expand(self._entry, {}, ())
        if self._blocks[-1].terminator is None:
            self._end(Exit(), Instruction("exit", (), (), self._entry.line), is_written=False)
        while self._blocks[-1].terminator is None:
            self._blocks.pop()
        for block, keys in self._jumps:
            targets = tuple(self._places[key] for key in keys)
            old = block.terminator
            if isinstance(old, Branch):
                block.terminator = Branch(old.register, old.is_negated, targets[0], old.following)
            elif isinstance(old, Switch):
                block.terminator = Switch(old.index, targets)
            else:
                block.terminator = Jump(targets[0])
        return Program(
            self._module,
            self._entry,
            tuple(self._blocks),
            self._layout,
            self._register_sizes,
            self._slot_bytes,
            self._local_bytes,
            self._granule,
            self._uses_dynamic,
        )

    # ------------------------------------------------------------------------------------------------ functions

    def _expand(self, function: Function, slots: dict[str, int], callers: tuple[str, ...]) -> None:
        """Append the code of one copy of a function."""
        self._copies += 1
        copy = self._copies
        offsets: dict[str, int] = {}
        for name, variable in function.locals.items():
            start = -(-self._local_bytes // variable.alignment_bytes) * variable.alignment_bytes
            offsets[name] = start
            self._local_bytes = start + variable.size_bytes
        scope = Scope(function, self._layout, self._register_sizes, self._slot_bytes, offsets, slots)
        for item in function.body:
            if isinstance(item, Label):
                self._place((copy, item.name))
                continue
            try:
                self._append(scope, item, copy, callers)
            except BadOperand as error:
                raise scope.wrong(item, str(error)) from None
            except (IndexError, KeyError):
                raise scope.wrong(item, "has operands or modifiers that do not fit it") from None
        self._place((copy, "@return"))

    def _append(self, scope: Scope, instruction: Instruction, copy: int, callers: tuple[str, ...]) -> None:
        opcode = instruction.opcode
        if opcode == "bra":
            self._branch(scope, instruction, copy)
        elif opcode in ("ret", "exit", "brx", "call", "bar", "barrier") or is_exchange(instruction):
            if instruction.guard is None:
                self._control(scope, instruction, copy, callers)
            else:
                self._skip_unless(scope, instruction.guard, instruction, copy)
                self._control(scope, instruction, copy, callers)
                self._place((copy, f"@after{instruction.line}"))
        else:
            operation = decode(scope, instruction)
            self._note_granule(instruction)
            if instruction.guard is not None:
                operation = _guarded(scope, instruction.guard, operation)
            block = self._blocks[-1]
            block.operations.append(operation)
            block.instructions.append(instruction)

    def _note_granule(self, instruction: Instruction) -> None:
        """Remember the smallest access that may go to shared memory."""
        if instruction.opcode in ("ld", "st", "atom", "red") and "global" not in instruction.modifiers:
            self._granule = min(self._granule, types_of(instruction)[-1].size_bytes)

    # -------------------------------------------------------------------------------------------------- control

    def _control(self, scope: Scope, instruction: Instruction, copy: int, callers: tuple[str, ...]) -> None:
        opcode = instruction.opcode
        if opcode == "call":
            self._call(scope, instruction, callers)
        elif opcode == "exit" or (opcode == "ret" and not callers):
            self._end(Exit(), instruction)
        elif opcode == "ret":
            self._jump((copy, "@return"), instruction)
        elif opcode == "brx":
            table = instruction.operands[1]
            labels = scope.function.branch_tables.get(table.name) if isinstance(table, Symbol) else None
            if labels is None:
                raise scope.wrong(instruction, "names no branch targets")
            switch = Switch(scope.source(instruction.operands[0], TYPES["b32"]), ())
            self._jumps.append((self._blocks[-1], tuple((copy, label) for label in labels)))
            self._end(switch, instruction)
        else:
            if self._blocks[-1].operations:
                self._end(Jump(len(self._blocks)), instruction, is_written=False)
            if is_exchange(instruction):
                self._end(decode_exchange(scope, instruction), instruction)
            else:
                self._end(_barrier(scope, instruction), instruction)

    def _branch(self, scope: Scope, instruction: Instruction, copy: int) -> None:
        target = instruction.operands[0]
        if not isinstance(target, Symbol):
            raise scope.wrong(instruction, "needs a label")
        key = (copy, target.name)
        if instruction.guard is None:
            self._jump(key, instruction)
            return
        number, _ = scope.register(instruction.guard.register)
        self._jumps.append((self._blocks[-1], (key,)))
        self._end(Branch(number, instruction.guard.is_negated, -1, len(self._blocks)), instruction)

    def _skip_unless(self, scope: Scope, guard: Guard, instruction: Instruction, copy: int) -> None:
        """Go past an instruction of control where its guard does not hold."""
        number, _ = scope.register(guard.register)
        self._jumps.append((self._blocks[-1], ((copy, f"@after{instruction.line}"),)))
        self._end(Branch(number, not guard.is_negated, -1, len(self._blocks)), instruction, is_written=False)

    def _call(self, scope: Scope, instruction: Instruction, callers: tuple[str, ...]) -> None:
        operands = list(instruction.operands)
        results = scope.items(operands.pop(0)) if not isinstance(operands[0], (Symbol, Register)) else ()
        callee = operands.pop(0)
        if not isinstance(callee, Symbol):
            raise scope.wrong(instruction, "through a pointer is not covered")
        function = self._module.functions.get(callee.name)
        if function is None or not function.is_defined:
            raise scope.wrong(instruction, f"calls {callee.name}, which the module does not define")
        if callee.name in callers or len(callers) > 64:
            raise scope.wrong(instruction, f"calls {callee.name} again; recursion is not covered")
        arguments = scope.items(operands[0]) if operands else ()
        slots = {}
        for parameters, given in ((function.results, results), (function.parameters, arguments)):
            if len(parameters) != len(given):
                raise scope.wrong(instruction, f"passes {len(given)} values for {len(parameters)}")
            for parameter, value in zip(parameters, given, strict=True):
                if not isinstance(value, Symbol) or value.name not in scope.slots:
                    raise scope.wrong(instruction, "passes what is not a .param variable")
                slots[parameter.name] = scope.slots[value.name]
        self._expand(function, slots, (*callers, callee.name))

    # --------------------------------------------------------------------------------------------------- blocks

    def _place(self, key: _LabelKey) -> None:
        """Put a label here."""
        if self._blocks[-1].operations:
            here = len(self._blocks)
            self._end(Jump(here), self._blocks[-1].instructions[-1], is_written=False)
        self._places[key] = len(self._blocks) - 1

    def _jump(self, key: _LabelKey, instruction: Instruction) -> None:
        self._jumps.append((self._blocks[-1], (key,)))
        self._end(Jump(-1), instruction)

    def _end(self, terminator: Terminator, instruction: Instruction, *, is_written: bool = True) -> None:
        block = self._blocks[-1]
        block.count = len(block.operations) + is_written
        block.terminator = terminator
        block.instructions.append(instruction)
        self._blocks.append(Block())


def _guarded(scope: Scope, guard: Guard, operation: Operation) -> Operation:
    number, _ = scope.register(guard.register)
    is_negated = guard.is_negated

    def run(batch: Batch, lanes: Lanes) -> None:
        holds = batch.registers[number]
        if holds.ndim == 0:
            if bool(holds) != is_negated:
                operation(batch, lanes)
            return
        if lanes is not None:
            holds = holds[lanes]
        if is_negated:
            holds = ~holds
        if holds.all():
            operation(batch, lanes)
        elif holds.any():
            operation(batch, holds.nonzero()[0] if lanes is None else lanes[holds])

    return run


def _barrier(scope: Scope, instruction: Instruction) -> Barrier:
    modifiers, operands = instruction.modifiers, list(instruction.operands)
    reductions = [modifier for modifier in modifiers if modifier in ("popc", "and", "or")]
    scope.allow(instruction, "sync red cta aligned popc and or")
    reduction = reductions[0] if "red" in modifiers else None
    write = predicate = None
    if reduction is not None:
        write = scope.target(operands.pop(0), TYPES["u32" if reduction == "popc" else "pred"])
        predicate = scope.source(operands.pop(), TYPES["pred"])
    word = TYPES["b32"]
    number = scope.source(operands[0], word)
    threads = scope.source(operands[1], word) if len(operands) > 1 else None
    is_aligned = instruction.opcode == "bar" or "aligned" in modifiers
    return Barrier(number, threads, is_aligned, reduction, predicate, write)


def _names_used(module: Module, entry: Function) -> set[str]:
    """Return the symbols that a kernel and the functions it may call name."""
    names: set[str] = set()
    pending, seen = [entry], {entry.name}
    while pending:
        operands = [
            operand
            for item in pending.pop().body
            if isinstance(item, Instruction)
            for operand in item.operands
        ]
        while operands:
            operand = operands.pop()
            if isinstance(operand, Vector):
                operands.extend(operand.items)
            elif isinstance(operand, Address):
                operands.append(operand.base)
            elif isinstance(operand, Symbol):
                names.add(operand.name)
                if operand.name in module.functions and operand.name not in seen:
                    seen.add(operand.name)
                    pending.append(module.functions[operand.name])
    return names


def _layout(module: Module, entry: Function) -> tuple[Layout, bool]:
    """Place the shared variables that a kernel uses one after the other, those of dynamic size behind all others."""
    used = _names_used(module, entry)
    offsets: dict[str, int] = {}
    size = 0
    shared = [
        variable
        for variable in module.variables.values()
        if variable.space == "shared" and variable.name in used
    ]
    for variable in shared:
        if not variable.is_dynamic:
            size = -(-size // variable.alignment_bytes) * variable.alignment_bytes
            offsets[variable.name] = SHARED_START + size
            size += variable.size_bytes
    dynamic = [variable for variable in shared if variable.is_dynamic]
    if dynamic:
        alignment = max(_ALIGNMENT, *(variable.alignment_bytes for variable in dynamic))
        size = -(-size // alignment) * alignment
        offsets |= {variable.name: SHARED_START + size for variable in dynamic}
    parameters = {one.name: (one.offset_bytes, one.size_bytes) for one in entry.parameters}
    in_memory = frozenset(name for name, variable in module.variables.items() if variable.space != "shared")
    return Layout(offsets, size, parameters, in_memory), bool(dynamic)
