"""Every small mistake in our kernels' PTX is found, by a check of the emulator or by what the kernels write.

Each kernel is run over a few batches with each mistake of ``ptx_gate.mutation``. A mistake counts as found if the
emulator reports it, if the result is not that of the CPU, or if anything else is written to the device's memory than
without it. `HARMLESS` says which ones change nothing, and why.

Not covered: mistakes in how values are computed, which are the generator's on every device.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.running import Outcome, run, run_compiled
from ptx_gate.mutation import OPERATORS, Mutant, mutants_of

from dataflare.kernels.backend import compile_program
from dataflare.kernels.cuda import filtering
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.copies import to_device, to_host
from dataflare.kernels.cuda.emulated import EmulatedBackend, EmulatedBlock
from dataflare.kernels.cuda.fused import CudaProgram, compile_cuda
from dataflare.kernels.cuda.primitives import SUM_THREADS, running_sum_kernel
from dataflare.kernels.cuda.ptx import KernelImage, image_of
from dataflare.kernels.cuda.resident import ResidentProgram
from dataflare.kernels.cuda.target import cuda_target
from dataflare.kernels.emulator.checks import Checks
from dataflare.kernels.emulator.launch import launch
from dataflare.kernels.emulator.memory import DeviceMemory
from dataflare.kernels.emulator.parser import parse
from dataflare.kernels.errors import DeviceFaultError, DeviceMemoryError, MemoryLimitError, OptionError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage, WithColumnsStage
from dataflare.testing import assert_batches_equal

STEP_LIMIT = 20_000
MEMORY_BYTES = 64 << 20
_parsed = lru_cache(maxsize=64)(parse)


class MutantBackend(EmulatedBackend):
    """An emulator that may run other PTX for an entry, and knows what was written in the last run and what never was.

    It has one block of threads, so that each of them works on several groups of rows of a small batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory = DeviceMemory(MEMORY_BYTES, track_uninitialised=True)
        self.resident_blocks = 1
        self.images: dict[str, KernelImage] = {}
        self.mutants: dict[str, str] = {}
        """What runs in the place of some PTX."""
        self.zeroing_left_out: int | None = None
        self.zeroings = 0
        self.most_zeroings = 0
        self.content: list[bytes] = []
        self._acquired: list[tuple[int, int]] = []

    def begin(self) -> None:
        """Forget the last run, and give its memory back, so that the next one cannot live on what is left there."""
        arena_of(self).release_idle()
        self.zeroings = 0
        self._acquired.clear()

    def load(self, image: KernelImage) -> KernelImage:  # type: ignore[override]
        name = image.entry
        while (
            self.images.setdefault(name, image).ptx != image.ptx
        ):  # of the strings that are chosen, and others
            name += "+"
        return image

    def acquire(self, nbytes: int) -> EmulatedBlock:
        block = super().acquire(nbytes)
        self._acquired.append((block.address, nbytes))
        return block

    def zero(self, address: int, nbytes: int, stream: Any) -> None:
        if self.zeroings != self.zeroing_left_out:
            super().zero(address, nbytes, stream)
        self.zeroings += 1
        self.most_zeroings = max(self.most_zeroings, self.zeroings)

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: bytes, stream: Any) -> None:
        module = _parsed(self.mutants.get(kernel.ptx, kernel.ptx))
        launch(
            module, kernel.entry, grid=(blocks,), block=(threads,), arguments=arguments, memory=self._memory,
            checks=Checks(global_races=True), step_limit=STEP_LIMIT,
        )  # fmt: skip

    def synchronize(self, stream: Any) -> None:
        self.content = [self._memory.view(address, nbytes).tobytes() for address, nbytes in self._acquired]


@dataclass(frozen=True)
class Case:
    """A program, the types of its columns, and its batches: rows, nulls in percent, first row of a slice."""

    stages: tuple[Stage, ...]
    columns: dict[str, pa.DataType]
    batches: tuple[tuple[int, int, int], ...]


