"""Runs random chains on guarded memory, for CPUs of several levels, against plain Python.

``PYTHONPATH=build/typing:tests python -m chains.guarded 0 20 --levels host,x86-64`` runs the chains 0 to 19. A fault
ends the process: what was printed last says which chain, rows and CPU it was, and the traceback which call. Each chain
gets batches of several lengths, with and without nulls, so that both variants of its code run.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from chains.batches import random_batch
from chains.running import Outcome, compiled_for, run, run_compiled
from chains.steps import Chain, load, random_chain, stages_of

from dataflare.kernels.cpu.target import host_target, level_target
from dataflare.kernels.errors import CompileError
from dataflare.kernels.guarded import GuardedProgram
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.guarded import GUARD_VARIABLE, placement_asked_for
from dataflare.kernels.udf.program import build_program
from dataflare.testing import assert_batches_equal

LEVELS = ("host", "plain", "x86-64", "x86-64-v3", "x86-64-v4")
"""CPUs by name: this machine, this one without what the fast paths need, and levels of the x86-64 ABI."""
SMALL_ROWS = (0, 1, 7, 8, 9, *range(15, 66))
LARGE_ROWS = (1023, 1024, 1025, 2047, 2048, 2049)
LARGE_EVERY = 8  # chains: plain Python takes a while for some thousand rows


def target_of(level: str) -> Target | None:
    """Return a CPU by name; None where this machine cannot run its code."""
    host = host_target()
    if level == "host":
        return host
    if level == "plain":
        return dataclasses.replace(
            host,
            has_permute=False,
            has_bit_extract=False,
            has_compress=False,
            has_short_compress=False,
            has_fma=False,
            vector_math={},
            vector_math32={},
        )
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    target = level_target(level)
    return target if target.register_bytes <= host.register_bytes else None


def batches(seed: int, first: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Return batches for a chain: its own, then some of lengths at which groups, bytes and tiles end."""
    yield first
    dice = random.Random(f"batches {seed}")
    fields = [(field.name, field.type) for field in first.schema]
    lengths = dice.sample(SMALL_ROWS, 4)
    if seed % LARGE_EVERY == 0:
        lengths.append(dice.choice(LARGE_ROWS))
    for place, num_rows in enumerate(lengths):
        yield random_batch(dice, fields, num_rows, nulls=place % 2 == 0)


def compare(seed: int, levels: Sequence[str], folder: Path) -> None:
    """Run one chain for every level, and compare."""
    chain, first = random_chain(seed)
    stages = stages_of(chain, load(chain.text, folder))
    placement = placement_asked_for()
    assert placement is not None, f"set {GUARD_VARIABLE}"
    try:
        program = build_program(stages, first.schema)
        compiled = {
            level: GuardedProgram(compiled_for(program, target), placement)
            for level in levels
            if (target := target_of(level)) is not None
        }
    except CompileError as error:
        if "is None for every record" in str(error):  # conditions that happen to be constant
            return
        raise
    for batch in batches(seed, first):
        expected = run("python", stages, batch)
        for level, each in compiled.items():
            print(f"chain {seed}, {batch.num_rows} rows, {level}", flush=True)
            _same(run_compiled(each, batch), expected, chain)


def _same(made: Outcome, expected: Outcome, chain: Chain) -> None:
    assert_batches_equal(made.batch, expected.batch, ulp=4, ulp_columns=sorted(chain.rough))
    assert made.rows_dropped_null_predicate == expected.rows_dropped_null_predicate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--levels", default=",".join(LEVELS))
    options = parser.parse_args()
    os.environ.setdefault(GUARD_VARIABLE, "1")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.end):
            compare(seed, options.levels.split(","), Path(folder))
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
