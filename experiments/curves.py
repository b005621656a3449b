"""Tables of many curves: one column for each place that was measured, the seeds side by side in a cell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prosg.evaluation.findings import with_seeds
from prosg.evaluation.measured import LINES, OWN, PHASE1, Line, line_of
from prosg.evaluation.statistics import paired_difference
from prosg.utils.tables import Table

DURABLE = Line("phase1_perturbed")
NAMES = {
    **{line: LINES[line] for line in (PHASE1, *(line for line in LINES if line.system == "plus"))},
    Line("plus_windows", "own"): "plus, own, prompt read in windows",
    Line("plus_windows", "own", "wiped"): "plus, own, in windows, state wiped",
    Line("plus_wide", "own"): "plus of a higher rank, own update",
    Line("plus_wide", "own", "wiped"): "plus of a higher rank, own, state wiped",
    DURABLE: LINES[DURABLE],
}
"""Every line that there can be, in the order of tables, with its name."""
VARIED = ("distractors", "items", "turns", "sentences")


class Curve(NamedTuple):
    """One system of one seed under one condition."""

    seed: int
    line: Line
    rows: list[dict[str, Any]]
    """one for each place, over all kinds, in the order in which they were measured"""
    late: list[dict[str, float]]
    """for each place, by prompt: late stage right"""


def curves_of(folders: Sequence[Path]) -> list[Curve]:
    """From what `prosg curve` wrote into the folders' curves/."""
    found = []
    for path in (path for folder in folders for path in sorted((folder / "curves").glob("*.json"))):
        content = json.loads(path.read_text("utf-8"))
        rows = [row for row in content["rows"] if row["kind"] == "all"]
        late: dict[tuple[Any, ...], dict[str, float]] = {}
        for answer in content["answers"]:
            late.setdefault(_key(answer), {})[answer["id"]] = float(answer["late"])
        for line in dict.fromkeys(map(line_of, rows)):
            own = [row for row in rows if line_of(row) == line]
            found.append(Curve(own[0]["seed"], line, own, [late[_key(row)] for row in own]))
    return found


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*line_of(row), *(str(row.get(name)) for name in VARIED))


def table_of(curves: Sequence[Curve]) -> Table:
    """Late accuracy: mean over seeds, and each seed where there are several."""
    seeds = ", ".join(str(seed) for seed in sorted({curve.seed for curve in curves}))
    table: Table = [[f"late stage right, seed {seeds}", *_heads(curves)]]
    for line, name in NAMES.items():
        if own := sorted((curve for curve in curves if curve.line == line), key=lambda curve: curve.seed):
            cells = []
            for place in range(len(own[0].rows)):
                cells.append(with_seeds([curve.rows[place]["late_accuracy"] for curve in own]))
            table.append([name, *cells])
    return table


def differences_of(curves: Sequence[Curve]) -> Table:
    """Of `plus` under its own update and each rival, on the same prompts, a line per seed, with 95 % intervals."""
    at = {(curve.line, curve.seed): curve for curve in curves}
    table: Table = [["plus, own update, minus", *_heads(curves)]]
    for rival in (PHASE1, DURABLE):
        for seed in sorted({curve.seed for curve in curves}):
            ours, theirs = at[OWN, seed], at[rival, seed]
            cells = []
            for mine, others in zip(ours.late, theirs.late, strict=True):
                assert mine.keys() == others.keys(), "the same prompts"
                mean, low, high = paired_difference(list(mine.values()), [others[row] for row in mine])
                cells.append(f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]")
            table.append([f"{NAMES[rival]}, seed {seed}", *cells])
    return table


def _heads(curves: Sequence[Curve]) -> list[str]:
    """What each place is: what was varied there, and the distance, tokens, as `plus` had it."""
    ours = [curve for curve in curves if curve.line == OWN]

    def mean(name: str, place: int) -> int:
        return round(sum(curve.rows[place][name] for curve in ours) / len(ours))

    heads = []
    for place, row in enumerate(ours[0].rows):
        varied = {
            "items": f"{row.get('items')} items, ",
            "turns": f"{row.get('turns')} other turn{'s' * (row.get('turns') != 1)}, ",
            "distractors": f"prompt of {mean('prompt_tokens', place):,}, " if "prompt_tokens" in row else "",
        }
        told = "".join(text for name, text in varied.items() if name in row)
        heads.append(f"{told}{mean('distance_tokens', place):,} tokens on")
    return heads
