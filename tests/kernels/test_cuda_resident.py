"""Programs over columns that lie on the (emulated) device: the same rows as on the CPU, and nothing copied between."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pyarrow as pa
import pytest
from chains.batches import random_batch
from chains.faulty import FaultyBackend
from chains.guarded import batches
from chains.steps import load, random_chain, stages_of

from dataflare.kernels.backend import compile_program
from dataflare.kernels.cuda.arena import arena_of
from dataflare.kernels.cuda.column import DeviceColumn
from dataflare.kernels.cuda.copies import to_device, to_host
from dataflare.kernels.cuda.emulated import EmulatedBackend
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.cuda.resident import ResidentProgram
from dataflare.kernels.errors import DeviceMemoryError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, WithColumnsStage
from dataflare.testing import assert_batches_equal

TYPES = [
    *(pa.bool_(), pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.float16(), pa.float32(), pa.float64()),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())),
    *(pa.date32(), pa.timestamp("us", "UTC"), pa.decimal128(12, 2)),
]
OTHERS = {
    "binary": pa.array([b"ab", None, b"", b"xyz" * 9] * 5),
    "large_binary": pa.array([b"ab", None, b"", b"xyz" * 9] * 5, pa.large_binary()),
    "binary_view": pa.array([b"ab", None, b"", b"xyz" * 9] * 5, pa.binary_view()),
    "fixed": pa.array([b"abc", None, b"def", b"xyz"] * 5, pa.binary(3)),
    "decimal256": pa.array([1, None, 3, 4] * 5, pa.decimal256(40, 0)),
    "interval": pa.array([(1, 2, 3), None, (0, 0, 1), (4, 4, 4)] * 5, pa.month_day_nano_interval()),
    "list": pa.array([[1], None, [], [2, 3]] * 5),
    "struct": pa.array([{"a": 1}, None, {"a": None}, {"a": 4}] * 5),
    "null": pa.nulls(20),
    "numbers": pa.array([1, 2, None, 3] * 5).dictionary_encode(),
}


@pytest.fixture
def backend() -> EmulatedBackend:
    return EmulatedBackend(1 << 26)


def on_device(batch: pa.RecordBatch, backend: EmulatedBackend) -> dict[str, DeviceColumn | HostColumn]:
    columns = [HostColumn.from_arrow(column) for column in batch.columns]
    return dict(zip(batch.schema.names, to_device(columns, backend), strict=True))


def to_batch(schema: pa.Schema, columns: list[DeviceColumn | HostColumn]) -> pa.RecordBatch:
    arrays = [column.to_arrow() for column in to_host(columns)]
    for array in arrays:
        array.validate(full=True)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def numbered(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with the numbers of its rows as first column."""
    numbers = pa.array(range(batch.num_rows))
    return pa.RecordBatch.from_arrays([numbers, *batch.columns], names=["i", *batch.schema.names])


def agree(stages: list, batch: pa.RecordBatch, backend: EmulatedBackend, part: slice = slice(None)) -> int:
    """Run both ways over rows of a batch; return how many rows come out."""
    program = build_program(stages, batch.schema)
    start, stop, _ = part.indices(batch.num_rows)
    rows = stop - start
    given = on_device(batch, backend)
    resident = ResidentProgram(compile_cuda(program, backend), backend)
    made = resident.run([given[name].slice(start, rows) for name in program.required_columns], rows)
    host = [HostColumn.from_arrow(batch.column(name)).slice(start, rows) for name in program.required_columns]
    expected = compile_program(program).run(host, rows)
    assert made.num_rows == expected.num_rows
    assert made.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
    assert_batches_equal(
        to_batch(program.output_schema, list(made.columns)),
        to_batch(program.output_schema, list(expected.columns)),
    )
    return made.num_rows


@pytest.mark.parametrize("data_type", TYPES, ids=str)
@pytest.mark.parametrize("nulls", [True, False])
def test_columns_come_back_as_they_went_slices_included(data_type, nulls, backend):
    batch = random_batch(random.Random(5), [("x", data_type)], 150, nulls=nulls)
    (column,) = on_device(batch, backend).values()
    assert isinstance(column, DeviceColumn)
    assert column.null_count == batch.column(0).null_count
    for start, length in [(0, 150), (1, 149), (13, 30), (64, 64), (150, 0), (7, 0)]:
        part = column.slice(start, length)
        expected = batch.column(0).slice(start, length)
        found = part.to_arrow()
        found.validate(full=True)
        assert found.equals(expected), (start, length)
        assert part.null_count == expected.null_count
        assert to_device([part.to_host()], backend)[0].to_arrow().equals(expected)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("keep", [None, 3, 0])
def test_columns_that_no_function_reads_are_carried(name, keep, backend):
    array = OTHERS[name]
    batch = pa.record_batch({"i": pa.array(range(20)), "x": array})
    stage = (
        WithColumnsStage(lambda r: {"j": r.i + 1}) if keep is None else FilterStage(lambda r: r.i % 4 < keep)
    )
    for part in (slice(None), slice(3, 18)):
        agree([stage], batch, backend, part)
    column = on_device(batch, backend)["x"]
    assert column.to_arrow().equals(array)
    assert isinstance(column, DeviceColumn) == (name not in ("list", "struct", "null"))


