"""DataFlare's own Parquet decoder: the same records and types as PyArrow's, for any layout; damage is an error."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.errors import ReadError
from dataflare.kernels.memory.guarded import GuardedPool
from dataflare.kernels.memory.pool import default_pool
from dataflare.sources.agreement import same_family
from dataflare.sources.parquet import ParquetSource
from dataflare.sources.parquet_native import _zstd_content_bytes
from dataflare.testing import assert_batches_equal, record_batches

FLAT = pa.schema(
    [
        *[(str(kind), kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())],
        *[(str(kind), kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())],
        ("float32", pa.float32()),
        ("float64", pa.float64()),
        ("date32", pa.date32()),
        ("time32", pa.time32("ms")),
        ("time64 us", pa.time64("us")),
        ("time64 ns", pa.time64("ns")),
        *[(f"naive {unit}", pa.timestamp(unit)) for unit in ("ms", "us", "ns")],
        *[(f"utc {unit}", pa.timestamp(unit, "UTC")) for unit in ("ms", "us", "ns")],
        ("paris", pa.timestamp("us", "Europe/Paris")),
        *[(str(kind), kind) for kind in (pa.string(), pa.large_string(), pa.string_view())],
        *[(str(kind), kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())],
        *[(f"decimal {digits}", pa.decimal128(digits, 2)) for digits in (3, 9, 10, 18, 19, 38)],
        pa.field("required", pa.int64(), nullable=False),
        pa.field("required decimal", pa.decimal128(15, 2), nullable=False),
    ]
)
CODECS = ("snappy", "zstd", "gzip", "brotli", "none")


def read(source: ParquetSource, batch_rows: int = 1_000_000) -> pa.Table:
    batches = [batch for part in source.partitions() for batch in part.read(lambda: batch_rows)]
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    assert all(batch.schema is source.schema for batch in batches)
    if not batches:
        return source.schema.empty_table()
    return pa.Table.from_batches([batch.to_arrow() for batch in batches])


def opened(path: Path, columns: Sequence[str] | None = None) -> ParquetSource:
    """Open with the decoder under test, and make sure that it is the one."""
    source = ParquetSource.open(path, columns=columns, decoder="native")
    assert source.description.endswith("decoded by dataflare")
    return source


def sample(rows: int, seed: int, *, nulls: float, distinct: int) -> pa.Table:
    """Return `rows` rows of all types; no value has more than `distinct` forms."""
    random = np.random.default_rng(seed)
    columns: list[pa.Array[Any]] = []
    for field in FLAT:
        valid = random.random(rows) >= (nulls if field.nullable else 0.0)
        if same_family(field.type, pa.string()) or same_family(field.type, pa.binary()):
            texts = [f"{number:x} é" * (number % 9) for number in random.integers(0, 2**20, distinct)]
            places = pa.array(random.integers(0, distinct, rows), mask=~valid)
            text = pa.array(texts, pa.large_string()).take(places)
            columns.append(text.cast(pa.large_binary()).cast(field.type))
            continue
        width_bits = field.type.bit_width
        if pa.types.is_decimal(field.type):
            limit = 10 ** min(field.type.precision, 18) - 1
            numbers = random.integers(-limit, limit, distinct)[random.integers(0, distinct, rows)]
            low, high = numbers.astype("<i8"), numbers.astype("<i8") >> 63
            data = np.stack([low, high], axis=1).tobytes()
        elif pa.types.is_time(field.type):
            numbers = random.integers(0, 86_399_999, distinct)[random.integers(0, distinct, rows)]
            data = numbers.astype(f"<i{width_bits // 8}").tobytes()
        elif pa.types.is_timestamp(field.type):
            numbers = random.integers(-(2**52), 2**52, distinct)[random.integers(0, distinct, rows)]
            data = numbers.astype("<i8").tobytes()
        elif pa.types.is_floating(field.type):
            numbers = random.normal(0, 1e9, distinct)[random.integers(0, distinct, rows)]
            data = numbers.astype(f"<f{width_bits // 8}").tobytes()
        else:
            high = min(2 ** (width_bits - 1), 2**31) - 1
            numbers = random.integers(0, high, distinct)[random.integers(0, distinct, rows)]
            data = numbers.astype(f"<i{width_bits // 8}").tobytes()
        bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        columns.append(pa.Array.from_buffers(field.type, rows, [bitmap, pa.py_buffer(data)]))
    return pa.Table.from_arrays(columns, schema=FLAT)


@given(
    batch=st.lists(
        st.sampled_from([field for field in FLAT if field.nullable and not pa.types.is_time(field.type)]),
        min_size=1,
        max_size=5,
        unique_by=lambda field: field.name,
    ).flatmap(lambda fields: record_batches(pa.schema(fields), max_rows=60)),
    group_rows=st.integers(1, 80),
    compression=st.sampled_from(CODECS),
    version=st.sampled_from(["1.0", "2.4", "2.6"]),
    dictionary=st.booleans(),
    page_version=st.sampled_from(["1.0", "2.0"]),
    decimals_as_integers=st.booleans(),
    batch_rows=st.integers(1, 100),
)
def test_every_type_comes_back_as_pyarrow_reads_it(
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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        pq.write_table(
            pa.Table.from_batches([batch]),
            path,
            row_group_size=group_rows,
            compression=compression,
            version=version,
            use_dictionary=dictionary,
            data_page_version=page_version,
            store_decimal_as_integer=decimals_as_integers,
            data_page_size=64,
        )
        expected = pq.read_table(path)
        source = ParquetSource.open(path, decoder="native")
        assert source.schema.equals(expected.schema)
        assert_batches_equal(read(source, batch_rows), expected)


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("page_version", ["1.0", "2.0"])
@pytest.mark.parametrize("distinct", [1, 50, 5_000])
@pytest.mark.parametrize("nulls", [0.0, 0.1, 1.0])
def test_longer_columns_of_every_type(
    tmp_path: Path, compression: str, page_version: str, distinct: int, nulls: float
) -> None:
    """Long enough for many pages, tiles of indices, stretches of rows and a dictionary that overflows."""
    table = sample(40_000, distinct, nulls=nulls, distinct=distinct)
    path = tmp_path / "a.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=17_003,
        compression=compression,
        data_page_version=page_version,
        data_page_size=4_000,
        dictionary_pagesize_limit=20_000,
        store_decimal_as_integer=distinct == 50,
    )
    source = opened(path)
    assert source.schema.equals(FLAT)
    for batch_rows in (5_555, 1_000_000):
        assert read(source, batch_rows).equals(table)


@pytest.mark.parametrize("rows", [1, 8, 16_383, 16_384, 16_385, 100_000])
def test_stretches_of_rows_of_any_length(tmp_path: Path, rows: int) -> None:
    table = pa.table({"n": pa.array(range(rows)), "f": np.arange(rows) / 3})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=30_011)
    for batch_rows in (rows, 7_001, 40_000):
        assert read(opened(path), batch_rows).equals(table)


def test_the_size_is_asked_for_before_each_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(100_000)}), path)
    wanted = [20_000, 50_000, 8_000, 5_000, 30_000]
    (part,) = opened(path).partitions()
    sizes = [batch.num_rows for batch in part.read(lambda: wanted.pop(0) if len(wanted) > 1 else wanted[0])]
    # 80,000 are left for 50,000: two even ones. 40,000 are left for 8,000: what is decoded at least is a third,
    # and cut into 6,667, and then for 5,000 into two.
    assert sizes == [20_000, 40_000, 6_667, 3_334, 3_333, 26_666]


def test_columns_of_three_decoders_in_one_batch(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    rows = 60_000
    table = pa.table(
        {
            "l": [[i] for i in range(rows)],
            "n": pa.array(range(rows)),
            "b": [i % 3 == 0 for i in range(rows)],
            "x": pa.array([None if i % 3 else i / 7 for i in range(rows)]),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=25_000)
    source = ParquetSource.open(path, decoder="native")
    assert source.description.endswith("decoded by dataflare, but b by polars and l by pyarrow")
    for batch_rows in (100, 9_999, 1_000_000):
        assert read(source, batch_rows).equals(table)


def test_large_row_groups_beside_other_decoders(tmp_path: Path) -> None:
    rows = 100_000
    table = pa.table({"n": pa.array(range(rows)), "l": [[i] for i in range(rows)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=rows)
    source = ParquetSource.open(path, decoder="native").with_blocks(2**19)
    assert source.description.endswith("decoded by dataflare, but l by pyarrow")
    batches = [batch for part in source.partitions() for batch in part.read(lambda: rows)]
    assert len(batches) >= 3
    assert pa.Table.from_batches([batch.to_arrow() for batch in batches]).equals(table)


def test_a_large_row_group_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    rows = 200_000
    table = pa.table({"n": pa.array(range(rows))})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=rows)
    (part,) = opened(path).with_blocks(2**18).partitions()
    sizes = [batch.num_rows for batch in part.read(lambda: rows)]
    assert sum(sizes) == rows
    assert max(sizes) <= 2**18 // 8


def test_long_texts_are_decoded_a_block_at_a_time(tmp_path: Path) -> None:
    """Where numbers would still be decoded in stretches that are worth a call."""
    rows = 20_000
    table = pa.table({"s": [str(i) * 200 for i in range(rows)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=rows, use_dictionary=False)
    source = opened(path).with_blocks(2**20)
    batches = [batch for part in source.partitions() for batch in part.read(lambda: rows)]
    assert max(batch.nbytes for batch in batches) < 2 * 2**20
    assert pa.Table.from_batches([batch.to_arrow() for batch in batches]).equals(table)


def test_batches_share_the_page_of_a_dictionary_of_views(tmp_path: Path) -> None:
    rows = 100_000
    texts = pa.array([f"a text that is longer than a view {i % 10}" for i in range(rows)], pa.string_view())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"s": texts}), path, row_group_size=rows)
    (part,) = opened(path).partitions()
    first, second = (batch.to_arrow()["s"].buffers() for batch in list(part.read(lambda: rows // 2)))
    assert len(first) == len(second) == 3
    assert first[2].address == second[2].address
    assert first[2].size == second[2].size < 1_000


def test_batches_keep_no_page_that_they_do_not_refer_to(tmp_path: Path) -> None:
    """Neither that of the row group before, nor that of a dictionary that has been given up."""
    texts = [f"a text that is longer than a view {i}" for i in range(60_000)]
    table = pa.table({"s": pa.array(texts, pa.string_view())})
    path = tmp_path / "a.parquet"
    pq.write_table(
        table, path, row_group_size=20_000, dictionary_pagesize_limit=50_000, data_page_size=10_000
    )
    (part,) = opened(path).partitions()
    batches = [batch.to_arrow()["s"] for batch in part.read(lambda: 20_000)]
    assert pa.chunked_array(batches).to_pylist() == texts
    for batch in batches:
        referred = set(np.frombuffer(batch.buffers()[1], "<i4")[2::4].tolist())
        kept = [number for number, text in enumerate(batch.buffers()[2:]) if text.size]
        assert referred == set(kept)


def test_entries_lie_where_a_step_too_far_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second, larger dictionary takes the memory of the first one only where a copy in steps has room."""
    pool = GuardedPool("end")
    monkeypatch.setattr("dataflare.kernels.cpu.parquet_chunk.default_pool", lambda: pool)
    texts = [f"{i}" for i in range(1_000)] + [f"{i}" for i in range(1_004)]
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, pa.schema([("s", pa.string())])) as writer:
        for part in (texts[:1_000], texts[1_000:]):
            writer.write_table(pa.table({"s": part}))
    assert read(opened(path))["s"].to_pylist() == texts


