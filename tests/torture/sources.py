"""The sources of a scenario: batches from generators that stall or fail, data in memory, and files."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
from torture.records import SCHEMA, Row, table_of
from torture.world import World

import dataflare as flare
from dataflare.pipeline import Pipeline

SourceKind = Literal[
    "generator",
    "iterable",
    "async generator",
    "bad closer",
    "list",
    "table",
    "records",
    "parquet",
    "csv",
    "ipc",
]
STREAMS: tuple[SourceKind, ...] = ("generator", "iterable", "async generator", "bad closer")
"""Sources whose items are places for spots; all others have none."""
KINDS: tuple[SourceKind, ...] = (
    *("generator", "generator", "generator", "iterable", "async generator", "bad closer", "list", "table"),
    *("table", "records", "parquet", "parquet", "csv", "ipc"),
)


@dataclass(frozen=True)
class SourceSpec:
    """A source, before it is opened."""

    kind: SourceKind
    sizes: tuple[int, ...]
    """Records of each item, chunk or file."""
    group_rows: int
    """Records in a row group or record batch of a file."""
    gives_schema: bool = True
    pausable: bool = True

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.sizes[:8])) + (", ..." if len(self.sizes) > 8 else "")
        kind = self.kind if self.pausable else f"unpausable {self.kind}"
        return f"{kind} of {len(self.sizes)} ({shown})"

    def parts(self, rows: list[Row]) -> list[list[Row]]:
        """Cut the records into items."""
        parts, start = [], 0
        for size in self.sizes:
            parts.append(rows[start : start + size])
            start += size
        return parts


def random_source(dice: random.Random, count: int) -> SourceSpec:
    """Return a source of ``count`` records, cut at random: one piece, even pieces, ragged ones, empty ones between."""
    kind = dice.choice(KINDS)
    style = dice.choice(("one", "even", "ragged", "ragged"))
    if style == "one" or count < 2:
        sizes = [count]
    elif style == "even":
        size = max(1, count // dice.choice((4, 9, 16)))
        sizes = [min(size, count - start) for start in range(0, count, size)]
    else:
        cuts = sorted(dice.randint(0, count) for _ in range(dice.randint(1, 12)))
        sizes = [stop - start for start, stop in zip([0, *cuts], [*cuts, count], strict=True)]
    if kind == "records":
        sizes = [count]
    return SourceSpec(kind, tuple(sizes), dice.choice((3, 40, 1000)), dice.random() < 0.8)


def open_source(spec: SourceSpec, rows: list[Row], world: World, folder: Path) -> Pipeline:
    """Return a pipeline that starts here."""
    tables = [table_of(part) for part in spec.parts(rows)]
    match spec.kind:
        case "list":
            return flare.from_batches(tables, SCHEMA)
        case "table":
            return flare.from_arrow(pa.concat_tables([SCHEMA.empty_table(), *tables]))
        case "records":
            return flare.from_records(rows, SCHEMA)
        case "parquet" | "csv" | "ipc":
            return _open_files(spec, tables, folder)
        case _:
            schema = SCHEMA if spec.gives_schema else None
            return flare.from_batches(_Stream(spec, tables, world).start(), schema, pausable=spec.pausable)


def _open_files(spec: SourceSpec, tables: list[pa.Table], folder: Path) -> Pipeline:
    folder.mkdir()
    for number, table in enumerate(tables):
        path = folder / f"{number:03d}.{'arrow' if spec.kind == 'ipc' else spec.kind}"
        if spec.kind == "parquet":
            pq.write_table(table, path, row_group_size=spec.group_rows)
        elif spec.kind == "csv":
            pa_csv.write_csv(table, path)
        else:
            feather.write_feather(table, path, compression="uncompressed", chunksize=spec.group_rows)
    if spec.kind == "parquet":
        return flare.read_parquet(folder)
    if spec.kind == "csv":
        return flare.read_csv(folder, column_types=SCHEMA)
    return flare.read_ipc(folder)


class _Stream:
    """Items that pass by the world one by one; counts those that are under way."""

    def __init__(self, spec: SourceSpec, tables: list[pa.Table], world: World) -> None:
        self._spec = spec
        self._tables = tables
        self._world = world

    def start(self) -> Any:
        if self._spec.kind == "iterable":
            return self
        return self._coming() if self._spec.kind == "async generator" else iter(self)

    def __iter__(self) -> Iterator[pa.Table]:
        world = self._world
        world.sources_open += 1
        try:
            for number, table in enumerate(self._tables):
                world.pass_by("source", (number,))
                world.items_read += 1
                yield table
            world.pass_by("source", (len(self._tables),))
        finally:
            world.sources_open -= 1
            if self._spec.kind == "bad closer":
                raise RuntimeError("on purpose: the source cannot even be closed")

    async def _coming(self) -> AsyncIterator[pa.Table]:
        items = iter(self)
        try:
            for table in items:
                yield table
        finally:
            items.close()  # type: ignore[attr-defined]
