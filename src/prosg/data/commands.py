"""What stands behind `prosg data make` and `prosg data check`; both return an exit status and print for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from prosg.data.checks import score
from prosg.data.row import Row, read_rows, write_rows
from prosg.data.synthetic import DEMO_KINDS, SENTENCES, Filler, Range, Setting, iter_rows
from prosg.utils.io import iter_jsonl

__all__ = ["KindScore", "check", "make", "read_answers", "score_rows", "table"]

OK, FAILED, BAD_INPUT = 0, 1, 2
T = TypeVar("T")


class KindScore(NamedTuple):
    """Counts for one kind: rows, rows with checks, of these all stages right, of these the late stage right."""

    rows: int
    checked: int
    right: int
    late: int


def _progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    yield from tqdm(items, total=total, desc=what, unit="row", disable=not sys.stderr.isatty(), leave=False)


def _complain(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def make(
    file: str | os.PathLike[str],
    *,
    size: int = 1000,
    seed: int = 0,
    kinds: Sequence[str] = DEMO_KINDS,
    distance: Range | None = None,
    sentences: Range = SENTENCES,
    split: str = "train",
    distractors: Range | None = None,
    filler: str | os.PathLike[str] | None = None,
    turns: Range | None = None,
    items: Range | None = None,
) -> int:
    """Make `size` rows and write them to a file; 0, or 2 with a message on stderr for what is not allowed.

    distance: least and greatest number of words before the late stage; where it is not given, `sentences` counts.
    distractors, turns, items: as `Setting`'s; filler: a file to read stories from.
    """
    try:
        text = None if filler is None else Filler.read(filler)
        setting = Setting(distractors=distractors, filler=text, turns=turns, items=items)
        rows = iter_rows(kinds, size, seed, split, distance=distance, sentences=sentences, setting=setting)
        count = write_rows(file, _progress(rows, size, "making"))
    except (ValueError, OSError) as error:
        return _complain(error)
    print(f"{file}: {count} rows of {', '.join(kinds)}, split {split}, seed {seed}")
    return OK


def read_answers(path: str | os.PathLike[str], rows: Sequence[Row]) -> dict[str, str]:
    """Answers by row id from lines {"id", "answer"}; other fields are ignored.

    Raises ValueError naming the line for an id that is unknown or comes twice, and naming the ids that are missing.
    """
    known = {row.id for row in rows}
    answers: dict[str, str] = {}
    for number, data in iter_jsonl(path):
        if not isinstance(data, Mapping) or not all(isinstance(data.get(key), str) for key in ("id", "answer")):
            raise ValueError(f"{path}:{number}: a line is an object with the strings 'id' and 'answer'")
        if data["id"] not in known:
            raise ValueError(
                f"{path}:{number}: no row has the id {data['id']!r}; answers are for the rows of the data file"
            )
        if data["id"] in answers:
            raise ValueError(f"{path}:{number}: a second answer for {data['id']!r}; each row has one")
        answers[data["id"]] = data["answer"]
    missing = [row.id for row in rows if row.id not in answers]
    if missing:
        raise ValueError(f"{path}: {len(missing)} rows have no answer, the first is {missing[0]!r}; each row needs one")
    return answers


def score_rows(rows: Sequence[Row], answers: Mapping[str, str]) -> dict[str, KindScore]:
    """Score every row's answer; results by kind in alphabetical order. Rows without stages count as unchecked."""
    totals: dict[str, KindScore] = {}
    for row in _progress(rows, len(rows), "checking"):
        stages = score(row, answers[row.id])
        old = totals.get(row.kind, KindScore(0, 0, 0, 0))
        new = (1, bool(stages), bool(stages) and all(stages), bool(stages) and stages[-1])
        totals[row.kind] = KindScore(*(a + b for a, b in zip(old, new, strict=True)))
    return dict(sorted(totals.items()))


def table(scores: Mapping[str, KindScore]) -> str:
    """A table for people: n, accuracy (all stages right) and late accuracy per kind, and over all."""
    total = KindScore(*(sum(column) for column in zip(*scores.values(), strict=True)))
    width = max(len(name) for name in (*scores, "(no kind)"))
    lines = [f"{'kind':<{width}} {'n':>7} {'accuracy':>9} {'late':>9}"]
    for name, one in (*scores.items(), ("all", total)):
        shares = [f"{part / one.checked:.4f}" if one.checked else "-" for part in (one.right, one.late)]
        lines.append(f"{name or '(no kind)':<{width}} {one.rows:>7} {shares[0]:>9} {shares[1]:>9}")
    return "\n".join(lines)


def check(file: str | os.PathLike[str], *, answers: str | os.PathLike[str] | None = None) -> int:
    """Validate a data file and score answers to it: those of a file, or else the rows' own.

    Prints a table per kind. Returns 0 where every answer passed all its checks, 1 where some did not, 2 for bad input:
    rows that are not as they should be, and unknown, missing or twice answered ids.
    """
    try:
        rows = read_rows(file)
        given = {row.id: row.answer for row in rows} if answers is None else read_answers(answers, rows)
    except ValueError as error:
        return _complain(error)
    scores = score_rows(rows, given)
    print(table(scores))
    return OK if all(one.right == one.checked for one in scores.values()) else FAILED
