"""Random pipelines that stall, fail, are cancelled and have too little of everything: each ends right or says why not.

They run in a process of their own, which a watchdog ends. Code that is broken on purpose shows that
lost and doubled records, hidden failures and what is left behind are noticed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torture.endings import Ending, EndingKind
from torture.running import judge
from torture.scenario import Scenario
from torture.settings import Settings
from torture.sources import SourceSpec
from torture.world import Spot

from dataflare.actors.destination_task import DestinationTask
from dataflare.actors.workflow import RunCompletion
from dataflare.batch import SharedDataBatch
from dataflare.control import AdaptiveBatchingConfig, BackpressureController
from dataflare.control.budget import Reservation
from dataflare.execute.outcome import Outcome
from dataflare.sinks.staging import FileStaging

TESTS = Path(__file__).resolve().parents[1]


def run_scenarios(first: int, end: int, *options: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(TESTS)])
    return subprocess.run(
        [sys.executable, "-m", "torture", str(first), str(end), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=1100,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_random_pipelines_end_as_they_should() -> None:
    done = run_scenarios(0, 40)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.endswith("0 wrong: []; 0 did not end: []\n")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(40, 2000, 490))
def test_many_random_pipelines_end_as_they_should(first: int) -> None:
    done = run_scenarios(first, first + 490)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_the_watchdog_ends_what_does_not_end_and_the_others_go_on() -> None:
    done = run_scenarios(0, 2, "--watchdog", "0.0001")
    assert done.returncode == 1
    assert "Timeout" in done.stdout
    assert done.stdout.endswith("2 did not end: [0, 1]\n")


def plain_scenario(ending: EndingKind, *spots: Spot) -> Scenario:
    """Return a scenario without steps in which nothing happens but what the spots say."""
    return Scenario(
        seed=0,
        source=SourceSpec("generator", (50, 0, 80, 20), 1000),
        count=150,
        phase=0,
        steps=(),
        ending=Ending(ending),
        settings=Settings(
            workers=2,
            memory_limit=None,
            batching=AdaptiveBatchingConfig(initial_size=7, min_size=7, strategy="fixed"),
            credits=None,
            ordered=True,
            device="cpu",
            watching="nobody",
        ),
        spots=spots,
        paces={},
        drought_ends=False,
    )


def written(rows_of: Callable[[SharedDataBatch], list[SharedDataBatch]]) -> Callable[..., None]:
    """Return a way to process batches that writes something else."""
    process = DestinationTask.process_batch

    def process_batch(task: DestinationTask, batch: SharedDataBatch) -> None:
        for each in rows_of(batch):
            process(task, each)

    return process_batch


def without_error(
    completion: RunCompletion, end: Outcome | BaseException, set_end: Any = RunCompletion.set
) -> None:
    set_end(completion, end._replace(error=None) if isinstance(end, Outcome) else end)


FAILING = Spot("source", 2, "raise")
BROKEN: dict[str, tuple[Scenario, type, str, Callable[..., Any], str]] = {
    "doubled": (
        plain_scenario("write"),
        DestinationTask,
        "process_batch",
        written(lambda batch: [batch, batch]),
        "gave 300 records",
    ),
    "lost": (
        plain_scenario("parquet"),
        DestinationTask,
        "process_batch",
        written(lambda batch: [batch[1:]]),
        "gave 127 records",
    ),
    "hidden": (
        plain_scenario("collect", FAILING),
        RunCompletion,
        "set",
        without_error,
        "ended well in spite of raise in source at 2",
    ),
    "left behind": (
        plain_scenario("ipc", FAILING),
        FileStaging,
        "discard",
        lambda staging: None,
        "temporary files are left",
    ),
    "committed": (
        plain_scenario("csv", FAILING),
        DestinationTask,
        "_clean_up",
        lambda task: task._sink.commit(),
        "the output of a run that failed is there",
    ),
    "reserved": (
        plain_scenario("count", FAILING),
        Reservation,
        "release",
        lambda reservation: None,
        "bytes are still reserved",
    ),
    "in flight": (
        plain_scenario("write"),
        BackpressureController,
        "report_processing",
        lambda controller, *report: None,
        "150 credits did not come back",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scenario, owner, method, broken, noticed = BROKEN[name]
    assert judge(scenario).problems == []
    monkeypatch.setattr(owner, method, broken)
    problems = judge(scenario).problems
    assert any(noticed in problem for problem in problems), problems
