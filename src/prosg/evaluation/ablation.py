"""An ablation's end: ablation.json, ablation.md and ablation.png from the trainings and curves in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.checkpoints.adapter import WEIGHTS
from prosg.checkpoints.tensors import read_tensors
from prosg.evaluation.findings import amount
from prosg.evaluation.statistics import paired_difference
from prosg.utils.io import written_whole
from prosg.utils.tables import Table, to_markdown, to_text

__all__ = ["BACKBONE", "FULL", "write_ablation"]

FULL, BACKBONE = "full", "backbone"
"""The training as it is configured, and the model without a module."""
TEXT = (
    "Late stage exactly right, share of prompts, by tokens generated before it: own update / another prompt's / own "
    "with the prompt's state wiped. Difference: own update at the farthest, minus that of `full` on the same prompts, "
    "with a 95 % bootstrap interval. `backbone` has no module."
)


class Measured(NamedTuple):
    """One training, measured."""

    name: str
    parameters: int
    steps: int
    seconds: float
    rows: list[dict[str, Any]]
    """as `prosg curve` writes them"""
    late: dict[str, float]
    """by prompt: own update, farthest, late stage right"""

    def at(self, sentences: int, update: str, state: str = "kept") -> dict[str, Any]:
        """A cell over all kinds."""
        found = (
            row for row in self.rows if (row["sentences"], row["update"], row["state"]) == (sentences, update, state)
        )
        return next(row for row in found if row["kind"] == "all")

    @property
    def update(self) -> str:
        return "none" if self.name == BACKBONE else "own"


def write_ablation(out: Path, names: Sequence[str]) -> str:
    """Write the report on the trainings of these names into their folder; returns the text for a terminal.

    ablation.json holds one object {"rows"}: a curve's rows, each with the `part` that was left out, the module's
    `parameters`, and `steps` and `seconds` of its training.
    """
    measured = [_read(out, name) for name in names]
    rows = [
        {"part": one.name, "parameters": one.parameters, "steps": one.steps, "seconds": one.seconds, **row}
        for one in measured
        for row in one.rows
    ]
    table = _table(measured)
    cell = measured[0].rows[0]
    about = f"{cell['n']} prompts per cell, split {cell['split']}, seed {cell['seed']}, {cell['backbone']}."
    files = {
        "ablation.json": json.dumps({"rows": rows}, indent=2) + "\n",
        "ablation.md": "\n\n".join(
            ["# What each part is worth", f"{TEXT} {about}", to_markdown(table), "![Bars](ablation.png)\n"]
        ),
    }
    for name, text in files.items():
        with written_whole(out / name, overwrite=True) as temporary:
            temporary.write_text(text, "utf-8")
    _plot(out / "ablation.png", measured)
    return "\n\n".join([to_text(table), "\n".join(str(out / name) for name in (*files, "ablation.png"))])


def _read(out: Path, name: str) -> Measured:
    curve = json.loads((out / "curves" / f"{name}.json").read_text("utf-8"))
    farthest = max(row["sentences"] for row in curve["rows"])
    late = {
        answer["id"]: float(answer["late"])
        for answer in curve["answers"]
        if answer["sentences"] == farthest and answer["update"] in ("own", "none") and answer["state"] == "kept"
    }
    if name == BACKBONE:
        return Measured(name, 0, 0, 0.0, curve["rows"], late)
    result = json.loads((out / name / "result.json").read_text("utf-8"))
    parameters = sum(tensor.numel() for tensor in read_tensors(out / name / "adapter" / WEIGHTS).values())
    return Measured(name, parameters, result["steps"], result["seconds"], curve["rows"], late)


def _distances(measured: Sequence[Measured]) -> list[int]:
    return sorted({row["sentences"] for row in measured[0].rows})


def _table(measured: Sequence[Measured]) -> Table:
    distances = _distances(measured)
    tokens = [
        round(sum(one.at(n, one.update)["distance_tokens"] for one in measured) / len(measured)) for n in distances
    ]
    full = next(one for one in measured if one.name == FULL)
    table = [["tokens", "parameters", *(f"{n:,}" for n in tokens), "difference"]]
    for one in measured:
        cells = [_cell(one, n) for n in distances]
        table.append([one.name, f"{one.parameters:,}", *cells, "" if one is full else _difference(one, full)])
    return table


def _cell(one: Measured, sentences: int) -> str:
    if one.name == BACKBONE:
        return amount(one.at(sentences, "none")["late_accuracy"])
    shown = (one.at(sentences, "own"), one.at(sentences, "other"), one.at(sentences, "own", "wiped"))
    return " / ".join(amount(cell["late_accuracy"]) for cell in shown)


def _difference(one: Measured, full: Measured) -> str:
    ids = [row for row in full.late if row in one.late]
    mean, low, high = paired_difference([one.late[i] for i in ids], [full.late[i] for i in ids])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _plot(path: Path, measured: Sequence[Measured]) -> None:
    """Bars: own update at the farthest, with intervals; marks: another prompt's, state wiped. Written whole."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    farthest = _distances(measured)[-1]
    style: Any = {"font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with rc_context(style):
        figure = Figure(figsize=(8.0, 1.2 + 0.34 * len(measured)), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        for place, one in enumerate(measured):
            cell = one.at(farthest, one.update)
            share, (low, high) = cell["late_accuracy"], cell["late_interval"]
            color = {FULL: "#0072b2", BACKBONE: "#000000"}.get(one.name, "#7fb8d8")
            axis.barh(place, share, color=color, height=0.7)
            axis.plot([low, high], [place, place], color="#333333", linewidth=1.2)
        modules = [(place, one) for place, one in enumerate(measured) if one.name != BACKBONE]
        for update, state, mark, label in (
            ("other", "kept", "x", "another prompt's update"),
            ("own", "wiped", "|", "own update, state wiped"),
        ):
            values = [one.at(farthest, update, state)["late_accuracy"] for _, one in modules]
            places = [place for place, _ in modules]
            axis.plot(
                values, places, mark, color="#d55e00", markersize=9, markeredgewidth=1.8, label=label, clip_on=False
            )
        axis.set_yticks(range(len(measured)), [one.name for one in measured])
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        tokens = measured[-1].at(farthest, measured[-1].update)["distance_tokens"]
        axis.set_xlabel(f"late stage exactly right after {tokens:,} tokens (own update; line: 95 % interval)")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        with written_whole(path, overwrite=True) as temporary:
            figure.savefig(temporary, format="png", dpi=200, facecolor="white")