def test_short_texts_keep_no_memory_beside_their_views(tmp_path: Path) -> None:
    table = pa.table({"s": pa.array(["short", "x" * 12] * 1_000, pa.string_view())})
    path = tmp_path / "a.parquet"
    for dictionary in (True, False):
        pq.write_table(table, path, use_dictionary=dictionary)
        got = read(opened(path))
        assert got.equals(table)
        assert len(got["s"].chunk(0).buffers()) == 2


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for dictionary in (True, False):
        for text in (b"\xff", b"\xc3(" * 30):
            bad = pa.array([b"good", text], pa.binary())
            no_text = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
            pq.write_table(pa.table({"n": [1, 2], "s": no_text}), path, use_dictionary=dictionary)
            message = r"a\.parquet: row group 0 of 1 cannot be decoded: column 's': a text is not UTF-8"
            with pytest.raises(ReadError, match=message):
                read(opened(path))
            assert read(opened(path, ["n"])).num_rows == 2


def test_more_text_than_offsets_can_count_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"s": ["x" * 100] * 1_000}), path)
    monkeypatch.setattr("dataflare.kernels.cpu.parquet_chunk._MOST_OFFSET", 50_000)
    with pytest.raises(
        ReadError, match=r"column 's' has texts so long .* 2 GiB\. Read it with decoder='pyarrow'"
    ):
        read(opened(path))


