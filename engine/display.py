"""How a batch looks in a terminal and in a notebook. Shows a few values, reads no more than those."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch

__all__ = ["bytes_text", "html_text", "plain_text"]

_SHOWN_COLUMNS = 24
_SHOWN_VALUES = 4
_SHOWN_ROWS = 8
_SHOWN_CHARACTERS = 32


def bytes_text(nbytes: int) -> str:
    """Return bytes as people read them: ``812 B``, ``24.0 kB``, ``1.3 GB``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size = float(nbytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def plain_text(batch: SharedDataBatch) -> str:
    """Return the summary, then a line a column: name, type, the first values."""
    names = batch.column_names
    lines = [_summary(batch)]
    shown = names[:_SHOWN_COLUMNS]
    fields = [batch.schema.field(position) for position in range(len(shown))]
    types = [_type_text(field.type) for field in fields]
    name_width = max(map(len, shown), default=0)
    type_width = max(map(len, types), default=0)
    head = batch.slice(0, _SHOWN_VALUES).to_host()
    for name, type_text in zip(shown, types, strict=True):
        values = [_value_text(value) for value in head[name]]
        more = ", …" if len(batch) > _SHOWN_VALUES else ""
        lines.append(f"  {name:{name_width}}  {type_text:{type_width}}  {', '.join(values)}{more}".rstrip())
    if len(names) > len(shown):
        lines.append(f"  … and {len(names) - len(shown)} more columns")
    return "\n".join(lines)


def html_text(batch: SharedDataBatch) -> str:
    """Return an HTML table of the first rows under the names and types of the columns."""
    names = batch.column_names
    shown = names[:_SHOWN_COLUMNS]
    head = batch.slice(0, _SHOWN_ROWS).to_host()
    cells = [[_value_text(value) for value in head[name]] for name in shown]
    more_columns = f", {len(names) - len(shown)} columns not shown" if len(names) > len(shown) else ""
    lines = [f"<div><p>{escape(_summary(batch) + more_columns)}</p>", "<table><thead><tr>"]
    for name in shown:
        type_text = _type_text(batch.schema.field(name).type)
        lines.append(f"<th>{escape(name)}<br><small>{escape(type_text)}</small></th>")
    lines.append("</tr></thead><tbody>")
    for row in zip(*cells, strict=True):
        lines.append("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>")
    if len(batch) > _SHOWN_ROWS:
        lines.append("<tr>" + "<td>…</td>" * len(shown) + "</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def _summary(batch: SharedDataBatch) -> str:
    columns = len(batch.column_names)
    parts = [
        f"SharedDataBatch: {len(batch):,} row{'s' * (len(batch) != 1)} × "
        f"{columns} column{'s' * (columns != 1)}, {bytes_text(batch.nbytes)} on {batch.device}"
    ]
    if batch.watermark is not None:
        parts.append(f"watermark {batch.watermark}")
    if batch.metadata:
        parts.append("metadata " + ", ".join(map(str, batch.metadata)))
    return ", ".join(parts)


def _type_text(data_type: Any) -> str:
    text = str(data_type)
    return text if len(text) <= 2 * _SHOWN_CHARACTERS else text[: 2 * _SHOWN_CHARACTERS - 1] + "…"


def _value_text(value: Any) -> str:
    """Return one Arrow scalar in short."""
    try:
        plain = value.as_py()
    except (ValueError, OverflowError):  # a date beyond year 9999, nanoseconds without pandas
        plain = value.value
    if plain is None:
        return "null"
    text = repr(plain) if isinstance(plain, str | bytes) else str(plain)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
