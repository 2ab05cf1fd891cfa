"""Flights that left New York City late in 2013: how fast they flew and the minutes they lost.

Three ways to run it:

    dataflare run examples/flights.py                     # the command line calls build()
    dataflare run examples/flights.py --set late=60
    python examples/flights.py                            # a script like any other
"""

from __future__ import annotations

from pathlib import Path

import dataflare as flare

FLIGHTS = Path(__file__).with_name("flights.parquet")


def lost_minutes(r):
    """Minutes late at the gate; of flights that never arrived only the departure is known."""
    if r.arr_delay is None:
        return r.dep_delay
    return max(r.arr_delay, 0)


def build(*, late: int = 15, output: str = "delayed.parquet") -> flare.Pipeline:
    """Return the pipeline; nothing runs yet.

    Parameters
    ----------
    late
        Minutes after which a departure counts as delayed.
    output
        Where the Parquet file goes; replaced if it exists.
    """
    return (
        flare.read_parquet(FLIGHTS)
        # A cancelled flight has no delay: null > 15 is null, and a null condition drops the record.
        .filter(lambda r: r.dep_delay > late)
        .with_columns(
            speed_mph=lambda r: None if r.air_time is None else r.distance / (r.air_time / 60),
            lost_minutes=lost_minutes,
            arrived=lambda r: r.arr_delay is not None,
        )
        .select(
            "time_hour",
            "carrier",
            "flight",
            "origin",
            "dest",
            "distance",
            "dep_delay",
            "arr_delay",
            "arrived",
            "lost_minutes",
            "speed_mph",
        )
        .write_parquet(output, overwrite=True)
    )


if __name__ == "__main__":
    print(build().run())
