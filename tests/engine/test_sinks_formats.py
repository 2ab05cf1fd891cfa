"""What comes out of a sink is what went in: every format, every type it can hold, and clear errors for the others."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.batch import SharedDataBatch
from dataflare.kernels.errors import DataError, OptionError, SchemaError
from dataflare.sample_data import every_type, sample_array
from dataflare.sinks.base import BatchSink
from dataflare.sinks.csv import CsvSink
from dataflare.sinks.function import FunctionSink
from dataflare.sinks.ipc import IpcSink
from dataflare.sinks.memory import CollectSink
from dataflare.sinks.parquet import ParquetSink
from dataflare.sources.csv import CsvSource
from dataflare.sources.ipc import IpcSource
from dataflare.sources.parquet import ParquetSource
from dataflare.testing import assert_batches_equal, record_batches


def write(sink: Any, *tables: Any) -> None:
    sink.open(tables[0].schema)
    for table in tables:
        sink.write(SharedDataBatch.from_arrow(table))
    sink.commit()


def read(source: Any) -> pa.Table:
    batches = [batch.to_arrow() for part in source.partitions() for batch in part.read(lambda: 1_000)]
    return pa.Table.from_batches(batches, source.schema)


@pytest.mark.parametrize("data_type", every_type(), ids=str)
@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv"])
def test_every_type_is_written_or_refused_by_name(
    tmp_path: Path, suffix: str, data_type: pa.DataType
) -> None:
    sink = {"parquet": ParquetSink, "arrow": IpcSink, "csv": CsvSink}[suffix](tmp_path / f"out.{suffix}")
    table = pa.table({"some column": sample_array(data_type, 5)})
    refused = None
    try:
        write(sink, table)
    except SchemaError as error:
        refused = str(error)
    if refused is not None:
        assert suffix != "arrow"
        assert f"cannot hold column 'some column' of type {data_type}" in refused
        assert list(tmp_path.iterdir()) == []
        return
    if suffix != "csv":
        expected = pq.read_table(tmp_path / "out.parquet") if suffix == "parquet" else table
        got = read((ParquetSource if suffix == "parquet" else IpcSource).open(tmp_path / f"out.{suffix}"))
        assert got.schema.field(0).type == expected.schema.field(0).type
        assert repr(got.to_pylist()) == repr(expected.to_pylist())


@given(record_batches(max_rows=40), st.integers(1, 15))
def test_any_records_round_trip_through_parquet_and_ipc(batch: pa.RecordBatch, row_group_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for sink, source in (
            (ParquetSink(f"{folder}/a.parquet", row_group_rows=row_group_rows), ParquetSource),
            (IpcSink(f"{folder}/a.arrow", compression="lz4"), IpcSource),
            (IpcSink(f"{folder}/a.arrows"), IpcSource),
        ):
            halves = [batch.slice(0, batch.num_rows // 2), batch.slice(batch.num_rows // 2)]
            try:
                write(sink, *halves)
            except DataError as error:  # Parquet has no seconds, and milliseconds do not reach as far
                assert "timestamp[s] to timestamp[ms]" in str(error)
                sink.abort()
                continue
            path = sink._staging.shown
            expected = pa.Table.from_batches([batch])
            if path.endswith(".parquet"):
                expected = pq.read_table(path)
                assert expected.num_rows == batch.num_rows
            assert_batches_equal(read(source.open(path)), expected)


def test_a_value_that_the_format_cannot_hold(tmp_path: Path) -> None:
    table = pa.table({"t": pa.array([2**60], pa.timestamp("s"))})
    sink = ParquetSink(tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"a\.parquet: a value cannot be written as Parquet: Integer overflow when casting"
    ):
        write(sink, table)
    sink.abort()
    assert list(tmp_path.iterdir()) == []


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=10)


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False),
            st.none() | TEXT,
            st.none() | st.booleans(),
            st.none() | st.dates(dt.date(1900, 1, 1)),
        ),
        max_size=20,
    ),
    st.sampled_from([",", ";", "\t"]),
)
def test_records_round_trip_through_csv(records: list[tuple[Any, ...]], delimiter: str) -> None:
    schema = pa.schema(
        [("n", pa.int64()), ("x", pa.float64()), ("s", pa.string()), ("b", pa.bool_()), ("d", pa.date32())]
    )
    table = pa.Table.from_pylist([dict(zip(schema.names, record, strict=True)) for record in records], schema)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.csv", "b.csv.gz"):
            sink = CsvSink(f"{folder}/{name}", delimiter=delimiter)
            sink.open(schema)
            for batch in table.to_batches():
                sink.write(SharedDataBatch.from_arrow(batch))
            sink.commit()
            source = CsvSource.open(f"{folder}/{name}", column_types=schema, delimiter=delimiter)
            assert read(source).to_pylist() == table.to_pylist()


def test_one_column_of_nulls_survives_csv(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array([None, 1, None], pa.int64())})
    write(CsvSink(tmp_path / "a.csv"), table)
    assert read(CsvSource.open(tmp_path / "a.csv")).to_pylist() == table.to_pylist()


def test_row_groups_have_the_size_asked_for_whatever_the_batches_are(tmp_path: Path) -> None:
    tables = [pa.table({"n": range(rows)}) for rows in (30, 1, 250, 7)]
    write(ParquetSink(tmp_path / "a.parquet", row_group_rows=100), *tables)
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [100, 100, 88]
    assert pq.read_table(tmp_path / "a.parquet")["n"].to_pylist() == [
        n for table in tables for n in table["n"].to_pylist()
    ]


def test_without_a_size_small_batches_share_a_row_group_and_bytes_bound_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = [pa.table({"n": range(1_000)})] * 10
    write(ParquetSink(tmp_path / "a.parquet"), *tables)
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 1
    monkeypatch.setattr("dataflare.sinks.parquet._ROW_GROUP_BYTES", 20_000)
    write(ParquetSink(tmp_path / "b.parquet"), *tables)
    assert pq.read_metadata(tmp_path / "b.parquet").num_row_groups == 4


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "brotli", "lz4", "none"])
def test_parquet_compressions(tmp_path: Path, compression: Any) -> None:
    level = 3 if compression in ("zstd", "gzip", "brotli") else None
    write(
        ParquetSink(tmp_path / "a.parquet", compression=compression, compression_level=level),
        pa.table({"n": [1, 1]}),
    )
    found = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0).compression
    assert found == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())


def test_dictionaries_that_differ_from_batch_to_batch(tmp_path: Path) -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    tables = [
        pa.table({"d": pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), words), "n": range(3)})
        for codes, words in (([0, 1, None], ["a", "b"]), ([1, 0, 1], ["c", "a"]), ([0, 0, 0], ["b"]))
    ]
    for name in ("a.arrow", "a.arrows", "a.parquet"):
        sink = ParquetSink(tmp_path / name) if name.endswith("parquet") else IpcSink(tmp_path / name)
        write(sink, *tables)
        source = ParquetSource if name.endswith("parquet") else IpcSource
        got = read(source.open(tmp_path / name))
        assert got["d"].to_pylist() == ["a", "b", None, "a", "c", "a", "b", "b", "b"]
        if name != "a.parquet":
            assert got.schema.field("d").type == kind


def test_a_dictionary_that_outgrows_its_indices(tmp_path: Path) -> None:
    tables = [
        pa.table(
            {"d": pa.DictionaryArray.from_arrays(pa.array([99], pa.int8()), [f"{n}-{i}" for i in range(100)])}
        )
        for n in range(2)
    ]
    sink = IpcSink(tmp_path / "a.arrow")
    with pytest.raises(
        SchemaError, match=r"column 'd': all batches together have 200 different values, more than its type"
    ):
        write(sink, *tables)
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_csv_looks_like_this(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": [1, None],
            "s": pa.array(["", None], pa.string_view()),
            "d": pa.array(["x;", "y"]).dictionary_encode(),
        }
    )
    write(CsvSink(tmp_path / "a.csv", delimiter=";"), table)
    assert (tmp_path / "a.csv").read_text() == '"n";"s";"d"\n1;"";"x;"\n;;"y"\n'
    write(CsvSink(tmp_path / "b.tsv", header=False), table.select(["n", "d"]))
    assert (tmp_path / "b.tsv").read_text() == '1\t"x;"\n\t"y"\n'


def test_duckdb_reads_what_is_written(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    table = pa.table({"n": [1, 2], "s": pa.array(["a", "long enough for a buffer"], pa.string_view())})
    write(ParquetSink(tmp_path / "a.parquet", compression="zstd"), table)
    assert duckdb.sql(f"select * from '{tmp_path}/a.parquet'").fetchall() == [
        (1, "a"),
        (2, "long enough for a buffer"),
    ]


def test_collect_keeps_batches_in_order_and_joins_them() -> None:
    sink = CollectSink()
    assert isinstance(sink, BatchSink)
    tables = [pa.table({"n": [1, 2]}), pa.table({"n": [3]})]
    write(sink, *tables)
    assert sink.table().equals(pa.concat_tables(tables))
    assert [chunk.to_pylist() for chunk in sink.table()["n"].chunks] == [[1, 2], [3]]
    assert sink.batch().to_pylist() == [{"n": 1}, {"n": 2}, {"n": 3}]
    sink.abort()
    assert sink.batch().num_rows == 0


def test_collect_of_one_batch_copies_nothing_and_of_none_has_the_schema() -> None:
    sink = CollectSink()
    with pytest.raises(SchemaError, match="nothing was collected"):
        sink.batch()
    batch = SharedDataBatch.from_arrow(pa.table({"n": [1]})).with_watermark(5)
    sink.open(batch.schema)
    assert sink.table().num_rows == sink.batch().num_rows == 0
    assert sink.table().schema == batch.schema
    sink.write(batch)
    assert sink.batch() is batch
    sink.write(batch.with_watermark(9))
    assert sink.batch().watermark == 9


def test_batches_without_columns_keep_their_rows() -> None:
    sink = CollectSink()
    empty = pa.schema([])
    sink.open(empty)
    for _ in range(2):
        sink.write(SharedDataBatch._from_columns(empty, (), 3))
    assert sink.table().num_rows == 6
    assert sink.batch().num_rows == 6


def test_a_function_sees_every_batch_in_order() -> None:
    seen: list[int] = []
    sink = FunctionSink(lambda batch: seen.append(batch.num_rows))
    write(sink, pa.table({"n": [1, 2]}), pa.table({"n": [3]}))
    assert seen == [2, 1]
    assert isinstance(sink, BatchSink)
    assert sink.description.startswith("write(")
    sink.abort()
    with pytest.raises(OptionError, match="write takes a function of a batch, not 3"):
        FunctionSink(3)  # type: ignore[arg-type]