CASES = {
    "filter": Case(
        (
            FilterStage(lambda r: r.k is None or r.k + r.x > 60),
            FilterStage(lambda r: r.x != 7),
            MapStage(lambda r: {"k": r.k, "q": r.q}),
        ),
        {"k": pa.int32(), "q": pa.bool_(), "x": pa.int8()},
        (
            (70, 30, 5), (70, 0, 3), (1, 0, 0), (513, 0, 0), (513, 30, 0), (1024, 30, 0), (1024, 0, 7),
            (4700, 3, 1), (4700, 0, 1),
        ),
    ),
    "bits": Case(
        (MapStage(lambda r: {"less": r.x < r.y, "sum": r.x + r.y, "not": not r.p}),),
        {"x": pa.float64(), "y": pa.float64(), "p": pa.bool_()},
        ((70, 30, 5), (70, 0, 3), (1, 0, 0), (65, 30, 0), (64, 0, 0), (64, 30, 0), (600, 30, 0), (600, 0, 1)),
    ),
    "groups": Case(
        (MapStage(lambda r: {"product": r.x * r.y}),),
        {"x": pa.float32(), "y": pa.float32()},
        ((70, 0, 4), (1, 0, 0), (64, 0, 0), (2100, 0, 0), (2307, 0, 8)),
    ),
}  # fmt: skip
ENTRIES = [
    ("filter", "dense_select"), ("filter", "dense_write"), ("filter", "nullable_select"), ("filter", "nullable_write"),
    ("bits", "dense"), ("bits", "nullable"), ("groups", "dense"),
]  # fmt: skip

GATHER_ENTRIES = (
    "kept_rows",
    "take3",
    "take_bits",
    "string_lengths",
    "string_lengths+",
    "copy_strings",
    "copy_strings+",
)

_SAME_GUARD = (
    "the loop over segments and that over their steps stop at the same row; one guard makes up for the other"
)
_LAST_STEP = "the last step of a segment begins 32 rows before its end, and each row has a guard of its own"
_SAME_BITS = "a union with the same bits once more, or with none, changes nothing"
_LARGER_PARTS = "each thread adds up more numbers, and fewer threads have any"
_NO_REST = "fewer rows are left over than there are threads, so that none takes a second one"

HARMLESS: tuple[tuple[str, str, str, str], ...] = (
    ("running_sum", "sum one too many", "add.s64 %rd, %rd, 1023; shr.u64", _LARGER_PARTS),
    ("running_sum", "shift too short", "shr.u64 %rd, %rd, 10; mul.lo.s64", _LARGER_PARTS),
    (
        "running_sum",
        "guard off by one",
        "setp.lt.u64 %p, %rd, 512; mov.b64",
        "no thread is 1024 before another",
    ),
    ("filter .*", "sum one too few", "add.s64 %rd, %rd, 512; min.u64", _LAST_STEP),
    ("filter .*", "guard off by one", "setp.le.u64 %p, %rd, %rd; .*", _SAME_GUARD),
    ("filter .*", "branch left out", "@%p bra $L__BB; shr.u64", _SAME_GUARD),
    ("filter dense_select", "nothing begins at one", "mov.b64 %rd, 0; @%p", _SAME_GUARD),
    ("filter .*_write", "sum one too many", "add.s64 %rd, %rd, 511; shr.u64", _SAME_GUARD),
    ("filter .*_write", "shift too short", "shr.u64 %rd, %rd, 9; shr.u64", _SAME_GUARD),
    ("filter .*_write", "guard off by one", "setp.ge.u64 %p, %rd, %rd; .*", _SAME_GUARD),
    ("filter .*_write", "guard off by one", "setp.lt.u64 %p, %rd, %rd; @%p", _SAME_GUARD),
    ("filter .*_write", "branch left out", "@%p bra $L__BB; mov.u32", _SAME_GUARD),
    ("filter .*_write", "condition turned round", "setp.ne.b32 %p, %r, 0; (bra.uni|selp.b32)", _SAME_BITS),
    ("filter .*_write", "branch turned round", "@%p bra $L__BB; (bra.uni|or.b32)", _SAME_BITS),
    (
        "filter .*_write",
        "branch left out",
        "@%p bra $L__BB; (bra.uni|or.b32|atom.global.or.b32|mov.b64)",
        _SAME_BITS,
    ),
    ("filter .*_write", "shift too short", "shr.u64 %rd, %rd, 32; setp.eq.b64", _SAME_BITS),
    ("groups dense", "guard off by one", "setp.lt.u64 %p, %rd, %rd; @%p", _NO_REST),
    ("groups dense", "branch left out", "@%p bra $L__BB; $L__BB:", _NO_REST),
)
"""Mistakes that change nothing: kernel, kind and place, of which only `.*` and `(|)` are patterns, and why."""


