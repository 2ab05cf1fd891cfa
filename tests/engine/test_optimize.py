"""The optimiser: what fuses, where limits go, what reaches the source. No plan runs here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest

from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, WithColumnsStage
from dataflare.optimize.limits import move_limits
from dataflare.optimize.linear import RecordPart, linearise
from dataflare.optimize.plan import optimize
from dataflare.plan import building
from dataflare.plan.logical import Scan
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep

SCHEMA = pa.schema({"a": pa.int64(), "b": pa.float64(), "c": pa.string(), "d": pa.int8()})


@dataclass(frozen=True)
class RecordingSource:
    """A source that only remembers what it was asked for."""

    schema: pa.Schema = SCHEMA
    predicates: tuple[Any, ...] = ()
    description: str = "recording source"
    num_rows: int | None = 100
    size_bytes: int | None = None

    def with_projection(self, names):
        return replace(self, schema=pa.schema([self.schema.field(name) for name in names]))

    def with_predicates(self, predicates):
        return replace(self, predicates=(*self.predicates, *predicates))

    def partitions(self):
        raise AssertionError("a plan must not read")


class Sink:
    description = "sink"


SOURCE = RecordingSource()


def plan_of(node, **options):
    return optimize(node, Sink(), **options)


def chain(*steps):
    """Build a plan: each step is a function of the node before it."""
    node = Scan(SOURCE)
    for step in steps:
        node = step(node)
    return node


def filtered(fn):
    return lambda node: building.add_filter(node, fn)


def mapped(fn):
    return lambda node: building.add_map(node, fn)


def selected(*names):
    return lambda node: building.add_select(node, names)


def limited(rows):
    return lambda node: building.add_limit(node, rows)


def batched(fn, schema=None):
    return lambda node: building.add_map_batches(node, fn, schema)


def added(**named):
    return lambda node: building.add_with_columns(node, None, named)


def kinds(plan):
    return [
        step.rows
        if isinstance(step, LimitStep)
        else [type(stage) for stage in step.program.stages]
        if isinstance(step, ComputeStep)
        else "batches"
        for step in plan.steps
    ]


class TestFusion:
    def test_neighbouring_record_steps_are_one_program(self):
        plan = plan_of(
            chain(
                filtered(lambda r: r.a > 1),
                added(e=lambda r: r.b * 2.0),
                mapped(lambda r: {"f": r.e + r.a}),
                filtered(lambda r: r.f < 9.0),
            )
        )
        assert kinds(plan) == [[FilterStage, WithColumnsStage, MapStage, FilterStage]]
        assert plan.schema.names == ["f"]

    def test_a_plan_without_steps_has_none(self):
        plan = plan_of(chain())
        assert plan.steps == ()
        assert plan.source is SOURCE
        assert plan.schema == SCHEMA

    def test_a_function_of_batches_is_between_two_programs(self):
        plan = plan_of(
            chain(filtered(lambda r: r.a > 1), batched(lambda b: b, SCHEMA), filtered(lambda r: r.b > 1.0))
        )
        assert kinds(plan) == [[FilterStage], "batches", [FilterStage]]
        step = plan.steps[1]
        assert isinstance(step, MapBatchesStep)
        assert step.input_schema == SCHEMA

    def test_the_order_and_the_sink_are_handed_on(self):
        sink = Sink()
        plan = optimize(chain(), sink, ordered=False)
        assert plan.sink is sink
        assert plan.ordered is False


class TestProjection:
    def test_only_columns_that_are_needed_are_read(self):
        plan = plan_of(chain(filtered(lambda r: r.d > 1), selected("b")))
        assert plan.source.schema.names == ["b", "d"]
        assert plan.schema.names == ["b"]

    def test_a_column_that_is_replaced_unread_is_not_loaded(self):
        plan = plan_of(chain(added(a=lambda r: r.b + 1.0), selected("a")))
        assert plan.source.schema.names == ["b"]

    def test_a_selection_alone_is_left_to_the_source(self):
        plan = plan_of(chain(selected("d", "b")))
        assert plan.steps == ()
        assert plan.source.schema.names == ["d", "b"]
        assert plan.schema.names == ["d", "b"]

    def test_selections_behind_a_limit_are_left_to_the_source(self):
        plan = plan_of(chain(selected("a", "b"), limited(5), selected("b")))
        assert kinds(plan) == [5]
        assert plan.source.schema.names == ["b"]

    def test_a_rename_is_not_left_to_the_source(self):
        plan = plan_of(chain(lambda node: building.add_rename(node, {"a": "b", "b": "a"}), selected("a")))
        assert kinds(plan) == [[SelectStage, SelectStage]]
        assert plan.source.schema.names == ["b"]
        assert plan.schema == pa.schema({"a": pa.float64()})

    def test_a_function_of_batches_gets_every_column(self):
        plan = plan_of(chain(batched(lambda b: b, SCHEMA), selected("a")))
        assert plan.source is SOURCE

    def test_columns_that_only_a_later_program_leaves_out_are_not_written_by_the_first(self):
        plan = plan_of(
            chain(filtered(lambda r: r.a > 1), limited(5), filtered(lambda r: r.d > 1), selected("b"))
        )
        first, limit, second = plan.steps
        assert isinstance(limit, LimitStep)
        assert sorted(first.program.output_schema.names) == ["b", "d"]
        assert sorted(second.program.required_columns) == ["b", "d"]
        assert plan.source.schema.names == ["a", "b", "d"]


def comparisons(plan):
    """The comparisons that reached the source; that a column must not be null may come with them."""
    return {(p.column, p.op, p.value) for p in plan.source.predicates if p.op != "is_valid"}


class TestPredicates:
    def test_simple_conditions_of_the_first_filters_reach_the_source(self):
        plan = plan_of(chain(filtered(lambda r: r.a > 1), filtered(lambda r: r.d == 3)))
        assert {("a", ">", 1), ("d", "==", 3)} == comparisons(plan)
        assert kinds(plan) == [[FilterStage, FilterStage]]

    def test_a_limit_before_the_filter_keeps_them_back(self):
        plan = plan_of(chain(limited(5), filtered(lambda r: r.a > 1)))
        assert plan.source.predicates == ()
        assert kinds(plan) == [5, [FilterStage]]

    def test_a_function_of_batches_before_the_filter_keeps_them_back(self):
        plan = plan_of(chain(batched(lambda b: b, SCHEMA), filtered(lambda r: r.a > 1)))
        assert plan.source.predicates == ()

    def test_a_limit_after_the_filter_does_not(self):
        plan = plan_of(chain(filtered(lambda r: r.a > 1), limited(5)))
        assert comparisons(plan) == {("a", ">", 1)}

    def test_a_condition_on_a_computed_column_stays(self):
        plan = plan_of(chain(added(a=lambda r: r.b * 2.0), filtered(lambda r: r.a > 1.0)))
        assert comparisons(plan) == set()

    def test_a_condition_on_a_renamed_column_is_on_the_column_of_the_source(self):
        plan = plan_of(chain(lambda node: building.add_rename(node, {"a": "z"}), filtered(lambda r: r.z > 1)))
        assert comparisons(plan) == {("a", ">", 1)}


class TestLimits:
    def test_a_limit_goes_before_steps_that_keep_every_record(self):
        assert kinds(plan_of(chain(added(e=lambda r: r.b), limited(5)))) == [5, [WithColumnsStage]]

    def test_limits_that_meet_are_the_smallest_of_them(self):
        assert kinds(plan_of(chain(limited(7), added(e=lambda r: r.b), limited(5), limited(9)))) == [
            5,
            [WithColumnsStage],
        ]

    def test_behind_a_filter_a_limit_lets_the_steps_around_it_fuse(self):
        plan = plan_of(chain(filtered(lambda r: r.a > 1), limited(5), added(e=lambda r: r.b)))
        assert kinds(plan) == [[FilterStage, WithColumnsStage], 5]

    def test_a_limit_never_passes_a_filter(self):
        plan = plan_of(
            chain(filtered(lambda r: r.a > 1), limited(5), filtered(lambda r: r.b > 1.0), limited(3))
        )
        assert kinds(plan) == [[FilterStage, SelectStage], 5, [FilterStage], 3]

    def test_a_limit_never_passes_a_function_of_batches(self):
        plan = plan_of(chain(batched(lambda b: b, SCHEMA), limited(5), added(e=lambda r: r.b)))
        assert kinds(plan) == ["batches", [WithColumnsStage], 5]

    def test_a_limit_of_no_record_stays_a_limit(self):
        assert kinds(plan_of(chain(limited(0)))) == [0]

    @pytest.mark.parametrize("seed", range(200))
    def test_moving_limits_never_changes_what_comes_out(self, seed):
        import random

        random_ = random.Random(seed)
        steps = []
        for _ in range(random_.randrange(1, 7)):
            kind = random_.choice(["filter", "map", "limit"])
            if kind == "limit":
                steps.append(LimitStep(random_.randrange(0, 12)))
            elif kind == "filter":
                steps.append(RecordPart(FilterStage(modulo(random_.randrange(1, 4))), SCHEMA))
            else:
                steps.append(RecordPart(MapStage(plus(random_.randrange(5))), SCHEMA))
        assert simulate(move_limits(tuple(steps))) == simulate(steps)


def modulo(divisor):
    return lambda value: value % divisor == 0


def plus(number):
    return lambda value: value + number


def simulate(steps):
    """What the steps give for the records 0 to 29, by plain Python."""
    records = list(range(30))
    for step in steps:
        if isinstance(step, LimitStep):
            records = records[: step.rows]
        elif isinstance(step.stage, FilterStage):
            records = [record for record in records if step.stage.fn(record)]
        else:
            records = [step.stage.fn(record) for record in records]
    return records


class TestCounting:
    def test_only_the_columns_of_filters_are_read(self):
        plan = plan_of(chain(filtered(lambda r: r.d > 1), added(e=lambda r: r.b)), count_only=True)
        assert plan.source.schema.names == ["d"]
        assert plan.schema.names == []

    def test_steps_that_keep_every_record_are_left_out(self):
        plan = plan_of(chain(added(e=lambda r: r.b), limited(5)), count_only=True)
        assert kinds(plan) == [5]
        assert plan.source.schema.names == []

    def test_a_function_of_batches_still_runs(self):
        plan = plan_of(chain(batched(lambda b: b), limited(5)), count_only=True)
        assert kinds(plan) == ["batches", 5]
        assert plan.source is SOURCE
        assert plan.schema is None


class TestNodes:
    def test_linearising_keeps_the_steps_in_order(self):
        steps = linearise(chain(limited(3), filtered(lambda r: r.a > 1)))
        assert [type(step) for step in steps] == [LimitStep, RecordPart]

    def test_a_node_is_fused_once_for_all_its_runs(self):
        node = chain(filtered(lambda r: r.a > 1))
        first, second = plan_of(node), plan_of(node)
        assert first.steps[0].program is second.steps[0].program
        assert plan_of(node, count_only=True).steps[0].program is not first.steps[0].program

    def test_what_is_no_node_is_refused(self):
        with pytest.raises(TypeError, match="int is not a node of a logical plan"):
            linearise(3)
