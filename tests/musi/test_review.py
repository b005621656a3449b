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
