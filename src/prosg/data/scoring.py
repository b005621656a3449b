"""Accuracy of answers to rows, by kind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from prosg.data.checks import check_stages
from prosg.data.row import Row
from prosg.utils.io import iter_jsonl
from prosg.utils.outside import terminal_text
from prosg.utils.values import shown

__all__ = ["KindScore", "format_scores", "read_answers", "score_rows", "summary"]


class KindScore(NamedTuple):
    """Counts of one kind: all rows, rows with stages, and of these the ones with all stages / the late stage right."""

    rows: int
    checked: int
    right: int
    late: int


def read_answers(path: str | os.PathLike[str], rows: Sequence[Row]) -> dict[str, str]:
    """Reads answers to rows from JSON lines {"id", "answer"}; other fields are ignored.

    Returns:
        Answers by row id.

    Raises:
        ValueError: Naming the line of an unknown or repeated id, or a row without an answer.
    """
    known = {row.id for row in rows}
    answers: dict[str, str] = {}
    for number, data in iter_jsonl(path):
        if not isinstance(data, Mapping) or not all(isinstance(data.get(key), str) for key in ("id", "answer")):
            raise ValueError(f"{path}:{number}: a line is an object with the strings 'id' and 'answer'")
        if data["id"] not in known:
            raise ValueError(f"{path}:{number}: no row has the id {shown(data['id'])}; allowed: ids of the data file")
        if data["id"] in answers:
            raise ValueError(f"{path}:{number}: a second answer for {shown(data['id'])}; each row has one")
        answers[data["id"]] = data["answer"]
    missing = [row.id for row in rows if row.id not in answers]
    if missing:
        raise ValueError(f"{path}: {len(missing)} rows have no answer, the first is {missing[0]!r}; each row needs one")
    return answers


def score_rows(rows: Iterable[Row], answers: Mapping[str, str]) -> dict[str, KindScore]:
    """Checks the answer of every row.

    Args:
        rows: The rows.
        answers: Answers by row id.

    Returns:
        Counts by kind, in alphabetical order.
    """
    scores: dict[str, KindScore] = {}
    for row in rows:
        stages = check_stages(row, answers[row.id])
        counts = (1, bool(stages), bool(stages) and all(stages), bool(stages) and stages[-1])
        before = scores.get(row.kind, KindScore(0, 0, 0, 0))
        scores[row.kind] = KindScore(*(a + b for a, b in zip(before, counts, strict=True)))
    return dict(sorted(scores.items()))


def summary(scores: Mapping[str, KindScore]) -> str:
    """How many rows there are, how many have checks, and whether their answers pass them."""
    rows, checked, right, _ = (sum(column) for column in zip(*scores.values(), strict=True))
    if not checked:
        return f"{rows:,} rows, all well formed; none has stages whose answers could be checked"
    some = "all" if checked == rows else f"{checked:,}"
    passed = "all of them right" if right == checked else f"{checked - right:,} of them wrong"
    return f"{rows:,} rows, all well formed; {some} with checks, {passed}"


def format_scores(scores: Mapping[str, KindScore]) -> str:
    """A table of rows, accuracy (all stages right) and late accuracy, by kind and over all kinds."""
    total = KindScore(*(sum(column) for column in zip(*scores.values(), strict=True)))
    by_kind = {terminal_text(name): score for name, score in scores.items()}
    width = max(len(name) for name in (*by_kind, "(no kind)"))
    lines = [f"{'kind':<{width}} {'n':>7} {'accuracy':>9} {'late':>9}"]
    for name, score in (*by_kind.items(), ("all", total)):
        shares = [f"{part / score.checked:.4f}" if score.checked else "-" for part in (score.right, score.late)]
        lines.append(f"{name or '(no kind)':<{width}} {score.rows:>7} {shares[0]:>9} {shares[1]:>9}")
    return "\n".join(lines)
