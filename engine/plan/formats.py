"""In which form functions of ``map_batches`` are given batches: the names, and the types that a form has.

Covers what can be said before anything runs. How a batch is brought into a form is `dataflare.execute.handover`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from dataflare.kernels.errors import OptionError, SchemaError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BatchFormat", "check_format", "check_types", "describe_format"]

BatchFormat: TypeAlias = Literal["batch", "arrow", "numpy", "cupy", "torch", "device"]
"""``"batch"`` is a `SharedDataBatch` in host memory, ``"device"`` one on the device of the run."""


class _Form(NamedTuple):
    text: str
    """What functions are given, in words."""
    kinds: str | None = None
    """The types of columns that it has, in words; None for all."""
    fits: Callable[[Any], bool] = lambda data_type: True


def _is_number(data_type: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(data_type) or pa.types.is_floating(data_type)


def _is_numpy(data_type: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(data_type):
        return data_type.tz is None
    return (
        _is_number(data_type)
        or types.is_boolean(data_type)
        or types.is_date(data_type)
        or types.is_duration(data_type)
    )


_NUMBERS = "integers and floats"
_FORMS: dict[str, _Form] = {
    "batch": _Form("a SharedDataBatch in host memory"),
    "arrow": _Form("an Arrow record batch"),
    "numpy": _Form(
        "NumPy arrays", "integers, floats, bools, dates, durations and naive timestamps", _is_numpy
    ),
    "cupy": _Form("CuPy arrays", _NUMBERS, _is_number),
    "torch": _Form("torch tensors", _NUMBERS, _is_number),
    "device": _Form("a SharedDataBatch where it lies"),
}


def describe_format(batch_format: BatchFormat) -> str:
    """Return what functions are given, in words."""
    return _FORMS[batch_format].text


def check_format(batch_format: Any) -> BatchFormat:
    """Return a format as it is, or raise an ``OptionError`` when there is none of that name."""
    names = get_args(BatchFormat)
    if batch_format not in names:
        hint = f"{nearest(batch_format, names)} " if isinstance(batch_format, str) else ""
        raise OptionError(
            f"map_batches: batch_format is one of {', '.join(names)}, not {batch_format!r}. {hint}".rstrip()
        )
    found: BatchFormat = batch_format
    return found


def check_types(step: str, batch_format: BatchFormat, schema: pa.Schema) -> None:
    """Raise a ``SchemaError`` for the first column that a format has no form for."""
    form = _FORMS[batch_format]
    for field in schema:
        if not form.fits(field.type):
            raise SchemaError(
                f"{step} takes {form.text} (batch_format={batch_format!r}), which are made of {form.kinds}, and "
                f"column {field.name!r} is {field.type}: leave it out before, with select or drop, or take "
                "batch_format='arrow' or 'device', which have every type."
            )
