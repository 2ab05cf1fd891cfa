"""Builds logical nodes from the arguments of a pipeline's steps, and refuses bad arguments at once.

Covers the checks of names, functions and schemas. What the functions mean is the record compiler's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataflare.kernels.errors import ColumnNotFoundError, DataFlareError, OptionError, SchemaError
from dataflare.kernels.udf.stages import (
    FilterStage,
    MapStage,
    RecordFunction,
    SelectStage,
    Stage,
    WithColumnsStage,
)
from dataflare.plan.formats import check_format, check_types
from dataflare.plan.frozen import freeze_function
from dataflare.plan.logical import (
    Limit,
    LogicalNode,
    MapBatches,
    RecordStep,
    known_schema,
    require_schema,
    step_number,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "add_drop",
    "add_filter",
    "add_limit",
    "add_map",
    "add_map_batches",
    "add_rename",
    "add_select",
    "add_with_columns",
]


def add_filter(node: LogicalNode, fn: RecordFunction) -> LogicalNode:
    """Return `node` followed by a filter."""
    return _record_step(node, "filter", FilterStage(freeze_function(fn)))


def add_map(node: LogicalNode, fn: RecordFunction) -> LogicalNode:
    """Return `node` followed by a map."""
    return _record_step(node, "map", MapStage(freeze_function(fn)))


def add_with_columns(
    node: LogicalNode, fn: RecordFunction | None, named: Mapping[str, RecordFunction]
) -> LogicalNode:
    """Return `node` followed by new columns: of one function, or of a function each."""
    if (fn is None) == (not named):
        raise OptionError(
            "with_columns takes one function that returns a dict of columns, or functions by column name: "
            "with_columns(total=lambda r: r.price * r.quantity)."
        )
    if fn is not None:
        return _record_step(node, "with_columns", WithColumnsStage(freeze_function(fn)))
    for name, function in named.items():
        if not callable(function):
            raise OptionError(
                f"with_columns: {name} must be a function of a record, not {function!r}. "
                f"For a constant write {name}=lambda r: {function!r}."
            )
    frozen = tuple((name, freeze_function(function)) for name, function in named.items())
    return _record_step(node, "with_columns", WithColumnsStage(named=frozen))


def add_select(node: LogicalNode, columns: Sequence[str]) -> LogicalNode:
    """Return `node` followed by the choice of `columns`, in this order."""
    _check_names(node, "select", columns)
    if not columns:
        raise OptionError("select needs at least one column; count() counts records without any.")
    return _selection(node, "select", [(name, name) for name in columns])


def add_drop(node: LogicalNode, columns: Sequence[str]) -> LogicalNode:
    """Return `node` without `columns`."""
    names = _check_names(node, "drop", columns)
    left = [(name, name) for name in names if name not in columns]
    if not left:
        raise OptionError("drop leaves no column; count() counts records without any.")
    return _selection(node, "drop", left)


def add_rename(node: LogicalNode, new_names: Mapping[str, str]) -> LogicalNode:
    """Return `node` with columns under new names (old: new), at their old places."""
    names = _check_names(node, "rename", list(new_names))
    for name in new_names.values():
        _check_text("rename", name)
    return _selection(node, "rename", [(new_names.get(name, name), name) for name in names])


def add_limit(node: LogicalNode, rows: Any) -> LogicalNode:
    """Return `node` cut after `rows` records."""
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
        raise OptionError(f"limit takes a number of records, 0 or more, not {rows!r}.")
    return Limit(node, rows)


def add_map_batches(
    node: LogicalNode, fn: Callable[[Any], Any], schema: Any, batch_format: Any = "batch"
) -> LogicalNode:
    """Return `node` followed by a user's function of batches."""
    if not callable(fn):
        raise OptionError(f"map_batches takes a function of a batch, or a class, not {fn!r}.")
    form = check_format(batch_format)
    step = MapBatches(node, fn, None if schema is None else _as_schema(schema), form)
    given = known_schema(node)
    if given is not None:
        check_types(f"{step.label} at step {step_number(step)}", form, given)
    return step


def _record_step(node: LogicalNode, method: str, stage: Stage) -> LogicalNode:
    step = RecordStep(node, method, stage)
    try:
        step.schema  # noqa: B018  asked now, so that a bad function fails where it is added
    except DataFlareError as error:
        error.add_note(f"At step {step_number(step)} of the pipeline: {method}.")
        raise
    return step


def _selection(node: LogicalNode, method: str, columns: Sequence[tuple[str, str]]) -> LogicalNode:
    seen: set[str] = set()
    for name, _ in columns:
        if name in seen:
            raise SchemaError(f"{method}: there would be two columns named {name!r}; names must differ.")
        seen.add(name)
    return _record_step(node, method, SelectStage(tuple(columns)))


def _check_names(node: LogicalNode, method: str, names: Sequence[str]) -> list[str]:
    """Return the columns at `node` after checking that all of `names` are among them."""
    available = require_schema(node, method).names
    for name in names:
        _check_text(method, name)
        if name not in available:
            raise ColumnNotFoundError.for_name(name, available, f"{method} at step {step_number(node) + 1}")
    return available


def _check_text(method: str, name: object) -> None:
    if isinstance(name, str):
        return
    if isinstance(name, list | tuple | set | frozenset) and all(isinstance(item, str) for item in name):
        spelled = ", ".join(repr(item) for item in name)
        raise OptionError(f"{method} takes column names one by one: {method}({spelled}).")
    raise OptionError(f"{method} takes column names, not {name!r}.")


def _as_schema(schema: Any) -> pa.Schema:
    import pyarrow as pa

    if isinstance(schema, pa.Schema):
        return schema
    if isinstance(schema, Mapping):
        try:
            return pa.schema(dict(schema))
        except (TypeError, ValueError) as error:
            raise OptionError(f"map_batches: {schema!r} is not a schema: {error}.") from error
    if hasattr(schema, "__arrow_c_schema__"):
        return pa.schema(schema)
    raise OptionError(
        f"map_batches: schema must be a pyarrow.Schema or a dict of names and types, not {schema!r}."
    )
