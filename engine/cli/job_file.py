"""Jobs as TOML: a source, steps with expressions of a record ``r``, a sink, and the options of the run.

    [source]
    path = "flights.parquet"          # relative to the folder of the job file
    [constants]
    late = 15
    [[steps]]
    filter = "r.dep_delay > late"
    [[steps]]
    with_columns = { speed = "r.distance / r.air_time" }
    [sink]
    path = "delayed.parquet"          # relative to the current folder
    [run]
    memory_limit = "512MB"

An input is relative to the job file, since the two travel together and a job means the same data wherever
it is started. An output is relative to where the user stands, as that of every other command: a job in a
read-only checkout or image still runs, and nothing is written where nobody looked. What `--set` gives was
typed at a prompt and is relative to the current folder.

Covers the tables, their keys and what they become; the options of readers and writers are those of the
functions that they call. Expressions are `expressions`'.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataflare.cli.expressions import (
    FUNCTIONS,
    RECORD,
    Expression,
    ExpressionError,
    build_functions,
    check_expression,
)
from dataflare.cli.job_document import JobDocument, dotted
from dataflare.kernels.errors import DataFlareError, OptionError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

    from dataflare.cli.positions import KeyPath
    from dataflare.pipeline import Pipeline

__all__ = ["load_job_file"]

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".arrow": "ipc",
    ".arrows": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
}
COMPRESSED = (".bz2", ".gz", ".lz4", ".zst")
READABLE = ("csv", "ipc", "json", "parquet")
WRITABLE = ("csv", "ipc", "parquet")
STEPS = ("drop", "filter", "limit", "map", "rename", "select", "with_columns")


def load_job_file(
    path: Path, settings: Mapping[str, Any], *, overwrite: bool = False
) -> tuple[Pipeline, dict[str, Any]]:
    """Return the pipeline of a job file and its run options.

    Parameters
    ----------
    path
        The job file.
    settings
        Values that replace those of the file, by dotted key.
    overwrite
        Whether the sink may replace what is there, whatever the file says.

    Raises
    ------
    OptionError
        A key, value or expression that is not allowed: the message shows the line.
    PlanError
        A step that does not fit the data.
    """
    document = JobDocument.read(path, settings)
    document.check_keys((), document.data, ("constants", "run", "sink", "source", "steps"))
    for required in ("source", "sink"):
        if required not in document.data:
            raise document.error((), f"the job file has no table [{required}]; it needs [source] and [sink].")
    job = _JobFile(document, path.parent)
    options = job.run_options()
    return job.pipeline(overwrite), options


class _JobFile:
    def __init__(self, document: JobDocument, folder: Path) -> None:
        self._document = document
        self._folder = folder
        self._constants = self._read_constants()

    def pipeline(self, overwrite: bool) -> Pipeline:
        steps = self._read_steps()
        pipeline = self._source()
        for path, method, arguments, named in steps:
            pipeline = self._apply(path, getattr(pipeline, method), *arguments, **named)
        return self._sink(pipeline, overwrite)

    def run_options(self) -> dict[str, Any]:
        from dataflare.options import RunOptions

        table = self._document.table(("run",), self._document.data)
        self._document.check_keys(("run",), table, [field.name for field in fields(RunOptions)])
        for name in ("batching", "backpressure"):
            if name in table:
                table[name] = self._control_option(name, self._document.table(("run", name), table))
        for name, value in table.items():  # one at a time, so that the message can name the line
            try:
                RunOptions.resolve({name: value}, environment={})
            except DataFlareError as error:
                raise self._placed(("run", name), error) from None
        return table

    def _control_option(self, name: str, table: dict[str, Any]) -> Any:
        from dataflare.control import AdaptiveBatchingConfig, CreditConfig, CreditMode

        made_by: Callable[..., Any] = AdaptiveBatchingConfig if name == "batching" else CreditConfig
        self._document.check_keys(("run", name), table, inspect.signature(made_by).parameters)
        if name == "backpressure" and "mode" in table:
            modes = [mode.value for mode in CreditMode]
            if table["mode"] not in modes:
                path = ("run", name, "mode")
                raise self._document.error(path, f"{dotted(path)} must be one of {', '.join(modes)}.")
            table["mode"] = CreditMode(table["mode"])
        return self._apply(("run", name), made_by, **table)

    def _read_constants(self) -> dict[str, Any]:
        constants = self._document.table(("constants",), self._document.data)
        for name, value in constants.items():
            path = ("constants", name)
            if not name.isidentifier() or name.startswith("__") or name in (RECORD, "math", *FUNCTIONS):
                raise self._document.error(path, f"{name!r} cannot be the name of a constant.")
            if isinstance(value, list):
                constants[name] = tuple(value)
            elif not isinstance(value, bool | int | float | str | date | datetime):
                raise self._document.error(
                    path,
                    f"{dotted(path)} must be a number, text, true or false, a date, a date-time or a list.",
                )
        return constants

    def _source(self) -> Pipeline:
        import dataflare

        table = self._document.table(("source",), self._document.data)
        form = self._format("source", table, READABLE)
        paths = table.pop("path")
        if not self._document.is_set(("source", "path")):
            paths = [self._input(p) for p in paths] if isinstance(paths, list) else self._input(paths)
        read = getattr(dataflare, f"read_{form}")
        self._check_options("source", table, read)
        source: Pipeline = self._apply(("source", "path"), read, paths, **table)
        return source

    def _sink(self, pipeline: Pipeline, overwrite: bool) -> Pipeline:
        table = self._document.table(("sink",), self._document.data)
        form = self._format("sink", table, WRITABLE)
        write = getattr(pipeline, f"write_{form}")
        path = table.pop("path")
        self._document.check_type(("sink", "path"), path, str)
        self._check_options("sink", table, write)
        if overwrite:
            table["overwrite"] = True
        sink: Pipeline = self._apply(("sink", "path"), write, path, **table)
        return sink

    def _format(self, name: str, table: dict[str, Any], formats: tuple[str, ...]) -> str:
        """Take the format out of a table, or tell it from the path."""
        if "path" not in table:
            raise self._document.error((name,), f"[{name}] needs a key 'path'.")
        self._document.check_type((name, "path"), table["path"], str, list)
        if "format" in table:
            form = table.pop("format")
            if form not in formats:
                hint = nearest(str(form), formats)
                message = f"{name}.format must be one of {', '.join(formats)}, not {form!r}. {hint}"
                raise self._document.error((name, "format"), message.rstrip())
            return str(form)
        paths = table["path"] if isinstance(table["path"], list) else [table["path"]]
        for path in paths:
            self._document.check_type((name, "path"), path, str)
        found = {FORMATS.get(_suffix(path), "") for path in paths}
        if len(found) != 1 or not found <= set(formats):
            raise self._document.error(
                (name, "path"),
                f"the format of {table['path']!r} cannot be told from its name; give {name}.format, "
                f"one of {', '.join(formats)}.",
            )
        return found.pop()

    def _input(self, path: str) -> str:
        return path if "://" in path or Path(path).is_absolute() else str(self._folder / path)

    def _check_options(self, name: str, table: dict[str, Any], function: Callable[..., Any]) -> None:
        parameters = inspect.signature(function).parameters.values()
        options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "filesystem"]
        self._document.check_keys((name,), table, ["path", "format", *options])
        for key in ("column_types", "schema"):
            if key in table:
                path: KeyPath = (name, key)
                self._document.check_type(path, table[key], dict)
                table[key] = {
                    column: self._type((*path, column), text) for column, text in table[key].items()
                }

    def _type(self, path: KeyPath, text: Any) -> pa.DataType:
        """Return the Arrow type that a text such as "int32", "timestamp[ms]" or "date32" names."""
        import pyarrow as pa

        self._document.check_type(path, text, str)
        try:
            named: pa.DataType = pa.type_for_alias(text)
        except ValueError:
            message = (
                f"{dotted(path)}: {text!r} is no type; write int32, float64, string, date32, timestamp[ms]."
            )
            raise self._document.error(path, message) from None
        return named

    def _read_steps(self) -> list[tuple[KeyPath, str, list[Any], dict[str, Any]]]:
        """Return the calls that the steps stand for: place, method, arguments, named arguments."""
        steps = self._document.data.get("steps", [])
        self._document.check_type(("steps",), steps, list)
        calls: list[tuple[KeyPath, str, list[Any], dict[str, Any]]] = []
        expressions: list[Expression] = []
        for index, step in enumerate(steps):
            self._document.check_type(("steps", index), step, dict)
            self._document.check_keys(("steps", index), step, STEPS)
            if len(step) != 1:
                message = f"a step has one key, this one has {len(step)}; start each with its own [[steps]]."
                raise self._document.error(("steps", index), message)
            ((method, value),) = step.items()
            path: KeyPath = ("steps", index, method)
            if method == "filter":
                expressions.append(self._expression(path, value, method))
                calls.append((path, method, [expressions[-1]], {}))
            elif method in ("map", "with_columns"):
                self._document.check_type(path, value, dict)
                if not value:
                    raise self._document.error(path, f"{dotted(path)} names no column.")
                named = {name: self._expression((*path, name), text, name) for name, text in value.items()}
                expressions += named.values()
                # with_columns lets all functions see the record as it came in: a map is that and a selection.
                calls.append((path, "with_columns", [], named))
                if method == "map":
                    calls.append((path, "select", list(value), {}))
            else:
                calls.append((path, method, self._plain_arguments(path, method, value), {}))
        functions = build_functions(expressions, self._constants, self._document.filename)
        made = {id(expression): function for expression, function in zip(expressions, functions, strict=True)}
        return [
            (
                path,
                method,
                [made.get(id(argument), argument) for argument in arguments],
                {name: made[id(expression)] for name, expression in named.items()},
            )
            for path, method, arguments, named in calls
        ]

    def _plain_arguments(self, path: KeyPath, method: str, value: Any) -> list[Any]:
        if method == "limit":
            self._document.check_type(path, value, int)
            return [value]
        self._document.check_type(path, value, dict if method == "rename" else list)
        for key, name in value.items() if method == "rename" else enumerate(value):
            self._document.check_type((*path, key), name, str)
        return [value] if method == "rename" else list(value)

    def _expression(self, path: KeyPath, text: Any, name: str) -> Expression:
        self._document.check_type(path, text, str)
        try:
            check_expression(text, self._constants)
        except ExpressionError as error:
            raise self._document.error_in_text(
                path, text, str(error), error.line, error.column, error.end_column
            ) from None
        return Expression(text, name, self._document.expression_line(path, text))

    def _apply(self, path: KeyPath, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call, and give an error the place of the key that asked for it."""
        try:
            return call(*arguments, **named)
        except DataFlareError as error:
            raise self._placed(path, error) from error
        except TypeError as error:  # an option of a reader or writer that is of the wrong type
            raise self._document.error(path, f"{dotted(path)}: {error}") from error

    def _placed(self, path: KeyPath, error: DataFlareError) -> DataFlareError:
        if f"{self._document.filename}:" in str(error):
            return error  # the compiler has already shown the line of the expression
        if isinstance(error, OptionError):
            option = re.match(r"\w+", str(error))  # messages about an option begin with its name
            if option and self._document.has((path[0], option.group())):
                path = (path[0], option.group())
            return self._document.error(path, str(error))
        return type(error)(str(self._document.error(path, str(error))))


def _suffix(path: str) -> str:
    """Return what the name says about the format: ``.csv`` of ``part-*.CSV.gz``."""
    name = Path(path.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
