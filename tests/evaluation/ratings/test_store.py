"""Files of ratings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prosg.cli import main
from prosg.evaluation.ratings.items import items_for_annotator, read_items
from prosg.evaluation.ratings.merge import merge_ratings, merged_ratings_text
from support.rating import make_run, open_browser, rate_page, rating_lines

WRITER = """
import sys
from prosg.evaluation.ratings.items import read_items
from prosg.evaluation.ratings.store import append_rating
items, _ = read_items([sys.argv[1]])
for value in range(60):
    append_rating(items[0], items[0].candidates[int(sys.argv[2])], "anna", "fluency", value % 6, shown="A", seed=0)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_two_processes_do_not_corrupt_a_file(run: Path) -> None:
    (run / "ratings").mkdir()
    (run / "ratings" / "anna.jsonl").write_text('{"id": "row0", "sys')  # a line cut short by a kill
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(run), str(n)]) for n in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    counts = Counter((line["system"], line["value"]) for line in rating_lines(run))
    assert counts == {(name, value): 10 for name in ("phase1", "plus") for value in range(6)}


def test_ratings_of_an_answer_that_changed_do_not_count(run: Path) -> None:
    rate_page(open_browser(run), 1)
    item = items_for_annotator(read_items([run])[0], "anna")[0]
    file = run / "answers" / "plus.jsonl"
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(a | {"text": "new"} if a["id"] == item.id else a) + "\n" for a in answers))
    assert open_browser(run).get("/").headers["location"] == "/prompt/1"
    merged = merge_ratings([run])
    assert merged["ratings"] == 6 and merged["ignored"] == 3
    assert "3 more" in merged_ratings_text(merged).splitlines()[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "row0"}', "no rating"),
        ('{"id": "a", "system": "b", "scale": "beauty", "value": 1, "answer": "c"}', "no rating"),
        ('{"id": "a", "system": "b", "scale": "quality", "value": 7, "answer": "c"}', "value is 7; allowed: 0 to 5"),
        ("oops", "not JSON"),
    ],
)
def test_bad_lines_are_named(run: Path, line: str, words: str, capsys: Any) -> None:
    rate_page(open_browser(run), 1)
    with open(run / "ratings" / "anna.jsonl", "a") as file:
        file.write(line + "\n")
    assert main(["rate", str(run), "--merge"]) == 2
    error = capsys.readouterr().err
    assert "anna.jsonl:10: " in error and words in error
    reply = open_browser(run).get("/prompt/1")
    assert reply.status_code == 500 and "the terminal" in reply.json()["detail"]
    assert capsys.readouterr().err == error


def test_files_that_are_no_annotators_are_not_counted_twice(run: Path, capsys: Any) -> None:
    rate_page(open_browser(run), 1)
    ratings = run / "ratings"
    (ratings / ".#anna.jsonl").symlink_to("nowhere")  # an editor's lock
    (ratings / ".anna.jsonl").write_bytes((ratings / "anna.jsonl").read_bytes())
    assert merge_ratings([run])["annotators"] == ["anna"] and merge_ratings([run])["ratings"] == 9
    (ratings / "anna (copy).jsonl").write_bytes((ratings / "anna.jsonl").read_bytes())
    assert main(["rate", str(run), "--merge"]) == 2
    error = capsys.readouterr().err
    assert "anna (copy).jsonl: no annotator has such a name" in error and error.count("\n") == 1
