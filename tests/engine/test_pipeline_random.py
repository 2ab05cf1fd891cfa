"""Random pipelines: what the optimiser made of a chain gives what its steps give one after the other.

The chain runs fused on the CPU from a Parquet file of small row groups; the same steps run one by one in plain
Python, each on the whole result of the one before. Random functions and types are in `tests/kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataflare as flare

Step = Callable[[flare.Pipeline], flare.Pipeline]

ROWS = 60
TABLE = pa.table(
    {
        "a": pa.array([None if i % 11 == 0 else i for i in range(ROWS)], pa.int64()),
        "b": pa.array([None if i % 6 == 0 else i / 8 - 3.0 for i in range(ROWS)], pa.float64()),
        "s": pa.array([None if i % 9 == 0 else f"s{i % 4}" for i in range(ROWS)]),
        "n": pa.array([[i] for i in range(ROWS)], pa.list_(pa.int64())),
    }
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("random") / "table.parquet"
    pq.write_table(TABLE, path, row_group_size=7)
    return path


def at_least(column: str, bound: int) -> Step:
    return lambda pipeline: pipeline.filter(lambda r: r[column] >= bound)


def not_null(column: str) -> Step:
    return lambda pipeline: pipeline.filter(lambda r: r[column] is not None)


def equal_text(column: str, text: str) -> Step:
    return lambda pipeline: pipeline.filter(lambda r: r[column] == text)


def doubled(column: str, name: str, offset: int) -> Step:
    return lambda pipeline: pipeline.with_columns(**{name: lambda r: r[column] * 2 + offset})


def filled(column: str) -> Step:
    return lambda pipeline: pipeline.with_columns(**{column: lambda r: r[column] or 1})


def reduced(column: str, other: str) -> Step:
    return lambda pipeline: pipeline.map(lambda r: {column: r[column], "kept": r[other] is None})


def selected(columns: list[str]) -> Step:
    return lambda pipeline: pipeline.select(*columns)


def dropped(column: str) -> Step:
    return lambda pipeline: pipeline.drop(column)


def renamed(column: str, name: str) -> Step:
    return lambda pipeline: pipeline.rename({column: name})


def limited(rows: int) -> Step:
    return lambda pipeline: pipeline.limit(rows)


def through_batches() -> Step:
    return lambda pipeline: pipeline.map_batches(lambda batch: batch.to_arrow(), pipeline.schema)


@st.composite
def chains(draw: st.DrawFn) -> list[Step]:
    """One to seven steps, each on columns that are there at that point."""
    pipeline = flare.from_arrow(TABLE)
    steps: list[Step] = []
    for number in range(draw(st.integers(1, 7))):
        fields = {field.name: field.type for field in pipeline.schema}
        numbers = [n for n, t in fields.items() if pa.types.is_integer(t) or pa.types.is_floating(t)]
        texts = [n for n, t in fields.items() if pa.types.is_string(t)]
        names = list(fields)
        plain = [name for name, kind in fields.items() if not pa.types.is_nested(kind)]
        choices: list[st.SearchStrategy[Step]] = [
            st.builds(limited, st.integers(0, 70)),
            st.builds(selected, st.lists(st.sampled_from(names), min_size=1, unique=True)),
            st.builds(renamed, st.sampled_from(names), st.just(f"r{number}")),
            st.just(through_batches()),
        ]
        if plain:
            choices.append(st.builds(not_null, st.sampled_from(plain)))
        if numbers:
            column = st.sampled_from(numbers)
            choices += [
                st.builds(at_least, column, st.integers(-5, 50)),
                st.builds(doubled, column, st.sampled_from([*numbers, f"d{number}"]), st.integers(0, 3)),
                st.builds(filled, column),
            ]
        if numbers and texts:
            choices.append(st.builds(reduced, st.sampled_from(numbers), st.sampled_from(texts)))
        if texts:
            choices.append(st.builds(equal_text, st.sampled_from(texts), st.sampled_from(["s1", "s3", "x"])))
        if len(names) > 1:
            choices.append(st.builds(dropped, st.sampled_from(names)))
        step = draw(st.one_of(choices))
        pipeline = step(pipeline)
        steps.append(step)
    return steps


@given(steps=chains())
@settings(max_examples=max(40, settings.default.max_examples // 5))
def test_a_fused_chain_gives_what_its_steps_give_one_by_one(
    file: Path, compiled_device: str, steps: list[Step]
) -> None:
    chain = flare.read_parquet(file)
    one_by_one = TABLE
    for step in steps:
        chain = step(chain)
        one_by_one = step(flare.from_arrow(one_by_one)).to_arrow(device="python")
    assert chain.schema.equals(one_by_one.schema)
    assert chain.collect(device=compiled_device).to_pylist() == one_by_one.to_pylist()
    assert chain.count(device=compiled_device) == one_by_one.num_rows