def test_empty_row_groups_and_files(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64())])
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, schema) as writer:
        for rows in (0, 3, 0, 2):
            writer.write_table(pa.table({"n": range(rows)}, schema=schema))
    assert read(opened(path))["n"].to_pylist() == [0, 1, 2, 0, 1]
    pq.write_table(schema.empty_table(), path)
    assert read(opened(path)).num_rows == 0


def test_other_encodings_and_codecs_are_left_to_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"n": range(100)})
    for options in (
        {"column_encoding": "DELTA_BINARY_PACKED", "use_dictionary": False},
        {"column_encoding": "BYTE_STREAM_SPLIT", "use_dictionary": False},
        {"compression": "lz4"},
    ):
        pq.write_table(table, path, **options)  # type: ignore[arg-type]
        source = ParquetSource.open(path, decoder="native")
        assert "dataflare" not in source.description.rpartition("decoded by")[2]
        assert read(source).equals(table)


def test_other_writers(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    rows = 150_000
    frame = polars.DataFrame(
        {"n": [None if i % 7 == 0 else i * i for i in range(rows)], "x": [i / 3 for i in range(rows)]}
    ).with_columns(d=polars.col("n").cast(polars.Decimal(20, 2)))
    for options in ({}, {"compression": "snappy", "data_page_size": 1_000}):
        frame.write_parquet(path, **options)
        assert read(opened(path), 33_333).equals(pq.read_table(path))
    for version in ("V1", "V2"):
        query = (
            "select range::int as n, (range % 1000)::decimal(12,3) as d, if(range % 3 = 0, null, range) as m"
        )
        duckdb.sql(f"copy ({query} from range({rows})) to '{path}' (parquet_version {version})")
        expected = pq.read_table(path)
        assert read(ParquetSource.open(path, decoder="native"), 33_333).equals(expected)


def test_any_seekable_file(tmp_path: Path) -> None:
    import pyarrow.fs as pa_fs

    table = sample(20_000, 1, nulls=0.1, distinct=300)
    pq.write_table(table, tmp_path / "a.parquet")
    elsewhere = pa_fs.SubTreeFileSystem(str(tmp_path), pa_fs.LocalFileSystem())
    source = ParquetSource.open("a.parquet", decoder="native", filesystem=elsewhere)
    assert not source.is_local
    assert source.description.endswith("decoded by dataflare")
    assert read(source, 7_777).equals(table)
    parts = source.partitions()
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(ReadError, match=r"a\.parquet: the file ends at byte 5,000, before the end of column"):
        list(parts[0].read(lambda: 10))


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"n": range(2_000), "x": np.arange(2_000) / 3})
    pq.write_table(table, path, row_group_size=1_000, use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 8] = b"\xff" * 8
    path.write_bytes(content)
    message = (
        r"a\.parquet: row group 1 of 2 cannot be decoded: column 'x': a page header is damaged\. "
        "The file is damaged, or uses an encoding that the decoder lacks"
    )
    with pytest.raises(ReadError, match=message):
        read(opened(path))
    assert read(opened(path, ["n"])).num_rows == 2_000


