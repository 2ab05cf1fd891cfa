"""Reads PTX text: tokens, declarations with initialisers, functions, instructions.

Covers what LLVM's NVPTX backend writes and hand-written code in its style, with nested scopes and predicates.
Debug sections and prototypes of indirect calls are skipped; textures, surfaces and tensor instructions are left
to whoever decodes, since any opcode parses.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from dataflare.kernels.emulator.syntax import (
    Address,
    Function,
    Guard,
    Immediate,
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
from dataflare.kernels.errors import DeviceCodeError

__all__ = ["parse"]

_TOKEN = re.compile(
    r"(?P<skip>[ \t\r]+|//[^\n]*)|(?P<comment>/\*.*?\*/)|(?P<newline>\n)|(?P<text>\"[^\"]*\")"
    r"|(?P<word>[%$.\w]+(?:::[.\w]+)*)|(?P<mark>[{}()\[\],;:|!@=+<>-])",
    re.DOTALL,
)
_STATE_SPACES = frozenset({".global", ".const", ".shared", ".local"})
_LINKAGE = frozenset({".visible", ".weak", ".extern", ".common", ".noreturn"})
_ELEMENT_BYTES = {"pred": 1, "b128": 16} | {f"{kind}{bits}": bits // 8 for kind in "bsu" for bits in (8, 16, 32, 64)}
_ELEMENT_BYTES |= {"f16": 2, "bf16": 2, "f16x2": 4, "bf16x2": 4, "f32": 4, "f64": 8}


class _Token(NamedTuple):
    text: str
    line: int


@lru_cache(maxsize=256)
def parse(text: str) -> Module:
    """Return the module of a PTX text; equal texts give the same object.

    Raises
    ------
    DeviceCodeError
        The text is not PTX, or a part of PTX that is not covered; the message names the line.
    """
    return _Parser(text).module()


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    line, position = 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise DeviceCodeError(f"PTX line {line}: {text[position]!r} is not expected here.")
        kind, token = match.lastgroup, match.group()
        if kind in ("newline", "comment"):
            line += token.count("\n")
        elif kind != "skip":
            found.append(_Token(token, line))
        position = match.end()
    found.append(_Token("", line))
    return found


class _Parser:
    """A recursive-descent parser; `_at` is the next token."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._tokens = _tokens(text)
        self._at = 0
        self._functions: dict[str, Function] = {}
        self._variables: dict[str, Variable] = {}

    # ------------------------------------------------------------------------------------------------ tokens

    @property
    def _next(self) -> str:
        return self._tokens[self._at].text

    def _take(self, expected: str | None = None) -> str:
        token = self._tokens[self._at]
        if not token.text or (expected is not None and token.text != expected):
            raise self._wrong(f"{expected!r} is expected" if expected else "the text ends")
        self._at += 1
        return token.text

    def _accept(self, text: str) -> bool:
        if self._next == text:
            self._at += 1
            return True
        return False

    def _wrong(self, what: str) -> DeviceCodeError:
        line = self._tokens[self._at].line
        return DeviceCodeError(f"PTX line {line}: {what}: {self._lines[line - 1].strip()!r}.")

    def _integer(self) -> int:
        is_negative = self._accept("-")
        text = self._take()
        try:
            value = _integer(text)
        except ValueError:
            self._at -= 1
            raise self._wrong("an integer is expected") from None
        return -value if is_negative else value

    # ------------------------------------------------------------------------------------------ declarations

    def module(self) -> Module:
        """Parse everything."""
        version = target = ""
        while self._next:
            word = self._next
            if word == ".version":
                self._take()
                version = self._take()
            elif word == ".target":
                self._take()
                target = self._take()
                while self._accept(","):
                    self._take()
            elif word == ".address_size":
                self._take()
                if self._integer() != 64:
                    raise self._wrong("only addresses of 64 bits are covered")
            elif word == ".file":
                self._skip_line()
            elif word == ".section":
                self._skip_section()
            elif word in _LINKAGE or word in _STATE_SPACES or word in (".entry", ".func"):
                self._global_declaration()
            else:
                raise self._wrong("a declaration is expected")
        return Module(version, target, self._functions, self._variables, self._lines)

    def _skip_line(self) -> None:
        line = self._tokens[self._at].line
        while self._next and self._tokens[self._at].line == line:
            self._at += 1

    def _skip_section(self) -> None:
        while self._take() != "{":
            pass
        while self._take() != "}":
            pass

    def _global_declaration(self) -> None:
        is_extern = False
        while self._next in _LINKAGE:
            is_extern |= self._take() == ".extern"
        word = self._take()
        if word in (".entry", ".func"):
            self._function(is_entry=word == ".entry")
            return
        for variable in self._variable(word[1:], is_extern=is_extern):
            self._variables[variable.name] = variable

    def _variable(self, space: str, *, is_extern: bool = False) -> list[Variable]:
        alignment, element, vector = self._variable_type()
        found = []
        while True:
            name = self._take()
            element_bytes = _ELEMENT_BYTES[element] * vector
            size, is_dynamic = element_bytes, False
            while self._accept("["):
                if self._accept("]"):
                    is_dynamic = True
                    size = 0
                else:
                    size *= self._integer()
                    self._take("]")
            initial: bytes | None = None
            references: list[tuple[int, int, str]] = []
            if self._accept("="):
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
            if not self._accept(","):
                self._take(";")
                return found

    def _variable_type(self) -> tuple[int, str, int]:
        """Return the alignment (0 where none is given), the element's type and how many make a vector."""
        alignment, vector = 0, 1
        while True:
            word = self._take()
            if word == ".align":
                alignment = self._integer()
            elif word in (".v2", ".v4"):
                vector = int(word[2:])
            elif word.startswith(".attribute"):
                self._take("(")
                while self._take() != ")":
                    pass
            elif word[1:] in _ELEMENT_BYTES:
                return alignment, word[1:], vector
            else:
                self._at -= 1
                raise self._wrong("a type is expected")

    def _initialiser(self, element: str, data: bytearray, references: list[tuple[int, int, str]]) -> None:
        if self._accept("{"):
            while not self._accept("}"):
                self._initialiser(element, data, references)
                self._accept(",")
            return
        size = _ELEMENT_BYTES[element]
        if self._next[:1].isalpha() or self._next[:1] in "_$%":
            if self._accept("generic"):
                self._take("(")
                symbol = self._take()
                self._take(")")
            else:
                symbol = self._take()
            references.append((len(data), size, symbol))
            value = self._integer() if self._accept("+") else 0
        else:
            literal = self._literal()
            value = literal.value
            if literal.float_bytes == 8 and element == "f32":
                value = _bits(_float(value, 8), 4)
            elif literal.float_bytes == 4 and element == "f64":
                value = _bits(_float(value, 4), 8)
        data += (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    # --------------------------------------------------------------------------------------------- functions

    def _function(self, *, is_entry: bool) -> None:
        results: tuple[Parameter, ...] = ()
        if self._next == "(":
            results = self._parameters()
        line = self._tokens[self._at].line
        name = self._take()
        parameters = self._parameters() if self._next == "(" else ()
        function = Function(name, is_entry, line, parameters, results)
        while self._next not in ("{", ";"):
            word = self._take()
            if word in (".maxntid", ".reqntid"):
                limits = [self._integer()]
                while self._accept(","):
                    limits.append(self._integer())
                if word == ".maxntid":
                    function.block_limit = tuple(limits)
                else:
                    function.required_block = tuple(limits)
        if self._accept(";"):
            self._functions.setdefault(name, function)
            return
        self._functions[name] = function
        function.is_defined = True
        _Body(self, function).parse()

    def _parameters(self) -> tuple[Parameter, ...]:
        self._take("(")
        found: list[Parameter] = []
        offset = 0
        while not self._accept(")"):
            self._accept(",")
            self._take(".param")
            parameter = self._parameter(offset)
            offset = parameter.offset_bytes + parameter.size_bytes
            found.append(parameter)
        return tuple(found)

    def _parameter(self, offset: int) -> Parameter:
        alignment = size = 0
        while True:
            word = self._take()
            if word == ".align":
                given = self._integer()
                alignment = alignment or given
            elif word == ".ptr":
                while self._next in (*_STATE_SPACES, ".align"):
                    if self._take() == ".align":
                        self._integer()
            elif word.startswith("."):
                if word[1:] not in _ELEMENT_BYTES:
                    self._at -= 1
                    raise self._wrong("a type is expected")
                size = _ELEMENT_BYTES[word[1:]]
                alignment = alignment or size
            else:
                break
        if self._accept("["):
            size = size * self._integer() if self._next != "]" else 0
            self._take("]")
        start = -(-offset // alignment) * alignment
        return Parameter(word, start, size, alignment)

    def _literal(self) -> Immediate:
        is_negative = self._accept("-")
        text = self._take()
        if text[:2] in ("0f", "0F", "0d", "0D") and len(text) > 2:
            return Immediate(int(text[2:], 16), 4 if text[1] in "fF" else 8)
        try:
            if re.fullmatch(r"\d+\.\d*|\d+(\.\d*)?[eE]\d*", text):
                has_signed_exponent = text[-1] in "eE"
                value = float(text + self._take() + self._take() if has_signed_exponent else text)
                return Immediate(_bits(-value if is_negative else value, 8), 8)
            number = _integer(text)
        except ValueError:
            self._at -= 1
            raise self._wrong("a literal is expected") from None
        return Immediate(-number if is_negative else number)


class _Body:
    """The part between a function's braces; `_scopes` maps names as written to unique ones, innermost last."""

    def __init__(self, parser: _Parser, function: Function) -> None:
        self._parser = parser
        self._function = function
        self._scopes: list[dict[str, str]] = [{}]
        self._opened = 0

    def parse(self) -> None:
        parser = self._parser
        parser._take("{")
        while True:
            word = parser._next
            if word == "{":
                parser._take()
                self._opened += 1
                self._scopes.append({})
            elif word == "}":
                parser._take()
                self._scopes.pop()
                if not self._scopes:
                    return
            elif word == ".loc":
                parser._skip_line()
            elif word.startswith("."):
                self._declaration(parser._take())
            elif parser._tokens[parser._at + 1].text == ":":
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
        parser, function = self._parser, self._function
        if word == ".reg":
            type_name = parser._take()[1:]
            while True:
                name = parser._take()
                names = [name]
                if parser._accept("<"):
                    names = [f"{name}{index}" for index in range(parser._integer())]
                    parser._take(">")
                for each in names:
                    function.registers[self._declare(each)] = type_name
                if not parser._accept(","):
                    break
            parser._take(";")
        elif word == ".param":
            parameter = parser._parameter(0)
            unique = self._declare(parameter.name)
            function.params[unique] = Parameter(unique, 0, parameter.size_bytes, parameter.alignment_bytes)
            parser._take(";")
        elif word == ".local":
            for variable in parser._variable("local"):
                function.locals[self._declare(variable.name)] = variable
        elif word in _STATE_SPACES:
            for variable in parser._variable(word[1:]):
                parser._variables[variable.name] = variable
        elif word == ".pragma":
            while parser._take() != ";":
                pass
        else:
            parser._at -= 1
            raise parser._wrong("the directive is not covered")

    def _label(self) -> None:
        parser = self._parser
        name = parser._take()
        parser._take(":")
        if parser._next == ".branchtargets":
            parser._take()
            labels = [parser._take()]
            while parser._accept(","):
                labels.append(parser._take())
            parser._take(";")
            self._function.branch_tables[name] = tuple(labels)
        elif parser._next == ".callprototype":
            while parser._take() != ";":
                pass
        else:
            self._function.body.append(Label(name))

    def _instruction(self) -> Instruction:
        parser = self._parser
        line = parser._tokens[parser._at].line
        guard = None
        if parser._accept("@"):
            is_negated = parser._accept("!")
            name = parser._take()
            unique = self._resolve(name)
            if unique is None:
                raise parser._wrong(f"{name} is not declared")
            guard = Guard(unique, is_negated)
        opcode, *modifiers = parser._take().split(".")
        operands: list[Operand] = []
        if not parser._accept(";"):
            while True:
                operands.append(self._operand())
                if not parser._accept(","):
                    break
            parser._take(";")
        return Instruction(opcode, tuple(modifiers), tuple(operands), line, guard)

    def _operand(self) -> Operand:
        parser = self._parser
        word = parser._next
        if word in ("{", "("):
            parser._take()
            items: list[Operand] = []
            while not parser._accept("}" if word == "{" else ")"):
                items.append(self._operand())
                parser._accept(",")
            return Vector(tuple(items))
        if word == "[":
            parser._take()
            base = self._operand()
            offset = 0
            if parser._accept("+"):
                offset = parser._integer()
            elif parser._next == "-":
                offset = parser._integer()
            parser._take("]")
            if isinstance(base, (Address, Vector)):
                raise parser._wrong("the address is not covered")
            return Address(base, offset)
        if parser._accept("!"):
            inner = self._operand()
            if not isinstance(inner, Register):
                raise parser._wrong("a predicate is expected")
            return Register(inner.name, is_negated=True)
        if word == "-" or word[:1].isdigit():
            return parser._literal()
        name = parser._take()
        unique = self._resolve(name)
        first: Operand
        if unique is None or unique not in self._function.registers:
            first = Symbol(unique or name)
        else:
            first = Register(unique)
        if parser._accept("|"):
            return Vector((first, self._operand()))
        if isinstance(first, Symbol) and parser._next == "+" and unique is None:
            parser._take()
            return Address(first, parser._integer())
        return first


def _integer(text: str) -> int:
    digits = text[:-1] if text[-1:] in "uU" and text else text
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return int(digits, 8)
    return int(digits, 0)


def _float(bits: int, size_bytes: int) -> float:
    code: Sequence[str] = ("<f", "<I") if size_bytes == 4 else ("<d", "<Q")
    value: float = struct.unpack(code[0], struct.pack(code[1], bits))[0]
    return value


def _bits(value: float, size_bytes: int) -> int:
    code: Sequence[str] = ("<f", "<I") if size_bytes == 4 else ("<d", "<Q")
    bits: int = struct.unpack(code[1], struct.pack(code[0], value))[0]
    return bits
