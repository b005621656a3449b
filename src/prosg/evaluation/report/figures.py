"""Curves as figures: SVG for a report that is one file, PNG for a page.

Colours are Okabe and Ito's; markers, dashes and sizes tell apart what lies on one another and what has no colour.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from prosg.evaluation.statistics import Mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "Panel", "draw", "draw_png"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#6e6e6e")
MARKERS = "osD^vPX<>*"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "prosg",  # the same picture is the same text
}


class Curve(NamedTuple):
    """A line: a system, one seed."""

    label: str
    points: Sequence[tuple[float, Mean]]
    """(x, mean with its interval)"""


class Panel(NamedTuple):
    """Lines in one pair of axes."""

    title: str
    curves: Sequence[Curve]


def draw(panels: Sequence[Panel], x_label: str, y_label: str, *, log: bool, shade_to: float | None = None) -> str:
    """Draws an SVG element.

    Args:
        panels: One above the other.
        x_label: Of the x axes.
        y_label: Of the y axes.
        log: Whether x is logarithmic.
        shade_to: x up to which the models were trained.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _figure(panels, x_label, y_label, log, shade_to)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def draw_png(panels: Sequence[Panel], x_label: str, y_label: str, *, log: bool, shade_to: float | None = None) -> bytes:
    """Draws the same as a PNG file, for pages that show no SVG."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = _figure(panels, x_label, y_label, log, shade_to)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def _figure(panels: Sequence[Panel], x_label: str, y_label: str, log: bool, shade_to: float | None) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    rows = [3.4 + 0.19 * len({curve.label for curve in panel.curves}) for panel in panels]
    figure = Figure(figsize=(5.4, sum(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": rows})[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            _plot(axis, curve, panel, labels.index(curve.label))
        places = sorted({place for curve in panel.curves for place, _ in curve.points})
        if log:
            axis.set_xscale("log")
            places = _apart(places)
        axis.set_xticks(places, [f"{place:,.0f}" for place in places])
        axis.set_xticks([], minor=True)
        if shade_to is not None:
            left = axis.get_xlim()[0]
            axis.axvspan(left, shade_to, color="#eeeeee", zorder=0, linewidth=0)
            axis.set_xlim(left=left)
        axis.set_ylim(-0.04, 1.05)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        axis.grid(axis="y", color="#dddddd", linewidth=0.7, zorder=0)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.set_title(panel.title, loc="left", fontweight="bold", fontsize=10)
        axis.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.16), frameon=False, handlelength=3, ncols=1)
    return figure


def _plot(axis: Axes, curve: Curve, panel: Panel, number: int) -> None:
    """One line; intervals are bands where few lines are, and seeds of a label share its colour and legend."""
    color = COLORS[number % len(COLORS)]
    x = [place for place, _ in curve.points]
    if len({other.label for other in panel.curves}) <= 4:
        low, high = ([getattr(mean, side) for _, mean in curve.points] for side in ("low", "high"))
        axis.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    first = next(other for other in panel.curves if other.label == curve.label) is curve
    axis.plot(
        x,
        [mean.mean for _, mean in curve.points],
        label=_literal(curve.label) if first else "_",
        color=color,
        marker=MARKERS[number % len(MARKERS)],
        linestyle=DASHES[number // len(COLORS) % len(DASHES)],
        markersize=max(8.5 - 0.6 * number, 4),  # what lies on one another is seen
        linewidth=1.7,
        clip_on=False,
        zorder=3,
    )


def _literal(label: str) -> str:
    """The label as it is: dollars are no formulas, and an underscore at the beginning hides nothing."""
    text = label.replace("\\", "\\\\").replace("$", "\\$") if "$" in label else label
    return f"\u200b{text}" if text.startswith("_") else text


def _apart(places: Sequence[float]) -> list[float]:
    """Those of the places whose labels do not touch on a logarithmic axis."""
    shown: list[float] = []
    for place in places:
        if not shown or place / shown[-1] > 1.45:
            shown.append(place)
    return shown