def test_a_file_that_is_cut_or_gone_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(1_000)}), path)
    (part,) = opened(path).partitions()
    path.write_bytes(path.read_bytes()[:100])
    message = r"a\.parquet: the file ends at byte 100, before the end of column 'n' of row group 0"
    with pytest.raises(ReadError, match=message):
        list(part.read(lambda: 10))
    path.unlink()
    with pytest.raises(ReadError, match=r"a\.parquet: the file is not there any more"):
        list(part.read(lambda: 10))


def test_a_chunk_that_the_file_has_no_room_for_gets_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(2_000)}), path, compression="none", use_dictionary=False)
    content = path.read_bytes()
    size = pq.read_metadata(path).row_group(0).column(0).total_compressed_size
    coded = bytes([size << 1 & 127 | 128, size >> 6 & 127 | 128, size >> 13])  # zigzag
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    damaged = content[:footer] + content[footer:].replace(coded, b"\x80\x80\x40")  # 512 KiB
    assert damaged != content
    path.write_bytes(damaged)
    before = default_pool().statistics().acquisitions
    with pytest.raises(
        ReadError, match=rf"the file ends at byte {len(content):,}, before the end of column 'n'"
    ):
        read(opened(path))
    assert default_pool().statistics().acquisitions == before + 2  # values and validity


