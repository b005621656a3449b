"""People's labels of single steps, and how far a judge agrees with them: Cohen's kappa.

A line of labels: {"id": the row's, "system": the name of its file of answers, "stage": from 1, "label": true or false}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prosg.utils.io import iter_jsonl

__all__ = ["Agreement", "Label", "agreement", "cohens_kappa", "read_labels"]

LABEL_FIELDS = ("id", "system", "stage", "label")


class Label(NamedTuple):
    """Which step of whose answer."""

    id: str
    system: str
    stage: int


class Agreement(NamedTuple):
    """Counts of steps by what the judge and the person say, in this order; then those without such a pair."""

    yes_yes: int
    yes_no: int
    no_yes: int
    no_no: int
    unparsed: int
    not_judged: int

    @property
    def n(self) -> int:
        """Steps that both decided."""
        return self.yes_yes + self.yes_no + self.no_yes + self.no_no

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None where it is undefined."""
        return cohens_kappa(self.yes_yes, self.yes_no, self.no_yes, self.no_no)


def cohens_kappa(yes_yes: int, yes_no: int, no_yes: int, no_no: int) -> float | None:
    """kappa = (p_o - p_e) / (1 - p_e), Cohen 1960; None where both always say the same one thing, or nothing.

    p_o: share of cases in which both say the same; p_e: what that would be if each said it at random, as often as it
    does.
    """
    n = yes_yes + yes_no + no_yes + no_no
    if not n:
        return None
    observed = (yes_yes + no_no) / n
    expected = ((yes_yes + yes_no) * (yes_yes + no_yes) + (no_yes + no_no) * (yes_no + no_no)) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def read_labels(path: str | Path) -> dict[Label, bool]:
    """Labels by step. ValueError `FILE:LINE: ...` for a line that is none, and for a second label of a step."""
    labels: dict[Label, bool] = {}
    for number, data in iter_jsonl(path):
        fits = isinstance(data, Mapping) and set(data) == set(LABEL_FIELDS)
        # bool is an int in Python, but `"stage": true` is a mistake.
        if not fits or [type(data[field]) for field in LABEL_FIELDS] != [str, str, int, bool]:
            raise ValueError(
                f"{path}:{number}: a label has the texts id and system, the number stage and label, true or false"
            )
        one = Label(data["id"], data["system"], data["stage"])
        if one in labels:
            raise ValueError(f"{path}:{number}: a second label of {one.system}, {one.id!r}, stage {one.stage}")
        labels[one] = data["label"]
    if not labels:
        raise ValueError(f"{path}: holds no labels; at least one is needed")
    return labels


def agreement(judged: Mapping[Label, bool | None], labels: Mapping[Label, bool]) -> Agreement:
    """Count how the judge (None: no verdict) and the labels agree.

    ValueError for a label of a stage that a judged answer has not.
    """
    answers = {(one.id, one.system) for one in judged}
    for one in labels:
        if one not in judged and (one.id, one.system) in answers:
            numbers = sorted(other.stage for other in judged if (other.id, other.system) == (one.id, one.system))
            raise ValueError(f"a label is of stage {one.stage} of {one.id!r}, which has the stages {numbers}")
    pairs = [(judged[one], label) for one, label in labels.items() if one in judged]
    return Agreement(
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
        sum(said is None for said, _ in pairs),
        len(labels) - len(pairs),
    )
