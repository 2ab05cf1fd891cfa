"""Random chains on guarded memory: nothing is touched that no buffer holds, nothing traps, for CPUs of every level.

They run in a process of their own, which a fault ends. Code that is broken on purpose shows that faults are noticed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory")
TESTS = Path(__file__).resolve().parents[1]


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python where it finds the chains."""
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(TESTS)])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def run_chains(first: int, end: int) -> None:
    done = python("-m", "chains.guarded", str(first), str(end))
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"{last} ended with {done.returncode}:\n{done.stderr}"
    assert last == ["done"]


def test_random_chains_stay_inside_their_memory() -> None:
    run_chains(0, 8)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(8, 208, 50))
def test_many_random_chains_stay_inside_their_memory(first: int) -> None:
    run_chains(first, first + 50)


PROGRAM = """
import pyarrow as pa
from chains.guarded import target_of
from chains.running import compiled_for, run_compiled
from dataflare.kernels.cpu import codegen
from dataflare.kernels.guarded import GuardedProgram
from dataflare.kernels.llvm import floor_division
from dataflare.kernels.udf import arithmetic
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import MapStage
{mutation}
def quotient(r):
    if r.y != 0:
        return {{"z": (r.x // r.y if r.p else r.x)}}
    return {{"z": 0}}
big = 2**62
x = [big + row for row in range(64)]
batch = pa.record_batch({{"x": x, "y": [row % 3 for row in range(64)], "p": [True] * 64}})
program = build_program([MapStage(quotient)], batch.schema)
made = run_compiled(GuardedProgram(compiled_for(program, target_of("host")), "end"), batch)
assert made.batch.column(0).to_pylist() == [v // (k % 3) if k % 3 else 0 for k, v in enumerate(x)]
"""
BITS_WITHOUT_MARGIN = "codegen._Function._reads_bits = lambda self: False"
A_GROUP_TOO_MANY = """
rows_loop = codegen._Function._rows_loop
def too_far(self, stem, lanes, first, end, tile):
    if stem == "vector":
        end = self.code.value(f"add i64 {end}, {lanes}")
    return rows_loop(self, stem, lanes, first, end, tile)
codegen._Function._rows_loop = too_far
"""
STORED_TOO_FAR = """
store_vector = codegen.store.store_vector
def twice(emitter, value, element, base, index, *, streaming):
    store_vector(emitter, value, element, base, index, streaming=streaming)
    later = emitter.code.value(f"add i64 {index}, 17")
    store_vector(emitter, value, element, base, later, streaming=False)
codegen.store.store_vector = twice
"""
DIVIDED_UNMASKED = """
from dataflare.kernels.llvm import emit
divide = emit.floor_division
def unmasked(emitter, node, x, y):
    [divisor] = [a for a in [node.args[1]] if a.op == "select"]
    return divide(emitter, node, x, emitter.emit(divisor.args[2]))
emit.floor_division = unmasked
"""


@pytest.mark.parametrize(
    ("mutation", "ended_by"),
    [
        ("", 0),
        (BITS_WITHOUT_MARGIN, signal.SIGSEGV),
        (A_GROUP_TOO_MANY, signal.SIGSEGV),
        (STORED_TOO_FAR, signal.SIGSEGV),
        (DIVIDED_UNMASKED, signal.SIGFPE),
    ],
    ids=["sound", "bits without margin", "a group too many", "stored too far", "divided unmasked"],
)
def test_broken_code_is_noticed(mutation: str, ended_by: int) -> None:
    done = python("-X", "faulthandler", "-c", PROGRAM.format(mutation=mutation), DATAFLARE_GUARD_MEMORY="end")
    assert done.returncode == -ended_by, done.stderr
    assert ended_by == 0 or "run_compiled" in done.stderr
