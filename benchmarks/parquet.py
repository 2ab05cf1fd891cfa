"""From Parquet: a Q6-like filter and map over TPC-H lineitem, beside decoding alone and the kernel alone.

Covers: DataFlare from file to result against Polars' and DuckDB's own scans and PyArrow's datasets; the
decoders of ``benchmarks.parquet_decoders`` on the same four columns; DataFlare's program on the decoded
columns. The promise is over the fastest decoder plus the kernel: what a perfect pipeline without overlap
would take.

The result is the revenue of every line that Q6 sums, as float64 from exact decimals. The file is in the
page cache.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

import dataflare as flare
from benchmarks.definitions import check_result
from benchmarks.harness.environment import available_cores
from benchmarks.harness.options import cache_folder, common_parser, quiet_cores
from benchmarks.harness.plot import bars
from benchmarks.harness.report import (
    Progress,
    best,
    new_console,
    new_report,
    print_environment,
    print_measurements,
    print_targets,
    target,
    write_json,
)
from benchmarks.harness.runner import Contender, Measurement, measure
from benchmarks.parquet_decoders import decoders
from benchmarks.tpch import lineitem

OVER_DECODER_AND_KERNEL = 1.15
OVER_POLARS = 1.0

COLUMNS = ("l_shipdate", "l_discount", "l_quantity", "l_extendedprice")
_FIRST, _LAST = datetime.date(1994, 1, 1), datetime.date(1995, 1, 1)
_LOW, _HIGH, _FEW = Decimal("0.05"), Decimal("0.07"), Decimal("24.00")
_DECODE, _KERNEL = "decoding alone", "kernel alone"


def q6_lines(pipeline: Any) -> Any:
    """Return the pipeline of Q6's lines and their revenue, as a user would write it."""
    return pipeline.filter(
        lambda r: _FIRST <= r.l_shipdate < _LAST and _LOW <= r.l_discount <= _HIGH and r.l_quantity < _FEW
    ).map(lambda r: {"revenue": float(r.l_extendedprice) * float(r.l_discount)})


def _polars_query(path: Path) -> pl.LazyFrame:
    wanted = (
        (pl.col("l_shipdate") >= _FIRST)
        & (pl.col("l_shipdate") < _LAST)
        & pl.col("l_discount").is_between(_LOW, _HIGH)
        & (pl.col("l_quantity") < _FEW)
    )
    revenue = pl.col("l_extendedprice").cast(pl.Float64) * pl.col("l_discount").cast(pl.Float64)
    return pl.scan_parquet(path).filter(wanted).select(revenue=revenue)


def _duckdb_run(path: Path) -> Callable[[], pa.Table]:
    connection = duckdb.connect()
    connection.execute(f"SET threads = {available_cores()}")
    query = f"""
        SELECT l_extendedprice::DOUBLE * l_discount::DOUBLE AS revenue FROM read_parquet('{path}')
        WHERE l_shipdate >= DATE '{_FIRST}' AND l_shipdate < DATE '{_LAST}'
          AND l_discount BETWEEN {_LOW} AND {_HIGH} AND l_quantity < {_FEW}
    """
    return lambda: connection.sql(query).to_arrow_table()


def _dataset_run(path: Path) -> Callable[[], pa.Table]:
    dataset = ds.dataset(path, format="parquet")
    decimal = pa.decimal128(15, 2)
    shipdate, discount, quantity, price = (pc.field(name) for name in COLUMNS)
    wanted = (
        (shipdate >= pc.scalar(pa.scalar(_FIRST)))
        & (shipdate < pc.scalar(pa.scalar(_LAST)))
        & (discount >= pc.scalar(pa.scalar(_LOW, decimal)))
        & (discount <= pc.scalar(pa.scalar(_HIGH, decimal)))
        & (quantity < pc.scalar(pa.scalar(_FEW, decimal)))
    )
    revenue = price.cast(pa.float64()) * discount.cast(pa.float64())
    return lambda: dataset.to_table(columns={"revenue": revenue}, filter=wanted)


def _expected(path: Path) -> dict[str, np.ndarray]:
    """Return the right answer in NumPy, through PyArrow's reader."""
    table = pq.read_table(path, columns=list(COLUMNS))
    days = table["l_shipdate"].cast(pa.int32()).to_numpy()
    discount, quantity, price = (table[name].cast(pa.float64()).to_numpy() for name in COLUMNS[1:])
    epoch = datetime.date(1970, 1, 1)
    keep = (days >= (_FIRST - epoch).days) & (days < (_LAST - epoch).days)
    keep &= (discount > 0.045) & (discount < 0.075) & (quantity < 24.0)
    return {"revenue": price[keep] * discount[keep]}


