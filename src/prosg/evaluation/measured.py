"""What the seeds' curves hold, ready for tables and pictures: lines of the table, bins of distance, paired differences.

seed-N/curves/NAME.json   {"rows", "answers"} of one system; choose-*.json are choices on validation rows, no results
line                      a system under one condition, e.g. plus with another prompt's update
bin                       stories of as many sentences; its distance is the mean of the tokens really generated
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prosg.evaluation.statistics import paired_difference

__all__ = [
    "LINES",
    "OWN",
    "PAPER",
    "PHASE1",
    "RIVALS",
    "Bin",
    "Difference",
    "Line",
    "Measured",
    "line_of",
    "read_measured",
    "verdict",
]


class Line(NamedTuple):
    """One line of the table."""

    system: str
    update: str = "none"
    state: str = "kept"

    def __str__(self) -> str:
        return LINES[self]

    @property
    def is_control(self) -> bool:
        return self.system in ("paper", "plus") and (self.update, self.state) != ("own", "kept")


PHASE1, PAPER, OWN = Line("phase1"), Line("paper", "own"), Line("plus", "own")
RIVALS: dict[Line, str] = {
    Line("phase1_more"): "phase 1 continued",
    Line("phase1_perturbed"): "phase 1 continued, perturbed",
    Line("phase1_replay"): "phase 1 continued, prompt read again",
    Line("static", "own"): "static adapter",
    Line("static_perturbed", "own"): "static adapter, perturbed",
}
LINES: dict[Line, str] = {
    PHASE1: "phase 1",
    **{
        line: f"{system}, {name}"
        for system in ("paper", "plus")
        for line, name in {
            Line(system, "own"): "own update",
            Line(system, "other"): "another prompt's",
            Line(system, "mean"): "the mean update",
            Line(system, "none"): "no update",
            Line(system, "own", "wiped"): "own, state wiped",
        }.items()
    },
    **RIVALS,
}
"""Every line that there can be, in the order of tables, with its name."""


class Bin(NamedTuple):
    """Stories of one length."""

    sentences: int
    tokens: int
    """distance to the late stage: mean over systems and seeds"""


class Difference(NamedTuple):
    """Of late accuracy on the same prompts, one seed, with its 95 % interval over prompts."""

    seed: int
    mean: float
    low: float
    high: float


@dataclass
class Measured:
    """Rows of results, and every length-controlled late stage.

    Attributes:
        rows: As they go into results.json.
        answers: Every answer, of either length.
        cells: (line, seed, sentences) -> the row for all kinds together, length-controlled.
        free: (line, seed) -> the same of answers whose length the model chose.
        late: (line, seed, sentences) -> row id -> whether the late stage was exactly right, length-controlled.
    """

    rows: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    cells: dict[tuple[Line, int, int], dict[str, Any]] = field(init=False)
    free: dict[tuple[Line, int], dict[str, Any]] = field(init=False)
    late: dict[tuple[Line, int, int], dict[str, bool]] = field(init=False)

    def __post_init__(self) -> None:
        """Sort everything by line, seed and length."""
        self.cells, self.free, self.late = {}, {}, defaultdict(dict)
        for row in self.rows:
            if row["kind"] == "all":
                if row["length"] == "free":
                    self.free[line_of(row), row["seed"]] = row
                else:
                    self.cells[line_of(row), row["seed"], row["sentences"]] = row
        for answer in self.answers:
            if answer["length"] == "controlled":
                self.late[line_of(answer), answer["seed"], answer["sentences"]][answer["id"]] = answer["late"]
        self.seeds = sorted({seed for _, seed, _ in self.cells})
        self.lines = [line for line in LINES if any(line == found for found, _, _ in self.cells)]
        self.rivals = [line for line in RIVALS if line in self.lines]
        self.bins = []
        for sentences in sorted({number for _, _, number in self.cells}):
            tokens = [row["distance_tokens"] for (_, _, number), row in self.cells.items() if number == sentences]
            self.bins.append(Bin(sentences, round(sum(tokens) / len(tokens))))

    def values(self, line: Line, where: Bin, key: str = "late_accuracy") -> list[float]:
        """One value per seed that has it."""
        found = (self.cells.get((line, seed, where.sentences)) for seed in self.seeds)
        return [float(row[key]) for row in found if row is not None]

    def mean(self, line: Line, where: Bin) -> float | None:
        """Late accuracy, mean over seeds; None where it was not measured."""
        values = self.values(line, where)
        return sum(values) / len(values) if values else None

    def is_cell(self, row: dict[str, Any], line: Line) -> bool:
        """Whether a row of results, of any kind of instruction, is this line's and length-controlled."""
        return line_of(row) == line and bool(row["length"] == "controlled")

    def differences(self, ours: Line, theirs: Line, where: Bin) -> list[Difference]:
        """Ours - theirs, paired by row, for each seed that has both.

        Raises ValueError where the two were measured on other prompts.
        """
        found = []
        for seed in self.seeds:
            mine = self.late.get((ours, seed, where.sentences))
            other = self.late.get((theirs, seed, where.sentences))
            if not (mine and other):
                continue
            if mine.keys() != other.keys():
                raise ValueError(
                    f"seed {seed}: {ours} and {theirs} were measured on other prompts; measure one of them again"
                )
            pairs = [(float(mine[name]), float(other[name])) for name in sorted(mine)]
            found.append(Difference(seed, *paired_difference([a for a, _ in pairs], [b for _, b in pairs])))
        return found


def verdict(differences: Sequence[Difference]) -> Literal["better", "worse", "no clear difference", "not measured"]:
    """What the intervals allow to say: better or worse only where every seed's excludes zero."""
    if not differences:
        return "not measured"
    if all(difference.low > 0 for difference in differences):
        return "better"
    return "worse" if all(difference.high < 0 for difference in differences) else "no clear difference"


def read_measured(folders: Sequence[Path]) -> Measured:
    """Every seed's results. Raises ValueError for none, and for a system or a condition that is not in LINES."""
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    for folder in folders:
        for path in sorted((folder / "curves").glob("*.json")):
            if path.name.startswith("choose-"):
                continue
            content = json.loads(path.read_text("utf-8"))
            for row in content["rows"]:
                if _counts(row) and line_of(row) not in LINES:
                    known = ", ".join(" ".join(line[:]) for line in LINES)
                    raise ValueError(f"{path}: unknown {' '.join(line_of(row)[:])!r}; known: {known}")
            rows += filter(_counts, content["rows"])
            answers += filter(_counts, content["answers"])
    if not rows:
        raise ValueError(f"no curves in {', '.join(str(folder / 'curves') for folder in folders)}")
    order = {line: number for number, line in enumerate(LINES)}
    rows.sort(key=lambda row: (row["seed"], order[line_of(row)]))
    return Measured(rows, answers)


def _counts(row: dict[str, Any]) -> bool:
    """Not so for other conditions of a static adapter: it is the same for every prompt."""
    return not row["system"].startswith("static") or (row["update"], row["state"]) == ("own", "kept")


def line_of(row: dict[str, Any]) -> Line:
    """Of a row of results, or of an answer."""
    return Line(row["system"], row["update"], row["state"])
