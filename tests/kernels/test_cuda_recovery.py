"""Programs on a device that is full, lost or wrong: the results, what is counted, and what is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from chains.faulty import CALLS, FaultyBackend

from dataflare.kernels.backend import ProgramResult, compile_program
from dataflare.kernels.cuda.device import DEVICE_LOST, DeviceBackend
from dataflare.kernels.cuda.fused import CudaProgram, compile_cuda
from dataflare.kernels.cuda.recovery import LEAST_PART_ROWS, DeviceWarning, Recovery
from dataflare.kernels.errors import (
    DeviceFaultError,
    DeviceMemoryError,
    DeviceUnavailableError,
    MemoryLimitError,
)
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, WithColumnsStage


def batch(rows: int) -> pa.RecordBatch:
    numbers = range(rows)
    return pa.record_batch(
        {
            "x": pa.array([None if i % 11 == 3 else i for i in numbers], pa.int64()),
            "y": pa.array([i / 7 - 20 for i in numbers], pa.float64()),
            "s": pa.array([f"name {i % 17}" * (i % 4) for i in numbers]),
            "d": pa.array([None if i % 13 == 5 else f"kind {i % 5}" for i in numbers]).dictionary_encode(),
            "v": pa.array([f"a longer view {i % 9}" for i in numbers], pa.string_view()),
            "b": pa.array([i % 3 == 0 for i in numbers]),
            "t": pa.array([[i % 100] * (i % 3) for i in numbers], pa.list_(pa.int8())),
        }
    )


ROWS = 6_000
BATCH = batch(ROWS)


def filtering() -> RecordProgram:
    return build_program(
        [
            FilterStage(lambda r: r.x % 3 != 0 and r.d != "kind 3"),
            WithColumnsStage(lambda r: {"z": r.y * 2.5, "p": r.s.startswith("name 1"), "q": not r.b}),
        ],
        BATCH.schema,
    )


def mapping() -> RecordProgram:
    return build_program(
        [MapStage(lambda r: {**r, "z": r.x * 3, "q": r.y > 0, "w": r.s if r.b else "none"})], BATCH.schema
    )


PROGRAMS = {"filter": filtering, "map": mapping}


def columns_for(program: RecordProgram, data: pa.RecordBatch = BATCH) -> list[HostColumn]:
    return [HostColumn.from_arrow(data.column(name)) for name in program.required_columns]


def arrays(result: ProgramResult) -> list[pa.Array[Any]]:
    return [column.to_arrow() for column in result.columns]


def require_same(result: ProgramResult, expected: ProgramResult) -> None:
    assert result.num_rows == expected.num_rows
    assert result.rows_dropped_null_predicate == expected.rows_dropped_null_predicate
    for found, wanted in zip(arrays(result), arrays(expected), strict=True):
        found.validate(full=True)
        assert found.type == wanted.type
        assert found.equals(wanted)
        assert found.null_count == wanted.null_count


def lost() -> Exception:
    return DeviceFaultError("fell off the bus", DEVICE_LOST)


def full() -> Exception:
    return DeviceMemoryError("The device memory is full: 7 bytes were asked for, 3 of 9 are free.")


def failing_once(
    call: str, number: int, make: Callable[[], Exception]
) -> Callable[[str, int], Exception | None]:
    return lambda called, count: make() if (called, count) == (call, number) else None


def calls_of_a_batch(program: RecordProgram) -> dict[str, int]:
    backend = FaultyBackend()
    compile_cuda(program, backend).run(columns_for(program), ROWS)
    assert set(backend.calls) == set(CALLS)
    return dict(backend.calls)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("call", CALLS)
def test_one_refusal_of_memory_anywhere_is_tried_again(name: str, call: str) -> None:
    program = PROGRAMS[name]()
    expected = compile_program(program, "cpu").run(columns_for(program), ROWS)
    for number in range(1, calls_of_a_batch(program)[call] + 1):
        backend = FaultyBackend(failing_once(call, number, full))
        result = compile_cuda(program, backend).run(columns_for(program), ROWS)
        require_same(result, expected)
        assert result.device_retries == (call != "acquire")  # idle blocks make room without a second attempt
        assert not result.on_cpu


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("call", CALLS)
def test_a_device_lost_anywhere_is_gone_on_without(name: str, call: str) -> None:
    program = PROGRAMS[name]()
    expected = compile_program(program, "cpu").run(columns_for(program), ROWS)
    for number in range(1, calls_of_a_batch(program)[call] + 1):
        backend = FaultyBackend(failing_once(call, number, lost))
        compiled = compile_cuda(program, backend)
        with pytest.warns(DeviceWarning, match="cuda:emulated is lost .fell off the bus.: .*runs on the CPU"):
            result = compiled.run(columns_for(program), ROWS)
        require_same(result, expected)
        assert (result.on_cpu, result.lost_device) == (True, ("cuda:emulated", "fell off the bus"))
        calls = dict(backend.calls)
        later = compiled.run(columns_for(program), ROWS)  # tells nobody again: warnings are errors
        require_same(later, expected)
        assert later.on_cpu
        assert backend.calls == calls


def test_a_device_that_says_it_is_not_there_is_lost_for_all_programs() -> None:
    backend = FaultyBackend(lambda call, number: DeviceUnavailableError("gone") if call == "launch" else None)
    first, second = compile_cuda(filtering(), backend), compile_cuda(mapping(), backend)
    with pytest.warns(DeviceWarning):
        assert first.run(columns_for(first.program), ROWS).on_cpu
    launches = backend.calls["launch"]
    with pytest.warns(DeviceWarning):
        assert second.run(columns_for(second.program), ROWS).on_cpu
    assert backend.calls["launch"] == launches == 1


def test_a_kernel_that_does_wrong_is_an_error_that_names_the_function() -> None:
    def fails(call: str, number: int) -> Exception | None:
        return DeviceFaultError("kernel dense: out of bounds", "out of bounds") if call == "launch" else None

    compiled = compile_cuda(mapping(), FaultyBackend(fails))
    with pytest.raises(
        DeviceFaultError, match=r"lambda \(.*test_cuda_recovery.py:\d+\) failed on cuda:emu"
    ) as caught:
        compiled.run(columns_for(compiled.program), ROWS)
    assert caught.value.check == "out of bounds"


# ------------------------------------------------------------------------------------------------ too little memory


def on_small_device(program: RecordProgram, memory_bytes: int) -> CudaProgram:
    return compile_cuda(program, FaultyBackend(memory_bytes=memory_bytes))


@pytest.mark.parametrize(("name", "memory_bytes"), [("filter", 420_000), ("map", 150_000)])
def test_what_does_not_fit_runs_in_parts_that_are_remembered(name: str, memory_bytes: int) -> None:
    program = PROGRAMS[name]()
    expected = compile_program(program, "cpu").run(columns_for(program), ROWS)
    compiled = on_small_device(program, memory_bytes)
    with pytest.warns(DeviceWarning, match="no memory for a batch of 6,000 records of lambda"):
        first = compiled.run(columns_for(program), ROWS)
    require_same(first, expected)
    assert first.device_retries >= 1
    assert not first.on_cpu
    second = compiled.run(columns_for(program), ROWS)
    require_same(second, expected)
    assert (second.device_retries, second.on_cpu) == (0, False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_does_not_fit_in_small_parts_runs_on_the_cpu(name: str) -> None:
    program = PROGRAMS[name]()
    expected = compile_program(program, "cpu").run(columns_for(program), ROWS)
    compiled = on_small_device(program, 20_000)
    with pytest.warns(DeviceWarning) as told:
        result = compiled.run(columns_for(program), ROWS)
    require_same(result, expected)
    assert result.on_cpu
    assert result.device_retries >= 3
    assert "no memory for 1,024 records" in str(told[-1].message)
    assert "were asked for" in str(told[-1].message)
    again = compiled.run(columns_for(program), ROWS)
    require_same(again, expected)
    assert again.on_cpu


def test_columns_that_a_map_hands_on_are_those_that_came_in() -> None:
    program = build_program([WithColumnsStage(lambda r: {"z": r.y + 1})], BATCH.schema)
    compiled = on_small_device(program, 60_000)
    columns = columns_for(program)
    with pytest.warns(DeviceWarning):
        result = compiled.run(columns, ROWS)
    assert not result.on_cpu
    handed_on = [column for column in result.columns if any(column is given for given in columns)]
    assert len(handed_on) == len(result.columns) - 1


def test_an_end_without_memory_names_the_bytes_and_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(program: RecordProgram, device: str) -> CudaProgram:
        raise MemoryLimitError("the system refused 99 bytes of host memory")

    compiled = on_small_device(mapping(), 20_000)
    monkeypatch.setattr("dataflare.kernels.cuda.recovery.compile_program", refuse)
    with pytest.warns(DeviceWarning), pytest.raises(DeviceMemoryError) as caught:
        compiled.run(columns_for(compiled.program), ROWS)
    for part in (
        "records of lambda",
        "fit neither cuda:emulated nor the CPU",
        "bytes were asked for",
        "refused 99 b",
    ):
        assert part in str(caught.value)


class Attempts:
    """A program on a device with room for a number of rows, and what was tried."""

    def __init__(self, room_rows: int) -> None:
        self.room_rows = room_rows
        self.tried: list[int] = []
        self.released = 0

    def run(self, columns: Sequence[HostColumn], num_rows: int) -> ProgramResult:
        self.tried.append(num_rows)
        if num_rows > self.room_rows:
            raise full()
        return ProgramResult(tuple(columns), num_rows, 0)

    def release(self) -> None:
        self.released += 1


def recovery(attempts: Attempts) -> Recovery:
    program = build_program([FilterStage(lambda r: r.i >= 0)], pa.schema({"i": pa.int64()}))
    backend: DeviceBackend = FaultyBackend()
    return Recovery(program, backend, attempts.run, attempts.release)


def numbers(rows: int) -> list[HostColumn]:
    return [HostColumn.from_arrow(pa.array(range(rows), pa.int64()))]


def test_sizes_are_halved_until_one_fits_and_tried_once_each() -> None:
    attempts = Attempts(2_000)
    with pytest.warns(DeviceWarning):
        result = recovery(attempts).run(numbers(10_000), 10_000)
    assert attempts.tried == [10_000, 10_000, 4_992, 2_496, 1_216, *[1_216] * 7, 10_000 - 8 * 1_216]
    assert attempts.released == result.device_retries == 4
    assert result.columns[0].to_arrow().equals(pa.array(range(10_000), pa.int64()))


def test_a_larger_size_is_tried_again_when_many_parts_have_fitted() -> None:
    attempts = Attempts(1_500)
    recovering = recovery(attempts)
    with pytest.warns(DeviceWarning):
        recovering.run(numbers(4_096), 4_096)
    attempts.room_rows = 1 << 40
    for _ in range(64):
        recovering.run(numbers(4_096), 4_096)
    attempts.tried.clear()
    recovering.run(numbers(4_096), 4_096)
    assert attempts.tried == [4_096]


def test_the_least_part_is_not_halved() -> None:
    attempts = Attempts(LEAST_PART_ROWS - 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = recovery(attempts).run(numbers(3_000), 3_000)
    assert min(attempts.tried) == LEAST_PART_ROWS
    assert result.on_cpu
    assert result.columns[0].to_arrow().equals(pa.array(range(3_000), pa.int64()))
    assert [warning.category for warning in told] == [DeviceWarning] * 2
