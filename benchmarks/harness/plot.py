"""Horizontal bars, one panel a section, DataFlare in colour; matplotlib is imported only to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["bars"]

_COLOURS = {"dataflare": "#d9480f", "peer": "#748ca3", "hand-written": "#b9c4ce", "probe": "#e3e7eb"}


def bars(
    panels: Mapping[str, Sequence[tuple[str, float, str]]],
    path: Path,
    *,
    axis: str,
    logarithmic: bool = False,
) -> None:
    """Draw ``{panel title: [(label, value, role), …]}`` to ``path``; the largest value is on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [max(len(rows), 1) for rows in panels.values()]
    figure = Figure(figsize=(9, 0.9 * len(panels) + 0.28 * sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ordered = sorted(rows, key=lambda row: row[1])
        ax.barh(
            range(len(ordered)), [v for _, v, _ in ordered], color=[_COLOURS[role] for *_, role in ordered]
        )
        ax.set_yticks(range(len(ordered)), [label for label, *_ in ordered], fontsize=8)
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
        ax.bar_label(ax.containers[0], fmt="%.3g", fontsize=7, padding=2)
        ax.spines[["top", "right"]].set_visible(False)
        if logarithmic:
            ax.set_xscale("log")
    axes[-1].set_xlabel(axis)
    figure.savefig(path, dpi=150)
