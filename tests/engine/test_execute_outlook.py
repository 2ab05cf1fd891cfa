"""What `explain` says of the run as a whole: its tasks, the batch size and how it came about, and the memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dataflare as flare
from dataflare.control import RememberedSizes
from dataflare.control.strategies import FoundSize

ROWS = 400_000


@pytest.fixture(autouse=True)
def _own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test remember sizes of its own."""
    kept = RememberedSizes()
    monkeypatch.setattr("dataflare.execute.sizing.remembered_sizes", lambda: kept)
    monkeypatch.setattr("dataflare.execute.sizing.load_size", lambda key: None)


@pytest.fixture
def in_file(tmp_path: Path) -> flare.Pipeline:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": pa.array(range(ROWS), pa.int64())}), path)
    return flare.read_parquet(path).map(lambda r: {"y": r.x + 1})


def facts(pipeline: flare.Pipeline, **options: object) -> Mapping[str, str]:
    return pipeline.explain(workers=2, device="cpu", **options).run  # type: ignore[arg-type]


class Recalling(RememberedSizes):
    """Sizes to which all work is known, with this result."""

    def __init__(self, found: FoundSize) -> None:
        super().__init__()
        self.found = found

    def recall(self, key: str) -> FoundSize:
        return self.found


def test_a_first_run_begins_with_bytes_and_knows_nothing(in_file: flare.Pipeline) -> None:
    found = facts(in_file)
    assert found["tasks"] == "1 that reads, 2 that compute, 1 that writes"
    assert found["batch size"].splitlines() == [
        "258,048 rows to begin with, about 4.0 MiB with the results",
        "nothing is known of this work yet: no earlier run of it is remembered",
    ]
    assert found["memory"].splitlines()[0] == "no limit; about 16.25 bytes a row with what becomes of it"


def test_a_run_of_the_same_work_is_known_afterwards() -> None:
    def tens(add: int) -> flare.Pipeline:
        batches = [flare.SharedDataBatch.from_pydict({"x": list(range(1000))}) for _ in range(10)]
        return flare.from_batches(iter(batches), schema=batches[0].schema).map(lambda r: {"y": r.x + add})

    assert "nothing is known" in facts(tens(1))["batch size"]
    tens(1).collect(workers=2, device="cpu")
    assert "an earlier run" in facts(tens(1))["batch size"]
    assert "nothing is known" in facts(tens(2))["batch size"]


def test_what_an_earlier_run_found_is_given_with_the_knee(
    in_file: flare.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Recalling(FoundSize(65_536, True, "knee", 25e-6, 3e-9))
    monkeypatch.setattr("dataflare.execute.sizing.remembered_sizes", lambda: known)
    assert facts(in_file)["batch size"].splitlines() == [
        "65,536 rows (knee: 25 us a batch + 3 ns a row), about 1.0 MiB with the results",
        "found by an earlier run: a larger batch is hardly faster",
    ]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (FoundSize(65_536, False), "an earlier run was too short to find the size"),
        (
            FoundSize(65_536, False, None, 1e-3, 2e-9),
            "an earlier run was too short to find the size, and saw 1.0 ms a batch + 2 ns a row",
        ),
    ],
)
def test_a_search_that_goes_on_says_so(
    in_file: flare.Pipeline, monkeypatch: pytest.MonkeyPatch, found: FoundSize, text: str
) -> None:
    monkeypatch.setattr("dataflare.execute.sizing.remembered_sizes", lambda: Recalling(found))
    assert facts(in_file)["batch size"].splitlines()[1] == text


def test_a_report_ends_with_the_size_that_was_found(in_file: flare.Pipeline) -> None:
    kept: list[object] = []
    pipeline = in_file.write(kept.append)
    report = pipeline.run(batching=flare.AdaptiveBatchingConfig(initial_size=5000, strategy="fixed"))
    assert report.batch_size is not None
    assert report.batch_size.rows == 5000
    assert "batch size: 5,000 rows (strategy)" in str(report)
    assert "still searching" in str(pipeline.run())  # two batches are too few
    nothing = flare.from_arrow(pa.table({"x": pa.array([], "int64")})).write(kept.append).run()
    assert nothing.batch_size is None


def test_a_size_that_was_asked_for(in_file: flare.Pipeline) -> None:
    batching = flare.AdaptiveBatchingConfig(initial_size=5000, strategy="fixed")
    assert facts(in_file, batching=batching)["batch size"].splitlines() == [
        "5,000 rows to begin with, about 79.3 KiB with the results",
        "as asked for",
    ]


def test_memory_names_the_limit_what_is_kept_free_and_the_window(in_file: flare.Pipeline) -> None:
    first, *kept, window = facts(in_file, memory_limit="10MB")["memory"].splitlines()
    assert first == "at most 9.5 MiB; about 16.25 bytes a row with what becomes of it"
    assert kept[0] == "kept free, with a batch of 100 rows in each task:"
    assert kept[1].startswith("  1 × 813 B for Parquet ")
    assert kept[2] == "  1 × 813 B for results for collect"
    assert kept[3].startswith("  1 × ") and "MiB for reading Parquet " in kept[3]
    # How much reading holds depends on which decoders are loaded already.
    assert re.fullmatch(r"up to [2-5] batches on the way, [1-6]\.\d MiB", window)
    window = facts(in_file, memory_limit="5MB")["memory"].splitlines()[-1]
    assert re.fullmatch(r"up to [2-5] batches on the way, (\d+\.\d KiB|[12]\.\d MiB)", window)


def test_a_limit_that_is_too_small_refuses_the_run_and_explains_the_rest(in_file: flare.Pipeline) -> None:
    explanation = in_file.explain(memory_limit=1000)
    assert set(explanation.run) == {"refused"}
    assert "cannot hold one smallest batch" in explanation.run["refused"]
    assert "Raise memory_limit" in str(explanation)
    assert explanation.stages[1].facts["reads"] == "x"


def test_a_small_source_in_memory_is_shared_out() -> None:
    pipeline = flare.from_arrow(pa.table({"x": range(100_000)})).map(lambda r: {"y": r.x + 1})
    found = facts(pipeline)
    assert found["tasks"] == "2 that read and compute, 1 that writes"
    assert "its 100,000 rows are shared out among the tasks" in found["batch size"]


def test_explaining_compiles_nothing(in_file: flare.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("dataflare.kernels.backend.compile_program", refuse)
    assert "batch size" in facts(in_file)
