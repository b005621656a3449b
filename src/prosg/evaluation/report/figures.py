"""Curves as SVG, for a report that is one file: no fonts to load, readable on a telephone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from prosg.evaluation.results import Mean

__all__ = ["Curve", "draw"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#6e6e6e")
MARKERS = "osD^vPX<>*"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))


class Curve(NamedTuple):
    """A line: a system, one seed."""

    label: str
    points: Sequence[tuple[float, Mean]]


def draw(curves: Sequence[Curve], x_label: str, y_label: str, *, log: bool, shade_to: float | None = None) -> str:
    """An SVG element. Intervals are bands where few lines are; seeds of a label share its color.

    shade_to: up to where the models were trained.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(curve.label for curve in curves))
    height = 3.6 + 0.19 * len(labels)
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path"}
    style |= {"svg.hashsalt": "prosg"}  # the same picture is the same text
    with rc_context(style):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        for curve in curves:
            number = labels.index(curve.label)
            color = COLORS[number % len(COLORS)]
            x = [place for place, _ in curve.points]
            y = [mean.mean for _, mean in curve.points]
            if len(labels) <= 4:
                low = [mean.low for _, mean in curve.points]
                high = [mean.high for _, mean in curve.points]
                axis.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
            first = next(other for other in curves if other.label == curve.label) is curve
            axis.plot(
                x,
                y,
                label=_literal(curve.label) if first else "_",
                color=color,
                marker=MARKERS[number % len(MARKERS)],
                linestyle=DASHES[number // len(COLORS) % len(DASHES)],
                markersize=max(8.5 - 0.8 * number, 4),  # what lies on one another is seen
                linewidth=1.7,
                clip_on=False,
                zorder=3,
            )
        places = sorted({place for curve in curves for place, _ in curve.points})
        if log:
            axis.set_xscale("log")
        axis.set_xticks(places if not log else _apart(places), minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xticklabels([f"{place:,.0f}" for place in (places if not log else _apart(places))])
        if shade_to is not None:
            left = axis.get_xlim()[0]
            axis.axvspan(left, shade_to, color="#eeeeee", zorder=0, linewidth=0)
            axis.set_xlim(left=left)
        axis.set_ylim(-0.04, 1.05)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        axis.grid(axis="y", color="#dddddd", linewidth=0.7, zorder=0)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        figure.legend(loc="outside lower left", frameon=False, handlelength=3, ncols=1)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _literal(label: str) -> str:
    """The label as it is: dollars are no formulas, and an underscore at the beginning hides nothing."""
    text = label.replace("\\", "\\\\").replace("$", "\\$") if "$" in label else label
    return f"\u200b{text}" if text.startswith("_") else text


def _apart(places: Sequence[float]) -> list[float]:
    """Those of the places whose labels do not touch on a logarithmic axis."""
    kept: list[float] = []
    for place in places:
        if not kept or place / kept[-1] > 1.45:
            kept.append(place)
    return kept
