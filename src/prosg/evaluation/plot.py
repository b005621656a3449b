"""The forgetting curve as a picture: late-stage accuracy against distance, for README and paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prosg.evaluation.measured import OWN, PAPER, PHASE1, Line, Measured
from prosg.utils.io import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_curves"]

GREY = "#6e6e6e"
STYLES: dict[Line, dict[str, Any]] = {
    PHASE1: {"color": "#000000", "marker": "s", "markersize": 5, "linewidth": 1.8, "zorder": 4},
    PAPER: {"color": "#d55e00", "marker": "D", "markersize": 4.5, "linewidth": 1.8, "zorder": 5},
    OWN: {"color": "#0072b2", "marker": "o", "markersize": 5.5, "linewidth": 2.6, "zorder": 7},
    Line("plus", "own", "wiped"): {
        "color": "#56b4e9",
        "marker": "o",
        "markersize": 10,
        "markerfacecolor": "none",
        "linestyle": (0, (1, 1.4)),
        "zorder": 6,
    },
    Line("plus", "other"): {"color": GREY, "marker": "x", "markersize": 7, "linestyle": (0, (4, 2)), "zorder": 3},
    Line("plus", "mean"): {"color": GREY, "marker": "+", "markersize": 9, "linestyle": (0, (1, 1.4)), "zorder": 3},
    Line("phase1_more"): {"color": "#999999", "marker": "v", "markersize": 6, "linewidth": 1.6},
    Line("phase1_perturbed"): {"color": "#009e73", "marker": "^", "markersize": 6, "linewidth": 2.0, "zorder": 6},
    Line("phase1_replay"): {"color": "#cc79a7", "marker": "P", "markersize": 6, "linestyle": (0, (4, 2))},
    Line("static", "own"): {"color": "#e69f00", "marker": "<", "markersize": 5.5, "linestyle": (0, (4, 2))},
    Line("static_perturbed", "own"): {"color": "#e69f00", "marker": ">", "markersize": 5.5},
}
"""Okabe and Ito's colours; markers, dashes and sizes tell apart what lies on one another and what has no colour.
A control that is not here stands in the tables only."""


def plot_curves(path: Path, measured: Measured) -> None:
    """Draw the update with its controls, and beside it, where there are any, the rivals. Written whole."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = [line for line in STYLES if line in measured.lines and line not in measured.rivals]
    second = [line for line in (OWN, PHASE1, *measured.rivals) if line in measured.lines]
    panels = [("The update and its controls", first)] if first else []
    if measured.rivals:
        panels.append(("Beside other remedies" if first else "", second))
    style: Any = {"font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8}
    with rc_context(style):
        figure = Figure(figsize=(9.0, 5.2) if len(panels) > 1 else (8.0, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels, strict=True):
            for line in lines:
                _draw(axis, line, measured)
            _dress(axis, measured)
            if len(panels) > 1:
                axis.set_title(title, loc="left")
                axis.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=1, frameon=False, handlelength=3.2)
            else:
                axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.2)
        axes[0].set_ylabel("late stage exactly right (share of prompts)")
        with written_whole(path, overwrite=True) as temporary:
            figure.savefig(temporary, format="png", dpi=200, facecolor="white")


def _draw(axis: Axes, line: Line, measured: Measured) -> None:
    """A mean with its seeds as dots; for a single seed, the interval over prompts as a band."""
    bins = [where for where in measured.bins if measured.values(line, where)]
    distances = [_mean(measured.values(line, where, "distance_tokens")) for where in bins]
    means = [_mean(measured.values(line, where)) for where in bins]
    style = {"linewidth": 1.3, **STYLES[line]}
    if len(measured.seeds) > 1:
        for where in bins:
            values = measured.values(line, where)
            places = measured.values(line, where, "distance_tokens")
            axis.plot(places, values, ".", color=style["color"], markersize=4, alpha=0.45, zorder=2, clip_on=False)
    elif not line.is_control:
        intervals = [measured.cells[line, measured.seeds[0], where.sentences]["late_interval"] for where in bins]
        low, high = zip(*intervals, strict=True)
        axis.fill_between(distances, low, high, color=style["color"], alpha=0.13, linewidth=0, zorder=1)
    axis.plot(distances, means, label=str(line), clip_on=False, **style)


def _dress(axis: Axes, measured: Measured) -> None:
    trained = measured.bins[0].tokens
    farthest = max(row["distance_tokens"] for row in measured.cells.values())
    low, high = trained / 1.5, max(farthest * 1.2, trained * 1.5)
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5) if low <= step * 10**power <= high]
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(-0.04, 1.05)
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axis.grid(axis="y", color="#dddddd", linewidth=0.7, zorder=0)
    axis.axvspan(low, trained * 1.06, color="#eeeeee", zorder=0, linewidth=0)
    axis.text(trained, 0.5, "trained lengths", rotation=90, color=GREY, fontsize=8.5, ha="right", va="center")
    axis.set_xlabel("tokens generated before the late stage (log scale)")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