def reason_of(kernel: str, mutant: Mutant) -> str | None:
    """Return why a mistake changes nothing, or None if nobody has said that it does not."""
    for where, kind, place, reason in HARMLESS:
        # In a place, every sign but those of the two patterns stands for itself.
        pattern = re.sub(r"[\[\]$+]", r"\\\g<0>", place)
        if kind == mutant.kind and re.fullmatch(where, kernel) and re.fullmatch(pattern, mutant.place):
            return reason
    return None


def batches_of(case: Case) -> list[pa.RecordBatch]:
    found = []
    for seed, (rows, percent, first) in enumerate(case.batches):
        rng = np.random.default_rng(seed)
        columns = {}
        for name, data_type in case.columns.items():
            count = rows + first
            values = (
                rng.random(count) < 0.5
                if data_type == pa.bool_()
                else rng.integers(0, 100, count).astype(float)
            )
            array = pa.array(values, mask=rng.random(count) * 100 < percent)
            columns[name] = array if data_type == pa.bool_() else array.cast(data_type)
        found.append(pa.record_batch(columns).slice(first))
    return found


class Battery:
    """The batches of a case, what becomes of them on the CPU, and what is written on the device."""

    def __init__(self, case: Case) -> None:
        self.backend = MutantBackend()
        self.batches = batches_of(case)
        self.program: CudaProgram = compile_cuda(
            build_program(case.stages, self.batches[0].schema), self.backend
        )
        self.expected = [run("cpu", case.stages, batch) for batch in self.batches]
        self.written: list[list[bytes]] = []
        for batch, expected in zip(self.batches, self.expected, strict=True):
            _assert_same(self._run(batch), expected)
            self.written.append(self.backend.content)

    def _run(self, batch: pa.RecordBatch) -> Outcome:
        self.backend.begin()
        return run_compiled(self.program, batch)

    def verdict(self) -> str | None:
        """Return how the batches show that something is wrong, or None if they do not."""
        for batch, expected, written in zip(self.batches, self.expected, self.written, strict=True):
            try:
                _assert_same(self._run(batch), expected)
            except DeviceFaultError as fault:
                return f"fault: {fault.check}"
            except (
                AssertionError,
                pa.ArrowInvalid,
                MemoryLimitError,
            ):  # the last for a count beyond all reason
                return "wrong result"
            if self.backend.content != written:
                return "stray store"
        return None

    def with_mutant(self, entry: str, mutant: Mutant) -> str | None:
        """Return how a mistake in a kernel shows, or None if it does not."""
        self.backend.mutants = {self.backend.images[entry].ptx: mutant.ptx}
        try:
            return self.verdict()
        finally:
            self.backend.mutants = {}


def _assert_same(outcome: Outcome, expected: Outcome) -> None:
    assert_batches_equal(outcome.batch, expected.batch)
    assert outcome.rows_dropped_null_predicate == expected.rows_dropped_null_predicate