def _contenders(path: Path, rows: int, decoded: pa.Table) -> list[Contender]:
    def engine(
        name: str, run: Callable[[], Any], to_arrow: Callable[[Any], pa.Table], role: Any
    ) -> Contender:
        return Contender(name=name, run=run, rows=rows, role=role, to_arrow=to_arrow)

    return [
        engine(
            "DataFlare read_parquet(...).collect()",
            lambda: q6_lines(flare.read_parquet(str(path))).collect(),
            lambda batch: batch.to_arrow(),
            "dataflare",
        ),
        *(
            engine(
                f"Polars scan_parquet, {mode}",
                lambda mode=mode: _polars_query(path).collect(engine=mode),
                lambda frame: frame.to_arrow(),
                "peer",
            )
            for mode in ("in-memory", "streaming")
        ),
        engine("DuckDB read_parquet", _duckdb_run(path), lambda result: result, "peer"),
        engine("PyArrow dataset", _dataset_run(path), lambda result: result, "peer"),
        Contender(
            name="DataFlare program on decoded columns",
            run=lambda: q6_lines(flare.from_arrow(decoded)).collect(),
            rows=rows,
            role="probe",
            route=_KERNEL,
            to_arrow=lambda batch: batch.to_arrow(),
        ),
        *(
            Contender(
                name=f"decode only: {name}",
                run=lambda decode=decode: decode(path, COLUMNS),
                rows=rows,
                role="probe",
                route=_DECODE,
            )
            for name, decode in decoders().items()
        ),
    ]


def _targets(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    ours = best(measurements, "dataflare")
    decoder = best(measurements, "probe", route=_DECODE)
    kernel = best(measurements, "probe", route=_KERNEL)
    polars = max(
        (m for m in measurements if m.contender.name.startswith("Polars")), key=lambda m: m.records_per_s
    )
    if ours is None or decoder is None or kernel is None:
        return []
    floor_s = decoder.median_s + kernel.median_s
    fastest = decoder.contender.name.removeprefix("decode only: ")
    return [
        target(
            f"time over the fastest decoder ({fastest}) plus the kernel",
            OVER_DECODER_AND_KERNEL,
            ours.median_s / floor_s,
            at_least=False,
            unit="×",
        ),
        target(
            "time over Polars' own scan",
            OVER_POLARS,
            ours.median_s / polars.median_s,
            at_least=False,
            unit="×",
        ),
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("parquet", __doc__, size=None, rounds=9)
    parser.add_argument("--size", type=float, default=1.0, help="the scale factor of lineitem")
    parser.add_argument(
        "--data", type=Path, default=cache_folder(), help="folder that keeps the generated files"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("parquet", scale=options.size, rounds=options.rounds)
    print_environment(console, report)
    with Progress(console) as progress:
        progress(f"lineitem at scale {options.size:g}")
        path = lineitem(options.data, options.size)
        rows = pq.ParquetFile(path).metadata.num_rows
        expected = _expected(path)
        decoded = pq.read_table(path, columns=list(COLUMNS))

        def check(contender: Contender, result: Any) -> None:
            if contender.to_arrow is not None:
                check_result(contender.name, contender.to_arrow(result), expected, 1e-12)
            elif result.num_rows != rows:
                raise AssertionError(f"{contender.name} read {result.num_rows} of {rows} rows")

        measurements = measure(
            _contenders(path, rows, decoded),
            rounds=options.rounds,
            quiet=quiet,
            check=check,
            progress=progress,
        )
    title = f"lineitem at scale {options.size:g}: {rows:,} rows, Q6's filter and map"
    report["sections"].append(
        {"title": title, "rows": rows, "measurements": [m.as_json() for m in measurements]}
    )
    report["targets"] = _targets(measurements)
    report["quiet_waited_s"] = quiet.waited_s
    print_measurements(console, title, measurements, probes=True)
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        panels = {title: [(m.contender.name, m.median_s * 1e3, m.contender.role) for m in measurements]}
        bars(panels, options.plot, axis="ms, median")
    return report


if __name__ == "__main__":
    main()
