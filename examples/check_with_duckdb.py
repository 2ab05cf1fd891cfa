"""Read what a flights job wrote with DuckDB and compare it with DuckDB's own answer from the original file.

python examples/check_with_duckdb.py [delayed.parquet]
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

FLIGHTS = Path(__file__).with_name("flights.parquet")

EXPECTED = """
    SELECT time_hour, carrier, flight, origin, dest, distance, dep_delay, arr_delay,
           arr_delay IS NOT NULL AS arrived,
           CASE WHEN arr_delay IS NULL THEN dep_delay ELSE greatest(arr_delay, 0) END AS lost_minutes,
           distance / (air_time / 60) AS speed_mph
    FROM read_parquet($flights) WHERE dep_delay > 15
"""
WRITTEN = "SELECT * FROM read_parquet($written)"


def main() -> None:
    """Compare, print a summary, and fail where a row differs."""
    written = sys.argv[1] if len(sys.argv) > 1 else "delayed.parquet"
    names = {"flights": str(FLIGHTS), "written": written}
    with duckdb.connect() as connection:
        for left, right, what in ((WRITTEN, EXPECTED, "not expected"), (EXPECTED, WRITTEN, "missing")):
            difference = f"SELECT count(*) FROM ({left} EXCEPT ALL {right})"
            [(rows,)] = connection.execute(difference, names).fetchall()
            if rows:
                raise SystemExit(f"{written}: {rows} rows are {what}")
        [summary] = connection.execute(
            "SELECT count(*), round(avg(speed_mph), 1), sum(lost_minutes), sum((NOT arrived)::INT)"
            f" FROM ({WRITTEN})",
            {"written": written},
        ).fetchall()
    rows, speed_mph, lost_minutes, not_arrived = summary
    print(
        f"DuckDB agrees on all {rows:,} rows of {written}: {speed_mph} mph on average, "
        f"{lost_minutes:,} minutes lost, {not_arrived:,} flights never arrived"
    )


if __name__ == "__main__":
    main()