class SumBattery:
    """Numbers, their running sums, and how a mistake in the kernel that makes them shows."""

    entry = "running_sum"

    def __init__(self) -> None:
        kernel = running_sum_kernel(cuda_target((8, 0)))
        self.image = image_of(kernel, cuda_target((8, 0)))
        rng = np.random.default_rng(1)
        self.numbers = [
            rng.integers(0, 513, count) for count in (1, 40, SUM_THREADS, SUM_THREADS + 1, 2500, 0)
        ]
        assert self.verdict(self.image.ptx) is None

    def verdict(self, ptx: str) -> str | None:
        """Return how some PTX shows that it is wrong, or None if it does not."""
        module = _parsed(ptx)
        for numbers in self.numbers:
            memory = DeviceMemory(MEMORY_BYTES, track_uninitialised=True)
            place, total = memory.alloc(max(1, numbers.nbytes)), memory.alloc(8)
            memory.copy_in(place, numbers)
            try:
                launch(
                    module, self.entry, grid=(1,), block=(SUM_THREADS,), arguments=_slots(len(numbers), place, total),
                    memory=memory, checks=Checks(global_races=True), step_limit=STEP_LIMIT,
                )  # fmt: skip
            except DeviceFaultError as fault:
                return f"fault: {fault.check}"
            sums = np.concatenate([[0], np.cumsum(numbers)])
            made = memory.copy_out(place, numbers.nbytes).view(np.int64)
            if not (made == sums[:-1]).all() or memory.copy_out(total, 8).view(np.int64)[0] != sums[-1]:
                return "wrong result"
        return None


class GatherBattery:
    """A filter over columns that lie on the device, and how mistakes show in the kernels that gather what it keeps.

    The columns are of all kinds that programs do not write themselves: strings, carried and chosen, and values of
    odd widths.
    """

    def __init__(self) -> None:
        self.backend = MutantBackend()
        batches = [_text_batch(*shape) for shape in ((70, 30, 5), (33, 0, 0), (1, 0, 0), (790, 20, 3))]
        self.program = build_program(
            [
                FilterStage(lambda r: r.i % 3 != 1),
                WithColumnsStage(lambda r: {"c": r.s if r.i % 2 == 0 else "either" if r.i % 5 == 0 else r.t}),
            ],
            batches[0].schema,
        )
        self.resident = ResidentProgram(compile_cuda(self.program, self.backend), self.backend)
        self.given = [
            [column.slice(first, rows) for column in self._on_device(batch)]
            for batch, (first, rows) in ((batch, (0, batch.num_rows)) for batch in batches)
        ]
        on_cpu = compile_program(self.program)
        self.expected = [run_compiled(on_cpu, batch).batch for batch in batches]
        self.written: list[list[bytes]] = []
        for number in range(len(batches)):
            assert_batches_equal(self._run(number), self.expected[number])
            self.written.append(self.backend.content)

    def _on_device(self, batch: pa.RecordBatch) -> list[Any]:
        return to_device(
            [HostColumn.from_arrow(batch.column(name)) for name in self.program.required_columns],
            self.backend,
        )

    def _run(self, number: int) -> pa.RecordBatch:
        self.backend.begin()
        columns = self.given[number]
        made = self.resident.run(columns, columns[0].length)
        content = self.backend.content
        arrays = [column.to_arrow() for column in to_host(made.columns)]
        self.backend.content = content
        return pa.RecordBatch.from_arrays(arrays, schema=self.program.output_schema)

    def with_mutant(self, entry: str, mutant: Mutant) -> str | None:
        """Return how a mistake in a kernel shows, or None if it does not."""
        self.backend.mutants = {self.backend.images[entry].ptx: mutant.ptx}
        try:
            for number, expected in enumerate(self.expected):
                try:
                    found = self._run(number)
                    found.validate(full=True)
                    assert_batches_equal(found, expected)
                except DeviceFaultError as fault:
                    return f"fault: {fault.check}"
                except (AssertionError, pa.ArrowInvalid, DeviceMemoryError, MemoryLimitError, OptionError):
                    return "wrong result"
                if self.backend.content != self.written[number]:
                    return "stray store"
        finally:
            self.backend.mutants = {}
        return None


def _text_batch(rows: int, percent: int, first: int) -> pa.RecordBatch:
    rng = np.random.default_rng(rows)
    count = rows + first

    def texts(most: int) -> pa.Array[Any]:
        found = ["".join(rng.choice(list("aé☃z"), rng.integers(0, most))) for _ in range(count)]
        return pa.array(found, mask=rng.random(count) * 100 < percent)

    columns = {"i": pa.array(range(count)), "s": texts(9), "t": texts(36)}
    columns["b"] = pa.array(rng.choice([b"abc", b"xyz"], count), mask=rng.random(count) * 100 < percent)
    columns["b"] = columns["b"].cast(pa.binary(3))
    return pa.record_batch(columns).slice(first)


