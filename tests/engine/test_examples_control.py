"""The loops of one's own in ``examples/control_*.py`` run as they are and do what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import dataflare as flare

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = 336_776


@pytest.fixture(scope="module")
def flights() -> flare.SharedDataBatch:
    return flare.SharedDataBatch.from_arrow(
        pq.read_table(EXAMPLES / "flights.parquet", columns=["month", "dep_delay", "distance"])
    )


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_slices_share_memory_and_a_merge_keeps_the_weakest_promise(
    flights: flare.SharedDataBatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed("control_batches", capsys)
    assert "month  2: 24,951 flights, watermark 31" in out
    assert "summer: 86,995 flights, metadata {'month': '8'}, watermark 155" in out
    assert "one ordered stream: watermark 217" in out

    months = example("control_batches")["months"]
    ordered = flare.SharedDataBatch.from_arrow(flights.to_arrow().sort_by("month"))
    parts = months(ordered)
    assert sum(len(part) for part in parts) == ROWS
    whole = ordered.to_arrow().column("distance").buffers()[1]
    for part in parts:
        shared = part.to_arrow().column("distance").buffers()[1]
        assert whole.address <= shared.address < whole.address + whole.size


class Machine:
    """A clock, and work that takes 20 µs a batch and 10 ns a row on it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def work(self, batch: flare.SharedDataBatch) -> flare.SharedDataBatch:
        self.now_s += 20e-6 + 10e-9 * len(batch)
        return batch


def test_the_loop_finds_a_size_at_which_the_cost_of_a_batch_no_longer_matters(
    flights: flare.SharedDataBatch,
) -> None:
    machine = Machine()
    batcher = flare.AdaptiveBatcher(flare.AdaptiveBatchingConfig(initial_size=1000), machine.clock)
    drive = example("control_adaptive")["drive"]
    for _ in range(3):
        assert drive(flights, batcher, machine.work, machine.clock) == ROWS
    assert batcher.metrics.total_records == 3 * ROWS
    assert batcher.metrics.total_time == pytest.approx(machine.now_s)
    fixed_share = 20e-6 / (20e-6 + 10e-9 * batcher.batch_size)
    assert fixed_share < 0.15


def test_the_adaptive_loop_prints_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("control_adaptive", capsys)
    assert out.count("70,774 flights were late") == 5
    assert "1,683,880 records in" in out
    assert re.search(r"a batch takes \d+\.\d\d ms \(median\)", out)
    assert re.search(r"from +[\d,]+ rows: #+ \d+", out)


def test_figures_that_are_not_known_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    example("control_adaptive")["show"](flare.BatchingMetrics())
    assert capsys.readouterr().out == "0 records in 0 batches, 0.0 ms of work\n"


def test_the_credit_loop_processes_all_and_sends_small_batches_under_pressure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = printed("control_credits", capsys)
    assert out.count("70,774 flights were late") == 2
    assert out.count("336,776 credits granted, 336,776 records processed, 0 in flight") == 2
    assert re.search(r"memory pressure \d+%: [\d,]+ records", out)
    sent, sent_crowded = (int(count) for count in re.findall(r"(\d+) batches were sent", out))
    assert sent_crowded > 2 * sent


def test_the_producer_is_never_ahead_by_more_than_its_credits(flights: flare.SharedDataBatch) -> None:
    config = flare.CreditConfig(
        mode=flare.CreditMode.DYNAMIC, initial_credits=1000, min_credits=500, max_credits=3000
    )

    class Watched(flare.BackpressureController):
        most_in_flight = 0

        def report_processing(self, *arguments: Any) -> None:
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            super().report_processing(*arguments)

    controller = Watched(config)
    late, _ = example("control_credits")["run"](flights, controller)
    assert late == 70_774
    assert 500 <= controller.most_in_flight <= 3000
