"""``== != < <= > >=`` on two values, and ``in`` on a constant collection or a string.

Integers compare exactly whatever their signs and widths; an integer with a float compares as float64, a
weak number with a float32 as float32. NaN follows IEEE 754. Strings compare by code point, which is the
order of their UTF-8 bytes. Null operands give null: see ``semantics``, which calls these with values that
are there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from dataflare.kernels.reference.arithmetic import common_float
from dataflare.kernels.reference.decimals import DecimalValue
from dataflare.kernels.reference.values import family, lift, unsupported

__all__ = ["compare", "contains"]

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBERS = frozenset({"bool", "int", "float"})


def compare(symbol: str, a: Any, b: Any) -> bool:
    """Compare two values that are not null."""
    apply = _OPERATORS[symbol]
    families = {family(a), family(b)}
    if families <= _NUMBERS:
        if "float" in families:
            a, b = common_float(a, b)
        else:
            a, b = int(a), int(b)
        return bool(apply(a, b))
    if families in ({"str"}, {"time"}):
        return bool(apply(a, b))
    if families == {"decimal"}:
        return bool(apply(a, b))
    if families == {"decimal", "int"}:
        return bool(apply(*_exact(a, b)))
    raise unsupported(symbol, a, b)


def _exact(a: Any, b: Any) -> tuple[int, int]:
    """Scale a decimal and an integer so that they compare as integers."""
    scale = max(x.scale for x in (a, b) if isinstance(x, DecimalValue))
    return tuple(  # type: ignore[return-value]
        x.at_scale(scale) if isinstance(x, DecimalValue) else int(x) * 10**scale for x in (a, b)
    )


def contains(container: Any, item: Any) -> bool:
    """Return ``item in container`` for an item that is not null; a null in the collection matches nothing."""
    if isinstance(container, str):
        if not isinstance(item, str):
            raise unsupported("in", item, container)
        return item in container
    return any(compare("==", item, lift(element)) for element in container if element is not None)