def _slots(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


@lru_cache(maxsize=1)
def gather_battery() -> GatherBattery:
    return GatherBattery()


@lru_cache(maxsize=4)
def battery(name: str) -> Battery:
    return Battery(CASES[name])


def judged(kernel: str, mutants: Sequence[Mutant], verdict: Callable[[Mutant], str | None]) -> Counter[str]:
    """Return how often mistakes showed in each way; each must, but those that are known to be harmless."""
    found: Counter[str] = Counter()
    survivors = []
    for mutant in mutants:
        shown = verdict(mutant)
        if shown is None and (reason := reason_of(kernel, mutant)) is None:
            survivors.append(str(mutant))
        found[shown or f"harmless: {reason}"] += 1
    assert not survivors, f"not found in {kernel}:\n" + "\n".join(survivors)
    return found


def one_of_each_kind(kernel: str, mutants: Iterable[Mutant]) -> list[Mutant]:
    """Return the first mistake of each kind that is not harmless."""
    found: dict[str, Mutant] = {}
    for mutant in mutants:
        if reason_of(kernel, mutant) is None:
            found.setdefault(mutant.kind, mutant)
    return list(found.values())


@pytest.mark.parametrize(("name", "entry"), ENTRIES[2:], ids=lambda part: part)
def test_a_mistake_of_each_kind_is_found(name: str, entry: str) -> None:
    made = battery(name)
    mutants = one_of_each_kind(f"{name} {entry}", mutants_of(made.backend.images[entry].ptx))
    assert len(mutants) >= 6
    judged(f"{name} {entry}", mutants, lambda mutant: made.with_mutant(entry, mutant))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "entry", "least"), [
    (*ENTRIES[0], 60), (*ENTRIES[1], 100), (*ENTRIES[2], 85), (*ENTRIES[3], 200), (*ENTRIES[4], 45), (*ENTRIES[5], 90),
    (*ENTRIES[6], 22),
])  # fmt: skip
def test_every_mistake_is_found(name: str, entry: str, least: int) -> None:
    made = battery(name)
    mutants = list(mutants_of(made.backend.images[entry].ptx))
    assert len(mutants) >= least
    judged(f"{name} {entry}", mutants, lambda mutant: made.with_mutant(entry, mutant))


def test_every_mistake_in_the_running_sum_is_found() -> None:
    made = SumBattery()
    mutants = list(mutants_of(made.image.ptx))
    assert len(mutants) >= 50
    found = judged("running_sum", mutants, lambda mutant: made.verdict(mutant.ptx))
    assert found["fault: race"] >= 3  # its barriers


@pytest.mark.slow
@pytest.mark.parametrize("entry", GATHER_ENTRIES)
def test_every_mistake_in_what_gathers_is_found(entry: str) -> None:
    made = gather_battery()
    mutants = list(mutants_of(made.backend.images[entry].ptx))
    assert len(mutants) >= 10
    judged(entry, mutants, lambda mutant: made.with_mutant(entry, mutant))


@pytest.mark.parametrize("name", ["filter", "bits"])
def test_zeros_that_are_left_out_are_found(name: str) -> None:
    made = battery(name)
    assert made.backend.most_zeroings
    for number in range(made.backend.most_zeroings):
        made.backend.zeroing_left_out = number
        try:
            assert made.verdict() is not None, number
        finally:
            made.backend.zeroing_left_out = None


@pytest.mark.parametrize("rows", [256, 1024])
def test_segments_of_another_size_than_the_host_thinks_are_found(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Battery(CASES["filter"])
    monkeypatch.setattr(filtering, "SEGMENT_ROWS", rows)
    made.program = compile_cuda(made.program.program, made.backend)
    assert made.verdict() is not None


def test_every_kind_of_mistake_is_made() -> None:
    texts = [battery(name).backend.images[entry].ptx for name, entry in ENTRIES]
    made = {mutant.kind for text in [*texts, SumBattery().image.ptx] for mutant in mutants_of(text)}
    assert made == {kind for kind, _ in OPERATORS}


def test_the_batteries_find_nothing_where_nothing_is_wrong() -> None:
    for name in CASES:
        assert battery(name).verdict() is None
