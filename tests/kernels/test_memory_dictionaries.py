"""Dictionaries with null entries are exchanged once; what is computed of one is remembered by its memory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from chains.faulty import FaultyBackend

from dataflare.kernels.backend import compile_program
from dataflare.kernels.cuda.fused import compile_cuda
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.dictionaries import DictionaryCache, Entries, without_null_entries
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage

VALUES: dict[str, pa.Array[Any]] = {
    "strings": pa.array([None, "a", "b", None, "c"]),
    "numbers": pa.array([1.5, None, 2.5, None, None]),
    "only nulls": pa.array([None, None, None, None, None], pa.string()),
    "slice": pa.array(["x", "y", None, "a", None, "b", "c"]).slice(2),
}


def encoded(values: pa.Array[Any], index_type: pa.DataType, *, ordered: bool = False) -> pa.DictionaryArray:
    indices = pa.array([0, 1, None, 2, 3, 4, 4, 1, 0], index_type)
    return pa.DictionaryArray.from_arrays(indices, values, ordered=ordered)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("index_type", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()], ids=str)
def test_nulls_are_in_the_indices_only(name: str, index_type: pa.DataType) -> None:
    given = encoded(VALUES[name], index_type, ordered=index_type == pa.int32())
    for array in (given, given.slice(2), given.slice(1, 0)):
        column = without_null_entries(HostColumn.from_arrow(array))
        found: Any = column.to_arrow()
        found.validate(full=True)
        assert found.type == array.type
        assert found.to_pylist() == array.to_pylist()
        assert column.dictionary.null_count == 0
        assert column.null_count == array.to_pylist().count(None)


def test_what_lies_under_a_null_index_may_be_anything() -> None:
    bits, indices = pa.py_buffer(b"\x05"), pa.py_buffer(bytes([1, 255, 0]))
    array = pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int8(), 3, [bits, indices]), pa.array([None, "b"]), safe=False
    )
    assert without_null_entries(HostColumn.from_arrow(array)).to_arrow().to_pylist() == ["b", None, None]


def test_a_dictionary_without_null_entries_stays() -> None:
    column = HostColumn.from_arrow(pa.array(["a", None]).dictionary_encode())
    assert without_null_entries(column) is column


def test_batches_that_share_a_dictionary_share_the_one_that_it_is_exchanged_for() -> None:
    known: DictionaryCache[Entries] = DictionaryCache()
    values = VALUES["strings"]
    first, second = (
        without_null_entries(HostColumn.from_arrow(encoded(values, pa.int8())), known) for _ in range(2)
    )
    assert first.dictionary.addresses == second.dictionary.addresses
    other = without_null_entries(
        HostColumn.from_arrow(encoded(pa.array([None, "z", "y", "x", "w"]), pa.int8())), known
    )
    assert other.to_arrow().to_pylist() == [None, "z", None, "y", "x", "w", "w", "z", None]


def test_the_cache_lets_go_of_what_nobody_asked_for_longest() -> None:
    cache: DictionaryCache[int] = DictionaryCache(2)
    columns = [HostColumn.from_arrow(pa.array([text])) for text in ("one", "two", "three")]
    cache.keep("op", columns[0], 1)
    cache.keep("op", columns[1], 2)
    assert cache.find("op", columns[0]) == 1
    cache.keep("op", columns[2], 3)
    assert [cache.find("op", column) for column in columns] == [1, None, 3]
    assert cache.find("another", columns[0]) is None
    assert cache.find("op", columns[0].slice(0, 0)) is None
    cache.clear()
    assert cache.find("op", columns[0]) is None


def test_batches_with_the_same_null_entries_compute_the_tables_of_a_device_once() -> None:
    values = VALUES["strings"]
    schema = pa.schema({"d": pa.dictionary(pa.int32(), pa.string())})
    stages = [FilterStage(lambda r: r.d != "b"), MapStage(lambda r: {"d": r.d, "long": len(r.d)})]
    program = build_program(stages, schema)
    backend = FaultyBackend()
    compiled, on_cpu = compile_cuda(program, backend), compile_program(program)

    def launches() -> int:
        column = HostColumn.from_arrow(encoded(values, pa.int32()))
        before = backend.calls["launch"]
        result, expected = compiled.run([column], 9), on_cpu.run([column], 9)
        for found, wanted in zip(result.columns, expected.columns, strict=True):
            assert found.to_arrow().equals(wanted.to_arrow())
        assert result.columns[0].to_arrow().to_pylist() == ["a", "c", "c", "a"]
        return backend.calls["launch"] - before

    assert launches() == 3 + 2  # a filter's, and a table for each operation
    assert [launches() for _ in range(3)] == [3, 3, 3]
