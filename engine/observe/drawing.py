"""Pictures of a run's curves: small panels over one time axis, as SVG or PNG, drawn by matplotlib.

matplotlib is the extra ``plot``, and is imported only to draw. The same curves give the same SVG, byte for byte.
Covers the picture alone; the page around it is `dataflare.observe.html`.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import cycle
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from dataflare.kernels.errors import OptionError, nearest
from dataflare.observe.curves import RunCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PictureKind", "draw_curves", "picture_kind"]

PictureKind = Literal["svg", "png", "html"]

# Of Okabe and Ito's colours, which people with any kind of colour vision tell apart.
_BLUE, _VERMILLION, _GREEN, _PURPLE, _GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b6b6b"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "dataflare",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.edgecolor": _GREY,
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "text.color": "#1a1a1a",
    "lines.linewidth": 1.1,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_PATH = re.compile(r'(?<= d=")[^"]*')
_LONG_NUMBER = re.compile(r"\d+\.\d{3,}")
_LEAST_LOG_RANGE = 4.0
"""A logarithmic axis spans at least that factor on either side, so that noise does not look like a change."""


def picture_kind(path: str | Path) -> PictureKind:
    """Return what is written to a file of that name, once it is certain that it can be.

    Raises
    ------
    OptionError
        The name has another ending, its folder is not there, or matplotlib is not installed.
    """
    path = Path(path)
    kinds = get_args(PictureKind)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in kinds:
        known = ", ".join(f".{each}" for each in kinds)
        raise OptionError(
            f"curves are written to a file that ends in {known}, not to {path.name!r}. {nearest(kind, kinds)}".rstrip()
        )
    if not path.absolute().parent.is_dir():
        raise OptionError(f"curves cannot be written to {path}: there is no folder {path.absolute().parent}.")
    _require_matplotlib()
    return kind  # type: ignore[return-value]


def draw_curves(curves: RunCurves, kind: Literal["svg", "png"], *, title: str = "") -> bytes:
    """Return a picture of the curves.

    Raises
    ------
    OptionError
        matplotlib is not installed.
    """
    _require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10.0, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.008, ha="left", fontsize=11, fontweight="bold")
        axes = figure.subplots(3, 2, sharex=True)
        panels = _Panels(curves)
        for ax, draw in zip(axes.flat, panels.all(), strict=True):
            draw(ax)
        for ax in axes[-1]:
            ax.set_xlabel(f"time since the start, {panels.time_unit}", color=_GREY)
            ax.set_xlim(0.0, panels.times[-1] * 1.01 or 1.0)
        picture = io.BytesIO()
        if kind == "png":
            figure.savefig(picture, format="png", dpi=150, metadata={"Software": None})
            return picture.getvalue()
        figure.savefig(picture, format="svg", metadata=_NO_METADATA)
    # Paths are most of the file, and a hundredth of a point is finer than anybody sees.
    text = picture.getvalue().decode()
    return _PATH.sub(lambda path: _LONG_NUMBER.sub(_rounded, path[0]), text).encode()


class _Panels:
    """Draws one curve each into axes that it is given."""

    def __init__(self, curves: RunCurves) -> None:
        self._curves = curves
        length_s = curves.at_s[-1] if curves.at_s else 0.0
        self.time_unit, scale = ("ms", 1e3) if length_s < 1.0 else ("s", 1.0)
        # A value holds from the point before it: it stands for the batches since then.
        self.times = [0.0, *(at_s * scale for at_s in curves.at_s)]

    def all(self) -> tuple[Any, ...]:
        """Return the panels by rows: what comes out on the left, what it takes on the right."""
        return self._rate, self._reserved, self._batch_size, self._in_flight, self._latency, self._pressure

    def _rate(self, ax: Axes) -> None:
        unit, scale = _decimal_unit(self._curves.rows_per_s)
        self._line(ax, self._curves.rows_per_s, scale)
        _from_zero(ax, self._curves.rows_per_s, scale)
        _title(ax, "Rate", f"{unit}rows/s")

    def _batch_size(self, ax: Axes) -> None:
        curves = self._curves
        _logarithmic(ax, curves.batch_rows)
        self._line(ax, curves.batch_rows)
        _title(ax, "Batch size", "rows")
        rows = sum(map(mul, curves.batch_rows, curves.batches))
        nbytes = sum(map(mul, curves.batch_bytes, curves.batches))
        if not (rows and nbytes):
            return
        row_bytes = nbytes / rows
        unit, scale = _binary_unit(curves.batch_bytes)
        as_bytes = ax.secondary_yaxis("right", functions=_conversion(row_bytes * scale))
        as_bytes.spines["right"].set_visible(False)
        _logarithmic_ticks(as_bytes.yaxis)
        ax.set_title(f"{unit}, at {row_bytes:.3g} bytes a row", loc="right", fontsize=8, color=_GREY)

    def _latency(self, ax: Axes) -> None:
        curves = self._curves
        target_s = curves.latency_target_s
        values = (*curves.latency_s, *curves.longest_latency_s, *([] if target_s is None else [target_s]))
        _logarithmic(ax, values, 1e3)
        self._band(ax, curves.latency_s, curves.longest_latency_s, 1e3)
        self._line(ax, curves.latency_s, 1e3)
        if target_s is not None:
            _bound(ax, target_s * 1e3, f"target {target_s * 1e3:g} ms")
        _title(ax, "Work on a batch", "ms (shaded: to the longest)")

    def _reserved(self, ax: Axes) -> None:
        curves = self._curves
        limit = curves.memory_limit_bytes
        values = curves.reserved_bytes if limit is None else (*curves.reserved_bytes, limit)
        unit, scale = _binary_unit(values)
        self._band(ax, [0.0] * len(curves), curves.reserved_bytes, scale)
        self._line(ax, curves.reserved_bytes, scale)
        if limit is not None:
            _bound(ax, limit * scale, f"limit {limit * scale:.4g} {unit}")
        _from_zero(ax, values, scale)
        _title(ax, "Memory reserved for batches", unit)

    def _in_flight(self, ax: Axes) -> None:
        unit, scale = _decimal_unit(self._curves.in_flight_rows)
        self._line(ax, self._curves.in_flight_rows, scale)
        _from_zero(ax, self._curves.in_flight_rows, scale)
        _title(ax, "Credits in flight", f"{unit}rows")

    def _pressure(self, ax: Axes) -> None:
        curves = self._curves
        styles = zip(cycle((_BLUE, _PURPLE, _GREEN)), cycle(("-", "--", ":")), strict=False)
        known = False
        for (device, pressure), (colour, dashes) in zip(curves.memory_pressure.items(), styles, strict=False):
            values = [math.nan if value is None else value for value in pressure]
            known = known or not all(map(math.isnan, values))
            self._line(ax, values, 100.0, color=colour, linestyle=dashes, label=device)
        if curves.pressure_threshold is not None:
            _bound(ax, curves.pressure_threshold * 100.0, "fewer credits from here on")
        ax.set_ylim(0.0, 100.0)
        _title(ax, "Memory pressure", "% used of what there is")
        if known:
            ax.legend(loc="upper left", frameon=False, fontsize=8, ncols=3, borderaxespad=0.2)
        else:
            text = "not read: the run was over before"
            ax.text(0.5, 0.4, text, transform=ax.transAxes, ha="center", color=_GREY, fontsize=8)

    def _line(self, ax: Axes, values: Sequence[float], scale: float = 1.0, **style: Any) -> None:
        if values:
            heights = [value * scale for value in (values[0], *values)]
            ax.step(self.times, heights, where="pre", **{"color": _BLUE, **style})

    def _band(self, ax: Axes, low: Sequence[float], high: Sequence[float], scale: float) -> None:
        if high:
            lower, upper = ([value * scale for value in (each[0], *each)] for each in (low, high))
            ax.fill_between(self.times, lower, upper, step="pre", color=_BLUE, alpha=0.18, linewidth=0.0)


def _require_matplotlib() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise OptionError("drawing curves needs matplotlib: pip install 'dataflare[plot]'.")


def _title(ax: Axes, what: str, unit: str) -> None:
    title = ax.set_title(what, loc="left", fontweight="bold")
    beside: dict[str, Any] = {"xycoords": title, "xytext": (6.0, 0.0), "textcoords": "offset points"}
    ax.annotate(unit, (1.0, 0.0), va="bottom", color=_GREY, **beside)


def _bound(ax: Axes, value: float, text: str) -> None:
    """Draw a line that values should stay below, with its meaning at its right end."""
    ax.axhline(value, color=_VERMILLION, linewidth=1.2, linestyle=(0, (5, 2)))
    above: dict[str, Any] = {
        "xytext": (0.0, 2.5),
        "textcoords": "offset points",
        "ha": "right",
        "va": "bottom",
    }
    label = ax.annotate(text, (0.995, value), xycoords=ax.get_yaxis_transform(), zorder=5.0, **above)
    label.set(color=_VERMILLION, fontsize=8)
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6})


def _from_zero(ax: Axes, values: Sequence[float], scale: float) -> None:
    ax.set_ylim(0.0, max(values, default=0.0) * scale * 1.18 or 1.0)


def _logarithmic(ax: Axes, values: Sequence[float], scale: float = 1.0) -> None:
    """Give empty axes a logarithmic scale on which these values fit; it would complain about zeros otherwise."""
    positive = [value * scale for value in values if value > 0.0] or [1.0]
    ax.set_yscale("log")
    middle = math.sqrt(min(positive) * max(positive))
    ax.set_ylim(
        min(min(positive) / 1.5, middle / _LEAST_LOG_RANGE),
        max(max(positive) * 2.0, middle * _LEAST_LOG_RANGE),
    )
    _logarithmic_ticks(ax.yaxis)


def _logarithmic_ticks(axis: Any) -> None:
    """Label an axis in plain numbers: each decade, and its 2 and 5 where there is room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_locator(NullLocator())


def _conversion(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return lambda value: value * factor, lambda value: value / factor


def _decimal_unit(values: Sequence[float]) -> tuple[str, float]:
    largest = max(values, default=0.0)
    for unit, factor in (("G ", 1e9), ("M ", 1e6), ("k ", 1e3)):
        if largest >= factor:
            return unit, 1.0 / factor
    return "", 1.0


def _binary_unit(values: Sequence[float]) -> tuple[str, float]:
    largest = max(values, default=0.0)
    number = min(int(math.log2(largest) // 10), len(_BINARY_UNITS) - 1) if largest >= 1.0 else 0
    return _BINARY_UNITS[number], 1024.0**-number


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
