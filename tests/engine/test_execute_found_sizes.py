"""Batch sizes on disk: whole or not there, never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataflare.control import AdaptiveBatchingConfig, remembered_sizes
from dataflare.control.costs import SizeCost
from dataflare.control.strategies import FoundSize
from dataflare.execute import found_sizes
from dataflare.execute.found_sizes import load_size, save_size
from dataflare.execute.sizing import BatchSizing, function_key
from dataflare.kernels.cpu.cache import cache_directory

FOUND = FoundSize(
    4096, True, "knee", 25e-6, 3e-9, (SizeCost(1024, 1000, 5e-9, 3), SizeCost(4096, 4000, 4e-9, 10))
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(found_sizes, "cache_directory", cache_directory)  # not that of other tests
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def only_file(cache: Path) -> Path:
    (path,) = (cache / "sizes").iterdir()
    return path


def test_what_was_saved_is_loaded(cache: Path) -> None:
    assert load_size("work") is None
    save_size("work", FOUND)
    assert load_size("work") == FOUND
    assert load_size("other work") is None
    assert only_file(cache).suffix == ".json"


def test_a_size_whose_costs_are_not_known_is_loaded_too() -> None:
    save_size("work", FoundSize(77, False))
    assert load_size("work") == FoundSize(77, False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\x00" * 100,
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "version": 999}),
        lambda text: json.dumps({**json.loads(text), "key": "another"}),
        lambda text: json.dumps({**json.loads(text), "found": {}}),
        lambda text: text.replace("4096, ", '"many", ', 1),
        lambda text: text.replace('"rows": 4096', '"rows": "many"'),
        lambda text: text.replace('"rows": 4096', '"rows": 0'),
        lambda text: text.replace("5e-09", "-5e-09"),
        lambda text: text.replace("5e-09", "NaN"),
    ],
)
def test_a_damaged_or_foreign_file_is_as_good_as_none(damage: object, cache: Path) -> None:
    save_size("work", FOUND)
    path = only_file(cache)
    text = path.read_text()
    damaged = damage(text)  # type: ignore[operator]
    assert damaged != text
    path.write_text(damaged)
    assert load_size("work") is None
    save_size("work", FOUND)
    assert load_size("work") == FOUND


def test_a_cache_that_cannot_be_written_or_read_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "a file"
    blocker.write_text("")
    monkeypatch.setenv("DATAFLARE_CACHE_DIR", str(blocker / "cache"))
    save_size("work", FOUND)
    assert load_size("work") is None


def test_nothing_half_written_stays_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_size("work", FOUND)

    def fail(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    save_size("work", FOUND._replace(rows=1))
    assert load_size("work") == FOUND
    assert len(list((cache / "sizes").iterdir())) == 1


def test_the_oldest_files_go_when_there_are_too_many(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_sizes, "_MOST_FILES", 20)
    for number in range(600):  # one in sixteen looks
        save_size(f"work {number}", FOUND)
        os.utime(found_sizes._path(f"work {number}"), (number, number))
    assert len(list((cache / "sizes").iterdir())) < 200
    assert load_size("work 599") == FOUND
    assert load_size("work 0") is None


def sizing(
    key: str = "work",
    chosen: AdaptiveBatchingConfig | None = None,
    width: float = 8.0,
    most_rows: int = 1 << 40,
) -> BatchSizing:
    return BatchSizing(
        chosen,
        key,
        fused=True,
        compiled=False,
        bytes_per_row=width,
        most_rows=most_rows,
        tasks=2,
        clock=iter(range(10_000)).__next__,
    )


def find_a_size(run: BatchSizing, batches: int = 100) -> None:
    for _ in range(batches):
        rows = run.batcher.batch_size
        run.record_batch(rows, 1e-4 + 1e-8 * rows, asked_rows=rows, steady=True)
    run.remember()


def test_the_next_run_begins_with_what_this_one_found_and_so_does_the_next_process() -> None:
    remembered_sizes().clear()
    first = sizing()
    find_a_size(first)
    found = first.batcher.found
    assert found.converged
    for _ in range(2):
        start = sizing().batcher.found
        assert start[:3] == found[:3]
        assert start.measured == found.measured
        remembered_sizes().clear()  # as in another process
    remembered_sizes().clear()


def test_records_of_another_width_and_other_work_begin_anew() -> None:
    remembered_sizes().clear()
    find_a_size(sizing())
    assert not sizing("other").batcher.found.converged
    assert not sizing(width=800.0).batcher.found.converged
    remembered_sizes().clear()


def test_a_user_s_sizes_are_neither_kept_nor_taken(cache: Path) -> None:
    remembered_sizes().clear()
    chosen = AdaptiveBatchingConfig(initial_size=500)
    find_a_size(sizing(chosen=chosen))
    assert not cache.exists()
    find_a_size(sizing())
    assert sizing(chosen=chosen).batcher.batch_size == 500
    remembered_sizes().clear()


def test_a_run_that_found_nothing_new_writes_nothing(cache: Path) -> None:
    remembered_sizes().clear()
    find_a_size(sizing())
    only_file(cache).unlink()
    find_a_size(sizing(), batches=6)
    assert list((cache / "sizes").iterdir()) == []
    remembered_sizes().clear()


def test_a_size_that_memory_bounds_is_not_kept(cache: Path) -> None:
    remembered_sizes().clear()
    run = sizing()
    run.batcher.bound(64)
    find_a_size(run)
    assert not cache.exists()
    remembered_sizes().clear()


def test_the_first_batch_of_each_task_and_compiling_teach_nothing() -> None:
    remembered_sizes().clear()
    run = sizing()
    size = run.batcher.batch_size
    for _ in range(2):
        run.record_batch(size, 10.0, asked_rows=size, steady=True)
    run.record_batch(size, 10.0, asked_rows=size, steady=False)
    assert run.batcher.found.measured == ()
    run.record_batch(size, 1e-3, asked_rows=size, steady=True)
    assert len(run.batcher.found.measured) == 1


def test_a_source_in_memory_is_asked_for_no_more_than_its_largest_batch() -> None:
    remembered_sizes().clear()
    run = sizing(most_rows=50)
    assert run.batcher.batch_size == 50
    find_a_size(run)
    assert run.found[:3] == (50, True, "source")
    assert sizing(most_rows=0).batcher.batch_size == 1
    remembered_sizes().clear()


def double(batch: object) -> object:
    return batch


def test_a_function_has_the_same_name_in_every_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_execute_found_sizes import double\n"
        "from dataflare.execute.sizing import function_key\n"
        "print(function_key(double))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout.strip() == function_key(double).replace(__name__, "test_execute_found_sizes")


def test_functions_that_do_something_else_have_other_names() -> None:
    def make(text: str) -> object:
        space: dict[str, object] = {"__name__": "jobs"}
        exec(text, space)
        return space["f"]

    assert function_key(make("def f(x): return x + 1")) != function_key(make("def f(x): return x - 1"))
    assert function_key(make("def f(x): return x + 1")) == function_key(make("def f(x): return x + 1"))
    assert function_key(dict) == "builtins.dict"
