"""Chooses what decodes each column of Parquet files, before anything is read.

The decoders and what they cost are in `dataflare.sources.parquet_decoders`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from dataflare.kernels.cpu.parquet_chunk import is_loaded
from dataflare.kernels.errors import OptionError
from dataflare.sources.agreement import same_family
from dataflare.sources.parquet_excerpt import expected_type, has_known_layout
from dataflare.sources.parquet_native import native_columns

if TYPE_CHECKING:
    from dataflare.sources.parquet_catalog import ParquetFileInfo

__all__ = ["ColumnDecoders", "DecoderName", "check_decoder", "choose_decoders", "describe_decoders", "gives"]

DecoderName = Literal["auto", "native", "polars", "pyarrow"]

# Loading the compiled decoder takes 0.06 s, or 0.3 s where it has to be compiled, and importing Polars 0.3 s: as
# long as they save on this much compressed data.
_NATIVE_WORTH_BYTES = 4 * 2**20
_POLARS_WORTH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ColumnDecoders:
    """Which columns of a file are decoded by what; PyArrow decodes the others."""

    native: frozenset[str] = frozenset()
    polars: frozenset[str] = frozenset()


def check_decoder(decoder: str) -> None:
    """Raise `OptionError` unless `decoder` names one."""
    if decoder not in ("auto", "native", "polars", "pyarrow"):
        raise OptionError(f"decoder must be 'auto', 'native', 'polars' or 'pyarrow', not {decoder!r}.")


def choose_decoders(
    infos: Sequence[ParquetFileInfo], schema: pa.Schema, decoder: DecoderName
) -> list[ColumnDecoders]:
    """Return for each file what decodes the columns of `schema`.

    With "auto", DataFlare's own decoder takes what it can from local files. Over a network PyArrow reads ahead
    of itself, many columns at once, and that counts for more. Of the rest, Polars takes what it can. Both only
    where they are worth it: for a small read in a process that has not loaded them yet, loading would take longer
    than decoding everything with PyArrow. "native" is the same, for small reads and over a network too.
    """
    if decoder == "pyarrow":
        return [ColumnDecoders()] * len(infos)
    nothing: list[frozenset[str]] = [frozenset()] * len(infos)
    native = nothing
    if decoder != "polars":
        native = [
            native_columns(info, schema) if _is_reliable(info, local=decoder == "auto") else frozenset()
            for info in infos
        ]
        if decoder == "auto" and not (is_loaded() or _worth(infos, native, _NATIVE_WORTH_BYTES)):
            native = nothing
    if all(names.issuperset(schema.names) for names in native) or find_spec("polars") is None:
        return [ColumnDecoders(names) for names in native]
    polars = [_polars_columns(info, schema) - names for info, names in zip(infos, native, strict=True)]
    if decoder != "polars" and "polars" not in sys.modules and not _worth(infos, polars, _POLARS_WORTH_BYTES):
        polars = nothing
    return [ColumnDecoders(*names) for names in zip(native, polars, strict=True)]


def _worth(infos: Sequence[ParquetFileInfo], columns: Sequence[frozenset[str]], worth_bytes: int) -> bool:
    """Whether the columns of some files take at least so many bytes in them."""
    size_bytes = 0
    for info, names in zip(infos, columns, strict=True):
        size_bytes += info.compressed_bytes(tuple(names))
        if size_bytes >= worth_bytes:
            return True
    return False


def _is_reliable(info: ParquetFileInfo, *, local: bool) -> bool:
    """Whether the file's column chunks are where its footer says, and near enough."""
    return (info.file.is_local or not local) and not _miscounts_chunks(info.metadata.created_by)


def _polars_columns(info: ParquetFileInfo, schema: pa.Schema) -> frozenset[str]:
    if not info.metadata.num_row_groups or not _is_reliable(info, local=True):
        return frozenset()
    stored = info.metadata.schema
    groups = [info.metadata.row_group(index) for index in range(info.metadata.num_row_groups)]
    able = set()
    for field in schema:
        leaves = info.leaves[field.name]
        decoded = expected_type(stored.column(leaves[0])) if len(leaves) == 1 else None
        if decoded is None or not gives(decoded, field.type):
            continue
        if all(has_known_layout(group.column(leaves[0])) or not group.num_rows for group in groups):
            able.add(field.name)
    return frozenset(able)


def gives(decoded: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast that always succeeds and costs little leads from one type to the other."""
    if decoded == wanted or same_family(decoded, wanted):
        return True
    if pa.types.is_timestamp(decoded) and pa.types.is_timestamp(wanted):
        return decoded.unit == wanted.unit and (decoded.tz is None) == (wanted.tz is None)
    return False


def _miscounts_chunks(created_by: str | None) -> bool:
    """Whether the writer left the dictionary page's header out of a chunk's size (parquet-mr before 1.2.9)."""
    words = (created_by or "").split()
    if len(words) < 3 or words[0] != "parquet-mr":
        return False
    try:
        version = tuple(int(part) for part in words[2].split("-")[0].split("."))
    except ValueError:
        return True
    return version < (1, 2, 9)


def describe_decoders(decoders: Sequence[ColumnDecoders], schema: pa.Schema) -> str:
    """Say on one line what decodes the columns of `schema` in some files."""
    if len(set(decoders)) != 1:
        return "decoded by what each file allows" if schema else "decoded by pyarrow"
    (each,) = set(decoders)
    names = {
        "dataflare": [name for name in schema.names if name in each.native],
        "polars": [name for name in schema.names if name in each.polars],
    }
    taken = each.native | each.polars
    names["pyarrow"] = [name for name in schema.names if name not in taken]
    used = [decoder for decoder, columns in names.items() if columns] or ["pyarrow"]
    text = f"decoded by {used[0]}"
    for word, decoder in zip((", but", " and"), used[1:], strict=False):
        columns = names[decoder]
        text += f"{word} {', '.join(columns[:5])}{', ...' if len(columns) > 5 else ''} by {decoder}"
    return text
