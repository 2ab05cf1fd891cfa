"""What a function takes from outside: closure cells, globals, defaults, and the helpers it calls.

Captured values are constants, read when a program is built. ``function_key`` names a function together with
everything it captured, cheaply enough for every call: a changed value gives another key, so it compiles again.
"""

from __future__ import annotations

import builtins
import dis
import inspect
from collections.abc import Hashable
from functools import lru_cache
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import numpy as np

from dataflare.kernels.udf.source import plain_function

__all__ = ["captured_names", "function_key", "resolve_name", "value_key"]

_LIBRARY_MODULES = frozenset({"math", "numpy", "datetime", "decimal", "operator", "builtins"})
_ABSENT = object()
_MAX_DEPTH = 16
_PLAIN = (int, str, bytes, type(None), np.generic)


def resolve_name(fn: Any, name: str) -> Any:
    """Return the value that ``name`` has inside ``fn``: closure cell, then global, then builtin.

    Raises
    ------
    KeyError
        If the name is not bound.
    """
    function = plain_function(fn)
    free = function.__code__.co_freevars
    if name in free and function.__closure__ is not None:
        try:
            return function.__closure__[free.index(name)].cell_contents
        except ValueError:
            raise KeyError(name) from None
    if name in function.__globals__:
        return function.__globals__[name]
    if hasattr(builtins, name):
        return getattr(builtins, name)
    raise KeyError(name)


@lru_cache(maxsize=4096)
def captured_names(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the global names and the attribute names that a code object and the code nested in it use."""
    globals_: dict[str, None] = {}
    attributes: dict[str, None] = {}
    pending = [code]
    while pending:
        current = pending.pop()
        pending.extend(constant for constant in current.co_consts if isinstance(constant, CodeType))
        for instruction in dis.get_instructions(current):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                globals_[instruction.argval] = None
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                attributes[instruction.argval] = None
    return tuple(globals_), tuple(attributes)


def function_key(fn: Any) -> Hashable:
    """Return a hashable name of a function and all it captured, equal only if it would compile to the same code."""
    return _function_key(plain_function(fn), ())


def _function_key(function: FunctionType, callers: tuple[FunctionType, ...]) -> Hashable:
    if function in callers:
        return ("recursive", function.__code__)
    code = function.__code__
    if not (code.co_freevars or function.__defaults__ or function.__kwdefaults__):
        globals_, attributes = captured_names(code)
        if not globals_:
            return code
    else:
        globals_, attributes = captured_names(code)
    chain = (*callers, function)
    values: list[Hashable] = [code]
    for cell in function.__closure__ or ():
        try:
            values.append(_value_key(cell.cell_contents, attributes, chain))
        except ValueError:  # a name that is not bound yet
            values.append("unbound")
    namespace = function.__globals__
    for name in globals_:
        if name in namespace:
            values.append(_value_key(namespace[name], attributes, chain))
    if function.__defaults__:
        values.append(_value_key(function.__defaults__, attributes, chain))
    if function.__kwdefaults__:
        values.append(_value_key(function.__kwdefaults__, attributes, chain))
    return tuple(values)


def value_key(value: Any) -> Hashable:
    """Return a hashable name of a captured value that tells 0.0 from -0.0 and 1 from True."""
    return _value_key(value, (), ())


def _value_key(value: Any, attributes: tuple[str, ...], callers: tuple[FunctionType, ...]) -> Hashable:
    kind = type(value)
    if kind is float:
        return float.hex(value)
    if kind is int or kind is str or kind is bool or value is None:
        return (kind, value)
    if isinstance(value, np.floating):
        return (kind, value.tobytes())
    if isinstance(value, _PLAIN):
        return (kind, value)
    if isinstance(value, tuple | list):
        return (kind, tuple([_value_key(item, attributes, callers) for item in value]))
    if isinstance(value, set | frozenset):
        return (kind, frozenset(_value_key(item, attributes, callers) for item in value))
    if isinstance(value, dict):
        return (kind, tuple((key, _value_key(item, attributes, callers)) for key, item in value.items()))
    if isinstance(value, ModuleType):
        if value.__name__ in _LIBRARY_MODULES:
            return (kind, value.__name__)
        return (kind, value.__name__, _attributes_key(value, attributes, callers))
    if isinstance(value, FunctionType):
        return _function_key(value, callers)
    if isinstance(getattr(value, "py_func", None), FunctionType):
        return _function_key(value.py_func, callers)
    if isinstance(value, np.ndarray):
        return (kind, value.dtype.str, value.shape, value.tobytes())
    used = _attributes_key(value, attributes, callers)
    if isinstance(value, type):
        return (kind, value, used)
    if used:
        return (kind, id(value), used)
    try:
        hash(value)
    except TypeError:
        return (kind, id(value))
    return (kind, value)


def _attributes_key(
    owner: Any, attributes: tuple[str, ...], callers: tuple[FunctionType, ...]
) -> tuple[tuple[str, Hashable], ...]:
    """Return the values of the attributes that a function may read of an object, without running properties."""
    found: list[tuple[str, Hashable]] = []
    for name in attributes:
        value = inspect.getattr_static(owner, name, _ABSENT)
        if value is _ABSENT or isinstance(value, property):
            continue
        if isinstance(value, MemberDescriptorType):  # a slot
            value = getattr(owner, name, None)
        if isinstance(value, ModuleType) or len(callers) > _MAX_DEPTH:
            found.append((name, (type(value), id(value))))
        else:
            inner = tuple(attribute for attribute in attributes if attribute != name)
            found.append((name, _value_key(value, inner, callers)))
    return tuple(found)