@pytest.mark.parametrize("codec", ["zstd", "gzip", "brotli"])
def test_a_page_that_decompresses_to_less_than_it_says_is_damaged(tmp_path: Path, codec: Any) -> None:
    """A codec's own function would leave the rest of the page as it found it: what was in memory before."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": range(500)}), path, compression=codec, use_dictionary=False)
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    said = b"\x15\x00\x15"  # a data page, and before its size without compression
    place = content.index(said, chunk.data_page_offset) + len(said)
    size = content[place] & 127 | content[place + 1] << 7
    larger = size + 2 * 1_000  # zigzag
    content[place : place + 2] = bytes([larger & 127 | 128, larger >> 7])
    path.write_bytes(content)
    with pytest.raises(ReadError, match="column 'n': a page"):
        read(opened(path))


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 257, 65_791, 65_792, 1_000_000])
def test_what_a_zstandard_frame_says_of_its_size(size: int) -> None:
    frame = pa.Codec("zstd").compress(bytes(size))
    assert _zstd_content_bytes(frame) == size
    for end in range(min(18, frame.size)):
        assert _zstd_content_bytes(frame.slice(0, end)) in (None, size, *range(size))


def _damaged_files(folder: Path) -> list[Path]:
    table = sample(3_000, 7, nulls=0.2, distinct=200)
    paths = []
    for number, (codec, page_version) in enumerate(
        [("snappy", "1.0"), ("none", "1.0"), ("zstd", "2.0"), ("snappy", "2.0"), ("gzip", "1.0")]
    ):
        paths.append(folder / f"{number}.parquet")
        pq.write_table(
            table.slice(0, 3_000 if codec != "gzip" else 300),
            paths[-1],
            compression=codec,
            data_page_version=page_version,
            data_page_size=2_000,
            row_group_size=1_700,
        )
    return paths


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return [path.read_bytes() for path in _damaged_files(tmp_path_factory.mktemp("good"))]


@given(data=st.data())
def test_a_file_with_flipped_bytes_is_read_or_refused(good_files: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(good_files)))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(4, len(content) - 9))
        content[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        path.write_bytes(content)
        try:
            source = ParquetSource.open(path, decoder="native")
            num_rows = source.num_rows
            assert read(source, 1_000).num_rows == num_rows
        except ReadError as error:
            assert "a.parquet: " in str(error)
