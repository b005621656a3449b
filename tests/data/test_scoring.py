"""Scores of answers by kind, and files of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.data.row import Row
from prosg.data.scoring import KindScore, format_scores, read_answers, score_rows
from prosg.data.synthetic import make_rows

Lines = list[dict[str, str]]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows(["names", "code", "story"], 30, 5, "test")


def test_answers_are_counted_by_kind(rows: list[Row]) -> None:
    answers = {row.id: row.answer for row in rows}
    right = {kind: KindScore(10, 10, 10, 10) for kind in ("code", "names")} | {"story": KindScore(10, 0, 0, 0)}
    assert score_rows(rows, answers) == right
    names, code = rows[:2]
    answers[names.id] = names.answer[:-2]
    answers[code.id] = code.answer[code.stages[1].start :]
    assert score_rows(rows, answers) == right | {"names": KindScore(10, 10, 9, 9), "code": KindScore(10, 10, 9, 10)}


def test_the_table_has_shares_by_kind_and_over_all() -> None:
    table = format_scores({"": KindScore(1, 0, 0, 0), "code": KindScore(10, 10, 9, 10)})
    assert [line.split() for line in table.splitlines()] == [
        ["kind", "n", "accuracy", "late"],
        ["(no", "kind)", "1", "-", "-"],
        ["code", "10", "0.9000", "1.0000"],
        ["all", "11", "0.9000", "1.0000"],
    ]


def write_answers(file: Path, lines: Lines) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_answers_are_read_by_id(rows: list[Row], tmp_path: Path) -> None:
    answers = {row.id: row.answer for row in rows}
    lines = [{"id": row_id, "answer": answer, "note": "ignored"} for row_id, answer in answers.items()]
    assert read_answers(write_answers(tmp_path / "answers.jsonl", lines[::-1]), rows) == answers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"answers\.jsonl: 1 rows .*story-test-5-00029"),
        (lambda lines: [*lines, lines[0]], r"answers\.jsonl:31: .*names-test-5-00000"),
        (lambda lines: [*lines, {"id": "x", "answer": ""}], r"answers\.jsonl:31: .*'x'"),
        (lambda lines: [{"id": "x"}], r"answers\.jsonl:1: .*'id' and 'answer'"),
    ],
)
def test_bad_answers_name_line_and_id(
    rows: list[Row], tmp_path: Path, change: Callable[[Lines], Lines], message: str
) -> None:
    file = write_answers(tmp_path / "answers.jsonl", change([{"id": row.id, "answer": row.answer} for row in rows]))
    with pytest.raises(ValueError, match=message):
        read_answers(file, rows)
