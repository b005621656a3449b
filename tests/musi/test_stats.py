"""Statistics of rows as text and as a plot."""

from __future__ import annotations

from pathlib import Path

import pytest

from prosg.cli import main
from prosg.data.row import Row, write_rows
from prosg.data.synthetic import make_rows


def test_stats_as_text_and_as_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows(("code", "names"), 20)
    write_rows(tmp_path / "rows.jsonl", [*rows, Row("x", rows[0].prompt, "y")])
    assert main(["data", "stats", str(tmp_path / "rows.jsonl")]) == 0
    out = capsys.readouterr().out
    for text in ("21", "code 10, names 10, (no kind) 1", "2 20, 0 1", "near-duplicates"):
        assert text in out
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert main(["data", "stats", str(tmp_path / "rows.jsonl"), "--out", "rows.svg"]) == 2
    assert main(["data", "stats", str(tmp_path / "none.jsonl")]) == 2


def test_kinds_are_shown_as_they_are_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("写作", "$x^{$", "two\x1b[2J")
    write_rows(tmp_path / "rows.jsonl", [Row(kind, "Say it.", "It.", kind=kind) for kind in kinds])
    assert main(["data", "stats", str(tmp_path / "rows.jsonl")]) == 0
    captured = capsys.readouterr()
    assert "two\\x1b[2J 1" in captured.out and "写作 1" in captured.out and captured.err == ""
    assert main(["data", "check", str(tmp_path / "rows.jsonl")]) == 0
    assert "two\\x1b[2J" in capsys.readouterr().out
