"""Human labels of single steps, and a judge's agreement with them: Cohen's kappa.

A line of a file of labels: {"id": the row's id, "system": the name of its file of answers, "stage": from 1,
"label": true where the answer follows the step}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prosg.utils.io import iter_jsonl

__all__ = ["AgreementCounts", "StepKey", "cohens_kappa", "count_agreement", "read_labels"]

LABEL_FIELDS = ("id", "system", "stage", "label")


class StepKey(NamedTuple):
    """Identifies one step of one answer: row id, system, and the step's number from 1."""

    id: str
    system: str
    stage: int


class AgreementCounts(NamedTuple):
    """Numbers of labelled steps by (judge's verdict, human label), and of those without a verdict to compare.

    Attributes:
        unparsed: Steps for which the judge gave no verdict.
        not_judged: Steps of answers that are not in the judge's files.
    """

    yes_yes: int
    yes_no: int
    no_yes: int
    no_no: int
    unparsed: int
    not_judged: int

    @property
    def n(self) -> int:
        """Number of steps with both a verdict and a label."""
        return self.yes_yes + self.yes_no + self.no_yes + self.no_no

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa; None where it is undefined."""
        return cohens_kappa(self.yes_yes, self.yes_no, self.no_yes, self.no_no)


def cohens_kappa(yes_yes: int, yes_no: int, no_yes: int, no_no: int) -> float | None:
    """Cohen's kappa of two raters' binary decisions (Cohen 1960): kappa = (p_o - p_e) / (1 - p_e).

    p_o is the observed share of agreement; p_e is the share expected if both raters decided independently, each with
    their own share of yes.

    Args:
        yes_yes, yes_no, no_yes, no_no: Numbers of cases by (first rater, second rater).

    Returns:
        From -1 to 1; None without cases and where both raters always give the one same decision (p_e = 1).
    """
    n = yes_yes + yes_no + no_yes + no_no
    if not n:
        return None
    observed = (yes_yes + no_no) / n
    expected = ((yes_yes + yes_no) * (yes_yes + no_yes) + (no_yes + no_no) * (yes_no + no_no)) / n**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def read_labels(path: str | Path) -> dict[StepKey, bool]:
    """Reads a file of human labels, one per step.

    Raises:
        ValueError: `FILE:LINE: ...` for a line that is not a label and for a second label of a step; also for a file
            without labels.
    """
    labels: dict[StepKey, bool] = {}
    for number, data in iter_jsonl(path):
        is_label = isinstance(data, Mapping) and set(data) == set(LABEL_FIELDS)
        # bool is an int in Python, but `"stage": true` is a mistake.
        if not is_label or [type(data[field]) for field in LABEL_FIELDS] != [str, str, int, bool]:
            raise ValueError(
                f"{path}:{number}: a label has the texts id and system, the number stage and label, true or false"
            )
        step = StepKey(data["id"], data["system"], data["stage"])
        if step in labels:
            raise ValueError(f"{path}:{number}: a second label of {step.system}, {step.id!r}, stage {step.stage}")
        labels[step] = data["label"]
    if not labels:
        raise ValueError(f"{path}: holds no labels; at least one is needed")
    return labels


def count_agreement(verdicts: Mapping[StepKey, bool | None], labels: Mapping[StepKey, bool]) -> AgreementCounts:
    """Counts agreements and disagreements between a judge and human labels.

    Args:
        verdicts: Whether the judge passed each step; None where it gave no verdict.
        labels: Human labels; steps without one are not counted.

    Raises:
        ValueError: For a label of a stage that a judged answer does not have.
    """
    answers = {(step.id, step.system) for step in verdicts}
    for step in labels:
        if step not in verdicts and (step.id, step.system) in answers:
            stages = sorted(other.stage for other in verdicts if (other.id, other.system) == (step.id, step.system))
            raise ValueError(f"a label is of stage {step.stage} of {step.id!r}, which has the stages {stages}")
    pairs = [(verdicts[step], label) for step, label in labels.items() if step in verdicts]
    return AgreementCounts(
        yes_yes=pairs.count((True, True)),
        yes_no=pairs.count((True, False)),
        no_yes=pairs.count((False, True)),
        no_no=pairs.count((False, False)),
        unparsed=sum(verdict is None for verdict, _ in pairs),
        not_judged=len(labels) - len(pairs),
    )
