"""Reading the folder of an evaluation for judging and rating."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.evaluation.run_folder import read_run
from support.judging import GOOD, make_run


def test_answers_are_read_with_their_systems_labels(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"a": GOOD, "b": GOOD[:1]})
    (run / "systems.json").write_text('{"a": {"label": "Ours"}, "c": {}}')
    folder = read_run(run)
    assert [*folder.rows] == ["staged", "plain", "listed"] and [*folder.systems] == ["a", "b"]
    assert folder.systems["b"] == ("b", {"staged": GOOD[0]})
    assert folder.systems["a"].label == "Ours" and folder.systems["a"].answers["listed"] == GOOD[2]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows.jsonl"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="answers.*NAME.jsonl"):
        read_run(make_run(tmp_path / "run", {}))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"id": "plain"}', "'id'.*'text'"),
        ("[]", "'id'.*'text'"),
        ('{"id": "plain", "te', "not JSON"),
        ('{"id": "x", "text": ""}', "'x'"),
        ('{"id": "staged", "text": ""}', "second.*'staged'"),
    ],
)
def test_bad_answers_name_the_line(tmp_path: Path, line: str, match: str) -> None:
    run = make_run(tmp_path / "run", {"a": GOOD[:1]})
    with (run / "answers" / "a.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=f"a.jsonl:2: .*{match}"):
        read_run(run)


def test_files_as_other_programs_write_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"a": GOOD[:1]})
    answers = run / "answers" / "a.jsonl"
    answers.write_text("\ufeff" + answers.read_text() + "\r\n\n")
    (run / "systems.json").write_text('\ufeff{"a": {"label": "Ours"}}')
    assert read_run(run).systems["a"] == ("Ours", {"staged": GOOD[0]})


@pytest.mark.parametrize(
    ("content", "match"),
    [("{", "JSON"), ("[]", "list"), ("[" * 10**5, "brackets"), ('{"a": {"label": 3}}', "a .*'label'")],
)
def test_bad_descriptions_of_systems_are_named(tmp_path: Path, content: str, match: str) -> None:
    run = make_run(tmp_path / "run", {"a": GOOD[:1]})
    (run / "systems.json").write_text(content)
    with pytest.raises(ValueError, match=f"systems.json: .*{match}"):
        read_run(run)