@pytest.mark.parametrize("data_type", TYPES, ids=str)
@pytest.mark.parametrize("nulls", [True, False])
def test_a_filter_takes_along_columns_of_every_type(data_type, nulls, backend):
    batch = numbered(random_batch(random.Random(11), [("x", data_type)], 1500, nulls=nulls))
    for part, kept in ((slice(None), 500), (slice(5, 1499), 498), (slice(0, 0), 0), (slice(3, 4), 1)):
        assert agree([FilterStage(lambda r: r.i % 3 == 0)], batch, backend, part) == kept
    assert agree([FilterStage(lambda r: r.i < 0)], batch, backend) == 0
    assert agree([FilterStage(lambda r: r.i >= 0)], batch, backend) == 1500


STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


def text_batch(data_type: pa.DataType, *, nulls: bool) -> pa.RecordBatch:
    fields = [("s", data_type), ("t", data_type), ("u", pa.string())]
    return numbered(random_batch(random.Random(9), fields, 700, nulls=nulls))


@pytest.mark.parametrize(
    ("data_type", "nulls"), [*((each, True) for each in STRINGS), (pa.string(), False)], ids=str
)
def test_strings_are_chosen_and_compared_where_they_lie(data_type, nulls, backend):
    batch = text_batch(data_type, nulls=nulls)

    def chosen(r):
        return {"x": r.s if r.i % 2 == 0 else "none at all" if r.i % 3 == 0 else r.t}

    def compared(r):
        return {"same": r.s == r.t, "size": len(r.s), "of": r.s == "ab", "u": r.u if r.s < "b" else None}

    agree([MapStage(chosen)], batch, backend, slice(3, 671))
    agree([MapStage(compared)], batch, backend)
    agree([FilterStage(lambda r: r.i % 5 != 0), MapStage(chosen)], batch, backend)
    agree([FilterStage(lambda r: r.s > "a"), MapStage(compared)], batch, backend, slice(3, 671))
    agree([WithColumnsStage(lambda r: {"c": "one" if r.i % 2 == 0 else "two"})], batch, backend)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 28))]
)
def test_random_chains_agree_with_the_cpu(seed: int, backend: EmulatedBackend, tmp_path: Path) -> None:
    chain, first = random_chain(seed)
    stages = stages_of(chain, load(chain.text, tmp_path))
    for batch in batches(seed, first):
        agree(stages, batch, backend)
        agree(stages, batch, backend, slice(min(3, batch.num_rows), None))


@pytest.mark.parametrize("start", [0, 1, 2, 3, 8])
def test_slices_that_begin_anywhere_are_read_where_they_begin(start, backend):
    values = pa.array(range(500))
    batch = pa.record_batch(
        {"a": values.cast(pa.int8(), safe=False), "f": values.cast(pa.float32()), "d": values}
    )
    assert (
        agree([MapStage(lambda r: {"x": r.f * 2, "y": r.a + r.d})], batch, backend, slice(start, 497))
        == 497 - start
    )


def test_steps_follow_each_other_without_copies_of_columns(backend, monkeypatch):
    batch = text_batch(pa.string(), nulls=True)
    steps = [
        [FilterStage(lambda r: r.i % 2 == 0)],
        [WithColumnsStage(lambda r: {"j": r.i * 2, "long": r.s if len(r.s) > 3 else "short"})],
        [FilterStage(lambda r: r.j > 0)],
    ]
    given = list(on_device(batch, backend).values())
    moved = []
    upload, download = backend.upload, backend.download
    monkeypatch.setattr(backend, "upload", lambda *a: (moved.append(a[2]), upload(*a)))
    monkeypatch.setattr(backend, "download", lambda *a: (moved.append(a[2]), download(*a)))
    schema, rows = batch.schema, batch.num_rows
    for stages in steps:
        program = build_program(stages, schema)
        columns = dict(zip(schema.names, given, strict=True))
        resident = ResidentProgram(compile_cuda(program, backend), backend)
        given, rows, _ = resident.run([columns[name] for name in program.required_columns], rows)
        schema = program.output_schema
    assert rows == 349
    assert max(moved) <= 64, "only counts and literals"
    monkeypatch.undo()
    whole = compile_program(build_program([stage for stages in steps for stage in stages], batch.schema))
    columns = [HostColumn.from_arrow(batch.column(name)) for name in whole.program.required_columns]
    expected = whole.run(columns, batch.num_rows)
    assert_batches_equal(to_batch(schema, list(given)), to_batch(schema, list(expected.columns)))


