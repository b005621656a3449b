import json
from pathlib import Path

import pytest

from prosg.data.commands import check, make, score_rows, table
from prosg.data.row import read_rows
from prosg.data.synthetic import KINDS, make_rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    assert make(file, size=30, seed=5, kinds=["names", "code", "story"], split="test") == 0
    return file


def write_answers(file: Path, lines: list[dict[str, str]]) -> Path:
    answers = file.with_name("answers.jsonl")
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return answers


def test_make_writes_the_rows_of_make_rows(data: Path) -> None:
    assert read_rows(data) == make_rows(["names", "code", "story"], 30, 5, "test")


def test_the_rows_own_answers_are_right(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(data) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-4:]] == [
        ["code", "10", "1.0000", "1.0000"],
        ["names", "10", "1.0000", "1.0000"],
        ["story", "10", "-", "-"],
        ["all", "30", "1.0000", "1.0000"],
    ]


def test_wrong_answers_give_status_1(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [{"id": row.id, "answer": row.answer} for row in read_rows(data)]
    answers[0]["answer"] = answers[0]["answer"][:-2]
    answers[1]["answer"] = "\nCode:" + answers[1]["answer"].split("\nCode:")[1]
    assert check(data, answers=write_answers(data, answers)) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["code", "10", "0.9000", "1.0000"] in rows
    assert ["names", "10", "0.9000", "0.9000"] in rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "1 rows have no answer"),
        (lambda lines: [*lines, lines[0]], "answers.jsonl:31: a second answer"),
        (lambda lines: [*lines, {"id": "x", "answer": ""}], "answers.jsonl:31: no row has the id 'x'"),
        (lambda lines: [{"id": "x"}], "answers.jsonl:1: a line is an object"),
    ],
)
def test_bad_answers_give_status_2(data: Path, change, message: str, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    lines = [{"id": row.id, "answer": row.answer} for row in read_rows(data)]
    assert check(data, answers=write_answers(data, change(lines))) == 2
    assert message in capsys.readouterr().err


def test_bad_rows_give_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "answer": ""}\n')
    assert check(file) == 2
    assert check(tmp_path / "none.jsonl") == 2
    assert "rows.jsonl:1: 'answer' is empty" in capsys.readouterr().err


def test_make_refuses_and_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(tmp_path / "rows.jsonl", size=5, distance=(10, 12)) == 2
    assert make(tmp_path / "rows.jsonl", size=5, kinds=["poem"]) == 2
    assert "allowed: " + ", ".join(KINDS) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_without_a_kind_are_named_so(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "p", "answer": "a"}\n')
    assert "(no kind)       1         -         -" in table(
        score_rows(read_rows(file), {"": ""} | {r.id: "a" for r in read_rows(file)})
    )
