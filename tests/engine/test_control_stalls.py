"""The batch size under a sink that is ill: it shrinks where that makes batches quicker, and not where it is in vain."""

from __future__ import annotations

from dataflare.control import AdaptiveBatcher, AdaptiveBatchingConfig


class Machine:
    """Runs batches of the size that is asked for, which take ``fixed_s + row_s * rows`` of its own time."""

    def __init__(self, **config: float) -> None:
        self.now_s = 0.0
        self.batcher = AdaptiveBatcher(AdaptiveBatchingConfig(**config), lambda: self.now_s)  # type: ignore[arg-type]

    def run(self, batches: int, fixed_s: float, row_s: float) -> int:
        for _ in range(batches):
            rows = self.batcher.batch_size
            duration_s = fixed_s + row_s * rows
            self.now_s += duration_s
            self.batcher.record_batch(rows, duration_s)
        return self.batcher.batch_size


def test_a_cost_of_each_call_that_no_size_can_meet_does_not_shrink_batches_to_nothing() -> None:
    machine = Machine()
    well = machine.run(300, 2e-3, 10e-9)
    for _ in range(5):
        assert machine.run(60, 200e-3, 10e-9) > well / 2
    assert machine.run(100, 2e-3, 10e-9) > well / 2


def test_rows_that_take_ten_times_as_long_shrink_batches_and_batches_grow_again_after() -> None:
    machine = Machine()
    well = machine.run(300, 1e-3, 100e-9)
    rows = machine.run(200, 1e-3, 1000e-9)
    assert 1e-3 + 1000e-9 * rows <= 0.05  # inside the latency target
    recovered_s = machine.now_s + 2.0
    while machine.now_s < recovered_s:
        machine.run(1, 1e-3, 100e-9)
    assert machine.batcher.batch_size > well / 2


def test_what_was_in_vain_is_tried_again_when_it_might_help() -> None:
    machine = Machine()
    machine.run(300, 2e-3, 10e-9)
    machine.run(60, 200e-3, 10e-9)
    rows = machine.run(400, 2e-3, 1000e-9)  # the sink answers again, and now it is the rows that take long
    assert 2e-3 + 1000e-9 * rows <= 0.05


def test_one_stall_changes_nothing() -> None:
    machine = Machine()
    well = machine.run(300, 2e-3, 10e-9)
    machine.run(1, 10.0, 10e-9)
    assert machine.run(20, 2e-3, 10e-9) == well
