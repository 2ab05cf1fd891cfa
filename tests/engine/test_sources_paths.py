"""What a user may pass as files, the order they come in, and what is said when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.fs as pa_fs
import pytest

from dataflare.kernels.errors import OptionError, ReadError
from dataflare.sources.paths import find_files

SUFFIXES = (".parquet",)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = "part-10.parquet part-2.parquet part-1.parquet _tmp.parquet .hidden.parquet notes.txt"
    for name in [*names.split(), "deep/part-3.parquet", "deep/_new/part-4.parquet", "b[1].parquet"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def found(paths: object, root: Path) -> list[str]:
    return [str(Path(file.path).relative_to(root)) for file in find_files(paths, suffixes=SUFFIXES)]  # type: ignore[arg-type]


def test_a_directory_is_walked_in_natural_order_without_hidden_and_unfinished_files(data: Path) -> None:
    expected = ["b[1].parquet", "deep/part-3.parquet", "part-1.parquet", "part-2.parquet", "part-10.parquet"]
    assert found(data, data) == expected
    assert found(f"{data}/", data) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("part-*.parquet", ["part-1.parquet", "part-2.parquet", "part-10.parquet"]),
        ("part-?.parquet", ["part-1.parquet", "part-2.parquet"]),
        ("part-[!1].parquet", ["part-2.parquet"]),
        ("part-[12].parquet", ["part-1.parquet", "part-2.parquet"]),
        ("*/part-*.parquet", ["deep/part-3.parquet"]),
        ("**/part-*.parquet", ["deep/part-3.parquet", "part-1.parquet", "part-2.parquet", "part-10.parquet"]),
        ("_*.parquet", ["_tmp.parquet"]),
        ("*.txt", ["notes.txt"]),
    ],
)
def test_globs(data: Path, pattern: str, expected: list[str]) -> None:
    assert found(f"{data}/{pattern}", data) == expected


def test_a_name_with_wildcards_in_it_means_that_file(data: Path) -> None:
    assert found(f"{data}/b[1].parquet", data) == ["b[1].parquet"]


def test_a_list_keeps_its_order_and_may_repeat(data: Path) -> None:
    paths = [data / "part-2.parquet", str(data / "part-1.parquet"), data / "part-2.parquet"]
    assert found(paths, data) == ["part-2.parquet", "part-1.parquet", "part-2.parquet"]


def test_messages_show_paths_as_they_were_written(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    assert [file.shown for file in find_files("part-?.parquet", suffixes=SUFFIXES)] == [
        "part-1.parquet",
        "part-2.parquet",
    ]
    assert [file.shown for file in find_files("deep", suffixes=SUFFIXES)] == ["deep/part-3.parquet"]


def test_local_paths_survive_a_change_of_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    (file,) = find_files("part-1.parquet", suffixes=SUFFIXES)
    monkeypatch.chdir("/")
    with file.open() as handle:
        assert handle.read() == b"12345"


def test_a_home_folder_is_expanded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(data))
    assert found("~/part-1.parquet", data) == ["part-1.parquet"]


def test_urls_and_file_systems(data: Path) -> None:
    assert found(f"file://{data}/part-1.parquet", data) == ["part-1.parquet"]
    assert found(f"file://{data}/part-*.parquet", data)[0] == "part-1.parquet"
    inside = pa_fs.SubTreeFileSystem(str(data), pa_fs.LocalFileSystem())
    assert [file.path for file in find_files("deep", suffixes=SUFFIXES, filesystem=inside)] == [
        "deep/part-3.parquet"
    ]


def test_fsspec_opens_what_pyarrow_does_not_know() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/flights/a.parquet", b"123")
    try:
        (file,) = find_files("memory://flights/*.parquet", suffixes=SUFFIXES)
        assert file.size_bytes == 3
        assert not file.is_local
        (same,) = find_files("/flights", suffixes=SUFFIXES, filesystem=memory)
        assert same.open().read() == b"123"
    finally:
        memory.rm("/flights", recursive=True)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("{0}/part-1.parqet", r"part-1\.parqet: there is no such file\. Did you mean 'part-1\.parquet'"),
        ("{0}/dep/part-3.parquet", r"the folder .*/dep does not exist\. Did you mean 'deep'\?"),
        ("{0}/parts-*.parquet", r"parts-\*\.parquet: no file matches\. Did you mean 'part-"),
        ("{0}/deep/_new/*.csv", r"_new/\*\.csv: no file matches"),
        ("nowhere://x/y", r"nowhere://x/y: no file system for nowhere://"),
    ],
)
def test_what_is_missing_is_named_with_its_nearest(data: Path, paths: str, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        find_files(paths.format(data), suffixes=SUFFIXES)


def test_a_relative_path_says_relative_to_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReadError, match=f"relative to {tmp_path}"):
        find_files("x.parquet", suffixes=SUFFIXES)


def test_a_directory_without_data_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"has no file that ends with \.parquet\. It is empty"):
        find_files(tmp_path, suffixes=SUFFIXES)
    (tmp_path / "a.csv").touch()
    with pytest.raises(ReadError, match=r"It has 1 other file\(s\), such as a\.csv"):
        find_files(tmp_path, suffixes=SUFFIXES)


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "the list of paths is empty"), ("", "must not be empty"), (3, "not int"), ([b"x"], "not bytes")],
)
def test_what_is_no_path(paths: object, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find_files(paths, suffixes=SUFFIXES)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(data: Path) -> None:
    (data / "part-1.parquet").chmod(0)
    (file,) = find_files(data / "part-1.parquet", suffixes=SUFFIXES)
    with pytest.raises(ReadError, match="permission denied. This user"):
        file.open()


def test_permission_denied_as_the_system_says_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = find_files(data / "part-1.parquet", suffixes=SUFFIXES)

    class Denied:
        def open_input_file(self, path: str) -> None:
            raise PermissionError(13, "Permission denied", path)

    object.__setattr__(file, "filesystem", Denied())
    with pytest.raises(ReadError, match=r"part-1\.parquet: permission denied\. This user \(uid \d+\)"):
        file.open()
