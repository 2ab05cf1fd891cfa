"""Runs random chains on the emulated GPU against the CPU, bit for bit, and against plain Python.

``PYTHONPATH=build/typing:tests python -m chains.emulated 0 20000`` runs the chains 0 to 19999; ``--part 1/2`` of them
for the first of two processes. Each chain is made for one of several architectures and runs with an order of blocks
and atomics of its own, on its batch and on batches that end within warps, words and segments. A chain that
differs or faults is printed and the others go on; the last line counts them.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from chains.batches import random_batch
from chains.running import assert_as_on_cpu, run, run_compiled
from chains.steps import load, random_chain, stages_of

from dataflare.kernels.cuda.emulated import EmulatedBackend
from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.cuda.target import ComputeCapability
from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.program import build_program
from dataflare.testing import assert_batches_equal

CAPABILITIES: tuple[ComputeCapability, ...] = ((7, 5), (8, 0), (9, 0), (12, 0))
SMALL_ROWS = (0, 1, 7, 8, 31, 32, 33, 63, 64, 65, 255, 256, 257)
LARGE_ROWS = (SEGMENT_ROWS - 1, SEGMENT_ROWS, SEGMENT_ROWS + 1, 2 * SEGMENT_ROWS + 17)
LARGE_EVERY = 8  # chains: plain Python takes a while for some hundred rows


def batches(seed: int, first: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Return batches for a chain: its own, one without nulls, one with them."""
    yield first
    dice = random.Random(f"emulated {seed}")
    fields = [(field.name, field.type) for field in first.schema]
    for nulls in (False, True):
        lengths = LARGE_ROWS if nulls and seed % LARGE_EVERY == 0 else SMALL_ROWS
        yield random_batch(dice, fields, dice.choice(lengths), nulls=nulls)


def compare(seed: int, folder: Path) -> bool:
    """Run one chain on both devices and in plain Python; return False where it cannot be compiled."""
    chain, first = random_chain(seed)
    stages = stages_of(chain, load(chain.text, folder))
    backend = EmulatedBackend(capability=CAPABILITIES[seed % len(CAPABILITIES)], seed=seed)
    try:
        compiled = compile_cuda(build_program(stages, first.schema), backend)
    except CompileError as error:
        if "for every record" in str(error):  # conditions that happen to be constant
            return False
        raise
    for batch in batches(seed, first):
        made, expected = run_compiled(compiled, batch), run("python", stages, batch)
        assert_as_on_cpu(made, stages, batch)
        assert_batches_equal(made.batch, expected.batch, ulp=4, ulp_columns=sorted(chain.rough))
        assert made.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--part", default="1/1", help="which part of how many, such as 1/2")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    ran, refused, failed = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first + part - 1, options.end, parts):
            try:
                if compare(seed, Path(folder)):
                    ran += 1
                else:
                    refused += 1
            except Exception:
                failed.append(seed)
                sys.stdout.write(f"chain {seed} failed:\n{traceback.format_exc()}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{ran} chains agree, {refused} could not be compiled, {len(failed)} failed: {failed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
