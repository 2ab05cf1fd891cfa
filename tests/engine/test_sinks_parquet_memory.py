"""ParquetSink: what it holds until a row group is full, and which columns get a dictionary."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataflare.batch import SharedDataBatch
from dataflare.sinks.parquet import ParquetSink
from dataflare.sinks.parquet_dictionaries import columns_worth_a_dictionary

MIB = 2**20
ROWS = 200_000


def test_values_that_repeat_get_a_dictionary_and_others_none() -> None:
    draw = random.Random(1)
    table = pa.table(
        {
            "key": range(ROWS),
            "price": [draw.random() for _ in range(ROWS)],
            "digit": [draw.randrange(10) for _ in range(ROWS)],
            "shop": [draw.randrange(20_000) for _ in range(ROWS)],
            "mode": pa.array([("AIR", "RAIL", "SHIP")[n % 3] for n in range(ROWS)], pa.string_view()),
            "note": pa.array([f"note {n}" for n in range(ROWS)], pa.string_view()),
            "code": pa.array([str(n % 9) for n in range(ROWS)]).dictionary_encode(),
            "none": pa.nulls(ROWS, pa.int32()),
        }
    )
    assert columns_worth_a_dictionary(table) == ["digit", "shop", "mode", "code", "none"]


def test_sorted_values_are_judged_by_all_of_the_group() -> None:
    runs = pa.table({"order": [n // 2 for n in range(ROWS)], "day": [n // 20_000 for n in range(ROWS)]})
    assert columns_worth_a_dictionary(runs) == ["day"]


def test_nested_columns_and_an_empty_group_leave_it_to_the_writer() -> None:
    assert columns_worth_a_dictionary(pa.table({"l": [[1], [2]], "n": [1, 2]})) is True
    assert columns_worth_a_dictionary(pa.table({"n": pa.array([], pa.int64())})) is True


def test_the_file_has_the_dictionaries_that_were_decided_on(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"key": range(ROWS), "digit": [n % 10 for n in range(ROWS)]})
    sink = ParquetSink(path)
    sink.open(table.schema)
    sink.write(SharedDataBatch.from_arrow(table.combine_chunks()))
    sink.commit()
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert [group.column(n).has_dictionary_page for n in range(2)] == [False, True]
    assert pq.read_table(path).equals(table)


def test_a_bounded_sink_writes_smaller_row_groups(tmp_path: Path) -> None:
    batch = SharedDataBatch.from_pydict({"n": list(range(100_000))})
    sizes = {}
    for name, nbytes in (("free", None), ("bounded", 3 * MIB)):
        sink = ParquetSink(tmp_path / f"{name}.parquet")
        if nbytes is not None:
            sink.bound_buffer(nbytes)
            assert sink.buffer_bytes <= nbytes
        sink.open(batch.schema)
        for _ in range(20):
            sink.write(batch)
        sink.commit()
        metadata = pq.ParquetFile(tmp_path / f"{name}.parquet").metadata
        sizes[name] = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sizes["free"] == [1_100_000, 900_000]
    assert max(sizes["bounded"]) <= 2 * MIB // 8 + 100_000
    assert sum(sizes["bounded"]) == 2_000_000
