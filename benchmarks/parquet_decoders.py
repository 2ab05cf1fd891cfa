"""Decoders of Parquet: the same columns of TPC-H lineitem to Arrow, by each library, on all cores.

Covers: DataFlare's reader beside PyArrow, Polars and DuckDB used as well as they can be for a stream of batches; on
two files, as two writers lay them out, and on three sets of columns. Does not cover what is done with the columns
(``benchmarks.parquet``). arro3 is not here: it reads whole files only, all columns of them.

Every decoder delivers Arrow data in the types that it gives for these files, batch by batch; batches are dropped
as they come. CPU time is of all threads of the process: on a busy machine it says more than wall time. The file is in
the page cache.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness.environment import available_cores
from benchmarks.harness.options import cache_folder, common_parser, quiet_cores
from benchmarks.harness.report import Progress, new_console, new_report, print_environment, write_json
from benchmarks.harness.runner import Contender, measure
from benchmarks.tpch import lineitem
from dataflare.sources.parquet import ParquetSource

__all__ = ["Decoded", "decoders"]

COLUMN_SETS = {
    "Q6: a date, three decimals": ("l_shipdate", "l_discount", "l_quantity", "l_extendedprice"),
    "an integer, three texts": ("l_orderkey", "l_returnflag", "l_shipmode", "l_comment"),
    "four integers": ("l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"),
}
_BATCH_ROWS = 65_536
_VIEWS = pl.CompatLevel.newest()

Decode = Callable[[Path, Sequence[str]], "Decoded"]


@dataclass(frozen=True)
class Decoded:
    """How many rows came out."""

    num_rows: int


def decoders() -> Mapping[str, Decode]:
    """Return the ways to decode some columns of a file, by name."""
    return {
        "DataFlare": lambda path, columns: _dataflare(path, columns, "auto"),
        "DataFlare, decoder='native'": lambda path, columns: _dataflare(path, columns, "native"),
        "DataFlare, decoder='polars'": lambda path, columns: _dataflare(path, columns, "polars"),
        "DataFlare, decoder='pyarrow'": lambda path, columns: _dataflare(path, columns, "pyarrow"),
        "PyArrow, row groups on all cores": _pyarrow_row_groups,
        "PyArrow iter_batches": _pyarrow_batches,
        "Polars collect_batches": _polars_batches,
        "Polars collect, in memory": _polars_frame,
        "DuckDB": _duckdb,
    }


def _on_all_cores(
    count: int, decode: Callable[[Any], int], make: Callable[[], Any], items: Sequence[Any]
) -> Decoded:
    """Share `items` out among threads, each with what `make` gives it."""
    waiting = iter(items)
    lock = threading.Lock()
    rows = [0] * count

    def work(number: int) -> None:
        own = make()
        while True:
            with lock:
                item = next(waiting, None)
            if item is None:
                return
            rows[number] += decode((own, item))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Decoded(sum(rows))


def _dataflare(path: Path, columns: Sequence[str], decoder: Any) -> Decoded:
    source = ParquetSource.open(path, columns=columns, decoder=decoder)

    def decode(task: tuple[None, Any]) -> int:
        return sum(batch.num_rows for batch in task[1].read(lambda: _BATCH_ROWS))

    return _on_all_cores(available_cores(), decode, lambda: None, source.partitions())


def _pyarrow_row_groups(path: Path, columns: Sequence[str]) -> Decoded:
    metadata = pq.read_metadata(path)

    def decode(task: tuple[pq.ParquetFile, int]) -> int:
        file, group = task
        return int(file.read_row_group(group, list(columns), use_threads=False).num_rows)

    return _on_all_cores(
        available_cores(),
        decode,
        lambda: pq.ParquetFile(path, metadata=metadata, pre_buffer=False),
        range(metadata.num_row_groups),
    )


def _pyarrow_batches(path: Path, columns: Sequence[str]) -> Decoded:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return Decoded(sum(batch.num_rows for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns))))


def _polars_batches(path: Path, columns: Sequence[str]) -> Decoded:
    frames = pl.scan_parquet(path).select(columns).collect_batches()
    return Decoded(sum(frame.to_arrow(compat_level=_VIEWS).num_rows for frame in frames))


def _polars_frame(path: Path, columns: Sequence[str]) -> Decoded:
    frame = pl.scan_parquet(path).select(columns).collect()
    return Decoded(frame.to_arrow(compat_level=_VIEWS).num_rows)


def _duckdb(path: Path, columns: Sequence[str]) -> Decoded:
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {available_cores()}")
        query = f"SELECT {', '.join(columns)} FROM read_parquet('{path}')"
        return Decoded(sum(batch.num_rows for batch in connection.sql(query).to_arrow_reader(_BATCH_ROWS)))


def _as_pyarrow_writes(path: Path) -> Path:
    """Return lineitem as PyArrow writes it by default: a million rows a group, decimals as bytes, plain strings."""
    other = path.with_name(path.stem + "-pyarrow.parquet")
    if not other.exists():
        making = other.with_suffix(".making")
        with pq.ParquetFile(path) as file:
            fields = [
                field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field
                for field in file.schema_arrow
            ]
            schema = pa.schema(fields)
            with pq.ParquetWriter(making, schema) as writer:
                groups = file.metadata.num_row_groups
                for first in range(0, groups, 9):
                    table = file.read_row_groups(list(range(first, min(first + 9, groups))))
                    writer.write_table(table.cast(schema), row_group_size=1_048_576)
        making.replace(other)
    return other


def _contenders(path: Path, columns: Sequence[str], rows: int, cpu_s: dict[str, float]) -> list[Contender]:
    def timed(name: str, decode: Decode) -> Callable[[], Decoded]:
        def run() -> Decoded:
            began = time.process_time()
            decoded = decode(path, columns)
            taken = time.process_time() - began
            cpu_s[name] = min(taken, cpu_s.get(name, taken))
            return decoded

        return run

    return [Contender(name=name, run=timed(name, decode), rows=rows) for name, decode in decoders().items()]


def _check(contender: Contender, result: Decoded) -> None:
    if result.num_rows != contender.rows:
        raise AssertionError(f"{contender.name} decoded {result.num_rows} of {contender.rows} rows")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("parquet_decoders", __doc__, size=None, rounds=9)
    parser.add_argument("--size", type=float, default=1.0, help="the scale factor of lineitem")
    parser.add_argument(
        "--data", type=Path, default=cache_folder(), help="folder that keeps the generated files"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    from rich.table import Table

    options = _parse(arguments)
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("parquet_decoders", scale=options.size, rounds=options.rounds)
    print_environment(console, report)
    for which in ("tpchgen", "PyArrow"):
        with Progress(console) as progress:
            progress(f"lineitem at scale {options.size:g}")
            path = lineitem(options.data, options.size)
            if which == "PyArrow":
                path = _as_pyarrow_writes(path)
            metadata = pq.read_metadata(path)
            writer = f"written by {metadata.created_by}, {metadata.num_row_groups} row groups"
            sections = {}
            for title, columns in COLUMN_SETS.items():
                cpu_s: dict[str, float] = {}
                measurements = measure(
                    _contenders(path, columns, metadata.num_rows, cpu_s),
                    rounds=options.rounds,
                    quiet=quiet,
                    check=_check,
                    progress=progress,
                )
                sections[title] = (measurements, cpu_s)
        for title, (measurements, cpu_s) in sections.items():
            table = Table(title=f"{title}; {writer}")
            table.add_column("decoder")
            for heading in ("CPU ms, min", "ms, min", "ms, median"):
                table.add_column(heading, justify="right")
            for m in sorted(measurements, key=lambda m: cpu_s[m.contender.name]):
                name = m.contender.name
                table.add_row(
                    name, f"{cpu_s[name] * 1e3:.0f}", f"{m.min_s * 1e3:.0f}", f"{m.median_s * 1e3:.0f}"
                )
            console.print(table)
            report["sections"].append(
                {
                    "title": f"{title}; {writer}",
                    "measurements": [
                        {**m.as_json(), "cpu_min_s": cpu_s[m.contender.name]} for m in measurements
                    ],
                }
            )
    if options.json is not None:
        write_json(report, options.json)
    return report


if __name__ == "__main__":
    main()
