"""What benchmarks and experiments share: values and files are checked before any work, errors are one line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prosg.cli.scripts import (
    ScriptParser,
    file_to_read,
    natural_float,
    natural_int,
    natural_ints,
    positive_float,
    positive_int,
    rows_before,
    run_script,
)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (natural_int, {"0": 0, "7": 7}, ["-1", "x", "1.5", "", "9" * 30]),
        (positive_int, {"1": 1}, ["0", "-1", "nan"]),
        (natural_ints, {"0,2": [0, 2], "": []}, ["1,,2", "-1,1", "x"]),
        (natural_float, {"0": 0.0, "1e-3": 1e-3}, ["-0.1", "nan", "inf", "x"]),
        (positive_float, {"0.5": 0.5}, ["0", "-1", "nan", "inf"]),
    ],
)
def test_values(kind: Callable[[str], Any], right: dict[str, Any], wrong: list[str]) -> None:
    assert {text: kind(text) for text in right} == right
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match="must be a"):
            kind(text)


def test_a_file_to_read_has_to_be_there(tmp_path: Path) -> None:
    assert file_to_read(str(tmp_path)) == tmp_path
    with pytest.raises(argparse.ArgumentTypeError, match="no such file or folder"):
        file_to_read(str(tmp_path / "nowhere"))


def parser(**options: Any) -> ScriptParser:
    made = ScriptParser("Measures.\n\n    python it.py\n", prog="it.py")
    made.add_argument("--repeats", type=positive_int, default=7)
    made.add_argument("--shape", choices=["0.4B", "tiny"], default="tiny")
    made.add_out("JSON file for the rows", **options)
    return made


def test_the_help_is_the_docstring() -> None:
    text = parser().format_help()
    assert "    python it.py\n" in text and "JSON file for the rows" in text and "--overwrite" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--repeats 0", "--repeats: '0' must be a whole number, 1 or more"),
        ("--shape 4B", "--shape: '4B' is unknown, did you mean 0.4B?; allowed: 0.4B, tiny"),
        ("--out {folder}", "is a folder"),
        ("--out {folder}/there.json", "there.json: exists; --overwrite replaces it"),
        ("--out {folder}/there.json/rows.json", "is no folder"),
        ("--out {folder}/", "names a folder"),
        ("--rows", "unrecognized arguments: --rows"),
    ],
)
def test_what_is_refused(arguments: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(arguments.format(folder=tmp_path).split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and words in error and error.count("\n") == 1
    assert (tmp_path / "there.json").read_text() == "mine"


def test_a_file_may_be_replaced_or_made(tmp_path: Path) -> None:
    file = tmp_path / "there.json"
    file.write_text("mine")
    assert parser().parse_args(["--out", str(file), "--overwrite"]).out == file
    assert parser().parse_args(["--out", str(tmp_path / "new" / "rows.json")]).out.parent.is_dir()
    assert parser().parse_args([]).out is None


@pytest.mark.parametrize("content", ["mine", '{"a": 1}', "[1]"])
def test_rows_are_added_to_rows_alone(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert rows_before(None) == rows_before(file) == []
    file.write_text(json.dumps([{"value": 1}]))
    assert rows_before(parser(merges=True).parse_args(["--out", str(file)]).out) == [{"value": 1}]
    file.write_text(content)
    with pytest.raises(SystemExit):
        parser(merges=True).parse_args(["--out", str(file)])
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("it is wrong"), 2, "error: it is wrong\n"),
        (FileNotFoundError(2, "No such file", "rows.jsonl"), 2, "error: rows.jsonl: No such file\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_errors_are_one_line(error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert ended.value.code == status and capsys.readouterr().err == line


def test_what_nobody_expected_keeps_its_traceback() -> None:
    def main() -> None:
        raise AssertionError("they differ")

    with pytest.raises(AssertionError, match="differ"):
        run_script(main)
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: 1)
    assert ended.value.code == 1
