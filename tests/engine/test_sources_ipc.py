"""Arrow IPC files as a source: every Arrow type, both formats, windows on the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pytest

import dataflare as flare
from dataflare.kernels.errors import MemoryLimitError, ReadError, SchemaMismatchError
from dataflare.sample_data import every_type, sample_array
from dataflare.sources.ipc import IpcSource
from dataflare.sources.ipc_metadata import stream_layout


def write(path: Path, table: pa.Table, batch_rows: int = 4, compression: str | None = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, new(file, table.schema, options=options) as writer:
        for batch in table.to_batches(batch_rows):
            writer.write_batch(batch)
    return path


def read(source: IpcSource) -> list[dict[str, Any]]:
    return [
        row for part in source.partitions() for batch in part.read(lambda: 3) for row in batch.to_pylist()
    ]


TABLE = pa.table(
    {"n": range(10), "s": [f"n{i}" for i in range(10)], "d": pa.array(["x", "y"] * 5).dictionary_encode()}
)


@pytest.mark.parametrize("name", ["a.arrow", "a.arrows", "a.feather"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_both_formats(tmp_path: Path, name: str, compression: str | None) -> None:
    source = IpcSource.open(write(tmp_path / name, TABLE, compression=compression))
    assert read(source) == TABLE.to_pylist()
    assert source.num_rows == 10
    assert read(source.with_projection(["d", "n"])) == TABLE.select(["d", "n"]).to_pylist()
    counts = [
        batch.num_rows for part in source.with_projection([]).partitions() for batch in part.read(lambda: 99)
    ]
    assert counts == [4, 4, 2]


@pytest.mark.parametrize("data_type", every_type(), ids=str)
def test_every_type(tmp_path: Path, data_type: pa.DataType) -> None:
    array = sample_array(data_type, 5)
    path = write(tmp_path / "a.arrow", pa.table({"x": array}))
    got = [batch["x"] for part in IpcSource.open(path).partitions() for batch in part.read(lambda: 99)]
    assert sum(len(each) for each in got) == 5
    assert all(each.type == data_type for each in got)
    assert repr([value for each in got for value in each.to_pylist()]) == repr(array.to_pylist())  # NaN too


def test_uncompressed_files_are_not_copied(tmp_path: Path) -> None:
    rows = 100_000
    path = write(tmp_path / "a.arrow", pa.table({"n": pa.array(range(rows))}), batch_rows=rows)
    before = pa.total_allocated_bytes()
    (part,) = IpcSource.open(path).partitions()
    batches = list(part.read(lambda: 1_000))
    assert len(batches) == 100
    assert pa.total_allocated_bytes() - before < 100_000
    assert batches[99]["n"][999].as_py() == rows - 1


def test_partitions_are_ranges_of_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflare.sources.ipc._PARTITION_ROWS", 6)
    source = IpcSource.open(write(tmp_path / "a.arrow", TABLE))
    assert [part.description.rpartition(", ")[2] for part in source.partitions()] == [
        "batches 0 to 1",
        "batches 2 to 2",
    ]
    assert [part.num_rows for part in source.partitions()] == [8, 2]
    assert read(source) == TABLE.to_pylist()


def test_empty_files(tmp_path: Path) -> None:
    empty = TABLE.slice(0, 0)
    for name in ("a.arrow", "a.arrows"):
        assert read(IpcSource.open(write(tmp_path / name, empty))) == []


@pytest.mark.parametrize(
    ("name", "cut", "message"),
    [
        (
            "a.arrow",
            -100,
            r"a\.arrow: is a truncated or damaged Arrow IPC file: it begins as one, but .*Was it copied only in part",
        ),
        ("a.arrows", -300, r"a\.arrows: batch \d cannot be read: .*The file is damaged"),
    ],
)
def test_truncated_files(tmp_path: Path, name: str, cut: int, message: str) -> None:
    path = write(tmp_path / name, TABLE)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ReadError, match=message):
        read(IpcSource.open(path))


def test_what_is_not_ipc(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(b"hello, world, this is text")
    with pytest.raises(ReadError, match=r"a\.arrow: is not an Arrow IPC file or stream"):
        IpcSource.open(path)
    path.write_bytes(b"")
    with pytest.raises(ReadError, match=r"a\.arrow: is empty \(0 bytes\)"):
        IpcSource.open(path)


def test_a_change_of_schema_between_files(tmp_path: Path) -> None:
    write(tmp_path / "1.arrow", pa.table({"n": [1]}))
    write(tmp_path / "2.arrow", pa.table({"n": ["x"]}))
    with pytest.raises(SchemaMismatchError, match=r"2\.arrow: column 'n' is string, but int64 in .*1\.arrow"):
        IpcSource.open(tmp_path).partitions()


ROWS = 200_000
NUMBERS = pa.table({"a": range(ROWS), "b": [n * 0.5 for n in range(ROWS)], "c": [n % 7 for n in range(ROWS)]})


def test_records_are_counted_without_decoding(tmp_path: Path) -> None:
    for name in ("a.arrow", "a.arrows"):
        path = write(tmp_path / name, NUMBERS, batch_rows=50_000, compression="zstd")
        before = pa.total_allocated_bytes()
        source = IpcSource.open(path)
        assert source.num_rows == ROWS
        assert source.size_bytes == ROWS * 24
        assert pa.total_allocated_bytes() - before < 10_000
        damaged = bytearray(path.read_bytes())
        frame = damaged.index(b"\x28\xb5\x2f\xfd")  # where data compressed by zstd begin
        damaged[frame : frame + 4] = b"none"
        path.write_bytes(damaged)
        assert IpcSource.open(path).num_rows == ROWS
        with pytest.raises(ReadError, match=r"batch 0 cannot be read"):
            read(IpcSource.open(path))


def test_what_reading_holds_is_known_before(tmp_path: Path) -> None:
    mapped = IpcSource.open(write(tmp_path / "mapped.arrow", NUMBERS, batch_rows=50_000))
    assert mapped.reading_bytes == 0 and mapped.reading_detail is None
    path = write(tmp_path / "packed.arrow", NUMBERS, batch_rows=50_000, compression="lz4")
    packed = IpcSource.open(path)
    assert 2 * 50_000 * 24 < packed.reading_bytes < 2 * 50_000 * 24 + path.stat().st_size
    one = packed.with_projection(["b"])
    assert 2 * 50_000 * 8 < one.reading_bytes < packed.reading_bytes / 2
    assert one.size_bytes == ROWS * 8


@pytest.mark.parametrize("name", ["a.arrow", "a.arrows"])
def test_a_batch_too_large_for_the_limit_is_refused_before_anything_runs(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, NUMBERS, batch_rows=ROWS, compression="zstd")
    out = tmp_path / "out.parquet"
    pipeline = flare.read_ipc(path).filter(lambda r: r.c < 3)
    with pytest.raises(
        MemoryLimitError, match=r"batch 0 of .*a\.arrows? is read as a whole, .* MiB: .*smaller"
    ):
        pipeline.write_parquet(out).run(memory_limit="4MB", workers=1)
    assert not out.exists()
    smaller = write(tmp_path / f"smaller_{name}", NUMBERS, batch_rows=10_000, compression="zstd")
    report = flare.read_ipc(smaller).filter(lambda r: r.c < 3).write_parquet(out).run(memory_limit="4MB")
    assert report.rows_in == ROWS
    assert report.peak_host_bytes <= 4_000_000
    wanted = pipeline.select("c").write_parquet(tmp_path / "wanted.parquet")
    assert wanted.run(memory_limit="4MB").rows_out == report.rows_out


@pytest.mark.parametrize(
    ("name", "compression"), [("a.arrows", None), ("a.arrows", "lz4"), ("a.arrow", "zstd")]
)
def test_a_batch_of_another_machine_is_refused_when_it_comes(
    tmp_path: Path, name: str, compression: str | None
) -> None:
    batches = [NUMBERS.slice(0, 10_000), NUMBERS.slice(10_000, 10_000), NUMBERS.slice(20_000)]
    path = tmp_path / name
    new = pa.ipc.new_stream if path.suffix == ".arrows" else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, new(file, NUMBERS.schema, options=options) as writer:
        for batch in batches:
            writer.write_table(batch)
    elsewhere = fsspec.filesystem("memory")
    elsewhere.pipe(f"/{name}", path.read_bytes())
    pipeline = flare.read_ipc(f"memory://{name}").filter(lambda r: r.c < 3)
    out = tmp_path / "out.parquet"
    with pytest.raises(
        MemoryLimitError, match=r"a\.arrows?: batch 2 is read as a whole.*, after .*smaller batches, or raise"
    ):
        pipeline.write_parquet(out).run(memory_limit="8MB", workers=1)
    assert list(tmp_path.iterdir()) == [path]
    assert pipeline.write_parquet(out).run(memory_limit="64MB").rows_in == ROWS
    elsewhere.rm(f"/{name}")


def test_uncompressed_files_of_another_machine_tell_what_they_take(tmp_path: Path) -> None:
    elsewhere = fsspec.filesystem("memory")
    elsewhere.pipe("/b.arrow", write(tmp_path / "b.arrow", NUMBERS, batch_rows=50_000).read_bytes())
    source = IpcSource.open("memory://b.arrow")
    assert source.reading_bytes == 2 * 50_000 * 24
    assert "batch 0 of memory://b.arrow" in (source.reading_detail or "")
    elsewhere.rm("/b.arrow")


def texts_of(number: int) -> pa.RecordBatch:
    """Return a batch with a dictionary of its own, of about 200 KB."""
    texts = pa.array([f"{number} {entry}: " + "x" * 190 for entry in range(1_000)])
    return pa.record_batch({"d": pa.DictionaryArray.from_arrays(pa.array(range(1_000), pa.int32()), texts)})


def stream_of(batches: list[pa.RecordBatch], *, deltas: bool = False) -> bytes:
    target = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4", emit_dictionary_deltas=deltas)
    with pa.ipc.new_stream(target, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return target.getvalue()


def test_dictionaries_that_are_replaced_are_let_go(tmp_path: Path) -> None:
    stream = stream_of([texts_of(number) for number in range(100)])
    path = tmp_path / "d.arrows"
    path.write_bytes(stream)
    assert 400_000 < IpcSource.open(path).reading_bytes < 600_000
    elsewhere = fsspec.filesystem("memory")
    elsewhere.pipe("/d.arrows", stream)
    for place in (path, "memory://d.arrows"):
        assert flare.read_ipc(place).filter(lambda r: len(r.d) > 0).count(memory_limit="16MB") == 100_000
    elsewhere.rm("/d.arrows")


def test_dictionaries_that_grow_are_counted_whole(tmp_path: Path) -> None:
    entries = pa.concat_arrays([texts_of(number)["d"].dictionary for number in range(20)])
    indices = pa.array(range(1_000), pa.int32())
    batches = [
        pa.record_batch({"d": pa.DictionaryArray.from_arrays(indices, entries.slice(0, 1_000 * number))})
        for number in range(1, 21)
    ]
    path = tmp_path / "d.arrows"
    path.write_bytes(stream_of(batches, deltas=True))
    source = IpcSource.open(path)
    # The one that the last batch has, and its parts while they are copied to a longer one.
    assert 2 * entries.nbytes < source.reading_bytes < 4 * entries.nbytes
    assert "the dictionaries of" in (source.reading_detail or "")
    with pytest.raises(
        MemoryLimitError, match=r"the dictionaries of .*d\.arrows are held, .* MiB: .*without"
    ):
        flare.read_ipc(path).write_parquet(tmp_path / "out.parquet").run(memory_limit="8MB", workers=1)
    elsewhere = fsspec.filesystem("memory")
    elsewhere.pipe("/d.arrows", path.read_bytes())
    with pytest.raises(
        MemoryLimitError, match=r"d\.arrows: dictionaries for batch \d+ are held, which takes"
    ):
        flare.read_ipc("memory://d.arrows").write_parquet(tmp_path / "out.parquet").run(memory_limit="8MB")
    elsewhere.rm("/d.arrows")


def test_a_damaged_dictionary_is_called_one(tmp_path: Path) -> None:
    stream = bytearray(stream_of([texts_of(0), texts_of(1)]))
    layout = stream_layout(pa.BufferReader(bytes(stream)))
    body = layout.dictionaries[1].offset + layout.dictionaries[1].metadata_bytes
    stream[body : body + 8] = (-5).to_bytes(8, "little", signed=True)  # the length of its first buffer
    path = tmp_path / "d.arrows"
    path.write_bytes(stream)
    with pytest.raises(
        ReadError, match=r"a dictionary before batch 1 cannot be read: .* says that it has -5"
    ):
        _ = IpcSource.open(path).reading_bytes
