"""Files appear whole or not at all: names, commit, abort, what exists, what is full, what is forbidden."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest

from dataflare.batch import SharedDataBatch
from dataflare.kernels.errors import OptionError, OutputExistsError, SinkError
from dataflare.sinks.base import BatchSink
from dataflare.sinks.csv import CsvSink
from dataflare.sinks.files import FileSink
from dataflare.sinks.ipc import IpcSink
from dataflare.sinks.parquet import ParquetSink
from dataflare.sinks.staging import write_failure

TABLE = pa.table({"n": range(1_000), "s": [f"n{i}" for i in range(1_000)]})
BATCHES = [SharedDataBatch.from_arrow(batch) for batch in TABLE.to_batches(300)]
FORMATS = {"parquet": ParquetSink, "csv": CsvSink, "arrow": IpcSink}


def noise(rows: int) -> SharedDataBatch:
    return SharedDataBatch.from_arrow(pa.table({"x": [os.urandom(16) for _ in range(rows)]}))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def run(sink: FileSink, batches: list[SharedDataBatch] = BATCHES) -> tuple[str, ...]:
    assert isinstance(sink, BatchSink)
    sink.open(batches[0].schema)
    for batch in batches:
        sink.write(batch)
    return sink.commit()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_is_not_there_before_the_commit_and_nothing_else_after(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    sink = FORMATS[suffix](path)
    assert sink.description.endswith(f"out.{suffix}")
    sink.open(TABLE.schema)
    sink.write(BATCHES[0])
    (temporary,) = names(tmp_path)
    assert temporary.startswith(".out.")
    assert temporary.endswith(".tmp")
    assert sink.commit() == (str(path),)
    assert names(tmp_path) == [f"out.{suffix}"]
    sink.abort()
    assert names(tmp_path) == [f"out.{suffix}"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("written", [0, 1, 4])
def test_abort_leaves_nothing_and_removes_the_folders_it_made(
    tmp_path: Path, suffix: str, end: str, written: int
) -> None:
    sink = FORMATS[suffix](f"{tmp_path}/new/folder/out{end or '.' + suffix}")
    sink.open(TABLE.schema)
    for batch in BATCHES[:written]:
        sink.write(batch)
    assert names(tmp_path) != []
    sink.abort()
    sink.abort()
    assert names(tmp_path) == []


def test_abort_before_open_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    run(ParquetSink(path))
    ParquetSink(path).abort()
    second = ParquetSink(path)
    with pytest.raises(OutputExistsError):
        second.open(TABLE.schema)
    second.abort()
    assert names(tmp_path) == ["a.parquet"]


def test_folders_that_are_missing_are_made(tmp_path: Path) -> None:
    run(ParquetSink(tmp_path / "new" / "a.parquet"))
    assert names(tmp_path) == ["new", "new/a.parquet"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_run_without_batches_writes_the_schema(tmp_path: Path, suffix: str) -> None:
    for path in (f"{tmp_path}/a.{suffix}", f"{tmp_path}/parts/"):
        sink = FORMATS[suffix](path)
        sink.open(TABLE.schema)
        sink.write(SharedDataBatch.empty(TABLE.schema))
        assert len(sink.commit()) == 1
    assert names(tmp_path) == [f"a.{suffix}", "parts", f"parts/part-00000.{suffix}"]
    if suffix == "parquet":
        assert pq.read_table(tmp_path / "a.parquet").schema == TABLE.schema


def test_an_output_that_exists_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("mine")
    with pytest.raises(
        OutputExistsError,
        match=r"a\.parquet: is there already\. Nothing was written; overwrite=True replaces it",
    ):
        ParquetSink(path).open(TABLE.schema)
    assert path.read_text() == "mine"
    run(ParquetSink(path, overwrite=True))
    assert pq.read_table(path).num_rows == 1_000
    assert names(tmp_path) == ["a.parquet"]


def test_a_replaced_file_stays_until_the_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("mine")
    sink = ParquetSink(path, overwrite=True)
    sink.open(TABLE.schema)
    sink.write(BATCHES[0])
    assert path.read_text() == "mine"
    sink.abort()
    assert names(tmp_path) == ["a.parquet"]
    assert path.read_text() == "mine"


def test_a_file_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hard_links in (True, False):
        path = tmp_path / f"{hard_links}.parquet"
        sink = ParquetSink(path)
        sink.open(TABLE.schema)
        sink.write(BATCHES[0])
        path.write_text("theirs")
        if not hard_links:
            monkeypatch.setattr(Path, "hardlink_to", _no_hard_links)
        with pytest.raises(OutputExistsError, match="appeared while the run was under way"):
            sink.commit()
        sink.abort()
        assert path.read_text() == "theirs"
    assert names(tmp_path) == ["False.parquet", "True.parquet"]
    assert run(ParquetSink(tmp_path / "c.parquet")) == (f"{tmp_path}/c.parquet",)


def _no_hard_links(path: Path, target: Path) -> None:
    raise PermissionError(errno.EPERM, "no hard links here")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.parquet").write_text("mine")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "real" / "a.parquet")
    run(ParquetSink(tmp_path / "link.parquet", overwrite=True))
    assert (tmp_path / "link.parquet").is_symlink()
    assert pq.read_table(tmp_path / "real" / "a.parquet").num_rows == 1_000


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_directory_of_parts_appears_at_once(tmp_path: Path, suffix: str) -> None:
    sink = FORMATS[suffix](f"{tmp_path}/out/", part_bytes=4_000)
    sink.open(TABLE.schema)
    for batch in BATCHES:
        sink.write(batch)
        assert not (tmp_path / "out").exists()
    files = sink.commit()
    assert len(files) >= 2
    assert files == tuple(f"{tmp_path}/out/part-{i:05d}.{suffix}" for i in range(len(files)))
    assert names(tmp_path) == ["out", *sorted(str(Path(file).relative_to(tmp_path)) for file in files)]


def test_a_directory_is_replaced_only_if_it_has_nothing_but_parts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(ParquetSink(f"{out}/", part_bytes=4_000))
    before = names(tmp_path)
    with pytest.raises(
        OutputExistsError, match=r"out/: is there already, and has \d+ entries\. .*overwrite=True"
    ):
        ParquetSink(f"{out}/").open(TABLE.schema)
    assert names(tmp_path) == before
    run(ParquetSink(f"{out}/", overwrite=True))
    assert names(tmp_path) == ["out", "out/part-00000.parquet"]
    (out / "notes.txt").touch()
    with pytest.raises(OutputExistsError, match=r"out/: has 'notes\.txt' in it, which is no part file"):
        ParquetSink(f"{out}/", overwrite=True).open(TABLE.schema)
    with pytest.raises(
        OutputExistsError, match="is a directory. For part files in it, end the path with a slash"
    ):
        ParquetSink(out, overwrite=True).open(TABLE.schema)
    (tmp_path / "empty").mkdir()
    run(ParquetSink(f"{tmp_path}/empty/"))
    with pytest.raises(OutputExistsError, match="is a file; without the slash"):
        ParquetSink(f"{out}/notes.txt/").open(TABLE.schema)


def test_a_failed_replacement_of_a_directory_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(ParquetSink(f"{tmp_path}/out/", part_bytes=4_000))
    before = names(tmp_path)
    sink = ParquetSink(f"{tmp_path}/out/", overwrite=True)
    sink.open(TABLE.schema)
    sink.write(BATCHES[0])
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp") and target.name == "out" and ".old." not in path.name:
            raise OSError(errno.EIO, "the disk fell off")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(SinkError, match="out/: cannot be written after [0-9,]+ bytes: the disk fell off"):
        sink.commit()
    sink.abort()
    assert names(tmp_path) == before


@pytest.fixture
def small_file_limit() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_file_limit")
@pytest.mark.parametrize("end", [".parquet", ".arrow", "/"])
def test_a_file_that_may_not_grow(tmp_path: Path, end: str) -> None:
    kind: Callable[..., FileSink] = IpcSink if end == ".arrow" else ParquetSink
    sink = kind(f"{tmp_path}/out{end}")
    with pytest.raises(
        SinkError, match=r"out.*: cannot be written after [\d,]+ bytes: the file would exceed the largest"
    ):
        run(sink, [noise(60_000)] * 2)
    sink.abort()
    assert names(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("end", [".parquet", ".arrow", ".csv", "/"])
def test_a_disk_that_is_full(tiny_disk: Path, end: str) -> None:
    sink = {".arrow": IpcSink, ".csv": CsvSink}.get(end, ParquetSink)(f"{tiny_disk}/out{end}")
    batch = SharedDataBatch.from_arrow(pa.table({"x": [os.urandom(16).hex() for _ in range(60_000)]}))
    with pytest.raises(
        SinkError, match=r"out.*: cannot be written after [\d,]+ bytes: no space is left on the device"
    ):
        run(sink, [batch, batch])
    sink.abort()
    assert names(tiny_disk) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "x"),
            "a/b: cannot be written after 12,345 bytes: no space is left on the device",
        ),
        (OSError("IOError: [errno 28] No space"), "no space is left on the device"),
        (OSError(errno.EDQUOT, "x"), "the disk quota is used up"),
        (OSError(errno.EACCES, "x"), "a/b: permission denied: this user may not write there"),
        (OSError(errno.EROFS, "x"), "a/b: is on a file system that is read-only"),
        (OSError(errno.EIO, "bad", "c/d"), "a/b: cannot be written after 12,345 bytes: bad: c/d"),
        (OSError("odd\nmore"), "a/b: cannot be written after 12,345 bytes: odd."),
    ],
)
def test_what_the_system_says_is_said_for_people(error: OSError, message: str) -> None:
    assert message in str(write_failure("a/b", error, 12_345))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permission_denied(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SinkError, match="permission denied: this user may not write there"):
        ParquetSink(tmp_path / "a.parquet").open(TABLE.schema)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        SinkError, match=r"file/a\.parquet: cannot be written: .*file is a file, not a folder"
    ):
        ParquetSink(tmp_path / "file" / "a.parquet").open(TABLE.schema)
    with pytest.raises(SinkError, match="/dev/full: is a device or a pipe"):
        ParquetSink("/dev/full", overwrite=True).open(TABLE.schema)
    with pytest.raises(SinkError, match="/dev/full: is there already"):
        ParquetSink("/dev/full").open(TABLE.schema)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ParquetSink("a.csv"),
            r"a\.csv: ends with \.csv, which is not Parquet\. Use write_csv, or end the path with \.parquet",
        ),
        (lambda: CsvSink("a.arrow"), r"a\.arrow: ends with \.arrow, which is not CSV\. Use write_ipc"),
        (lambda: IpcSink("a.parquet"), "Use write_parquet"),
        (lambda: CsvSink("a.csv.xz"), r"files cannot be compressed as \.xz\. Use \.gz, \.zst"),
        (
            lambda: ParquetSink("a.parquet", compression="ztsd"),
            r"compression 'ztsd' is not one of Parquet's: .*Did you mean 'zstd'",
        ),  # type: ignore[arg-type]
        (
            lambda: ParquetSink("a.parquet", compression_level=3),
            "compression_level is for zstd, gzip, brotli; snappy has no levels",
        ),
        (lambda: ParquetSink("a.parquet", row_group_rows=0), "row_group_rows must be at least 1"),
        (lambda: ParquetSink("a.parquet", part_bytes=9), "part_bytes is for directories of part files"),
        (lambda: ParquetSink("a/", part_bytes=0), "part_bytes must be at least 1"),
        (
            lambda: CsvSink("a/", compression="xz"),
            "compression must be none, gzip, bz2, zstd or lz4, not 'xz'",
        ),  # type: ignore[arg-type]
        (
            lambda: CsvSink("a.csv", compression="gzip"),
            r"does not go with the suffix; end the path with \.gz",
        ),
        (lambda: CsvSink("a.csv", delimiter=";;"), "delimiter must be one ASCII character"),
        (lambda: IpcSink("a.arrow", compression="gzip"), "must be 'none', 'lz4' or 'zstd' for Arrow IPC"),  # type: ignore[arg-type]
        (lambda: ParquetSink(""), "an output path is text or a pathlib path, not ''"),
        (lambda: ParquetSink(3), "an output path is text or a pathlib path, not 3"),  # type: ignore[arg-type]
    ],
)
def test_options_are_checked_at_once(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_a_sink_serves_one_run(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path / "a.parquet")
    with pytest.raises(SinkError, match="was not opened"):
        sink.write(BATCHES[0])
    run(sink)
    with pytest.raises(SinkError, match="a sink serves one run"):
        sink.open(TABLE.schema)
    with pytest.raises(SinkError, match="is closed"):
        sink.write(BATCHES[0])


@pytest.mark.parametrize("end", ["a.parquet", "out/"])
def test_other_file_systems_upload_under_a_temporary_name(tmp_path: Path, end: str) -> None:
    inside = pa_fs.SubTreeFileSystem(str(tmp_path), pa_fs.LocalFileSystem())
    sink = ParquetSink(end, filesystem=inside)
    sink.open(TABLE.schema)
    sink.write(BATCHES[0])
    assert all(".tmp" in name or name == "out" for name in names(tmp_path))
    sink.commit()
    assert names(tmp_path) == (["a.parquet"] if end == "a.parquet" else ["out", "out/part-00000.parquet"])
    with pytest.raises(OutputExistsError):
        ParquetSink(end, filesystem=inside).open(TABLE.schema)
    run(ParquetSink(end, filesystem=inside, overwrite=True))
    gone = ParquetSink("b.parquet", filesystem=inside)
    gone.open(TABLE.schema)
    gone.write(BATCHES[0])
    before = names(tmp_path)
    gone.abort()
    assert len(names(tmp_path)) == len(before) - 1


def test_file_urls_are_local_files(tmp_path: Path) -> None:
    run(ParquetSink(f"file://{tmp_path}/a.parquet"))
    run(ParquetSink(f"file://{tmp_path}/out/"))
    assert names(tmp_path) == ["a.parquet", "out", "out/part-00000.parquet"]
