"""Building pipelines: what is known and what is refused before anything runs. No test here reads data."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from dataflare.kernels.errors import (
    ColumnNotFoundError,
    CompileError,
    DeviceUnavailableError,
    OptionError,
    PlanError,
    SchemaError,
)
from dataflare.pipeline import Pipeline

SCHEMA = pa.schema(
    {"name": pa.string(), "age": pa.int32(), "height": pa.float64(), "tags": pa.list_(pa.string())}
)


@dataclass(frozen=True)
class UnreadableSource:
    """A source that has a schema and must not be read."""

    schema: pa.Schema = SCHEMA
    description: str = "people"
    num_rows: int | None = 1000
    size_bytes: int | None = None

    def with_projection(self, names):
        return UnreadableSource(pa.schema([self.schema.field(name) for name in names]))

    def with_predicates(self, predicates):
        return self

    def partitions(self):
        return [UnreadablePartition()]


@dataclass(frozen=True)
class UnreadablePartition:
    description: str = "people"
    num_rows: int | None = 1000
    size_bytes: int | None = None

    def read(self, batch_rows):
        raise AssertionError("nothing may be read")


@pytest.fixture
def people() -> Pipeline:
    return Pipeline(UnreadableSource())


class Body(NamedTuple):
    name: str
    cm: float


class TestSchema:
    def test_of_the_source(self, people):
        assert people.schema == SCHEMA
        assert people.column_names == ["name", "age", "height", "tags"]

    def test_a_filter_keeps_it(self, people):
        assert people.filter(lambda r: r.age > 3).schema == SCHEMA

    def test_a_map_replaces_it(self, people):
        mapped = people.map(lambda r: {"who": r.name, "cm": r.height * 100.0, "adult": r.age >= 18})
        assert mapped.schema == pa.schema({"who": pa.string(), "cm": pa.float64(), "adult": pa.bool_()})

    def test_a_named_tuple_names_the_columns(self, people):
        assert people.map(lambda r: Body(r.name, r.height * 100.0)).column_names == ["name", "cm"]

    def test_columns_are_added_at_the_end_and_replaced_in_place(self, people):
        wider = people.with_columns(age=lambda r: r.age * 1.5, months=lambda r: r.age * 12)
        assert wider.column_names == ["name", "age", "height", "tags", "months"]
        assert wider.schema.field("age").type == pa.float64()
        assert wider.schema.field("months").type == pa.int64()

    def test_columns_of_one_function(self, people):
        wider = people.with_columns(lambda r: {"months": r.age * 12, "tall": r.height > 2.0})
        assert wider.column_names == ["name", "age", "height", "tags", "months", "tall"]

    def test_select_drop_rename(self, people):
        assert people.select("height", "name").column_names == ["height", "name"]
        assert people.drop("name", "tags").column_names == ["age", "height"]
        assert people.rename({"age": "years"}).column_names == ["name", "years", "height", "tags"]
        assert people.rename(age="years", name="who").column_names == ["who", "years", "height", "tags"]
        assert people.rename(age="name", name="age").column_names == ["age", "name", "height", "tags"]

    def test_a_limit_keeps_it(self, people):
        assert people.limit(3).schema == SCHEMA

    def test_a_later_step_sees_the_columns_of_an_earlier_one(self, people):
        chained = people.with_columns(months=lambda r: r.age * 12).filter(lambda r: r.months > 6)
        assert "months" in chained.column_names

    def test_map_batches_with_a_schema_has_it(self, people):
        out = pa.schema({"x": pa.int8()})
        assert people.map_batches(lambda batch: batch, out).schema == out
        assert people.map_batches(lambda batch: batch, {"x": pa.int8()}).schema == out

    def test_map_batches_without_a_schema_says_how_to_give_one(self, people):
        open_ended = people.map_batches(lambda batch: batch).limit(3)
        with pytest.raises(SchemaError, match=r"not known before it runs.*map_batches\(fn, schema="):
            open_ended.schema  # noqa: B018


class TestImmutability:
    def test_a_step_leaves_the_pipeline_as_it_was(self, people):
        people.drop("age")
        people.limit(1)
        assert people.schema == SCHEMA

    def test_attributes_cannot_be_added(self, people):
        with pytest.raises(AttributeError):
            people.steps = 3

    def test_captured_values_are_those_of_the_moment_the_step_was_added(self, people):
        limit = 3
        first = people.filter(lambda r: r.age > limit)
        listing = first.source()
        limit = 999
        assert first.source() == listing
        assert "999" not in listing
        assert "999" in people.filter(lambda r: r.age > limit).source()


class TestErrorsWhereTheyAre:
    def test_a_missing_column_in_select_names_the_nearest_and_the_step(self, people):
        with pytest.raises(ColumnNotFoundError) as caught:
            people.limit(5).select("name", "hieght")
        assert "select at step 2: there is no column 'hieght'. Did you mean 'height'?" in str(caught.value)
        assert "Columns here: name, age, height, tags." in str(caught.value)

    @pytest.mark.parametrize("step", [lambda p: p.drop("nme"), lambda p: p.rename(nme="x")])
    def test_a_missing_column_in_drop_and_rename(self, people, step):
        with pytest.raises(ColumnNotFoundError, match="Did you mean 'name'"):
            step(people)

    def test_a_missing_column_in_a_function_is_found_as_the_step_is_added(self, people):
        with pytest.raises(ColumnNotFoundError, match="Did you mean 'age'"):
            people.filter(lambda r: r.agee > 3)

    def test_an_error_still_is_what_python_would_raise(self, people):
        with pytest.raises(KeyError):
            people.select("nope")
        with pytest.raises(TypeError):
            people.filter(lambda r: r.tags[0] == "x")

    def test_a_function_that_cannot_be_compiled_fails_as_the_step_is_added(self, people):
        with pytest.raises(CompileError) as caught:
            people.limit(5).filter(lambda r: len(r.tags) > 1)
        assert "test_pipeline_plan.py" in str(caught.value)
        assert caught.value.__notes__ == ["At step 2 of the pipeline: filter."]

    def test_a_column_that_was_dropped_is_gone(self, people):
        with pytest.raises(ColumnNotFoundError):
            people.drop("age").filter(lambda r: r.age > 3)

    def test_a_record_step_cannot_follow_an_open_schema(self, people):
        open_ended = people.map_batches(len).limit(2)
        for step in (
            lambda: open_ended.filter(lambda r: r.age > 3),
            lambda: open_ended.select("age"),
            lambda: open_ended.drop("age"),
        ):
            with pytest.raises(
                SchemaError, match=r"map_batches\(len\) at step 1 does not say what it returns"
            ):
                step()

    def test_two_columns_of_one_name(self, people):
        with pytest.raises(SchemaError, match="two columns named 'age'"):
            people.rename(name="age")
        with pytest.raises(SchemaError, match="two columns named 'age'"):
            people.select("age", "age")

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (lambda p: p.select(), "select needs at least one column"),
            (lambda p: p.select(["name", "age"]), r"column names one by one: select\('name', 'age'\)"),
            (lambda p: p.select(3), "select takes column names, not 3"),
            (lambda p: p.drop("name", "age", "height", "tags"), "drop leaves no column"),
            (lambda p: p.rename(age=3), "rename takes column names, not 3"),
            (lambda p: p.limit(-1), "0 or more, not -1"),
            (lambda p: p.limit(2.5), "0 or more, not 2.5"),
            (lambda p: p.limit(True), "0 or more, not True"),
            (lambda p: p.with_columns(), "with_columns takes one function"),
            (lambda p: p.with_columns(lambda r: {"x": 1}, y=lambda r: 1), "with_columns takes one function"),
            (lambda p: p.with_columns(x=5), "For a constant write x=lambda r: 5"),
            (lambda p: p.map_batches("upper"), "map_batches takes a function of a batch, or a class"),
            (lambda p: p.map_batches(len, schema=3), "schema must be a pyarrow.Schema"),
            (lambda p: p.map_batches(len, schema={"x": "no type"}), "is not a schema"),
        ],
    )
    def test_bad_arguments_say_what_is_allowed(self, people, step, message):
        with pytest.raises(OptionError, match=message):
            step(people)

    @pytest.mark.parametrize("fn", [len, "r.age > 3", 5, int])
    def test_what_is_no_python_function_is_refused(self, people, fn):
        with pytest.raises(CompileError, match="not a Python function of one record"):
            people.filter(fn)


class TestTerminalCalls:
    def test_run_without_a_sink_says_what_to_add(self, people):
        with pytest.raises(PlanError, match=r"add write_parquet\(path\)"):
            people.run()

    @pytest.mark.parametrize(
        "call", ["collect", "count", "to_arrow", "to_pandas", "to_polars", "iter_batches", "explain"]
    )
    def test_options_are_checked_by_every_call(self, people, call):
        with pytest.raises(OptionError, match="Did you mean 'device'"):
            getattr(people, call)(devise="cpu")
        with pytest.raises(DeviceUnavailableError):
            getattr(people, call)(device="cuda")

    def test_a_count_that_is_known_reads_nothing(self, people):
        assert people.count() == 1000
        assert people.with_columns(x=lambda r: r.age).limit(7).count() == 7
        assert people.filter(lambda r: r.age > 3).limit(0).count() == 0


class TestExplain:
    def test_it_names_what_is_read_and_carried(self, people):
        explanation = people.filter(lambda r: r.age > 3).select("name").explain()
        source, compute, sink = explanation.stages
        assert source.kind == "source"
        assert source.facts["columns"] == "2 of 4: name, age"
        assert source.facts["rows"] == "1,000"
        assert "age > 3" in source.facts["skips"]
        assert compute.title == "filter + select"
        assert compute.facts["reads"] == "age"
        assert compute.facts["carries"] == "name"
        assert "test_pipeline_plan.py:" in compute.facts["functions"]
        assert sink.kind == "sink"

    def test_it_writes_values_as_people_do(self):
        schema = pa.schema({"day": pa.date32(), "name": pa.string()})
        since = datetime.date(2024, 2, 29)
        filtered = Pipeline(UnreadableSource(schema)).filter(lambda r: r.day >= since and r.name == "x")
        skips = filtered.explain().stages[0].facts["skips"]
        assert "day >= 2024-02-29" in skips
        assert "name == 'x'" in skips

    def test_it_counts_the_bytes_of_a_record(self, people):
        explanation = people.map(lambda r: {"a": r.age * 2, "b": r.height > 1.0, "n": r.name}).explain()
        assert explanation.stages[1].facts["a row"] == (
            "12 bytes + 1 column of varying width in, 9 bytes + 1 column of varying width out"
        )

    def test_it_says_the_device_and_why(self, people):
        assert people.explain().device.startswith("cpu (chosen by auto")
        assert people.explain(device="python").device.startswith("python (asked for")

    def test_its_text_has_every_stage(self, people):
        text = str(people.filter(lambda r: r.age > 3).limit(5).map_batches(len).explain())
        for part in ("device: cpu", "source", "people", "compute", "filter", "limit", "map_batches", "sink"):
            assert part in text
        for part in ("tasks", "batch size", "memory"):
            assert f"\n{part} " in text
        assert text.endswith("output: known when it runs (map_batches without a schema)")

    def test_a_notebook_shows_it_with_markup_escaped(self, people):
        explained = people.filter(lambda r: r.age < 3).explain()
        assert "age &lt; 3" in explained._repr_html_()
        assert repr(explained) == str(explained)


class TestRepr:
    def test_it_shows_the_steps_as_written(self, people):
        text = repr(people.filter(lambda r: r.age > 3).rename(age="years").limit(5).select("years"))
        lines = text.splitlines()
        assert lines[0] == "Pipeline"
        assert lines[1].strip() == "people"
        assert lines[2].strip().startswith("filter lambda (")
        assert "age→years" in lines[3]
        assert lines[4].strip() == "limit(5)"
        assert lines[5].strip() == "select → years"
        assert lines[6].strip() == "schema: years int32"

    def test_an_open_schema_is_said(self, people):
        assert "schema: known when it runs" in repr(people.map_batches(len))

    def test_a_notebook_shows_the_same(self, people):
        assert "<pre>Pipeline" in people._repr_html_()


def test_the_listing_of_a_pipeline_shows_its_programs(people: Pipeline) -> None:
    listing = people.filter(lambda r: r.age > 3).source()
    assert "test_pipeline_plan.py" in listing
    assert "gt" in listing
    assert people.source() == "# no step compiles to a program"


def test_adding_a_step_stays_cheap(people: Pipeline) -> None:
    """A generous bound: an analysis takes under a millisecond, and what compiles would take hundreds."""

    def build() -> Any:
        pipeline = people
        for _ in range(10):
            pipeline = pipeline.filter(lambda r: r.age > 3 and r.height < 2.0)
        return pipeline

    build()
    began_s = perf_counter()
    build()
    assert perf_counter() - began_s < 0.5


class TestVectors:
    def test_it_says_how_many_records_at_once(self, people):
        runs = people.filter(lambda r: r.age > 3).explain().stages[1].facts["runs"]
        assert runs.startswith("vectorised: one loop of machine code, ")
        assert "one by one" not in runs

    def test_it_names_what_is_computed_one_by_one(self, people):
        runs = people.filter(lambda r: "x" in r.name and r.age % 7 == 1).explain().stages[1].facts["runs"]
        assert runs.endswith("one by one: text contains")

    def test_a_short_literal_and_a_division_are_not_among_them(self, people):
        runs = (
            people.filter(lambda r: r.name == "x" and r.age // 7 == r.age % 5)
            .explain()
            .stages[1]
            .facts["runs"]
        )
        assert "one by one" not in runs

    def test_a_function_without_a_vector_form_is_named(self, people):
        from dataclasses import replace

        from dataflare.kernels.cpu.target import host_target
        from dataflare.kernels.udf.program import build_program
        from dataflare.kernels.udf.stages import FilterStage
        from dataflare.plan.vectors import vector_text

        program = build_program([FilterStage(lambda r: math.log1p(r.height) > 1.0)], SCHEMA)
        without = replace(host_target(), has_fma=False, vector_math={})
        assert vector_text(program, without).endswith("one by one: log1p")

    def test_exact_math_is_one_by_one(self, people):
        pipeline = people.filter(lambda r: math.log1p(r.height) > 1.0)
        runs = pipeline.explain(math="exact").stages[1].facts["runs"]
        assert runs.endswith("one by one: log1p")

    def test_python_runs_one_by_one(self, people):
        stage = people.filter(lambda r: r.age > 3).explain(device="python").stages[1]
        assert stage.facts["runs"] == "one record at a time, by the Python interpreter"

    def test_a_renaming_computes_nothing(self, people):
        stage = people.rename(age="years").explain().stages[1]
        assert stage.facts["runs"] == "no computation: columns are handed on"


class TestListing:
    def test_the_code_of_the_cpu(self, people):
        pipeline = people.filter(lambda r: r.age > 3).select("name")
        assert "define" in pipeline.source("llvm")
        assert "ret" in pipeline.source("assembly")

    def test_an_unknown_form(self, people):
        with pytest.raises(OptionError, match="Did you mean 'assembly'"):
            people.source("assembler")
