"""Small mistakes in PTX: every place of a kernel where one of them can be made, one at a time.

They are what people get wrong: a barrier left out, a guard off by one, a mask with a lane too many, a step of a scan
that is left out, an atomic operation that is none, a constant of a stride or a shift off by one, a store left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_COMPARISONS = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq"}
_OR_OF_SHUFFLE = re.compile(r"(or\.b32) (\s*%r\d+), (%r\d+), (%r\d+);")


@dataclass(frozen=True)
class Mutant:
    """One mistake in one line of a kernel: the instruction as it was and as it is.

    ``place`` is the instruction and the next one with no numbers of registers and labels, which change with anything.
    """

    kind: str
    line: int
    right: str
    wrong: str
    place: str
    ptx: str

    def __str__(self) -> str:
        return f"{self.kind}, line {self.line}: {self.right!r} -> {self.wrong!r}"


def _replaced(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda line: compiled.sub(replacement, line, count=1)


def _added(step: int) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{match[1]}{int(match[2]) + step};"


_SHIFT = r"^(\s*sh[lr]\.[bu]\d+ .*, )(\d+);"
_SUM = r"^(\s*add\.s\d+ .*, )(\d+);"

OPERATORS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("barrier left out", _replaced(r"^\s*bar\.sync\s.*", "")),
    ("guard off by one", _replaced(r"\bsetp\.(lt|le|gt|ge)\b", lambda m: f"setp.{_COMPARISONS[m[1]]}")),
    ("condition turned round", _replaced(r"\bsetp\.(eq|ne)\b", lambda m: f"setp.{_COMPARISONS[m[1]]}")),
    ("branch turned round", _replaced(r"@(%p\d+) bra\b", r"@!\1 bra")),
    ("branch left out", _replaced(r"@%p\d+ bra\b.*", "")),
    ("vote without a lane", _replaced(r"(vote\.sync\.ballot.*), -1;", r"\1, 2147483647;")),
    ("exchange without a lane", _replaced(r"(shfl\.sync.*), -1;", r"\1, 2147483647;")),
    ("lanes before and this one", _replaced("lanemask_lt", "lanemask_le")),
    ("lanes behind", _replaced("lanemask_lt", "lanemask_gt")),
    ("exchange at half the distance", _replaced(r"(shfl.*, )(\d+)(, 31)", lambda m: f"{m[1]}{int(m[2]) // 2}{m[3]}")),
    ("addition is a store", _replaced(r"atom\.global\.add\.(\w+) .*?, (\[.*\]), (%\w+);", r"st.global.\1 \2, \3;")),
    ("union is a store", _replaced(r"atom\.global\.or\.(\w+) .*?, (\[.*\]), (%\w+);", r"st.global.\1 \2, \3;")),
    ("atomic operation left out", _replaced(r"^\s*atom\..*", "")),
    ("bits not counted", _replaced(r"popc\.b32 ", "mov.b32 ")),
    ("shift too far", _replaced(_SHIFT, _added(1))),
    ("shift too short", _replaced(_SHIFT, _added(-1))),
    ("sum one too many", _replaced(_SUM, _added(1))),
    ("sum one too few", _replaced(_SUM, _added(-1))),
    ("half of a mask", _replaced(r"^(\s*and\.b\d+ .*, )(\d+);", lambda m: f"{m[1]}{int(m[2]) >> 1};")),
    ("stride of half a value", _replaced(r"(mul\.wide.*, )(\d+);", lambda m: f"{m[1]}{int(m[2]) // 2};")),
    ("store left out", _replaced(r"^\s*st\..*", "")),
    ("nothing begins at one", _replaced(r"^(\s*mov\.b\d+ .*, )0;", r"\g<1>1;")),
    ("not at the end", _replaced(r"\bmin\.", "max.")),
    ("difference is a sum", _replaced(r"\bsub\.s", "add.s")),
    ("choice turned round", _replaced(r"(selp\.\w+ .*), (\S+), (\S+), (%p\d+);", r"\1, \3, \2, \4;")),
    ("union is its first part", _replaced(_OR_OF_SHUFFLE.pattern, r"mov.b32 \2, \3;")),
    ("union is its second part", _replaced(_OR_OF_SHUFFLE.pattern, r"mov.b32 \2, \4;")),
)  # fmt: skip


def mutants_of(ptx: str) -> Iterator[Mutant]:
    """Yield the kernel of some PTX with each mistake that can be made in its body."""
    lines = ptx.splitlines()
    body = next(number for number, line in enumerate(lines) if ".entry" in line)
    for number in range(body, len(lines)):
        for kind, operator in OPERATORS:
            wrong = operator(lines[number])
            if wrong != lines[number]:
                text = "\n".join([*lines[:number], wrong, *lines[number + 1 :]])
                place = f"{_unnumbered(lines[number])} {_unnumbered(lines[number + 1]).split(' ')[0]}"
                yield Mutant(kind, number + 1, lines[number].strip(), wrong.strip(), place, text + "\n")


def _unnumbered(line: str) -> str:
    return " ".join(re.sub(r"(%[a-z]+|\$L__BB)[\d_]+", r"\1", line).split())
