"""Reads PTX text: declarations with initialisers, functions, instructions.

Covers what LLVM's NVPTX backend writes and hand-written code in its style, with nested scopes and predicates.
Debug sections and prototypes of indirect calls are skipped; textures, surfaces and tensor instructions are left
to whoever decodes, since any opcode parses.
"""

from __future__ import annotations

from functools import lru_cache

from dataflare.kernels.emulator.lexer import Tokens, bits_of_float, float_of_bits
from dataflare.kernels.emulator.syntax import (
    Address,
    Function,
    Guard,
    Instruction,
    Label,
    Module,
    Operand,
    Parameter,
    Register,
    Symbol,
    Variable,
    Vector,
)

__all__ = ["parse"]

_STATE_SPACES = frozenset({".global", ".const", ".shared", ".local"})
_LINKAGE = frozenset({".visible", ".weak", ".extern", ".common", ".noreturn"})
_ELEMENT_BYTES = {"pred": 1, "b128": 16} | {
    f"{kind}{bits}": bits // 8 for kind in "bsu" for bits in (8, 16, 32, 64)
}
_ELEMENT_BYTES |= {"f16": 2, "bf16": 2, "f16x2": 4, "bf16x2": 4, "f32": 4, "f64": 8}


@lru_cache(maxsize=256)
def parse(text: str) -> Module:
    """Return the module of a PTX text; equal texts give the same object.

    Raises
    ------
    DeviceCodeError
        The text is not PTX, or a part of PTX that is not covered; the message names the line.
    """
    return _Parser(text).module()


