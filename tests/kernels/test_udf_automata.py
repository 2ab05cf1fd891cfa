"""Tests of changed strings are exact: as automata over code points, and as machine code over UTF-8."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.automata import CLASSES_OF_TEXT, AutomatonError, automaton
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import MapStage

# Letters whose case changes their number, letters of two languages for one, signs of every length in UTF-8.
ALPHABET = "aAkKİßſﬁςΣσ ǅ1²\u2028é\0\U0001d7ce\U0010ffff\u212a"
METHODS: dict[str, Callable[..., str]] = {
    **{name: getattr(str, name) for name in ("lower", "upper", "casefold", "strip", "lstrip", "rstrip")},
    "from": lambda s, count: s[count:],
    "first": lambda s, count: s[:count],
    "last": lambda s, count: s[-count:],
    "before_last": lambda s, count: s[:-count],
}
TESTS: dict[str, Callable[..., bool]] = {
    "eq": lambda s, literal: s == literal,
    "contains": lambda s, literal: literal in s,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "at_least": lambda s, count: len(s) >= count,
    **{name: getattr(str, name) for name in ("isascii", "isupper", "islower", *CLASSES_OF_TEXT)},
}
TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string()))


def drawn_method(chance: random.Random) -> tuple[Any, ...]:
    name = chance.choice(list(METHODS))
    if name in ("from", "first", "last", "before_last"):
        return name, chance.randint(1, 3)
    if name.endswith("strip") and chance.random() < 0.5:
        return name, "".join(chance.choices(ALPHABET, k=2))
    return (name,)


@pytest.mark.parametrize("seed", range(8))
def test_automata_are_what_python_says(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(60):
        methods = tuple(drawn_method(chance) for _ in range(chance.choice((0, 1, 1, 2, 3))))
        name = chance.choice(list(TESTS))
        literal = "".join(chance.choices(ALPHABET, k=chance.randint(0, 3)))
        test: tuple[Any, ...] = (name,)
        if name in ("eq", "contains", "startswith", "endswith"):
            test = (name, literal)
        elif name == "at_least":
            test = (name, chance.randint(1, 3))
        try:
            machine = automaton(methods, test)
        except AutomatonError:
            assert ("lower",) in methods  # only σ and ς are not told apart
            continue
        for _ in range(40):
            text = "".join(chance.choices(ALPHABET, k=chance.randint(0, 6)))
            if chance.random() < 0.5:
                text = chance.choice(("", text[:2])) + literal + chance.choice(("", text[2:]))
            changed = text
            for method, *arguments in methods:
                changed = METHODS[method](changed, *arguments)
            assert machine.accepts(text) == TESTS[name](changed, *test[1:]), (methods, test, text)


def answers(r: Any) -> dict[str, Any]:
    return {
        "city": r.s.strip().lower() == "rome",
        "not": r.s.upper() != "STRASSE",
        "begins": r.s.casefold().startswith(("ss", "k")),
        "ends": r.s.rstrip("1²").endswith("é"),
        "has": "a k" in r.s.lower(),
        "listed": r.s[:1].lower() in ("a", "é"),
        "digit": r.s[-1:].isdigit(),
        "middle": r.s[1:-1] == "é",
        "tail": r.s[-3:-1].isalpha(),
        "first": r.s[0] == "a",
        "last": r.s[-2] == "é",
        "some": bool(r.s.strip()),
        "none": not r.s.strip(),
        "way": "x" if r.s.lstrip() else "y",
        "upper": r.s.isupper(),
        "lower": r.s.islower(),
        "ascii": r.s.isascii(),
        "space": r.s.isspace(),
        "number": r.s.isnumeric() or r.s.isdecimal() or r.s.isalnum(),
        "place": r.s.find("é"),
        "begin": r.s.find(""),
        "other": r.s.find(r.t),
        "table": {"a": 1, "é": 2}.get(r.s.strip(), 0),
    }


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_machine_code_does_what_plain_python_does(
    kind: pa.DataType, compiled_device: str, run_on: Any
) -> None:
    chance = random.Random(5)
    texts: list[str | None] = [
        None,
        "",
        "Rome",
        " ROME\u2028",
        "straße",
        "STRASSE",
        "aé1",
        "\u212a",
        "é",
        "1",
    ]
    texts += ["".join(chance.choices(ALPHABET, k=chance.randint(0, 5))) for _ in range(150)]
    texts += [None if chance.random() < 0.2 else chance.choice(ALPHABET) * 2 for _ in range(40)]
    plain = pa.array(texts, pa.string())
    batch = pa.record_batch({"s": plain.cast(kind), "t": pa.array(texts[::-1])}).slice(1)
    made, expected = (
        run_on(device, [MapStage(answers)], batch).batch.to_pylist() for device in (compiled_device, "python")
    )
    assert made == expected


def test_what_is_under_a_null_may_be_cut_short(compiled_device: str, run_on: Any) -> None:
    """The null value ends inside a code point, at the end of the bytes."""
    offsets, data = pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xf0")
    array = pa.StringArray.from_buffers(2, offsets, data, pa.py_buffer(b"\x01"))
    stages, batch = [MapStage(lambda r: {"x": r.s.isalpha()})], pa.record_batch({"s": array})
    result = run_on(compiled_device, stages, batch)
    assert result.batch.column(0).to_pylist() == [True, None]


def test_as_many_states_as_there_may_be(compiled_device: str, run_on: Any) -> None:
    chance = random.Random(7)
    texts = ["".join(chance.choices("ab", k=chance.randint(0, 40))) for _ in range(300)]
    batch = pa.record_batch({"s": pa.array(texts)})
    made = run_on(compiled_device, [MapStage(lambda r: {"x": r.s[:-14].endswith("a")})], batch).batch
    assert made.column(0).to_pylist() == [t[:-14].endswith("a") for t in texts]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda r: {"x": r.s.lower()}, r"would hold what \.lower\(\) makes of a string"),
        (lambda r: {"x": r.s.strip() < "b"}, "== and != only"),
        (lambda r: {"x": r.s.lower() == r.t}, "goes with a constant string here and got string"),
        (lambda r: {"x": r.s.lower() == "ὀδυσσεύς"}, "whether .lower\\(\\) of Σ is σ or ς depends"),
        (lambda r: {"x": r.s[::2] == "a"}, "slices of strings with a step"),
        (lambda r: {"x": r.s[-3:2] == "a"}, "begins counting at its end"),
        (lambda r: {"x": len(r.s.strip()) == 3}, r"what \.strip\(\) makes of a string can only be tested"),
        (lambda r: {"x": r.s[:-30].endswith("a")}, "remember too much"),
        (lambda r: {"x": r.s[-1000000:] == "a"}, "remember more than 128 characters"),
        (lambda r: {"x": r.s.strip(r.t) == "a"}, "goes with a constant string"),
        (lambda r: {"x": r.s.isdigit(1)}, r"isdigit\(\) takes 0 arguments"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_says_why(function: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(CompileError, match=f"(?i){reason}"):
        build_program([MapStage(function)], pa.schema([("s", pa.string()), ("t", pa.string())]))
