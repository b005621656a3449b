"""Decisions about rows that are typed in a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prosg.cli import main
from prosg.data.row import read_rows, write_rows
from prosg.data.synthetic import make_rows

Review = Callable[..., str]


@pytest.fixture
def review(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Review:
    """Runs the command with some lines typed in; returns what it prints."""

    def run(file: Path, keys: str, *options: str, editor: Path | None = None) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(keys))
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", str(editor))
        assert main(["data", "review", str(file), *options]) == 0
        return capsys.readouterr().out

    return run


def write_editor(folder: Path, script: str) -> Path:
    """A program that edits the file that it is called with."""
    editor = folder / "editor.sh"
    editor.write_text(f"#!/bin/sh\n{script}\n")
    editor.chmod(0o755)
    return editor


def test_keep_drop_edit_undo_and_go_on(tmp_path: Path, review: Review) -> None:
    file = tmp_path / "rows.jsonl"
    rows = make_rows(("code",), 6)
    write_rows(file, rows)
    before = file.read_bytes()
    editor = write_editor(tmp_path, "sed -i 's/=== prompt ===/=== prompt ===\\nPlease./' \"$1\"")
    out = review(file, "x\nd\nu\nk\ne\nd\n", editor=editor)  # input ends: as if by q
    assert "1 of 6" in out and "not a choice" in out
    decisions = [json.loads(line) for line in (tmp_path / "rows.review.jsonl").read_text().splitlines()]
    assert [decision["action"] for decision in decisions] == ["drop", "undo", "keep", "edit", "drop"]
    assert "4 of 6" in review(file, "q\n")  # goes on where it was left
    assert file.read_bytes() == before
    assert main(["data", "review", str(file), "--apply", str(tmp_path / "new.jsonl")]) == 0
    new = read_rows(tmp_path / "new.jsonl")
    assert [row.id for row in new] == [rows[place].id for place in (0, 1, 3, 4, 5)]
    assert new[1].prompt == f"Please.\n{rows[1].prompt}" and new[1].stages == rows[1].stages
    assert "nothing to undo" in review(file, "u\nu\nu\nu\nq\n")
    assert "3 of 3" in review(file, "s\ns\ns\n", "--sample", "3", "--seed", "4")


def test_edits_that_break_a_row_are_refused(tmp_path: Path, review: Review) -> None:
    file = tmp_path / "rows.jsonl"
    write_rows(file, make_rows(("code",), 2))
    for script, words in (
        ("echo nothing > $1", "have to stay"),
        ("exit 3", "to end well"),
        ("sed -i 's/^Code: [0-9]*/Code: 1/' $1", "fails the check of stage 2"),
    ):
        assert words in review(file, "e\nq\n", editor=write_editor(tmp_path, script))
    assert (tmp_path / "rows.review.jsonl").read_text() == ""
    (tmp_path / "rows.review.jsonl").write_text('{"action": "burn", "id": "x"}\n')
    assert main(["data", "review", str(file), "--apply", str(tmp_path / "new.jsonl")]) == 2


@pytest.mark.parametrize("named", ["../home/token", "/etc/passwd", "../other.review.jsonl", "token", "rows.jsonl", 3])
def test_a_manifest_cannot_name_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], named: object) -> None:
    folder = tmp_path / "set"
    write_rows(folder / "rows.jsonl", make_rows(("code",), 1))
    (folder / "manifest.json").write_text(json.dumps({"decisions": named}))
    (tmp_path / "home").mkdir()
    tokens = [tmp_path / "home" / "token", folder / "token", tmp_path / "other.review.jsonl"]
    for token in tokens:
        token.write_text("secret")
    assert main(["data", "review", str(folder / "rows.jsonl")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "manifest.json: decisions is" in line
    assert all(token.read_text() == "secret" for token in tokens)


def test_a_file_of_decisions_without_one_is_not_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "rows.jsonl", make_rows(("code",), 1))
    file = tmp_path / "rows.review.jsonl"
    file.write_text("secret")
    assert main(["data", "review", str(tmp_path / "rows.jsonl")]) == 2
    assert "rows.review.jsonl:1: not the beginning" in capsys.readouterr().err and file.read_text() == "secret"


def test_only_an_export_has_its_decisions_in_the_folder_above(tmp_path: Path, review: Review) -> None:
    for name, place in (
        ("export", tmp_path / "verified.review.jsonl"),
        ("moved", tmp_path / "moved/rows.review.jsonl"),
    ):
        write_rows(tmp_path / name / "rows.jsonl", make_rows(("code",), 1))
        (tmp_path / name / "manifest.json").write_text(json.dumps({"decisions": "../verified.review.jsonl"}))
        review(tmp_path / name / "rows.jsonl", "k\n")
        assert len(place.read_text().splitlines()) == 1


def test_control_characters_are_shown_as_escapes(tmp_path: Path, review: Review) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Say\ttwo\nwords.\x1b[2J", "answer": "Two\x07 w\u202eords."}))
    out = review(file, "q\n")
    assert "Say\ttwo\nwords.\\x1b[2J" in out and "Two\\x07 w\\u202eords." in out
