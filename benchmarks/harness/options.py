"""The command line that all tables share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.harness.runner import QuietCores

__all__ = ["cache_folder", "common_parser", "parse_size", "quiet_cores"]

_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9}


def parse_size(text: str) -> int:
    """Return the number of rows that ``10M``, ``250k``, ``1_000`` or ``1e6`` means."""
    lowered = text.strip().lower().replace("_", "").replace(",", "")
    factor = _SUFFIXES.get(lowered[-1:], 1)
    try:
        rows = float(lowered[:-1] if factor > 1 else lowered) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of rows such as 10M, 250k or 1000"
        ) from None
    if rows < 1 or rows != int(rows):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of rows above 0")
    return int(rows)


def common_parser(
    program: str, description: str | None, *, size: str | None, rounds: int
) -> argparse.ArgumentParser:
    """Return a parser with the options of every table; ``size`` None leaves ``--size`` out."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{program}",
        description=(description or "").strip().splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    if size is not None:
        parser.add_argument(
            "--size", type=parse_size, default=parse_size(size), help="rows, such as 10M or 250k"
        )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="timed rounds; every contender runs once in each"
    )
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE", help="write everything measured to FILE"
    )
    parser.add_argument(
        "--plot", type=Path, default=None, metavar="FILE.png", help="draw the result to FILE.png"
    )
    parser.add_argument(
        "--quiet-wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="wait at most this long, all in all, for other processes to leave the cores alone",
    )
    return parser


def quiet_cores(options: argparse.Namespace) -> QuietCores:
    """Return the patience that the command line asks for."""
    if options.quiet_wait <= 0:
        return QuietCores(budget_s=0.0, nap_s=0.005)  # no patience: only a glance, for the record
    return QuietCores(budget_s=options.quiet_wait)


def cache_folder() -> Path:
    """Return where generated data is kept between runs: the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dataflare-benchmarks"
