"""Pipelines end to end on real files and memory, on every device: the same answers, in the order of the input."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import dataflare as flare

ROWS = 2_000


def people_table(rows: int = ROWS) -> pa.Table:
    """Rows with nulls at known places: age in every 7th, score in every 5th."""
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "age": pa.array([None if i % 7 == 0 else i % 90 for i in range(rows)], pa.int32()),
            "score": pa.array([None if i % 5 == 0 else i / 4 for i in range(rows)], pa.float64()),
            "name": pa.array([f"p{i % 13}" for i in range(rows)]),
            "tags": pa.array([[i, i + 1] for i in range(rows)], pa.list_(pa.int64())),
        }
    )


@pytest.fixture(scope="module")
def people() -> pa.Table:
    return people_table()


@pytest.fixture
def parquet_file(tmp_path: Path, people: pa.Table) -> Path:
    path = tmp_path / "people.parquet"
    pq.write_table(people, path, row_group_size=300)
    return path


@pytest.fixture
def folder(tmp_path: Path, people: pa.Table) -> Path:
    """Twelve files whose natural order is not their order as text."""
    folder = tmp_path / "parts"
    folder.mkdir()
    step = -(-people.num_rows // 12)
    for number in range(12):
        pq.write_table(people.slice(number * step, step), folder / f"part-{number}.parquet")
    return folder


def ask_duckdb(query: str) -> list[Any]:
    with duckdb.connect() as connection:  # the module's own one is shared with other tests
        return connection.execute(query).fetchall()


def adults(table: pa.Table) -> list[dict[str, Any]]:
    """What `adults_of` must give, by plain Python."""
    return [
        {"id": row["id"], "months": row["age"] * 12, "tags": row["tags"]}
        for row in table.to_pylist()
        if row["age"] is not None and row["age"] >= 18
    ]


def adults_of(pipeline: flare.Pipeline) -> flare.Pipeline:
    return (
        pipeline.filter(lambda r: r.age >= 18)
        .with_columns(months=lambda r: r.age * 12)
        .select("id", "months", "tags")
    )


class TestSources:
    def test_parquet(self, device: str, parquet_file: Path, people: pa.Table) -> None:
        assert adults_of(flare.read_parquet(parquet_file)).collect(device=device).to_pylist() == adults(
            people
        )

    def test_a_folder_in_natural_order(self, device: str, folder: Path, people: pa.Table) -> None:
        assert adults_of(flare.read_parquet(folder)).collect(device=device).to_pylist() == adults(people)

    def test_a_glob_and_a_list_of_files(self, folder: Path, people: pa.Table) -> None:
        globbed = flare.read_parquet(str(folder / "part-*.parquet"))
        listed = flare.read_parquet([folder / "part-1.parquet", folder / "part-0.parquet"])
        assert globbed.select("id").to_arrow()["id"].to_pylist() == list(range(ROWS))
        assert listed.limit(1).collect().to_pylist()[0]["id"] == -(-ROWS // 12)

    def test_ipc(self, device: str, tmp_path: Path, people: pa.Table) -> None:
        path = tmp_path / "people.arrow"
        with pa.ipc.new_file(path, people.schema) as writer:
            writer.write_table(people, max_chunksize=150)
        assert adults_of(flare.read_ipc(path)).collect(device=device).to_pylist() == adults(people)

    def test_csv(self, device: str, tmp_path: Path, people: pa.Table) -> None:
        path = tmp_path / "people.csv"
        flat = people.drop_columns(["tags"])
        pa_csv.write_csv(flat, path)
        kept = flare.read_csv(path).filter(lambda r: r.age >= 18).select("id", "name").collect(device=device)
        expected = [
            {"id": r["id"], "name": r["name"]}
            for r in flat.to_pylist()
            if r["age"] is not None and r["age"] >= 18
        ]
        assert kept.to_pylist() == expected

    def test_json_lines(self, device: str, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"a": 1, "b": "x"}\n{"a": null, "b": "y"}\n{"a": 3, "b": null}\n')
        kept = flare.read_json(path).filter(lambda r: r.a is not None).collect(device=device)
        assert kept.to_pylist() == [{"a": 1, "b": "x"}, {"a": 3, "b": None}]

    def test_arrow_in_memory(self, device: str, people: pa.Table) -> None:
        assert adults_of(flare.from_arrow(people)).collect(device=device).to_pylist() == adults(people)

    def test_what_speaks_arrow(self, people: pa.Table) -> None:
        frame = pl.DataFrame({"a": [1, 2, 3]})
        assert flare.from_arrow(frame).filter(lambda r: r.a > 1).count() == 2
        batch = flare.SharedDataBatch.from_pydict({"a": [1, 2, 3]})
        assert flare.from_arrow(batch).filter(lambda r: r.a > 1).count() == 2

    def test_records(self, device: str) -> None:
        records = [{"a": 1, "b": "x"}, {"a": None, "b": "y"}, {"a": 5, "b": None}]
        result = flare.from_records(records).filter(lambda r: r.a > 0).collect(device=device)
        assert result.to_pylist() == [records[0], records[2]]

    def test_batches_of_any_iterable(self, device: str, people: pa.Table) -> None:
        def produce():
            yield from people.to_batches(max_chunksize=111)

        pipeline = adults_of(flare.from_batches(produce(), schema=people.schema))
        assert pipeline.collect(device=device).to_pylist() == adults(people)

    def test_batches_of_an_async_iterable(self) -> None:
        async def produce():
            for start in range(3):
                await asyncio.sleep(0)
                yield pa.record_batch({"a": [start, start + 10]})

        pipeline = flare.from_batches(produce(), schema=pa.schema({"a": pa.int64()}))
        assert pipeline.filter(lambda r: r.a >= 10).collect().to_pylist() == [{"a": 10}, {"a": 11}, {"a": 12}]


class TestSteps:
    def test_a_number_that_one_step_writes_is_a_column_of_the_next(self, device: str) -> None:
        table = pa.table({"small": pa.array([1.1, 2.2], pa.float32())})
        pipeline = (
            flare.from_arrow(table)
            .map(lambda r: {"small": r.small, "factor": 2})
            .with_columns(twice=lambda r: r.small * r.factor)
        )
        result = pipeline.collect(device=device)
        assert result.schema.field("twice").type == pipeline.schema.field("twice").type == pa.float64()
        small = table["small"].cast(pa.float64()).to_pylist()
        assert result.select("twice").to_pylist() == [{"twice": value * 2} for value in small]

    def test_columns_of_every_kind_are_carried(self, device: str, people: pa.Table) -> None:
        kept = flare.from_arrow(people).filter(lambda r: r.id % 3 == 0).collect(device=device)
        assert kept.to_pylist() == [row for row in people.to_pylist() if row["id"] % 3 == 0]

    def test_null_is_a_value_of_its_own(self, device: str, people: pa.Table) -> None:
        pipeline = flare.from_arrow(people).map(
            lambda r: {"id": r.id, "grown": r.age + 1, "unknown": r.score is None, "some": r.score or 0.0}
        )
        expected = [
            {
                "id": row["id"],
                "grown": None if row["age"] is None else row["age"] + 1,
                "unknown": row["score"] is None,
                "some": row["score"] or 0.0,
            }
            for row in people.to_pylist()
        ]
        assert pipeline.collect(device=device).to_pylist() == expected

    def test_a_chain_of_every_step(self, device: str, people: pa.Table) -> None:
        pipeline = (
            flare.from_arrow(people)
            .rename(score="points")
            .with_columns(lambda r: {"root": math.sqrt(r.points), "first": r.name == "p1"})
            .drop("tags", "points")
            .filter(lambda r: r.root > 3.0 or r.first)
            .map(lambda r: {**r, "twice": r.root * 2.0})
            .select("id", "first", "twice")
        )
        expected = []
        for row in people.to_pylist():
            root = None if row["score"] is None else math.sqrt(row["score"])
            first = row["name"] == "p1"
            if (root is not None and root > 3.0) or first:
                expected.append(
                    {"id": row["id"], "first": first, "twice": None if root is None else root * 2.0}
                )
        assert pipeline.collect(device=device).to_pylist() == expected

    def test_a_function_whose_result_is_left_out_is_not_in_the_way(
        self, device: str, people: pa.Table
    ) -> None:
        pipeline = flare.from_arrow(people).with_columns(x=lambda r: r.score * 2.0).select("id")
        assert pipeline.collect(device=device).to_pylist() == [{"id": i} for i in range(ROWS)]

    @pytest.mark.parametrize("rows", [0, 1, 7, 299, 300, 301, ROWS - 1, ROWS, ROWS + 5])
    def test_a_limit_takes_the_first_records(self, parquet_file: Path, rows: int) -> None:
        limited = flare.read_parquet(parquet_file).limit(rows).select("id")
        assert limited.to_arrow()["id"].to_pylist() == list(range(min(rows, ROWS)))

    def test_a_limit_behind_a_filter(self, device: str, parquet_file: Path, people: pa.Table) -> None:
        limited = adults_of(flare.read_parquet(parquet_file)).limit(17)
        assert limited.collect(device=device).to_pylist() == adults(people)[:17]

    def test_a_filter_behind_a_limit(self, device: str, parquet_file: Path, people: pa.Table) -> None:
        kept = flare.read_parquet(parquet_file).limit(100).filter(lambda r: r.id > 90).select("id")
        assert kept.collect(device=device).to_pylist() == [{"id": i} for i in range(91, 100)]

    def test_captured_values_are_those_of_the_moment_of_building(self, device: str) -> None:
        numbers = flare.from_records([{"a": i} for i in range(10)])
        least = 8
        first = numbers.filter(lambda r: r.a >= least)
        least = 3
        second = numbers.filter(lambda r: r.a >= least)
        assert first.count(device=device) == 2
        assert second.count(device=device) == 7
        assert first.collect(device=device).to_pylist() == [{"a": 8}, {"a": 9}]


class AddOffset:
    """Built once a worker; the state of an instance is its own."""

    def __init__(self) -> None:
        self.offset = 100

    def __call__(self, batch: flare.SharedDataBatch) -> dict[str, Any]:
        return {"id": batch.to_arrow()["id"].to_numpy() + self.offset}


class TestMapBatches:
    def test_a_function_of_batches_between_record_steps(self, device: str, people: pa.Table) -> None:
        def upper(batch: flare.SharedDataBatch) -> pa.RecordBatch:
            import pyarrow.compute as pc

            arrow = batch.to_arrow()
            return pa.record_batch({"id": arrow["id"], "name": pc.utf8_upper(arrow["name"])})

        schema = pa.schema({"id": pa.int64(), "name": pa.string()})
        pipeline = (
            flare.from_arrow(people)
            .filter(lambda r: r.id < 20)
            .map_batches(upper, schema)
            .filter(lambda r: r.name == "P3")
        )
        assert pipeline.collect(device=device).to_pylist() == [
            {"id": 3, "name": "P3"},
            {"id": 16, "name": "P3"},
        ]

    def test_without_a_schema_the_first_batch_decides(self, people: pa.Table) -> None:
        pipeline = flare.from_arrow(people).map_batches(lambda batch: {"n": batch["id"]}).limit(3)
        assert pipeline.to_arrow().to_pydict() == {"n": [0, 1, 2]}

    def test_a_class_is_built_by_the_run(self, people: pa.Table) -> None:
        ids = flare.from_arrow(people).select("id").map_batches(AddOffset).to_arrow()["id"].to_pylist()
        assert ids == [i + 100 for i in range(ROWS)]

    def test_what_it_raises_is_the_cause(self, people: pa.Table) -> None:
        def fail(batch: Any) -> Any:
            raise ValueError("no luck")

        with pytest.raises(flare.RunError, match="no luck") as caught:
            flare.from_arrow(people).map_batches(fail).collect()
        assert isinstance(caught.value.__cause__, ValueError)

    def test_a_batch_of_another_schema_is_refused(self, people: pa.Table) -> None:
        with pytest.raises(flare.DataFlareError, match=r"(?s)id"):
            flare.from_arrow(people).map_batches(lambda batch: batch, {"x": pa.int8()}).collect()


class TestResults:
    def test_collect_is_one_batch(self, device: str, parquet_file: Path) -> None:
        batch = flare.read_parquet(parquet_file).filter(lambda r: r.id >= 250).collect(device=device)
        assert isinstance(batch, flare.SharedDataBatch)
        assert batch["id"].to_pylist() == list(range(250, ROWS))

    def test_collect_of_columns_that_are_all_computed(self, device: str, people: pa.Table) -> None:
        batch = (
            flare.from_arrow(people).map(lambda r: {"a": r.id * 2, "b": r.score * 0.5}).collect(device=device)
        )
        assert batch["a"].to_pylist() == [i * 2 for i in range(ROWS)]
        assert batch["b"].null_count == ROWS // 5

    def test_nothing_left_is_an_empty_result_with_its_schema(self, device: str, people: pa.Table) -> None:
        pipeline = adults_of(flare.from_arrow(people).filter(lambda r: r.id < 0))
        assert pipeline.collect(device=device).num_rows == 0
        assert pipeline.collect(device=device).schema.names == ["id", "months", "tags"]
        assert pipeline.to_arrow(device=device).schema.names == ["id", "months", "tags"]
        assert pipeline.count(device=device) == 0

    def test_an_empty_input(self, device: str, people: pa.Table) -> None:
        assert adults_of(flare.from_arrow(people.slice(0, 0))).collect(device=device).num_rows == 0

    def test_the_schema_known_before_is_the_schema_that_comes_out(
        self, device: str, people: pa.Table
    ) -> None:
        pipeline = adults_of(flare.from_arrow(people))
        assert pipeline.collect(device=device).schema.equals(pipeline.schema)
        assert pipeline.to_arrow(device=device).schema.equals(pipeline.schema)

    def test_pandas_and_polars(self, people: pa.Table) -> None:
        pipeline = flare.from_arrow(people).filter(lambda r: r.id < 3).select("id", "name")
        assert pipeline.to_polars().rows() == [(0, "p0"), (1, "p1"), (2, "p2")]
        assert pipeline.to_pandas()["id"].tolist() == [0, 1, 2]

    def test_batches_one_by_one(self, device: str, parquet_file: Path, people: pa.Table) -> None:
        rows = [
            row
            for batch in adults_of(flare.read_parquet(parquet_file)).iter_batches(device=device)
            for row in batch.to_pylist()
        ]
        assert rows == adults(people)

    def test_leaving_the_loop_stops_the_run(self) -> None:
        asked = []

        def endless():
            for number in range(10**9):
                asked.append(number)
                yield pa.record_batch({"a": [number] * 1000})

        pipeline = flare.from_batches(endless(), schema=pa.schema({"a": pa.int64()}))
        batches = pipeline.iter_batches()
        assert next(batches)["a"][0].as_py() == 0
        batches.close()
        assert len(asked) < 10_000

    def test_counts(self, device: str, parquet_file: Path, people: pa.Table) -> None:
        everyone = flare.read_parquet(parquet_file)
        assert everyone.count(device=device) == ROWS
        assert everyone.filter(lambda r: r.age >= 18).count(device=device) == len(adults(people))
        assert everyone.filter(lambda r: r.age >= 18).limit(5).count(device=device) == 5
        assert everyone.map_batches(lambda batch: batch[:1]).count(device=device) >= 1

    def test_a_count_of_csv_reads_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("a,b\n1,x\n2,y\n3,z\n")
        assert flare.read_csv(tmp_path / "a.csv").count() == 3

    def test_a_pipeline_runs_as_often_as_asked(self, parquet_file: Path) -> None:
        pipeline = flare.read_parquet(parquet_file).filter(lambda r: r.id < 5).select("id")
        assert pipeline.collect().to_pylist() == pipeline.collect().to_pylist()

    def test_unordered_gives_the_same_records(self, folder: Path, people: pa.Table) -> None:
        rows = adults_of(flare.read_parquet(folder)).collect(ordered=False).to_pylist()
        assert sorted(rows, key=lambda row: row["id"]) == adults(people)


class TestWriting:
    def test_parquet_that_duckdb_reads(
        self, device: str, parquet_file: Path, tmp_path: Path, people: pa.Table
    ) -> None:
        out = tmp_path / "adults.parquet"
        report = adults_of(flare.read_parquet(parquet_file)).write_parquet(out).run(device=device)
        ((count, months),) = ask_duckdb(f"select count(*), sum(months) from '{out}'")
        assert count == len(adults(people)) == report.rows_out
        assert months == sum(row["months"] for row in adults(people))
        assert report.files == (str(out),)

    def test_csv_and_ipc(self, parquet_file: Path, tmp_path: Path) -> None:
        pipeline = flare.read_parquet(parquet_file).limit(3).select("id", "name")
        pipeline.write_csv(tmp_path / "out.csv").run()
        pipeline.write_ipc(tmp_path / "out.arrow").run()
        assert ask_duckdb(f"select * from '{tmp_path / 'out.csv'}'") == [
            (0, "p0"),
            (1, "p1"),
            (2, "p2"),
        ]
        assert pl.read_ipc(tmp_path / "out.arrow").rows() == [
            (0, "p0"),
            (1, "p1"),
            (2, "p2"),
        ]

    def test_a_function_gets_every_batch(self, parquet_file: Path) -> None:
        seen: list[int] = []
        pipeline = flare.read_parquet(parquet_file).write(lambda batch: seen.extend(batch["id"].to_pylist()))
        report = pipeline.run()
        assert seen == list(range(ROWS))
        assert report.rows_out == ROWS

    def test_nothing_is_written_before_run(self, parquet_file: Path, tmp_path: Path) -> None:
        flare.read_parquet(parquet_file).write_parquet(tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()

    def test_an_output_that_exists_is_kept_unless_asked(self, parquet_file: Path, tmp_path: Path) -> None:
        out = tmp_path / "out.parquet"
        out.write_bytes(b"precious")
        source = flare.read_parquet(parquet_file)
        with pytest.raises(flare.OutputExistsError, match="overwrite"):
            source.write_parquet(out).run()
        assert out.read_bytes() == b"precious"
        source.write_parquet(out, overwrite=True).run()
        assert pq.read_metadata(out).num_rows == ROWS

    def test_a_failing_stage_leaves_no_file(self, parquet_file: Path, tmp_path: Path) -> None:
        def fail_late(batch: flare.SharedDataBatch) -> flare.SharedDataBatch:
            if batch["id"][-1].as_py() > 1000:
                raise ValueError("too late")
            return batch

        target = tmp_path / "out"
        target.mkdir()
        with pytest.raises(flare.RunError):
            flare.read_parquet(parquet_file).map_batches(fail_late).write_parquet(target / "x.parquet").run()
        assert list(target.iterdir()) == []

    def test_a_written_pipeline_takes_no_more_steps_and_gives_no_result(
        self, people: pa.Table, tmp_path: Path
    ) -> None:
        written = flare.from_arrow(people).write_parquet(tmp_path / "x.parquet")
        with pytest.raises(flare.PlanError, match=r"write_parquet\(.*x\.parquet.*\): add steps before"):
            written.limit(3)
        with pytest.raises(flare.PlanError, match="ends in write_parquet"):
            written.write_csv(tmp_path / "x.csv")
        for call in (written.collect, written.count, written.to_arrow, written.iter_batches):
            with pytest.raises(flare.PlanError, match=r"run\(\) writes it"):
                call()
        assert "x.parquet" in repr(written)
        assert "x.parquet" in str(written.explain())


class TestReport:
    def test_it_counts_rows_and_names_stages(self, device: str, parquet_file: Path, people: pa.Table) -> None:
        report = adults_of(flare.read_parquet(parquet_file)).write(lambda batch: None).run(device=device)
        assert report.rows_in == ROWS
        assert report.rows_out == len(adults(people))
        assert report.device == device
        assert report.bytes_in > 0
        assert report.wall_s > 0.0
        assert [stage.kind for stage in report.stages] == ["source", "processor", "destination"]

    def test_records_dropped_for_a_null_condition_are_counted(self, device: str, parquet_file: Path) -> None:
        nulls = -(-ROWS // 7)
        report = (
            flare.read_parquet(parquet_file)
            .filter(lambda r: r.age >= 18)
            .write(lambda batch: None)
            .run(device=device)
        )
        assert report.rows_dropped_null_predicate == nulls

    def test_row_groups_that_cannot_match_are_not_read(self, device: str, parquet_file: Path) -> None:
        report = (
            flare.read_parquet(parquet_file)
            .filter(lambda r: r.id >= 1900)
            .write(lambda batch: None)
            .run(device=device)
        )
        assert report.rows_in == 200
        assert report.rows_out == 100


class TestExplain:
    def test_it_shows_decoder_columns_and_pushdown(self, parquet_file: Path) -> None:
        text = str(flare.read_parquet(parquet_file).filter(lambda r: r.id >= 1900).select("name").explain())
        assert "decoded by" in text
        assert "2 of 5: id, name" in text
        assert "id >= 1900" in text
        assert "1 of 7 row groups" in text


class TestBadInput:
    def test_a_file_that_is_not_there(self, tmp_path: Path, parquet_file: Path) -> None:
        with pytest.raises(flare.ReadError, match=r"Did you mean .*people\.parquet"):
            flare.read_parquet(tmp_path / "peeple.parquet")

    def test_a_truncated_parquet_file(self, parquet_file: Path) -> None:
        parquet_file.write_bytes(parquet_file.read_bytes()[:5000])
        with pytest.raises(flare.ReadError, match=r"people\.parquet"):
            flare.read_parquet(parquet_file)

    def test_a_broken_row_of_csv_is_named_by_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.csv"
        path.write_text("a,b\n" + "1,2\n" * 40 + "1,2,3\n" + "1,2\n" * 40)
        with pytest.raises(flare.ReadError, match=r"broken\.csv.*42"):
            flare.read_csv(path).collect()

    def test_a_file_of_another_schema(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"a": [1]}), tmp_path / "part-0.parquet")
        pq.write_table(pa.table({"a": ["x"]}), tmp_path / "part-1.parquet")
        with pytest.raises(flare.SchemaMismatchError, match=r"part-1\.parquet"):
            flare.read_parquet(tmp_path / "part-*.parquet").collect()

    def test_a_memory_limit_that_nothing_fits_is_refused_before_the_run(self, parquet_file: Path) -> None:
        with pytest.raises(flare.MemoryLimitError):
            flare.read_parquet(parquet_file).collect(memory_limit="1KB")

    def test_a_missing_column_with_the_nearest(self, parquet_file: Path) -> None:
        with pytest.raises(flare.ColumnNotFoundError, match="Did you mean 'score'"):
            flare.read_parquet(parquet_file).filter(lambda r: r.scoer > 1.0)


def test_plain_python_runs_what_a_function_prints_and_the_cpu_refuses_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def shown(r: Any) -> Any:
        print("x is", r.x)
        return {"x": r.x}

    pipeline = flare.from_arrow(pa.table({"x": [1, 2]})).map(shown)
    assert pipeline.collect(device="python").to_pylist() == [{"x": 1}, {"x": 2}]
    assert capsys.readouterr().out == "x is 1\nx is 2\n"
    with pytest.raises(flare.CompileError, match='run with device="python"'):
        pipeline.collect(device="cpu")
