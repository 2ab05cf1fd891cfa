"""How a scenario ends: the call that runs the pipeline, what it gives, and what may lie in its folder afterwards."""

from __future__ import annotations

import contextlib
import random
import resource
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
from torture.records import Row
from torture.world import InjectedError, World

from dataflare.batch import SharedDataBatch
from dataflare.kernels.cpu.cache import CacheWarning
from dataflare.pipeline import Pipeline
from dataflare.sinks.base import BatchSink
from dataflare.sinks.parquet import ParquetSink

EndingKind = Literal[
    "collect", "to_arrow", "count", "iterate", "write", "custom sink", "parquet", "csv", "ipc"
]
KINDS: tuple[EndingKind, ...] = (
    *("collect", "to_arrow", "count", "iterate", "iterate", "iterate", "write", "write", "custom sink"),
    *("custom sink", "parquet", "csv", "ipc"),
)
FILES: tuple[EndingKind, ...] = ("parquet", "csv", "ipc")
Leaving = Literal["never", "unstarted", "close", "drop", "raise"]
Flaw = Literal["open", "commit", "abort"]


@dataclass(frozen=True)
class Ending:
    """The end of a pipeline."""

    kind: EndingKind
    leaving: Leaving = "never"
    """How the consumer of an iterator leaves it before its end."""
    leaves_after: int = 0
    """Batches that it takes before."""
    flaw: Flaw | None = None
    """The call of a custom sink that fails."""
    in_folder: bool = False
    part_bytes: int | None = None
    existing: Literal["nothing", "old", "in the way"] = "nothing"
    """What is at the output's path before: something to overwrite, or something that must stay."""
    file_limit_bytes: int | None = None
    """The largest file that the system allows meanwhile, as if the disk were full."""

    def __str__(self) -> str:
        facts = [f"leaves by {self.leaving} after {self.leaves_after}"] if self.leaving != "never" else []
        facts += [f"{self.flaw} fails"] if self.flaw else []
        facts += ["folder"] if self.in_folder else []
        facts += [f"{self.existing} there"] if self.existing != "nothing" else []
        facts += [f"files up to {self.file_limit_bytes}"] if self.file_limit_bytes else []
        return f"{self.kind}({', '.join(facts)})"

    @property
    def keeps_batches(self) -> bool:
        return self.kind in ("collect", "to_arrow", "custom sink")


def random_ending(dice: random.Random) -> Ending:
    kind = dice.choice(KINDS)
    if kind == "iterate":
        leaving: Leaving = dice.choice(("never", "never", "unstarted", "close", "drop", "raise"))
        return Ending(kind, leaving, dice.choice((0, 1, 1, 2, 5)) if leaving != "unstarted" else 0)
    if kind == "custom sink":
        return Ending(kind, flaw=dice.choice((None, "open", "commit", "abort")))
    if kind not in FILES:
        return Ending(kind)
    in_folder = dice.random() < 0.5
    return Ending(
        kind,
        in_folder=in_folder,
        part_bytes=dice.choice((None, 1, 2000)) if in_folder else None,
        existing=dice.choice(("nothing", "nothing", "old", "old", "in the way")),
        file_limit_bytes=dice.choice((None, None, None, 1, 600)),
    )


class HostileSink:
    """A sink that passes the world by with each batch, and may fail at any call; writes a real Parquet file."""

    def __init__(self, world: World, flaw: Flaw | None, path: Path) -> None:
        self._world = world
        self._flaw = flaw
        self._inner: BatchSink = ParquetSink(path)
        self.description = "hostile sink"

    def open(self, schema: pa.Schema) -> None:
        self._fail_if("open")
        self._inner.open(schema)

    def write(self, batch: SharedDataBatch) -> None:
        self._world.pass_by("sink", batch.to_arrow()["id"].to_pylist())
        self._inner.write(batch)

    def commit(self) -> tuple[str, ...]:
        self._fail_if("commit")
        return tuple(self._inner.commit())

    def abort(self) -> None:
        self._inner.abort()
        if self._flaw == "abort":
            raise InjectedError("on purpose: a sink must not raise in abort, and this one does")

    def _fail_if(self, flaw: Flaw) -> None:
        if self._flaw == flaw:
            self._world.fail(InjectedError(f"on purpose: {flaw} of the sink"))


@dataclass
class Result:
    """What a run gave: all of it, or what a consumer or a function had seen when it ended."""

    rows: list[Row] | None = None
    count: int | None = None
    seen: list[Row] | None = None


