"""Collections whose length is known now: tables looked up by a value, ``enumerate``, ``zip``, ``reversed``, ``sum``.

A table is a constant dict, list or tuple; looking it up by a value of the record is a chain of comparisons. The
items of the others may be values of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dataflare.kernels.dtypes import BOOL
from dataflare.kernels.udf import arithmetic, comparison
from dataflare.kernels.udf.frame import MAX_UNROLLED
from dataflare.kernels.udf.scope import Scope
from dataflare.kernels.udf.values import NULL, Constant, Group, Scalar, Value, describe

__all__ = ["FUNCTIONS", "constant_table", "items_of", "look_up", "quantifier", "total"]

_COLLECTIONS = (tuple, list, range, set, frozenset, dict)


def constant_table(value: Value) -> Any:
    """Return the dict, list or tuple that a value is a constant form of, or None."""
    if isinstance(value, Constant) and isinstance(value.value, dict | tuple | list):
        return value.value
    if not isinstance(value, Group) or value.names is None or value.is_input:
        return None
    constants = [item.value for item in value.items if isinstance(item, Constant)]
    return dict(zip(value.names, constants, strict=True)) if len(constants) == len(value.items) else None


def look_up(scope: Scope, table: Any, index: Value, missing: Value = NULL) -> Value:
    """Return the entry of a constant table at ``index``; ``missing`` where the index is null or is not there."""
    if isinstance(table, dict):
        pairs = list(table.items())
    else:  # negative positions count from the end
        pairs = [*enumerate(table), *((i - len(table), value) for i, value in enumerate(table))]
    if len(pairs) > MAX_UNROLLED:
        scope.fail(f"a table of {len(pairs)} entries is too long to look up here", "use map_batches")
    if isinstance(index, Constant):
        found = [Constant(value) for key, value in pairs if key == index.value]
        return found[0] if found else missing
    widths = {len(value) if isinstance(value, tuple) else None for _, value in pairs}
    if missing == NULL and len(widths) == 1 and None not in widths:  # rows: each item has a type of its own
        (width,) = widths
        return Group(
            tuple(look_up(scope, {key: value[i] for key, value in pairs}, index) for i in range(width or 0))
        )
    result = missing
    for key, value in reversed(pairs):
        equal = scope.is_null(index) if key is None else comparison.contains(scope, index, Constant((key,)))
        result = scope.join(scope.truth(equal), Constant(value), result)
    return result


def items_of(scope: Scope, value: Value, name: str) -> tuple[Value, ...]:
    """Return the items of a collection, the argument of the function ``name``."""
    if isinstance(value, Group) and value.names is None:
        return value.items
    if isinstance(value, Constant) and isinstance(value.value, _COLLECTIONS):
        return tuple(Constant(item) for item in value.value)
    scope.operand(value)  # says it where a column is of a type that functions cannot touch
    scope.fail(
        f"{name}() needs a tuple, a list or a generator over constants and got {describe(value)}",
        "name the columns: " + name + "((r.a, r.b))" if name in ("sum", "any", "all") else "write a tuple",
    )


def quantifier(name: str) -> Callable[[Scope, list[Value]], Value]:
    """Return how ``any`` or ``all`` of a collection is computed; a null counts as false."""

    def handler(scope: Scope, args: list[Value]) -> Value:
        _one_argument(scope, name, args)
        result = scope.graph.const(BOOL, name == "all")
        for item in items_of(scope, args[0], name):
            result = scope.graph.op("and" if name == "all" else "or", BOOL, result, scope.truth(item))
        return Scalar(BOOL, result)

    return handler


def total(scope: Scope, args: list[Value]) -> Value:
    """Return ``sum(...)``, from left to right."""
    _one_argument(scope, "sum", args)
    result: Value = Constant(0)
    for item in items_of(scope, args[0], "sum"):
        result = arithmetic.binary(scope, "+", result, item)
    return result


def _one_argument(scope: Scope, name: str, args: list[Value]) -> None:
    if len(args) != 1:
        scope.fail(f"{name}() takes 1 argument here and got {len(args)}", "")


def _enumerated(scope: Scope, args: list[Value], kwargs: dict[str, Value]) -> Value:
    start = kwargs.get("start", args[1] if len(args) == 2 else Constant(0))
    if not 1 <= len(args) <= 2 or set(kwargs) - {"start"}:
        scope.fail("enumerate() takes a collection and, if wanted, start=", "")
    if not isinstance(start, Constant) or not isinstance(start.value, int):
        scope.fail("enumerate() starts at a constant integer", "add the rest inside the loop")
    items = items_of(scope, args[0], "enumerate")
    return Group(tuple(Group((Constant(place), item)) for place, item in enumerate(items, start.value)))


def _zipped(scope: Scope, args: list[Value], kwargs: dict[str, Value]) -> Value:
    strict = kwargs.get("strict", Constant(False))
    if set(kwargs) - {"strict"} or not isinstance(strict, Constant):
        scope.fail("zip() takes collections and, if wanted, strict=", "")
    rows = [items_of(scope, argument, "zip") for argument in args]
    if strict.value and len({len(row) for row in rows}) > 1:
        scope.fail("zip(strict=True) of collections of different lengths", "give them one length")
    return Group(tuple(Group(items) for items in zip(*rows, strict=False)))


def _reversed(scope: Scope, args: list[Value], kwargs: dict[str, Value]) -> Value:
    if kwargs:
        scope.fail("reversed() takes no keyword arguments", "")
    _one_argument(scope, "reversed", args)
    return Group(items_of(scope, args[0], "reversed")[::-1])


FUNCTIONS: dict[Any, Callable[[Scope, list[Value], dict[str, Value]], Value]] = {
    enumerate: _enumerated,
    zip: _zipped,
    reversed: _reversed,
}
