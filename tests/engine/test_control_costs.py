"""CostCurve: the line through what batches took, and what it is not misled by."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.control.costs import CostCurve, LinearCost, SizeCost, size_class


def curve(fixed_s: float, row_s: float, sizes: list[int], noise: float = 0.0, each: int = 1) -> CostCurve:
    costs = CostCurve(10)
    draw = random.Random(3)
    for rows in sizes:
        for _ in range(each):
            costs.add(rows, rows, (fixed_s + row_s * rows) * draw.lognormvariate(0.0, noise))
    return costs


def test_classes_are_half_an_octave_wide() -> None:
    assert [size_class(rows) for rows in (1, 2, 4, 1024, 1448, 2048)] == [0, 2, 4, 20, 21, 22]
    assert size_class(1200) == size_class(1024)
    assert size_class(0) == 0


@given(st.floats(1e-6, 1e-2), st.floats(1e-9, 1e-6))
def test_without_noise_the_line_is_exact(fixed_s: float, row_s: float) -> None:
    line = curve(fixed_s, row_s, [1000, 4000, 16_000, 64_000]).fit()
    assert line is not None
    assert line.fixed_s + row_s * 64_000 == pytest.approx(fixed_s + row_s * 64_000, rel=1e-3)
    assert line.seconds_a_row(8000) == pytest.approx(fixed_s / 8000 + row_s, rel=1e-3)


def test_one_interrupted_batch_hardly_moves_the_line() -> None:
    costs = curve(25e-6, 3e-9, [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000], each=2)
    costs.add(500, 500, 30 * (25e-6 + 3e-9 * 500))
    line = costs.fit()
    assert line is not None
    assert line.fixed_s == pytest.approx(25e-6, rel=0.1)
    assert line.row_s == pytest.approx(3e-9, rel=0.1)


def test_the_line_of_noisy_batches_tells_the_knee_within_a_fifth() -> None:
    sizes = [1000 << step for step in range(9)]
    line = curve(25e-6, 3e-9, sizes, noise=0.08, each=2).fit()
    assert line is not None
    assert line.fixed_s / line.row_s == pytest.approx(25e-6 / 3e-9, rel=0.2)


def test_the_line_can_leave_out_sizes_beyond_a_cliff() -> None:
    costs = curve(25e-6, 3e-9, [1000, 10_000, 100_000])
    costs.add(400_000, 400_000, 5e-9 * 400_000)
    line = costs.fit(up_to=size_class(100_000))
    assert line is not None
    assert line.row_s == pytest.approx(3e-9, rel=1e-6)


def test_neither_part_of_the_cost_is_negative() -> None:
    costs = CostCurve(10)
    costs.add(1000, 1000, 1e-6)
    costs.add(2000, 2000, 4e-6)  # dearer a row in larger batches
    line = costs.fit()
    assert line is not None
    assert line.fixed_s == 0.0
    falling = CostCurve(10)
    falling.add(1000, 1000, 4e-6)
    falling.add(2000, 2000, 1e-6)
    line = falling.fit()
    assert line is not None
    assert line.row_s == 0.0


def test_one_size_makes_no_line() -> None:
    costs = CostCurve(10)
    assert costs.fit() is None
    costs.add(1000, 1000, 1e-6)
    assert costs.fit() is None
    costs.add(100_000, 1000, 1e-6)  # asked for more, and got as many
    assert costs.fit() is None


def test_the_rows_at_which_a_row_costs_so_much() -> None:
    line = LinearCost(25e-6, 3e-9)
    rows = line.rows_at(line.seconds_a_row(80_000))
    assert rows == pytest.approx(80_000)
    assert line.rows_at(2.9e-9) == math.inf


def test_the_latest_batches_count_and_what_is_kept_can_go_on_elsewhere() -> None:
    costs = CostCurve(3)
    for duration_s in (9.0, 1.0, 2.0, 3.0):
        costs.add(1000, 500, duration_s)
    size = size_class(1000)
    assert costs.count(size) == 3
    assert costs.row_s(size) == 2.0 / 500
    assert costs.row_s(size, latest=1) == 3.0 / 500
    assert (costs.asked_rows(size), costs.rows(size)) == (1000, 500)
    assert costs.measured == (SizeCost(1000, 500, 2.0 / 500, 3),)
    assert CostCurve(3, costs.measured).measured == costs.measured


def test_a_slower_machine_scales_what_was_measured_before() -> None:
    costs = curve(0.0, 1e-6, [1000, 2000])
    costs.scale(2.0, but=size_class(2000))
    assert costs.row_s(size_class(1000)) == pytest.approx(2e-6)
    assert costs.row_s(size_class(2000)) == pytest.approx(1e-6)
    costs.keep([size_class(1000)])
    assert list(costs) == [size_class(1000)]


def test_noise_is_what_batches_in_a_row_differ_by_and_a_change_counts_once() -> None:
    draw = random.Random(5)
    costs = CostCurve(10)
    for number in range(300):
        level = 1e-3 if number < 150 else 3e-3
        costs.add(1000, 1000, level * draw.lognormvariate(0.0, 0.1))
    assert costs.noise == pytest.approx(0.1, abs=0.05)
