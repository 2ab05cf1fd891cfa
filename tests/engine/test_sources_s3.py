"""Reading from and writing to S3, against a server in this process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest

from dataflare.batch import SharedDataBatch
from dataflare.kernels.errors import OutputExistsError, ReadError
from dataflare.sinks.csv import CsvSink
from dataflare.sinks.parquet import ParquetSink
from dataflare.sources.csv import CsvSource
from dataflare.sources.parquet import ParquetSource

TABLE = pa.table({"n": range(1_000), "s": [f"n{i}" for i in range(1_000)]})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    threaded = pytest.importorskip(
        "moto.server", reason="moto[server,s3] is not installed"
    ).ThreadedMotoServer
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = threaded(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{server}",
    }.items():
        monkeypatch.setenv(name, value)
    s3 = pa_fs.S3FileSystem(
        endpoint_override=server, scheme="http", allow_bucket_creation=True, allow_bucket_deletion=True
    )
    s3.create_dir("flights")
    yield "flights"
    s3.delete_dir("flights")


@pytest.fixture
def url(bucket: str) -> str:
    return f"s3://{bucket}"


def listed(server: str, bucket: str) -> list[str]:
    s3 = pa_fs.S3FileSystem(endpoint_override=server, scheme="http")
    found = s3.get_file_info(pa_fs.FileSelector(bucket, recursive=True))
    return sorted(info.path for info in found if info.is_file)


def write(sink: Any) -> tuple[str, ...]:
    sink.open(TABLE.schema)
    for batch in TABLE.to_batches(300):
        sink.write(SharedDataBatch.from_arrow(batch))
    files: tuple[str, ...] = sink.commit()
    return files


def rows(source: Any) -> list[dict[str, Any]]:
    return [
        row for part in source.partitions() for batch in part.read(lambda: 400) for row in batch.to_pylist()
    ]


def test_there_and_back(server: str, bucket: str, url: str) -> None:
    assert write(ParquetSink(f"{url}/2024/a.parquet")) == (f"{url}/2024/a.parquet",)
    write(CsvSink(f"{url}/2024/a.csv.gz"))
    assert listed(server, bucket) == ["flights/2024/a.csv.gz", "flights/2024/a.parquet"]
    for path in (f"{url}/2024/a.parquet", f"{url}/2024", f"{url}/2024/", f"{url}/*/*.parquet"):
        source = ParquetSource.open(path, decoder="polars")
        assert rows(source) == TABLE.to_pylist()
        assert source.description.endswith("decoded by pyarrow")  # from a network
    assert rows(CsvSource.open(f"{url}/2024/a.csv.gz")) == TABLE.to_pylist()


def test_a_directory_of_parts(server: str, bucket: str, url: str) -> None:
    files = write(ParquetSink(f"{url}/out/", part_bytes=2_000, row_group_rows=100))
    assert len(files) > 2
    assert files[0] == f"{url}/out/part-00000.parquet"
    assert listed(server, bucket) == [file.removeprefix("s3://") for file in files]
    assert rows(ParquetSource.open(f"{url}/out/")) == TABLE.to_pylist()
    with pytest.raises(OutputExistsError, match="is there already"):
        write(ParquetSink(f"{url}/out/"))
    write(ParquetSink(f"{url}/out/", overwrite=True))
    assert listed(server, bucket) == ["flights/out/part-00000.parquet"]


def test_nothing_is_left_of_what_is_given_up(server: str, bucket: str, url: str) -> None:
    for path in ("a.parquet", "out/"):
        sink = ParquetSink(f"{url}/{path}", row_group_rows=10)
        sink.open(TABLE.schema)
        sink.write(SharedDataBatch.from_arrow(TABLE))
        sink.abort()
        assert listed(server, bucket) == []


def test_outputs_that_exist(url: str) -> None:
    write(ParquetSink(f"{url}/a.parquet"))
    with pytest.raises(
        OutputExistsError, match=r"s3://flights/a\.parquet: is there already\. .*overwrite=True"
    ):
        ParquetSink(f"{url}/a.parquet").open(TABLE.schema)
    write(ParquetSink(f"{url}/a.parquet", overwrite=True))


def test_what_is_missing(url: str) -> None:
    write(ParquetSink(f"{url}/flights.parquet"))
    with pytest.raises(
        ReadError,
        match=r"s3://flights/flihgts\.parquet: there is no such file\. Did you mean 'flights\.parquet'\?",
    ):
        ParquetSource.open(f"{url}/flihgts.parquet")


def test_fsspec_style_file_systems_are_taken_too(server: str, bucket: str, url: str) -> None:
    write(ParquetSink(f"{url}/a.parquet"))
    s3 = pa_fs.S3FileSystem(endpoint_override=server, scheme="http")
    assert rows(ParquetSource.open(f"{bucket}/a.parquet", filesystem=s3)) == TABLE.to_pylist()
    assert pq.read_table(f"{bucket}/a.parquet", filesystem=s3).num_rows == 1_000