def run(ending: Ending, pipeline: Pipeline, world: World, folder: Path, options: dict[str, Any]) -> Result:
    """Run a pipeline to this end."""
    result = Result()
    with _file_limit(ending.file_limit_bytes):
        match ending.kind:
            case "collect":
                result.rows = pipeline.collect(**options).to_pylist()
            case "to_arrow":
                result.rows = pipeline.to_arrow(**options).to_pylist()
            case "count":
                result.count = pipeline.count(**options)
            case "iterate":
                _iterate(ending, pipeline, world, options)
            case "write":
                pipeline.write(lambda batch: _see(world, batch)).run(**options)
                result.rows = list(world.seen)
            case "custom sink":
                path = output_path(ending, folder)
                pipeline._ending_in("hostile", lambda: HostileSink(world, ending.flaw, path)).run(**options)
            case _:
                _writing(ending, pipeline, output_path(ending, folder)).run(**options)
    if ending.kind == "iterate" and ending.leaving == "never":
        result.rows = list(world.seen)
    return result


def _see(world: World, batch: SharedDataBatch) -> None:
    rows = batch.to_pylist()
    world.pass_by("sink", [row["id"] for row in rows])
    world.seen += rows


def _iterate(ending: Ending, pipeline: Pipeline, world: World, options: dict[str, Any]) -> None:
    batches = pipeline.iter_batches(**options)
    if ending.leaving == "unstarted":
        return
    taken = 0
    leaves = ending.leaving != "never"
    while not leaves or taken < ending.leaves_after:
        batch = next(batches, None)
        if batch is None:
            return
        _see(world, batch)
        taken += 1
    if ending.leaving == "close":
        batches.close()  # type: ignore[attr-defined]
    elif ending.leaving == "raise":
        world.fail(InjectedError("on purpose: the consumer has a fault of its own"))


def output_path(ending: Ending, folder: Path) -> Path:
    suffix = {"ipc": "arrow", "csv": "csv"}.get(ending.kind, "parquet")
    return folder / "made" / ("out" if ending.in_folder else f"out.{suffix}")


def put_old(ending: Ending, folder: Path) -> None:
    """Put something at the output's path."""
    if ending.existing == "nothing":
        return
    path = output_path(ending, folder)
    path.parent.mkdir()
    if ending.in_folder:
        path.mkdir()
        (path / "part-00000.old").write_text("old")
    else:
        path.write_text("old")


def left_over(ending: Ending, folder: Path) -> list[str]:
    """Return what lies in the folder and is neither the old output nor a new one."""
    path = output_path(ending, folder)
    expected = {path.parent, path} if ending.existing != "nothing" else set()
    if ending.existing != "nothing" and ending.in_folder:
        expected.add(path / "part-00000.old")
    return sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if found not in expected)


def old_is_whole(ending: Ending, folder: Path) -> bool:
    path = output_path(ending, folder)
    old = path / "part-00000.old" if ending.in_folder else path
    return old.is_file() and old.read_text(errors="replace") == "old"


def read_back(ending: Ending, folder: Path, schema: pa.Schema) -> list[Row]:
    """Read an output with PyArrow alone."""
    path = output_path(ending, folder)
    files = sorted(path.iterdir()) if ending.in_folder else [path]
    read: Callable[[Path], pa.Table]
    if ending.kind == "csv":
        convert = pa_csv.ConvertOptions(
            column_types=schema,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )

        def read(path: Path) -> pa.Table:
            if not path.read_bytes().strip():  # no records, and so no columns where no schema was given
                return pa.table({})
            return pa_csv.read_csv(path, convert_options=convert)
    elif ending.kind == "ipc":
        read = feather.read_table
    else:

        def read(path: Path) -> pa.Table:
            return pq.read_table(path, partitioning=None)

    return [row for file in files for row in read(file).to_pylist()]


def _writing(ending: Ending, pipeline: Pipeline, path: Path) -> Pipeline:
    shown = f"{path}/" if ending.in_folder else str(path)
    overwrite = ending.existing == "old"
    match ending.kind:
        case "parquet":
            return pipeline.write_parquet(
                shown, overwrite=overwrite, part_bytes=ending.part_bytes, row_group_rows=50
            )
        case "csv":
            return pipeline.write_csv(shown, overwrite=overwrite, part_bytes=ending.part_bytes)
        case _:
            return pipeline.write_ipc(shown, overwrite=overwrite, part_bytes=ending.part_bytes)


@contextlib.contextmanager
def _file_limit(most_bytes: int | None) -> Iterator[None]:
    if most_bytes is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)  # neither can the compile cache write its files
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
