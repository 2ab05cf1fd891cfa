"""Freezes a user's function: a copy whose captured values stay as they were when the step was added.

A pipeline is built once and may run many times, each run compiling for its own needs (`count` needs fewer
columns than `collect`). All of them must see the constants of the moment the pipeline was built, so every
step keeps a copy of its function with its own closure cells and its own small globals. The code object is
shared: source lines, breakpoints and compile caches keyed by code stay valid.

Copied: lists, dicts, sets, arrays, the attributes used of modules, and instances of plain Python classes.
Kept by reference: classes, and objects whose state lives outside Python: a copy may mean something else.
"""

from __future__ import annotations

from types import CellType, FunctionType, ModuleType
from typing import Any

from dataflare.kernels.udf.capture import captured_names
from dataflare.kernels.udf.source import plain_function

__all__ = ["freeze_function"]

# What linecache needs to find the source of modules that are not plain files, and what every function needs.
_MODULE_NAMES = ("__name__", "__file__", "__loader__", "__spec__", "__package__", "__builtins__")
_LIBRARY_ROOTS = frozenset({"math", "numpy", "datetime", "decimal", "operator", "builtins", "typing", "enum"})
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: defined by a class statement, not in C


def freeze_function(fn: Any) -> FunctionType:
    """Return a copy of `fn` whose captured values no longer change.

    Raises
    ------
    CompileError
        If `fn` is not a function written in Python.
    """
    return _freeze_function(plain_function(fn), {})


def _freeze_function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    if id(function) in memo:  # it calls itself, or two helpers share a third
        known: FunctionType = memo[id(function)]
        return known
    code = function.__code__
    names, attributes = captured_names(code)
    cells = tuple(CellType() for _ in code.co_freevars)
    namespace = {name: function.__globals__[name] for name in _MODULE_NAMES if name in function.__globals__}
    frozen = FunctionType(code, namespace, function.__name__, None, cells)
    memo[id(function)] = frozen
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _freeze_value(original.cell_contents, attributes, memo)
        except ValueError:  # not bound yet, and so it stays: the compiler names it
            continue
    for name in names:
        if name in function.__globals__ and name not in namespace:
            namespace[name] = _freeze_value(function.__globals__[name], attributes, memo)
    if function.__defaults__ is not None:
        frozen.__defaults__ = tuple(_freeze_value(item, attributes, memo) for item in function.__defaults__)
    if function.__kwdefaults__ is not None:
        frozen.__kwdefaults__ = {
            name: _freeze_value(item, attributes, memo) for name, item in function.__kwdefaults__.items()
        }
    frozen.__qualname__ = function.__qualname__
    frozen.__module__ = function.__module__
    frozen.__doc__ = function.__doc__
    frozen.__dict__.update(function.__dict__)
    return frozen


def _freeze_value(value: Any, attributes: tuple[str, ...], memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in (int, float, str, bool, bytes, type(None)):
        return value
    if kind is FunctionType:
        return _freeze_function(value, memo)
    if kind is tuple or kind is list or kind is set or kind is frozenset:
        return kind(_freeze_value(item, attributes, memo) for item in value)
    if kind is dict:
        return {key: _freeze_value(item, attributes, memo) for key, item in value.items()}
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        copy = value.copy()
        copy.flags.writeable = False
        return copy
    if isinstance(value, ModuleType):
        return _freeze_module(value, attributes, memo)
    if not isinstance(value, type) and _is_plain_instance(value):
        clone = object.__new__(kind)
        clone.__dict__.update(vars(value))
        return clone
    return value


def _freeze_module(module: ModuleType, attributes: tuple[str, ...], memo: dict[int, Any]) -> ModuleType:
    if module.__name__.partition(".")[0] in _LIBRARY_ROOTS:
        return module
    if id(module) in memo:
        known: ModuleType = memo[id(module)]
        return known
    frozen = ModuleType(module.__name__)
    memo[id(module)] = frozen
    namespace = vars(module)
    for name in attributes:
        if name in namespace:
            setattr(frozen, name, _freeze_value(namespace[name], attributes, memo))
    return frozen


def _is_plain_instance(value: Any) -> bool:
    """Whether copying `__dict__` copies an instance whole: only classes written in Python, without slots."""
    if hasattr(value, "py_func"):  # a Numba dispatcher: its compiled code lives outside `__dict__`
        return False
    bases = type(value).__mro__[:-1]
    return bool(bases) and all(
        base.__flags__ & _HEAP_TYPE
        and "__slots__" not in vars(base)
        and base.__module__.partition(".")[0] not in _LIBRARY_ROOTS
        for base in bases
    )
