"""The rules on simulated costs: how soon they are near the best size, how near they stay, what they cost in latency.

Every run is one random seed; all rules meet the same ones. Figures judge the sizes by the expected time, so that they
are of the rule and not of the noise it saw.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from benchmarks.control.cost_curves import CHANGE_AFTER, SimulatedWork
from benchmarks.control.rules import Rule
from dataflare.control import AdaptiveBatcher

__all__ = ["NEAR", "Result", "simulate"]

NEAR = 0.90
_IN_A_ROW = 10
_SETTLED_AFTER = 100
_BATCHES = 400
_BATCHES_WITH_CHANGE = 700


@dataclass(frozen=True, kw_only=True)
class Result:
    """One rule on one curve, over all seeds."""

    work: str
    rule: str
    reach: float | None
    """Median batches from cold until ten in a row have `NEAR` of the best rate; None where most runs never do."""
    reach_95th: float | None
    recover: float | None
    """The same from the change on, where there is one."""
    recover_95th: float | None
    steady: float
    """Rate over that of the best size, median of the runs, in the last part of each."""
    steady_5th: float
    over_target: float
    """Share of steady batches whose expected time is over the latency target by 2 % or more."""
    changes: bool


def simulate(rule: Rule, work: SimulatedWork, seeds: int) -> Result:
    """Run one rule on one curve."""
    changes = work.cost_after_s is not None
    reach: list[float] = []
    recover: list[float] = []
    steady: list[float] = []
    over = batches = 0
    bests = work.best_rate(0), work.best_rate(CHANGE_AFTER)
    for seed in range(seeds):
        run = _run(rule, work, seed, _BATCHES_WITH_CHANGE if changes else _BATCHES)
        before = [rows / time_s >= NEAR * bests[0] for rows, time_s in run[:CHANGE_AFTER]]
        reach.append(_first(before))
        first = _SETTLED_AFTER
        if changes:
            recover.append(_first([rows / time_s >= NEAR * bests[1] for rows, time_s in run[CHANGE_AFTER:]]))
            first += CHANGE_AFTER
        settled = run[first:]
        steady.append(
            sum(rows for rows, _ in settled) / sum(time_s for _, time_s in settled) / bests[changes]
        )
        over += sum(time_s > 1.02 * work.latency_target_s for _, time_s in settled)
        batches += len(settled)
    steady.sort()
    return Result(
        work=work.name,
        rule=rule.name,
        reach=_known(statistics.median(reach)),
        reach_95th=_known(sorted(reach)[int(0.95 * seeds)]),
        recover=_known(statistics.median(recover)) if recover else None,
        recover_95th=_known(sorted(recover)[int(0.95 * seeds)]) if recover else None,
        steady=statistics.median(steady),
        steady_5th=steady[int(0.05 * seeds)],
        over_target=over / batches,
        changes=changes,
    )


def _run(rule: Rule, work: SimulatedWork, seed: int, batches: int) -> list[tuple[int, float]]:
    """Return rows and expected seconds of each batch."""
    noise = random.Random(seed)
    now_s = 0.0
    config = rule.config(latency_target_s=work.latency_target_s, most_rows=work.most_rows)
    batcher = AdaptiveBatcher(config, lambda: now_s)
    run = []
    for number in range(batches):
        rows = batcher.batch_size
        expected_s = work.expected_s(rows, number)
        duration_s = expected_s * noise.lognormvariate(0.0, work.noise)
        if noise.random() < work.outliers:
            duration_s *= 3.0
        now_s += duration_s
        run.append((rows, expected_s))
        batcher.record_batch(rows, duration_s)
    return run


def _first(near: list[bool]) -> float:
    """Return after how many batches there are ten near ones in a row; infinity if never."""
    in_a_row = 0
    for number, is_near in enumerate(near):
        in_a_row = in_a_row + 1 if is_near else 0
        if in_a_row == _IN_A_ROW:
            return number + 1 - _IN_A_ROW
    return float("inf")


def _known(batches: float) -> float | None:
    return None if batches == float("inf") else batches
