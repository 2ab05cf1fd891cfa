"""A run's report as HTML: the table of its stages, for notebooks, and a page of its own with the picture.

Covers markup; the picture comes from ``drawing``. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dataflare.observe.report import STAGE_COLUMNS, stage_cells

if TYPE_CHECKING:
    from dataflare.observe.report import RunReport

__all__ = ["report_page", "report_table"]

_PAGE_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; color: #1a1a1a; background: white; max-width: 64rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #e6e6e6; vertical-align: top; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; margin-top: 1.5rem; }
"""


def report_table(report: RunReport) -> str:
    """Return the headline, the stages as a table, memory and remarks; a fragment of HTML."""
    head = "".join(f"<th>{escape(title)}</th>" for title in ("stage", *STAGE_COLUMNS))
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in (stage.name, *stage_cells(stage)))}</tr>"
        for stage in report.stages
    )
    notes = "\n".join(f"<p>{escape(text)}</p>" for text in (report.memory_line, *report.remarks))
    return (
        f"<p><strong>{escape(report.headline)}</strong></p>\n"
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n{notes}"
    )


def report_page(report: RunReport, picture: str) -> str:
    """Return a page with all of a report and its picture, an SVG document."""
    svg = picture[picture.index("<svg") :]  # without the prologue, which is that of a file of its own
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>DataFlare: {escape(report.run_id)}</title>\n<style>{_PAGE_STYLE}</style>\n</head>\n"
        f"<body>\n{report_table(report)}\n{svg}</body>\n</html>\n"
    )
