"""Where keys and values of TOML documents stand."""

from __future__ import annotations

import tomllib

import pytest

from dataflare.cli.positions import KeyPath, Place, Positions

DOCUMENT = '''\
# a comment with [brackets] and "quotes"
title = 'x # no comment'

[source]  # here
path = "a.csv"
"quoted \\" key" = 1
dotted.key = [1, [2, # two
    "]"], { inner = "}" }]

[[steps]]
filter = "r.a > 1"

[[steps]]
[steps.with_columns]
text = """
r.a
 + 1"""
raw = \'\'\'r.b ''x\'\'\'\'

[[steps]]
with_columns = { one = "r.a", 'two words' = "r.\\u0062" }

[run.batching]
max_size = 1_000
when = 1979-05-27T07:32:00Z
'''


def every_path(value: object, path: KeyPath = ()) -> list[KeyPath]:
    inner: list[KeyPath] = []
    if isinstance(value, dict):
        for key, item in value.items():
            inner += [(*path, key), *every_path(item, (*path, key))]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            inner += [(*path, index), *every_path(item, (*path, index))]
    return inner


def test_the_document_is_what_the_test_means() -> None:
    data = tomllib.loads(DOCUMENT)
    assert data["steps"][1]["with_columns"] == {"text": "r.a\n + 1", "raw": "r.b ''x'"}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("title",), Place(1, 0)),
        (("source",), Place(3, 0)),
        (("source", "path"), Place(4, 0)),
        (("source", 'quoted " key'), Place(5, 0)),
        (("source", "dotted", "key"), Place(6, 0)),
        (("source", "dotted", "key", 1, 0), Place(6, 18)),
        (("source", "dotted", "key", 2, "inner"), Place(7, 12)),
        (("steps", 0), Place(9, 0)),
        (("steps", 0, "filter"), Place(10, 0)),
        (("steps", 1, "with_columns"), Place(13, 0)),
        (("steps", 1, "with_columns", "raw"), Place(17, 0)),
        (("steps", 2, "with_columns", "two words"), Place(20, 30)),
        (("run", "batching", "when"), Place(24, 0)),
        (("nothing",), None),
    ],
)
def test_keys(path: KeyPath, place: Place | None) -> None:
    assert Positions(DOCUMENT).key(path) == place


def test_every_key_of_the_document_has_a_place() -> None:
    positions = Positions(DOCUMENT)
    without = [path for path in every_path(tomllib.loads(DOCUMENT)) if positions.key(path) is None]
    assert without == [("run",)]  # only named as a part of [run.batching]


def test_the_nearest_key_is_the_table_around() -> None:
    positions = Positions(DOCUMENT)
    assert positions.nearest_key(("steps", 0, "limit")) == Place(9, 0)
    assert positions.nearest_key(("sink", "path")) is None


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("source", "path"), "a.csv", Place(4, 8)),
        (("steps", 1, "with_columns", "text"), "r.a\n + 1", Place(15, 0)),
        (("steps", 1, "with_columns", "raw"), "r.b ''x'", Place(17, 9)),
        (("steps", 2, "with_columns", "one"), "r.a", Place(20, 24)),
        (("steps", 2, "with_columns", "two words"), "r.b", None),  # written with an escape
        (("run", "batching", "max_size"), "1000", None),  # not a string
        (("source", "none"), "", None),
    ],
)
def test_where_the_characters_of_a_string_begin(path: KeyPath, value: str, place: Place | None) -> None:
    assert Positions(DOCUMENT).string_content(path, value) == place


@pytest.mark.parametrize(
    "text", ["", "\n", "# only a comment", "a = 1", "[a]", "[[a]]\n[[a]]", "a = []", "a = {}", 'a = ""']
)
def test_small_documents(text: str) -> None:
    positions = Positions(text)
    assert all(positions.key(path) is not None for path in every_path(tomllib.loads(text)))


def test_tables_inside_arrays_of_tables_belong_to_the_last_element() -> None:
    positions = Positions("[[a]]\n[a.b]\nx = 1\n[[a.c]]\ny = 1\n[[a]]\n[[a.c]]\ny = 2\n[[a.c]]\ny = 3")
    assert positions.key(("a", 0, "b", "x")) == Place(2, 0)
    assert positions.key(("a", 0, "c", 0, "y")) == Place(4, 0)
    assert positions.key(("a", 1, "c", 1, "y")) == Place(9, 0)