def test_memory_goes_when_nobody_holds_the_columns(backend):
    batch = text_batch(pa.string(), nulls=True)
    given = on_device(batch, backend)
    program = build_program([FilterStage(lambda r: r.i % 2 == 0)], batch.schema)
    resident = ResidentProgram(compile_cuda(program, backend), backend)
    columns = [given[name] for name in program.required_columns]
    resident.run(columns, batch.num_rows)  # loads kernels, whose constants stay
    free = backend.memory().free_bytes
    result = resident.run(columns, batch.num_rows)
    tail = result.columns[1].slice(10, 20)
    expected = result.columns[1].to_arrow().slice(10, 20)
    assert backend.memory().free_bytes < free
    del result
    assert tail.to_arrow().equals(expected)
    del tail
    assert backend.memory().free_bytes == free


def test_a_step_that_fails_waits_for_what_it_began(backend, monkeypatch):
    """Only then may others have its memory."""
    batch = pa.record_batch({"x": pa.array([1.0, 2.0, 3.0])})
    program = build_program([FilterStage(lambda r: r.x > 1)], batch.schema)
    columns = list(on_device(batch, backend).values())
    calls = []
    launch = backend.launch

    def once(*args):
        calls.append("launch")
        if len(calls) > 1:
            raise DeviceMemoryError("full")
        launch(*args)

    monkeypatch.setattr(backend, "launch", once)
    monkeypatch.setattr(backend, "synchronize", lambda stream: calls.append("wait"))
    with pytest.raises(DeviceMemoryError):
        ResidentProgram(compile_cuda(program, backend), backend).run(columns, 3)
    assert calls[-2:] == ["launch", "wait"]


STEPS = {
    "filter": [FilterStage(lambda r: r.i % 3 != 0 and r.s != "ab")],
    "map": [
        WithColumnsStage(lambda r: {"j": r.i * 2, "c": r.s if r.i % 2 == 0 else "other", "long": len(r.t)})
    ],
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("call", ["acquire", "load", "upload", "zero", "launch", "download", "synchronize"])
def test_a_device_that_is_full_anywhere_in_a_step_is_tried_again(name: str, call: str) -> None:
    batch = text_batch(pa.string(), nulls=True).slice(0, 90)
    program = build_program(STEPS[name], batch.schema)
    host = [HostColumn.from_arrow(batch.column(name)) for name in program.required_columns]
    expected = compile_program(program).run(host, 90)
    backend = FaultyBackend()
    given = on_device(batch, backend)
    columns = [given[name] for name in program.required_columns]
    resident = ResidentProgram(compile_cuda(program, backend), backend)

    def calls_of_a_step(failing: int | None) -> int:
        before = backend.calls[call]
        if failing is not None:
            place = (call, before + failing)
            backend.fails = lambda *called: DeviceMemoryError("full") if called == place else None
        made = resident.run(columns, 90)
        asked = backend.calls[call] - before
        assert_batches_equal(
            to_batch(program.output_schema, list(made.columns)),
            to_batch(program.output_schema, list(expected.columns)),
        )
        return asked

    if call == "load":  # which comes once
        calls_of_a_step(1)
        return
    calls_of_a_step(None)
    calls = calls_of_a_step(None)
    waits = int(call == "synchronize")  # for what it had begun
    for number in range(1, calls + 1):
        assert calls_of_a_step(number) == calls + number + waits


def test_a_step_that_does_not_fit_names_the_function_the_bytes_and_a_way_out() -> None:
    batch = text_batch(pa.string(), nulls=True)
    program = build_program(STEPS["filter"], batch.schema)
    backend = FaultyBackend(memory_bytes=130_000)
    given = on_device(batch, backend)
    resident = ResidentProgram(compile_cuda(program, backend), backend)
    columns = [given[name] for name in program.required_columns]
    resident.run(columns, batch.num_rows)
    free_bytes = backend.memory().free_bytes
    hog = backend.acquire(free_bytes - 1_000)
    with pytest.raises(DeviceMemoryError) as caught:
        resident.run(columns, batch.num_rows)
    message = str(caught.value)
    assert re.search(r"lambda \(.*test_cuda_resident.py:\d+\) over 700 records", message)
    assert re.search(r"does not fit cuda:emulated.*: .*\d+ bytes were asked for, \d+ of 130000", message)
    assert "slices of this one, or take it to_host()" in message
    del caught, hog
    assert resident.run(columns, batch.num_rows).num_rows  # what has failed holds nothing
    assert backend.memory().free_bytes == free_bytes


def test_memory_that_programs_keep_makes_room_for_a_step() -> None:
    batch = text_batch(pa.string(), nulls=True)
    backend = FaultyBackend(memory_bytes=250_000)
    program = build_program(STEPS["filter"], batch.schema)
    given = on_device(batch, backend)
    compiled = compile_cuda(program, backend)
    idle = arena_of(backend).acquire(150_000)
    del idle
    resident = ResidentProgram(compiled, backend)
    kept = resident.run([given[name] for name in program.required_columns], batch.num_rows)
    hog = backend.acquire(backend.memory().free_bytes - 1_000)
    assert arena_of(backend).idle_bytes >= 150_000
    again = resident.run([given[name] for name in program.required_columns], batch.num_rows)
    assert again.num_rows == kept.num_rows
    assert arena_of(backend).idle_bytes == 0
    del hog
