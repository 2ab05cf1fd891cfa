"""Every operation of a record function, as one function of its operands: the law that devices follow.

This module holds the rule for nulls (an operand that is null makes the result null) and picks the
definition by what the operands are; the definitions are in ``arithmetic``, ``comparison``, ``logic``,
``conversions``, ``mathematics``, ``strings``, ``times`` and ``decimals``. ``instrument`` calls these in
place of Python's operators.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from dataflare.kernels.errors import CompileError
from dataflare.kernels.reference import arithmetic, comparison, conversions, mathematics, strings
from dataflare.kernels.reference.decimals import decimal_of_int
from dataflare.kernels.reference.logic import (
    and_lazily,
    both,
    condition,
    decides_and,
    decides_or,
    either,
    negate,
    or_lazily,
)
from dataflare.kernels.reference.times import TimeValue
from dataflare.kernels.reference.values import family, lift, unsupported

__all__ = [
    "BINARY_OPERATORS",
    "FUNCTIONS",
    "METHODS",
    "UNARY_OPERATORS",
    "and_lazily",
    "attribute",
    "both",
    "compare_chain",
    "condition",
    "counted",
    "decides_and",
    "decides_or",
    "either",
    "element",
    "get",
    "negate",
    "or_lazily",
]

Operation = Callable[..., Any]
_NUMBERS = frozenset({"bool", "int", "float"})


def _binary(symbol: str, on_numbers: Operation, on_decimals: bool, on_times: bool) -> Operation:
    python_operator = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "//": operator.floordiv,
        "%": operator.mod,
    }

    def operation(a: Any, b: Any) -> Any:
        a, b = lift(a), lift(b)
        if a is None or b is None:
            return None
        families = {family(a), family(b)}
        if families <= _NUMBERS:
            return on_numbers(a, b)
        if families == {"time"} and on_times:
            return python_operator[symbol](a, b)
        if families <= {"decimal", "int", "bool"} and on_decimals:
            return python_operator[symbol](_decimal(a), _decimal(b))
        if families == {"time", "int"} and symbol == "*":
            return _scaled_duration(a, b)
        if "decimal" in families and "float" in families:
            raise CompileError(
                f"a decimal {symbol} a float is not exact: convert the decimal first, float(r.x) {symbol} ..."
            )
        raise unsupported(symbol, a, b)

    return operation


def _decimal(value: Any) -> Any:
    return value if family(value) == "decimal" else decimal_of_int(value)


def _scaled_duration(a: Any, b: Any) -> TimeValue:
    duration, count = (a, b) if isinstance(a, TimeValue) else (b, a)
    if duration.kind != "duration":
        raise unsupported("*", a, b)
    product = arithmetic.multiply(np.int64(duration.value), np.int64(int(count)))
    return TimeValue("duration", duration.unit, int(product))


def _integers_only(symbol: str, on_integers: Operation) -> Operation:
    def operation(a: Any, b: Any) -> Any:
        if family(a) == "float" or family(b) == "float":
            raise unsupported(symbol, a, b)
        return on_integers(a, b)

    return operation


def _kleene(symbol: str, on_integers: Operation, decided_by: bool) -> Operation:
    """Return ``&`` or ``|``: on bools a null is an unknown, as for ``and`` and ``or``."""
    on_values = _binary(symbol, _integers_only(symbol, on_integers), on_decimals=False, on_times=False)

    def operation(a: Any, b: Any) -> Any:
        if (a is None or b is None) and (lift(a) is decided_by or lift(b) is decided_by):
            return decided_by
        return on_values(a, b)

    return operation


BINARY_OPERATORS: dict[str, Operation] = {
    "+": _binary("+", arithmetic.add, on_decimals=True, on_times=True),
    "-": _binary("-", arithmetic.subtract, on_decimals=True, on_times=True),
    "*": _binary("*", arithmetic.multiply, on_decimals=True, on_times=False),
    "/": _binary("/", arithmetic.divide, on_decimals=False, on_times=True),
    "//": _binary("//", arithmetic.floor_divide, on_decimals=False, on_times=True),
    "%": _binary("%", arithmetic.remainder, on_decimals=False, on_times=True),
    "**": _binary("**", arithmetic.power, on_decimals=False, on_times=False),
    "<<": _binary("<<", _integers_only("<<", arithmetic.shift_left), on_decimals=False, on_times=False),
    ">>": _binary(">>", _integers_only(">>", arithmetic.shift_right), on_decimals=False, on_times=False),
    "&": _kleene("&", arithmetic.bit_and, decided_by=False),
    "|": _kleene("|", arithmetic.bit_or, decided_by=True),
    "^": _binary("^", _integers_only("^", arithmetic.bit_xor), on_decimals=False, on_times=False),
}


def _negative(value: Any) -> Any:
    value = lift(value)
    if value is None:
        return None
    if family(value) in ("decimal", "time"):
        return -value
    if family(value) not in _NUMBERS:
        raise unsupported("-", value)
    return arithmetic.negative(value)


def _positive(value: Any) -> Any:
    if value is not None and family(lift(value)) not in _NUMBERS:
        raise unsupported("+", value)
    return None if value is None else arithmetic.positive(lift(value))


def _invert(value: Any) -> Any:
    if value is not None and family(value) not in ("int", "bool"):
        raise unsupported("~", value)
    return None if value is None else arithmetic.invert(value)


UNARY_OPERATORS: dict[str, Operation] = {"-": _negative, "+": _positive, "~": _invert, "not": negate}


def compare_chain(symbols: tuple[str, ...], *operands: Any) -> Any:
    """Return ``a < b <= c``: the pairs joined by ``and``, each operand evaluated once."""
    result: Any = True
    for symbol, (a, b) in zip(symbols, pairwise(operands), strict=True):
        outcome = _compare(symbol, a, b)
        if outcome is False:
            return False
        result = both(result, outcome)
    return result


def _compare(symbol: str, a: Any, b: Any) -> Any:
    if symbol in ("is", "is not"):
        return (a is b) == (symbol == "is")
    a, b = lift(a), lift(b)
    if symbol in ("in", "not in"):
        if a is None or b is None:
            return None
        if isinstance(a, tuple):
            inside = _tuple_among(a, b)
            return inside if symbol == "in" else negate(inside)
        return comparison.contains(b, a) == (symbol == "in")
    if a is None or b is None:
        return None
    if isinstance(a, tuple) and isinstance(b, tuple) and symbol in ("==", "!=") and len(a) == len(b):
        return _tuples_equal(a, b) if symbol == "==" else negate(_tuples_equal(a, b))
    return comparison.compare(symbol, a, b)


def _tuples_equal(a: tuple[Any, ...], b: tuple[Any, ...]) -> Any:
    result: Any = True
    for x, y in zip(a, b, strict=True):
        equal = _compare("==", x, y)
        result = False if result is False else both(result, equal)
    return result


def _tuple_among(item: tuple[Any, ...], candidates: Iterable[Any]) -> Any:
    """Return ``(a, b) in ((1, 2), (3, 4))``: true if one is equal, else null if a null leaves it open."""
    result: Any = False
    for candidate in candidates:
        if isinstance(candidate, tuple) and len(candidate) == len(item):
            equal = _tuples_equal(item, candidate)
            result = True if equal is True or result is True else either(result, equal)
    return result


def null_if_any(function: Operation) -> Operation:
    """Give a definition on values the rule for nulls: null if any argument is."""

    def operation(*arguments: Any, **named: Any) -> Any:
        lifted = [lift(argument) for argument in arguments]
        if any(argument is None for argument in lifted):
            return None
        return function(*lifted, **{name: lift(argument) for name, argument in named.items()})

    return operation


def _divmod(a: Any, b: Any) -> Any:
    a, b = lift(a), lift(b)
    return (None, None) if a is None or b is None else conversions.divide_with_remainder(a, b)


def counted(*bounds: Any) -> Iterator[Any]:
    """Return ``range(...)``: weak if start and step are; a null bound counts nothing."""
    if any(bound is None for bound in bounds):
        return
    for bound in bounds:
        if family(lift(bound)) not in ("int", "bool"):
            raise unsupported("range()", bound)
    weak = len(bounds) == 1 or all(type(bound) is int for bound in (bounds[0], *bounds[2:]))
    for number in range(*(int(bound) for bound in bounds)):
        yield number if weak else np.int64(number)


def total(values: Iterable[Any]) -> Any:
    """Return ``sum(...)`` of a few values, from left to right."""
    result: Any = 0
    for value in values:
        result = BINARY_OPERATORS["+"](result, value)
    return result


def any_true(values: Iterable[Any]) -> bool:
    """Return ``any(...)``; a null counts as false."""
    return any(condition(value) for value in values)


def all_true(values: Iterable[Any]) -> bool:
    """Return ``all(...)``; a null counts as false."""
    return all(condition(value) for value in values)


def _cast_to(kind: type[np.generic]) -> Operation:
    return lambda value: conversions.cast(kind, value)


_BUILTINS: dict[Any, Operation] = {
    builtins.abs: conversions.absolute,
    builtins.bool: conversions.to_bool,
    builtins.float: conversions.to_float,
    builtins.int: conversions.to_int,
    builtins.len: conversions.length,
    builtins.max: conversions.largest,
    builtins.min: conversions.smallest,
    builtins.round: conversions.rounded,
}
_CASTS: dict[Any, Operation] = {
    kind: _cast_to(kind)
    for kind in (
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float32, np.float64, np.bool_),
    )
}
_MATHEMATICS: dict[Any, Operation] = {**mathematics.MATH_FUNCTIONS, **mathematics.NUMPY_FUNCTIONS}

#: What a call of each builtin or library function means.
FUNCTIONS: dict[Any, Operation] = {
    **{
        function: definition if definition in mathematics.NULL_AWARE else null_if_any(definition)
        for function, definition in {**_BUILTINS, **_CASTS, **_MATHEMATICS}.items()
    },
    builtins.all: all_true,
    builtins.any: any_true,
    builtins.divmod: _divmod,
    builtins.pow: BINARY_OPERATORS["**"],
    builtins.range: counted,
    builtins.sum: total,
}

_TIME_METHODS = ("date", "isoweekday", "timestamp", "toordinal", "total_seconds", "weekday")

#: What a call of each method means; the first argument is the value.
METHODS: dict[str, Operation] = {
    **{name: null_if_any(method) for name, method in strings.STRING_METHODS.items()},
    **{name: null_if_any(operator.methodcaller(name)) for name in _TIME_METHODS},
    "is_integer": null_if_any(lambda value: bool(value.is_integer())),
}


def attribute(owner: Any, name: str) -> Any:
    """Return ``x.name`` of what is not the record: null for a null, else a field of a time or constant."""
    return None if owner is None else getattr(lift(owner), name)


def element(owner: Any, index: Any) -> Any:
    """Return ``x[i]`` of a tuple or captured collection; null where x or i is null, or i is not there."""
    if owner is None or index is None:
        return None
    if isinstance(owner, str):
        return strings.part(owner, index) if isinstance(index, slice) else strings.character(owner, index)
    return _looked_up(owner, int(index) if isinstance(index, np.integer) else index)


def get(table: Any, key: Any, default: Any = None) -> Any:
    """Return ``table.get(key, default)`` of a constant dict: the default where the key is null or is not there."""
    return lift(default) if key not in table and _moment_in(table, key) is None else _looked_up(table, key)


def _looked_up(table: Any, key: Any) -> Any:
    moment = _moment_in(table, key)
    try:
        return lift(table[key if moment is None else moment])
    except (KeyError, IndexError):
        return None


def _moment_in(table: Any, key: Any) -> Any:
    """Return the key of a dict that is the same moment as ``key``, in the form that the dict has it."""
    if not isinstance(key, TimeValue) or not isinstance(table, dict):
        return None
    return next((own for own in table if family(lift(own)) == "time" and lift(own) == key), None)
