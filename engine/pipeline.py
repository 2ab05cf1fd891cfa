"""Pipelines: what users build. Lazy and immutable; each step returns a new pipeline and reads nothing.

Covers the steps, their arguments and their errors, and the calls that run a pipeline. Where pipelines start
(`read_parquet`, `from_arrow`, ...) is in `dataflare.reading`, where they end in `dataflare.writing`; plans are
in `dataflare.plan`, running is in `dataflare.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from dataflare.kernels.errors import PlanError
from dataflare.kernels.udf.stages import RecordFunction
from dataflare.options import RunOptionArguments, RunOptions
from dataflare.plan import building
from dataflare.plan.logical import LogicalNode, Scan, source_of
from dataflare.writing import WriteSteps

if TYPE_CHECKING:
    from typing import Unpack

    import pandas as pd  # type: ignore[import-untyped] # no stubs
    import polars as pl
    import pyarrow as pa

    from dataflare.batch import SharedDataBatch
    from dataflare.observe.report import RunReport
    from dataflare.plan.explanation import Explanation
    from dataflare.plan.formats import BatchFormat
    from dataflare.plan.listing import ProgramForm
    from dataflare.plan.physical import PhysicalPlan
    from dataflare.sinks.base import BatchSink
    from dataflare.sources.base import BatchSource

__all__ = ["Pipeline"]


_TAKE_BEFORE = "run() writes it; a result is taken from the pipeline that the write step was called on"


@dataclass(frozen=True)
class SinkSpec:
    """How to build the sink of one run: a sink serves one run, a pipeline may run many times."""

    label: str
    build: Callable[[], BatchSink]


class Pipeline(WriteSteps):
    """A source and the steps on its records; nothing runs before a terminal call asks for a result.

    Pipelines are made by `read_parquet`, `from_arrow` and the other functions of that kind, never directly.
    They are immutable and safe to share between threads. A step checks its arguments at once: a missing
    column or a function that cannot be compiled raises where it was added.

    The terminal calls (`run`, `collect`, `iter_batches`, `count`, `to_arrow`, `to_pandas`, `to_polars`) take
    the run options that `RunOptions` describes, by keyword.

    Examples
    --------
    >>> import dataflare as flare
    >>> people = flare.from_records([{"name": "Ada", "age": 36}, {"name": "Tim", "age": 7}])
    >>> adults = people.filter(lambda r: r.age >= 18).with_columns(months=lambda r: r.age * 12)
    >>> adults.schema.names
    ['name', 'age', 'months']
    >>> adults.collect().to_pylist()
    [{'name': 'Ada', 'age': 36, 'months': 432}]
    """

    __slots__ = ("__weakref__", "_node", "_sink")

    _node: LogicalNode
    _sink: SinkSpec | None

    def __init__(self, source: BatchSource) -> None:
        self._node = Scan(source)
        self._sink = None

    @classmethod
    def _of(cls, node: LogicalNode, sink: SinkSpec | None = None) -> Pipeline:
        pipeline = cls.__new__(cls)
        pipeline._node = node
        pipeline._sink = sink
        return pipeline

    # -- what is known before anything runs ---------------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        """The schema of the records that come out, known without reading data.

        Raises
        ------
        SchemaError
            After a `map_batches` without a schema: what it returns is known only when it runs.
        """
        return self._node.schema

    @property
    def column_names(self) -> list[str]:
        """The names of the columns that come out, in order."""
        return list(self.schema.names)

    # -- steps on records -----------------------------------------------------------------------------------

    def filter(self, fn: RecordFunction) -> Pipeline:
        """Keep the records for which `fn` is true.

        Parameters
        ----------
        fn
            Takes a record (`r.x` or `r["x"]` is its column) and returns a truth value. Where it is null the
            record is dropped and counted in `RunReport.rows_dropped_null_predicate`.

        Raises
        ------
        CompileError
            `fn` cannot be compiled; the message shows its file and line, the column types and a way out.

        Examples
        --------
        >>> import dataflare as flare
        >>> numbers = flare.from_records([{"x": 1}, {"x": None}, {"x": 3}])
        >>> numbers.filter(lambda r: r.x > 1).collect().to_pylist()
        [{'x': 3}]
        """
        return self._step(building.add_filter(self._node, fn))

    def map(self, fn: RecordFunction) -> Pipeline:
        """Replace every record by the one that `fn` returns.

        Parameters
        ----------
        fn
            Takes a record and returns a dict of the new one, `{**r, "total": x}`, or a NamedTuple.

        Raises
        ------
        CompileError
            `fn` cannot be compiled; the message shows its file and line, the column types and a way out.

        Examples
        --------
        >>> import dataflare as flare
        >>> flare.from_records([{"x": 2}]).map(lambda r: {"x": r.x, "square": r.x**2}).to_arrow().to_pylist()
        [{'x': 2, 'square': 4}]
        """
        return self._step(building.add_map(self._node, fn))

    def with_columns(self, fn: RecordFunction | None = None, /, **named: RecordFunction) -> Pipeline:
        """Add or replace columns and keep the others.

        Parameters
        ----------
        fn
            Takes a record and returns a dict of the new columns.
        **named
            Column names with functions of a record that return one value each. All of them see the record as
            it came in.

        Examples
        --------
        >>> import dataflare as flare
        >>> pipeline = flare.from_records([{"price": 2.0, "quantity": 3}])
        >>> pipeline.with_columns(total=lambda r: r.price * r.quantity).to_arrow().to_pylist()
        [{'price': 2.0, 'quantity': 3, 'total': 6.0}]
        """
        return self._step(building.add_with_columns(self._node, fn, named))

    def select(self, *columns: str) -> Pipeline:
        """Keep these columns, in this order.

        Examples
        --------
        >>> import dataflare as flare
        >>> flare.from_records([{"a": 1, "b": 2, "c": 3}]).select("c", "a").column_names
        ['c', 'a']
        """
        return self._step(building.add_select(self._node, columns))

    def drop(self, *columns: str) -> Pipeline:
        """Leave these columns out and keep the others.

        Examples
        --------
        >>> import dataflare as flare
        >>> flare.from_records([{"a": 1, "b": 2, "c": 3}]).drop("b").column_names
        ['a', 'c']
        """
        return self._step(building.add_drop(self._node, columns))

    def rename(self, columns: Mapping[str, str] | None = None, /, **named: str) -> Pipeline:
        """Give columns new names, at their old places.

        Parameters
        ----------
        columns
            Old names with new names.
        **named
            The same by keyword: `rename(old="new")`.

        Examples
        --------
        >>> import dataflare as flare
        >>> flare.from_records([{"a": 1, "b": 2}]).rename({"a": "id"}).column_names
        ['id', 'b']
        """
        return self._step(building.add_rename(self._node, {**(columns or {}), **named}))

    def limit(self, rows: int) -> Pipeline:
        """Let at most the first `rows` records pass, in the order of the input; the source then stops.

        Examples
        --------
        >>> import dataflare as flare
        >>> flare.from_records([{"a": i} for i in range(100)]).limit(2).to_arrow().to_pylist()
        [{'a': 0}, {'a': 1}]
        """
        return self._step(building.add_limit(self._node, rows))

    def map_batches(
        self,
        fn: Callable[[Any], Any],
        schema: pa.Schema | None = None,
        *,
        batch_format: BatchFormat = "batch",
    ) -> Pipeline:
        """Run `fn` on whole batches, as it is: for what a function of one record cannot say.

        Parameters
        ----------
        fn
            Takes a batch and returns one, or what can become one: an Arrow record batch or table, a frame, or a
            dict of columns: arrays of NumPy, CuPy, torch or Arrow, or lists. A class is built once a worker, with
            the GPU current that its batches come to, if any, and the instance is called.
        schema
            Of what `fn` returns. Without it the schema is found from the first batch that comes back, and no
            step that must know its columns can follow.
        batch_format
            What `fn` is given:

            - "batch", a `SharedDataBatch` in host memory, or "arrow", a `pyarrow.RecordBatch`;
            - "numpy", a dict of NumPy arrays by column, read-only: numbers, bools, dates, durations and naive
              timestamps, without nulls;
            - "torch", a dict of torch tensors on the device of the run, and "cupy", a dict of CuPy arrays, where
              the run is on the CPU on the first GPU: integers and floats, without nulls. Do not write to them;
            - "device", a `SharedDataBatch` on the device of the run.

            A column of another type is an error here, a null one when it comes.

        Raises
        ------
        OptionError
            `fn` is not callable, or there is no such format.
        SchemaError
            The batches have a column that the format has no form for; the message names it.

        Notes
        -----
        On a GPU, "torch", "cupy" and "device" leave batches where they are between the steps that compute before and
        after: what `fn` returns stays there too, nothing is copied, and its work is done in the order of the steps,
        on the stream that is CuPy's and torch's current one while `fn` runs. Work on other streams it has to wait
        for. Where the GPU has no memory for a batch, `fn` is called again with parts of it, and with the smallest, or
        where the GPU is lost, in host memory: NumPy arrays, or tensors of the CPU.

        On "cuda:emulated", which CuPy and torch do not know, "cupy" gives NumPy arrays and "torch" tensors of the
        CPU: a function that takes its module from `cupy.get_array_module(x)`, or uses operators alone, runs on both.

        Examples
        --------
        >>> import dataflare as flare, pyarrow as pa
        >>> def shout(batch):
        ...     return {"word": [word.upper() for word in batch.to_arrow()["word"].to_pylist()]}
        >>> words = flare.from_records([{"word": "hello"}])
        >>> words.map_batches(shout, pa.schema({"word": pa.string()})).to_arrow().to_pylist()
        [{'word': 'HELLO'}]
        >>> numbers = flare.from_records([{"x": 3.0}, {"x": 4.0}])
        >>> numbers.map_batches(lambda c: {"y": c["x"] / c["x"].max()}, batch_format="numpy").to_arrow().to_pylist()
        [{'y': 0.75}, {'y': 1.0}]
        """
        return self._step(building.add_map_batches(self._node, fn, schema, batch_format))

    # -- calls that run -------------------------------------------------------------------------------------

    def run(self, **options: Unpack[RunOptionArguments]) -> RunReport:
        """Run the pipeline into the sink that it ends in and report what it did.

        Raises
        ------
        PlanError
            The pipeline has no sink: nothing would take its result.
        RunError
            A stage failed; the cause is chained, and nothing it wrote is left.
        """
        if self._sink is None:
            raise PlanError(
                "nothing takes the result of this pipeline: add write_parquet(path), write(fn) or another "
                "write step before run(), or call collect(), iter_batches() or count() instead."
            )
        return self._run(self._sink.build(), options)

    def collect(self, **options: Unpack[RunOptionArguments]) -> SharedDataBatch:
        """Run the pipeline and return its result as one contiguous batch.

        `to_arrow` returns the chunks as they come, without joining them.
        """
        from dataflare.sinks.memory import CollectSink

        self._check_open(_TAKE_BEFORE)
        sink = CollectSink()
        self._run(sink, options)
        return sink.batch()

    def iter_batches(self, **options: Unpack[RunOptionArguments]) -> Iterator[SharedDataBatch]:
        """Run the pipeline while its batches are taken one by one.

        A slow consumer slows the source; closing the iterator, or leaving the loop, stops the run.
        """
        from dataflare.execute.stream import iter_plan
        from dataflare.sinks.memory import CollectSink

        self._check_open(_TAKE_BEFORE)
        resolved = RunOptions.resolve(options)
        return iter_plan(self._physical(CollectSink(), resolved), resolved)

    def count(self, **options: Unpack[RunOptionArguments]) -> int:
        """Return the number of records that come out, loading only the columns that filters read.

        Where nothing drops records and the source knows how many it has, nothing is read at all.

        Examples
        --------
        >>> import dataflare as flare
        >>> flare.from_records([{"a": 1}, {"a": 5}, {"a": 9}]).filter(lambda r: r.a > 3).count()
        2
        """
        from dataflare.optimize.counting import known_count
        from dataflare.sinks.counting import CountSink

        self._check_open(_TAKE_BEFORE)
        resolved = RunOptions.resolve(options)
        sink = CountSink()
        plan = self._physical(sink, resolved, count_only=True)
        rows = known_count(plan)
        if rows is not None:
            return rows
        _run_plan(plan, resolved)
        return sink.rows

    def to_arrow(self, **options: Unpack[RunOptionArguments]) -> pa.Table:
        """Run the pipeline and return its result as a table of the chunks as they came, nothing copied."""
        from dataflare.sinks.memory import CollectSink

        self._check_open(_TAKE_BEFORE)
        sink = CollectSink()
        self._run(sink, options)
        return sink.table()

    def to_pandas(self, **options: Unpack[RunOptionArguments]) -> pd.DataFrame:
        """Run the pipeline and return its result as a pandas frame; needs pandas."""
        return self.collect(**options).to_pandas()

    def to_polars(self, **options: Unpack[RunOptionArguments]) -> pl.DataFrame:
        """Run the pipeline and return its result as a Polars frame."""
        return self.collect(**options).to_polars()

    # -- what would run -------------------------------------------------------------------------------------

    def explain(self, **options: Unpack[RunOptionArguments]) -> Explanation:
        """Return what would run, stage by stage, without running it; print it to read it.

        Examples
        --------
        >>> import dataflare as flare
        >>> pipeline = flare.from_records([{"a": 1, "b": 2}]).filter(lambda r: r.a > 0).select("a")
        >>> pipeline.explain().stages[0].facts["columns"]
        '1 of 2: a'
        """
        from dataflare.plan.explanation import explain_plan

        resolved = RunOptions.resolve(options)
        return explain_plan(self._physical(self._planned_sink(), resolved), resolved, source_of(self._node))

    def source(self, form: ProgramForm = "operations") -> str:
        """Return the programs that the record steps became.

        Parameters
        ----------
        form
            "operations" for the typed operations, which are the same for every device; "llvm" for the code that
            the CPU gets, "assembly" for its machine code.
        """
        from dataflare.plan.listing import program_listing

        return program_listing(self._physical(self._planned_sink(), RunOptions()), form)

    def __repr__(self) -> str:
        from dataflare.plan.explanation import outline

        label = None if self._sink is None else self._sink.label
        return f"Pipeline\n{outline(self._node, label)}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    # -- inside ---------------------------------------------------------------------------------------------

    def _step(self, node: LogicalNode) -> Pipeline:
        self._check_open("add steps before the write step")
        return Pipeline._of(node)

    def _ending_in(self, label: str, build: Callable[[], BatchSink]) -> Pipeline:
        self._check_open("write to one place; run the pipeline before the write step twice for two")
        build()  # bad arguments are found now; the sink itself does nothing before it is opened
        return Pipeline._of(self._node, SinkSpec(label, build))

    def _check_open(self, way_out: str) -> None:
        if self._sink is not None:
            raise PlanError(f"this pipeline ends in {self._sink.label}: {way_out}.")

    def _planned_sink(self) -> BatchSink:
        from dataflare.sinks.memory import CollectSink

        return CollectSink() if self._sink is None else self._sink.build()

    def _physical(self, sink: BatchSink, options: RunOptions, *, count_only: bool = False) -> PhysicalPlan:
        from dataflare.optimize.plan import optimize

        return optimize(self._node, sink, ordered=options.ordered, count_only=count_only)

    def _run(self, sink: BatchSink, options: Mapping[str, Any]) -> RunReport:
        resolved = RunOptions.resolve(options)
        return _run_plan(self._physical(sink, resolved), resolved)


def _run_plan(plan: PhysicalPlan, options: RunOptions) -> RunReport:
    from dataflare.execute.run import run_plan

    return run_plan(plan, options)
