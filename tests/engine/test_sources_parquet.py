"""Parquet files as a source: the same records and types from both decoders, in bounded blocks, with clear errors."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataflare.kernels.errors import ColumnNotFoundError, OptionError, ReadError, SchemaMismatchError
from dataflare.sources.parquet import ParquetSource
from dataflare.sources.parquet_choice import _miscounts_chunks
from dataflare.testing import assert_batches_equal, record_batches

FLAT = pa.schema(
    [
        ("bool", pa.bool_()),
        *[(str(kind), kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())],
        *[(str(kind), kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())],
        ("float32", pa.float32()),
        ("float64", pa.float64()),
        ("date32", pa.date32()),
        *[(f"naive {unit}", pa.timestamp(unit)) for unit in ("ms", "us", "ns")],
        *[(f"utc {unit}", pa.timestamp(unit, "UTC")) for unit in ("ms", "us", "ns")],
        ("paris", pa.timestamp("us", "Europe/Paris")),
        ("string", pa.string()),
        ("large_string", pa.large_string()),
        ("string_view", pa.string_view()),
        ("decimal small", pa.decimal128(9, 2)),
        ("decimal medium", pa.decimal128(18, 4)),
        ("decimal large", pa.decimal128(28, 10)),
    ]
)
OTHERS = pa.schema(
    [
        ("dictionary", pa.dictionary(pa.int32(), pa.string())),
        ("time", pa.time64("us")),
        ("duration", pa.duration("us")),
        ("float16", pa.float16()),
    ]
)


def read(source: ParquetSource, batch_rows: int = 1_000_000) -> pa.Table:
    batches = [batch for part in source.partitions() for batch in part.read(lambda: batch_rows)]
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    assert all(batch.schema is source.schema for batch in batches)
    if not batches:
        return source.schema.empty_table()
    return pa.Table.from_batches([batch.to_arrow() for batch in batches])


def write(path: Path, table: Any, **options: Any) -> Path:
    pq.write_table(table if isinstance(table, pa.Table) else pa.Table.from_batches([table]), path, **options)
    return path


@given(
    batch=st.lists(
        st.sampled_from(list(FLAT)), min_size=1, max_size=5, unique_by=lambda field: field.name
    ).flatmap(lambda fields: record_batches(pa.schema(fields), max_rows=40)),
    group_rows=st.integers(1, 80),
    compression=st.sampled_from(["snappy", "zstd", "gzip", "brotli", "none"]),
    version=st.sampled_from(["1.0", "2.4", "2.6"]),
    dictionary=st.booleans(),
    page_version=st.sampled_from(["1.0", "2.0"]),
    decimals_as_integers=st.booleans(),
    batch_rows=st.integers(1, 100),
)
def test_every_flat_type_comes_back_the_same_from_both_decoders(
    batch: pa.RecordBatch,
    group_rows: int,
    compression: str,
    version: str,
    dictionary: bool,
    page_version: str,
    decimals_as_integers: bool,
    batch_rows: int,
) -> None:
    if version != "2.6":  # which round nanoseconds
        batch = batch.select([name for name in batch.schema.names if not name.endswith(" ns")])
        assume(batch.num_columns)
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            Path(folder, "a.parquet"),
            batch,
            row_group_size=group_rows,
            compression=compression,
            version=version,
            use_dictionary=dictionary,
            data_page_version=page_version,
            store_decimal_as_integer=decimals_as_integers,
            data_page_size=64,
            write_page_index=True,
        )
        expected = pq.read_table(path)
        for decoder in ("polars", "pyarrow"):
            source = ParquetSource.open(path, decoder=decoder)  # type: ignore[arg-type]
            assert source.schema.equals(expected.schema)
            assert source.num_rows == batch.num_rows
            assert_batches_equal(read(source, batch_rows), expected)


def test_the_flat_types_are_decoded_by_polars_and_the_others_by_pyarrow(tmp_path: Path) -> None:
    plain = pa.table({"x": pa.array([1, None]), "s": ["a", None]})
    assert ParquetSource.open(write(tmp_path / "a.parquet", plain), decoder="polars").description == (
        f"Parquet {tmp_path}/a.parquet: 2 of 2 columns, 1 of 1 row groups, decoded by polars"
    )
    mixed = plain.append_column("l", pa.array([[1], None]))
    source = ParquetSource.open(write(tmp_path / "b.parquet", mixed), decoder="polars")
    assert source.description.endswith("decoded by polars, but l by pyarrow")
    assert source.with_projection(["l"]).description.endswith(
        "1 of 3 columns, 1 of 1 row groups, decoded by pyarrow"
    )
    assert_batches_equal(read(source), mixed)
    lz4 = ParquetSource.open(write(tmp_path / "c.parquet", plain, compression="lz4"), decoder="polars")
    assert lz4.description.endswith("decoded by pyarrow")
    assert_batches_equal(read(lz4), plain)


def test_all_flat_types_of_the_first_test_do_go_through_polars(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table([pa.nulls(3, field.type) for field in FLAT], schema=FLAT))
    assert ParquetSource.open(path, decoder="polars").description.endswith("decoded by polars")


@given(batch=record_batches(OTHERS, max_rows=30), group_rows=st.integers(1, 40))
def test_other_types_beside_flat_ones(batch: pa.RecordBatch, group_rows: int) -> None:
    table = pa.Table.from_batches([batch])
    table = table.append_column("n", pa.array(range(batch.num_rows), pa.int64()))
    nested = pa.array(
        [{"x": [i], "y": None} for i in range(batch.num_rows)],
        pa.struct([("x", pa.list_(pa.int8())), ("y", pa.string())]),
    )
    table = table.append_column("s", nested)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "a.parquet"), table, row_group_size=group_rows)
        source = ParquetSource.open(path, decoder="polars").with_projection(["s", "n", *OTHERS.names])
        assert_batches_equal(read(source, 7), table.select(source.schema.names))


def test_a_small_read_does_not_import_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"x": [True]}))
    monkeypatch.delitem(__import__("sys").modules, "polars", raising=False)
    assert ParquetSource.open(path).description.endswith("decoded by pyarrow")
    monkeypatch.setattr("dataflare.sources.parquet_choice._POLARS_WORTH_BYTES", 1)
    assert ParquetSource.open(path).description.endswith("decoded by polars")


def test_a_small_read_does_not_load_the_compiled_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"x": [1]}))
    monkeypatch.delitem(__import__("sys").modules, "polars", raising=False)
    monkeypatch.setattr("dataflare.sources.parquet_choice.is_loaded", lambda: False)
    assert ParquetSource.open(path).description.endswith("decoded by pyarrow")
    assert ParquetSource.open(path, decoder="native").description.endswith("decoded by dataflare")
    monkeypatch.setattr("dataflare.sources.parquet_choice._NATIVE_WORTH_BYTES", 1)
    assert ParquetSource.open(path).description.endswith("decoded by dataflare")


def test_a_large_row_group_is_decoded_in_stretches(tmp_path: Path) -> None:
    rows = 100_000
    table = pa.table(
        {"n": pa.array(range(rows)), "s": [f"row {i}" for i in range(rows)], "l": [[i] for i in range(rows)]}
    )
    path = write(tmp_path / "a.parquet", table, row_group_size=rows)
    for decoder in ("polars", "pyarrow"):
        for names in (["n", "s"], ["l"], ["l", "n"]):
            source = ParquetSource.open(path, decoder=decoder, columns=names)  # type: ignore[arg-type]
            (part,) = source.with_blocks(2**19).partitions()
            batches = list(part.read(lambda: rows))
            assert 4 <= len(batches) <= 13
            got = pa.Table.from_batches([batch.to_arrow() for batch in batches])
            assert got.equals(table.select(names))


def test_tiny_row_groups_are_read_together(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array(range(5_000)), "s": [str(i) for i in range(5_000)]})
    path = write(tmp_path / "a.parquet", table, row_group_size=10)
    for decoder in ("polars", "pyarrow"):
        (part,) = ParquetSource.open(path, decoder=decoder).partitions()  # type: ignore[arg-type]
        assert part.description.endswith("row groups 0 to 499")
        (batch,) = part.read(lambda: 1_000_000)
        assert batch.to_arrow().equals(table.combine_chunks().to_batches()[0])


def test_partitions_are_stable_ordered_and_bounded(tmp_path: Path) -> None:
    table = pa.table({"n": pa.array(range(30_000))})
    for name in ("part-10.parquet", "part-9.parquet"):
        write(tmp_path / name, table, row_group_size=1_000)
    source = ParquetSource.open(tmp_path).with_blocks(20_000)
    parts = source.partitions()
    assert [part.description for part in parts] == [part.description for part in source.partitions()]
    assert "part-9.parquet, row groups 0 to 1" in parts[0].description
    assert "part-10" in parts[-1].description
    assert sum(part.num_rows for part in parts) == source.num_rows == 60_000
    assert sum(part.size_bytes for part in parts) == source.size_bytes
    assert all(part.size_bytes < 40_000 for part in parts)
    assert read(source)["n"].to_pylist() == [*range(30_000)] * 2
    first, again = (next(iter(parts[3].read(lambda: 9_999))) for _ in range(2))
    assert first.to_arrow() == again.to_arrow()


def test_the_size_is_asked_for_before_each_batch_and_the_rest_is_even(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"n": pa.array(range(1_000))}))
    wanted = [100, 300, 260]
    (part,) = ParquetSource.open(path).partitions()
    sizes = [batch.num_rows for batch in part.read(lambda: wanted.pop(0) if len(wanted) > 1 else wanted[0])]
    assert sizes == [100, 300, 200, 200, 200]


def test_no_columns_means_rows_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ParquetSource.open(write(tmp_path / "a.parquet", pa.table({"n": range(10)}), row_group_size=4))
    monkeypatch.setattr("dataflare.sources.parquet.ParquetReader", None)
    counts = [
        batch.num_rows for part in source.with_projection([]).partitions() for batch in part.read(lambda: 3)
    ]
    assert counts == [2, 2, 2, 2, 2]
    assert source.with_projection([]).num_rows == 10


def test_an_empty_file_and_empty_row_groups(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64()), ("s", pa.string())])
    path = write(tmp_path / "a.parquet", schema.empty_table())
    for decoder in ("polars", "pyarrow"):
        source = ParquetSource.open(path, decoder=decoder)  # type: ignore[arg-type]
        assert source.schema == schema
        assert source.num_rows == 0
        assert source.partitions() == ()
    with pq.ParquetWriter(tmp_path / "b.parquet", schema) as writer:
        for rows in (0, 3, 0):
            writer.write_table(pa.table({"n": range(rows), "s": ["x"] * rows}, schema=schema))
    assert read(ParquetSource.open(tmp_path / "b.parquet", decoder="polars")).num_rows == 3


def test_required_columns_stay_required(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    path = write(tmp_path / "a.parquet", pa.table({"n": [1, 2]}, schema=schema))
    assert ParquetSource.open(path, decoder="polars").schema.equals(schema)
    assert read(ParquetSource.open(path, decoder="polars"))["n"].to_pylist() == [1, 2]
    other = write(tmp_path / "b.parquet", pa.table({"n": pa.array([None], pa.int64())}))
    both = ParquetSource.open([path, other])
    assert both.schema.field("n").nullable
    assert read(both)["n"].to_pylist() == [1, 2, None]


def test_what_the_file_says_of_itself_is_left_out_of_the_schema(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "a.parquet"
    pandas.DataFrame({"x": [1]}).to_parquet(path)
    schema = ParquetSource.open(path).schema
    assert schema.metadata is None
    assert schema.field("x").metadata is None


def test_files_may_lay_text_out_differently(tmp_path: Path) -> None:
    kinds = (pa.string_view(), pa.string(), pa.large_string())
    for number, kind in enumerate(kinds):
        write(tmp_path / f"{number}.parquet", pa.table({"s": pa.array(["a", None], kind)}))
    for decoder in ("polars", "pyarrow"):
        source = ParquetSource.open(tmp_path, decoder=decoder)  # type: ignore[arg-type]
        assert source.schema.field("s").type == pa.string_view()
        assert read(source)["s"].to_pylist() == ["a", None] * 3


def test_column_order_may_differ_between_files(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", pa.table({"a": [1], "b": ["x"]}))
    write(tmp_path / "2.parquet", pa.table({"b": ["y"], "a": [2]}))
    assert read(ParquetSource.open(tmp_path)).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize(
    ("second", "names", "message"),
    [
        (
            pa.table({"a": [1.5], "b": ["x"]}),
            None,
            r"2\.parquet: column 'a' is double, but int64 in .*1\.parquet\. All files of one source",
        ),
        (
            pa.table({"A": [1], "b": ["x"]}),
            None,
            r"2\.parquet: has no column 'a', which .*1\.parquet has as int64\. Did you mean 'A'\?",
        ),
        (
            pa.table({"a": [1], "b": ["x"], "c": [1]}),
            None,
            r"2\.parquet: has the column 'c' \(int64\), which .*1\.parquet has not",
        ),
        (pa.table({"a": [1], "b": [2], "c": [1]}), ["a"], None),
    ],
)
def test_a_change_of_schema_between_files(
    tmp_path: Path, second: pa.Table, names: Sequence[str] | None, message: str | None
) -> None:
    write(tmp_path / "1.parquet", pa.table({"a": [1], "b": ["x"]}))
    write(tmp_path / "2.parquet", second)
    source = ParquetSource.open(tmp_path, columns=names)
    if message is None:
        assert read(source)["a"].to_pylist() == [1, 1]
    else:
        with pytest.raises(SchemaMismatchError, match=message):
            source.partitions()


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"distance": [1]}))
    with pytest.raises(
        ColumnNotFoundError, match=r"a\.parquet: there is no column 'distanse'\. Did you mean 'distance'\?"
    ):
        ParquetSource.open(path, columns=["distanse"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\), not a Parquet file"),
        (
            b"hello, this is text",
            r"is not a Parquet file \(it begins with the text 'hello, t'; for CSV use read_csv\)",
        ),
        (b'{"a": 1}', "it looks like JSON: use read_json"),
        (b"ARROW1\0\0abc", "it is an Arrow IPC file: use read_ipc"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "it is compressed with gzip"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "it does not begin with PAR1"),
        (b"PARE" + bytes(20) + b"PARE", "is an encrypted Parquet file"),
    ],
)
def test_what_is_not_parquet(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    with pytest.raises(ReadError, match=message):
        ParquetSource.open(path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"n": range(1_000)}))
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(
        ReadError,
        match=rf"a\.parquet: is a truncated Parquet file: .* after {len(content) - 100:,} bytes the footer is missing",
    ):
        ParquetSource.open(path)
    path.write_bytes(content[:-20] + b"\xff" * 12 + content[-8:])
    with pytest.raises(ReadError, match=r"the footer of this Parquet file is damaged"):
        ParquetSource.open(path)


@pytest.mark.parametrize("decoder", ["polars", "pyarrow"])
def test_a_damaged_row_group_is_named(tmp_path: Path, decoder: Any) -> None:
    table = pa.table({"n": range(2_000), "s": [f"text {i}" for i in range(2_000)]})
    path = write(tmp_path / "a.parquet", table, row_group_size=1_000, use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)
    source = ParquetSource.open(path, decoder=decoder)
    with pytest.raises(ReadError, match=r"a\.parquet: row groups? (0 to )?1 of 2 cannot be decoded: "):
        read(source)
    assert read(source.with_projection(["n"])).num_rows == 2_000


@pytest.mark.parametrize("decoder", ["polars", "pyarrow"])
def test_a_file_that_is_cut_or_gone_while_it_is_read(tmp_path: Path, decoder: Any) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"n": range(1_000)}))
    (part,) = ParquetSource.open(path, decoder=decoder).partitions()
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(ReadError, match=r"a\.parquet: "):
        list(part.read(lambda: 10))
    path.unlink()
    with pytest.raises(ReadError, match=r"a\.parquet: the file is not there any more"):
        list(part.read(lambda: 10))


def test_names_that_are_there_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    with pytest.raises(ReadError, match=r"a\.parquet: column 'a' appears 2 times"):
        ParquetSource.open(write(tmp_path / "a.parquet", table))


def test_a_decoder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'auto', 'native', 'polars' or 'pyarrow', not 'duckdb'"):
        ParquetSource.open(tmp_path, decoder="duckdb")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("created_by", "expected"),
    [
        ("parquet-mr version 1.2.8 (build x)", True),
        ("parquet-mr version 1.2.9", False),
        ("parquet-mr version 1.13.1 (build abc)", False),
        ("parquet-mr version unknown", True),
        ("parquet-cpp-arrow version 26.0.1", False),
        (None, False),
    ],
)
def test_writers_that_miscount_their_chunks_are_left_to_pyarrow(
    created_by: str | None, expected: bool
) -> None:
    assert _miscounts_chunks(created_by) is expected


def test_names_with_dots_and_other_characters(tmp_path: Path) -> None:
    table = pa.table({"a.b": [1], "ü €": ["x"], "": [2.5], "c": [{"d": 1}], "c2.d": [3]})
    path = write(tmp_path / "a.parquet", table)
    for decoder in ("polars", "pyarrow"):
        assert read(ParquetSource.open(path, decoder=decoder)).to_pylist() == table.to_pylist()  # type: ignore[arg-type]


def test_files_of_another_writer(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    frame = polars.DataFrame(
        {
            "n": [1, None, 3],
            "s": ["a", None, "long enough for a buffer"],
            "d": [Decimal("1.25"), None, Decimal("-2")],
        }
    )
    frame.write_parquet(path)
    for decoder in ("polars", "pyarrow"):
        assert read(ParquetSource.open(path, decoder=decoder)).to_pylist() == frame.to_dicts()  # type: ignore[arg-type]
    duckdb.sql(f"copy (select range as n, range::varchar as s from range(10)) to '{path}'")
    for decoder in ("polars", "pyarrow"):
        rows = read(ParquetSource.open(path, decoder=decoder)).to_pylist()  # type: ignore[arg-type]
        assert rows == [{"n": i, "s": str(i)} for i in range(10)]


@given(st.lists(st.none() | st.binary(max_size=30), max_size=30))
def test_bytes(values: list[bytes | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
            path = write(Path(folder, "a.parquet"), pa.table({"x": pa.array(values, kind)}))
            assert (
                read(ParquetSource.open(path, decoder="polars")).to_pylist()
                == pq.read_table(path).to_pylist()
            )


def test_a_row_group_too_large_to_hold_as_it_is_in_the_file_is_read_page_by_page(tmp_path: Path) -> None:
    rows = 1_500_000
    numbers = pa.array(np.random.default_rng(3).integers(2**60, size=rows))
    table = pa.table({"n": numbers, "s": pa.array(range(rows)).cast(pa.string())})
    path = write(tmp_path / "a.parquet", table, row_group_size=rows)
    source = ParquetSource.open(path)
    small = source.with_blocks(2**18)
    assert small.description.endswith("decoded by pyarrow")
    assert small.reading_bytes <= 8 * 2**18 < source.reading_bytes
    before, most, row = pa.total_allocated_bytes(), 0, 0
    for part in small.partitions():
        for batch in part.read(lambda: 100_000):
            most = max(most, pa.total_allocated_bytes() - before)
            assert batch.to_arrow().equals(table.slice(row, batch.num_rows).to_batches()[0])
            row += batch.num_rows
    assert row == rows
    assert most < table.nbytes / 3


def test_reading_a_small_file_takes_no_more_than_all_of_it(tmp_path: Path) -> None:
    table = pa.table({"l": [[i] for i in range(1_000)]})
    source = ParquetSource.open(write(tmp_path / "a.parquet", table, row_group_size=100))
    assert 0 < source.reading_bytes <= 4 * source.size_bytes
    many = ParquetSource.open(
        write(tmp_path / "b.parquet", pa.table({"l": [[i] for i in range(20_000)]}), row_group_size=100)
    )
    assert (
        many.with_blocks(2**16).reading_bytes == 4 * 2**16
    )  # tables of about a block, and copies on the way
