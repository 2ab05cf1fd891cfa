"""The cases that a real GPU is held to, and the results that the emulated one gave: digests of every value and null.

The programs of the PTX gate over random batches that begin anywhere and end within words and segments, and random
chains of steps. ``PYTHONPATH=build/typing:tests python -m gpu.cases`` writes the results anew, for whoever changes
what a program gives or how the cases are drawn; the tests compare a sample of them with the emulated GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from chains.batches import random_batch
from chains.running import run
from chains.steps import load, random_chain, stages_of
from ptx_gate.programs import PROGRAMS

from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.stages import Stage

__all__ = ["Case", "all_cases", "digest", "stored_results"]

_RESULTS = Path(__file__).with_name("results.json")
_ROWS = (1, 33, 2 * SEGMENT_ROWS + 17)
_CHAINS = 200


@dataclass(frozen=True)
class Case:
    """Steps, the batch they run over, and the name under which the result is stored."""

    name: str
    stages: Sequence[Stage]
    batch: pa.RecordBatch


def all_cases(folder: Path) -> Iterator[Case]:
    """Yield the cases; the functions of random chains are written to ``folder``."""
    for program in PROGRAMS:
        for rows in _ROWS:
            for nulls in (False, True):
                name = f"{program.name} {rows} {'nullable' if nulls else 'dense'}"
                dice = random.Random(name)
                start = dice.randrange(9)
                fields = list(program.columns.items())
                batch = random_batch(dice, fields, rows + start, nulls=nulls).slice(start)
                yield Case(name, program.stages, batch)
    for seed in range(_CHAINS):
        chain, batch = random_chain(seed)
        yield Case(f"chain {seed}", stages_of(chain, load(chain.text, folder)), batch)


def digest(case: Case, device: str) -> str | None:
    """Return a digest of what a case gives on a device; None if it cannot be compiled for any."""
    try:
        outcome = run(device, case.stages, case.batch)
    except CompileError:
        return None
    values = [_plain(column).to_pylist() for column in outcome.batch.columns]
    text = f"{outcome.batch.schema}{outcome.batch.num_rows}{values!r}{outcome.rows_dropped_null_predicate}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(column: pa.Array) -> pa.Array:
    """Return times as the integers they are: Python's own have not their range."""
    if not pa.types.is_temporal(column.type):
        return column
    return column.view(pa.int64() if column.type.bit_width == 64 else pa.int32())


def stored_results() -> dict[str, str | None]:
    """Return the digests of all cases."""
    results: dict[str, str | None] = json.loads(_RESULTS.read_text())
    return results


def main() -> None:
    """Write the results of the emulated GPU."""
    argparse.ArgumentParser(prog="python -m gpu.cases", description=main.__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {case.name: digest(case, "cuda:emulated") for case in all_cases(Path(folder))}
    _RESULTS.write_text(json.dumps(results, indent=0) + "\n")
    print(
        f"{len(results)} cases, {sum(result is None for result in results.values())} of which do not compile"
    )


if __name__ == "__main__":
    main()