class _Parser:
    """A recursive-descent parser of declarations."""

    def __init__(self, text: str) -> None:
        self.tokens = Tokens(text)
        self.variables: dict[str, Variable] = {}
        self._functions: dict[str, Function] = {}

    # ------------------------------------------------------------------------------------------ declarations

    def module(self) -> Module:
        """Parse everything."""
        version = target = ""
        while self.tokens.next:
            word = self.tokens.next
            if word == ".version":
                self.tokens.take()
                version = self.tokens.take()
            elif word == ".target":
                self.tokens.take()
                target = self.tokens.take()
                while self.tokens.accept(","):
                    self.tokens.take()
            elif word == ".address_size":
                self.tokens.take()
                if self.tokens.integer() != 64:
                    raise self.tokens.wrong("only addresses of 64 bits are covered")
            elif word == ".file":
                self.tokens.skip_line()
            elif word == ".section":
                self._skip_section()
            elif word in _LINKAGE or word in _STATE_SPACES or word in (".entry", ".func"):
                self._global_declaration()
            else:
                raise self.tokens.wrong("a declaration is expected")
        return Module(version, target, self._functions, self.variables, self.tokens.lines)

    def _skip_section(self) -> None:
        self.tokens.skip_past("{")
        self.tokens.skip_past("}")

    def _global_declaration(self) -> None:
        is_extern = False
        while self.tokens.next in _LINKAGE:
            is_extern |= self.tokens.take() == ".extern"
        word = self.tokens.take()
        if word in (".entry", ".func"):
            self._function(is_entry=word == ".entry")
            return
        for variable in self.variable(word[1:], is_extern=is_extern):
            self.variables[variable.name] = variable

    def variable(self, space: str, *, is_extern: bool = False) -> list[Variable]:
        alignment, element, vector = self._variable_type()
        found = []
        while True:
            name = self.tokens.take()
            element_bytes = _ELEMENT_BYTES[element] * vector
            size, is_dynamic = element_bytes, False
            while self.tokens.accept("["):
                if self.tokens.accept("]"):
                    is_dynamic = True
                    size = 0
                else:
                    size *= self.tokens.integer()
                    self.tokens.take("]")
            initial: bytes | None = None
            references: list[tuple[int, int, str]] = []
            if self.tokens.accept("="):
                data = bytearray()
                self._initialiser(element, data, references)
                is_dynamic = False
                size = max(size, len(data))
                initial = bytes(data).ljust(size, b"\0")
            found.append(
                Variable(
                    name,
                    space,
                    size,
                    alignment or element_bytes,
                    initial,
                    tuple(references),
                    is_dynamic=is_dynamic and (is_extern or space == "shared"),
                )
            )
            if not self.tokens.accept(","):
                self.tokens.take(";")
                return found

    def _variable_type(self) -> tuple[int, str, int]:
        """Return the alignment (0 where none is given), the element's type and how many make a vector."""
        alignment, vector = 0, 1
        while True:
            word = self.tokens.take()
            if word == ".align":
                alignment = self.tokens.integer()
            elif word in (".v2", ".v4"):
                vector = int(word[2:])
            elif word.startswith(".attribute"):
                self.tokens.take("(")
                self.tokens.skip_past(")")
            elif word[1:] in _ELEMENT_BYTES:
                return alignment, word[1:], vector
            else:
                self.tokens.step_back()
                raise self.tokens.wrong("a type is expected")

    def _initialiser(self, element: str, data: bytearray, references: list[tuple[int, int, str]]) -> None:
        if self.tokens.accept("{"):
            while not self.tokens.accept("}"):
                self._initialiser(element, data, references)
                self.tokens.accept(",")
            return
        size = _ELEMENT_BYTES[element]
        if self.tokens.next[:1].isalpha() or self.tokens.next[:1] in "_$%":
            if self.tokens.accept("generic"):
                self.tokens.take("(")
                symbol = self.tokens.take()
                self.tokens.take(")")
            else:
                symbol = self.tokens.take()
            references.append((len(data), size, symbol))
            value = self.tokens.integer() if self.tokens.accept("+") else 0
        else:
            literal = self.tokens.literal()
            value = literal.value
            if literal.float_bytes == 8 and element == "f32":
                value = bits_of_float(float_of_bits(value, 8), 4)
            elif literal.float_bytes == 4 and element == "f64":
                value = bits_of_float(float_of_bits(value, 4), 8)
        data += (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    # --------------------------------------------------------------------------------------------- functions

    def _function(self, *, is_entry: bool) -> None:
        results: tuple[Parameter, ...] = ()
        if self.tokens.next == "(":
            results = self._parameters()
        line = self.tokens.line
        name = self.tokens.take()
        parameters = self._parameters() if self.tokens.next == "(" else ()
        function = Function(name, is_entry, line, parameters, results)
        while self.tokens.next not in ("{", ";"):
            word = self.tokens.take()
            if word in (".maxntid", ".reqntid"):
                limits = [self.tokens.integer()]
                while self.tokens.accept(","):
                    limits.append(self.tokens.integer())
                if word == ".maxntid":
                    function.block_limit = tuple(limits)
                else:
                    function.required_block = tuple(limits)
        if self.tokens.accept(";"):
            self._functions.setdefault(name, function)
            return
        self._functions[name] = function
        function.is_defined = True
        _Body(self, function).parse()

    def _parameters(self) -> tuple[Parameter, ...]:
        self.tokens.take("(")
        found: list[Parameter] = []
        offset = 0
        while not self.tokens.accept(")"):
            self.tokens.accept(",")
            self.tokens.take(".param")
            parameter = self.parameter(offset)
            offset = parameter.offset_bytes + parameter.size_bytes
            found.append(parameter)
        return tuple(found)

    def parameter(self, offset: int) -> Parameter:
        alignment = size = 0
        while True:
            word = self.tokens.take()
            if word == ".align":
                given = self.tokens.integer()
                alignment = alignment or given
            elif word == ".ptr":
                while self.tokens.next in (*_STATE_SPACES, ".align"):
                    if self.tokens.take() == ".align":
                        self.tokens.integer()
            elif word.startswith("."):
                if word[1:] not in _ELEMENT_BYTES:
                    self.tokens.step_back()
                    raise self.tokens.wrong("a type is expected")
                size = _ELEMENT_BYTES[word[1:]]
                alignment = alignment or size
            else:
                break
        if self.tokens.accept("["):
            size = size * self.tokens.integer() if self.tokens.next != "]" else 0
            self.tokens.take("]")
        start = -(-offset // alignment) * alignment
        return Parameter(word, start, size, alignment)


class _Body:
    """The part between a function's braces; `_scopes` maps names as written to unique ones, innermost last."""

    def __init__(self, parser: _Parser, function: Function) -> None:
        self._parser = parser
        self._tokens = parser.tokens
        self._function = function
        self._scopes: list[dict[str, str]] = [{}]
        self._opened = 0

    def parse(self) -> None:
        self._tokens.take("{")
        while True:
            word = self._tokens.next
            if word == "{":
                self._tokens.take()
                self._opened += 1
                self._scopes.append({})
            elif word == "}":
                self._tokens.take()
                self._scopes.pop()
                if not self._scopes:
                    return
            elif word == ".loc":
                self._tokens.skip_line()
            elif word.startswith("."):
                self._declaration(self._tokens.take())
            elif self._tokens.second == ":":
                self._label()
            else:
                self._function.body.append(self._instruction())

    def _declare(self, name: str) -> str:
        unique = name if len(self._scopes) == 1 else f"{name}@{self._opened}"
        self._scopes[-1][name] = unique
        return unique

    def _resolve(self, name: str) -> str | None:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return None

    def _declaration(self, word: str) -> None:
        function = self._function
        if word == ".reg":
            type_name = self._tokens.take()[1:]
            while True:
                name = self._tokens.take()
                names = [name]
                if self._tokens.accept("<"):
                    names = [f"{name}{index}" for index in range(self._tokens.integer())]
                    self._tokens.take(">")
                for each in names:
                    function.registers[self._declare(each)] = type_name
                if not self._tokens.accept(","):
                    break
            self._tokens.take(";")
        elif word == ".param":
            parameter = self._parser.parameter(0)
            unique = self._declare(parameter.name)
            function.params[unique] = Parameter(unique, 0, parameter.size_bytes, parameter.alignment_bytes)
            self._tokens.take(";")
        elif word == ".local":
            for variable in self._parser.variable("local"):
                function.locals[self._declare(variable.name)] = variable
        elif word in _STATE_SPACES:
            for variable in self._parser.variable(word[1:]):
                self._parser.variables[variable.name] = variable
        elif word == ".pragma":
            self._tokens.skip_past(";")
        else:
            self._tokens.step_back()
            raise self._tokens.wrong("the directive is not covered")

    def _label(self) -> None:
        name = self._tokens.take()
        self._tokens.take(":")
        if self._tokens.next == ".branchtargets":
            self._tokens.take()
            labels = [self._tokens.take()]
            while self._tokens.accept(","):
                labels.append(self._tokens.take())
            self._tokens.take(";")
            self._function.branch_tables[name] = tuple(labels)
        elif self._tokens.next == ".callprototype":
            self._tokens.skip_past(";")
        else:
            self._function.body.append(Label(name))

    def _instruction(self) -> Instruction:
        line = self._tokens.line
        guard = None
        if self._tokens.accept("@"):
            is_negated = self._tokens.accept("!")
            name = self._tokens.take()
            unique = self._resolve(name)
            if unique is None:
                raise self._tokens.wrong(f"{name} is not declared")
            guard = Guard(unique, is_negated)
        opcode, *modifiers = self._tokens.take().split(".")
        operands: list[Operand] = []
        if not self._tokens.accept(";"):
            while True:
                operands.append(self._operand())
                if not self._tokens.accept(","):
                    break
            self._tokens.take(";")
        return Instruction(opcode, tuple(modifiers), tuple(operands), line, guard)

    def _operand(self) -> Operand:
        word = self._tokens.next
        if word in ("{", "("):
            self._tokens.take()
            items: list[Operand] = []
            while not self._tokens.accept("}" if word == "{" else ")"):
                items.append(self._operand())
                self._tokens.accept(",")
            return Vector(tuple(items))
        if word == "[":
            self._tokens.take()
            inner = self._operand()
            if isinstance(inner, Address):  # a name and an offset, which are an operand without brackets too
                self._tokens.take("]")
                return inner
            offset = 0
            if self._tokens.accept("+") or self._tokens.next == "-":
                offset = self._tokens.integer()
            self._tokens.take("]")
            if isinstance(inner, Vector):
                raise self._tokens.wrong("the address is not covered")
            return Address(inner, offset)
        if self._tokens.accept("!"):
            predicate = self._operand()
            if not isinstance(predicate, Register):
                raise self._tokens.wrong("a predicate is expected")
            return Register(predicate.name, is_negated=True)
        if word == "-" or word[:1].isdigit():
            return self._tokens.literal()
        name = self._tokens.take()
        unique = self._resolve(name)
        first: Operand
        if unique is None or unique not in self._function.registers:
            first = Symbol(unique or name)
        else:
            first = Register(unique)
        if self._tokens.accept("|"):
            return Vector((first, self._operand()))
        if isinstance(first, Symbol) and self._tokens.next == "+" and unique is None:
            self._tokens.take()
            return Address(first, self._tokens.integer())
        return first
