"""Cuts PTX text into tokens and reads literals; knows nothing of declarations and instructions."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from dataflare.kernels.emulator.syntax import Immediate
from dataflare.kernels.errors import DeviceCodeError

__all__ = ["Token", "Tokens", "float_of_bits", "bits_of_float"]

_TOKEN = re.compile(
    r"(?P<skip>[ \t\r]+|//[^\n]*)|(?P<comment>/\*.*?\*/)|(?P<newline>\n)|(?P<text>\"[^\"]*\")"
    r"|(?P<word>[%$.\w]+(?:::[.\w]+)*)|(?P<mark>[{}()\[\],;:|!@=+<>-])",
    re.DOTALL,
)


class Token(NamedTuple):
    """A word, number or mark, and the line that it is on; the last token of a text is empty."""

    text: str
    line: int


class Tokens:
    """The tokens of a text, read one after the other.

    Raises
    ------
    DeviceCodeError
        From every method: the text is not what is expected; the message names the line.
    """

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self._tokens = _tokens(text)
        self._at = 0

    @property
    def next(self) -> str:
        """The next token; empty at the end."""
        return self._tokens[self._at].text

    @property
    def second(self) -> str:
        """The token after the next one."""
        return self._tokens[self._at + 1].text

    @property
    def line(self) -> int:
        """The line of the next token."""
        return self._tokens[self._at].line

    def take(self, expected: str | None = None) -> str:
        """Return the next token and go on."""
        token = self._tokens[self._at]
        if not token.text or (expected is not None and token.text != expected):
            raise self.wrong(f"{expected!r} is expected" if expected else "the text ends")
        self._at += 1
        return token.text

    def accept(self, text: str) -> bool:
        """Go on if the next token is this one; return whether it was."""
        if self.next == text:
            self._at += 1
            return True
        return False

    def step_back(self) -> None:
        """Read the last token again."""
        self._at -= 1

    def skip_line(self) -> None:
        """Go on to the next line."""
        line = self.line
        while self.next and self.line == line:
            self._at += 1

    def skip_past(self, text: str) -> None:
        """Go on behind the next token of this text."""
        while self.take() != text:
            pass

    def wrong(self, what: str) -> DeviceCodeError:
        """Return the error for the next token."""
        return DeviceCodeError(f"PTX line {self.line}: {what}: {self.lines[self.line - 1].strip()!r}.")

    def integer(self) -> int:
        """Read an integer, which may be negative."""
        literal = self.literal()
        if literal.float_bytes:
            self.step_back()
            raise self.wrong("an integer is expected")
        return literal.value

    def literal(self) -> Immediate:
        """Read an integer, the bits of a float (``0f3F800000``) or a decimal float, which counts as 8 bytes."""
        is_negative = self.accept("-")
        text = self.take()
        if text[:2] in ("0f", "0F", "0d", "0D") and len(text) > 2:
            return Immediate(int(text[2:], 16), 4 if text[1] in "fF" else 8)
        try:
            if re.fullmatch(r"\d+\.\d*|\d+(\.\d*)?[eE]\d*", text):
                has_signed_exponent = text[-1] in "eE"
                value = float(text + self.take() + self.take() if has_signed_exponent else text)
                return Immediate(bits_of_float(-value if is_negative else value, 8), 8)
            number = _integer(text)
        except ValueError:
            self.step_back()
            raise self.wrong("a literal is expected") from None
        return Immediate(-number if is_negative else number)


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    line, position = 1, 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise DeviceCodeError(f"PTX line {line}: {text[position]!r} is not expected here.")
        kind, token = match.lastgroup, match.group()
        if kind in ("newline", "comment"):
            line += token.count("\n")
        elif kind != "skip":
            found.append(Token(token, line))
        position = match.end()
    return [*found, Token("", line), Token("", line)]


def _integer(text: str) -> int:
    digits = text[:-1] if text[-1:] in ("u", "U") else text
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return int(digits, 8)
    return int(digits, 0)


def float_of_bits(bits: int, size_bytes: int) -> float:
    """Return the float that has these bits."""
    value: float
    if size_bytes == 4:
        (value,) = struct.unpack("<f", struct.pack("<I", bits))
    else:
        (value,) = struct.unpack("<d", struct.pack("<Q", bits))
    return value


def bits_of_float(value: float, size_bytes: int) -> int:
    """Return the bits of a float of 4 or 8 bytes."""
    return int.from_bytes(struct.pack("<f" if size_bytes == 4 else "<d", value), "little")
