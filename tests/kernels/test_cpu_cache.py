"""The cache of objects on disk: shared by processes, never trusted blindly, never required."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.cpu import cache
from dataflare.kernels.cpu.fused import compile_cpu
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import MapStage

SCHEMA = pa.schema([("x", pa.int64())])


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_disabled", set())
    return tmp_path / "cpu"


def program(k: int = 3) -> RecordProgram:
    return build_program([MapStage(lambda r: {"y": r.x * k})], SCHEMA)


def result(compiled: Any) -> list[int]:
    column = HostColumn.from_arrow(pa.array([1, 2, 3]))
    values: list[int] = compiled.run([column], 3).columns[0].to_arrow().to_pylist()
    return values


def test_the_second_compilation_loads_the_first() -> None:
    assert compile_cpu(program()).cache == "compiled"
    again = compile_cpu(program())
    assert again.cache == "disk"
    assert result(again) == [3, 6, 9]


def test_another_captured_value_is_another_entry(directory: Path) -> None:
    compile_cpu(program(3))
    other = compile_cpu(program(4))
    assert other.cache == "compiled"
    assert result(other) == [4, 8, 12]
    assert len(list(directory.glob("*.o"))) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
        lambda content: b"\x7fELF" + content,
        lambda content: b"not an object at all",
    ],
    ids=["empty", "truncated", "a flipped bit", "foreign", "text"],
)
def test_a_damaged_entry_is_compiled_anew(directory: Path, damage: Any) -> None:
    compile_cpu(program())
    (entry,) = directory.glob("*.o")
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    again = compile_cpu(program())
    assert again.cache == "compiled"
    assert result(again) == [3, 6, 9]
    assert entry.read_bytes() == good


def test_an_entry_under_another_name_is_not_loaded(directory: Path) -> None:
    compile_cpu(program(3))
    (entry,) = directory.glob("*.o")
    compile_cpu(program(4))
    other = next(path for path in directory.glob("*.o") if path != entry)
    other.write_bytes(entry.read_bytes())
    again = compile_cpu(program(4))
    assert again.cache == "compiled"
    assert result(again) == [4, 8, 12]


@pytest.mark.skipif(os.name == "nt", reason="file owners")
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_an_entry_of_another_user_is_not_loaded(directory: Path) -> None:
    compile_cpu(program())
    (entry,) = directory.glob("*.o")
    os.chown(entry, 12345, 12345)
    assert compile_cpu(program()).cache == "compiled"


def test_a_directory_that_cannot_be_written_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "a file"
    blocker.write_text("")
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(blocker / "cache"))
    with pytest.warns(cache.CacheWarning, match="set DATAFLARE_CACHE_DIR"):
        first = compile_cpu(program())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = compile_cpu(program(4))
    assert result(first) == [3, 6, 9]
    assert result(second) == [4, 8, 12]


def test_the_cache_is_kept_below_its_limit(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_cpu(program(1))
    (entry,) = directory.glob("*.o")
    limit_bytes = 3 * entry.stat().st_size
    monkeypatch.setattr(cache, "_MAX_TOTAL_BYTES", limit_bytes)
    monkeypatch.setattr(cache, "_TRIMMING_DIGITS", string.hexdigits)
    for k in range(2, 8):
        compile_cpu(program(k))
    assert sum(path.stat().st_size for path in directory.glob("*.o")) <= limit_bytes
    assert compile_cpu(program(7)).cache == "disk"  # the newest stays


def test_one_key_in_sixteen_looks_at_the_size_of_all(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_MAX_TOTAL_BYTES", 0)
    for digit in "123456789abcdef":
        cache.save(digit * 64, b"object")
    assert len(list(directory.glob("*.o"))) == 15
    cache.save("0" * 64, b"object")
    assert not list(directory.glob("*.o"))


def test_threads_that_compile_the_same_program_agree() -> None:
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(result(compile_cpu(program())))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[3, 6, 9]] * 4


SECOND_PROCESS = """
import json, sys
import pyarrow as pa
from dataflare.kernels.udf.program import build_program
from dataflare.kernels.udf.stages import MapStage
from dataflare.kernels.backend import compile_program
program = build_program([MapStage(lambda r: {"y": r.x * 7})], pa.schema([("x", pa.int64())]))
compiled = compile_program(program)
print(json.dumps([compiled.cache, "numba" in sys.modules]))
"""


def test_a_second_process_loads_without_numba(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SECOND_PROCESS)
    runs = [
        json.loads(subprocess.run([sys.executable, str(script)], capture_output=True, check=True).stdout)
        for _ in range(2)
    ]
    assert runs == [["compiled", False], ["disk", False]]
