"""`prosg data make` and `prosg data check`: files written, tables printed, exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.cli import main
from prosg.data.row import read_rows
from prosg.data.synthetic import Difficulty, Filler, make_rows
from support.commands import case

BAD = [
    case("data make x.jsonl --kinds nonsense", "nonsense", "allowed: ending"),
    case("data make x.jsonl --size 0", "size is 0"),
    case("data make x.jsonl --split nonsense", "train, validation, test"),
    case("data make x.jsonl --distance 1 2 --sentences 1,2", "--distance", "--sentences"),
    case("data make x.jsonl --distance 1", "--distance", "is 1 value", "MIN and MAX"),
    case("data make x.jsonl --size 1 --distance 1000000000 1000000000", "--distance is 1000000000", "at most 5000000"),
    case("data make x.jsonl --size 1 --sentences 0 5000001", "--sentences is 0 to 5000001", "at most 5000000"),
    case("data make /proc/x.jsonl --size 1", "/proc"),
    case("data check bad.jsonl", "bad.jsonl:2"),
    case("data make train.jsonl --filler train.jsonl --overwrite", "FILE train.jsonl", "that is read"),
    case("data compose train.jsonl --out train.jsonl --overwrite", "--out train.jsonl", "that is read"),
    case("data build x.yaml --stages ,", "--stages", "names nothing"),
    case("data review train.jsonl --apply new.jsonl --sample 2", "--sample", "--apply"),
    case("data review train.jsonl --overwrite", "--overwrite", "--apply"),
    case("data stats train.jsonl --similar-above 2", "--similar-above is 2", "below 1"),
    case("data stats train.jsonl --out train.jsonl --overwrite", "--out train.jsonl", "that is read"),
    case("data passages train.jsonl --out train.jsonl --overwrite", "--out train.jsonl", "that is read"),
    case("data check nowhere.jsonl", "nowhere.jsonl"),
    case("data check train.jsonl --answers validation.jsonl", "validation.jsonl:1", "no row has the id"),
]


@pytest.mark.parametrize(("command", "words"), BAD)
def test_what_is_refused(refused: Callable[..., None], command: list[str], words: tuple[str, ...]) -> None:
    refused(command, *words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    assert main(["data", "make", str(file), "--size", "9", "--kinds", "names,code,story", "--seed", "5"]) == 0
    return file


def test_make_writes_the_rows_of_make_rows(data: Path) -> None:
    assert read_rows(data) == make_rows(["names", "code", "story"], 9, 5)


def test_natural_stands_for_kinds_of_everyday_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "make", str(tmp_path / "rows.jsonl"), "--kinds", "natural", "--size", "6"])
    assert "6 rows of password, guests, meeting" in capsys.readouterr().out


def test_make_takes_difficulty_options(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "rows.jsonl"
    text.write_text("\n\n".join(f"Number {n} was not here. It went to number {n + 1} at once." for n in range(90)))
    command = ["data", "make", str(out), "--size", "9", "--kinds", "code,names,pairs", "--filler", str(text)]
    options = ["--distractors", "30", "60", "--turns", "0", "1", "--items", "4", "6"]
    assert main([*command, *options]) == 0
    difficulty = Difficulty(distractors=(30, 60), filler=Filler.read(text), turns=(0, 1), items=(4, 6))
    assert read_rows(out) == make_rows(["code", "names", "pairs"], 9, difficulty=difficulty)


def test_make_leaves_no_file_where_rows_cannot_be_made(tmp_path: Path) -> None:
    assert main(["data", "make", str(tmp_path / "rows.jsonl"), "--size", "5", "--distance", "10", "12"]) == 2
    assert not list(tmp_path.iterdir())


def test_check_scores_answers(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(data)]) == 0
    answers = [{"id": row.id, "answer": row.answer} for row in read_rows(data)]
    answers[0]["answer"] = answers[0]["answer"][:-2]
    file = data.with_name("answers.jsonl")
    file.write_text("".join(json.dumps(line) + "\n" for line in answers))
    out = capsys.readouterr().out
    assert "0.6667" not in out and out.endswith(
        "rows.jsonl: 9 rows, all well formed; 6 with checks, all of them right\n"
    )
    assert main(["data", "check", str(data), "--answers", str(file)]) == 1
    out = capsys.readouterr().out
    assert "0.6667" in out and out.endswith("6 with checks, 1 of them wrong\n")
