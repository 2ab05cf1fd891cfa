"""The steps of a scenario: each on a pipeline, and in plain Python on a list of records."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from torture.records import TEXTS, Kind, Row, schema_of
from torture.world import World

import dataflare as flare
from dataflare.batch import SharedDataBatch
from dataflare.pipeline import Pipeline

Columns = dict[str, Kind]
Add = Callable[[Pipeline, World], Pipeline]


@dataclass(frozen=True)
class Step:
    """One step."""

    text: str
    columns: Columns
    """What comes out."""
    add: Add
    on_rows: Callable[[list[Row]], list[Row]]
    place: str | None = None
    """The name of the place where user code runs, for spots and pace."""
    limit: int | None = None
    opaque: bool = False
    """Whether its schema is found while running, so that no step on columns can follow."""
    late_error: str | None = field(default=None)
    """Text of the error that the step always ends in, where a batch reaches it."""


def random_step(dice: random.Random, columns: Columns, number: int, *, last: bool) -> Step:
    """Return a step that can follow where these columns are."""
    makers = [
        _filter,
        _filter,
        _with_columns,
        _map,
        _select,
        _drop,
        _rename,
        _limit,
        _map_batches,
        _map_batches,
    ]
    step = None
    while step is None:
        step = dice.choice(makers)(dice, columns, number, last)
    return step


def _of_kind(columns: Columns, *kinds: Kind) -> list[str]:
    return [name for name, kind in columns.items() if kind in kinds and name != "id"]


def _filter(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    divisor = dice.choice((2, 3))
    choices: list[tuple[str, Callable[[Any], Any], Callable[[Row], bool]]] = [
        (f"id % {divisor} != 0", lambda r: r.id % divisor != 0, lambda row: row["id"] % divisor != 0),
        ("id < 0", lambda r: r.id < 0, lambda row: False),
    ]
    if names := _of_kind(columns, "number", "float"):
        name, bound = dice.choice(names), dice.choice((-2, 10, 40))
        choices += [
            (f"{name} >= {bound}", lambda r: r[name] >= bound, lambda row: _at_least(row[name], bound)),
        ] * 2
    if names := _of_kind(columns, "text"):
        name_of_text, text = dice.choice(names), dice.choice(TEXTS[:3])
        choices.append(
            (f"{name_of_text} != {text!r}", lambda r: r[name_of_text] != text,
             lambda row: row[name_of_text] not in (None, text))
        )  # fmt: skip
    what, fn, keeps = dice.choice(choices)
    return Step(
        f"filter({what})",
        columns,
        lambda pipeline, world: pipeline.filter(fn),
        lambda rows: [row for row in rows if keeps(row)],
    )


def _at_least(value: Any, bound: int) -> bool:
    return value is not None and bool(value >= bound)


def _with_columns(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    name = dice.choice(["id", *_of_kind(columns, "number", "float")])
    new = f"n{number % 3}" if name == "id" or dice.random() < 0.5 else name
    after: Columns = {**columns, new: columns[name]}
    return Step(
        f"with_columns({new}={name} * 2 + 1)",
        after,
        lambda pipeline, world: pipeline.with_columns(**{new: lambda r: r[name] * 2 + 1}),
        lambda rows: [{**row, new: None if row[name] is None else row[name] * 2 + 1} for row in rows],
    )


def _map(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    others = [name for name in columns if name != "id"]
    if not others:
        return None
    name = dice.choice(others)
    return Step(
        f"map(id, {name}, flag)",
        {"id": "number", name: columns[name], "flag": "flag"},
        lambda pipeline, world: pipeline.map(lambda r: {"id": r.id, name: r[name], "flag": r[name] is None}),
        lambda rows: [{"id": row["id"], name: row[name], "flag": row[name] is None} for row in rows],
    )


def _select(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    names = dice.sample(list(columns), dice.randint(1, len(columns)))
    if "id" not in names:
        names.append("id")
    return Step(
        f"select({', '.join(names)})",
        {name: columns[name] for name in names},
        lambda pipeline, world: pipeline.select(*names),
        lambda rows: [{name: row[name] for name in names} for row in rows],
    )


def _drop(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    others = [name for name in columns if name != "id"]
    if not others:
        return None
    gone = dice.choice(others)
    return Step(
        f"drop({gone})",
        {name: kind for name, kind in columns.items() if name != gone},
        lambda pipeline, world: pipeline.drop(gone),
        lambda rows: [{name: cell for name, cell in row.items() if name != gone} for row in rows],
    )


def _rename(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    others = [name for name in columns if name != "id"]
    if not others or f"r{number % 2}" in columns:
        return None
    old, new = dice.choice(others), f"r{number % 2}"
    return Step(
        f"rename({old}={new})",
        {new if name == old else name: kind for name, kind in columns.items()},
        lambda pipeline, world: pipeline.rename({old: new}),
        lambda rows: [{new if name == old else name: cell for name, cell in row.items()} for row in rows],
    )


def _limit(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    if dice.random() < 0.4:
        return None
    most = dice.choice((0, 1, 3, 50, 300, 10_000))
    return Step(
        f"limit({most})",
        columns,
        lambda pipeline, world: pipeline.limit(most),
        lambda rows: rows[:most],
        limit=most,
    )


Change = Callable[[pa.RecordBatch], Any]
CHANGES: dict[str, tuple[Change, Callable[[list[Row]], list[Row]]]] = {
    "as it is": (lambda batch: batch, lambda rows: rows),
    "as a table of two chunks": (
        lambda batch: pa.Table.from_batches([batch.slice(0, 1), batch.slice(1)]),
        lambda rows: rows,
    ),
    "as a dict": (lambda batch: {name: batch[name] for name in batch.schema.names}, lambda rows: rows),
    "every other": (
        lambda batch: batch.filter(
            pa.array([number % 2 == 0 for number in batch["id"].to_pylist()], pa.bool_())
        ),
        lambda rows: [row for row in rows if row["id"] % 2 == 0],
    ),
    "each twice": (
        lambda batch: batch.take(pa.array([place // 2 for place in range(2 * batch.num_rows)], pa.int64())),
        lambda rows: [row for row in rows for _ in range(2)],
    ),
    "nothing": (lambda batch: batch.slice(0, 0), lambda rows: []),
}


def _map_batches(dice: random.Random, columns: Columns, number: int, last: bool) -> Step | None:
    name = dice.choice(list(CHANGES))
    change, on_rows = CHANGES[name]
    place = f"map_batches {number}"
    schema = schema_of(columns)
    opaque = last and dice.random() < 0.3
    as_class = dice.random() < 0.3
    error = None
    if dice.random() < 0.04:
        error = dice.choice(("must return", "differs from"))
        change = (
            (lambda batch: 5) if error == "must return" else (lambda batch: {"other": [1.0] * batch.num_rows})
        )
        opaque = False
    elif as_class and dice.random() < 0.08:
        error = "could not be built"

    def add(pipeline: Pipeline, world: World) -> Pipeline:
        def on_batch(batch: SharedDataBatch) -> Any:
            arrow = batch.to_arrow()
            world.pass_by(place, arrow["id"].to_pylist())
            return batch if name == "as it is" and error is None else change(arrow)

        class Model:
            def __init__(self) -> None:
                if error == "could not be built":
                    world.fail(ValueError("on purpose: no weights"))

            def __call__(self, batch: SharedDataBatch) -> Any:
                return on_batch(batch)

        return pipeline.map_batches(Model if as_class else on_batch, None if opaque else schema)

    kind = "class" if as_class else "function"
    text = f"map_batches({kind}, {error or name}{', no schema' if opaque else ''})"
    return Step(text, columns, add, on_rows, place=place, opaque=opaque, late_error=error)


def build(pipeline: Pipeline, steps: list[Step], world: World) -> flare.Pipeline:
    """Return the pipeline with all steps."""
    for step in steps:
        pipeline = step.add(pipeline, world)
    return pipeline
