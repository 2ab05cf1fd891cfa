"""What of a batch is copied to a device, and where results lie: what the rows need, and nothing on top of another."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.faulty import FaultyBackend
from chains.running import run_compiled

from dataflare.kernels.backend import compile_program
from dataflare.kernels.cuda.copies import to_device, to_host
from dataflare.kernels.cuda.device import Stretch
from dataflare.kernels.cuda.emulated import EmulatedBackend
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.cuda.launching import launcher_of
from dataflare.kernels.cuda.placing import ResultPlaces
from dataflare.kernels.cuda.resident import ResidentProgram
from dataflare.kernels.llvm.layout import OutputLayout
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import Output, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage
from dataflare.testing import assert_batches_equal

ROWS = 20_000
_TEXT = [f"text {i} " + "x" * (i % 50) for i in range(ROWS)]


class Counting(EmulatedBackend):
    """An emulator that counts the bytes that go up."""

    def __init__(self) -> None:
        super().__init__()
        self.uploaded_bytes = 0

    def upload(self, address: int, host_address: int, nbytes: int, stream: Any) -> None:
        self.uploaded_bytes += nbytes
        super().upload(address, host_address, nbytes, stream)


COLUMNS: dict[str, tuple[pa.Array[Any], int]] = {
    "values": (pa.array(range(ROWS), pa.int64()), 8),
    "bits": (pa.array([i % 3 == 0 for i in range(ROWS)]), 1),
    "offsets": (pa.array(_TEXT), 4 + 60),
    "large offsets": (pa.array(_TEXT, pa.large_string()), 8 + 60),
    "views": (pa.array(_TEXT, pa.string_view()), 16 + 60),
    "views of two buffers": (
        pa.concat_arrays(
            [pa.array(_TEXT[:9_900], pa.string_view()), pa.array(_TEXT[9_900:], pa.string_view())]
        ),
        16 + 60,
    ),
}  # each with the most bytes that a row takes
COLUMNS |= {
    f"{name} with nulls": (
        pa.array([None if i % 5 == 0 else value for i, value in enumerate(array.to_pylist())], array.type),
        row_bytes,
    )
    for name, (array, row_bytes) in COLUMNS.items()
    if "two" not in name
}


def _read(r: Any) -> Any:
    return {"found": r.x == "text 10003 xxx" or r.x is None}


def _stages(array: pa.Array[Any]) -> list[Stage]:
    if pa.types.is_boolean(array.type) or pa.types.is_integer(array.type):
        return [MapStage(lambda r: {"found": not r.x or r.x is None})]
    return [MapStage(_read)]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("start", [0, 9_997, ROWS - 203])
def test_a_slice_moves_what_its_rows_refer_to(name: str, start: int) -> None:
    array, row_bytes = COLUMNS[name]
    batch = pa.record_batch({"x": array}).slice(start, 203)
    backend = Counting()
    program = build_program(_stages(array), batch.schema)
    found = run_compiled(compile_cuda(program, backend), batch)
    assert_batches_equal(found.batch, run_compiled(compile_program(program), batch).batch)
    assert 0 < backend.uploaded_bytes <= 203 * row_bytes + 2 * 32 + 16


@pytest.mark.parametrize("start", range(8))
def test_a_bitmap_that_begins_inside_a_byte_does_not_reach_into_the_values(start: int) -> None:
    rows = 2048  # 256 bytes of bits, which is what is aligned to, and one more where they begin inside a byte
    numbers = pa.array([None if i % 3 == 0 else i for i in range(rows + 8)], pa.int64())
    batch = pa.record_batch({"x": numbers, "y": numbers}).slice(start, rows)
    program = build_program([MapStage(lambda r: {"z": r.x * 3 + r.y})], batch.schema)
    found = run_compiled(compile_cuda(program, EmulatedBackend()), batch)
    expected = [None if i % 3 == 0 else 4 * i for i in range(start, start + rows)]
    assert found.batch["z"].to_pylist() == expected


def test_views_under_nulls_may_point_anywhere() -> None:
    array = pa.array([None if i % 2 else text for i, text in enumerate(_TEXT)], pa.string_view())
    validity, views, *texts = array.buffers()
    wild = np.frombuffer(views, "<i4").reshape(-1, 4).copy()
    wild[1::2] = (1 << 30, 7, 99, -5)
    array = pa.Array.from_buffers(array.type, ROWS, [validity, pa.py_buffer(wild), *texts])
    batch = pa.record_batch({"x": array}).slice(500, 100)
    program = build_program([MapStage(_read)], batch.schema)
    found = run_compiled(compile_cuda(program, EmulatedBackend()), batch)
    assert found.batch["found"].to_pylist() == [i % 2 == 1 for i in range(500, 600)]


@pytest.mark.parametrize("index_type", [pa.int8(), pa.uint16(), pa.int32(), pa.int64()], ids=str)
@pytest.mark.parametrize("nulls", [True, False])
def test_a_filter_moves_the_indices_of_dictionaries(index_type: pa.DataType, nulls: bool) -> None:
    """None of the columns is left to the host: whoever is kept is not even copied back."""
    texts = [None if nulls and i % 7 == 0 else f"kind {i % 5}" for i in range(700)]
    read = pa.array(texts).dictionary_encode().cast(pa.dictionary(index_type, pa.string()))
    floats = pa.array([i % 3 / 2 for i in range(700)]).dictionary_encode()
    null_entry = pa.DictionaryArray.from_arrays(pa.array([i % 2 for i in range(700)]), pa.array([None, "b"]))
    batch = pa.record_batch({"i": range(700), "d": read, "f": floats, "n": null_entry}).slice(3)
    stages: list[Stage] = [FilterStage(lambda r: r.i % 3 != 0 and (r.d is None or r.d != "kind 2"))]
    program = build_program(stages, batch.schema)
    backend = FaultyBackend()
    compiled = compile_cuda(program, backend)
    expected = run_compiled(compile_program(program), batch)
    found = run_compiled(compiled, batch)
    assert_batches_equal(found.batch, expected.batch)
    assert found.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
    assert compiled._nullable._layout.selection is None
    columns = [HostColumn.from_arrow(batch.column(name)) for name in program.required_columns]
    resident = ResidentProgram(compiled, backend).run(to_device(columns, backend), batch.num_rows)
    arrays = [column.to_arrow() for column in to_host(resident.columns)]
    assert_batches_equal(pa.RecordBatch.from_arrays(arrays, schema=batch.schema), expected.batch)


def test_a_dictionary_that_is_compared_with_a_column_is_left_to_the_host() -> None:
    column = pa.array(["a", "b", None, "c"]).dictionary_encode()
    batch = pa.record_batch({"d": column, "s": pa.array(["a", "x", "y", None])})
    program = build_program([FilterStage(lambda r: r.d == r.s)], batch.schema)
    found = run_compiled(compile_cuda(program, FaultyBackend()), batch)
    assert_batches_equal(found.batch, run_compiled(compile_program(program), batch).batch)
    assert found.batch.to_pylist() == [{"d": "a", "s": "a"}]


def outputs(kinds: str) -> list[OutputLayout]:
    """Return results: of bits, or of values of so many bytes; a capital or a sign says that there is validity."""
    widths = {"b": 0, "c": 1, "h": 2, "i": 4, "q": 8, "w": 16}
    made = Output("x", pa.int8())
    return [OutputLayout(made, 0, widths[k.lower()], 0 if k.isupper() else None, k.isupper()) for k in kinds]


@pytest.mark.parametrize("kinds", ["q", "b", "Q", "B", "cBhQiWbqC", "bbbb", "QQQQ", ""])
@pytest.mark.parametrize("rows", [0, 1, 7, 64, 511, 512, 513, 100_000])
def test_results_lie_beside_each_other(kinds: str, rows: int) -> None:
    results = outputs(kinds)
    places = ResultPlaces(results)
    start = 4096
    taken: list[tuple[int, int, bool]] = []
    slots = places.slots(rows, start)
    for out, values, validity in zip(results, slots[::2], slots[1::2], strict=True):
        bitmap_bytes = -(-rows // 64) * 8  # kernels write whole words
        taken.append((values, bitmap_bytes if out.is_bits else rows * out.width_bytes, out.is_bits))
        assert (validity == 0) is not out.has_validity
        if out.has_validity:
            taken.append((validity, bitmap_bytes, True))
    end = start
    for place, nbytes, is_bitmap in sorted(taken):
        assert place % 64 == 0
        assert place >= end
        end = place + nbytes
        assert not is_bitmap or end <= start + places.bitmap_bytes(rows)
    assert end <= start + places.nbytes(rows) <= end + 64 * 16 + 64 * len(taken)


def test_a_batch_is_one_copy_in_and_its_results_one_copy_out() -> None:
    class Together(FaultyBackend):
        def upload_all(self, base: int, stretches: Sequence[Stretch], stream: Any) -> None:
            self.calls["upload_all"] += 1
            super().upload_all(base, stretches, stream)

    backend = Together()
    numbers = pa.array([None if i % 9 == 0 else i for i in range(600)], pa.int64())
    batch = pa.record_batch({"x": numbers, "y": numbers, "z": numbers})
    stages = [FilterStage(lambda r: r.x % 2 == 0)]
    found = run_compiled(compile_cuda(build_program(stages, batch.schema), backend), batch)
    assert found.batch.num_rows == 266
    assert backend.calls["upload_all"] == 1
    assert backend.calls["download"] == 2  # how many there are, and these


def test_programs_share_kernels_and_take_theirs_along() -> None:
    backend = FaultyBackend()
    batch = pa.record_batch({"x": pa.array(range(100))})
    program = build_program([FilterStage(lambda r: r.x > 50)], batch.schema)
    first, second = compile_cuda(program, backend), compile_cuda(program, backend)
    run_compiled(first, batch)
    assert backend.calls["load"] == 3  # its two, and the sum between them
    run_compiled(second, batch)
    assert backend.calls["load"] == 3
    assert len(launcher_of(backend)._loaded) == 3
    del first, second
    gc.collect()  # a program and its variants know each other
    assert len(launcher_of(backend)._loaded) == 1
    run_compiled(compile_cuda(program, backend), batch)
    assert backend.calls["load"] == 3 + 2
