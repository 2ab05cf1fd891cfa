"""Tests of a string by a finite automaton: exact for every code point, in one pass over the bytes.

What Python's ``lower``, ``upper``, ``casefold``, ``strip`` and slices make of a string is never built. Instead the
test that follows, such as ``== "rome"``, is turned into one of the original string: if a language is regular, so is
the set of the strings that one of these methods turns into its members. A language is an automaton over code points
whose states are any Python values, found as they are reached; each method wraps the one that comes after it. Code
points that are always treated alike form a class, and generated code sees nothing but classes.

Covers tests against constants. Not covered: new strings as results, the order of strings, and ``lower`` before a test
that tells σ from ς, because which of them an Σ becomes depends on the letters around it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

__all__ = ["CLASSES_OF_TEXT", "PARTS", "Automaton", "AutomatonError", "Test", "automaton"]

Test: TypeAlias = tuple[Any, ...]
"""A method or a test by name and what it is given: ("first", 2), ("strip", " "), ("eq", "rome")."""

BLOCK: Final = 64
"""Code points that one block of classes covers."""
MAX_CELLS: Final = 2**16
MAX_REMEMBERED: Final = 128
"""Code points before the end of a string that a slice may begin or end at: a state remembers something of each."""
_CODE_POINTS: Final = 0x110000

CLASSES_OF_TEXT: Final[Mapping[str, Callable[[str], bool]]] = {
    "isalnum": str.isalnum,
    "isalpha": str.isalpha,
    "isdecimal": str.isdecimal,
    "isdigit": str.isdigit,
    "isnumeric": str.isnumeric,
    "isspace": str.isspace,
}
"""Methods that say whether a string is not empty and all of its code points are of one kind."""

PARTS: Final = ("from", "first", "last", "before_last")
"""Methods that are slices: ``s[n:] s[:n] s[-n:] s[:-n]``."""


class AutomatonError(Exception):
    """A test cannot be an automaton; the message says why in plain words."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """A test as tables; state 0 is the first, class 0 that of code points that no block holds.

    ``blocks`` gives for each 64 code points which part of ``classes`` holds their classes. ``moves`` gives the next
    state, ``num_classes`` for each state. From ``first_final`` on no state is left again.
    """

    shown: str
    num_classes: int
    blocks: tuple[int, ...]
    classes: bytes
    moves: tuple[int, ...]
    accepting: tuple[bool, ...]
    first_final: int

    def accepts(self, text: str) -> bool:
        """Return whether the string passes the test."""
        state = 0
        for character in text:
            block, place = divmod(ord(character), BLOCK)
            number = self.classes[self.blocks[block] * BLOCK + place] if block < len(self.blocks) else 0
            state = self.moves[state * self.num_classes + number]
        return self.accepting[state]


@dataclass(frozen=True)
class _Language:
    """Strings that pass a test. ``special`` names the class of each code point that has one, the others are alike."""

    start: Hashable
    step: Callable[[Any, str], Hashable]
    accepts: Callable[[Any], bool]
    special: Mapping[int, Hashable]


@lru_cache(maxsize=256)
def automaton(methods: tuple[Test, ...], test: Test) -> Automaton:
    """Return the automaton for ``test`` of what ``methods`` make of a string, one after the other.

    Raises
    ------
    AutomatonError
        If the test depends on more than a finite automaton of a reasonable size can remember.
    """
    if any(name in ("last", "before_last") and given[0] > MAX_REMEMBERED for name, *given in methods):
        raise AutomatonError(f"it has to remember more than {MAX_REMEMBERED} characters")
    language = _TESTS[test[0]](*test)
    for method in reversed(methods):
        language = _METHODS[method[0]](language, *method)
    return _tables(language, " ".join(_show(part) for part in (*methods, test)))


def _show(part: Test) -> str:
    return f"{part[0]}({', '.join(repr(argument) for argument in part[1:])})"


# ------------------------------------------------------------------------------------------------------- tests


def _literal_classes(literal: str) -> dict[int, Hashable]:
    return {ord(character): character for character in literal}


def _equal(_: str, literal: str) -> _Language:
    def step(place: int, character: str) -> int:
        return place + 1 if 0 <= place < len(literal) and literal[place] == character else -1

    return _Language(0, step, lambda place: place == len(literal), _literal_classes(literal))


def _begins(_: str, literal: str) -> _Language:
    def step(place: int, character: str) -> int:
        if place in (-1, len(literal)):
            return place
        return place + 1 if literal[place] == character else -1

    return _Language(0, step, lambda place: place == len(literal), _literal_classes(literal))


def _found(name: str, literal: str) -> _Language:
    """``contains`` and ``endswith``: how much of the literal the string ends with (Knuth, Morris and Pratt)."""

    def step(place: int, character: str) -> int:
        if name == "contains" and place == len(literal):
            return place
        seen = literal[:place] + character
        return max(size for size in range(len(literal) + 1) if seen.endswith(literal[:size]))

    return _Language(0, step, lambda place: place == len(literal), _literal_classes(literal))


def _all_are(name: str) -> _Language:
    special: dict[int, Hashable] = dict.fromkeys(_members(name), True)

    def step(state: bool | None, character: str) -> bool:
        return state is not False and ord(character) in special

    return _Language(None, step, lambda state: state is True, special)


def _cased(name: str) -> _Language:
    """``isupper`` and ``islower``: a letter of this case and none of the other, nor a title letter."""
    right, wrong = (str.isupper, str.islower) if name == "isupper" else (str.islower, str.isupper)
    special: dict[int, Hashable] = {}
    for point in range(_CODE_POINTS):
        character = chr(point)
        if right(character):
            special[point] = True
        elif wrong(character) or character.istitle():
            special[point] = False

    def step(state: bool | None, character: str) -> bool | None:
        kind = special.get(ord(character))
        return state if kind is None or state is False else bool(kind)

    return _Language(None, step, lambda state: state is True, special)


def _ascii(_: str) -> _Language:
    special: dict[int, Hashable] = dict.fromkeys(range(128), True)
    return _Language(True, lambda state, c: state and ord(c) < 128, bool, special)


def _at_least(_: str, count: int) -> _Language:
    """At least so many code points."""
    return _Language(0, lambda seen, _: min(seen + 1, count), lambda seen: seen >= count, {})


@lru_cache(maxsize=8)
def _members(name: str) -> tuple[int, ...]:
    belongs = CLASSES_OF_TEXT[name]
    return tuple(point for point in range(_CODE_POINTS) if belongs(chr(point)))


_TESTS: Final[Mapping[str, Callable[..., _Language]]] = {
    "eq": _equal,
    "startswith": _begins,
    "endswith": _found,
    "contains": _found,
    "at_least": _at_least,
    "isascii": _ascii,
    "isupper": _cased,
    "islower": _cased,
    **dict.fromkeys(CLASSES_OF_TEXT, _all_are),
}


# ----------------------------------------------------------------------------------------------------- methods


@lru_cache(maxsize=3)
def _changed(name: str) -> tuple[int, ...]:
    """Return the code points that ``lower``, ``upper`` or ``casefold`` changes."""
    change = getattr(str, name)
    return tuple(point for point in range(_CODE_POINTS) if change(chr(point)) != chr(point))


def _in_case(inner: _Language, name: str) -> _Language:
    change: Callable[[str], str] = getattr(str, name)
    if name == "lower" and inner.special.get(ord("σ")) != inner.special.get(ord("ς")):
        raise AutomatonError("whether .lower() of Σ is σ or ς depends on the letters around it")
    special: dict[int, Hashable] = {}
    for point in {*_changed(name), *inner.special}:
        kinds = tuple(inner.special.get(ord(c)) for c in change(chr(point)))
        if kinds != (None,):
            special[point] = kinds

    def step(state: Hashable, character: str) -> Hashable:
        for c in change(character):
            state = inner.step(state, c)
        return state

    return _Language(inner.start, step, inner.accepts, special)


def _stripped(inner: _Language, name: str, characters: str | None = None) -> _Language:
    """Strip one or both ends. Only what comes later tells whether a space is at the end of a string.

    So a state is that of the language over all that came, whether it accepted at the last code point that is surely
    kept, and whether there is one.
    """
    drops = frozenset(_members("isspace") if characters is None else map(ord, characters))
    left, right = name != "rstrip", name != "lstrip"
    special = {point: (point in drops, inner.special.get(point)) for point in {*drops, *inner.special}}

    def step(state: tuple[Hashable, bool, bool], character: str) -> tuple[Hashable, bool, bool]:
        now, accepted, began = state
        dropped = ord(character) in drops
        if dropped and left and not began:
            return state
        now = inner.step(now, character)
        return now, accepted if dropped and right else inner.accepts(now), True

    def accepts(state: tuple[Hashable, bool, bool]) -> bool:
        return state[1]

    return _Language((inner.start, inner.accepts(inner.start), False), step, accepts, special)


def _from(inner: _Language, _: str, count: int) -> _Language:
    """``s[count:]``."""

    def step(state: tuple[int, Hashable], character: str) -> tuple[int, Hashable]:
        seen, now = state
        return (seen + 1, now) if seen < count else (seen, inner.step(now, character))

    return _Language((0, inner.start), step, lambda state: inner.accepts(state[1]), inner.special)


def _first(inner: _Language, _: str, count: int) -> _Language:
    """``s[:count]``."""

    def step(state: tuple[int, Hashable], character: str) -> tuple[int, Hashable]:
        seen, now = state
        return (seen + 1, inner.step(now, character)) if seen < count else state

    return _Language((0, inner.start), step, lambda state: inner.accepts(state[1]), inner.special)


def _last(inner: _Language, _: str, count: int) -> _Language:
    """``s[-count:]``: one state of the language for each of the places where that may begin."""

    def step(states: tuple[Hashable, ...], character: str) -> tuple[Hashable, ...]:
        return (*(inner.step(state, character) for state in states), inner.start)[-count - 1 :]

    def accepts(states: tuple[Hashable, ...]) -> bool:
        return inner.accepts(states[0])

    return _Language((inner.start,), step, accepts, inner.special)


def _before_last(inner: _Language, _: str, count: int) -> _Language:
    """``s[:-count]``: whether the language accepted, at each of the last places."""
    start = inner.accepts(inner.start)

    def step(state: tuple[Hashable, tuple[bool, ...]], character: str) -> tuple[Hashable, tuple[bool, ...]]:
        now = inner.step(state[0], character)
        return now, (*state[1], inner.accepts(now))[1:]

    def accepts(state: tuple[Hashable, tuple[bool, ...]]) -> bool:
        return state[1][0]

    return _Language((inner.start, (start,) * (count + 1)), step, accepts, inner.special)


_METHODS: Final[Mapping[str, Callable[..., _Language]]] = {
    **dict.fromkeys(("lower", "upper", "casefold"), _in_case),
    **dict.fromkeys(("strip", "lstrip", "rstrip"), _stripped),
    "from": _from,
    "first": _first,
    "last": _last,
    "before_last": _before_last,
}


# ------------------------------------------------------------------------------------------------------ tables


def _tables(language: _Language, shown: str) -> Automaton:
    special = language.special
    examples: dict[Hashable, str] = {
        None: chr(next(point for point in range(_CODE_POINTS) if point not in special))
    }
    for point, kind in special.items():
        examples.setdefault(kind, chr(point))
    numbers = {kind: number for number, kind in enumerate(examples)}
    if len(numbers) > 256:
        raise AutomatonError("it tells more than 256 kinds of characters apart")
    moves: dict[Hashable, list[Hashable]] = {}
    pending = deque([language.start])
    while pending:
        state = pending.popleft()
        if state in moves:
            continue
        moves[state] = [language.step(state, example) for example in examples.values()]
        pending.extend(moves[state])
        if len(moves) * len(examples) > MAX_CELLS:
            raise AutomatonError("it has to remember too much of the string")
    # The first state stays first; those that nothing leaves go last.
    final = {state for state, targets in moves.items() if all(target == state for target in targets)}
    order = sorted(moves, key=lambda state: (state in final, state != language.start))
    places = {state: place for place, state in enumerate(order)}
    blocks, classes = _class_tables(special, numbers)
    return Automaton(
        shown,
        len(numbers),
        blocks,
        classes,
        tuple(places[target] for state in order for target in moves[state]),
        tuple(language.accepts(state) for state in order),
        len(order) - len(final),
    )


def _class_tables(
    special: Mapping[int, Hashable], numbers: Mapping[Hashable, int]
) -> tuple[tuple[int, ...], bytes]:
    flat = bytearray(-(-(max(special, default=0) + 1) // BLOCK) * BLOCK)
    for point, kind in special.items():
        flat[point] = numbers[kind]
    parts: dict[bytes, int] = {}
    blocks = tuple(
        parts.setdefault(bytes(flat[start : start + BLOCK]), len(parts))
        for start in range(0, len(flat), BLOCK)
    )
    return blocks, b"".join(parts)
